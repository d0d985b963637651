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

// resumableDownload reads a blob. If the connection breaks, it resumes with a range request; the
// caller verifies the digest.
type resumableDownload struct {
	repository *Repository
	ctx        context.Context
	desc       ocispec.Descriptor
	body       io.ReadCloser
	pace       paceMeter
	// offset is the position of the next read.
	offset int64
	closed bool
}

// resumeDownload requests the content from the current position, at first 0, to the end.
func (d *resumableDownload) resumeDownload() error {
	header := http.Header{}
	if d.offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", d.offset, d.desc.Size-1))
	}
	response, err := d.repository.sendRequest(d.ctx, http.MethodGet, d.repository.blobURL(d.desc.Digest.String(), nil), nil, 0, header)
	if err != nil {
		return err
	}
	if err := d.checkResponse(response); err != nil {
		response.Body.Close()
		return err
	}
	d.body = response.Body
	return nil
}

// checkResponse checks that a response has the requested range. If it has the whole blob, checkResponse
// skips to the current position.
func (d *resumableDownload) checkResponse(response *http.Response) error {
	switch response.StatusCode {
	case http.StatusOK:
		if n := response.ContentLength; n >= 0 && n != d.desc.Size {
			return fmt.Errorf("%s has %d bytes at %s, want %d: %w", d.desc.Digest, n, d.repository, d.desc.Size, content.ErrInvalidDescriptorSize)
		}
		_, err := io.CopyN(io.Discard, response.Body, d.offset)
		return err
	case http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-%d/", d.offset, d.desc.Size-1)
		if got := response.Header.Get("Content-Range"); !strings.HasPrefix(got, want) {
			return fmt.Errorf("%s returned %q of %s, want %q", d.repository, got, d.desc.Digest, want)
		}
		return nil
	case http.StatusNotFound:
		return fmt.Errorf("%s: %w", d.desc.Digest, errdef.ErrNotFound)
	}
	return responseError(response)
}

// Read implements [io.Reader], over as many connections as needed.
func (d *resumableDownload) Read(p []byte) (int, error) {
	if d.closed {
		return 0, errors.New("read of a closed blob")
	}
	if d.offset >= d.desc.Size {
		return d.readEnd()
	}
	tries := retryState{repository: d.repository}
	for {
		start := time.Now()
		n, err := d.readOrResume(p)
		if slow := d.pace.addRead(d.repository.Reference.Host(), n, time.Since(start)); slow != nil {
			return 0, slow
		}
		if n > 0 || err == nil {
			return n, nil
		}
		if err := tries.waitForRetry(d.ctx, err, false); err != nil {
			return 0, err
		}
	}
}

// readOrResume reads once, and resumes the download first if there is no connection. After an error the connection is
// closed.
func (d *resumableDownload) readOrResume(p []byte) (int, error) {
	if d.body == nil {
		if err := d.resumeDownload(); err != nil {
			return 0, err
		}
	}
	n, err := d.body.Read(p)
	d.offset += int64(n)
	if err != nil && d.offset < d.desc.Size {
		d.body.Close()
		d.body = nil
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if d.ctx.Err() == nil {
			// A broken body is worth another try, whatever broke it.
			err = &brokenError{err}
		}
		return n, err
	}
	if d.offset > d.desc.Size {
		return 0, fmt.Errorf("%s at %s: %w", d.desc.Digest, d.repository, content.ErrTrailingData)
	}
	return n, nil
}

// readEnd returns io.EOF unless the registry sends more than it should.
func (d *resumableDownload) readEnd() (int, error) {
	if d.body != nil && d.offset == d.desc.Size {
		if n, _ := io.ReadFull(d.body, make([]byte, 1)); n > 0 {
			return 0, fmt.Errorf("%s at %s: %w", d.desc.Digest, d.repository, content.ErrTrailingData)
		}
	}
	return 0, io.EOF
}

// Seek implements [io.Seeker]; the next read requests the content at the new offset.
func (d *resumableDownload) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += d.offset
	case io.SeekEnd:
		offset += d.desc.Size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start of a blob")
	}
	if offset != d.offset && d.body != nil {
		d.body.Close()
		d.body = nil
	}
	d.offset = offset
	return offset, nil
}

// Close ends the connection.
func (d *resumableDownload) Close() error {
	d.closed = true
	if d.body == nil {
		return nil
	}
	return d.body.Close()
}

// brokenError is the error of a request or an answer that broke off.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }
