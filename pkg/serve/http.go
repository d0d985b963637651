package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// The grammar of names and tags (distribution-spec v1.1, pulling manifests).
var (
	repositoryName = lazyregexp.New(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName        = lazyregexp.New(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

const (
	// maxManifest is the limit that registries have.
	maxManifest = 4 << 20
	// maxName is as long as names are in other registries (distribution-spec v1.1, pulling
	// manifests).
	maxName = 255
	// refusedBody is how long a body that nobody reads may take to arrive.
	refusedBody = 2 * time.Second
)

// Error is an error as the specification has it (distribution-spec v1.1, error codes).
type Error struct {
	// Status is HTTP's, Code the specification's.
	Status        int
	Code, Message string
	// Detail is more that clients may read, if set.
	Detail string
}

func (e *Error) Error() string { return e.Message }

func newUnknownError(code, what string) error {
	return &Error{Status: http.StatusNotFound, Code: code, Message: what + " is not here"}
}

// ServeHTTP answers GET and HEAD.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	RefuseBody(w, r)
	if err := s.handleRequest(w, r); err != nil {
		ReplyError(w, r, err)
	}
}

func (s *Server) handleRequest(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return &Error{Status: http.StatusMethodNotAllowed, Code: "UNSUPPORTED", Message: "this registry is read-only"}
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case !ok && r.URL.Path != "/v2":
		return newUnknownError("NAME_UNKNOWN", r.URL.Path)
	case path == "" || !ok:
		return ReplyData(w, r, "application/json", []byte("{}"))
	case path == "_catalog":
		return s.handleCatalog(w, r)
	}
	name, kind, reference, err := ParsePath(path)
	if err != nil {
		return err
	}
	repo := s.findRepository(name, r.URL.Query().Get("ns"))
	if repo == nil {
		return newUnknownError("NAME_UNKNOWN", "repository "+name)
	}
	switch kind {
	case "tags":
		return s.replyTags(w, r, name, repo)
	case "manifests":
		return s.handleManifest(w, r, repo, reference)
	case "blobs":
		return s.handleBlob(w, r, digest.Digest(reference))
	default:
		return s.handleReferrers(w, r, digest.Digest(reference))
	}
}

// ParsePath takes a path below /v2/ apart: NAME/manifests/REFERENCE and so on. A name may have parts that are
// called so too: the last one counts. The error is an [*Error].
func ParsePath(path string) (name, kind, reference string, err error) {
	parts := strings.Split(path, "/")
	if len(parts) < 3 {
		return "", "", "", newUnknownError("NAME_UNKNOWN", path)
	}
	last := len(parts) - 1
	name, kind, reference = strings.Join(parts[:last-1], "/"), parts[last-1], parts[last]
	if !IsRepository(name) {
		return "", "", "", &Error{Status: http.StatusBadRequest, Code: "NAME_INVALID", Message: "invalid repository name"}
	}
	byDigest := digest.Digest(reference).Validate() == nil
	switch {
	case kind == "tags" && reference == "list", kind == "manifests" && (byDigest || tagName.MatchString(reference)),
		(kind == "blobs" || kind == "referrers") && byDigest:
		return name, kind, reference, nil
	case kind == "blobs" || kind == "referrers":
		return "", "", "", &Error{Status: http.StatusBadRequest, Code: "DIGEST_INVALID", Message: "invalid digest"}
	case kind == "manifests":
		return "", "", "", &Error{Status: http.StatusBadRequest, Code: "MANIFEST_INVALID", Message: "invalid tag or digest"}
	}
	return "", "", "", newUnknownError("NAME_UNKNOWN", path)
}

// IsRepository reports whether a name is a repository's.
func IsRepository(name string) bool { return len(name) <= maxName && repositoryName.MatchString(name) }

func (s *Server) handleCatalog(w http.ResponseWriter, r *http.Request) error {
	var list []string
	for name, repo := range s.repositories {
		if repo.stores != nil {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return ReplyPage(w, r, list, func(page []string) any { return map[string]any{"repositories": page} })
}

func (s *Server) replyTags(w http.ResponseWriter, r *http.Request, name string, repo *repository) error {
	tags, err := s.listTags(r.Context(), repo)
	if err != nil {
		return err
	}
	return ReplyPage(w, r, tags, func(page []string) any { return map[string]any{"name": name, "tags": page} })
}

// ReplyPage answers with a part of a sorted list (distribution-spec v1.1, listing tags).
func ReplyPage(w http.ResponseWriter, r *http.Request, list []string, view func([]string) any) error {
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
			return &Error{Status: http.StatusBadRequest, Code: "PAGINATION_NUMBER_INVALID", Message: "n is not a number"}
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
	return ReplyData(w, r, "application/json", data)
}

// handleManifest sends a manifest that has been read, and is what its digest says.
func (s *Server) handleManifest(w http.ResponseWriter, r *http.Request, repo *repository, reference string) error {
	desc, err := s.resolveReference(r.Context(), repo, reference)
	if errors.Is(err, errdef.ErrNotFound) {
		return newUnknownError("MANIFEST_UNKNOWN", "manifest "+reference)
	}
	if err != nil {
		return err
	}
	// A layout takes the type from the content: the author of a config could make it a page for browsers.
	if !oci.IsManifest(desc.MediaType) {
		return newUnknownError("MANIFEST_UNKNOWN", "manifest "+reference)
	}
	data, err := content.FetchAll(r.Context(), s.stores, desc)
	if err != nil {
		return err
	}
	w.Header().Set("Docker-Content-Digest", desc.Digest.String())
	w.Header().Set("ETag", strconv.Quote(desc.Digest.String()))
	return ReplyData(w, r, desc.MediaType, data)
}

func (s *Server) resolveReference(ctx context.Context, repo *repository, reference string) (ocispec.Descriptor, error) {
	d := digest.Digest(reference)
	if d.Validate() != nil {
		d = repo.tags[reference]
	}
	if d == "" && isAttached(reference) {
		desc, err := s.stores.Resolve(ctx, reference)
		if err != nil {
			return desc, err
		}
		d = desc.Digest
	}
	if d == "" || !s.isServed(d) {
		return ocispec.Descriptor{}, errdef.ErrNotFound
	}
	// Stores read what they are asked for as a manifest, and a layer may be asked for.
	size, err := s.stores.Stat(d)
	if err == nil && size > maxManifest {
		err = errdef.ErrNotFound
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.stores.Resolve(ctx, d.String())
}

// handleBlob sends content as it lies there; who asked for it checks it, as of any registry.
func (s *Server) handleBlob(w http.ResponseWriter, r *http.Request, d digest.Digest) error {
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d}
	var err error
	if !s.isServed(d) {
		return newUnknownError("BLOB_UNKNOWN", "blob "+d.String())
	}
	if desc.Size, err = s.stores.Stat(d); errors.Is(err, errdef.ErrNotFound) {
		return newUnknownError("BLOB_UNKNOWN", "blob "+d.String())
	}
	if err != nil {
		return err
	}
	body, err := s.stores.Fetch(r.Context(), desc)
	if err != nil {
		return err
	}
	defer body.Close()
	seeker, ok := body.(io.ReadSeeker)
	if !ok {
		return fmt.Errorf("blob %s cannot be read in place", d)
	}
	w.Header().Set("Content-Type", desc.MediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("ETag", strconv.Quote(d.String()))
	http.ServeContent(w, r, "", time.Time{}, seeker)
	return nil
}

// handleReferrers lists what has a digest as its subject (distribution-spec v1.1, listing referrers).
func (s *Server) handleReferrers(w http.ResponseWriter, r *http.Request, d digest.Digest) error {
	found, err := s.stores.Predecessors(r.Context(), ocispec.Descriptor{Digest: d})
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(desc ocispec.Descriptor) bool { return !s.isServed(desc.Digest) })
	if wanted := r.URL.Query().Get("artifactType"); wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
		found = slices.DeleteFunc(found, func(desc ocispec.Descriptor) bool { return desc.ArtifactType != wanted })
	}
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: found,
	})
	if err != nil {
		return err
	}
	return ReplyData(w, r, ocispec.MediaTypeImageIndex, data)
}

// RefuseBody gives the body of a request that nobody reads little time: who sends one slowly keeps no
// connection by it.
func RefuseBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedBody)) // not every writer has one
	}
}

// ReplyData answers with data, of which HEAD has only the size.
func ReplyData(w http.ResponseWriter, r *http.Request, mediaType string, data []byte) error {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(data) // who went away needs no answer
	}
	return nil
}

// ReplyError answers with an error; one that is not an [*Error] says nothing of what is inside.
func ReplyError(w http.ResponseWriter, r *http.Request, err error) {
	p := &Error{Status: http.StatusInternalServerError, Code: "UNKNOWN", Message: "the content cannot be read: it is damaged or was removed"}
	errors.As(err, &p)
	answer := map[string]string{"code": p.Code, "message": p.Message}
	if p.Detail != "" {
		answer["detail"] = p.Detail
	}
	data, err := json.Marshal(map[string]any{"errors": []map[string]string{answer}})
	if err != nil {
		panic(err) // strings can be encoded
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		w.Write(data)
	}
}
