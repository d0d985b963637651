package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// Storage that a registry sends its clients to gets no login of the registry's: it is signed by its
// URL, and refuses requests with both.
func TestStorageGetsNoLogin(t *testing.T) {
	t.Parallel()
	for _, auth := range []registrytest.Auth{registrytest.Basic, registrytest.Token} {
		t.Run(fmt.Sprint(auth), func(t *testing.T) {
			t.Parallel()
			data := bytes.Repeat([]byte("stored"), 500_000)
			var asked, refused atomic.Int32
			storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				asked.Add(1)
				if req.Header.Get("Authorization") != "" {
					refused.Add(1)
					http.Error(w, "<Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message>", http.StatusBadRequest)
					return
				}
				http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data))
			}))
			t.Cleanup(storage.Close)
			r := registrytest.StartRegistry(t, registrytest.Options{Auth: auth, Middleware: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.Method != http.MethodPost && strings.Contains(req.URL.Path, "/blobs/sha256:") && req.Header.Get("Authorization") != "" {
						http.Redirect(w, req, storage.URL+"/"+req.URL.Path+"?signature=x", http.StatusTemporaryRedirect)
						return
					}
					next.ServeHTTP(w, req)
				})
			}})
			client, err := New(Options{CAFile: r.CAFile, Logins: loginTo(t, r)})
			if err != nil {
				t.Fatal(err)
			}
			repo, err := client.Repository(t.Context(), r.Host+"/stored/elsewhere")
			if err != nil {
				t.Fatal(err)
			}
			desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayer, data)
			if there, err := repo.Exists(t.Context(), desc); err != nil || !there {
				t.Errorf("it is there: %v, %v", there, err)
			}
			blob, err := repo.Fetch(t.Context(), desc)
			if err != nil {
				t.Fatal(err)
			}
			defer blob.Close()
			if got, err := io.ReadAll(blob); err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if asked.Load() < 2 || refused.Load() > 0 {
				t.Errorf("%d of %d requests came with a login", refused.Load(), asked.Load())
			}
		})
	}
}
