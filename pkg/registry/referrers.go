package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// referrersAPI is what is known of a repository's referrers API, and the referrers to list.
type referrersAPI struct {
	// asking is held while the registry is asked for the API.
	asking        sync.Mutex
	known, listed bool

	mu sync.Mutex
	// mayMissReferrers is set if a push was answered without OCI-Subject, the sign that the API lists
	// the referrer: then it is under the fallback tag, whatever the API lists.
	mayMissReferrers bool
	// gathering counts the running calls of GatherReferrers, pending holds the referrers that they
	// have pushed, by subject.
	gathering int
	pending   map[digest.Digest][]ocispec.Descriptor
	// tagged holds the subjects whose fallback tags can be set.
	tagged map[digest.Digest]bool
	// lists is held while lists under fallback tags are written.
	lists sync.Mutex
}

// zeroDigest is a digest that no content has.
const zeroDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// ListsReferrers asks, once, whether the registry has the referrers API (distribution-spec
// v1.1, listing referrers). Without it, referrers are listed under a fallback tag of each subject.
func (r *Repository) ListsReferrers(ctx context.Context) (bool, error) {
	r.referrers.asking.Lock()
	defer r.referrers.asking.Unlock()
	if r.referrers.known {
		return r.referrers.listed, nil
	}
	return r.probeReferrersAPI(ctx, zeroDigest)
}

// listsReferrersOf is [Repository.ListsReferrers], probed with a subject that exists.
func (r *Repository) listsReferrersOf(ctx context.Context, subject digest.Digest) (bool, error) {
	r.referrers.asking.Lock()
	defer r.referrers.asking.Unlock()
	if r.referrers.known {
		return r.referrers.listed, nil
	}
	listed, err := r.probeReferrersAPI(ctx, subject)
	if isStatus(err, http.StatusBadRequest) {
		r.recordNoAPI(http.StatusBadRequest)
		return false, nil
	}
	return listed, err
}

// probeReferrersAPI asks for the referrers of a subject, and records whether there is an API.
func (r *Repository) probeReferrersAPI(ctx context.Context, subject digest.Digest) (bool, error) {
	probe := context.WithValue(ctx, listingKey{}, nil) // not a page of the listing that follows
	_, _, err := r.referrersPage(probe, r.referrersURL(subject))
	switch {
	case err == nil:
		r.referrers.known, r.referrers.listed = true, true
	case hasCode(err, errcode.ErrorCodeNameUnknown):
		return false, nil // unknown until the repository exists
	case errors.Is(err, errdef.ErrUnsupported):
		r.referrers.known = true
	case r.deniesReferrers(ctx, subject, err):
		r.referrers.known = true
		r.deviations.record("the referrers API is forbidden to users who may read: referrers are listed under fallback tags")
	default:
		// Among others 400: some registries answer so without the API, and Quay for an unknown
		// subject.
		return false, err
	}
	return r.referrers.listed, nil
}

func (r *Repository) recordNoAPI(status int) {
	r.deviations.record("a request for the referrers API, which is missing, is answered with %d instead of 404: referrers are listed under fallback tags", status)
}

// deniesReferrers reports whether a registry refuses to list referrers to a user who may read
// manifests: others are refused manifests, too.
func (r *Repository) deniesReferrers(ctx context.Context, subject digest.Digest, err error) bool {
	if !isStatus(err, http.StatusUnauthorized) && !isStatus(err, http.StatusForbidden) {
		return false
	}
	_, err = r.Repository.Resolve(ctx, subject.String())
	return err == nil || errors.Is(err, errdef.ErrNotFound)
}

func (r *Repository) referrersURL(subject digest.Digest) *url.URL {
	u := r.blobURL("", nil)
	u.Path = "/v2/" + r.Reference.Repository + "/referrers/" + subject.String()
	return u
}

