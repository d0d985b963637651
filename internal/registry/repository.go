package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"krtpkg.dev/krtpkg/pkg/layout"
)

// Repository is a repository of a registry. Manifests are oras-go's business; blobs go up and
// come down by this package, which goes on where a connection broke.
type Repository struct {
	*remote.Repository
	sessions   sessions
	referrers  referrersAPI
	deviations *deviations
	backoff    func(attempt int) time.Duration
	patience   *patience
	// metadata is how long an answer that is not a blob may take, stall how long a connection may
	// stand still.
	metadata, stall time.Duration
}

// String returns the repository's name, host/path.
func (r *Repository) String() string { return r.Reference.Registry + "/" + r.Reference.Repository }

// Name returns the registry's host, and the repository's path there.
func (r *Repository) Name() (host, repository string) {
	return r.Reference.Registry, r.Reference.Repository
}

// ChecksDigests says that a registry refuses what is not what its digest says, as it must
// (distribution-spec v1.1, pushing blobs).
func (r *Repository) ChecksDigests() {}

// wholeBlob is the size up to which a blob is read, and checked, before it is given.
const wholeBlob = 1 << 20

// Fetch returns a manifest or a blob. A manifest or a small blob is read and checked before, and
// read again once when it is not what its digest says: a byte may have changed on the way. A
// larger blob is an [io.ReadSeekCloser] that asks again, for the rest, when its connection breaks.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	open := func() (io.ReadCloser, error) { return r.Repository.Fetch(ctx, desc) }
	whole := desc.Size <= maxManifest
	if !layout.IsManifest(desc.MediaType) {
		whole = desc.Size <= wholeBlob
		open = func() (io.ReadCloser, error) {
			d := &download{repository: r, ctx: ctx, desc: desc, pace: pace{window: 5 * r.stall}}
			return d, d.open()
		}
	}
	if !whole {
		return open()
	}
	data, err := r.readTwice(ctx, func() (ocispec.Descriptor, io.ReadCloser, error) {
		body, err := open()
		return desc, body, err
	})
	if err != nil {
		return nil, err
	}
	return inMemory{bytes.NewReader(data)}, nil
}

// FetchReference returns the manifest that a tag or a digest names, read and checked as by Fetch.
func (r *Repository) FetchReference(ctx context.Context, reference string) (desc ocispec.Descriptor, body io.ReadCloser, err error) {
	data, err := r.readTwice(ctx, func() (ocispec.Descriptor, io.ReadCloser, error) {
		desc, body, err = r.Repository.FetchReference(ctx, reference)
		if err == nil && desc.Size > maxManifest {
			err = errors.Join(body.Close(), fmt.Errorf("manifest %s of %d bytes is over the limit of %d: %w", desc.Digest, desc.Size, maxManifest, errdef.ErrSizeExceedsLimit))
		}
		return desc, body, err
	})
	if err != nil {
		return ocispec.Descriptor{}, nil, r.unlessForbidden(ctx, reference, err)
	}
	return desc, inMemory{bytes.NewReader(data)}, nil
}

// readTwice reads content, again while connections break, and once more when it is not what its
// digest says.
func (r *Repository) readTwice(ctx context.Context, open func() (ocispec.Descriptor, io.ReadCloser, error)) ([]byte, error) {
	tries := retries{repository: r}
	reread := false
	for {
		desc, body, err := open()
		if err != nil {
			return nil, err
		}
		data, err := content.ReadAll(body, desc)
		body.Close()
		switch {
		case err == nil:
			return data, nil
		case errors.Is(err, content.ErrMismatchedDigest) && !reread:
			reread = true
			continue
		case errors.Is(err, content.ErrMismatchedDigest):
			return nil, fmt.Errorf("%s at %s: %w", desc.Digest, r, err)
		}
		if err := tries.again(ctx, err, false); err != nil {
			return nil, fmt.Errorf("%s at %s: %w", desc.Digest, r, err)
		}
	}
}

// inMemory is content that was read.
type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// Push writes a manifest or a blob. Of content that seeks only what has not arrived is sent
// again when a connection breaks, and by the next process when this one ends; content that
// does not is sent in chunks.
func (r *Repository) Push(ctx context.Context, desc ocispec.Descriptor, body io.Reader) error {
	if layout.IsManifest(desc.MediaType) {
		return r.pushManifest(ctx, desc, body, desc.Digest.String())
	}
	return r.upload(ctx, desc, body, nil)
}

