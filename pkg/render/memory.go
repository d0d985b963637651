package render

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/filesys"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// sourceFiles are the files of a source as kustomize reads them from a disk: by any name, and each
// checked when it is read. Kustomize's own files in memory refuse names with blanks. What writes
// goes to the file system that is embedded.
type sourceFiles struct {
	filesys.FileSystem
	files   map[string][]byte          // by absolute paths
	folders map[string]map[string]bool // names of what is in each
}

func newSourceFiles(files []bundle.File) *sourceFiles {
	s := &sourceFiles{
		FileSystem: filesys.MakeFsInMemory(), files: map[string][]byte{}, folders: map[string]map[string]bool{"/": {}},
	}
	for _, f := range files {
		at := path.Join("/", f.Path)
		s.files[at] = f.Data
		for at != "/" {
			dir, name := path.Dir(at), path.Base(at)
			if s.folders[dir] == nil {
				s.folders[dir] = map[string]bool{}
			}
			s.folders[dir][name] = true
			at = dir
		}
	}
	return s
}

func absolutePath(name string) string { return path.Join("/", filepath.ToSlash(name)) }

// Exists implements [filesys.FileSystem].
func (s *sourceFiles) Exists(name string) bool {
	_, isFile := s.files[absolutePath(name)]
	return isFile || s.IsDir(name)
}

// IsDir implements [filesys.FileSystem].
func (s *sourceFiles) IsDir(name string) bool { return s.folders[absolutePath(name)] != nil }

// ReadDir implements [filesys.FileSystem].
func (s *sourceFiles) ReadDir(name string) ([]string, error) {
	if !s.IsDir(name) {
		return nil, fmt.Errorf("%s is not a folder", name)
	}
	return slices.Sorted(maps.Keys(s.folders[absolutePath(name)])), nil
}

// CleanedAbs implements [filesys.FileSystem].
func (s *sourceFiles) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	at := absolutePath(name)
	if s.IsDir(at) {
		return filesys.ConfirmedDir(at), "", nil
	}
	if _, ok := s.files[at]; !ok {
		return "", "", fmt.Errorf("'%s' does not exist", name)
	}
	return filesys.ConfirmedDir(path.Dir(at)), path.Base(at), nil
}

// Glob implements [filesys.FileSystem].
func (s *sourceFiles) Glob(pattern string) (found []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		if ok, err := path.Match(absolutePath(pattern), name); err != nil {
			return nil, err
		} else if ok {
			found = append(found, name)
		}
	}
	return found, nil
}

// ReadFile implements [filesys.FileSystem].
func (s *sourceFiles) ReadFile(name string) ([]byte, error) {
	data, ok := s.files[absolutePath(name)]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return data, manifest.CheckAliases(strings.TrimPrefix(absolutePath(name), "/"), data)
}

// Open implements [filesys.FileSystem]: kustomize reads files whole.
func (s *sourceFiles) Open(name string) (filesys.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
}

// Walk implements [filesys.FileSystem]: kustomize walks what it localizes, which nothing here does.
func (s *sourceFiles) Walk(name string, _ filepath.WalkFunc) error {
	return &fs.PathError{Op: "walk", Path: name, Err: fs.ErrInvalid}
}
