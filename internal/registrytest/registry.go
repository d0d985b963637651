// Package registrytest starts real OCI registries on free ports of the loopback interface:
// Distribution 3 and 2.8 as processes, olareg and go-containerregistry's in process, each
// plain or with TLS, open or behind basic or token authentication, with or without the
// referrers API.
//
// A test calls [StartRegistry], a program [RunRegistry]. [AllOptions] is the matrix that a conformance run covers.
// [BuildTool] builds real clients, [RunTool] runs them with the environment of [Registry.Env]; this project's own
// code goes through [Registry.Repository].
package registrytest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Kind is a registry's implementation.
type Kind int

const (
	// Olareg runs in process and has the referrers API.
	Olareg Kind = iota
	// GGCR is go-containerregistry's, in process, with the referrers API. It accepts nearly
	// anything: an index whose children it lacks, for one.
	GGCR
	// Distribution3 is the current reference implementation. It has no referrers API.
	Distribution3
	// Distribution2 is its predecessor 2.8, which knows nothing of OCI 1.1.
	Distribution2
)

func (k Kind) String() string {
	switch k {
	case Olareg:
		return "olareg"
	case GGCR:
		return "ggcr"
	case Distribution3:
		return "distribution3"
	case Distribution2:
		return "distribution2"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Auth is how clients are to authenticate.
type Auth int

const (
	// None asks for nothing.
	None Auth = iota
	// Basic asks for [Registry.Username] and [Registry.Password] at every request.
	Basic
	// Token sends clients for a token to a path of the same host, which takes the same
	// credentials and grants what they ask for and no more, as large public registries do.
	Token
)

func (a Auth) String() string {
	switch a {
	case None:
		return "open"
	case Basic:
		return "basic"
	case Token:
		return "token"
	}
	return fmt.Sprintf("Auth(%d)", int(a))
}

// Options choose a registry. The zero value is an open olareg in memory, without TLS.
type Options struct {
	Kind Kind
	// TLS serves HTTPS under a certificate authority made for this one registry.
	TLS  bool
	Auth Auth
	// NoReferrers takes the referrers API away. The Distribution kinds never have it.
	NoReferrers bool
	// Quirks are what it does otherwise than the specification; only the kinds in process
	// have any.
	Quirks []Quirk
	// Dir keeps the content beyond Close. By default olareg and GGCR hold it in memory and
	// the Distribution kinds in a folder that Close removes. GGCR cannot keep manifests
	// anywhere else and refuses a Dir.
	Dir string
	// Proxy makes a Distribution kind a pull-through cache of the registry at this URL.
	Proxy string
	// NoDeletes makes it refuse to delete anything, as Distribution does unless it is told otherwise.
	NoDeletes bool
	// Record makes [Registry.Requests] tell what was asked and answered.
	Record bool
	// Middleware wraps the registry, in order to inject faults or to count. It sees every
	// request, also those for tokens, before authentication.
	Middleware func(http.Handler) http.Handler
}

// HasReferrers reports whether the registry answers the referrers API.
func (o Options) HasReferrers() bool {
	return !o.NoReferrers && o.inProcess() && o.refusesReferrers() == 0
}

// String names the combination, as a subtest is called.
func (o Options) String() string {
	parts := []string{o.Kind.String()}
	if o.TLS {
		parts = append(parts, "tls")
	}
	if o.Auth != None {
		parts = append(parts, o.Auth.String())
	}
	if o.NoReferrers {
		parts = append(parts, "noreferrers")
	}
	if o.NoDeletes {
		parts = append(parts, "nodeletes")
	}
	for _, quirk := range o.Quirks {
		parts = append(parts, string(quirk))
	}
	return strings.Join(parts, "-")
}

func (o Options) validate() error {
	if o.Kind < Olareg || o.Kind > Distribution2 {
		return fmt.Errorf("unknown kind %v", o.Kind)
	}
	if o.Auth < None || o.Auth > Token {
		return fmt.Errorf("unknown authentication %v", o.Auth)
	}
	if o.Kind == GGCR && o.Dir != "" {
		return errors.New("keeps its manifests in memory: Dir is of no use")
	}
	if len(o.Quirks) > 0 && !o.inProcess() {
		return errors.New("only registries in process have quirks")
	}
	return nil
}

// AllOptions returns the matrix of a conformance run: every kind, with and without referrers API,
// and every way to authenticate, in few registries rather than in every combination.
func AllOptions() []Options {
	return []Options{
		{Kind: Distribution3},
		{Kind: Distribution3, TLS: true, Auth: Token},
		{Kind: Distribution2},
		{Kind: Distribution2, TLS: true, Auth: Basic},
		{Kind: Olareg},
		{Kind: Olareg, TLS: true, Auth: Token},
		{Kind: Olareg, NoReferrers: true},
		{Kind: GGCR, Auth: Basic},
		{Kind: GGCR, NoReferrers: true},
	}
}

// Registry is a running registry.
type Registry struct {
	// Options are those it was started with.
	Options Options
	// Host is its address as it stands in references: 127.0.0.1, or [::1], and a port.
	Host string
	// URL is the root of its API's address, without a slash at the end.
	URL string
	// CAFile holds the certificate authority in PEM, if TLS was asked for.
	CAFile string
	// Username and Password are set when authentication was asked for.
	Username, Password string

	run      string // the folder for configuration, certificates and, by default, content
	pool     *x509.CertPool
	recorder *recorder
	process  *process
	closers  []func() error
}

// RunRegistry starts a registry and returns when it answers. The context bounds the start, which
// may have to build a program first, and not the registry's life: the caller ends that with
// Close.
func RunRegistry(ctx context.Context, o Options) (*Registry, error) {
	r, err := startRegistry(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("registry %v: %w", o, err)
	}
	return r, nil
}

func startRegistry(ctx context.Context, o Options) (_ *Registry, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	run, err := os.MkdirTemp("", "registry-")
	if err != nil {
		return nil, err
	}
	r := &Registry{Options: o, run: run}
	r.onClose(func() error { return os.RemoveAll(run) })
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()

	certs, err := r.makeCertificates()
	if err != nil {
		return nil, err
	}
	if o.Auth != None {
		r.Username, r.Password = "tester", rand.Text()
	}
	if !o.isFronted() {
		return r, r.startDirect(ctx, certs)
	}
	return r, r.startFronted(ctx, certs)
}

// isFronted reports whether this process serves the registry's address. That of the Distribution
// kinds is their own process's unless something is to stand before it.
func (o Options) isFronted() bool {
	return o.inProcess() || o.Auth == Token || o.Record || o.Middleware != nil
}

func (o Options) inProcess() bool { return o.Kind == Olareg || o.Kind == GGCR }

// makeCertificates makes the certificates if TLS is wanted; without, it returns nil.
func (r *Registry) makeCertificates() (*certificates, error) {
	if !r.Options.TLS {
		return nil, nil
	}
	certs, err := newCertificates(r.run)
	if err != nil {
		return nil, err
	}
	r.CAFile, r.pool = certs.caFile, x509.NewCertPool()
	r.pool.AddCert(certs.ca)
	return certs, nil
}

func (r *Registry) setAddress(host string) {
	r.Host, r.URL = host, r.urlScheme()+"://"+host
}

func (r *Registry) urlScheme() string {
	if r.Options.TLS {
		return "https"
	}
	return "http"
}

func (r *Registry) onClose(f func() error) { r.closers = append(r.closers, f) }

// Close ends the registry and removes what it kept outside Options.Dir.
func (r *Registry) Close() error {
	var errs []error
	for len(r.closers) > 0 {
		last := len(r.closers) - 1
		errs = append(errs, r.closers[last]())
		r.closers = r.closers[:last]
	}
	return errors.Join(errs...)
}

// Transport returns a new transport that trusts the registry's authority. It does not authenticate.
func (r *Registry) Transport() *http.Transport {
	return &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: r.pool},
		ForceAttemptHTTP2: true, // as by default, but not with a TLS configuration of your own
		// Idle connections would outlive the test that asked for a transport.
		DisableKeepAlives: true,
	}
}

