package transfer

import (
	"bytes"
	"context"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// maxBufferedBlob is the size up to which a blob of a stream is held in memory, so that several are
// copied at once.
const maxBufferedBlob = 1 << 20

// receiveBlob passes a blob on to the target, small ones while the next arrives.
func (c *copier) receiveBlob(ctx context.Context, group *errgroup.Group, desc ocispec.Descriptor, r io.Reader) error {
	n := &planNode{desc: desc, from: singleRead{r}}
	if desc.Size <= maxBufferedBlob {
		data := make([]byte, desc.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			return fmt.Errorf("read %s from the archive: %w", desc.Digest, err)
		}
		if desc.Digest != desc.Digest.Algorithm().FromBytes(data) {
			return fmt.Errorf("read %s from the archive: %w", desc.Digest, content.ErrMismatchedDigest)
		}
		n.from = memoryContent(data)
		group.Go(func() error { return c.copyReceived(ctx, n) })
		return nil
	}
	return c.copyReceived(ctx, n)
}

func (c *copier) copyReceived(ctx context.Context, n *planNode) (err error) {
	ctx, end := tracing.Start(ctx, "copy blob", tracing.Digest(n.desc.Digest), tracing.Bytes(n.desc.Size))
	defer func() { end(err) }()
	there, err := c.hasBlob(ctx, n)
	if err != nil {
		return err
	}
	if there {
		c.countItem(&c.report.Present, progress.Skipped, n.desc)
		return nil
	}
	return c.sendBlob(ctx, n)
}

// singleRead is content that can be read once, as it arrives.
type singleRead struct{ io.Reader }

func (o singleRead) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	if made, ok := o.Reader.(madeLayer); ok {
		return made, nil
	}
	return io.NopCloser(o.Reader), nil
}

func (singleRead) String() string { return "the archive" }

// memoryContent is content in memory.
type memoryContent []byte

func (m memoryContent) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return memoryReader{bytes.NewReader(m)}, nil
}

func (memoryContent) String() string { return "the archive" }
