package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/serve"
)

// ServeHTTP answers as a registry, and under /healthz, /readyz and /metrics says how it is.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		io.WriteString(w, "ok\n") // who went away needs no answer
	case "/readyz":
		g.serveReadiness(w)
	case "/metrics":
		g.serveMetrics(w)
	default:
		g.handler.ServeHTTP(w, r)
	}
}

// serveReadiness reports whether the gate can answer requests.
func (g *Gate) serveReadiness(w http.ResponseWriter) {
	switch {
	case g.policy.Load().err != nil:
		http.Error(w, "the trust policy cannot be read: everything is refused", http.StatusServiceUnavailable)
	case g.state.checkWritable() != nil:
		http.Error(w, "the state folder cannot be written: no tag moves", http.StatusServiceUnavailable)
	default:
		io.WriteString(w, "ok\n") // who went away needs no answer
	}
}

// serveRegistry answers the requests of the distribution-spec, and counts them.
func (g *Gate) serveRegistry(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	serve.RefuseBody(w, r)
	counted := serve.NewRecorder(w)
	kind, err := g.answerRequest(counted, r)
	switch {
	case errors.Is(err, http.ErrAbortHandler):
		g.metrics.countAnswer(kind, 0)
		panic(http.ErrAbortHandler) // the client must not take what it has for the whole
	case err != nil:
		serve.ReplyError(counted, r, g.explainError(r, err))
	}
	g.metrics.countAnswer(kind, counted.Status)
}

// explainError turns an error into one for clients.
func (g *Gate) explainError(r *http.Request, err error) error {
	var (
		answer  *serve.Error
		failed  *UpstreamError
		state   *StateError
		refusal *Refusal
	)
	var decided *decidedError
	isDecided := errors.As(err, &refusal) && errors.As(err, &decided)
	switch {
	case isDecided:
	case errors.As(err, &answer):
		return answer
	case r.Context().Err() != nil:
		return &serve.Error{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Message: "the request was given up"}
	case errors.Is(err, errdef.ErrNotFound):
		return &serve.Error{Status: http.StatusNotFound, Code: "MANIFEST_UNKNOWN", Message: err.Error()}
	case errors.As(err, &failed) && isWrongContent(err):
		return &serve.Error{Status: http.StatusBadGateway, Code: "UNKNOWN", Message: err.Error()}
	case errors.As(err, &failed), errors.As(err, &state), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &serve.Error{Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", Message: err.Error()}
	case refusal == nil:
		return err
	}
	g.metrics.countRefusal(reasonOf(err))
	client, _, splitErr := net.SplitHostPort(r.RemoteAddr)
	if splitErr != nil {
		client = r.RemoteAddr
	}
	repository, reference, _ := cutReference(refusal.Reference)
	g.o.Report(Event{Kind: EventRefused, Repository: repository, Reference: reference, Client: client, Err: refusal.Err})
	return &serve.Error{Status: http.StatusForbidden, Code: "DENIED", Message: refusal.Error(), Detail: RefusedByPolicy}
}

// isWrongContent reports whether upstream answered with something else than what it was asked for.
func isWrongContent(err error) bool {
	return errors.Is(err, content.ErrMismatchedDigest) || errors.Is(err, content.ErrTrailingData) || errors.Is(err, content.ErrInvalidDescriptorSize) ||
		errors.Is(err, oci.ErrTooLarge) || errors.Is(err, errdef.ErrSizeExceedsLimit)
}

// cutReference takes REPOSITORY:TAG or REPOSITORY@DIGEST apart.
func cutReference(text string) (repository, reference string, ok bool) {
	if repository, reference, ok = strings.Cut(text, "@"); ok {
		return repository, reference, true
	}
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		return text, "", false
	}
	return text[:at], text[at+1:], true
}