// referrersPage requests a page of the referrers API, and returns the address of the next one, if
// any. The error is ErrUnsupported if the answer is not the API's.
func (r *Repository) referrersPage(ctx context.Context, at *url.URL) (page []ocispec.Descriptor, next *url.URL, err error) {
	response, err := r.sendRequest(ctx, http.MethodGet, at, nil, 0, nil)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		if err := responseError(response); hasCode(err, errcode.ErrorCodeNameUnknown) {
			return nil, nil, err
		}
		return nil, nil, fmt.Errorf("referrers API: %w", errdef.ErrUnsupported)
	case http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusGone,
		http.StatusUnsupportedMediaType, http.StatusNotImplemented:
		r.recordNoAPI(response.StatusCode)
		return nil, nil, fmt.Errorf("referrers API: %w", errdef.ErrUnsupported)
	default:
		return nil, nil, responseError(response)
	}
	data, err := r.readMetadata(response.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("GET %q: %w", at, err)
	}
	var index struct {
		SchemaVersion int                  `json:"schemaVersion"`
		Manifests     []ocispec.Descriptor `json:"manifests"`
	}
	if oci.UnmarshalJSON(data, &index) != nil || index.SchemaVersion == 0 && index.Manifests == nil {
		r.deviations.record("a request for the referrers API, which is missing, is answered with something else: referrers are listed under fallback tags")
		return nil, nil, fmt.Errorf("referrers API: the answer is not an index: %w", errdef.ErrUnsupported)
	}
	if link := response.Header.Values("Link"); len(link) > 0 {
		if text, ok := nextPage(response.Request.URL, link); ok {
			if next, err = url.Parse(text); err == nil && (next.Host != at.Host || next.Scheme != at.Scheme) {
				err = fmt.Errorf("GET %q: the next page is on another host, at %q", at, text)
			}
		}
	}
	return index.Manifests, next, err
}

func (r *Repository) readMetadata(body io.Reader) ([]byte, error) {
	limit := cmp.Or(max(r.MaxMetadataBytes, 0), maxManifest)
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("the answer has more than %d bytes: %w", limit, errdef.ErrSizeExceedsLimit)
	}
	return data, err
}

// Predecessors lists the referrers of a manifest.
func (r *Repository) Predecessors(ctx context.Context, node ocispec.Descriptor) (all []ocispec.Descriptor, err error) {
	err = r.Referrers(ctx, node, "", func(page []ocispec.Descriptor) error {
		all = append(all, page...)
		return nil
	})
	return all, err
}

// Referrers calls fn with the referrers of a manifest, page by page, only those of artifactType
// unless it is empty: from the registry's API or the list under the fallback tag, and those pushed
// but not listed yet. A listing that goes in circles is [ErrEndless].
func (r *Repository) Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string, fn func([]ocispec.Descriptor) error) error {
	return r.limitListing(ctx, func(ctx context.Context) error { return r.listReferrers(ctx, subject, artifactType, fn) })
}

func (r *Repository) listReferrers(ctx context.Context, subject ocispec.Descriptor, artifactType string, fn func([]ocispec.Descriptor) error) error {
	seen := map[digest.Digest]bool{}
	emit := func(page []ocispec.Descriptor) error {
		page = slices.DeleteFunc(slices.Clone(page), func(d ocispec.Descriptor) bool {
			known := seen[d.Digest]
			seen[d.Digest] = true
			return known || artifactType != "" && d.ArtifactType != artifactType
		})
		if len(page) == 0 {
			return nil
		}
		return fn(page)
	}
	listed, err := r.listsReferrersOf(ctx, subject.Digest)
	if err != nil {
		return err
	}
	r.referrers.mu.Lock()
	pending, unsure := slices.Clone(r.referrers.pending[subject.Digest]), r.referrers.mayMissReferrers
	r.referrers.mu.Unlock()
	if !listed || unsure {
		page, err := r.fallbackList(ctx, subject.Digest)
		if err == nil {
			err = emit(append(page, pending...))
		}
		if err != nil {
			return err
		}
	}
	if !listed {
		return nil
	}
	return r.listByAPI(ctx, subject, emit)
}

