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
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/retry"
)

// Repository is a repository of a registry. oras-go handles manifests; this package uploads and
// downloads blobs and resumes when a connection breaks.
type Repository struct {
	*remote.Repository
	sessions   sessionStore
	referrers  referrersAPI
	deviations *deviationLog
	backoff    func(attempt int) time.Duration
	waitBudget *waitBudget
	// metadataTimeout is how long an answer other than a blob may take, stallTimeout how long a
	// connection may stall.
	metadataTimeout, stallTimeout time.Duration
	resolved                      resolvedManifest
}

// resolvedManifest is the manifest that [Repository.ResolveToRead] returned last.
type resolvedManifest struct {
	mu     sync.Mutex
	digest digest.Digest
	data   []byte
}

func (m *resolvedManifest) keep(d digest.Digest, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.digest, m.data = d, data
}

// find returns the manifest of a digest if it is the one that is kept.
func (m *resolvedManifest) find(d digest.Digest) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.data, m.data != nil && m.digest == d
}

// String returns the repository's name, host/path.
func (r *Repository) String() string { return r.Reference.Registry + "/" + r.Reference.Repository }

// Name returns the registry's host and the repository's path there.
func (r *Repository) Name() (host, repository string) {
	return r.Reference.Registry, r.Reference.Repository
}

// ChecksDigests marks a store that refuses content that does not match its digest, as registries
// must (distribution-spec v1.1, pushing blobs).
func (r *Repository) ChecksDigests() {}

// maxBufferedBlob is the size up to which a blob is read and verified before it is returned.
const maxBufferedBlob = 1 << 20

// Fetch returns a manifest or a blob. A manifest or a small blob is read and checked before, and
// read again once when it is not what its digest says: a byte may have changed on the way. A
// larger blob is an [io.ReadSeekCloser] that asks again, for the rest, when its connection breaks.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if data, is := r.resolved.find(desc.Digest); is && int64(len(data)) == desc.Size {
		return memoryReader{bytes.NewReader(data)}, nil
	}
	open := func() (io.ReadCloser, error) { return r.Repository.Fetch(ctx, desc) }
	whole := desc.Size <= maxManifest
	if !oci.IsManifest(desc.MediaType) {
		whole = desc.Size <= maxBufferedBlob
		open = func() (io.ReadCloser, error) {
			d := &resumableDownload{repository: r, ctx: ctx, desc: desc, pace: paceMeter{window: 5 * r.stallTimeout}}
			return d, d.resumeDownload()
		}
	}
	if !whole {
		return open()
	}
	data, err := r.readWithRetries(ctx, func() (ocispec.Descriptor, io.ReadCloser, error) {
		body, err := open()
		return desc, body, err
	})
	if err != nil {
		return nil, err
	}
	return memoryReader{bytes.NewReader(data)}, nil
}

// FetchReference returns the manifest of a tag or a digest, read and verified as by Fetch.
func (r *Repository) FetchReference(ctx context.Context, reference string) (desc ocispec.Descriptor, body io.ReadCloser, err error) {
	data, err := r.readWithRetries(ctx, func() (ocispec.Descriptor, io.ReadCloser, error) {
		desc, body, err = r.Repository.FetchReference(ctx, reference)
		if err == nil && desc.Size > maxManifest {
			err = errors.Join(body.Close(), fmt.Errorf("manifest %s of %d bytes is over the limit of %d: %w", desc.Digest, desc.Size, maxManifest, errdef.ErrSizeExceedsLimit))
		}
		return desc, body, err
	})
	if err != nil {
		return ocispec.Descriptor{}, nil, r.hideForbiddenTag(ctx, reference, err)
	}
	return desc, memoryReader{bytes.NewReader(data)}, nil
}

// ResolveToRead is [Repository.Resolve] for a manifest that will be read: it is asked for once, and [Repository.Fetch]
// returns it until another one is resolved so.
func (r *Repository) ResolveToRead(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	desc, body, err := r.FetchReference(ctx, reference)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer body.Close()
	data, err := content.ReadAll(body, desc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	r.resolved.keep(desc.Digest, data)
	return desc, nil
}

// readWithRetries reads content, again while connections break, and once more if it does not match
// its digest.
func (r *Repository) readWithRetries(ctx context.Context, open func() (ocispec.Descriptor, io.ReadCloser, error)) ([]byte, error) {
	tries := retryState{repository: r}
	reread := false
	for {
		desc, body, err := open()
		if err != nil && !isBrokenConnection(err) {
			return nil, err
		}
		var data []byte
		if err == nil {
			data, err = content.ReadAll(breakableReader{ctx, body}, desc)
			body.Close()
		}
		switch {
		case err == nil:
			return data, nil
		case errors.Is(err, content.ErrMismatchedDigest) && !reread:
			reread = true
			continue
		case errors.Is(err, content.ErrMismatchedDigest):
			return nil, fmt.Errorf("%s at %s: %w", desc.Digest, r, err)
		}
		if err := tries.waitForRetry(ctx, err, false); err != nil {
			return nil, fmt.Errorf("%s at %s: %w", desc.Digest, r, err)
		}
	}
}

// breakableReader marks what breaks off: a byte that changed on the way ends a connection of TLS, and HTTP/2 ends
// streams in ways of its own.
type breakableReader struct {
	ctx context.Context
	io.Reader
}

func (b breakableReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = markBroken(b.ctx, err)
	}
	return n, err
}

