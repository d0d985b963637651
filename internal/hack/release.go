package hack

import (
	"archive/tar"
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

// stallLimit is how long a download may bring nothing.
var stallLimit = 30 * time.Second

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

// download puts programs of the archive, a gzipped tar, into a folder: each by its path in the archive. The folder
// has either all of them or none: nothing stays of an archive that is not what the index says. Proxies are those of
// the environment.
func (a *releaseArchive) download(ctx context.Context, dir string, programs []string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("download %s: %w", a.SelfLink, err)
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	stalled := time.AfterFunc(stallLimit, func() { cancel(fmt.Errorf("nothing came for %s", stallLimit)) })
	defer stalled.Stop()

	temp, err := os.MkdirTemp(filepath.Dir(dir), ".download-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	hash := sha512.New()
	received := io.TeeReader(io.LimitReader(&watchedReader{body, stalled}, maxArchive), hash)
	unpackErr := unpackPrograms(received, temp, programs)
	if _, err := io.Copy(io.Discard, received); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != a.Hash {
		return fmt.Errorf("its SHA-512 is %s, not %s as published", got, a.Hash)
	}
	if unpackErr != nil {
		return unpackErr
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, program := range programs {
		if err := os.Rename(filepath.Join(temp, path.Base(program)), filepath.Join(dir, path.Base(program))); err != nil {
			return err
		}
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
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
		delete(missing, name)
	}
	return nil
}
