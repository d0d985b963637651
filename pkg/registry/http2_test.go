package registry

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// faults is an HTTP/2 front of a registry that breaks requests off, once each.
type faults struct {
	mu    sync.Mutex
	left  map[string]int // by method
	after int64
	how   func(*http.Request)
	next  http.Handler
	proto string
}

func (f *faults) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	f.mu.Lock()
	f.proto = req.Proto
	broken := strings.Contains(req.URL.Path, "/blobs/") && f.left[req.Method] > 0
	if broken {
		f.left[req.Method]--
	}
	f.mu.Unlock()
	if !broken {
		f.next.ServeHTTP(w, req)
		return
	}
	if req.Method == http.MethodPut {
		io.CopyN(io.Discard, req.Body, f.after)
		f.how(req)
		return
	}
	f.next.ServeHTTP(&cutWriter{ResponseWriter: w, left: f.after, cut: func() { f.how(req) }}, req)
}

type connection struct{}

// cutWriter breaks an answer off.
type cutWriter struct {
	http.ResponseWriter
	left int64
	cut  func()
}

func (c *cutWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(int64(len(p)), c.left)])
	if c.left -= int64(n); c.left == 0 && err == nil {
		c.ResponseWriter.(http.Flusher).Flush()
		c.cut()
	}
	return n, err
}

// HTTP/2 breaks off in ways of its own, which pass as a broken connection does.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]func(*http.Request){
		"a stream reset":   func(*http.Request) { panic(http.ErrAbortHandler) },
		"a connection cut": func(req *http.Request) { req.Context().Value(connection{}).(net.Conn).Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.StartRegistry(t, registrytest.Options{})
			proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: r.Host})
			f := &faults{left: map[string]int{}, after: 1 << 20, how: how, next: proxy}
			front := httptest.NewUnstartedServer(f)
			front.EnableHTTP2 = true
			front.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connection{}, c) }
			front.StartTLS()
			t.Cleanup(front.Close)
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}), 0o644); err != nil {
				t.Fatal(err)
			}
			client, err := New(Options{CAFile: ca, Backoff: func(int) time.Duration { return time.Millisecond }})
			if err != nil {
				t.Fatal(err)
			}
			repo, err := client.Repository(t.Context(), strings.TrimPrefix(front.URL, "https://")+"/over/http2")
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, 5<<20)
			rand.NewChaCha8([32]byte{}).Read(data)
			desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayer, data)
			f.left[http.MethodPut] = 2
			if err := repo.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
				t.Fatalf("push: %v", err)
			}
			f.left[http.MethodGet] = 2
			if got, err := content.FetchAll(t.Context(), repo, desc); err != nil || !bytes.Equal(got, data) {
				t.Errorf("fetch: %d bytes, %v", len(got), err)
			}
			if f.proto != "HTTP/2.0" || f.left[http.MethodPut]+f.left[http.MethodGet] > 0 {
				t.Errorf("spoke %s, %v left", f.proto, f.left)
			}
		})
	}
}
