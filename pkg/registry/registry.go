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
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	remoteretry "oras.land/oras-go/v2/registry/remote/retry"

	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/retry"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// Options configure how to reach registries. The zero value follows the ecosystem's defaults:
// docker's and podman's login files and credential helpers, the system's CAs and those in
// certs.d, HTTPS but for registries on loopback that answer in plain HTTP, proxies from the
// environment.
type Options struct {
	// PlainHTTP speaks HTTP without TLS to every registry.
	PlainHTTP bool
	// InsecureSkipTLSVerify accepts any certificate.
	InsecureSkipTLSVerify bool
	// CAFile is a PEM file of additional certificate authorities to trust.
	CAFile string
	// Logins are docker configs (the JSON of config.json). For the hosts that they name they come
	// before docker's and podman's files.
	Logins [][]byte
	// Mirrors replace the registries of workload images.
	Mirrors []Mirror
	// UserAgent is sent with each request.
	UserAgent string
	// StateDir keeps unfinished uploads, so that the next process can resume them
	// ([DefaultStateDir]); none are kept when empty.
	StateDir string
	// StallTimeout is how long a connection may stall; 2 minutes when zero.
	StallTimeout time.Duration
	// MetadataTimeout is how long an answer other than a blob may take from its first byte to its
	// last; a listing may take three times as long. 5 minutes when zero.
	MetadataTimeout time.Duration
	// Backoff returns how long to wait before another attempt, which counts from 0; nil for a quarter
	// of a second that doubles. A registry may ask for longer.
	Backoff func(attempt int) time.Duration
}

// Client reaches registries. It is safe for concurrent use.
type Client struct {
	options Options
	logins  *loginSources
	// roots are nil for the authorities of the system, which Go reads when it checks the first certificate.
	roots *x509.CertPool

	mu    sync.Mutex
	hosts map[string]*hostState
}

// hostState is what is known of one registry, found out by the first request.
type hostState struct {
	mu        sync.Mutex
	transport http.RoundTripper
	plainHTTP bool
	// clients has a client for each login, since tokens belong to a login.
	clients map[string]*auth.Client
	// deviations are recorded as the host is used.
	deviations deviationLog
	// waitBudget is shared by all requests to the registry.
	waitBudget *waitBudget
}

// New makes a client.
func New(options Options) (*Client, error) {
	c := &Client{options: options, hosts: map[string]*hostState{}}
	if c.options.StallTimeout == 0 {
		c.options.StallTimeout = 2 * time.Minute
	}
	if c.options.MetadataTimeout == 0 {
		c.options.MetadataTimeout = 5 * time.Minute
	}
	if c.options.Backoff == nil {
		c.options.Backoff = retry.Policy{Longest: maxPause}.Pause
	}
	sessionStore{options.StateDir}.removeExpired()
	var err error
	if c.logins, err = newLogins(options.Logins); err != nil {
		return nil, err
	}
	if options.CAFile != "" {
		c.roots = readSystemRoots()
		if err := addCertificateAuthorities(c.roots, options.CAFile); err != nil {
			return nil, fmt.Errorf("registry CA: %w", err)
		}
	}
	return c, nil
}

// readSystemRoots returns the system's certificate authorities, none if they cannot be read.
func readSystemRoots() *x509.CertPool {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return x509.NewCertPool()
	}
	return roots
}

func addCertificateAuthorities(pool *x509.CertPool, file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s contains no PEM certificate", file)
	}
	return nil
}

// Repository opens a repository, named host/path.
func (c *Client) Repository(ctx context.Context, repository string) (*Repository, error) {
	repo, err := remote.NewRepository(repository)
	if err != nil {
		return nil, fmt.Errorf("%q is not a repository: %w", repository, err)
	}
	h, err := c.findHost(ctx, repo.Reference.Host())
	if err != nil {
		return nil, err
	}
	client := &tolerantClient{c.clientFor(h, repo.Reference.Host(), repo.Reference.Repository), &h.deviations}
	repo.Client = &listingGuard{client}
	repo.PlainHTTP = h.plainHTTP
	// This package lists referrers, so oras-go must not.
	if err := repo.SetReferrersCapability(true); err != nil {
		return nil, err
	}
	return &Repository{
		Repository: repo, sessions: sessionStore{c.options.StateDir}, backoff: c.options.Backoff, deviations: &h.deviations,
		waitBudget: h.waitBudget, metadataTimeout: c.options.MetadataTimeout, stallTimeout: c.options.StallTimeout,
	}, nil
}

func (c *Client) findHost(ctx context.Context, address string) (*hostState, error) {
	c.mu.Lock()
	h := c.hosts[address]
	if h == nil {
		h = &hostState{}
		c.hosts[address] = h
	}
	c.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.transport != nil {
		return h, nil
	}
	return h, c.probeHost(ctx, address, h)
}

func (c *Client) probeHost(ctx context.Context, address string, h *hostState) error {
	config, err := c.tlsConfig(address)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	transport.MaxIdleConnsPerHost = 64
	transport.DialContext = newDialer(c.options.StallTimeout)
	// Limits headers that arrive slowly, too.
	transport.ResponseHeaderTimeout = max(c.options.MetadataTimeout, 2*c.options.StallTimeout)
	transport.MaxResponseHeaderBytes = 256 << 10
	h.waitBudget = &waitBudget{}
	h.plainHTTP = c.options.PlainHTTP || isLoopback(address) && speaksHTTP(ctx, transport, address)
	if ctx.Err() != nil {
		return ctx.Err() // found out nothing
	}
	retrying := &remoteretry.Transport{Base: &wireTransport{&tracing.Transport{Base: transport}}, Policy: func() remoteretry.Policy { return retryPolicy{c.options.Backoff, h.waitBudget} }}
	h.transport = &challengeTransport{&timedTransport{&tracing.Attempts{Base: retrying}, c.options.MetadataTimeout}, &h.deviations}
	h.clients = map[string]*auth.Client{}
	return nil
}