func (g *Gate) answerRequest(w http.ResponseWriter, r *http.Request) (kind string, err error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return "other", &serve.Error{Status: http.StatusMethodNotAllowed, Code: "UNSUPPORTED", Message: "this registry is read-only"}
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case !ok && r.URL.Path != "/v2":
		return "other", &serve.Error{Status: http.StatusNotFound, Code: "NAME_UNKNOWN", Message: "not found"}
	case path == "" || !ok:
		return "other", serve.ReplyData(w, r, "application/json", []byte("{}"))
	}
	name, kind, reference, err := serve.ParsePath(path)
	if err != nil {
		return "other", err
	}
	repository := g.findRepository(name)
	if repository == nil {
		return kind, &serve.Error{Status: http.StatusNotFound, Code: "NAME_UNKNOWN", Message: "no upstream has repositories of this name"}
	}
	if err := g.policy.Load().err; err != nil {
		return kind, &Refusal{repository.where + separator(reference) + reference, err}
	}
	switch kind {
	case "tags":
		err = repository.serveTags(w, r)
	case "manifests":
		err = repository.serveManifest(w, r, reference)
	case "blobs":
		err = repository.serveBlob(w, r, digest.Digest(reference))
	default:
		err = repository.serveReferrers(w, r, digest.Digest(reference))
	}
	if err != nil && !errors.Is(err, http.ErrAbortHandler) {
		var answer *serve.Error
		if !errors.As(err, &answer) {
			err = &Refusal{repository.where + separator(reference) + reference, err}
		}
	}
	return kind, err
}

// separator returns what stands between a repository and a reference.
func separator(reference string) string {
	if digest.Digest(reference).Validate() == nil {
		return "@"
	}
	return ":"
}

// serveManifest sends a manifest. Its digest, size and media type are those of the bytes.
func (r *repository) serveManifest(w http.ResponseWriter, request *http.Request, reference string) error {
	ctx := request.Context()
	d := digest.Digest(reference)
	if d.Validate() != nil {
		var err error
		if d, err = r.followTag(ctx, w, reference); err != nil {
			return err
		}
	}
	stored, err := r.acceptManifest(ctx, d)
	if err != nil {
		return err
	}
	w.Header().Set("Docker-Content-Digest", d.String())
	if matchesETag(w, request, d) {
		return nil
	}
	return serve.ReplyData(w, request, stored.mediaType, stored.data)
}

func (r *repository) followTag(ctx context.Context, w http.ResponseWriter, tag string) (digest.Digest, error) {
	if subject, suffix, is := attachedTag(tag); is {
		return r.acceptAttachedTag(ctx, tag, subject, suffix)
	}
	answer, err := r.resolveTag(ctx, tag)
	if err == nil && answer.warning != "" {
		w.Header().Set("Warning", "299 - "+quoteWarning(answer.warning))
	}
	return answer.digest, err
}

// quoteWarning quotes text for a header (distribution-spec v1.1, warnings).
func quoteWarning(text string) string {
	clean := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return '\''
		}
		return c
	}, text)
	return `"` + clean[:min(len(clean), 2000)] + `"`
}

