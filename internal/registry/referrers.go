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

// referrersAPI is what is known of a repository's referrers, and those that are to be listed.
type referrersAPI struct {
	// ask is held while the registry is asked whether it has the API.
	ask           sync.Mutex
	known, listed bool

	mu sync.Mutex
	// unsure says that a push was answered without OCI-Subject, the sign that the API has
	// taken note of the referrer: it is under the fallback tag then, whatever the API lists.
	unsure bool
	// gathering counts the calls of GatherReferrers that go on, and pending are the referrers
	// that they have pushed, by their subjects.
	gathering int
	pending   map[digest.Digest][]ocispec.Descriptor
	// lists is held while the lists under fallback tags are written.
	lists sync.Mutex
}

// nobody is a digest that nothing has.
const nobody = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// ListsReferrers asks, once, whether the registry has the referrers API (distribution-spec
// v1.1, listing referrers). Where it has not, referrers are listed under a fallback tag each.
func (r *Repository) ListsReferrers(ctx context.Context) (bool, error) {
	r.referrers.ask.Lock()
	defer r.referrers.ask.Unlock()
	if r.referrers.known {
		return r.referrers.listed, nil
	}
	return r.learnReferrers(ctx, nobody)
}

// listsReferrersOf is [Repository.ListsReferrers], asked for a subject that is there.
func (r *Repository) listsReferrersOf(ctx context.Context, subject digest.Digest) (bool, error) {
	r.referrers.ask.Lock()
	defer r.referrers.ask.Unlock()
	if r.referrers.known {
		return r.referrers.listed, nil
	}
	listed, err := r.learnReferrers(ctx, subject)
	if isStatus(err, http.StatusBadRequest) {
		r.noteNoAPI(http.StatusBadRequest)
		return false, nil
	}
	return listed, err
}

// learnReferrers asks for the referrers of a subject, and notes what that says of the API.
func (r *Repository) learnReferrers(ctx context.Context, subject digest.Digest) (bool, error) {
	probe := context.WithValue(ctx, listingKey{}, nil) // it is not a page of a listing that it comes before
	_, _, err := r.referrersPage(probe, r.referrersURL(subject))
	switch {
	case err == nil:
		r.referrers.known, r.referrers.listed = true, true
	case hasCode(err, errcode.ErrorCodeNameUnknown):
		return false, nil // nothing is known of a repository that is still to come
	case errors.Is(err, errdef.ErrUnsupported):
		r.referrers.known = true
	case r.deniesReferrers(ctx, subject, err):
		r.referrers.known = true
		r.deviations.note("the referrers API is denied to who may read: referrers are listed under fallback tags")
	default:
		// 400 among others: some answer so where there is no API, and Quay where there is no
		// such subject.
		return false, err
	}
	return r.referrers.listed, nil
}

func (r *Repository) noteNoAPI(status int) {
	r.deviations.note("there is no referrers API, and asking for it is answered by %d, not 404: referrers are listed under fallback tags", status)
}

// deniesReferrers reports whether a registry refuses a question about referrers to somebody who
// may read manifests: who may not would be told so for these too.
func (r *Repository) deniesReferrers(ctx context.Context, subject digest.Digest, err error) bool {
	if !isStatus(err, http.StatusUnauthorized) && !isStatus(err, http.StatusForbidden) {
		return false
	}
	_, err = r.Repository.Resolve(ctx, subject.String())
	return err == nil || errors.Is(err, errdef.ErrNotFound)
}

func (r *Repository) referrersURL(subject digest.Digest) *url.URL {
	u := r.url("", nil)
	u.Path = "/v2/" + r.Reference.Repository + "/referrers/" + subject.String()
	return u
}