// Client returns a new client with the registry's credentials, which fails at once where a
// production client would try again.
func (r *Registry) Client() *auth.Client {
	return &auth.Client{
		Client:     &http.Client{Transport: r.Transport()},
		Cache:      auth.NewCache(),
		Credential: auth.StaticCredential(r.Host, r.Credential()),
	}
}

// Credential is empty when no authentication was asked for.
func (r *Registry) Credential() auth.Credential {
	return auth.Credential{Username: r.Username, Password: r.Password}
}

// Repository returns an oras-go client of the named repository.
func (r *Registry) Repository(name string) (*remote.Repository, error) {
	repo, err := remote.NewRepository(r.Host + "/" + name)
	if err != nil {
		return nil, err
	}
	repo.PlainHTTP = !r.Options.TLS
	repo.Client = r.Client()
	return repo, nil
}

// Output returns the end of what the registry's process wrote, warnings and worse; kinds in process
// write nothing.
func (r *Registry) Output() string {
	if r.process == nil {
		return ""
	}
	return r.process.output.String()
}

// Requests returns those answered so far, in the order of their ends. It panics unless
// Options.Record was set, so that a forgotten option is not taken for silence.
func (r *Registry) Requests() []Request {
	if r.recorder == nil {
		panic("registrytest: Requests without Options.Record")
	}
	return r.recorder.listRequests()
}

// contentDir returns where a Distribution keeps its content.
func (r *Registry) contentDir() (string, error) {
	if r.Options.Dir == "" {
		return filepath.Join(r.run, "content"), nil
	}
	return filepath.Abs(r.Options.Dir)
}
