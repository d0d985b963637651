package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"

	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/serve"
)

// registryPolicy is the Content-Security-Policy of what the registry answers: next to pages, nothing that others wrote may run.
const registryPolicy = "default-src 'none'; sandbox"

// NewHandler returns a handler that serves the pages of a document, and everything below /v2 by a registry.
func NewHandler(c *result.Catalog, registry http.Handler) (http.Handler, error) {
	h := &pageHandler{files: map[string]servedFile{}, registry: registry}
	err := WriteSite(c, func(f File) error {
		sum := sha256.Sum256(f.Data)
		h.files["/"+f.Path] = servedFile{f.Data, fmt.Sprintf("%q", hex.EncodeToString(sum[:]))}
		return nil
	})
	return h, err
}

type pageHandler struct {
	files    map[string]servedFile
	registry http.Handler
}

// servedFile is a file with its ETag.
type servedFile struct {
	data []byte
	tag  string
}

// mediaTypes are those of the files of a site, by the endings of their names.
var mediaTypes = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".json": "application/json",
}

func (h *pageHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") {
		w.Header().Set("Content-Security-Policy", registryPolicy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.registry.ServeHTTP(w, r)
		return
	}
	serve.RefuseBody(w, r)
	header := w.Header()
	// What a meta element cannot say is said here too.
	header.Set("Content-Security-Policy", ContentPolicy+"; frame-ancestors 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-cache")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "pages can only be read", http.StatusMethodNotAllowed)
		return
	}
	name := r.URL.Path
	if name == "/" {
		name = "/index.html"
	}
	file, found := h.files[name]
	if !found {
		http.Error(w, "no such page", http.StatusNotFound)
		return
	}
	header.Set("ETag", file.tag)
	if r.Header.Get("If-None-Match") == file.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	header.Set("Content-Type", mediaTypes[path.Ext(name)])
	header.Set("Content-Length", strconv.Itoa(len(file.data)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(file.data) // who went away needs no answer
	}
}
