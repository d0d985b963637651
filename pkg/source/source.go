// Package source fetches the files of a bundle: from folders, files and URLs, archives, git
// repositories, registries and chart repositories, each with the digest of its content.
// Everything but folders is treated as hostile: sizes are limited, names confined, digests checked.
//
// Make a [Fetcher] for the folder of a definition and call its method for the kind of source.
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

// Tree holds the picked files of a source.
type Tree struct {
	Files []File
	// SHA256 is the digest in hex of the bytes of a file, an archive or a packed chart, or of
	// the listing of any other tree: a line "sha256  path\n" for each file in order, as
	// sha256sum prints it.
	SHA256 string
	// Commit is the commit of a git repository.
	Commit string
	// Absent holds the reasons for files that a lazy pick left out, by path.
	Absent map[string]string
}

// leaveOut records a file that a lazy pick leaves out; for other picks it returns err.
func (t *Tree) leaveOut(pick Pick, rel string, err error) error {
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
	// Dir is the folder that paths are relative to and must not leave.
	Dir string
	// Mirrors replace prefixes of URLs.
	Mirrors []Mirror
	// Client makes the requests; http.DefaultClient when nil.
	Client *http.Client
	// Cache keeps downloads by digest; "" keeps none.
	Cache string
	// Logins finds the login for a host, which URLs in definitions must not contain; nil for none.
	Logins Logins
	// Helper is asked for a login when a server wants one and Logins has none that it takes; nil for none.
	Helper CredentialHelper
	// Registry reaches artifacts and charts in registries.
	Registry Registry
}

// Registry finds the store of an artifact and its reference there.
type Registry interface {
	Origin(ctx context.Context, ref name.Reference) (oras.ReadOnlyTarget, string, error)
}

// Mirror sends every URL that starts with Prefix to Replacement plus the rest: a URL or a
// folder. Digests are checked all the same.
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

// DigestError is the error of a source whose digest differs from the one its definition pins.
type DigestError struct {
	Source, Got, Want string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s has sha256 %s, want %s", e.Source, e.Got, e.Want)
}

// ReadFolder reads the picked files of a folder, sorted by path. A link that leads out of the
// definition's folder is an error, and so is a folder without picked files. Links to folders are
// followed if pick takes every kind of file, and are an error otherwise.
func (f *Fetcher) ReadFolder(dir string, pick Pick) (*Tree, error) {
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := pick.validate(); err != nil {
		return nil, fmt.Errorf("folder %s: %w", dir, err)
	}
	if info, err := root.Stat(filepath.FromSlash(dir)); err != nil {
		return nil, describeOpenError(dir, err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is a file, want a folder", dir)
	}
	tree := &Tree{}
	err = fs.WalkDir(root.FS(), path.Clean(dir), func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return describeOpenError(name, err)
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(name, path.Clean(dir)), "/")
		if path.Clean(dir) == "." {
			rel = name
		}
		if entry.Type() == fs.ModeSymlink && !matchesAny(rel, pick.Exclude) {
			info, err := root.Stat(filepath.FromSlash(name))
			switch {
			case err == nil && info.IsDir() && pick.All:
				return tree.leaveOut(pick, rel, f.readLinkedFolder(root, tree, name, rel, pick, nil))
			case err != nil || info.IsDir():
				if err := tree.leaveOut(pick, rel, checkLink(root, name)); err != nil {
					return err
				}
			}
		}
		if entry.IsDir() || !pick.matches(rel) {
			return nil
		}
		return tree.addFile(root, dir, name, rel, pick)
	})
	if err != nil {
		return nil, err
	}
	if len(tree.Files) == 0 && pick.All {
		return nil, fmt.Errorf("folder %s: no file is included", dir)
	}
	if len(tree.Files) == 0 {
		return nil, fmt.Errorf("folder %s: no YAML or JSON file is included", dir)
	}
	slices.SortFunc(tree.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	tree.SHA256 = listingDigest(tree.Files)
	return tree, nil
}