// referrersPage asks the referrers API for a page, and gives the address of the next one, if
// there is one. The error is ErrUnsupported where the answer is not the API's.
func (r *Repository) referrersPage(ctx context.Context, at *url.URL) (page []ocispec.Descriptor, next *url.URL, err error) {
	response, err := r.do(ctx, http.MethodGet, at, nil, 0, nil)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		if err := failure(response); hasCode(err, errcode.ErrorCodeNameUnknown) {
			return nil, nil, err
		}
		return nil, nil, fmt.Errorf("referrers API: %w", errdef.ErrUnsupported)
	case http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusGone,
		http.StatusUnsupportedMediaType, http.StatusNotImplemented:
		r.noteNoAPI(response.StatusCode)
		return nil, nil, fmt.Errorf("referrers API: %w", errdef.ErrUnsupported)
	default:
		return nil, nil, failure(response)
	}
	data, err := r.readMetadata(response.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("GET %q: %w", at, err)
	}
	var index struct {
		SchemaVersion int                  `json:"schemaVersion"`
		Manifests     []ocispec.Descriptor `json:"manifests"`
	}
	if oci.Unmarshal(data, &index) != nil || index.SchemaVersion == 0 && index.Manifests == nil {
		r.deviations.note("there is no referrers API, and asking for it is answered by something else: referrers are listed under fallback tags")
		return nil, nil, fmt.Errorf("referrers API: the answer is not an index: %w", errdef.ErrUnsupported)
	}
	if link := response.Header.Values("Link"); len(link) > 0 {
		if text, ok := nextPage(response.Request.URL, link); ok {
			if next, err = url.Parse(text); err == nil && (next.Host != at.Host || next.Scheme != at.Scheme) {
				err = fmt.Errorf("GET %q: the next page is elsewhere, at %q", at, text)
			}
		}
	}
	return index.Manifests, next, err
}

func (r *Repository) readMetadata(body io.Reader) ([]byte, error) {
	limit := cmp.Or(max(r.MaxMetadataBytes, 0), maxManifest)
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("the answer is over the limit of %d bytes: %w", limit, errdef.ErrSizeExceedsLimit)
	}
	return data, err
}

// Predecessors lists the manifests whose subject a node is.
func (r *Repository) Predecessors(ctx context.Context, node ocispec.Descriptor) (all []ocispec.Descriptor, err error) {
	err = r.Referrers(ctx, node, "", func(page []ocispec.Descriptor) error {
		all = append(all, page...)
		return nil
	})
	return all, err
}

// Referrers calls fn with the referrers of a manifest, those of an artifact type if that is not
// empty, a page at a time: as the registry's API lists them, or else the list under the fallback
// tag, and with those that were pushed and are not listed yet. A listing that goes in circles is
// [ErrEndless].
func (r *Repository) Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string, fn func([]ocispec.Descriptor) error) error {
	return r.listed(ctx, func(ctx context.Context) error { return r.listReferrers(ctx, subject, artifactType, fn) })
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
	pending, unsure := slices.Clone(r.referrers.pending[subject.Digest]), r.referrers.unsure
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
			return nil // of a manifest that is not there, some say
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
	// Some registries take the tag for the digest, and give the subject itself.
	if desc.MediaType != ocispec.MediaTypeImageIndex || desc.Digest == subject {
		return nil, nil
	}
	data, err := r.readMetadata(body)
	if err == nil && desc.Digest != desc.Digest.Algorithm().FromBytes(data) {
		err = content.ErrMismatchedDigest
	}
	var index ocispec.Index
	if err == nil {
		err = oci.Unmarshal(data, &index)
	}
	if err != nil {
		return nil, fmt.Errorf("tag %s at %s: %w", tag, r, err)
	}
	return index.Manifests, nil
}

// Resolve finds what a tag or a digest names.
func (r *Repository) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	desc, err := r.Repository.Resolve(ctx, reference)
	return desc, r.unlessForbidden(ctx, reference, err)
}

