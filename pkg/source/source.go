// Package source brings a bundle's manifests together: from folders, from files and from
// URLs, each with the digest of what was there.
//
// Make a [Fetcher] for the folder of a definition and call the method of the kind.
package source

import (
	"bytes"
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
	"time"

	"github.com/bmatcuk/doublestar/v4"
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
	// SHA256 is the digest of a single file's bytes in hex, or of a folder's listing: a line
	// "sha256  path\n" for each file in order, as sha256sum prints it.
	SHA256 string
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

// Folder reads the YAML and JSON files of a folder that match a glob of include (all, when
// there is none) and none of exclude, sorted by path. A link that leads out of the
// definition's folder is an error, and so are a link to a folder and a folder without a file.
func (f *Fetcher) Folder(dir string, include, exclude []string) (*Tree, error) {
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, glob := range slices.Concat(include, exclude) {
		if !doublestar.ValidatePattern(glob) {
			return nil, fmt.Errorf("folder %s: invalid glob %q", dir, glob)
		}
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
		if entry.Type() == fs.ModeSymlink && !matches(rel, exclude) {
			if err := checkLink(root, name); err != nil {
				return err
			}
		}
		if entry.IsDir() || !wanted(rel, include, exclude) {
			return nil
		}
		if len(tree.Files) == maxFiles {
			return fmt.Errorf("folder %s has over %d files", dir, maxFiles)
		}
		data, err := read(root, name)
		if err != nil {
			return err
		}
		tree.Files = append(tree.Files, File{rel, data})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(tree.Files) == 0 {
		return nil, fmt.Errorf("folder %s has no YAML or JSON file that is included", dir)
	}
	slices.SortFunc(tree.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	tree.SHA256 = listing(tree.Files)
	return tree, nil
}

func wanted(rel string, include, exclude []string) bool {
	switch path.Ext(rel) {
	case ".yaml", ".yml", ".json":
	default:
		return false
	}
	return (len(include) == 0 || matches(rel, include)) && !matches(rel, exclude)
}

func matches(rel string, globs []string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool { return doublestar.MatchUnvalidated(glob, rel) })
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
		err = fmt.Errorf("%s is over the limit of %d bytes", name, maxFile)
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

// URL fetches one file and checks its digest on the way. What is in the cache under that
// digest is not fetched again.
func (f *Fetcher) URL(ctx context.Context, url, want string) (*Tree, error) {
	if data, ok := f.cached(want); ok {
		return single(data), nil
	}
	from := f.mirrored(url)
	var data []byte
	var err error
	if local, isLocal := localPath(from); isLocal {
		data, err = readLocal(local)
	} else {
		data, err = f.get(ctx, from)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", describe(url, from), err)
	}
	tree := single(data)
	if tree.SHA256 != want {
		return nil, &DigestError{Source: describe(url, from), Got: tree.SHA256, Want: want}
	}
	f.keep(want, data)
	return tree, nil
}

func describe(url, from string) string {
	if url == from {
		return url
	}
	return url + " (mirrored by " + from + ")"
}

// mirrored is where a URL leads: by the longest prefix that matches.
func (f *Fetcher) mirrored(url string) string {
	var best Mirror
	for _, m := range f.Mirrors {
		if strings.HasPrefix(url, m.Prefix) && len(m.Prefix) > len(best.Prefix) {
			best = m
		}
	}
	if best.Prefix == "" {
		return url
	}
	// Dots in what follows the prefix stay below the replacement.
	rest := strings.TrimPrefix(url, best.Prefix)
	if strings.Contains(rest, "..") {
		clean := strings.TrimPrefix(path.Clean("/"+rest), "/")
		rest = rest[:len(rest)-len(strings.TrimLeft(rest, "/"))] + clean
	}
	return best.Replacement + rest
}

// localPath tells a path from an URL.
func localPath(from string) (string, bool) {
	if p, ok := strings.CutPrefix(from, "file://"); ok {
		return filepath.FromSlash(p), true
	}
	return from, !strings.Contains(from, "://")
}

// readLocal reads a file of a mirror's folder, through whatever links that is made of.
func readLocal(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, confinement(name, err)
	}
	if err := checkFile(name, info); err != nil {
		return nil, err
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, confinement(name, err)
	}
	defer file.Close()
	return readAll(name, file)
}

// attempts is how often a request is made when the server or the network fails.
const attempts = 4

func (f *Fetcher) get(ctx context.Context, url string) ([]byte, error) {
	var failed error
	for attempt := range attempts {
		if attempt > 0 {
			select {
			case <-time.After(time.Duration(attempt) * time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		data, retry, err := f.once(ctx, url)
		if err == nil {
			return data, nil
		}
		if !retry || ctx.Err() != nil {
			return nil, err
		}
		failed = err
	}
	return nil, fmt.Errorf("%w (%d attempts)", failed, attempts)
}

// once makes one request; retry says whether the failure may pass.
func (f *Fetcher) once(ctx context.Context, url string) (data []byte, retry bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, false, err
	}
	response, err := cmp.Or(f.Client, http.DefaultClient).Do(request)
	if err != nil {
		return nil, true, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		retry := response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests
		return nil, retry, fmt.Errorf("HTTP status %s", response.Status)
	}
	data, err = readAll("it", response.Body)
	// What is too long will be so next time.
	return data, len(data) <= maxFile, err
}

// cached reads a download; one that was damaged since counts as none.
func (f *Fetcher) cached(want string) ([]byte, bool) {
	if f.Cache == "" {
		return nil, false
	}
	data, err := os.ReadFile(filepath.Join(f.Cache, want))
	return data, err == nil && fmt.Sprintf("%x", sha256.Sum256(data)) == want
}

// keep fills the cache. Failing to is no error: the next build just fetches again.
func (f *Fetcher) keep(sum string, data []byte) {
	if f.Cache == "" || os.MkdirAll(f.Cache, 0o755) != nil {
		return
	}
	temp, err := os.CreateTemp(f.Cache, ".download-*")
	if err != nil {
		return
	}
	defer os.Remove(temp.Name())
	_, err = io.Copy(temp, bytes.NewReader(data))
	if errors.Join(err, temp.Close()) == nil {
		_ = os.Rename(temp.Name(), filepath.Join(f.Cache, sum))
	}
}
