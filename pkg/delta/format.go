package delta

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// The format, which docs/DELTAS.md describes.
const (
	magic = "krtdelta"
	// formatVersion is changed by everything that an earlier reader would take for something else.
	formatVersion = 1

	maxHeader = 64 << 10
	maxBases  = 16
	// maxPart is how large the control of a part, its additions and its extra bytes may be, each.
	maxPart    = 8 << 20
	copyBuffer = 256 << 10
	// maxOp is the longest operation in a control.
	maxOp = 3 * binary.MaxVarintLen64
)

// Header is the beginning of a delta, as JSON.
type Header struct {
	// Layer is what the delta makes.
	Layer Base `json:"layer"`
	// Encoder compresses it; GzipHeader is what stands before the compressed bytes.
	Encoder    Encoder `json:"encoder"`
	GzipHeader []byte  `json:"gzipHeader,omitempty"`
	// Bases are what it is made from. Operations give places in their tars, as if those were one.
	Bases []Base `json:"bases"`
}

// checkLimits returns an error if the header describes what cannot be.
func (h Header) checkLimits() error {
	if err := h.Encoder.checkBuild(); err != nil {
		return err
	}
	if len(h.Bases) > maxBases {
		return fmt.Errorf("%d bases, at most %d: %w", len(h.Bases), maxBases, ErrDamaged)
	}
	if len(h.GzipHeader) > maxGzipHeader {
		return fmt.Errorf("header of gzip with %d bytes, at most %d: %w", len(h.GzipHeader), maxGzipHeader, ErrDamaged)
	}
	for _, b := range append([]Base{h.Layer}, h.Bases...) {
		if err := b.Digest.Validate(); err != nil {
			return fmt.Errorf("layer %q: %w: %w", b.Digest, err, ErrDamaged)
		}
		// A layer of more than 2^48 bytes does not exist, and sums of sizes must not overflow.
		if b.Size < 0 || b.Size > 1<<48 || b.TarSize < 0 || b.TarSize > maxTarSize(b.Size) {
			return fmt.Errorf("layer %s of %d bytes has %d bytes as a tar: %w", b.Digest, b.Size, b.TarSize, ErrDamaged)
		}
	}
	return h.checkWork()
}

// writeDelta writes a delta of operations.
func writeDelta(ctx context.Context, w io.Writer, h Header, ops []op, old io.ReaderAt, target io.ReaderAt) error {
	header, err := json.Marshal(h)
	if err != nil {
		return err
	}
	start := append([]byte(magic), formatVersion)
	start = binary.AppendUvarint(start, uint64(len(header)))
	if _, err := w.Write(append(start, header...)); err != nil {
		return err
	}
	encoder, err := newPartEncoder()
	if err != nil {
		return err
	}
	defer partEncoders.Put(encoder)
	p := &partWriter{w: w, encoder: encoder, additions: newAdditionCoder(false), old: old, target: target}
	defer p.additions.releaseCoder()
	p.additions.beginSection(nil)
	for _, o := range ops {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.writeOp(o); err != nil {
			return err
		}
	}
	if err := p.writePart(); err != nil {
		return err
	}
	_, err = w.Write([]byte{0})
	return err
}

// partEncoders are encoders that are no longer used, with their tables of 40 MiB. What one has encoded does not matter to
// what it encodes next.
var partEncoders sync.Pool

func newPartEncoder() (*zstd.Encoder, error) {
	if used, ok := partEncoders.Get().(*zstd.Encoder); ok {
		return used, nil
	}
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(maxPart))
}

// partWriter collects operations with their bytes, and writes them part by part.
type partWriter struct {
	w              io.Writer
	encoder        *zstd.Encoder
	additions      *additionCoder
	old, target    io.ReaderAt
	control, extra []byte
	// added counts the additions of the part.
	added int
	// next is where the last operation on the bases ended.
	next int64
}

