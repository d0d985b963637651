package cli

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/bcrypt"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/serve"
)

type serveFlags struct {
	listen, cert, key, htpasswd string
	repository                  string
	writable                    bool
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve ARCHIVE|oci:FOLDER...",
		Short: "serve archives and folders as a registry, without unpacking them",
		Long: `Serve is a registry that can only be read, straight from archives and folders, for a site
that has none: krtpkg, kapp-controller and the nodes pull from it. Roots are found under their
own names, images also under upstream's, so that nodes can use it as a mirror.

With --writable a folder is an ordinary registry that also takes what is pushed, for labs.`,
		Example: `  krtpkg serve edge-1.0.0.tar
  krtpkg serve --listen :5000 --tls-cert site.crt --tls-key site.key --htpasswd users edge-1.0.0.tar extras.tar
  krtpkg serve --writable lab`,
		GroupID: groupCarry,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.serve(cmd.Context(), args, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:5000", "address to listen at; port 0 is any that is free")
	flags.StringVar(&f.cert, "tls-cert", "", "file of the certificate, with those between it and the authority")
	flags.StringVar(&f.key, "tls-key", "", "file of the certificate's key")
	flags.StringVar(&f.htpasswd, "htpasswd", "", "file of users and their bcrypt hashes (htpasswd -B); without, everybody may read")
	flags.StringVar(&f.repository, "repository", "", "name under which roots are found, as in krt/edge")
	flags.BoolVar(&f.writable, "writable", false, "also take what is pushed, into the folder that is given")
	return cmd
}

func (a *app) serve(ctx context.Context, references []string, f serveFlags) error {
	if (f.cert == "") != (f.key == "") {
		return &usageError{errors.New("--tls-cert and --tls-key go together")}
	}
	authorize, err := readHtpasswd(f.htpasswd)
	if err != nil {
		return err
	}
	handler, err := a.serveHandler(ctx, references, f, authorize)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", f.listen)
	if err != nil {
		return err
	}
	address := listener.Addr().(*net.TCPAddr)
	scheme := "https"
	if f.cert == "" {
		scheme = "http"
		if !address.IP.IsLoopback() {
			a.ui.Note("note: whoever reaches %s reads along: there is no TLS (--tls-cert, --tls-key)", address)
		}
	}
	a.ui.Note("serving %s at %s://%s", strings.Join(references, ", "), scheme, address)
	if server, ok := handler.(*serve.Server); ok {
		for _, root := range server.Roots() {
			a.ui.Note("  %s/%s:%s@%s", address, root.Repository, root.Tag, root.Digest)
		}
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	stop := context.AfterFunc(ctx, func() {
		// What is under way gets a moment.
		soon, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(soon) != nil {
			server.Close()
		}
	})
	defer stop()
	if f.cert != "" {
		err = server.ServeTLS(listener, f.cert, f.key)
	} else {
		err = server.Serve(listener)
	}
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (a *app) serveHandler(ctx context.Context, references []string, f serveFlags, authorize func(string, string) bool) (http.Handler, error) {
	if f.writable {
		if len(references) > 1 || f.repository != "" {
			return nil, &usageError{errors.New("--writable takes one folder, and each repository has its own name there")}
		}
		return guarded(writable(strings.TrimPrefix(references[0], "oci:")), authorize), nil
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
	return serve.New(ctx, stores, serve.Options{Repository: f.repository, Authorize: authorize})
}

// writable is a registry that keeps each repository as a layout in a folder.
func writable(dir string) http.Handler {
	yes := true
	return olareg.New(config.Config{
		Storage: config.ConfigStorage{StoreType: config.StoreDir, RootDir: dir},
		API: config.ConfigAPI{
			PushEnabled: &yes, DeleteEnabled: &yes,
			Blob: config.ConfigAPIBlob{DeleteEnabled: &yes}, Referrer: config.ConfigAPIReferrer{Enabled: &yes},
		},
	})
}

func guarded(next http.Handler, authorize func(string, string) bool) http.Handler {
	if authorize == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || !authorize(user, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="krtpkg"`)
			http.Error(w, "log in", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// readHtpasswd reads Apache's file of users (httpd.apache.org/docs/2.4/misc/password_encryptions.html),
// of which only bcrypt's hashes are taken.
func readHtpasswd(name string) (func(user, password string) bool, error) {
	if name == "" {
		return nil, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	hashes := map[string][]byte{}
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return nil, fmt.Errorf("%s:%d: user %q has no bcrypt hash: make it with htpasswd -B", name, n, user)
		}
		hashes[user] = []byte(hash)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	// Who is not known takes as long as who is.
	nobody, err := bcrypt.GenerateFromPassword([]byte(name), bcrypt.DefaultCost)
	if err != nil {
		return nil, err
	}
	var right sync.Map // logins that were right: bcrypt is slow, and each request has one
	return func(user, password string) bool {
		login := sha256.Sum256([]byte(user + "\x00" + password))
		if _, ok := right.Load(login); ok {
			return true
		}
		hash, known := hashes[user]
		if !known {
			hash = nobody
		}
		if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !known {
			return false
		}
		right.Store(login, true)
		return true
	}, nil
}
