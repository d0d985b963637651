// Package registry is the one place for how registries are reached: credentials, TLS,
// plain HTTP, mirrors and retries. What it gives are oras-go targets.
//
// Make one [Client] a process and ask it for a [Client.Repository] to publish to or read
// from, or for the [Client.Origin] of a workload image.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"

	"krtpkg.dev/krtpkg/internal/layout"
)

// Options say how to reach registries. The zero value follows the ecosystem's defaults:
// docker's and podman's login files and credential helpers, the system's CAs and those in
// certs.d, HTTPS but for registries on loopback that answer in plain HTTP, proxies from the
// environment.
type Options struct {
	// PlainHTTP speaks HTTP without TLS to every registry.
	PlainHTTP bool
	// InsecureSkipTLSVerify accepts any certificate.
	InsecureSkipTLSVerify bool
	// CAFile holds more certificate authorities to trust, as PEM.
	CAFile string
	// Logins are docker configs (the JSON of config.json) whose logins come before those of docker's and
	// podman's files, for the hosts that they name.
	Logins [][]byte
	// Mirrors say where workload images are fetched from.
	Mirrors []Mirror
	// UserAgent is sent with each request.
	UserAgent string
	// StateDir keeps uploads that did not end, so that the next process can go on with them
	// ([DefaultStateDir]); none are kept when empty.
	StateDir string
	// StallTimeout is how long a connection may stand still; 2 minutes when zero.
	StallTimeout time.Duration
	// MetadataTimeout is how long an answer that is not a blob may take from its first byte to its
	// last, and a listing three times; 5 minutes when zero.
	MetadataTimeout time.Duration
	// Backoff is how long to wait before another attempt, from 0; nil for a quarter of a
	// second that doubles. A registry may ask for longer.
	Backoff func(attempt int) time.Duration
}

// Client reaches registries. It is safe for concurrent use.
type Client struct {
	options Options
	logins  *logins
	roots   *x509.CertPool

	mu    sync.Mutex
	hosts map[string]*host
}

// host is what is known of one registry: found out once, by whoever asks first.
type host struct {
	mu        sync.Mutex
	transport http.RoundTripper
	plain     bool
	// clients are one for each login, since tokens are of a login.
	clients map[string]*auth.Client
	// deviations are seen as the host is used.
	deviations deviations
	// patience is for all that waits for the registry.
	patience *patience
}

// New makes a client.
func New(options Options) (*Client, error) {
	c := &Client{options: options, hosts: map[string]*host{}}
	if c.options.StallTimeout == 0 {
		c.options.StallTimeout = 2 * time.Minute
	}
	if c.options.MetadataTimeout == 0 {
		c.options.MetadataTimeout = 5 * time.Minute
	}
	if c.options.Backoff == nil {
		c.options.Backoff = func(attempt int) time.Duration { return retry.DefaultBackoff(attempt, nil) }
	}
	sessions{options.StateDir}.clean()
	var err error
	if c.logins, err = newLogins(options.Logins); err != nil {
		return nil, err
	}
	if c.roots, err = x509.SystemCertPool(); err != nil {
		c.roots = x509.NewCertPool()
	}
	if options.CAFile != "" {
		if err := addCAs(c.roots, options.CAFile); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func addCAs(pool *x509.CertPool, file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no PEM certificate", file)
	}
	return nil
}

// Repository returns a repository, named host/path.
func (c *Client) Repository(ctx context.Context, repository string) (*Repository, error) {
	repo, err := remote.NewRepository(repository)
	if err != nil {
		return nil, fmt.Errorf("%q is not a repository: %w", repository, err)
	}
	h, err := c.host(ctx, repo.Reference.Host())
	if err != nil {
		return nil, err
	}
	client := &tolerantClient{c.clientFor(h, repo.Reference.Host(), repo.Reference.Repository), &h.deviations}
	repo.Client = &guard{client}
	repo.PlainHTTP = h.plain
	// Referrers are listed by this package, so that oras-go has nothing to add.
	if err := repo.SetReferrersCapability(true); err != nil {
		return nil, err
	}
	return &Repository{
		Repository: repo, sessions: sessions{c.options.StateDir}, backoff: c.options.Backoff, deviations: &h.deviations,
		patience: h.patience, metadata: c.options.MetadataTimeout, stall: c.options.StallTimeout,
	}, nil
}

func (c *Client) host(ctx context.Context, address string) (*host, error) {
	c.mu.Lock()
	h := c.hosts[address]
	if h == nil {
		h = &host{}
		c.hosts[address] = h
	}
	c.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.transport != nil {
		return h, nil
	}
	return h, c.learn(ctx, address, h)
}

func (c *Client) learn(ctx context.Context, address string, h *host) error {
	config, err := c.tls(address)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	transport.MaxIdleConnsPerHost = 64
	transport.DialContext = dialer(c.options.StallTimeout)
	// Headers that drip end as well.
	transport.ResponseHeaderTimeout = max(c.options.MetadataTimeout, 2*c.options.StallTimeout)
	transport.MaxResponseHeaderBytes = 256 << 10
	h.patience = &patience{}
	h.plain = c.options.PlainHTTP || isLoopback(address) && speaksHTTP(ctx, transport, address)
	if ctx.Err() != nil {
		return ctx.Err() // nothing was found out
	}
	retrying := &retry.Transport{Base: transport, Policy: func() retry.Policy { return policy{c.options.Backoff, h.patience} }}
	h.transport = &challengeTransport{&timedTransport{retrying, c.options.MetadataTimeout}, &h.deviations}
	h.clients = map[string]*auth.Client{}
	return nil
}

// clientFor returns the client with the login for a repository: one organisation's must not go to
// another's repository.
func (c *Client) clientFor(h *host, address, repository string) *auth.Client {
	scope := c.logins.scope(address, repository)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clients[scope] == nil {
		client := &auth.Client{
			Client: &http.Client{Transport: h.transport},
			Cache:  auth.NewCache(),
			Header: http.Header{},
			Credential: func(ctx context.Context, _ string) (auth.Credential, error) {
				return c.logins.find(ctx, address, repository)
			},
		}
		if c.options.UserAgent != "" {
			client.SetUserAgent(c.options.UserAgent)
		}
		h.clients[scope] = client
	}
	return h.clients[scope]
}

// tls returns the TLS configuration for a host, with the files that docker and podman read for
// it: certs.d/HOST/*.crt are authorities, *.cert with *.key the client's certificate
// (docs.docker.com/engine/security/certificates).
func (c *Client) tls(address string) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            c.roots,
		InsecureSkipVerify: c.options.InsecureSkipTLSVerify,
	}
	for _, dir := range certDirs() {
		dir = filepath.Join(dir, address)
		authorities, _ := filepath.Glob(filepath.Join(dir, "*.crt"))
		for _, file := range authorities {
			if config.RootCAs == c.roots {
				config.RootCAs = c.roots.Clone()
			}
			if err := addCAs(config.RootCAs, file); err != nil {
				return nil, err
			}
		}
		certificates, _ := filepath.Glob(filepath.Join(dir, "*.cert"))
		for _, file := range certificates {
			pair, err := tls.LoadX509KeyPair(file, strings.TrimSuffix(file, ".cert")+".key")
			if err != nil {
				return nil, fmt.Errorf("client certificate %s: %w", file, err)
			}
			config.Certificates = append(config.Certificates, pair)
		}
	}
	return config, nil
}

