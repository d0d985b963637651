package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	neturl "net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/retry"
)

// maxArchive limits the size of a download to unpack.
const maxArchive = 1 << 30

// FetchURL fetches one file and checks its digest. A file with that digest in the cache is not
// fetched again.
func (f *Fetcher) FetchURL(ctx context.Context, url, want string) (*Tree, error) {
	if file, ok := f.openCached(want); ok {
		data, err := readAll(file.Name(), file)
		if err = errors.Join(err, file.Close()); err == nil {
			return newSingleFileTree(data), nil
		}
	}
	data, err := f.fetchBytes(ctx, url)
	if err != nil {
		return nil, err
	}
	tree := newSingleFileTree(data)
	if tree.SHA256 != want {
		return nil, &DigestError{Source: describeURL(url, f.mirrorURL(url)), Got: tree.SHA256, Want: want}
	}
	f.storeInCache(want, bytes.NewReader(data))
	return tree, nil
}

// fetchBytes reads the current content of a URL.
func (f *Fetcher) fetchBytes(ctx context.Context, url string) (data []byte, err error) {
	err = f.fetchWithMirrors(ctx, url, func(r io.Reader) error {
		data, err = readAll("it", r)
		return err
	})
	return data, err
}

// fetchWithMirrors passes the content of a URL, or of its mirror, to take; once more if the
// connection breaks.
func (f *Fetcher) fetchWithMirrors(ctx context.Context, url string, take func(io.Reader) error) error {
	from := f.mirrorURL(url)
	local, isLocal := localPath(from)
	err := errors.New("only https is allowed")
	switch {
	case isLocal && from != url: // only mirrors may be files: an index may name anything
		err = readLocal(local, take)
	case from != url && !isLocal || strings.HasPrefix(url, "https://"):
		err = f.getWithRetry(ctx, from, take)
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", describeURL(url, from), err)
	}
	return nil
}

// FetchDigest returns the sha256 of the current content of a URL, in hex.
func (f *Fetcher) FetchDigest(ctx context.Context, url string) (string, error) {
	file, sum, err := f.download(ctx, url, "")
	if err != nil {
		return "", err
	}
	return sum, closeTemporary(file)
}

// download fetches a URL into a temporary file and returns its digest, which must be want unless
// that is empty. Close the file with [closeTemporary].
func (f *Fetcher) download(ctx context.Context, url, want string) (*os.File, string, error) {
	if file, ok := f.openCached(want); ok {
		return file, want, nil
	}
	file, err := createTemporary()
	if err != nil {
		return nil, "", err
	}
	var sum string
	err = f.fetchWithMirrors(ctx, url, func(r io.Reader) (err error) {
		sum, err = copyWithDigest(file, r)
		return err
	})
	if err == nil && want != "" && sum != want {
		err = &DigestError{Source: describeURL(url, f.mirrorURL(url)), Got: sum, Want: want}
	}
	if err != nil {
		return nil, "", errors.Join(err, closeTemporary(file))
	}
	if want != "" {
		f.storeInCache(want, io.NewSectionReader(file, 0, maxArchive))
	}
	return file, sum, nil
}

// copyWithDigest replaces the content of a file and returns its digest.
func copyWithDigest(file *os.File, r io.Reader) (string, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if err := file.Truncate(0); err != nil {
		return "", err
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, hash), io.LimitReader(r, maxArchive+1))
	if err == nil && n > maxArchive {
		err = fmt.Errorf("it %w of %d bytes", errTooLong, maxArchive)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), err
}

var errTooLong = errors.New("is over the limit")

