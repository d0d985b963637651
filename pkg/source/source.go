// Package source brings a bundle's files together: from folders, files and URLs, archives, git
// repositories, registries and repositories of charts, each with the digest of what was there.
// All of it but the folders is hostile: sizes are capped, names confined, digests checked.
//
// Make a [Fetcher] for the folder of a definition and call the method of the kind.
package source

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	"oras.land/oras-go/v2"
)

// Limits on one source.
const (
	maxFile  = 64 << 20
	maxFiles = 20_000
)

// File is a file of a source. Path is relative to the source, with slashes; for a single
// file it is empty.
type File struct {
	Path string
	Data []byte
}

// Tree is what a source gave.
type Tree struct {
	Files []File
	// SHA256 is the digest in hex of the bytes of a file, an archive or a packed chart, or of
	// the listing of any other tree: a line "sha256  path\n" for each file in order, as
	// sha256sum prints it.
	SHA256 string
	// Commit is the commit of a git repository.
	Commit string
	// Absent are the files that a lazy pick left out, by their paths, with the reason.
	Absent map[string]string
}

// leave leaves a file out of a lazy pick; any other has the error.
func (t *Tree) leave(pick Pick, rel string, err error) error {
	if err == nil || !pick.Lazy {
		return err
	}
	if t.Absent == nil {
		t.Absent = map[string]string{}
	}
	t.Absent[rel] = err.Error()
	return nil
}

// Fetcher fetches sources. The zero value of each field but Dir is useful.
type Fetcher struct {
	// Dir is the folder that paths are relative to and can't leave.
	Dir string
	// Mirrors send URLs elsewhere.
	Mirrors []Mirror
	// Client makes the requests; http.DefaultClient when nil.
	Client *http.Client
	// Cache keeps downloads by digest; "" keeps none.
	Cache string
	// Logins gives the logins for hosts, which URLs of definitions do not hold; nil for none.
	Logins Logins
	// Registry reaches artifacts and charts in registries.
	Registry Registry
}

// Registry knows where an artifact is: a store, and the reference that it has there.
type Registry interface {
	Origin(ctx context.Context, ref name.Reference) (oras.ReadOnlyTarget, string, error)
}

// Mirror sends every URL that starts with Prefix to Replacement plus the rest: an URL, or a
// folder. What comes from there has to have the digest all the same.
type Mirror struct {
	Prefix, Replacement string
}

// ParseMirror reads PREFIX=REPLACEMENT.
func ParseMirror(s string) (Mirror, error) {
	prefix, replacement, ok := strings.Cut(s, "=")
	if !ok || prefix == "" || replacement == "" {
		return Mirror{}, fmt.Errorf("source mirror %q: want PREFIX=REPLACEMENT", s)
	}
	return Mirror{prefix, replacement}, nil
}

// DigestError says that a source is not what its definition pins.
type DigestError struct {
	Source, Got, Want string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s has sha256 %s, want %s", e.Source, e.Got, e.Want)
}

// Folder reads the files of a folder that are picked, sorted by path. A link that leads out of
// the definition's folder is an error, and so is a folder without a file. A link to a folder is that
// folder where every kind of file is picked, and an error otherwise.
func (f *Fetcher) Folder(dir string, pick Pick) (*Tree, error) {
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := pick.check(); err != nil {
		return nil, fmt.Errorf("folder %s: %w", dir, err)
	}
	if info, err := root.Stat(filepath.FromSlash(dir)); err != nil {
		return nil, confinement(dir, err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is a file, want a folder", dir)
	}
	tree := &Tree{}
	err = fs.WalkDir(root.FS(), path.Clean(dir), func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return confinement(name, err)
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(name, path.Clean(dir)), "/")
		if path.Clean(dir) == "." {
			rel = name
		}
		if entry.Type() == fs.ModeSymlink && !matches(rel, pick.Exclude) {
			info, err := root.Stat(filepath.FromSlash(name))
			switch {
			case err == nil && info.IsDir() && pick.All:
				return tree.leave(pick, rel, f.linkedFolder(root, tree, name, rel, pick, nil))
			case err != nil || info.IsDir():
				if err := tree.leave(pick, rel, checkLink(root, name)); err != nil {
					return err
				}
			}
		}
		if entry.IsDir() || !pick.wants(rel) {
			return nil
		}
		return tree.take(root, dir, name, rel, pick)
	})
	if err != nil {
		return nil, err
	}
	if len(tree.Files) == 0 && pick.All {
		return nil, fmt.Errorf("folder %s has no file that is included", dir)
	}
	if len(tree.Files) == 0 {
		return nil, fmt.Errorf("folder %s has no YAML or JSON file that is included", dir)
	}
	slices.SortFunc(tree.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	tree.SHA256 = listing(tree.Files)
	return tree, nil
}

