package source_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"krtpkg.dev/krtpkg/pkg/source"
)

func sum(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

// A mirror is found by the longest prefix; the definition's URL and digest stay as they are.
func TestMirrorsByLongestPrefix(t *testing.T) {
	t.Parallel()
	dir := tree(t, "a/x.yaml", "ab/x.yaml", "abc.yaml", "secret.yaml")
	mirrors := []source.Mirror{
		{Prefix: "https://up.example/", Replacement: dir + "/a/"},
		{Prefix: "https://up.example/b/", Replacement: dir + "/ab/"},
		{Prefix: "https://up.example/c", Replacement: "file://" + dir + "/abc"},
		{Prefix: "https://slash.example", Replacement: dir + "/a"},
	}
	for url, want := range map[string]string{
		"https://up.example/x.yaml":                      "a/x.yaml",
		"https://up.example/b/x.yaml":                    "ab/x.yaml",
		"https://up.example/c.yaml":                      "abc.yaml",
		"https://slash.example/x.yaml":                   "a/x.yaml",
		"https://slash.example/../x.yaml":                "a/x.yaml",
		"https://slash.example/b/../../../x.yaml":        "a/x.yaml",
		"https://up.example/../secret.yaml/../../x.yaml": "a/x.yaml",
	} {
		for i := range mirrors { // the order of the settings does not matter
			fetcher := source.Fetcher{Mirrors: append(mirrors[i:len(mirrors):len(mirrors)], mirrors[:i]...)}
			got, err := fetcher.FetchURL(t.Context(), url, sum(want))
			if err != nil || string(got.Files[0].Data) != want || got.SHA256 != sum(want) {
				t.Errorf("%s: %v, %v", url, got, err)
			}
		}
	}
}

// What follows the prefix stays below the replacement.
func TestMirrorsAreNotLeftByDots(t *testing.T) {
	t.Parallel()
	dir := tree(t, "mirror/x.yaml", "secret.yaml")
	fetcher := source.Fetcher{Mirrors: []source.Mirror{{Prefix: "https://up.example/", Replacement: dir + "/mirror/"}}}
	for _, url := range []string{"https://up.example/../secret.yaml", "https://up.example/a/../../secret.yaml", "https://up.example//../secret.yaml"} {
		if _, err := fetcher.FetchURL(t.Context(), url, sum("secret.yaml")); err == nil || !strings.HasSuffix(err.Error(), "secret.yaml does not exist") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestMirrorErrorsNameBoth(t *testing.T) {
	t.Parallel()
	dir := tree(t, "x.yaml", "d/y.yaml")
	fetcher := source.Fetcher{Mirrors: []source.Mirror{{Prefix: "https://up.example/", Replacement: dir + "/"}}}
	for url, want := range map[string]string{
		"https://up.example/nope.yaml": "fetch https://up.example/nope.yaml (mirrored by DIR/nope.yaml): DIR/nope.yaml does not exist",
		"https://up.example/d":         "fetch https://up.example/d (mirrored by DIR/d): DIR/d is a folder, want a file",
		"https://up.example/x.yaml":    "https://up.example/x.yaml (mirrored by DIR/x.yaml) has sha256 " + sum("x.yaml") + ", want " + sum("other"),
	} {
		_, err := fetcher.FetchURL(t.Context(), url, sum("other"))
		if err == nil || strings.ReplaceAll(err.Error(), dir, "DIR") != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestParseMirror(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]source.Mirror{
		"https://a/=b/":           {Prefix: "https://a/", Replacement: "b/"},
		"https://a/=https://b?c=": {Prefix: "https://a/", Replacement: "https://b?c="},
	} {
		if got, err := source.ParseMirror(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a", "=b", "a="} {
		if _, err := source.ParseMirror(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// responses answers each request with the next of them, and counts.
type responses struct {
	answers []any // an int is a status, a string a body, an error a failure of the network
	asked   int
}

func (r *responses) RoundTrip(request *http.Request) (*http.Response, error) {
	answer := r.answers[min(r.asked, len(r.answers)-1)]
	r.asked++
	response := &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Request: request}
	switch a := answer.(type) {
	case error:
		return nil, a
	case int:
		response.StatusCode, response.Status = a, fmt.Sprint(a, " ", http.StatusText(a))
		response.Body = http.NoBody
	case string:
		response.Body = io.NopCloser(strings.NewReader(a))
	case io.Reader:
		response.Body = io.NopCloser(a)
	}
	return response, nil
}

// What may pass is tried again; what will not is an error at once.
func TestDownloadsAreTriedAgain(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	for _, c := range []struct {
		name    string
		answers []any
		asked   int
		waited  time.Duration
		err     string
	}{
		{"at once", []any{"content"}, 1, 0, ""},
		{"server error, then content", []any{500, "content"}, 2, time.Second, ""},
		{"too many requests", []any{429, 503, "content"}, 3, 3 * time.Second, ""},
		{"network failure", []any{broken, "content"}, 2, time.Second, ""},
		{"body that breaks off", []any{io.MultiReader(strings.NewReader("cont"), failing{broken}), "content"}, 2, time.Second, ""},
		{"server error for good", []any{502}, 4, 7 * time.Second, "fetch https://up.example/x: HTTP status 502 Bad Gateway (4 attempts)"},
		{"network failure for good", []any{broken}, 4, 7 * time.Second, `fetch https://up.example/x: Get "https://up.example/x": connection reset (4 attempts)`},
		{"not there", []any{404}, 1, 0, "fetch https://up.example/x: HTTP status 404 Not Found"},
		{"forbidden", []any{403}, 1, 0, "fetch https://up.example/x: HTTP status 403 Forbidden"},
		{"another content", []any{"other", "content"}, 1, 0, "https://up.example/x has sha256 " + sum("other") + ", want " + sum("content")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := &responses{answers: c.answers}
				began := time.Now()
				_, err := (&source.Fetcher{Client: &http.Client{Transport: server}}).FetchURL(t.Context(), "https://up.example/x", sum("content"))
				if c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
				if waited := time.Since(began); server.asked != c.asked || waited < c.waited || waited > c.waited*3/2 {
					t.Errorf("asked %d times in %v, want %d in %v and up to half of that again", server.asked, waited, c.asked, c.waited)
				}
			})
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestDownloadFromARealServer(t *testing.T) {
	t.Parallel()
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, "content")
	}))
	defer server.Close()
	fetcher := source.Fetcher{Client: server.Client(), Mirrors: []source.Mirror{{Prefix: "https://up.example", Replacement: server.URL}}}
	got, err := fetcher.FetchURL(t.Context(), "https://up.example/x", sum("content"))
	if err != nil || string(got.Files[0].Data) != "content" || asked != 2 {
		t.Errorf("%v, %v, asked %d times", got, err, asked)
	}
}

// An interrupt is not waited out.
func TestDownloadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := (&source.Fetcher{Client: &http.Client{Transport: &responses{answers: []any{500}}}}).FetchURL(ctx, "https://up.example/x", sum(""))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestDownloadsAreCapped(t *testing.T) {
	t.Parallel()
	server := &responses{answers: []any{io.LimitReader(zeros{}, 1<<40)}}
	_, err := (&source.Fetcher{Client: &http.Client{Transport: server}}).FetchURL(t.Context(), "https://up.example/x", sum(""))
	if err == nil || !strings.Contains(err.Error(), "over the limit of 67108864 bytes") || server.asked != 1 {
		t.Errorf("%v, asked %d times", err, server.asked)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// The cache spares the request, a damaged one does not harm, and what is wrong never gets in.
func TestCache(t *testing.T) {
	t.Parallel()
	cache := filepath.Join(t.TempDir(), "cache", "sources")
	server := &responses{answers: []any{"other", "content"}}
	fetcher := source.Fetcher{Client: &http.Client{Transport: server}, Cache: cache}
	get := func(want string, asked int) error {
		t.Helper()
		_, err := fetcher.FetchURL(t.Context(), "https://up.example/x", sum(want))
		if server.asked != asked {
			t.Errorf("asked %d times, want %d", server.asked, asked)
		}
		return err
	}
	var wrong *source.DigestError
	if err := get("content", 1); !errors.As(err, &wrong) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(cache); len(entries) > 0 {
		t.Errorf("the cache holds %v, %v", entries, err)
	}
	for range 3 {
		if err := get("content", 2); err != nil {
			t.Error(err)
		}
	}
	file := filepath.Join(cache, sum("content"))
	for i, damage := range []string{"contemt", "", "content and more"} {
		if err := os.WriteFile(file, []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := get("content", 3+i); err != nil {
			t.Error(err)
		}
		if data, err := os.ReadFile(file); err != nil || !bytes.Equal(data, []byte("content")) {
			t.Errorf("the cache is not mended: %q, %v", data, err)
		}
	}
	if entries, err := os.ReadDir(cache); len(entries) != 1 {
		t.Errorf("the cache holds %v, %v", entries, err)
	}
}

// A cache that cannot be written costs downloads, not the build.
func TestCacheThatIsNone(t *testing.T) {
	t.Parallel()
	dir := tree(t, "file")
	fetcher := source.Fetcher{Client: &http.Client{Transport: &responses{answers: []any{"content"}}}, Cache: filepath.Join(dir, "file", "cache")}
	if _, err := fetcher.FetchURL(t.Context(), "https://up.example/x", sum("content")); err != nil {
		t.Error(err)
	}
}