// Mount has the registry take a blob from another of its repositories, and uploads what
// getContent gives where it does not.
func (r *Repository) Mount(ctx context.Context, desc ocispec.Descriptor, from string, getContent func() (io.ReadCloser, error)) error {
	source := r.Reference
	source.Repository = from
	scoped := auth.AppendRepositoryScope(ctx, source, auth.ActionPull)
	query := url.Values{"mount": {desc.Digest.String()}, "from": {from}}
	response, err := r.do(scoped, http.MethodPost, r.url("uploads/", query), nil, 0, nil)
	var begun *session
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
	case response.StatusCode == http.StatusCreated:
		return response.Body.Close()
	case response.Header.Get("Location") != "" && (response.StatusCode == http.StatusAccepted || response.StatusCode == http.StatusOK):
		response.Body.Close()
		if location, err := Location(response); err == nil && strings.HasSuffix(location.Path, "/blobs/"+desc.Digest.String()) {
			// That is where the blob is, and not where to send it.
			if there, err := r.Exists(ctx, desc); err == nil && there {
				r.deviations.note("a mount ends with %d, where 201 is usual: it is taken for that", response.StatusCode)
				return nil
			}
			break
		}
		if begun, err = r.sessionOf(response); err != nil {
			return err
		}
	default:
		response.Body.Close() // who may not mount may still write
	}
	body, err := getContent()
	if err != nil {
		return err
	}
	defer body.Close()
	return r.upload(ctx, desc, body, begun)
}

// Exists reports whether a manifest or a blob is there.
func (r *Repository) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if layout.IsManifest(desc.MediaType) {
		return r.Repository.Exists(ctx, desc)
	}
	response, err := r.do(ctx, http.MethodHead, r.url(desc.Digest.String(), nil), nil, 0, nil)
	if err != nil {
		return false, err
	}
	response.Body.Close()
	switch response.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		refused := response.StatusCode
		response, err = r.do(ctx, http.MethodGet, r.url(desc.Digest.String(), nil), nil, 0, http.Header{"Range": {"bytes=0-0"}})
		if err != nil {
			return false, err
		}
		defer response.Body.Close()
		if response.StatusCode < http.StatusBadRequest {
			r.deviations.note("HEAD of a blob is refused with %d: its first byte is asked for", refused)
		}
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, failure(response)
}

// url returns the address of something about the repository's blobs.
func (r *Repository) url(path string, query url.Values) *url.URL {
	u := &url.URL{
		Scheme: "https", Host: r.Reference.Host(),
		Path: "/v2/" + r.Reference.Repository + "/blobs/" + path, RawQuery: query.Encode(),
	}
	if r.PlainHTTP {
		u.Scheme = "http"
	}
	return u
}

// do sends a request. Its body, if it has one, is read once.
func (r *Repository) do(ctx context.Context, method string, u *url.URL, body io.Reader, size int64, header http.Header) (*http.Response, error) {
	actions := []string{auth.ActionPull}
	if method != http.MethodGet && method != http.MethodHead || strings.Contains(u.Path, "/blobs/uploads/") {
		actions = append(actions, auth.ActionPush)
	}
	ctx = auth.AppendRepositoryScope(ctx, r.Reference, actions...)
	request, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	request.ContentLength = size
	for key, values := range header {
		request.Header[key] = values
	}
	return r.Client.Do(request)
}

const (
	// attempts is how often a blob is tried without a further byte having arrived: more often
	// than a single request, since one attempt takes several.
	attempts = 8
	// resends is how often a request is sent again.
	resends = 5
	// longest is what no pause is longer than, unless the registry asks for it.
	longest = 8 * time.Second
)

// retries decides whether to try again, and pauses before.
type retries struct {
	repository *Repository
	failed     int
}

// again is nil when it is worth another try after err; progress says that something arrived
// since the last one.
func (t *retries) again(ctx context.Context, err error, progress bool) error {
	if progress {
		t.failed = 0
	}
	if ctx.Err() != nil || !passes(err) || t.failed+1 >= attempts {
		return err
	}
	if t.repository.pause(ctx, t.failed, err) != nil {
		return err
	}
	t.failed++
	return nil
}

// pause waits as long as the registry asks for, or longer with each attempt.
func (r *Repository) pause(ctx context.Context, attempt int, err error) error {
	wait := min(r.backoff(attempt), longest)
	var limited *limitedError
	if errors.As(err, &limited) && limited.after > 0 {
		if wait = limited.after; !r.patience.allows(wait) {
			return &WaitError{r.Reference.Host(), wait}
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// wrongContent makes a registry's word that content is not what its digest says the error
// that everybody knows.
func wrongContent(err error) error {
	if hasCode(err, "DIGEST_INVALID") {
		return fmt.Errorf("%w: %w", content.ErrMismatchedDigest, err)
	}
	return err
}