// take reads a file of a folder.
func (t *Tree) take(root *os.Root, dir, name, rel string, pick Pick) error {
	if err := printable(rel); err != nil {
		return t.leave(pick, rel, fmt.Errorf("folder %s: %w", dir, err))
	}
	if len(t.Files) == maxFiles {
		return fmt.Errorf("folder %s has over %d files", dir, maxFiles)
	}
	data, err := read(root, name)
	if err != nil {
		return t.leave(pick, rel, err)
	}
	t.Files = append(t.Files, File{rel, data})
	return nil
}

// linkedFolder takes the files of a folder that a link leads to, as if they were where the link is.
// inside are the folders of links that it is in.
func (f *Fetcher) linkedFolder(root *os.Root, tree *Tree, link, rel string, pick Pick, inside []string) error {
	at, err := f.realPath(link)
	if err != nil {
		return err
	}
	for _, outer := range append(slices.Clone(inside), path.Dir(link)) {
		if at == "." || outer == at || strings.HasPrefix(outer, at+"/") {
			return fmt.Errorf("%s is a link to a folder that it is in", link)
		}
	}
	if len(inside) == maxLinks {
		return fmt.Errorf("%s %w", link, errLinks)
	}
	return fs.WalkDir(root.FS(), at, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return confinement(name, err)
		}
		here := path.Join(rel, strings.TrimPrefix(strings.TrimPrefix(name, at), "/"))
		if entry.Type() == fs.ModeSymlink && !matches(here, pick.Exclude) {
			if info, err := root.Stat(filepath.FromSlash(name)); err == nil && info.IsDir() {
				return tree.leave(pick, here, f.linkedFolder(root, tree, name, here, pick, append(slices.Clone(inside), at)))
			}
		}
		if entry.IsDir() || !pick.wants(here) {
			return nil
		}
		return tree.take(root, link, name, here, pick)
	})
}

// realPath is where a link below the fetcher's folder leads, from that folder.
func (f *Fetcher) realPath(link string) (string, error) {
	to, err := filepath.EvalSymlinks(filepath.Join(f.Dir, filepath.FromSlash(link)))
	if err != nil {
		return "", confinement(link, err)
	}
	top, err := filepath.EvalSymlinks(cmp.Or(f.Dir, "."))
	if err != nil {
		return "", err
	}
	if top, err = filepath.Abs(top); err == nil {
		to, err = filepath.Abs(to)
	}
	if err != nil {
		return "", err
	}
	at, err := filepath.Rel(top, to)
	if err != nil || !filepath.IsLocal(at) {
		return "", fmt.Errorf("%s is a link that leads out of the definition's folder", link)
	}
	return filepath.ToSlash(at), nil
}

// checkLink refuses a link to a folder: the walk does not follow it, so that what is behind
// would be left out without a word.
func checkLink(root *os.Root, name string) error {
	info, err := root.Stat(filepath.FromSlash(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // reading it fails, if it is wanted
	case err != nil:
		return confinement(name, err)
	case info.IsDir():
		return fmt.Errorf("%s is a link to a folder: make that folder a source of its own, or exclude the link", name)
	}
	return nil
}

func listing(files []File) string {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%x  %s\n", sha256.Sum256(f.Data), f.Path)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// File reads one file.
func (f *Fetcher) File(name string) (*Tree, error) {
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	data, err := read(root, path.Clean(name))
	if err != nil {
		return nil, err
	}
	return single(data), nil
}

func single(data []byte) *Tree {
	return &Tree{Files: []File{{Data: data}}, SHA256: fmt.Sprintf("%x", sha256.Sum256(data))}
}

func read(root *os.Root, name string) ([]byte, error) {
	name = filepath.FromSlash(name)
	info, err := root.Stat(name)
	if err != nil {
		return nil, confinement(name, err)
	}
	// Before it is opened: opening a pipe waits for its other end.
	if err := checkFile(name, info); err != nil {
		return nil, err
	}
	file, err := root.Open(name)
	if err != nil {
		return nil, confinement(name, err)
	}
	defer file.Close()
	return readAll(name, file)
}

func checkFile(name string, info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return fmt.Errorf("%s is a folder, want a file", name)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", name)
	case info.Size() > maxFile:
		return fmt.Errorf("%s: %d bytes are over the limit of %d", name, info.Size(), maxFile)
	}
	return nil
}

func readAll(name string, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s %w of %d bytes", name, errTooLong, maxFile)
	}
	return data, err
}

// confinement puts a failure to open in words.
func confinement(name string, err error) error {
	var at *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s is not there", name)
	case !errors.As(err, &at):
		return err
	case strings.Contains(at.Err.Error(), "escapes"):
		return fmt.Errorf("%s is a link that leads out of the definition's folder", name)
	}
	return fmt.Errorf("%s: %w", name, at.Err)
}