// writeOp adds an operation, in as many pieces as parts have room for.
func (p *partWriter) writeOp(o op) error {
	for o.size > 0 {
		piece := o
		if o.kind != opCopy {
			piece.size = min(o.size, int64(maxPart-max(p.added, len(p.extra))))
		}
		if piece.size == 0 || len(p.control)+maxOp > maxPart {
			if err := p.writePart(); err != nil {
				return err
			}
			continue
		}
		p.control = binary.AppendUvarint(p.control, uint64(piece.size)<<2|uint64(piece.kind))
		if o.kind != opExtra {
			p.control = binary.AppendVarint(p.control, piece.old-p.next)
			p.next = piece.old + piece.size
		}
		if err := p.addBytes(piece); err != nil {
			return err
		}
		o.size, o.new, o.old = o.size-piece.size, o.new+piece.size, o.old+piece.size
	}
	return nil
}

// addBytes adds the bytes that an operation takes from the delta.
func (p *partWriter) addBytes(o op) error {
	if o.kind == opCopy {
		return p.checkCopy(o)
	}
	data := make([]byte, o.size)
	if _, err := p.target.ReadAt(data, o.new); err != nil {
		return err
	}
	if o.kind == opExtra {
		p.extra = append(p.extra, data...)
		return nil
	}
	have := make([]byte, o.size)
	if _, err := p.old.ReadAt(have, o.old); err != nil {
		return err
	}
	for i := range data {
		data[i] -= have[i]
	}
	p.added += len(data)
	for len(data) > 0 {
		n := min(len(data), codedAtOnce)
		p.additions.codeBytes(have[:n], data[:n])
		have, data = have[n:], data[n:]
	}
	return nil
}

// checkCopy returns an error if a copy would give other bytes than the tar has.
func (p *partWriter) checkCopy(o op) error {
	have, want := make([]byte, min(o.size, copyBuffer)), make([]byte, min(o.size, copyBuffer))
	for at := int64(0); at < o.size; at += copyBuffer {
		n := min(o.size-at, copyBuffer)
		if _, err := p.old.ReadAt(have[:n], o.old+at); err != nil {
			return err
		}
		if _, err := p.target.ReadAt(want[:n], o.new+at); err != nil {
			return err
		}
		if !bytes.Equal(have[:n], want[:n]) {
			return fmt.Errorf("copy of %d bytes at byte %d of the tar gives other bytes: please report this", o.size, o.new)
		}
	}
	return nil
}

// writePart writes a part: the sizes of its three sections, each raw and compressed, and the sections.
func (p *partWriter) writePart() error {
	if len(p.control) == 0 {
		return nil
	}
	var sizes, packed []byte
	add := func(raw int, data []byte) {
		sizes = binary.AppendUvarint(sizes, uint64(raw))
		if raw == 0 {
			data = nil
		}
		sizes = binary.AppendUvarint(sizes, uint64(len(data)))
		packed = append(packed, data...)
	}
	add(len(p.control), p.encoder.EncodeAll(p.control, nil))
	add(p.added, p.additions.endSection())
	add(len(p.extra), p.encoder.EncodeAll(p.extra, nil))
	p.additions.beginSection(nil)
	p.control, p.added, p.extra = p.control[:0], 0, p.extra[:0]
	_, err := p.w.Write(append(sizes, packed...))
	return err
}

// Delta is a delta to apply once.
type Delta struct {
	Header
	r *bufio.Reader
}

// Open reads the beginning of a delta. It returns [ErrDamaged], [ErrWork] and [*VersionError].
func Open(r io.Reader) (*Delta, error) {
	in := bufio.NewReaderSize(r, 1<<16)
	start := make([]byte, len(magic)+1)
	if _, err := io.ReadFull(in, start); err != nil {
		return nil, damaged(err)
	}
	if string(start[:len(magic)]) != magic {
		return nil, fmt.Errorf("unknown beginning: %w", ErrDamaged)
	}
	if version := start[len(magic)]; version != formatVersion {
		return nil, &VersionError{fmt.Sprintf("format %d", version)}
	}
	size, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, damaged(err)
	}
	if size > maxHeader {
		return nil, fmt.Errorf("header of %d bytes, at most %d: %w", size, maxHeader, ErrDamaged)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(in, data); err != nil {
		return nil, damaged(err)
	}
	d := &Delta{r: in}
	if err := oci.UnmarshalJSON(data, &d.Header); err != nil {
		return nil, fmt.Errorf("header: %w: %w", err, ErrDamaged)
	}
	return d, d.checkLimits()
}

