package hack

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
	"gopkg.in/yaml.v3"
)

var (
	// stallLimit is how long a download may bring nothing.
	stallLimit = 30 * time.Second
	// downloadLimit is how long a download may take: to compile takes less.
	downloadLimit = 15 * time.Minute
)

const (
	// dialLimit is how long a connection may take: where no network is, that has to be known soon.
	dialLimit = 5 * time.Second
	// maxArchive and maxProgram are far above what releases of Kubernetes have, in bytes.
	maxArchive, maxProgram = 2 << 30, 512 << 20
)

// releaseIndex lists published archives, in the format of controller-tools' envtest-releases.yaml.
type releaseIndex struct {
	// Releases are archives by version and file name, such as envtest-v1.36.2-linux-amd64.tar.gz.
	Releases map[string]map[string]*releaseArchive `yaml:"releases"`
}

// releaseArchive is a published file.
type releaseArchive struct {
	// Hash is its SHA-512 in hexadecimal digits.
	Hash string `yaml:"hash"`
	// SelfLink is its URL.
	SelfLink string `yaml:"selfLink"`
}

func readReleaseIndex(file string) (*releaseIndex, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	index := &releaseIndex{}
	if err := yaml.Unmarshal(data, index); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return index, nil
}

// findArchive returns the archive for a platform whose name begins with a word; an index that pins has one.
func (i *releaseIndex) findArchive(prefix, platform string) (*releaseArchive, error) {
	for _, archives := range i.Releases {
		for name, archive := range archives {
			if strings.HasPrefix(name, prefix+"-") && strings.HasSuffix(name, "-"+platform+".tar.gz") {
				return archive, nil
			}
		}
	}
	return nil, fmt.Errorf("no programs of a control plane are published for %s (%s)", platform, prefix)
}

// downloadFolder is the beginning of the names of folders for what is downloaded.
const downloadFolder = ".download-"

// removeDownloads removes what downloads left that were killed. None may be under way.
func removeDownloads(cache string) error {
	left, err := filepath.Glob(filepath.Join(cache, downloadFolder+"*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// download puts programs of the archive, a gzipped tar, into a folder: each by its path in the archive. A program comes
// there whole or not at all, and nothing is unpacked of an archive that is not what the index says. Proxies are those
// of the environment.
func (a *releaseArchive) download(ctx context.Context, dir string, programs []string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("download %s: %w", a.SelfLink, err)
		}
	}()
	temp, err := os.MkdirTemp(filepath.Dir(dir), downloadFolder)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	archive, err := os.Create(filepath.Join(temp, "archive"))
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := a.receive(ctx, archive); err != nil {
		return err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return err
	}
	unpacked := filepath.Join(temp, "programs")
	if err := errors.Join(os.Mkdir(unpacked, 0o755), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	if err := unpackPrograms(archive, unpacked, programs); err != nil {
		return err
	}
	for _, program := range programs {
		if err := os.Rename(filepath.Join(unpacked, path.Base(program)), filepath.Join(dir, path.Base(program))); err != nil {
			return err
		}
	}
	return nil
}

// receive writes the archive to a file. It fails if it is another one than the index says, or takes too long.
func (a *releaseArchive) receive(ctx context.Context, to io.Writer) error {
	ctx, end := context.WithTimeoutCause(ctx, downloadLimit, fmt.Errorf("it takes more than %s", downloadLimit))
	defer end()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, err := a.open(ctx)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	defer body.Close()
	stalled := time.AfterFunc(stallLimit, func() { cancel(fmt.Errorf("nothing came for %s", stallLimit)) })
	defer stalled.Stop()
	hash := sha512.New()
	if _, err := io.Copy(io.MultiWriter(to, hash), io.LimitReader(&watchedReader{body, stalled}, maxArchive)); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != a.Hash {
		return fmt.Errorf("its SHA-512 is %s, not %s as published", got, a.Hash)
	}
	return nil
}

func (a *releaseArchive) open(ctx context.Context) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.SelfLink, nil)
	if err != nil {
		return nil, err
	}
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	client := http.Client{Transport: &http.Transport{
		Proxy:                 func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:           (&net.Dialer{Timeout: dialLimit}).DialContext,
		TLSHandshakeTimeout:   2 * dialLimit,
		ResponseHeaderTimeout: stallLimit,
		DisableKeepAlives:     true,
	}}
	response, err := client.Do(request)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err // the rest of it says the URL once more
		}
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, errors.New(response.Status)
	}
	return response.Body, nil
}

// watchedReader puts off an alarm whenever something comes.
type watchedReader struct {
	from  io.Reader
	alarm *time.Timer
}

func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if n > 0 {
		r.alarm.Reset(stallLimit)
	}
	return n, err
}

// unpackPrograms writes programs of a gzipped tar to a folder, by the last part of their paths.
func unpackPrograms(r io.Reader, dir string, programs []string) error {
	unzipped, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	missing := map[string]bool{}
	for _, program := range programs {
		missing[program] = true
	}
	for entries := tar.NewReader(unzipped); len(missing) > 0; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the archive has not all of %q", programs)
		}
		if err != nil {
			return err
		}
		name := path.Clean(entry.Name)
		if !missing[name] || entry.Typeflag != tar.TypeReg {
			continue
		}
		if entry.Size > maxProgram {
			return fmt.Errorf("%s has %d bytes, more than %d", name, entry.Size, maxProgram)
		}
		file, err := os.OpenFile(filepath.Join(dir, path.Base(name)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, entries)
		if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
			return err
		}
		delete(missing, name)
	}
	return nil
}