// markBroken makes the error of reading an answer a [*brokenError], unless it was ended on purpose.
func markBroken(ctx context.Context, err error) error {
	var slow *SlowError
	if ctx.Err() != nil || errors.As(err, &slow) {
		return err
	}
	return &brokenError{err}
}

// memoryReader is content in memory.
type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

// Push writes a manifest or a blob. If content seeks, only the missing rest is sent again when a
// connection breaks, even by the next process; other content is sent in chunks. See [Tentative] for content that
// may prove wrong.
func (r *Repository) Push(ctx context.Context, desc ocispec.Descriptor, body io.Reader) error {
	if oci.IsManifest(desc.MediaType) {
		return r.pushManifest(ctx, desc, body, desc.Digest.String())
	}
	return r.uploadBlob(ctx, desc, body, nil)
}

// Mount mounts a blob from another repository of the registry. If the registry refuses, it uploads
// the content of getContent.
func (r *Repository) Mount(ctx context.Context, desc ocispec.Descriptor, from string, getContent func() (io.ReadCloser, error)) error {
	source := r.Reference
	source.Repository = from
	scoped := auth.AppendRepositoryScope(ctx, source, auth.ActionPull)
	query := url.Values{"mount": {desc.Digest.String()}, "from": {from}}
	response, err := r.sendRequest(scoped, http.MethodPost, r.blobURL("uploads/", query), nil, 0, nil)
	var begun *uploadSession
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
	case response.StatusCode == http.StatusCreated:
		return response.Body.Close()
	case response.Header.Get("Location") != "" && (response.StatusCode == http.StatusAccepted || response.StatusCode == http.StatusOK):
		response.Body.Close()
		if location, err := Location(response); err == nil && strings.HasSuffix(location.Path, "/blobs/"+desc.Digest.String()) {
			// This is the location of the blob, not of an upload.
			if there, err := r.Exists(ctx, desc); err == nil && there {
				r.deviations.record("a mount is answered with %d instead of 201: accepted", response.StatusCode)
				return nil
			}
			break
		}
		if begun, err = r.parseSession(response); err != nil {
			return err
		}
	default:
		response.Body.Close() // without the right to mount, writing may be allowed
	}
	body, err := getContent()
	if err != nil {
		return err
	}
	defer body.Close()
	return r.uploadBlob(ctx, desc, body, begun)
}

// Exists reports whether the repository has a manifest or a blob.
func (r *Repository) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if oci.IsManifest(desc.MediaType) {
		return r.Repository.Exists(ctx, desc)
	}
	response, err := r.sendRequest(ctx, http.MethodHead, r.blobURL(desc.Digest.String(), nil), nil, 0, nil)
	if err != nil {
		return false, err
	}
	response.Body.Close()
	switch response.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		refused := response.StatusCode
		response, err = r.sendRequest(ctx, http.MethodGet, r.blobURL(desc.Digest.String(), nil), nil, 0, http.Header{"Range": {"bytes=0-0"}})
		if err != nil {
			return false, err
		}
		defer response.Body.Close()
		if response.StatusCode < http.StatusBadRequest {
			r.deviations.record("HEAD of a blob is refused with %d: its first byte is requested instead", refused)
		}
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, responseError(response)
}

// blobURL returns an address below the repository's blobs.
func (r *Repository) blobURL(path string, query url.Values) *url.URL {
	u := &url.URL{
		Scheme: "https", Host: r.Reference.Host(),
		Path: "/v2/" + r.Reference.Repository + "/blobs/" + path, RawQuery: query.Encode(),
	}
	if r.PlainHTTP {
		u.Scheme = "http"
	}
	return u
}

// sendRequest sends a request. It reads body once.
func (r *Repository) sendRequest(ctx context.Context, method string, u *url.URL, body io.Reader, size int64, header http.Header) (*http.Response, error) {
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
	// maxAttempts limits the attempts for a blob without progress: more than for a single request,
	// since one attempt takes several.
	maxAttempts = 8
	// maxResends limits how often a request is repeated.
	maxResends = 5
	// maxPause limits a pause, unless the registry asks for a longer one.
	maxPause = 8 * time.Second
)

// retryState decides whether to try again, after a pause.
type retryState struct {
	repository *Repository
	failed     int
}

// waitForRetry waits and returns nil if another attempt is worthwhile after err, and err otherwise.
// progress reports whether anything arrived since the last attempt.
func (t *retryState) waitForRetry(ctx context.Context, err error, progress bool) error {
	if progress {
		t.failed = 0
	}
	if ctx.Err() != nil || !isWorthRetrying(err) || t.failed+1 >= maxAttempts {
		return err
	}
	if t.repository.waitBeforeRetry(ctx, t.failed, err) != nil {
		return err
	}
	t.failed++
	return nil
}

// waitBeforeRetry waits as long as the registry asks for, or longer with each attempt.
func (r *Repository) waitBeforeRetry(ctx context.Context, attempt int, err error) error {
	wait := min(r.backoff(attempt), maxPause)
	var limited *rateLimitError
	if errors.As(err, &limited) && limited.after > 0 {
		if wait = limited.after; !r.waitBudget.allowWait(wait) {
			return &WaitError{r.Reference.Host(), wait}
		}
	}
	return retry.Wait(ctx, wait)
}

// markDigestError wraps a registry's error about a wrong digest as [content.ErrMismatchedDigest].
func markDigestError(err error) error {
	if hasCode(err, "DIGEST_INVALID") {
		return fmt.Errorf("%w: %w", content.ErrMismatchedDigest, err)
	}
	return err
}
