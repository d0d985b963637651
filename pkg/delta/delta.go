// Package delta describes a layer as its difference from layers that a site has, and makes the same
// compressed bytes of it again: the digest stays, and with it every signature.
//
// Call [Make] where both versions are, and [Open] and [Delta.Apply] where the old one is. The package
// knows no registry: layers are opened by functions. docs/DELTAS.md describes the format.
//
// A layer is undone to its tar, and the encoder that compressed it is found by compressing again and
// comparing. What no known encoder gives again is [ErrEncoder], and has to travel whole. Nothing in a
// delta is trusted: what it makes has the digest and size that the caller names, or is an error.
package delta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// Errors of deltas.
var (
	// ErrEncoder reports that no known encoder compresses a layer to the same bytes again.
	ErrEncoder = errors.New("no known encoder reproduces this layer")
	// ErrUnpack reports a layer with the right digest that cannot be unpacked here: it is damaged, its window is over the
	// limit, or its tar is far larger than it.
	ErrUnpack = errors.New("layer cannot be unpacked here")
	// ErrDamaged reports that a delta is damaged, or not a delta.
	ErrDamaged = errors.New("damaged or not a delta")
	// ErrMismatch reports that a delta produced other bytes than the layer's.
	ErrMismatch = errors.New("delta does not produce this layer")
)

// VersionError reports a delta that a later version of krtpkg made.
type VersionError struct {
	// What is not known, such as "format 2" or "encoder zlib".
	What string
}

func (e *VersionError) Error() string { return "delta needs " + e.What + ": update krtpkg" }

// BaseError reports a base that cannot be read, or has other content than the delta was made from.
type BaseError struct {
	Base digest.Digest
	Err  error
}

func (e *BaseError) Error() string { return fmt.Sprintf("base layer %s: %v", e.Base, e.Err) }

func (e *BaseError) Unwrap() error { return e.Err }

// Layer is a layer as registries have it.
type Layer struct {
	Digest digest.Digest
	Size   int64
	// Open opens the content; the caller closes it.
	Open func(context.Context) (io.ReadCloser, error)
}

// Options are the parameters of [Make] and [Delta.Apply].
type Options struct {
	// Dir is the folder of temporary files; the system's when empty. They take the size of the tars.
	Dir string
	// MaxMemory is how much [Make] may take to find what is similar, 1 GiB when zero. With less,
	// deltas of large files become larger.
	MaxMemory int64
	// MaxTime is how long finding the encoder may take, or making the layer, waiting not counted. When zero it is half a
	// minute, and a second more for each 128 KiB of the layer.
	MaxTime time.Duration
}

const defaultMemory = 1 << 30

// Made describes what [Make] made.
type Made struct {
	// Size is the size of the delta.
	Size int64
	// TarSize is the size of the layer as a tar.
	TarSize int64
	// Encoder is how the layer was compressed.
	Encoder Encoder
	// Bases are those that the delta is made from, of those that it could have been.
	Bases []Base
}

// Make writes the delta that turns bases into a layer. The same layers give the same bytes. It returns
// [ErrEncoder] or [ErrWork] if the layer must travel whole, and [*BaseError] if a base cannot be read.
func Make(ctx context.Context, w io.Writer, layer Layer, bases []Layer, o Options) (*Made, error) {
	if o.MaxMemory <= 0 {
		o.MaxMemory = defaultMemory
	}
	if len(bases) > maxBases {
		bases = bases[:maxBases]
	}
	packed, err := fetchLayer(ctx, layer, o.Dir)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", layer.Digest, err)
	}
	defer packed.Close()
	made, err := undoCompression(ctx, packed, o)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", layer.Digest, err)
	}
	defer made.tar.Close()
	target := Base{Digest: layer.Digest, Size: layer.Size, TarSize: made.tar.size}
	old, err := unpackBases(ctx, target, bases, o.Dir)
	if err != nil {
		return nil, err
	}
	defer old.Close()
	ops, err := computeOps(ctx, old, made.tar, o.MaxMemory)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", layer.Digest, err)
	}
	header := Header{
		Layer: target, Encoder: made.encoder, GzipHeader: made.gzipHeader, Bases: old.dropUnused(ops),
	}
	counted := &countingWriter{w: w}
	if err := writeDelta(ctx, counted, header, ops, old, made.tar); err != nil {
		return nil, fmt.Errorf("layer %s: %w", layer.Digest, err)
	}
	return &Made{Size: counted.n, TarSize: made.tar.size, Encoder: made.encoder, Bases: header.Bases}, nil
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
