package serve_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/serve"
)

// Metrics count answers by kinds that clients cannot invent, and need no login.
func TestMonitor(t *testing.T) {
	t.Parallel()
	reported := make(chan string, 10)
	registry := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/absent") {
			http.NotFound(w, r)
			return
		}
		io.Copy(w, strings.NewReader("content"))
	})
	server := httptest.NewServer(&serve.Monitor{Registry: registry, Report: func(r *http.Request, answer *serve.Recorder) {
		reported <- r.URL.Path
	}})
	t.Cleanup(server.Close)
	get := func(path string) string {
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, path := range []string{"/v2/a/manifests/1", "/v2/manifests/blobs/x", "/v2/a/b/manifests/absent", `/v2/"}/tags/list`, "/", "/manifests/x"} {
		get(path)
		if got := <-reported; got != path {
			t.Errorf("reported %s", got)
		}
	}
	if text := get("/healthz"); text != "ok\n" {
		t.Error(text)
	}
	want := `# HELP krtpkg_serve_answers_total Answers by kind of request and HTTP status.
# TYPE krtpkg_serve_answers_total counter
krtpkg_serve_answers_total{kind="blobs",status="200"} 1
krtpkg_serve_answers_total{kind="manifests",status="200"} 1
krtpkg_serve_answers_total{kind="manifests",status="404"} 1
krtpkg_serve_answers_total{kind="other",status="200"} 2
krtpkg_serve_answers_total{kind="tags",status="200"} 1
# HELP krtpkg_serve_bytes_total Bytes of content that were sent.
# TYPE krtpkg_serve_bytes_total counter
krtpkg_serve_bytes_total 54
`
	if text := get("/metrics"); text != want {
		t.Errorf("got\n%s", text)
	}
}