// unlessForbidden turns a refusal to say that a tag is not there into just that, for tags that
// name what is attached to a manifest which may be read: registries with permissions by path
// forbid what is not there (github.com/sigstore/cosign/issues/2973).
func (r *Repository) unlessForbidden(ctx context.Context, reference string, err error) error {
	rest, ok := strings.CutPrefix(reference, "sha256-")
	if !ok || err == nil {
		return err
	}
	hex, _, _ := strings.Cut(rest, ".")
	subject := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if subject.Validate() != nil || !r.deniesReferrers(ctx, subject, err) {
		return err
	}
	r.deviations.note("tags that are not there are forbidden to who may read: those of signatures and referrers are taken for absent")
	return fmt.Errorf("%s:%s: %w", r, reference, errdef.ErrNotFound)
}

// GatherReferrers calls push, and lists what that pushes to the repository as referrers when it
// has ended, well or not: a list under a fallback tag is written once then, which matters where
// tags cannot be moved. Until then [Repository.Referrers] gives them all the same.
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

// listReferrer lists a referrer that was pushed to a registry without the API, or has it listed
// with others.
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

// pushManifest writes a manifest under its digest or a tag, and has it listed where it is a
// referrer.
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
	processed, err := r.putManifest(ctx, desc, data, reference)
	if err != nil || subject == "" || processed {
		return err
	}
	r.referrers.mu.Lock()
	r.referrers.unsure = true
	r.referrers.mu.Unlock()
	return r.listReferrer(ctx, subject, *referrer)
}

// putManifest writes a manifest under its digest or a tag, and reports whether the registry has
// taken note of its subject.
func (r *Repository) putManifest(ctx context.Context, desc ocispec.Descriptor, data []byte, reference string) (processed bool, err error) {
	u := r.url("", nil)
	u.Path = "/v2/" + r.Reference.Repository + "/manifests/" + reference
	response, err := r.do(ctx, http.MethodPut, u, bytes.NewReader(data), desc.Size, http.Header{"Content-Type": {desc.MediaType}})
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		return false, r.tagged(ctx, desc, reference, failure(response))
	}
	if d, err := digest.Parse(response.Header.Get("Docker-Content-Digest")); err == nil && d != desc.Digest {
		return false, fmt.Errorf("manifest %s is %s to %s", desc.Digest, d, r)
	}
	return response.Header.Get("OCI-Subject") != "", nil
}

// ImmutableTagError says that a registry does not let a tag be moved.
type ImmutableTagError struct {
	Host, Repository, Tag string
	// Digest is what the tag names, and goes on to name.
	Digest digest.Digest
	Err    error
}

func (e *ImmutableTagError) Error() string {
	return fmt.Sprintf("%s does not let tag %s of %s be moved from %s: %v", e.Host, e.Tag, e.Repository, e.Digest, e.Err)
}

// Unwrap gives the registry's answer.
func (e *ImmutableTagError) Unwrap() error { return e.Err }

// tagged is what a refusal to set a tag means: nothing where the tag is as it should be, since
// registries with immutable tags refuse to write the same again.
func (r *Repository) tagged(ctx context.Context, desc ocispec.Descriptor, reference string, refused error) error {
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
	case response.StatusCode == http.StatusForbidden && !saysImmutable(response):
		return refused
	}
	return &ImmutableTagError{r.Reference.Registry, r.Reference.Repository, reference, at.Digest, refused}
}

// saysImmutable reports whether an answer of 403 is about the tag, and not about who asks.
func saysImmutable(response *errcode.ErrorResponse) bool {
	text := strings.ToLower(response.Error())
	return slices.ContainsFunc([]string{"immutab", "overwr", "already exist", "protected", "locked"}, func(word string) bool {
		return strings.Contains(text, word)
	})
}

// Tag names a manifest that is there.
func (r *Repository) Tag(ctx context.Context, desc ocispec.Descriptor, reference string) error {
	body, err := r.Repository.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer body.Close()
	if desc.Size > maxManifest {
		return fmt.Errorf("manifest %s of %d bytes is over the limit of %d: %w", desc.Digest, desc.Size, maxManifest, errdef.ErrSizeExceedsLimit)
	}
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