// matchesETag answers a request for what the client has already.
func matchesETag(w http.ResponseWriter, request *http.Request, d digest.Digest) bool {
	tag := strconv.Quote(d.String())
	w.Header().Set("ETag", tag)
	if request.Header.Get("If-None-Match") != tag {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

// serveBlob sends a blob that something accepted names.
func (r *repository) serveBlob(w http.ResponseWriter, request *http.Request, d digest.Digest) error {
	ctx := request.Context()
	desc, err := r.acceptBlob(ctx, d)
	if err == nil && desc.Size < 0 {
		err = fmt.Errorf("%s: a manifest gives it %d bytes", d, desc.Size)
	}
	if err != nil {
		return err
	}
	if request.Method == http.MethodHead {
		if err := r.checkBlob(ctx, desc); err != nil {
			return err
		}
		describeBlob(w, desc)
		return nil
	}
	body, err := r.upstream.openBlob(ctx, desc)
	if errors.Is(err, errdef.ErrNotFound) {
		return &serve.Error{Status: http.StatusNotFound, Code: "BLOB_UNKNOWN", Message: "blob " + d.String() + " not found"}
	}
	if err != nil {
		return blobError(r.where, err)
	}
	defer func() { body.Close() }()
	if coming, ok := body.(*downloadReader); ok {
		r.g.metrics.cacheMisses.Add(1)
		if request.Header.Get("Range") != "" {
			// A part of it can be checked only as a part of the whole.
			if err := coming.WaitForEnd(); err != nil {
				return blobError(r.where, err)
			}
			if body, err = r.reopenBlob(ctx, desc, body); err != nil {
				return blobError(r.where, err)
			}
		}
	}
	if file, ok := body.(*os.File); ok {
		r.g.metrics.cacheHits.Add(1)
		w.Header().Set("Content-Type", desc.MediaType)
		w.Header().Set("Docker-Content-Digest", d.String())
		w.Header().Set("ETag", strconv.Quote(d.String()))
		if strings.Contains(request.Header.Get("Range"), ",") {
			request.Header.Del("Range") // several parts would be another document: RFC 9110, 14.2, lets a server send the whole
		}
		http.ServeContent(w, request, "", time.Time{}, file)
		return nil
	}
	describeBlob(w, desc)
	if n, err := io.Copy(struct{ io.Writer }{w}, body); err != nil || n != desc.Size {
		if err != nil && ctx.Err() == nil {
			r.g.o.Report(Event{Kind: EventUpstream, Repository: r.where, Reference: d.String(), Err: err})
		}
		return http.ErrAbortHandler
	}
	return nil
}

// reopenBlob opens the file of a blob that was downloaded, or returns what there was.
func (r *repository) reopenBlob(ctx context.Context, desc ocispec.Descriptor, body io.ReadCloser) (io.ReadCloser, error) {
	again, err := r.upstream.openBlob(ctx, desc)
	if err != nil {
		return body, err
	}
	return again, body.Close()
}

func describeBlob(w http.ResponseWriter, desc ocispec.Descriptor) {
	w.Header().Set("Content-Type", desc.MediaType)
	w.Header().Set("Content-Length", strconv.FormatInt(desc.Size, 10))
	w.Header().Set("Docker-Content-Digest", desc.Digest.String())
	w.Header().Set("ETag", strconv.Quote(desc.Digest.String()))
}

// blobError makes what fails on the way to a blob an error of upstream.
func blobError(where string, err error) error {
	var failed *UpstreamError
	if errors.As(err, &failed) || errors.Is(err, errdef.ErrNotFound) {
		return err
	}
	return &UpstreamError{where, err}
}

// checkBlob returns an error unless a blob is there.
func (r *repository) checkBlob(ctx context.Context, desc ocispec.Descriptor) error {
	if c := r.g.cache; c != nil {
		if file := c.openFile(desc.Digest); file != nil {
			return file.Close()
		}
	}
	there := false
	err := r.upstream.askUpstream(ctx, askBlob, func(ctx context.Context, repository Repository) (err error) {
		there, err = repository.Exists(ctx, desc)
		return err
	})
	if errors.Is(err, errdef.ErrNotFound) || err == nil && !there {
		return &serve.Error{Status: http.StatusNotFound, Code: "BLOB_UNKNOWN", Message: "blob " + desc.Digest.String() + " not found"}
	}
	return err
}

func (r *repository) serveTags(w http.ResponseWriter, request *http.Request) error {
	tags, err := r.listTags(request.Context())
	if errors.Is(err, errdef.ErrNotFound) {
		return &serve.Error{Status: http.StatusNotFound, Code: "NAME_UNKNOWN", Message: "repository " + r.where + " not found"}
	}
	if err != nil {
		return err
	}
	return serve.ReplyPage(w, request, tags, func(page []string) any { return map[string]any{"name": r.name, "tags": page} })
}

func (r *repository) serveReferrers(w http.ResponseWriter, request *http.Request, subject digest.Digest) error {
	found, err := r.listReferrers(request.Context(), subject)
	if err != nil {
		return err
	}
	if wanted := request.URL.Query().Get("artifactType"); wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
		var filtered []ocispec.Descriptor
		for _, desc := range found {
			if desc.ArtifactType == wanted {
				filtered = append(filtered, desc)
			}
		}
		found = filtered
	}
	if found == nil {
		found = []ocispec.Descriptor{}
	}
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: found,
	})
	if err != nil {
		return fmt.Errorf("referrers of %s: %w", subject, err)
	}
	return serve.ReplyData(w, request, ocispec.MediaTypeImageIndex, data)
}
