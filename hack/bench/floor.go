package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// runFloor moves the blobs that a file lists, as a process of its own: what a copy, an export and an import cannot be faster than.
func runFloor(ctx context.Context, list, from, to string) error {
	data, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	return moveBlobs(ctx, from, to, strings.Fields(string(data)))
}

// moveBlobs moves blobs as plainly as can be, four at a time: a GET or an opened file each, whose bytes are the body of a PUT or the
// content of a file. Nothing is asked and nothing is checked. Places are HOST/v2/REPOSITORY, or paths of folders, which begin with a slash.
func moveBlobs(ctx context.Context, from, to string, digests []string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, d := range digests {
		group.Go(func() error { return moveBlob(ctx, from, to, d) })
	}
	return group.Wait()
}

func moveBlob(ctx context.Context, from, to, digest string) error {
	content, size, err := openBlob(ctx, from, digest)
	if err != nil {
		return err
	}
	defer content.Close()
	if filepath.IsAbs(to) {
		return writeBlobFile(filepath.Join(to, digest), content)
	}
	return putBlob(ctx, to, digest, content, size)
}

// openBlob returns a blob's content and size.
func openBlob(ctx context.Context, from, digest string) (io.ReadCloser, int64, error) {
	if filepath.IsAbs(from) {
		file, err := os.Open(filepath.Join(from, digest))
		if err != nil {
			return nil, 0, err
		}
		info, err := file.Stat()
		if err != nil {
			file.Close()
			return nil, 0, err
		}
		return file, info.Size(), nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+from+"/blobs/"+digest, nil)
	if err != nil {
		return nil, 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, 0, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, 0, fmt.Errorf("GET %s: %s", digest, response.Status)
	}
	return response.Body, response.ContentLength, nil
}

func writeBlobFile(path string, content io.Reader) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.Copy(file, content); err != nil {
		return err
	}
	return file.Close()
}

func putBlob(ctx context.Context, to, digest string, content io.Reader, size int64) error {
	post, err := http.Post("http://"+to+"/blobs/uploads/", "", nil)
	if err != nil {
		return err
	}
	post.Body.Close()
	put, err := http.NewRequestWithContext(ctx, http.MethodPut, post.Header.Get("Location")+"&digest="+digest, content)
	if err != nil {
		return err
	}
	put.ContentLength = size
	done, err := http.DefaultClient.Do(put)
	if err != nil {
		return err
	}
	done.Body.Close()
	if done.StatusCode != http.StatusCreated {
		return fmt.Errorf("PUT %s: %s", digest, done.Status)
	}
	return nil
}