func (r *Repository) listByAPI(ctx context.Context, subject ocispec.Descriptor, emit func([]ocispec.Descriptor) error) error {
	at := r.referrersURL(subject.Digest)
	for pages := 0; at != nil; pages++ {
		if r.ReferrerListMaxPages > 0 && pages >= r.ReferrerListMaxPages {
			return fmt.Errorf("list referrers of %s at %s: more than %d pages: %w", subject.Digest, r, r.ReferrerListMaxPages, errdef.ErrTooManyPages)
		}
		page, next, err := r.referrersPage(ctx, at)
		if pages == 0 && errors.Is(err, errdef.ErrUnsupported) {
			return nil // some registries answer so for a missing manifest
		}
		if err != nil {
			return err
		}
		if err := emit(page); err != nil {
			return err
		}
		at = next
	}
	return nil
}

// fallbackTag returns the tag that lists the referrers of a manifest where there is no API
// (distribution-spec v1.1, referrers tag schema).
func fallbackTag(subject digest.Digest) string {
	return strings.ReplaceAll(subject.String(), ":", "-")
}

// fallbackList reads the list under a manifest's fallback tag.
func (r *Repository) fallbackList(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	tag := fallbackTag(subject)
	desc, body, err := r.FetchReference(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer body.Close()
	// Some registries mistake the tag for the digest and return the subject itself.
	if desc.MediaType != ocispec.MediaTypeImageIndex || desc.Digest == subject {
		return nil, nil
	}
	data, err := r.readMetadata(body)
	if err == nil && desc.Digest != desc.Digest.Algorithm().FromBytes(data) {
		err = content.ErrMismatchedDigest
	}
	var index ocispec.Index
	if err == nil {
		err = oci.UnmarshalJSON(data, &index)
	}
	if err != nil {
		return nil, fmt.Errorf("tag %s at %s: %w", tag, r, err)
	}
	return index.Manifests, nil
}

// Resolve returns the descriptor of a tag or a digest.
func (r *Repository) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	desc, err := r.Repository.Resolve(ctx, reference)
	return desc, r.hideForbiddenTag(ctx, reference, err)
}

// hideForbiddenTag turns the error of a forbidden tag into ErrNotFound, for the tags of signatures
// and referrers of a manifest that may be read: registries with permissions by path forbid tags
// that do not exist (github.com/sigstore/cosign/issues/2973).
func (r *Repository) hideForbiddenTag(ctx context.Context, reference string, err error) error {
	rest, ok := strings.CutPrefix(reference, "sha256-")
	if !ok || err == nil {
		return err
	}
	hex, _, _ := strings.Cut(rest, ".")
	subject := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if subject.Validate() != nil || !r.deniesReferrers(ctx, subject, err) {
		return err
	}
	r.deviations.record("tags that do not exist are forbidden to users who may read: those of signatures and referrers count as missing")
	return fmt.Errorf("%s:%s: %w", r, reference, errdef.ErrNotFound)
}

// GatherReferrers calls push, and lists the referrers that it pushed once it has returned, with or
// without an error: a list under a fallback tag is written only once, which matters if tags cannot
// be moved. Until then [Repository.Referrers] includes them, too.
func (r *Repository) GatherReferrers(ctx context.Context, push func(context.Context) error) error {
	r.referrers.mu.Lock()
	r.referrers.gathering++
	r.referrers.mu.Unlock()
	err := push(ctx)
	r.referrers.mu.Lock()
	r.referrers.gathering--
	var pending map[digest.Digest][]ocispec.Descriptor
	if r.referrers.gathering == 0 {
		pending, r.referrers.pending = r.referrers.pending, nil
	}
	r.referrers.mu.Unlock()
	group, ctx := errgroup.WithContext(context.WithoutCancel(ctx))
	group.SetLimit(8)
	for subject, referrers := range pending {
		group.Go(func() error { return r.writeFallbackList(ctx, subject, referrers) })
	}
	return errors.Join(err, group.Wait())
}

// listReferrer lists a referrer that was pushed to a registry without the API, or adds it to those
// that are gathered.
func (r *Repository) listReferrer(ctx context.Context, subject digest.Digest, desc ocispec.Descriptor) error {
	r.referrers.mu.Lock()
	gathering := r.referrers.gathering > 0
	if gathering {
		if r.referrers.pending == nil {
			r.referrers.pending = map[digest.Digest][]ocispec.Descriptor{}
		}
		r.referrers.pending[subject] = append(r.referrers.pending[subject], desc)
	}
	r.referrers.mu.Unlock()
	if gathering {
		return nil
	}
	return r.writeFallbackList(ctx, subject, []ocispec.Descriptor{desc})
}

