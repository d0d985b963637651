package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// endless returns a registry that a stranger wrote.
func endless(t *testing.T, o Options, answer http.HandlerFunc) *Repository {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	o.PlainHTTP, o.Backoff = true, func(int) time.Duration { return time.Millisecond }
	repo, err := newClient(t, o).Repository(t.Context(), strings.TrimPrefix(server.URL, "http://")+"/a")
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// drip sends a byte now and then, for as long as anyone reads.
func drip(w http.ResponseWriter, r *http.Request, first string) {
	io.WriteString(w, first)
	for r.Context().Err() == nil {
		io.WriteString(w, " ")
		http.NewResponseController(w).Flush()
		time.Sleep(20 * time.Millisecond)
	}
}

// What a registry lists comes to an end, whatever it answers.
func TestListingsWithoutEnd(t *testing.T) {
	t.Parallel()
	next := func(w http.ResponseWriter, r *http.Request, link string) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		w.Header().Set("Link", fmt.Sprintf("<%s?last=%s>; rel=next", r.URL.Path, link))
	}
	subject := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, []byte("subject"))
	number := func(r *http.Request) (n int) {
		fmt.Sscan(r.URL.Query().Get("last"), &n)
		return n
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
		is     error
	}{
		{"empty pages", func(w http.ResponseWriter, r *http.Request) {
			next(w, r, fmt.Sprint(number(r)+1))
			io.WriteString(w, `{"tags":[],"manifests":[]}`)
		}, "more than 10 empty pages", ErrEndless},
		{"the same page again and again", func(w http.ResponseWriter, r *http.Request) {
			next(w, r, fmt.Sprint(number(r)+1))
			fmt.Fprintf(w, `{"tags":["1.0.0"],"manifests":[{"mediaType":"m","digest":%q,"size":1}]}`, subject.Digest)
		}, "repeated page", ErrEndless},
		{"pages of one that are all new", func(w http.ResponseWriter, r *http.Request) {
			n := number(r)
			next(w, r, fmt.Sprint(n+1))
			fmt.Fprintf(w, `{"tags":["v%d"],"manifests":[{"mediaType":"m","digest":%q,"size":1}]}`, n, digest.FromString(fmt.Sprint(n)))
		}, "more than 1000 pages", ErrEndless},
		{"pages of many that are all new", func(w http.ResponseWriter, r *http.Request) {
			n := number(r)
			next(w, r, fmt.Sprint(n+1))
			fmt.Fprintf(w, `{"x":%d,"tags":["v"%s],"manifests":[{}%s]}`, n, strings.Repeat(`,"v"`, 9000), strings.Repeat(`,{}`, 9000))
		}, "more than 100000 entries", ErrEndless},
		{"a page that wants much memory", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			fmt.Fprintf(w, `{"tags":[%s""],"manifests":[%s{}]}`, strings.Repeat(`"",`, 500_000), strings.Repeat(`{},`, 500_000))
		}, "JSON of more than 250000 values", oci.ErrTooLarge},
		{"a page that drips", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			drip(w, r, `{"tags":[`)
		}, "too slow", nil},
		{"pages that come slowly", func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(300 * time.Millisecond)
			n := number(r)
			next(w, r, fmt.Sprint(n+1))
			fmt.Fprintf(w, `{"tags":["v%d"],"manifests":[{"mediaType":"m","digest":%q,"size":1}]}`, n, digest.FromString(fmt.Sprint(n)))
		}, "too slow", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			repo := endless(t, Options{MetadataTimeout: 500 * time.Millisecond}, c.answer)
			if strings.Contains(c.name, "pages of") { // there are many
				repo = endless(t, Options{MetadataTimeout: 30 * time.Second}, c.answer)
			}
			for what, list := range map[string]func(ctx context.Context) error{
				"tags": func(ctx context.Context) error {
					return repo.Tags(ctx, "", func([]string) error { return nil })
				},
				"referrers": func(ctx context.Context) error {
					return repo.Referrers(ctx, subject, "", func([]ocispec.Descriptor) error { return nil })
				},
				"predecessors": func(ctx context.Context) error {
					_, err := repo.Predecessors(ctx, subject)
					return err
				},
			} {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := list(ctx)
				var slow *SlowError
				switch {
				case err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), c.want):
					t.Errorf("%s: no %q in: %v", what, c.want, err)
				case c.is != nil && !errors.Is(err, c.is), c.is == nil && !errors.As(err, &slow):
					t.Errorf("%s: it is another error: %#v", what, err)
				}
			}
		})
	}
}

// A listing that has an empty page on its way, as filters make them, is read to its end.
func TestListingWithEmptyPages(t *testing.T) {
	t.Parallel()
	repo := endless(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		n := 0
		fmt.Sscan(r.URL.Query().Get("last"), &n)
		if n < 5 {
			w.Header().Set("Link", fmt.Sprintf("<%s?last=%d>; rel=next", r.URL.Path, n+1))
			io.WriteString(w, `{"tags":null}`)
			return
		}
		io.WriteString(w, `{"tags":["1.0.0"]}`)
	})
	var tags []string
	if err := repo.Tags(t.Context(), "", func(page []string) error { tags = append(tags, page...); return nil }); err != nil || len(tags) != 1 {
		t.Errorf("%q, %v", tags, err)
	}
}

// What drips ends: manifests after a time, blobs below a rate.
func TestDrips(t *testing.T) {
	t.Parallel()
	repo := endless(t, Options{MetadataTimeout: 300 * time.Millisecond, StallTimeout: 100 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Content-Length", "1000000")
		drip(w, r, "")
	})
	for _, mediaType := range []string{ocispec.MediaTypeImageManifest, "application/octet-stream"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := content.FetchAll(ctx, repo, ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(mediaType), Size: 1_000_000})
		var slow *SlowError
		if !errors.As(err, &slow) || ctx.Err() != nil {
			t.Errorf("%s: %v", mediaType, err)
		}
	}
}

// A registry is waited for, but not again and again.
func TestPatience(t *testing.T) {
	t.Parallel()
	request := httptest.NewRequest(http.MethodGet, "https://registry.example/v2/a/manifests/1", nil)
	answer := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"290"}}, Request: request}
	all := &waitBudget{}
	var waited time.Duration
	var err error
	for range 20 {
		p := retryPolicy{func(int) time.Duration { return 0 }, all}
		var wait time.Duration
		if wait, err = p.Retry(0, answer, nil); err != nil {
			break
		}
		waited += wait
		all.mu.Lock()
		all.until = all.until.Add(-wait) // the wait is over
		all.mu.Unlock()
	}
	var over *WaitError
	if !errors.As(err, &over) || waited > maxTotalWait || waited < maxTotalWait/2 {
		t.Errorf("waited for %s, then %v", waited, err)
	}
	// Many that wait at once wait once.
	together := &waitBudget{}
	for range 1000 {
		if !together.allowWait(time.Minute) {
			t.Fatal("requests that wait at once are counted each")
		}
	}
}

// A token server that drips ends as well.
func TestTokenThatDrips(t *testing.T) {
	t.Parallel()
	repo := endless(t, Options{MetadataTimeout: 300 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			drip(w, r, `{"token":"`)
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := repo.Resolve(ctx, "1.0.0")
	var slow *SlowError
	if !errors.As(err, &slow) || ctx.Err() != nil {
		t.Error(err)
	}
}
