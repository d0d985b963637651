package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/registry"
)

// Many small blobs go with one request each where the registry takes that, and one finds out where it does not.
func TestSmallBlobsWithOnePost(t *testing.T) {
	t.Parallel()
	const blobs, before = 100, 32
	var answered atomic.Int32
	// intercept answers what is sent with a POST by itself.
	intercept := func(answer func(http.ResponseWriter, *http.Request)) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost && r.URL.Query().Has("digest") {
					answer(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
		}
	}
	for _, c := range []struct {
		name    string
		options registrytest.Options
		// posted is how many go with a POST, and are taken.
		posted, taken int
	}{
		{"olareg", registrytest.Options{}, blobs - before, blobs - before},
		{"go-containerregistry", registrytest.Options{Kind: registrytest.GGCR}, blobs - before, blobs - before},
		{"distribution", registrytest.Options{Kind: registrytest.Distribution3}, 1, 0},
		{"distribution 2 with a login", registrytest.Options{Kind: registrytest.Distribution2, Auth: registrytest.Basic}, 1, 0},
		{"says 201 and drops it", registrytest.Options{Middleware: intercept(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusCreated)
		})}, 1, 0},
		{"refuses it", registrytest.Options{Middleware: intercept(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) })}, 1, 0},
		{"breaks off", registrytest.Options{Middleware: intercept(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })}, 3, 0},
		{"has too much to do once", registrytest.Options{Middleware: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost && r.URL.Query().Has("digest") && answered.Add(1) == 5 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				next.ServeHTTP(w, r)
			})
		}}, blobs - 2*before, blobs - 2*before - 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.options.Record = true
			r := registrytest.StartRegistry(t, c.options)
			options := registry.Options{}
			if r.Username != "" {
				options.Logins = [][]byte{fmt.Appendf(nil, `{"auths":{%q:{"username":%q,"password":%q}}}`, r.Host, r.Username, r.Password)}
			}
			client, err := registry.New(options)
			if err != nil {
				t.Fatal(err)
			}
			repo, err := client.Repository(t.Context(), r.Host+"/krt/small")
			if err != nil {
				t.Fatal(err)
			}
			for i := range blobs {
				data := fmt.Appendf(nil, "blob %d", i)
				desc := content.NewDescriptorFromBytes("application/octet-stream", data)
				if err := repo.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
					t.Fatalf("blob %d: %v", i, err)
				}
				if got, err := content.FetchAll(t.Context(), repo, desc); err != nil || !bytes.Equal(got, data) {
					t.Fatalf("blob %d is %q, %v", i, got, err)
				}
			}
			posted, put := map[string]bool{}, 0
			for _, request := range r.Requests() {
				switch {
				case request.Method == http.MethodPost && request.Query.Has("digest"):
					posted[request.Query.Get("digest")] = true
				case request.Method == http.MethodPut:
					put++
				}
			}
			if len(posted) != c.posted || put != blobs-c.taken {
				t.Errorf("%d blobs went with one POST and %d with a PUT, want %d and %d", len(posted), put, c.posted, blobs-c.taken)
			}
		})
	}
}
