package transfer

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// ImportFile is [ImportStream] from a file that seeks. With [Options.Verify] it reads the file
// twice: archives of earlier versions have their signatures anywhere.
func ImportFile(ctx context.Context, file io.ReadSeeker, dst oras.GraphTarget, o Options) (*Imported, error) {
	imported, err := importFile(ctx, file, dst, o)
	if !isWrongBlob(err) || ctx.Err() != nil {
		return imported, err
	}
	// A byte may have changed on the way. What has arrived is not sent again.
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return importFile(ctx, file, dst, o)
}

// isWrongBlob reports whether a target complains of the content of a blob, or may.
func isWrongBlob(err error) bool {
	var response *errcode.ErrorResponse
	return isWrongContent(err) && (!errors.As(err, &response) || response.URL == nil || strings.Contains(response.URL.Path, "/blobs/"))
}

func importFile(ctx context.Context, file io.ReadSeeker, dst oras.GraphTarget, o Options) (*Imported, error) {
	var first *archive.Stream
	if o.Verify != nil {
		var err error
		if first, err = readFront(ctx, file); err != nil {
			return nil, err
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
	stream, err := archive.OpenStream(ctx, file)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	if first != nil {
		stream.CopyKept(first)
	}
	return ImportStream(ctx, stream, dst, o)
}

// readFront reads a file until everything needed for verification was read.
func readFront(ctx context.Context, file io.Reader) (*archive.Stream, error) {
	stream, err := archive.OpenStream(ctx, file)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	_, budget := oci.WithBudget(ctx)
	front := digestSet(stream.PendingFront())
	for len(front) > 0 && ctx.Err() == nil {
		desc, body, err := stream.NextBlob()
		if err == io.EOF {
			break
		}
		if err == nil && front[desc.Digest] {
			err = stream.KeepBlob(desc, body, budget)
			delete(front, desc.Digest)
		}
		if err != nil {
			return nil, err
		}
	}
	return stream, ctx.Err()
}

func digestSet(list []ocispec.Descriptor) map[digest.Digest]bool {
	set := make(map[digest.Digest]bool, len(list))
	for _, desc := range list {
		set[desc.Digest] = true
	}
	return set
}