// writeFallbackList adds referrers to the list under a manifest's fallback tag.
func (r *Repository) writeFallbackList(ctx context.Context, subject digest.Digest, added []ocispec.Descriptor) error {
	r.referrers.lists.Lock()
	defer r.referrers.lists.Unlock()
	list, err := r.fallbackList(ctx, subject)
	if err != nil {
		return err
	}
	slices.SortFunc(added, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	before := len(list)
	for _, desc := range added {
		if !slices.ContainsFunc(list, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
			list = append(list, desc)
		}
	}
	if len(list) == before {
		return nil
	}
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list,
	})
	if err != nil {
		return err
	}
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, data)
	if _, err := r.putManifest(ctx, desc, data, fallbackTag(subject)); err != nil {
		return fmt.Errorf("list referrers of %s under tag %s: %w", subject, fallbackTag(subject), err)
	}
	return nil
}

// pushManifest writes a manifest under its digest or a tag, and lists it if it is a referrer.
func (r *Repository) pushManifest(ctx context.Context, desc ocispec.Descriptor, body io.Reader, reference string) error {
	if desc.Size > maxManifest {
		return fmt.Errorf("manifest %s of %d bytes is over the limit of %d: %w", desc.Digest, desc.Size, maxManifest, errdef.ErrSizeExceedsLimit)
	}
	data, err := content.ReadAll(body, desc)
	if err != nil {
		return err
	}
	subject, referrer, err := layout.ReferrerOf(desc, data)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if subject != "" {
		if err := r.checkFallbackTag(ctx, subject); err != nil {
			return err
		}
	}
	processed, err := r.putManifest(ctx, desc, data, reference)
	if err != nil || subject == "" || processed {
		return err
	}
	r.referrers.mu.Lock()
	r.referrers.mayMissReferrers = true
	r.referrers.mu.Unlock()
	return r.listReferrer(ctx, subject, *referrer)
}

// NoReferrersError is the error of a registry that has no place for referrers: neither the API, nor fallback tags, which
// it takes for the digests that they are made of (github.com/oras-project/oras-go/issues/1396).
type NoReferrersError struct {
	Host, Repository string
	Subject          digest.Digest
}

func (e *NoReferrersError) Error() string {
	return fmt.Sprintf("registry %s cannot store referrers of %s in %s: no referrers API, and tag %s is taken for the digest", e.Host, e.Subject, e.Repository, fallbackTag(e.Subject))
}

// Unwrap makes it an [errdef.ErrUnsupported].
func (*NoReferrersError) Unwrap() error { return errdef.ErrUnsupported }

// checkFallbackTag makes sure that a referrer of a subject can be listed: the list would be written, and never read.
func (r *Repository) checkFallbackTag(ctx context.Context, subject digest.Digest) error {
	r.referrers.mu.Lock()
	known := r.referrers.tagged[subject]
	r.referrers.mu.Unlock()
	if known {
		return nil
	}
	at, err := r.Resolve(ctx, fallbackTag(subject))
	if err == nil && at.Digest == subject {
		if listed, err := r.listsReferrersOf(ctx, subject); err == nil && !listed {
			r.deviations.record("fallback tags are taken for digests, and there is no referrers API: nothing that refers to a manifest is accepted")
			return &NoReferrersError{r.Reference.Registry, r.Reference.Repository, subject}
		}
	}
	r.referrers.mu.Lock()
	defer r.referrers.mu.Unlock()
	if r.referrers.tagged == nil {
		r.referrers.tagged = map[digest.Digest]bool{}
	}
	r.referrers.tagged[subject] = true
	return nil
}

