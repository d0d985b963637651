package gate

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// hangingRepository asks a server that never answers.
type hangingRepository struct {
	Repository
	url string
}

func (r hangingRepository) Resolve(ctx context.Context, _ string) (ocispec.Descriptor, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, r.url, nil)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{}, response.Body.Close()
}

// Only upstream's own time limit counts as its failure: whoever asks may be ended, or have no time left.
func TestEndedQuestionIsNoFailure(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(server.Close)
	for name, c := range map[string]struct {
		timeout time.Duration
		limit   func(context.Context) context.Context
		fails   bool
	}{
		"ended for others": {time.Minute, func(ctx context.Context) context.Context {
			ctx, end := context.WithCancelCause(ctx)
			time.AfterFunc(50*time.Millisecond, func() { end(errors.New("others wait")) })
			return ctx
		}, false},
		"out of time": {time.Minute, func(ctx context.Context) context.Context {
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			t.Cleanup(cancel)
			return ctx
		}, false},
		"not answered": {50 * time.Millisecond, func(ctx context.Context) context.Context { return ctx }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var events []Event
			g := &Gate{o: Options{Timeout: c.timeout, Report: func(e Event) { events = append(events, e) }}}
			upstream := &upstreamClient{g: g, where: "registry.example/edge", health: &health{}, open: func(context.Context, string) (Repository, error) {
				return hangingRepository{url: server.URL}, nil
			}}
			_, err := upstream.resolveTag(c.limit(t.Context()), "1.0.0")
			var failed *UpstreamError
			if err == nil || errors.As(err, &failed) != c.fails || len(events) > 0 != c.fails || upstream.health.failingSince.Load() != 0 != c.fails {
				t.Errorf("got %v, %d events, failing since %d, want a failure of upstream: %t", err, len(events), upstream.health.failingSince.Load(), c.fails)
			}
		})
	}
}
