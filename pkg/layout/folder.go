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

// rootedFolder is a folder that may be a stranger's: nothing in it leads out of it, and what is read is
// a regular file, so that no device and no pipe keeps anyone waiting. Links that stay inside are
// followed.
type rootedFolder struct {
	dir string

	mu sync.Mutex
	at *os.Root
}

// openRoot opens the folder, which may not be there yet.
func (f *rootedFolder) openRoot() (*os.Root, error) {
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

// openFile opens a regular file to read.
func (f *rootedFolder) openFile(name string) (*os.File, error) {
	root, err := f.openRoot()
	if err != nil {
		return nil, err
	}
	// A pipe that nobody writes to would block.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, f.nameError(name, err)
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

func (f *rootedFolder) regular(name string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", filepath.Join(f.dir, name))
	}
	return nil
}

// nameError gives an error of [os.Root] the path that users know.
func (f *rootedFolder) nameError(name string, err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return &fs.PathError{Op: at.Op, Path: filepath.Join(f.dir, name), Err: at.Err}
	}
	return err
}

// readSmall reads a small file.
func (f *rootedFolder) readSmall(name string, limit int64) ([]byte, error) {
	file, err := f.openFile(name)
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

// statRegular describes a regular file.
func (f *rootedFolder) statRegular(name string) (fs.FileInfo, error) {
	root, err := f.openRoot()
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(name)
	if err != nil {
		return nil, f.nameError(name, err)
	}
	return info, f.regular(name, info)
}

// filePath returns where a file is, for what takes no root: a regular file inside of the folder, or none.
func (f *rootedFolder) filePath(name string) (string, error) {
	if _, err := f.statRegular(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	root, err := f.openRoot()
	if err != nil {
		return "", err
	}
	// A link to nowhere would be followed by who creates the file.
	if info, err := root.Lstat(name); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", fmt.Errorf("%s is a link: want a regular file", filepath.Join(f.dir, name))
	}
	return filepath.Join(f.dir, name), nil
}

func (f *rootedFolder) makeFolders(name string) error {
	root, err := f.openRoot()
	if err != nil {
		return err
	}
	return f.nameError(name, root.MkdirAll(name, 0o755))
}

// createTemp makes a file of a name that begins so, to write.
func (f *rootedFolder) createTemp(prefix string) (*os.File, string, error) {
	root, err := f.openRoot()
	if err != nil {
		return nil, "", err
	}
	name := prefix + "_" + rand.Text()
	file, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return file, name, f.nameError(name, err)
}

func (f *rootedFolder) removeFile(name string) error {
	root, err := f.openRoot()
	if err != nil {
		return err
	}
	return f.nameError(name, root.Remove(name))
}

func (f *rootedFolder) renameFile(from, to string) error {
	root, err := f.openRoot()
	if err != nil {
		return err
	}
	return root.Rename(from, to)
}

// replaceFile replaces a file as a whole: a reader sees the old one or the new one.
func (f *rootedFolder) replaceFile(name string, data []byte) error {
	temp, tempName, err := f.createTemp(name)
	if err != nil {
		return err
	}
	defer f.removeFile(tempName)
	_, err = temp.Write(data)
	if err := errors.Join(err, temp.Chmod(0o644), temp.Close()); err != nil {
		return err
	}
	return f.renameFile(tempName, name)
}