// clientFor returns the client with the login for a repository: the login of one organisation must
// not be sent to the repository of another.
func (c *Client) clientFor(h *hostState, address, repository string) *auth.Client {
	scope := c.logins.credentialScope(address, repository)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clients[scope] == nil {
		client := &auth.Client{
			Client: &http.Client{Transport: h.transport},
			Cache:  auth.NewCache(),
			Header: http.Header{},
			Credential: func(ctx context.Context, _ string) (auth.Credential, error) {
				return c.logins.findCredential(ctx, address, repository)
			},
		}
		if c.options.UserAgent != "" {
			client.SetUserAgent(c.options.UserAgent)
		}
		h.clients[scope] = client
	}
	return h.clients[scope]
}

// tlsConfig returns the TLS configuration of a host, including the files that docker and podman read
// for it: certs.d/HOST/*.crt are authorities, *.cert with *.key the client's certificate
// (docs.docker.com/engine/security/certificates).
func (c *Client) tlsConfig(address string) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            c.roots,
		InsecureSkipVerify: c.options.InsecureSkipTLSVerify,
	}
	for _, dir := range certDirs() {
		dir = filepath.Join(dir, address)
		authorities, _ := filepath.Glob(filepath.Join(dir, "*.crt"))
		for _, file := range authorities {
			switch {
			case config.RootCAs != c.roots:
			case c.roots == nil:
				config.RootCAs = readSystemRoots()
			default:
				config.RootCAs = c.roots.Clone()
			}
			if err := addCertificateAuthorities(config.RootCAs, file); err != nil {
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
	return []string{"/etc/docker/certs.d", "/etc/containers/certs.d", filepath.Join(configDir(), "containers", "certs.d")}
}

func isLoopback(address string) bool {
	hostname, _, err := net.SplitHostPort(address)
	if err != nil {
		hostname = address
	}
	ip := net.ParseIP(strings.Trim(hostname, "[]"))
	return hostname == "localhost" || ip != nil && ip.IsLoopback()
}

// speaksHTTP reports whether a registry has no TLS. It tries TLS first, so that no credential is
// sent in the clear to a registry that has TLS.
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

// Mirror is the only source of images whose name starts with Prefix; "*" is every image.
// Replacement is a registry, with or without a path, to which the rest of the name is added (the
// whole name for "*"), or oci:FOLDER, a layout with full references as tags.
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

// Origin returns the store of an image, a mirror or its own registry, and its reference there.
func (c *Client) Origin(ctx context.Context, image name.Reference) (oras.ReadOnlyTarget, string, error) {
	where := c.mirrorName(image)
	if dir, ok := strings.CutPrefix(where, "oci:"); ok {
		store, err := layout.Open(dir)
		if _, byDigest := image.(name.Digest); byDigest {
			return store, image.Identifier(), err
		}
		return store, image.Name(), err
	}
	repo, err := c.Repository(ctx, where)
	if err != nil && where != image.Context().Name() {
		err = fmt.Errorf("image mirror of %s: %w", image.Context().Name(), err)
	}
	older := fullHubName(image, where)
	if err != nil || older == "" {
		return repo, image.Identifier(), err
	}
	// A mirror of all has Docker Hub's images under either of its names.
	if _, missing := repo.Resolve(ctx, image.Identifier()); errors.Is(missing, errdef.ErrNotFound) {
		second, err := c.Repository(ctx, older)
		if err != nil {
			return nil, "", err
		}
		if _, err := second.Resolve(ctx, image.Identifier()); err == nil {
			return second, image.Identifier(), nil
		}
	}
	return repo, image.Identifier(), nil
}

const (
	// hub is what people call Docker Hub, fullHub the name in full references.
	hub     = "docker.io"
	fullHub = name.DefaultRegistry
)

// fullHubName returns the name in a mirror of all by Docker Hub's full name; "" for what is not from there.
func fullHubName(image name.Reference, where string) string {
	at, mirrored := strings.CutSuffix(where, "/"+hub+"/"+image.Context().RepositoryStr())
	if !mirrored || image.Context().RegistryStr() != fullHub {
		return ""
	}
	return at + "/" + fullHub + "/" + image.Context().RepositoryStr()
}

func (c *Client) mirrorName(image name.Reference) string {
	full := image.Context().Name()
	where, longest := full, 0
	for _, m := range c.options.Mirrors {
		prefix := m.Prefix
		if prefix == hub || strings.HasPrefix(prefix, hub+"/") {
			prefix = fullHub + strings.TrimPrefix(prefix, hub)
		}
		rest, matches := strings.CutPrefix(full, prefix)
		if prefix == "*" {
			// As copy --paths preserve writes it: a path has no colon.
			host, path, _ := strings.Cut(full, "/")
			if host == fullHub {
				host = hub
			}
			rest, matches = "/"+strings.ReplaceAll(host, ":", "_")+"/"+path, true
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

// Resolve returns the descriptor of a reference.
func (c *Client) Resolve(ctx context.Context, image name.Reference) (ocispec.Descriptor, error) {
	origin, reference, err := c.Origin(ctx, image)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return origin.Resolve(ctx, reference)
}
