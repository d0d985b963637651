package apiserver

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Writes wait for the fence of their context, and are not sent if it refuses; reads and contexts without one go ahead.
func TestFenceHoldsWritesBack(t *testing.T) {
	t.Parallel()
	errLost := errors.New("lock lost")
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	transport := &Transport{next: http.DefaultTransport, limit: time.Second, broken: map[string]time.Time{}, maxAnswer: 1 << 10, answerWindow: time.Second}
	send := func(ctx context.Context, method string) error {
		request, err := http.NewRequestWithContext(ctx, method, server.URL, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(request)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	fenced := WithFence(t.Context())
	derived, cancel := context.WithCancel(fenced)
	defer cancel()
	if err := send(derived, http.MethodPut); err != nil {
		t.Errorf("before the fence is set: %v", err)
	}
	waits := 0
	SetFence(derived, func(context.Context) error { waits++; return errLost })
	for name, test := range map[string]struct {
		ctx    context.Context
		method string
		want   error
	}{
		"a write":                      {fenced, http.MethodPatch, errLost},
		"a read":                       {fenced, http.MethodGet, nil},
		"a write of another call":      {t.Context(), http.MethodPost, nil},
		"a write with a copied fence":  {CopyFence(t.Context(), derived), http.MethodPost, errLost},
		"a write with no fence copied": {CopyFence(derived, t.Context()), http.MethodPost, nil},
	} {
		if err := send(test.ctx, test.method); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if waits != 2 {
		t.Errorf("%d writes waited, want 2", waits)
	}
	SetFence(t.Context(), nil) // has no fence
}
