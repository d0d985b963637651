package serve_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/pkg/serve"
)

// running starts a handler; stop ends it and gives its error.
func running(t *testing.T, handler http.Handler) (address string, stop func() error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve.Run(ctx, listener, handler, nil) }()
	t.Cleanup(cancel)
	return listener.Addr().String(), func() error {
		cancel()
		return <-ended
	}
}

// What is under way when serving ends gets a moment, and no more than that.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	for text, takes := range map[string]time.Duration{"done in time": 300 * time.Millisecond, "too slow": time.Hour} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			asked := make(chan struct{})
			address, stop := running(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(asked)
				select {
				case <-time.After(takes):
					io.WriteString(w, text)
				case <-r.Context().Done():
				}
			}))
			answer := make(chan string, 1)
			go func() {
				response, err := http.Get("http://" + address)
				if err != nil {
					answer <- err.Error()
					return
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				if err != nil {
					t.Error(err)
				}
				answer <- string(body)
			}()
			<-asked
			stopped := time.Now()
			if err := stop(); !errors.Is(err, context.Canceled) {
				t.Errorf("it ends with %v", err)
			}
			if took := time.Since(stopped); took > 5*time.Second {
				t.Errorf("it ends after %s", took)
			}
			if got := <-answer; (got == text) != (takes < time.Second) {
				t.Errorf("the answer is %q", got)
			}
			if _, err := net.Dial("tcp", address); err == nil {
				t.Error("it still listens")
			}
		})
	}
}

// Who sends what nobody reads, and slowly, is sent away soon, and with an answer.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	store := newLayout(t)
	addBundle(t, store, "edge", "1.0.0", nil)
	handler, err := serve.NewServer(t.Context(), []serve.Store{store}, serve.Options{})
	if err != nil {
		t.Fatal(err)
	}
	address, _ := running(t, handler)
	for _, request := range []string{"POST /v2/edge/blobs/uploads/", "GET /v2/"} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, request+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nslow"); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 ") {
			t.Errorf("%s: %q, %v", request, answer, err)
		}
	}
}

// A listener that fails is an error, not the end of the context.
func TestRunFails(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := serve.Run(t.Context(), listener, http.NotFoundHandler(), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("it ends with %v", err)
	}
}
