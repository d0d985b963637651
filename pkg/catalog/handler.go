package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"

	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/serve"
)

// registryPolicy is the Content-Security-Policy of what the registry answers: next to pages, nothing that others wrote may run.
const registryPolicy = "default-src 'none'; sandbox"

// Handler serves the pages of a document, and everything below /v2 by a registry, which does not wait for the pages: until
// [Handler.ShowCatalog] was called they are answered with 503 and one that says that they are being made.
type Handler struct {
	registry http.Handler
	// files are by their paths; nil until the pages are made.
	files atomic.Pointer[map[string]servedFile]
}

// NewHandler returns a handler without pages yet.
func NewHandler(registry http.Handler) *Handler { return &Handler{registry: registry} }

// ShowCatalog makes the pages of a document, and serves them from then on.
func (h *Handler) ShowCatalog(c *result.Catalog) error {
	files := map[string]servedFile{}
	if err := WriteSite(c, func(f File) error {
		sum := sha256.Sum256(f.Data)
		files["/"+f.Path] = servedFile{f.Data, fmt.Sprintf("%q", hex.EncodeToString(sum[:]))}
		return nil
	}); err != nil {
		return err
	}
	h.files.Store(&files)
	return nil
}

// waitingPage is what is answered until the pages are made; it loads them then.
const waitingPage = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="` + waitingSeconds + `"><title>Catalogue</title></head>
<body><main><h1>Catalogue</h1><p>The pages are being made. This one loads them when they are there.</p></main></body></html>
`

// waitingSeconds is after how long browsers ask for pages again.
const waitingSeconds = "3"

// servedFile is a file with its ETag.
type servedFile struct {
	data []byte
	tag  string
}

// mediaTypes are those of the files of a site, by the endings of their names.
var mediaTypes = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".json": "application/json",
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	files := h.files.Load()
	if files == nil {
		header.Set("Retry-After", waitingSeconds)
		writeFile(w, r, http.StatusServiceUnavailable, ".html", []byte(waitingPage))
		return
	}
	name := r.URL.Path
	if name == "/" {
		name = "/index.html"
	}
	file, found := (*files)[name]
	if !found {
		http.Error(w, "no such page", http.StatusNotFound)
		return
	}
	header.Set("ETag", file.tag)
	if r.Header.Get("If-None-Match") == file.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeFile(w, r, http.StatusOK, path.Ext(name), file.data)
}

// writeFile answers with a file of a kind, by the ending of its name.
func writeFile(w http.ResponseWriter, r *http.Request, status int, ending string, data []byte) {
	w.Header().Set("Content-Type", mediaTypes[ending])
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(data) // who went away needs no answer
	}
}
