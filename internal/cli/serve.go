package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/serve"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

type serveFlags struct {
	listen, cert, key, htpasswd string
	repository                  string
	writable, ui                bool
	trust                       trustFlags
	gate                        gateFlags
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve ARCHIVE|oci:FOLDER...|--writable FOLDER|--upstream REGISTRY",
		Short: "serve archives or folders as a registry, or proxy a registry, serving only what a policy accepts",
		Long: `Serve runs a read-only registry of archives and folders, for a site without a registry: krtpkg,
kapp-controller and the nodes pull from it. It serves roots under their own names, and images also
under their upstream names, so that nodes can use it as a mirror. Serve an archive together with its base,
and all volumes of an archive together. At the start it restores layers that an archive holds as deltas,
in the folder for temporary files.

With --writable it serves a folder as an ordinary registry that accepts pushes, for labs. Without
--htpasswd it listens only on the loopback interface, and answers only to localhost.

It answers /healthz, and /metrics for Prometheus, without a login.

With --ui it also serves web pages that show what it serves, at the address without a path. It writes them
at the start, while the registry already answers; krtpkg catalog writes the same into a folder.

With --upstream it is a gate in front of a registry, for clients that verify nothing: it serves only
what the policy accepts, and what the locks of verified runtimes name. Tags move only to verified
versions, and back only with --allow-downgrade. The policy is read again when it changes.`,
		Example: `  krtpkg serve edge-1.0.0.tar
  krtpkg serve --listen :5000 --tls-cert site.crt --tls-key site.key --htpasswd users edge-1.0.0.tar extras.tar
  krtpkg serve --ui edge-1.0.0.tar
  krtpkg serve --writable lab
  krtpkg serve --upstream registry.example/krt --policy trust.yaml --cache /var/cache/krtpkg --listen :5000 --tls-cert site.crt --tls-key site.key`,
		GroupID: groupCarry,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(f.gate.upstreams) > 0 {
				return nil
			}
			return cobra.MinimumNArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.gate.checkGateFlags(cmd, args); err != nil {
				return err
			}
			if len(f.gate.upstreams) > 0 {
				return a.runGate(cmd.Context(), f)
			}
			return a.runServe(cmd.Context(), args, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:5000", "address to listen on; port 0 picks a free one")
	flags.StringVar(&f.cert, "tls-cert", "", "file of the certificate, with its intermediates")
	flags.StringVar(&f.key, "tls-key", "", "file of the certificate's key")
	flags.StringVar(&f.htpasswd, "htpasswd", "", "file of users and bcrypt hashes (htpasswd -B); without it no login is required")
	flags.StringVar(&f.repository, "repository", "", "repository name of the roots, as in krt/edge")
	f.trust.addTrustFlags(cmd)
	f.trust.addUnsigned(cmd, "serve even if a policy file would refuse it")
	flags.BoolVar(&f.ui, "ui", false, "also serve web pages that show what is served")
	flags.BoolVar(&f.writable, "writable", false, "accept pushes into the given folder")
	f.gate.addGateFlags(cmd)
	return cmd
}

func (a *app) runServe(ctx context.Context, references []string, f serveFlags) (err error) {
	certificate, err := f.loadCertificate()
	if err != nil {
		return err
	}
	login, err := f.loadLogin()
	if err != nil {
		return err
	}
	handler, err := a.serveHandler(ctx, references, f)
	if err != nil {
		return err
	}
	if closer, ok := handler.(io.Closer); ok {
		defer func() { err = errors.Join(err, closer.Close()) }()
	}
	var roots []serve.Root
	if server, ok := handler.(*serve.Server); ok {
		roots = server.Roots()
	}
	listener, err := net.Listen("tcp", f.listen)
	if err != nil {
		return err
	}
	address := listener.Addr().(*net.TCPAddr)
	if f.writable && login == nil && !address.IP.IsLoopback() {
		return &usageError{errors.Join(fmt.Errorf("--writable at %s: anyone who can reach it could push and delete; pass --htpasswd, or listen on 127.0.0.1", address), listener.Close())}
	}
	group, ctx := errgroup.WithContext(ctx)
	if f.ui {
		server, host := handler.(*serve.Server), serverName(address, certificate)
		pages := catalog.NewHandler(server)
		handler = pages
		group.Go(func() error {
			err := a.makePages(ctx, host, server, &f.trust, pages)
			if ctx.Err() != nil {
				return asStopped(ctx.Err())
			}
			return err
		})
	}
	if f.writable {
		a.ui.Note("note: pushed content is not verified, whatever the trust policy says; verify it where you use it")
		handler = serve.RefuseCrossSite(handler, login == nil)
	}
	a.announceServer(address, serverName(address, certificate), references, f, roots)
	monitor := &serve.Monitor{Registry: serve.RequireLogin(handler, login), Report: a.logRequest(f.gate.logLines)}
	group.Go(func() error { return asStopped(serve.Run(ctx, listener, monitor, certificate)) })
	return group.Wait()
}

// announceServer says what is served where, and who may reach it.
func (a *app) announceServer(address *net.TCPAddr, host string, references []string, f serveFlags, roots []serve.Root) {
	scheme := "https"
	if f.cert == "" {
		scheme = "http"
	}
	if f.cert == "" && !address.IP.IsLoopback() {
		a.ui.Note("note: no TLS (--tls-cert, --tls-key): anyone on the network to %s can read and change traffic", address)
	}
	a.ui.Note("serving %s at %s://%s", strings.Join(references, ", "), scheme, address)
	if f.ui {
		a.ui.Note("  pages for browsers: %s://%s/", scheme, address)
	}
	for _, root := range roots {
		a.ui.Note("  %s/%s:%s@%s", host, root.Repository, root.Tag, root.Digest)
	}
}

// serverName returns by which name and port clients reach a server: one that listens on all addresses by the first name
// of its certificate, and without one as localhost, since no other name is known.
func serverName(address *net.TCPAddr, certificate *tls.Certificate) string {
	if !address.IP.IsUnspecified() {
		return address.String()
	}
	name := "localhost"
	if certificate != nil && certificate.Leaf != nil {
		for _, known := range certificate.Leaf.DNSNames {
			if !strings.Contains(known, "*") {
				name = known
				break
			}
		}
	}
	return net.JoinHostPort(name, strconv.Itoa(address.Port))
}

// loadCertificate returns the server's TLS certificate; nil if none is configured.
func (f serveFlags) loadCertificate() (*tls.Certificate, error) {
	if (f.cert == "") != (f.key == "") {
		return nil, &usageError{errors.New("--tls-cert and --tls-key must be used together")}
	}
	if f.cert == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", f.cert, f.key, err)
	}
	return &certificate, nil
}