// addFile reads a file of a folder.
func (t *Tree) addFile(root *os.Root, dir, name, rel string, pick Pick) error {
	if err := checkPrintable(rel); err != nil {
		return t.leaveOut(pick, rel, fmt.Errorf("folder %s: %w", dir, err))
	}
	if len(t.Files) == maxFiles {
		return fmt.Errorf("folder %s has over %d files", dir, maxFiles)
	}
	data, err := readFile(root, name)
	if err != nil {
		return t.leaveOut(pick, rel, err)
	}
	t.Files = append(t.Files, File{rel, data})
	return nil
}

// readLinkedFolder adds the files of a folder that a link leads to, under the path of the link.
// inside lists the folders of the links that it is in.
func (f *Fetcher) readLinkedFolder(root *os.Root, tree *Tree, link, rel string, pick Pick, inside []string) error {
	at, err := f.resolveLink(link)
	if err != nil {
		return err
	}
	for _, outer := range append(slices.Clone(inside), path.Dir(link)) {
		if at == "." || outer == at || strings.HasPrefix(outer, at+"/") {
			return fmt.Errorf("%s is a link to a folder that contains it", link)
		}
	}
	if len(inside) == maxLinks {
		return fmt.Errorf("%s %w", link, errTooManyLinks)
	}
	return fs.WalkDir(root.FS(), at, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return describeOpenError(name, err)
		}
		here := path.Join(rel, strings.TrimPrefix(strings.TrimPrefix(name, at), "/"))
		if entry.Type() == fs.ModeSymlink && !matchesAny(here, pick.Exclude) {
			if info, err := root.Stat(filepath.FromSlash(name)); err == nil && info.IsDir() {
				return tree.leaveOut(pick, here, f.readLinkedFolder(root, tree, name, here, pick, append(slices.Clone(inside), at)))
			}
		}
		if entry.IsDir() || !pick.matches(here) {
			return nil
		}
		return tree.addFile(root, link, name, here, pick)
	})
}

// resolveLink returns the target of a link below the fetcher's folder, relative to that folder.
func (f *Fetcher) resolveLink(link string) (string, error) {
	to, err := filepath.EvalSymlinks(filepath.Join(f.Dir, filepath.FromSlash(link)))
	if err != nil {
		return "", describeOpenError(link, err)
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

// checkLink refuses a link to a folder: the walk does not follow it and would leave out its files
// silently.
func checkLink(root *os.Root, name string) error {
	info, err := root.Stat(filepath.FromSlash(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // reading it fails, if it is wanted
	case err != nil:
		return describeOpenError(name, err)
	case info.IsDir():
		return fmt.Errorf("%s is a link to a folder: add that folder as a separate source, or exclude the link", name)
	}
	return nil
}

func listingDigest(files []File) string {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%x  %s\n", sha256.Sum256(f.Data), f.Path)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ReadFile reads one file.
func (f *Fetcher) ReadFile(name string) (*Tree, error) {
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	data, err := readFile(root, path.Clean(name))
	if err != nil {
		return nil, err
	}
	return newSingleFileTree(data), nil
}

func newSingleFileTree(data []byte) *Tree {
	return &Tree{Files: []File{{Data: data}}, SHA256: fmt.Sprintf("%x", sha256.Sum256(data))}
}

func readFile(root *os.Root, name string) ([]byte, error) {
	name = filepath.FromSlash(name)
	info, err := root.Stat(name)
	if err != nil {
		return nil, describeOpenError(name, err)
	}
	// Check before opening: opening a pipe waits for its other end.
	if err := checkFile(name, info); err != nil {
		return nil, err
	}
	file, err := root.Open(name)
	if err != nil {
		return nil, describeOpenError(name, err)
	}
	defer file.Close()
	return readAll(name, file)
}

func checkFile(name string, info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return fmt.Errorf("%s is a folder, want a file", name)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", name)
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

// describeOpenError explains why a file cannot be opened.
func describeOpenError(name string, err error) error {
	var at *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s does not exist", name)
	case !errors.As(err, &at):
		return err
	case strings.Contains(at.Err.Error(), "escapes"):
		return fmt.Errorf("%s is a link that leads out of the definition's folder", name)
	}
	return fmt.Errorf("%s: %w", name, at.Err)
}