// closeTemporary closes a download and removes it unless it is in the cache.
func closeTemporary(file *os.File) error {
	err := file.Close()
	if strings.HasPrefix(filepath.Base(file.Name()), "krtpkg-source-") {
		if removed := os.Remove(file.Name()); !errors.Is(removed, fs.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}
	return err
}

// createTemporary returns a new file for [closeTemporary]. It has no name where the system allows that, so that
// nothing is left of a process that was killed.
func createTemporary() (*os.File, error) {
	file, err := os.CreateTemp("", "krtpkg-source-*")
	if err == nil {
		_ = os.Remove(file.Name()) // or else at its end
	}
	return file, err
}

func describeURL(url, from string) string {
	if url == from {
		return redactURL(url)
	}
	return redactURL(url) + " (mirrored by " + redactURL(from) + ")"
}

// redactURL removes the user and the password from a URL: either may be a token.
func redactURL(url string) string {
	u, err := neturl.Parse(url)
	switch {
	case err != nil && strings.Contains(url, "@") && strings.Contains(url, "://"):
		scheme, rest, _ := strings.Cut(url, "://")
		return scheme + "://" + rest[strings.LastIndex(rest, "@")+1:]
	case err != nil || u.User == nil:
		return url
	case u.Scheme == "ssh":
		u.User = neturl.User(u.User.Username())
	default:
		u.User = nil
	}
	return u.String()
}

// redactError does so with the URL in an error of net/url or net/http.
func redactError(err error) error {
	var at *neturl.Error
	if errors.As(err, &at) {
		at.URL = redactURL(at.URL)
	}
	return err
}

// mirrorURL returns the URL at the mirror with the longest matching prefix, or url itself.
func (f *Fetcher) mirrorURL(url string) string {
	var best Mirror
	for _, m := range f.Mirrors {
		if strings.HasPrefix(url, m.Prefix) && len(m.Prefix) > len(best.Prefix) {
			best = m
		}
	}
	if best.Prefix == "" {
		return url
	}
	// Dots after the prefix must not leave the replacement.
	rest := strings.TrimPrefix(url, best.Prefix)
	if strings.Contains(rest, "..") {
		clean := strings.TrimPrefix(path.Clean("/"+rest), "/")
		rest = rest[:len(rest)-len(strings.TrimLeft(rest, "/"))] + clean
	}
	return best.Replacement + rest
}

// localPath returns the path of a file URL or a plain path, and whether it is one.
func localPath(from string) (string, bool) {
	if p, ok := strings.CutPrefix(from, "file://"); ok {
		return filepath.FromSlash(p), true
	}
	return from, !strings.Contains(from, "://")
}

// checkRegular returns an error unless a look at a path, with its error, found a regular file.
func checkRegular(name string, info os.FileInfo, err error) error {
	switch {
	case err != nil:
		return describeOpenError(name, err)
	case info.IsDir():
		return fmt.Errorf("%s is a folder, want a file", name)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", name)
	}
	return nil
}

// readLocal reads a file of a mirror's folder, following links.
func readLocal(name string, take func(io.Reader) error) (err error) {
	info, err := os.Stat(name)
	if err := checkRegular(name, info, err); err != nil {
		return err
	}
	file, err := os.Open(name)
	if err != nil {
		return describeOpenError(name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return take(file)
}

// requestPolicy is for requests to servers of sources.
var requestPolicy = retry.Policy{Attempts: 4, First: time.Second}

func (f *Fetcher) getWithRetry(ctx context.Context, url string, take func(io.Reader) error) error {
	passes := false
	return requestPolicy.Do(ctx, func(error) bool { return passes }, func() (err error) {
		passes, err = f.getOnce(ctx, url, take)
		return err
	})
}

// getOnce makes one request; passes reports whether another one may succeed after a failure.
func (f *Fetcher) getOnce(ctx context.Context, url string, take func(io.Reader) error) (passes bool, err error) {
	parsed, err := neturl.Parse(url)
	if err != nil {
		return false, redactError(err)
	}
	client, bare, _ := f.newClient(parsed)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, bare.String(), nil)
	if err != nil {
		return false, redactError(err)
	}
	// Otherwise content that is compressed in transit would be unpacked and have another digest.
	request.Header.Set("Accept-Encoding", "identity")
	response, err := client.Do(request)
	if err != nil {
		return !errors.Is(err, errInsecureURL) && !errors.Is(err, errSlow), redactError(err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusUnauthorized {
		return false, fmt.Errorf("HTTP status %s: %w", response.Status, errLoginRequired)
	}
	if response.StatusCode != http.StatusOK {
		passes := response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests
		return passes, fmt.Errorf("HTTP status %s", response.Status)
	}
	err = take(sizedReader{response.Body, response.ContentLength})
	// Too much content does not shrink by another attempt, and a slow server was waited for long enough.
	return !errors.Is(err, errTooLong) && !errors.Is(err, errSlow), err
}

var errInsecureURL = errors.New("only https is allowed, also after a redirect")

// refuseInsecureRedirects refuses redirects from https to http.
func refuseInsecureRedirects(next func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	return func(request *http.Request, via []*http.Request) error {
		switch {
		case via[0].URL.Scheme == "https" && request.URL.Scheme != "https":
			return errInsecureURL
		case next != nil:
			return next(request, via)
		case len(via) >= 10: // as in net/http
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}
}

// openCached opens a cached download; a damaged one counts as missing.
func (f *Fetcher) openCached(want string) (*os.File, bool) {
	// An index may say anything of its charts.
	if f.Cache == "" || !isSHA256(digest.NewDigestFromEncoded(digest.SHA256, want)) {
		return nil, false
	}
	file, err := os.Open(filepath.Join(f.Cache, want))
	if err != nil {
		return nil, false
	}
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil || fmt.Sprintf("%x", hash.Sum(nil)) != want {
		file.Close()
		return nil, false
	}
	return file, true
}

// storeInCache adds a download to the cache. Failures are ignored: the next build fetches again.
func (f *Fetcher) storeInCache(sum string, data io.Reader) {
	if f.Cache == "" || os.MkdirAll(f.Cache, 0o755) != nil {
		return
	}
	temp, err := os.CreateTemp(f.Cache, ".download-*")
	if err != nil {
		return
	}
	defer os.Remove(temp.Name())
	_, err = io.Copy(temp, data)
	if errors.Join(err, temp.Close()) == nil {
		_ = os.Rename(temp.Name(), filepath.Join(f.Cache, sum))
	}
}
