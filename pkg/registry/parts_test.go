package registry

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// parts changes how a registry takes the parts of uploads.
type parts struct {
	// least is how long each part is but for the last one; 0 for any length.
	least int64
	// loses drops all parts but the first, and says so in Range alone, as ECR does
	// (aws/containers-roadmap issue 2831).
	loses bool

	mu sync.Mutex
	// short are uploads with a part that was too short, and sent the parts that came.
	short map[string]bool
	sent  int
}

func (p *parts) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost && p.least > 0 {
			w.Header().Set("OCI-Chunk-Min-Length", strconv.FormatInt(p.least, 10))
		}
		if req.Method != http.MethodPatch {
			next.ServeHTTP(w, req)
			return
		}
		start, _, _ := strings.Cut(req.Header.Get("Content-Range"), "-")
		first, err := strconv.ParseInt(start, 10, 64)
		if err != nil {
			panic(err)
		}
		p.mu.Lock()
		wasShort := p.short[req.URL.Path]
		p.short[req.URL.Path] = req.ContentLength < p.least
		p.sent++
		p.mu.Unlock()
		switch {
		case wasShort:
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		case p.loses && first > 0:
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Location", req.URL.RequestURI())
			w.Header().Set("Range", fmt.Sprintf("0-%d", first-1))
			w.WriteHeader(http.StatusCreated)
		default:
			next.ServeHTTP(w, req)
		}
	})
}

// A stream is taken by registries that want long parts, or one part alone.
func TestStreamsInParts(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]*parts{
		"any parts":           {},
		"parts of 5 MiB":      {least: 5 << 20},
		"parts of 64 MiB":     {least: 64 << 20},
		"the first part only": {loses: true},
		"both":                {least: 5 << 20, loses: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p.short = map[string]bool{}
			r := registrytest.StartRegistry(t, registrytest.Options{Middleware: p.wrap})
			client, err := New(Options{CAFile: r.CAFile})
			if err != nil {
				t.Fatal(err)
			}
			repo, err := client.Repository(t.Context(), r.Host+"/parts/of")
			if err != nil {
				t.Fatal(err)
			}
			for i, size := range []int{1 << 20, 4<<20 + 1, 8 << 20, 8<<20 + 1, 19 << 20} {
				data := make([]byte, size)
				rand.NewChaCha8([32]byte{byte(i)}).Read(data)
				desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayer, data)
				if err := repo.Push(t.Context(), desc, struct{ io.Reader }{bytes.NewReader(data)}); err != nil {
					t.Errorf("%d bytes: %v", size, err)
					continue
				}
				if got, err := content.FetchAll(t.Context(), repo, desc); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes come back as %d, %v", size, len(got), err)
				}
			}
			// Who takes no second part is asked once.
			if p.loses && p.sent > 3 {
				t.Errorf("%d parts were sent, want 2, and 1 of a blob of one part", p.sent)
			}
		})
	}
}