// putManifest writes a manifest under its digest or a tag, and reports whether the registry has
// processed its subject.
func (r *Repository) putManifest(ctx context.Context, desc ocispec.Descriptor, data []byte, reference string) (processed bool, err error) {
	processed, err = r.tryManifest(ctx, desc, data, reference)
	isTag := digest.Digest(reference).Validate() != nil
	if (errors.Is(err, content.ErrMismatchedDigest) || hasCode(err, errcode.ErrorCodeManifestInvalid) ||
		isTag && hasCode(err, errcode.ErrorCodeManifestBlobUnknown)) && ctx.Err() == nil {
		// A byte may have changed on the way. To a tag that is another manifest, which the tag names now.
		return r.tryManifest(ctx, desc, data, reference)
	}
	return processed, err
}

func (r *Repository) tryManifest(ctx context.Context, desc ocispec.Descriptor, data []byte, reference string) (processed bool, err error) {
	u := r.blobURL("", nil)
	u.Path = "/v2/" + r.Reference.Repository + "/manifests/" + reference
	response, err := r.sendRequest(ctx, http.MethodPut, u, bytes.NewReader(data), desc.Size, http.Header{"Content-Type": {desc.MediaType}})
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		return false, r.interpretTagRefusal(ctx, desc, reference, markDigestError(responseError(response)))
	}
	stored, err := digest.Parse(response.Header.Get("Docker-Content-Digest"))
	if err != nil && digest.Digest(reference).Validate() != nil {
		at, err := r.Resolve(ctx, reference)
		if err != nil {
			return false, fmt.Errorf("look for tag %s of %s: %w", reference, r, err)
		}
		stored = at.Digest
	}
	if stored != "" && stored != desc.Digest {
		return false, fmt.Errorf("manifest %s is %s at %s: %w", desc.Digest, stored, r, content.ErrMismatchedDigest)
	}
	return response.Header.Get("OCI-Subject") != "", nil
}

// ImmutableTagError is the error of a registry that refuses to move a tag.
type ImmutableTagError struct {
	Host, Repository, Tag string
	// Digest is what the tag names.
	Digest digest.Digest
	Err    error
}

func (e *ImmutableTagError) Error() string {
	return fmt.Sprintf("registry %s refuses to move tag %s of %s, which names %s: %v", e.Host, e.Tag, e.Repository, e.Digest, e.Err)
}

// Unwrap gives the registry's answer.
func (e *ImmutableTagError) Unwrap() error { return e.Err }

// interpretTagRefusal returns nil if a refused tag is already right, since registries with immutable
// tags refuse to write the same again.
func (r *Repository) interpretTagRefusal(ctx context.Context, desc ocispec.Descriptor, reference string, refused error) error {
	var response *errcode.ErrorResponse
	if digest.Digest(reference).Validate() == nil || !errors.As(refused, &response) {
		return refused
	}
	switch response.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusPreconditionFailed:
	default:
		return refused
	}
	at, err := r.Resolve(ctx, reference)
	switch {
	case err != nil:
		return refused
	case at.Digest == desc.Digest:
		return nil
	case response.StatusCode == http.StatusForbidden && !mentionsImmutability(response):
		return refused
	}
	return &ImmutableTagError{r.Reference.Registry, r.Reference.Repository, reference, at.Digest, refused}
}

// mentionsImmutability reports whether a 403 is about the tag and not about the user.
func mentionsImmutability(response *errcode.ErrorResponse) bool {
	text := strings.ToLower(response.Error())
	return slices.ContainsFunc([]string{"immutab", "overwr", "already exist", "protected", "locked"}, func(word string) bool {
		return strings.Contains(text, word)
	})
}

// Tag sets a tag of a manifest in the repository.
func (r *Repository) Tag(ctx context.Context, desc ocispec.Descriptor, reference string) error {
	if desc.Size > maxManifest {
		return fmt.Errorf("manifest %s of %d bytes is over the limit of %d: %w", desc.Digest, desc.Size, maxManifest, errdef.ErrSizeExceedsLimit)
	}
	body, err := r.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer body.Close()
	data, err := content.ReadAll(body, desc)
	if err != nil {
		return err
	}
	_, err = r.putManifest(ctx, desc, data, reference)
	return err
}

// PushReference writes a manifest under a tag.
func (r *Repository) PushReference(ctx context.Context, desc ocispec.Descriptor, body io.Reader, reference string) error {
	return r.pushManifest(ctx, desc, body, reference)
}
