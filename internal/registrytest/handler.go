package registrytest

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
)

// startFronted serves the registry's address from this process. The listener comes first: it
// decides the address, which a token's challenge names.
func (r *Registry) startFronted(ctx context.Context, certs *certificates) error {
	address := "127.0.0.1:0"
	if r.Options.hasQuirk(IPv6) {
		address = "[::1]:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	r.onClose(func() error {
		// For a start that fails: a server closes it first.
		if err := listener.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	r.setAddress(listener.Addr().String())

	var tokens *tokenServer
	if r.Options.Auth == Token {
		if tokens, err = r.newTokenServer(); err != nil {
			return err
		}
	}
	var handler http.Handler
	if r.Options.inProcess() {
		handler = r.newHandler(tokens)
	} else {
		// TLS ends at the front.
		host, err := r.startProcess(ctx, nil, tokens)
		if err != nil {
			return err
		}
		handler = newProxy(host, r.urlScheme())
	}
	if tokens != nil {
		handler = tokens.serveBefore(handler)
	}
	if len(r.Options.Quirks) > 0 {
		handler = &quirkyHandler{Options: r.Options, next: handler}
	}
	if r.Options.Middleware != nil {
		handler = r.Options.Middleware(handler)
	}
	if r.Options.Record {
		r.recorder = &recorder{next: handler}
		handler = r.recorder
	}
	r.serveUntilClosed(listener, handler, certs)
	return nil
}

// newHandler returns a registry in process behind its authentication.
func (r *Registry) newHandler(tokens *tokenServer) http.Handler {
	var handler http.Handler
	if r.Options.Kind == GGCR {
		handler = newGGCR(r.Options)
	} else {
		server := newOlareg(r.Options)
		r.onClose(server.Close)
		handler = server
	}
	switch r.Options.Auth {
	case Basic:
		guarded := requireBasic(handler, r.Username, r.Password)
		if r.Options.hasQuirk(AnonymousPull) {
			return requireToWrite(handler, guarded)
		}
		return guarded
	case Token:
		return tokens.requireToken(handler)
	}
	return handler
}

func newOlareg(o Options) *olareg.Server {
	deletes, referrers := !o.NoDeletes, o.HasReferrers()
	conf := config.Config{
		Storage: config.ConfigStorage{StoreType: config.StoreMem},
		API: config.ConfigAPI{
			DeleteEnabled: &deletes,
			Blob:          config.ConfigAPIBlob{DeleteEnabled: &deletes},
			Referrer:      config.ConfigAPIReferrer{Enabled: &referrers},
		},
	}
	if o.Dir != "" {
		conf.Storage.StoreType, conf.Storage.RootDir = config.StoreDir, o.Dir
	}
	// Content goes when a test deletes it and not by the hour.
	conf.Storage.GC.Frequency = -1
	return olareg.New(conf)
}

func newGGCR(o Options) http.Handler {
	return ggcr.New(
		ggcr.WithReferrersSupport(!o.NoReferrers),
		ggcr.Logger(log.New(io.Discard, "", 0)),
	)
}

// serveUntilClosed serves the handler until Close.
func (r *Registry) serveUntilClosed(listener net.Listener, handler http.Handler, certs *certificates) {
	// Close ends what is being answered and waits for it: the registry behind is closed next.
	ctx, cancel := context.WithCancel(context.Background())
	var open sync.RWMutex
	server := &http.Server{
		BaseContext: func(net.Listener) context.Context { return ctx },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if open.TryRLock() {
				defer open.RUnlock()
				handler.ServeHTTP(w, req)
			}
		}),
		// Clients that break off, which is what tests make them do, are no news.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	served := make(chan error, 1)
	go func() {
		if certs == nil {
			served <- server.Serve(listener)
			return
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certs.server}}
		served <- server.ServeTLS(listener, "", "")
	}()
	r.onClose(func() error {
		cancel()
		err := server.Close()
		if served := <-served; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		open.Lock()
		return err
	})
}

// newProxy passes requests on to the address as if they had come there directly, so that the
// registry behind makes its links for the front's address.
func newProxy(host, scheme string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: host})
			p.Out.Host = p.In.Host
			p.Out.Header.Set("X-Forwarded-Proto", scheme)
		},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
	}
}

// requireBasic asks for the credentials.
func requireBasic(next http.Handler, username, password string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !hasBasic(req, username, password) {
			writeUnauthorized(w, `Basic realm="registrytest"`)
			return
		}
		next.ServeHTTP(w, req)
	})
}

func hasBasic(req *http.Request, username, password string) bool {
	u, p, ok := req.BasicAuth()
	return ok && u == username && subtle.ConstantTimeCompare([]byte(p), []byte(password)) == 1
}

// writeUnauthorized answers 401 as the distribution specification has it.
func writeUnauthorized(w http.ResponseWriter, challenge string) {
	w.Header().Set("WWW-Authenticate", challenge)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
}

// Request is one request and its answer.
type Request struct {
	Method string
	Path   string
	Query  url.Values
	Status int
	// Received and Sent count the bytes of the request's and the answer's body.
	Received, Sent int64
}

// recorder remembers each request once it is answered.
type recorder struct {
	next http.Handler
	mu   sync.Mutex
	seen []Request
}

func (rec *recorder) listRequests() []Request {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return append([]Request(nil), rec.seen...)
}

func (rec *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body := &countingBody{ReadCloser: req.Body}
	answer := &countingWriter{ResponseWriter: w, status: http.StatusOK}
	seen := Request{Method: req.Method, Path: req.URL.Path, Query: req.URL.Query()}
	// Deferred, since a handler that cuts the connection does so by a panic.
	defer func() {
		seen.Status, seen.Received, seen.Sent = answer.status, body.n, answer.n
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rec.seen = append(rec.seen, seen)
	}()
	req.Body = body
	rec.next.ServeHTTP(answer, req)
}

type countingBody struct {
	io.ReadCloser
	n int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}

type countingWriter struct {
	http.ResponseWriter
	status int
	n      int64
}

func (w *countingWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController flush through to the connection.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