func certDirs() []string {
	dirs := []string{"/etc/docker/certs.d", "/etc/containers/certs.d"}
	if config, err := os.UserConfigDir(); err == nil {
		dirs = append(dirs, filepath.Join(config, "containers", "certs.d"))
	}
	return dirs
}

func isLoopback(address string) bool {
	hostname, _, err := net.SplitHostPort(address)
	if err != nil {
		hostname = address
	}
	ip := net.ParseIP(strings.Trim(hostname, "[]"))
	return hostname == "localhost" || ip != nil && ip.IsLoopback()
}

// speaksHTTP tries TLS first, so that no credential ever goes out in the clear to a
// registry that could do better.
func speaksHTTP(ctx context.Context, transport *http.Transport, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/v2/", nil)
	if err != nil {
		return false
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err == nil {
		response.Body.Close()
	}
	return errors.Is(err, http.ErrSchemeMismatch)
}

// Mirror sends images whose name starts with Prefix elsewhere, and only there. Prefix "*"
// is every image. Replacement is a registry with or without a path that the rest of the
// name follows (the whole name for "*"), or oci:FOLDER, a layout whose tags are whole
// references.
type Mirror struct {
	Prefix, Replacement string
}

// ParseMirror reads PREFIX=REPLACEMENT.
func ParseMirror(s string) (Mirror, error) {
	prefix, replacement, _ := strings.Cut(s, "=")
	m := Mirror{strings.TrimSuffix(prefix, "/"), strings.TrimSuffix(replacement, "/")}
	if m.Prefix == "" || m.Replacement == "" || m.Replacement == "oci:" {
		return Mirror{}, fmt.Errorf("image mirror %q: want PREFIX=REPLACEMENT", s)
	}
	return m, nil
}

// Origin returns where an image is fetched from, a mirror or its own registry, and the reference
// that it has there.
func (c *Client) Origin(ctx context.Context, image name.Reference) (oras.ReadOnlyTarget, string, error) {
	where := c.mirrored(image)
	if dir, ok := strings.CutPrefix(where, "oci:"); ok {
		store, err := layout.Open(dir)
		if _, byDigest := image.(name.Digest); byDigest {
			return store, image.Identifier(), err
		}
		return store, image.Name(), err
	}
	repo, err := c.Repository(ctx, where)
	return repo, image.Identifier(), err
}

func (c *Client) mirrored(image name.Reference) string {
	full := image.Context().Name()
	where, longest := full, 0
	for _, m := range c.options.Mirrors {
		prefix := m.Prefix
		if prefix == "docker.io" || strings.HasPrefix(prefix, "docker.io/") {
			prefix = "index." + prefix // as it is in full
		}
		rest, matches := strings.CutPrefix(full, prefix)
		if prefix == "*" {
			rest, matches = "/"+full, true
		}
		if !matches || rest != "" && rest[0] != '/' || len(prefix) <= longest {
			continue
		}
		where, longest = m.Replacement+rest, len(prefix)
		if strings.HasPrefix(m.Replacement, "oci:") {
			where = m.Replacement
		}
	}
	return where
}

// Resolve finds the digest that a reference stands for now.
func (c *Client) Resolve(ctx context.Context, image name.Reference) (ocispec.Descriptor, error) {
	origin, reference, err := c.Origin(ctx, image)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return origin.Resolve(ctx, reference)
}
