package oci

import (
	"context"
	"io"
)

// StopReader returns a reader that fails with the error of ctx once that is done: files and archives know nothing of
// it, and a large one takes its time.
func StopReader(ctx context.Context, r io.Reader) io.Reader { return &stopReader{ctx, r} }

type stopReader struct {
	ctx context.Context
	io.Reader
}

func (r *stopReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
