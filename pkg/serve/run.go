package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"
)

// moment is how long what is under way may take when serving ends.
const moment = time.Second

// Run serves on a listener, with TLS if a certificate is given, until the context ends: then it
// accepts nothing new, waits a moment for running requests, and returns the context's error. It
// always closes the listener.
func Run(ctx context.Context, listener net.Listener, handler http.Handler, certificate *tls.Certificate) error {
	return RunWithGrace(ctx, listener, handler, certificate, moment)
}

// RunWithGrace is [Run] with another time for running requests.
func RunWithGrace(ctx context.Context, listener net.Listener, handler http.Handler, certificate *tls.Certificate, grace time.Duration) error {
	// How long a transfer takes is not limited, as long as something of it is taken: layers are large and lines are thin.
	server := &http.Server{Handler: limitStalls(handler, stallTimeout), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	ended := make(chan error, 1)
	go func() {
		if certificate == nil {
			ended <- server.Serve(listener)
			return
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12}
		ended <- server.ServeTLS(listener, "", "")
	}()
	select {
	case err := <-ended:
		return errors.Join(err, server.Close())
	case <-ctx.Done():
	}
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if server.Shutdown(soon) != nil {
		server.Close()
	}
	<-ended
	return ctx.Err()
}