// damaged returns the error of a delta that could not be read to its end.
func damaged(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", err, ErrDamaged)
}

// partReader reads the parts of a delta.
type partReader struct {
	r       *bufio.Reader
	decoder *zstd.Decoder
	packed  []byte
	// control and extra are decompressed, additions are not; added is how many those are.
	control, additions, extra []byte
	added                     int
}

func newPartReader(r *bufio.Reader) (*partReader, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPart+1<<10), zstd.WithDecoderMaxWindow(maxPart))
	return &partReader{r: r, decoder: decoder}, err
}

// readPart reads the next part; it is io.EOF at the end of the delta.
func (p *partReader) readPart() error {
	var raw, packed [3]uint64
	for i := range raw {
		var err error
		if raw[i], err = binary.ReadUvarint(p.r); err != nil {
			return damaged(err)
		}
		if i == 0 && raw[0] == 0 {
			return p.checkEnd()
		}
		if packed[i], err = binary.ReadUvarint(p.r); err != nil {
			return damaged(err)
		}
		if raw[i] > maxPart || packed[i] > raw[i]+1<<10 || raw[i] == 0 && packed[i] > 0 {
			return fmt.Errorf("section of %d bytes, %d compressed: %w", raw[i], packed[i], ErrDamaged)
		}
	}
	var err error
	if p.control, err = p.takeCompressed(p.control, raw[0], packed[0]); err != nil {
		return err
	}
	if p.additions, err = p.takeBytes(p.additions, packed[1]); err != nil {
		return err
	}
	p.added = int(raw[1])
	p.extra, err = p.takeCompressed(p.extra, raw[2], packed[2])
	return err
}

// takeBytes reads the bytes of a section.
func (p *partReader) takeBytes(into []byte, size uint64) ([]byte, error) {
	if uint64(cap(into)) < size {
		into = make([]byte, size)
	}
	into = into[:size]
	if _, err := io.ReadFull(p.r, into); err != nil {
		return into, damaged(err)
	}
	return into, nil
}

// takeCompressed reads a section that is compressed by zstd.
func (p *partReader) takeCompressed(into []byte, raw, packed uint64) (_ []byte, err error) {
	if p.packed, err = p.takeBytes(p.packed, packed); err != nil || raw == 0 {
		return into[:0], err
	}
	if uint64(cap(into)) < raw {
		into = make([]byte, 0, raw)
	}
	if into, err = p.decoder.DecodeAll(p.packed, into[:0]); err != nil {
		return into, damaged(err)
	}
	if uint64(len(into)) != raw {
		return into, fmt.Errorf("section has %d bytes, not %d: %w", len(into), raw, ErrDamaged)
	}
	return into, nil
}

// checkEnd returns io.EOF if nothing follows.
func (p *partReader) checkEnd() error {
	if _, err := p.r.ReadByte(); err == nil {
		return fmt.Errorf("data after the end: %w", ErrDamaged)
	} else if err != io.EOF {
		return err
	}
	return io.EOF
}

func (p *partReader) close() { p.decoder.Close() }

// nextOp takes the next operation from a control; next is where the last one on the bases ended.
func nextOp(control *bytes.Reader, next int64) (op, error) {
	head, err := binary.ReadUvarint(control)
	if err != nil {
		return op{}, damaged(err)
	}
	o := op{kind: opKind(head & 3), size: int64(head >> 2)}
	if o.kind > opAdd || o.size == 0 {
		return o, fmt.Errorf("unknown operation %d of %d bytes: %w", o.kind, o.size, ErrDamaged)
	}
	if o.kind != opExtra {
		ahead, err := binary.ReadVarint(control)
		if err != nil {
			return o, damaged(err)
		}
		o.old = next + ahead
	}
	return o, nil
}