// loadLogin returns nil where nobody must log in.
func (f serveFlags) loadLogin() (serve.Login, error) {
	if f.htpasswd == "" {
		return nil, nil
	}
	file, err := os.Open(f.htpasswd)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	login, err := serve.LoadPasswords(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.htpasswd, err)
	}
	return login, nil
}

func (a *app) serveHandler(ctx context.Context, references []string, f serveFlags) (http.Handler, error) {
	if f.writable {
		if f.ui {
			return nil, &usageError{errors.New("--ui cannot be used with --writable: its pages are written once; krtpkg catalog writes pages of a registry")}
		}
		if len(references) > 1 || f.repository != "" {
			return nil, &usageError{errors.New("--writable takes a single folder, with a layout for each repository")}
		}
		return openWritableRegistry(strings.TrimPrefix(references[0], "oci:"))
	}
	var stores []serve.Store
	for _, reference := range references {
		p, err := place.Parse(reference)
		if err != nil {
			return nil, &usageError{err}
		}
		if p.IsRegistry() || p.Tag != "" || p.Digest != "" {
			return nil, &usageError{fmt.Errorf("%s: want an archive or a folder, without a version", reference)}
		}
		store, err := p.Open(ctx, nil)
		if err != nil {
			return nil, err
		}
		stores = append(stores, store.(serve.Store))
	}
	var guarded transfer.Options
	if err := a.verifyTransfer(ctx, &f.trust, true, &guarded); err != nil {
		return nil, err
	}
	return serve.NewServer(ctx, stores, serve.Options{Repository: f.repository, Verify: guarded.Verify, AllowRenamedTags: a.settings.allowRenamed})
}

// openWritableRegistry returns a registry that keeps each repository as a layout in a folder.
func openWritableRegistry(dir string) (http.Handler, error) {
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err == nil {
		return nil, fmt.Errorf("%s is a single layout, but --writable keeps one for each repository: pass its parent folder, or another one", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	yes := true
	return olareg.New(config.Config{
		Storage: config.ConfigStorage{StoreType: config.StoreDir, RootDir: dir},
		API: config.ConfigAPI{
			PushEnabled: &yes, DeleteEnabled: &yes,
			Blob: config.ConfigAPIBlob{DeleteEnabled: &yes}, Referrer: config.ConfigAPIReferrer{Enabled: &yes},
		},
	}), nil
}
