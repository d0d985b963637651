package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// The grammar of names and tags (distribution-spec v1.1, pulling manifests).
var (
	repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

const (
	maxManifest = 4 << 20
	maxName     = 255
)

// problem is an error as the specification has it.
type problem struct {
	status        int
	code, message string
}

func (p *problem) Error() string { return p.message }

func unknown(code, what string) error {
	return &problem{http.StatusNotFound, code, what + " is not here"}
}

// ServeHTTP answers GET and HEAD.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if s.options.Authorize != nil {
		if user, password, ok := r.BasicAuth(); !ok || !s.options.Authorize(user, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="krtpkg"`)
			fail(w, r, &problem{http.StatusUnauthorized, "UNAUTHORIZED", "log in"})
			return
		}
	}
	if err := s.answer(w, r); err != nil {
		fail(w, r, err)
	}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return &problem{http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry can only be read"}
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case !ok && r.URL.Path != "/v2":
		return unknown("NAME_UNKNOWN", r.URL.Path)
	case path == "" || !ok:
		return reply(w, r, "application/json", []byte("{}"))
	case path == "_catalog":
		return s.catalog(w, r)
	}
	name, kind, reference, err := parse(path)
	if err != nil {
		return err
	}
	if name, err = s.known(name, r.URL.Query().Get("ns")); err != nil {
		return err
	}
	switch kind {
	case "tags":
		return s.listTags(w, r, name)
	case "manifests":
		return s.manifest(w, r, name, reference)
	case "blobs":
		return s.blob(w, r, reference)
	default:
		return s.referrers(w, r, reference)
	}
}

// parse takes a path apart: NAME/manifests/REFERENCE and so on. A name may have parts that are
// called so too: the last one counts.
func parse(path string) (name, kind, reference string, err error) {
	parts := strings.Split(path, "/")
	if len(parts) < 3 {
		return "", "", "", unknown("NAME_UNKNOWN", path)
	}
	last := len(parts) - 1
	name, kind, reference = strings.Join(parts[:last-1], "/"), parts[last-1], parts[last]
	if len(name) > maxName || !repositoryName.MatchString(name) {
		return "", "", "", &problem{http.StatusBadRequest, "NAME_INVALID", "invalid repository name"}
	}
	byDigest := digest.Digest(reference).Validate() == nil
	switch {
	case kind == "tags" && reference == "list", kind == "manifests" && (byDigest || tagName.MatchString(reference)),
		(kind == "blobs" || kind == "referrers") && byDigest:
		return name, kind, reference, nil
	case kind == "blobs" || kind == "referrers":
		return "", "", "", &problem{http.StatusBadRequest, "DIGEST_INVALID", "invalid digest"}
	case kind == "manifests":
		return "", "", "", &problem{http.StatusBadRequest, "MANIFEST_INVALID", "invalid tag or digest"}
	}
	return "", "", "", unknown("NAME_UNKNOWN", path)
}

// known is the name that a repository has here: containerd asks a mirror for the path alone,
// and says which registry's it is.
func (s *Server) known(name, registry string) (string, error) {
	if registry != "" {
		full := strings.ReplaceAll(registry, ":", "_") + "/" + name
		if s.names[full] != nil {
			return full, nil
		}
	}
	if s.names[name] == nil {
		return "", unknown("NAME_UNKNOWN", "repository "+name)
	}
	return name, nil
}

func (s *Server) catalog(w http.ResponseWriter, r *http.Request) error {
	var list []string
	for name := range s.own {
		list = append(list, name)
	}
	slices.Sort(list)
	return s.page(w, r, list, func(page []string) any { return map[string]any{"repositories": page} })
}

func (s *Server) listTags(w http.ResponseWriter, r *http.Request, name string) error {
	tags, err := s.tags(r.Context(), name)
	if err != nil {
		return err
	}
	return s.page(w, r, tags, func(page []string) any { return map[string]any{"name": name, "tags": page} })
}

// page answers with a part of a list (distribution-spec v1.1, listing tags).
func (s *Server) page(w http.ResponseWriter, r *http.Request, list []string, view func([]string) any) error {
	query := r.URL.Query()
	if last := query.Get("last"); last != "" {
		at, found := slices.BinarySearch(list, last)
		if found {
			at++
		}
		list = list[at:]
	}
	if text := query.Get("n"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return &problem{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n is no number"}
		}
		if n < len(list) {
			list = list[:n]
			if n > 0 {
				next := url.Values{"n": {text}, "last": {list[n-1]}}
				w.Header().Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", r.URL.Path, next.Encode()))
			}
		}
	}
	if list == nil {
		list = []string{}
	}
	data, err := json.Marshal(view(list))
	if err != nil {
		return err
	}
	return reply(w, r, "application/json", data)
}

func (s *Server) manifest(w http.ResponseWriter, r *http.Request, name, reference string) error {
	store, desc, err := s.resolve(r.Context(), name, reference)
	if errors.Is(err, errdef.ErrNotFound) {
		return unknown("MANIFEST_UNKNOWN", "manifest "+reference)
	}
	if err != nil {
		return err
	}
	if desc.Size > maxManifest {
		return fmt.Errorf("manifest %s has %d bytes", desc.Digest, desc.Size)
	}
	data, err := content.FetchAll(r.Context(), store, desc)
	if err != nil {
		return err
	}
	w.Header().Set("Docker-Content-Digest", desc.Digest.String())
	w.Header().Set("ETag", strconv.Quote(desc.Digest.String()))
	return reply(w, r, desc.MediaType, data)
}

// blob sends content as it lies there; who asked for it checks it, as of any registry.
func (s *Server) blob(w http.ResponseWriter, r *http.Request, reference string) error {
	d := digest.Digest(reference)
	for _, store := range s.stores {
		size, err := store.Stat(d)
		if errors.Is(err, errdef.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		body, err := store.Fetch(r.Context(), ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size})
		if err != nil {
			return err
		}
		defer body.Close()
		seeker, ok := body.(io.ReadSeeker)
		if !ok {
			return fmt.Errorf("blob %s can't be read in place", d)
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Docker-Content-Digest", reference)
		w.Header().Set("ETag", strconv.Quote(reference))
		http.ServeContent(w, r, "", time.Time{}, seeker)
		return nil
	}
	return unknown("BLOB_UNKNOWN", "blob "+reference)
}

func (s *Server) referrers(w http.ResponseWriter, r *http.Request, reference string) error {
	wanted := r.URL.Query().Get("artifactType")
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, store := range s.stores {
		found, err := store.Predecessors(r.Context(), ocispec.Descriptor{Digest: digest.Digest(reference)})
		if err != nil {
			return err
		}
		for _, desc := range found {
			if wanted == "" || desc.ArtifactType == wanted {
				index.Manifests = append(index.Manifests, desc)
			}
		}
	}
	if wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return reply(w, r, ocispec.MediaTypeImageIndex, data)
}

func reply(w http.ResponseWriter, r *http.Request, mediaType string, data []byte) error {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(data) // who went away needs no answer
	}
	return nil
}

func fail(w http.ResponseWriter, r *http.Request, err error) {
	p := &problem{http.StatusInternalServerError, "UNKNOWN", "the content can't be read: it is damaged, or no longer there"}
	errors.As(err, &p)
	data, err := json.Marshal(map[string]any{"errors": []map[string]string{{"code": p.code, "message": p.message}}})
	if err != nil {
		panic(err) // strings can be encoded
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(p.status)
	if r.Method != http.MethodHead {
		w.Write(data)
	}
}
