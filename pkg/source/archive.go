package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// FetchArchive picks files from an archive: a tar (plain, gzip or zstd) or a zip, at an https URL
// or in a file below the definition's folder. Its digest must be want, unless that is empty. The
// tree has the archive's digest.
func (f *Fetcher) FetchArchive(ctx context.Context, location, want string, pick Pick) (tree *Tree, err error) {
	var file *os.File
	var sum string
	if strings.Contains(location, "://") {
		file, sum, err = f.download(ctx, location, want)
	} else {
		file, sum, err = f.copyLocal(location)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeTemporary(file)) }()
	if want != "" && sum != want {
		return nil, &DigestError{Source: redactURL(location), Got: sum, Want: want}
	}
	if tree, err = unpackArchive(ctx, file, pick); err != nil {
		return nil, fmt.Errorf("archive %s: %w", redactURL(location), err)
	}
	tree.SHA256 = sum
	return tree, nil
}

// copyLocal copies a file of the definition's folder, so that the bytes read are the bytes hashed.
func (f *Fetcher) copyLocal(name string) (file *os.File, sum string, err error) {
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	info, err := root.Stat(filepath.FromSlash(name))
	if err != nil {
		return nil, "", describeOpenError(name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, "", fmt.Errorf("%s is not a regular file", name)
	}
	from, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, "", describeOpenError(name, err)
	}
	defer from.Close()
	if file, err = createTemporary(); err != nil {
		return nil, "", err
	}
	if sum, err = copyWithDigest(file, from); err != nil {
		return nil, "", errors.Join(fmt.Errorf("%s: %w", name, err), closeTemporary(file))
	}
	return file, sum, nil
}
