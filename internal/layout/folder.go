package layout

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// folder is a folder that may be a stranger's: nothing in it leads out of it, and what is read is
// a regular file, so that no device and no pipe keeps anybody waiting. Links that stay inside are
// followed.
type folder struct {
	dir string

	mu sync.Mutex
	at *os.Root
}

// root opens the folder, which may not be there yet.
func (f *folder) root() (*os.Root, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == nil {
		at, err := os.OpenRoot(f.dir)
		if err != nil {
			return nil, err
		}
		f.at = at
	}
	return f.at, nil
}

// open opens a regular file to read.
func (f *folder) open(name string) (*os.File, error) {
	root, err := f.root()
	if err != nil {
		return nil, err
	}
	// A pipe that nobody writes to would block.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, f.named(name, err)
	}
	info, err := file.Stat()
	if err == nil {
		err = f.regular(name, info)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func (f *folder) regular(name string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", filepath.Join(f.dir, name))
	}
	return nil
}

// named gives an error of [os.Root] the path that users know.
func (f *folder) named(name string, err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return &fs.PathError{Op: at.Op, Path: filepath.Join(f.dir, name), Err: at.Err}
	}
	return err
}

// read reads a small file.
func (f *folder) read(name string, limit int64) ([]byte, error) {
	file, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: more than %d bytes: %w", filepath.Join(f.dir, name), limit, oci.ErrTooLarge)
	}
	return data, err
}

// stat describes a regular file.
func (f *folder) stat(name string) (fs.FileInfo, error) {
	root, err := f.root()
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(name)
	if err != nil {
		return nil, f.named(name, err)
	}
	return info, f.regular(name, info)
}

// path returns where a file is, for what takes no root: a regular file inside of the folder, or none.
func (f *folder) path(name string) (string, error) {
	if _, err := f.stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	root, err := f.root()
	if err != nil {
		return "", err
	}
	// A link to nowhere would be followed by who creates the file.
	if info, err := root.Lstat(name); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", fmt.Errorf("%s is a link: want a regular file", filepath.Join(f.dir, name))
	}
	return filepath.Join(f.dir, name), nil
}

func (f *folder) makeAll(name string) error {
	root, err := f.root()
	if err != nil {
		return err
	}
	return f.named(name, root.MkdirAll(name, 0o755))
}

// createTemp makes a file of a name that begins so, to write.
func (f *folder) createTemp(prefix string) (*os.File, string, error) {
	root, err := f.root()
	if err != nil {
		return nil, "", err
	}
	name := prefix + "_" + rand.Text()
	file, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return file, name, f.named(name, err)
}

func (f *folder) remove(name string) error {
	root, err := f.root()
	if err != nil {
		return err
	}
	return f.named(name, root.Remove(name))
}

func (f *folder) rename(from, to string) error {
	root, err := f.root()
	if err != nil {
		return err
	}
	return root.Rename(from, to)
}

// replace replaces a file as a whole: a reader sees the old one or the new one.
func (f *folder) replace(name string, data []byte) error {
	temp, tempName, err := f.createTemp(name)
	if err != nil {
		return err
	}
	defer f.remove(tempName)
	_, err = temp.Write(data)
	if err := errors.Join(err, temp.Chmod(0o644), temp.Close()); err != nil {
		return err
	}
	return f.rename(tempName, name)
}
