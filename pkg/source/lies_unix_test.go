//go:build unix

package source_test

import (
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/pkg/source"
)

// The digest that an index has for a chart is not a path of the cache: the pipe there would be waited
// for.
func TestIndexesAreNoPathsOfTheCache(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := &responses{answers: []any{`entries: {web: [{version: 1.0.0, urls: [web.tgz], digest: ../pipe}]}`, "chart"}}
	fetcher := source.Fetcher{Client: &http.Client{Transport: server}, Cache: filepath.Join(dir, "cache")}
	if err := os.Mkdir(fetcher.Cache, 0o755); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := fetcher.FetchChart(t.Context(), "https://charts.example", "web", "1.0.0", "")
		failed <- err
	}()
	select {
	case err := <-failed:
		if want := "chart https://charts.example/web 1.0.0: https://charts.example/web.tgz has sha256 " + sum("chart") + ", want ../pipe"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	case <-time.After(10 * time.Second):
		t.Error("the cache is left")
	}
}
