package source

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// maxArchive is the limit on a download that is unpacked.
const maxArchive = 1 << 30

// URL fetches one file and checks its digest on the way. What is in the cache under that
// digest is not fetched again.
func (f *Fetcher) URL(ctx context.Context, url, want string) (*Tree, error) {
	if file, ok := f.cached(want); ok {
		data, err := readAll(file.Name(), file)
		if err = errors.Join(err, file.Close()); err == nil {
			return single(data), nil
		}
	}
	data, err := f.bytes(ctx, url)
	if err != nil {
		return nil, err
	}
	tree := single(data)
	if tree.SHA256 != want {
		return nil, &DigestError{Source: describe(url, f.mirrored(url)), Got: tree.SHA256, Want: want}
	}
	f.keep(want, bytes.NewReader(data))
	return tree, nil
}

// bytes reads all that is at an URL now.
func (f *Fetcher) bytes(ctx context.Context, url string) (data []byte, err error) {
	err = f.fetch(ctx, url, func(r io.Reader) error {
		data, err = readAll("it", r)
		return err
	})
	return data, err
}

// fetch hands take what is at an URL, or at the mirror that it has; again, when that ends before
// its time.
func (f *Fetcher) fetch(ctx context.Context, url string, take func(io.Reader) error) error {
	from := f.mirrored(url)
	local, isLocal := localPath(from)
	err := errors.New("only https is allowed")
	switch {
	case isLocal && from != url: // files are for mirrors alone: an index may name anything
		err = readLocal(local, take)
	case from != url && !isLocal || strings.HasPrefix(url, "https://"):
		err = f.get(ctx, from, take)
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", describe(url, from), err)
	}
	return nil
}

// Now is the sha256 of what is at an URL at this moment, in hex.
func (f *Fetcher) Now(ctx context.Context, url string) (string, error) {
	file, sum, err := f.download(ctx, url, "")
	if err != nil {
		return "", err
	}
	return sum, discard(file)
}

// download puts what is at an URL into a file and says its digest, which has to be want unless
// that is empty. The file is for [discard].
func (f *Fetcher) download(ctx context.Context, url, want string) (*os.File, string, error) {
	if file, ok := f.cached(want); ok {
		return file, want, nil
	}
	file, err := os.CreateTemp("", "krtpkg-source-*")
	if err != nil {
		return nil, "", err
	}
	var sum string
	err = f.fetch(ctx, url, func(r io.Reader) (err error) {
		sum, err = spool(file, r)
		return err
	})
	if err == nil && want != "" && sum != want {
		err = &DigestError{Source: describe(url, f.mirrored(url)), Got: sum, Want: want}
	}
	if err != nil {
		return nil, "", errors.Join(err, discard(file))
	}
	if want != "" {
		f.keep(want, io.NewSectionReader(file, 0, maxArchive))
	}
	return file, sum, nil
}

// spool fills a file anew and says its digest.
func spool(file *os.File, r io.Reader) (string, error) {
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

// discard ends the use of a download: what is not in the cache is removed.
func discard(file *os.File) error {
	err := file.Close()
	if strings.HasPrefix(filepath.Base(file.Name()), "krtpkg-source-") {
		err = errors.Join(err, os.Remove(file.Name()))
	}
	return err
}

func describe(url, from string) string {
	if url == from {
		return redact(url)
	}
	return redact(url) + " (mirrored by " + redact(from) + ")"
}

// redact leaves out of an URL what it says of a user: that may be a token, too.
func redact(url string) string {
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

// redactError does so with the URL that an error of net/url and net/http names.
func redactError(err error) error {
	var at *neturl.Error
	if errors.As(err, &at) {
		at.URL = redact(at.URL)
	}
	return err
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
func readLocal(name string, take func(io.Reader) error) (err error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return confinement(name, err)
	case info.IsDir():
		return fmt.Errorf("%s is a folder, want a file", name)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", name)
	}
	file, err := os.Open(name)
	if err != nil {
		return confinement(name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return take(file)
}

// attempts is how often a request is made when the server or the network fails.
const attempts = 4

func (f *Fetcher) get(ctx context.Context, url string, take func(io.Reader) error) error {
	return again(ctx, func() (bool, error) { return f.once(ctx, url, take) })
}

// again does what may fail for a while.
func again(ctx context.Context, once func() (retry bool, err error)) error {
	var failed error
	for attempt := range attempts {
		if attempt > 0 {
			select {
			case <-time.After(time.Duration(attempt) * time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		retry, err := once()
		if err == nil {
			return nil
		}
		if !retry || ctx.Err() != nil {
			return err
		}
		failed = err
	}
	return fmt.Errorf("%w (%d attempts)", failed, attempts)
}

// once makes one request; retry says whether the failure may pass.
func (f *Fetcher) once(ctx context.Context, url string, take func(io.Reader) error) (retry bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, redactError(err)
	}
	if user, password, known := f.login(request.URL.Scheme, request.URL.Hostname()); known && request.URL.User == nil {
		request.SetBasicAuth(user, password) // net/http leaves it out when it is redirected to another host
	}
	// Else what is packed on the way would be unpacked, and have another digest.
	request.Header.Set("Accept-Encoding", "identity")
	client := *cmp.Or(f.Client, http.DefaultClient)
	client.CheckRedirect = stayPrivate(client.CheckRedirect)
	response, err := client.Do(request)
	if err != nil {
		return !errors.Is(err, errHTTP), redactError(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		retry := response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests
		return retry, fmt.Errorf("HTTP status %s", response.Status)
	}
	err = take(response.Body)
	// What is too long will be so next time.
	return !errors.Is(err, errTooLong), err
}

var errHTTP = errors.New("only https is allowed, also where it redirects to")

// stayPrivate refuses redirects from https to http.
func stayPrivate(next func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	return func(request *http.Request, via []*http.Request) error {
		switch {
		case via[0].URL.Scheme == "https" && request.URL.Scheme != "https":
			return errHTTP
		case next != nil:
			return next(request, via)
		case len(via) >= 10: // as net/http has it
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}
}

// cached opens a download; one that was damaged since counts as none.
func (f *Fetcher) cached(want string) (*os.File, bool) {
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

// keep fills the cache. Failing to is no error: the next build just fetches again.
func (f *Fetcher) keep(sum string, data io.Reader) {
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
