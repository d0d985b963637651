package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// download is a blob on its way. When its connection breaks it asks for the rest; that the
// whole is right is for the reader to check.
type download struct {
	repository *Repository
	ctx        context.Context
	desc       ocispec.Descriptor
	body       io.ReadCloser
	pace       pace
	// at is what is read next.
	at     int64
	closed bool
}

// open asks for the content from where the reader is.
func (d *download) open() error {
	header := http.Header{}
	if d.at > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", d.at, d.desc.Size-1))
	}
	response, err := d.repository.do(d.ctx, http.MethodGet, d.repository.url(d.desc.Digest.String(), nil), nil, 0, header)
	if err != nil {
		return err
	}
	if err := d.take(response); err != nil {
		response.Body.Close()
		return err
	}
	d.body = response.Body
	return nil
}

// take checks that an answer is what was asked for, and goes to where the reader is in one
// that begins at the beginning.
func (d *download) take(response *http.Response) error {
	switch response.StatusCode {
	case http.StatusOK:
		if n := response.ContentLength; n >= 0 && n != d.desc.Size {
			return fmt.Errorf("%s has %d bytes at %s, want %d: %w", d.desc.Digest, n, d.repository, d.desc.Size, content.ErrInvalidDescriptorSize)
		}
		_, err := io.CopyN(io.Discard, response.Body, d.at)
		return err
	case http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-%d/", d.at, d.desc.Size-1)
		if got := response.Header.Get("Content-Range"); !strings.HasPrefix(got, want) {
			return fmt.Errorf("%s gave %q of %s, want %q", d.repository, got, d.desc.Digest, want)
		}
		return nil
	case http.StatusNotFound:
		return fmt.Errorf("%s: %w", d.desc.Digest, errdef.ErrNotFound)
	}
	return failure(response)
}

// Read reads on, over as many connections as that takes.
func (d *download) Read(p []byte) (int, error) {
	if d.closed {
		return 0, errors.New("read of a blob that was closed")
	}
	if d.at >= d.desc.Size {
		return d.end()
	}
	tries := retries{repository: d.repository}
	for {
		start := time.Now()
		n, err := d.read(p)
		if slow := d.pace.add(d.repository.Reference.Host(), n, time.Since(start)); slow != nil {
			return 0, slow
		}
		if n > 0 || err == nil {
			return n, nil
		}
		if err := tries.again(d.ctx, err, false); err != nil {
			return 0, err
		}
	}
}

// read tries once. An error says that the connection is of no more use.
func (d *download) read(p []byte) (int, error) {
	if d.body == nil {
		if err := d.open(); err != nil {
			return 0, err
		}
	}
	n, err := d.body.Read(p)
	d.at += int64(n)
	if err != nil && d.at < d.desc.Size {
		d.body.Close()
		d.body = nil
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if d.ctx.Err() == nil {
			// Whatever broke a body may pass.
			err = &brokenError{err}
		}
		return n, err
	}
	if d.at > d.desc.Size {
		return 0, fmt.Errorf("%s at %s: %w", d.desc.Digest, d.repository, content.ErrTrailingData)
	}
	return n, nil
}

// end is io.EOF, unless the registry has more to say.
func (d *download) end() (int, error) {
	if d.body != nil && d.at == d.desc.Size {
		if n, _ := io.ReadFull(d.body, make([]byte, 1)); n > 0 {
			return 0, fmt.Errorf("%s at %s: %w", d.desc.Digest, d.repository, content.ErrTrailingData)
		}
	}
	return 0, io.EOF
}

// Seek goes to an offset; the next read asks for what is there.
func (d *download) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += d.at
	case io.SeekEnd:
		offset += d.desc.Size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning of a blob")
	}
	if offset != d.at && d.body != nil {
		d.body.Close()
		d.body = nil
	}
	d.at = offset
	return offset, nil
}

// Close ends the connection.
func (d *download) Close() error {
	d.closed = true
	if d.body == nil {
		return nil
	}
	return d.body.Close()
}

// brokenError is a body that broke off.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }
