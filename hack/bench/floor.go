package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"
)

// runFloor moves the blobs that a file lists from one repository to another as plainly as can
// be: a GET each, whose body is that of a PUT, four at a time as krtpkg does, in the list's
// order. Nothing is asked, nothing is checked, and no manifest is moved. It is a process of
// its own, as what it is held against.
func runFloor(ctx context.Context, list, from, to string) error {
	data, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 4
	// Fewer calls of the system for each byte; much larger ones gain nothing.
	transport.ReadBufferSize, transport.WriteBufferSize = 64<<10, 64<<10
	f := floor{&http.Client{Transport: transport}, from, to}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, d := range strings.Fields(string(data)) {
		group.Go(func() error { return f.move(ctx, d) })
	}
	return group.Wait()
}

// floor moves blobs between two repositories, each given as HOST/v2/NAME.
type floor struct {
	client   *http.Client
	from, to string
}

func (f *floor) move(ctx context.Context, digest string) error {
	got, err := f.do(ctx, http.MethodGet, "http://"+f.from+"/blobs/"+digest, nil, 0, http.StatusOK)
	if err != nil {
		return err
	}
	defer got.Body.Close()
	begun, err := f.do(ctx, http.MethodPost, "http://"+f.to+"/blobs/uploads/", nil, 0, http.StatusAccepted)
	if err != nil {
		return err
	}
	begun.Body.Close()
	// The location has a query already: the state of the upload.
	location := begun.Header.Get("Location") + "&digest=" + digest
	done, err := f.do(ctx, http.MethodPut, location, got.Body, got.ContentLength, http.StatusCreated)
	if err != nil {
		return err
	}
	return done.Body.Close()
}

// do asks, and takes only the one answer for good. The caller closes its body.
func (f *floor) do(ctx context.Context, method, url string, body io.Reader, size int64, want int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != want {
		resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	return resp, nil
}
