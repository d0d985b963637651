package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Archive picks files of an archive: a tar (plain, gzip or zstd) or a zip, at an https URL or in
// a file below the definition's folder. Its bytes have to have the digest want, unless that is
// empty; the tree's digest is theirs.
func (f *Fetcher) Archive(ctx context.Context, location, want string, pick Pick) (tree *Tree, err error) {
	var file *os.File
	var sum string
	if strings.Contains(location, "://") {
		file, sum, err = f.download(ctx, location, want)
	} else {
		file, sum, err = f.local(location)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, discard(file)) }()
	if want != "" && sum != want {
		return nil, &DigestError{Source: redact(location), Got: sum, Want: want}
	}
	if tree, err = unpack(ctx, file, pick); err != nil {
		return nil, fmt.Errorf("archive %s: %w", redact(location), err)
	}
	tree.SHA256 = sum
	return tree, nil
}

// local copies a file of the definition's folder, so that what is read is what was hashed.
func (f *Fetcher) local(name string) (file *os.File, sum string, err error) {
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	info, err := root.Stat(filepath.FromSlash(name))
	if err != nil {
		return nil, "", confinement(name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, "", fmt.Errorf("%s is no regular file", name)
	}
	from, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, "", confinement(name, err)
	}
	defer from.Close()
	if file, err = os.CreateTemp("", "krtpkg-source-*"); err != nil {
		return nil, "", err
	}
	if sum, err = spool(file, from); err != nil {
		return nil, "", errors.Join(fmt.Errorf("%s: %w", name, err), discard(file))
	}
	return file, sum, nil
}
