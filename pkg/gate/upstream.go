package gate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// UpstreamError reports that upstream did not answer, or not with what it was asked for.
type UpstreamError struct {
	// Repository is the name upstream.
	Repository string
	Err        error
}

// Error returns the message without logins and queries of URLs, since clients and logs see it: storage behind a registry
// is asked with signed URLs.
func (e *UpstreamError) Error() string {
	text := e.Err.Error()
	var failed *url.Error
	if errors.As(e.Err, &failed) && failed.URL != "" {
		text = strings.ReplaceAll(text, failed.URL, publicURL(failed.URL))
	}
	return fmt.Sprintf("upstream %s: %s", e.Repository, text)
}

func publicURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "its storage"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// Unwrap returns the cause.
func (e *UpstreamError) Unwrap() error { return e.Err }

// upstreamClient asks upstream for one repository. All content that it returns was hashed; descriptors of manifests are made of the
// content.
type upstreamClient struct {
	g     *Gate
	where string
	open  func(ctx context.Context, repository string) (Repository, error)
	// health is that of the whole upstream.
	health *health

	mu         sync.Mutex
	repository Repository
}

// lookup is what upstream said of a name: a tag of signatures, or referrers. It is kept a while, and when upstream fails
// for as long as need be.
type lookup struct {
	// Found is empty for what was not there.
	Found []ocispec.Descriptor `json:"found"`
	At    time.Time            `json:"at"`
}

// size returns about how many bytes it takes.
func (l lookup) size() int64 {
	n := int64(entrySize)
	for _, d := range l.Found {
		n += entrySize + int64(len(d.MediaType)+len(d.ArtifactType)+len(d.Data))
		for key, value := range d.Annotations {
			n += 64 + int64(len(key)+len(value))
		}
		for _, u := range d.URLs {
			n += 16 + int64(len(u))
		}
	}
	return n
}

// askUpstream asks upstream in a limited time, and counts it. The error is an [*UpstreamError], or [errdef.ErrNotFound].
func (c *upstreamClient) askUpstream(ctx context.Context, kind requestKind, question func(context.Context, Repository) error) error {
	limited, cancel := context.WithTimeout(ctx, c.g.o.Timeout)
	defer cancel()
	repository, err := c.openRepository(limited)
	if err == nil {
		c.g.metrics.upstream[kind].Add(1)
		err = question(limited, repository)
	}
	if limited.Err() != nil && err != nil {
		err = fmt.Errorf("no answer within %s: %w", c.g.o.Timeout, err)
	}
	return c.noteAnswer(ctx, err)
}

// noteAnswer records whether upstream answered, unless the context of who asked has ended.
func (c *upstreamClient) noteAnswer(ctx context.Context, err error) error {
	switch {
	case err == nil:
	case errors.Is(err, errdef.ErrNotFound) || isNameUnknown(err):
		err = fmt.Errorf("%s: %w", c.where, errdef.ErrNotFound)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", c.where, ctx.Err())
	case errors.Is(err, context.Canceled):
		return err // who asked went away
	default:
		if c.health.setFailing(time.Now()) {
			c.g.o.Report(Event{Kind: EventUpstream, Repository: c.where, Err: err})
		}
		return &UpstreamError{c.where, err}
	}
	if c.health.setAnswering() {
		c.g.o.Report(Event{Kind: EventUpstream, Repository: c.where})
	}
	return err
}

func isNameUnknown(err error) bool {
	var response *errcode.ErrorResponse
	return errors.As(err, &response) && response.StatusCode == http.StatusNotFound
}

func (c *upstreamClient) openRepository(ctx context.Context) (Repository, error) {
	c.mu.Lock()
	repository := c.repository
	c.mu.Unlock()
	if repository != nil {
		return repository, nil
	}
	repository, err := c.open(ctx, c.where)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.repository = repository
	return repository, nil
}

// resolveTag asks what a tag leads to. Of the answer only the digest counts.
func (c *upstreamClient) resolveTag(ctx context.Context, tag string) (d digest.Digest, err error) {
	err = c.askUpstream(ctx, askTag, func(ctx context.Context, repository Repository) error {
		desc, err := repository.Resolve(ctx, tag)
		if err == nil {
			d, err = desc.Digest, desc.Digest.Validate()
		}
		return err
	})
	return d, err
}

// fetcherByReference reads a manifest in one request.
type fetcherByReference interface {
	FetchReference(ctx context.Context, reference string) (ocispec.Descriptor, io.ReadCloser, error)
}

// readManifest returns a manifest by digest: from memory, the cache, or upstream.
func (c *upstreamClient) readManifest(ctx context.Context, d digest.Digest) (storedManifest, error) {
	if found, ok := c.g.manifests.find(d); ok && found.mediaType != "" {
		return found, nil
	}
	var data []byte
	if c.g.cache != nil {
		data = c.g.cache.readSmall(d, oci.MaxManifest)
	}
	if data == nil {
		err := c.askUpstream(ctx, askManifest, func(ctx context.Context, repository Repository) (err error) {
			data, err = fetchManifest(ctx, repository, d)
			return err
		})
		if err != nil {
			return storedManifest{}, err
		}
	}
	stored := storedManifest{layout.MediaTypeOf(data), data}
	if !oci.IsManifest(stored.mediaType) {
		return stored, fmt.Errorf("%s: is not a manifest", d)
	}
	c.g.manifests.keepManifest(d, stored)
	return stored, nil
}

// fetchManifest reads the bytes of a digest, no more than a manifest has.
func fetchManifest(ctx context.Context, repository Repository, d digest.Digest) ([]byte, error) {
	var body io.ReadCloser
	var err error
	if f, ok := repository.(fetcherByReference); ok {
		_, body, err = f.FetchReference(ctx, d.String())
	} else {
		var desc ocispec.Descriptor
		if desc, err = repository.Resolve(ctx, d.String()); err == nil {
			body, err = repository.Fetch(ctx, desc)
		}
	}
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, oci.MaxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(data) > oci.MaxManifest {
		return nil, fmt.Errorf("%s: more than %d bytes: %w", d, oci.MaxManifest, oci.ErrTooLarge)
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, fmt.Errorf("%s: %w", d, content.ErrMismatchedDigest)
	}
	return data, nil
}

// lookUp asks upstream for something by name, or takes an answer that is fresh enough.
func (c *upstreamClient) lookUp(ctx context.Context, name string, fresh time.Duration, kind requestKind, question func(context.Context, Repository) ([]ocispec.Descriptor, error)) ([]ocispec.Descriptor, error) {
	known, ok := c.g.lookups.find(place{c.where, name})
	if ok && time.Since(known.At) < fresh {
		return known.Found, nil
	}
	var found []ocispec.Descriptor
	err := c.askUpstream(ctx, kind, func(ctx context.Context, repository Repository) (err error) {
		found, err = question(ctx, repository)
		if errors.Is(err, errdef.ErrNotFound) {
			found, err = nil, nil
		}
		return err
	})
	var failed *UpstreamError
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		found = nil
	case errors.As(err, &failed):
		if !ok {
			known, ok = c.findSavedLookup(name)
		}
		if !ok {
			return nil, err
		}
		return known.Found, nil // the last answer is good until upstream answers again
	case err != nil:
		return nil, err
	}
	l := lookup{found, time.Now()}
	c.g.lookups.keep(place{c.where, name}, l, int64(len(name))+l.size())
	return found, nil
}

// findSavedLookup returns an answer that an earlier process saved.
func (c *upstreamClient) findSavedLookup(name string) (lookup, bool) {
	saved, err := c.g.state.findRepository(c.where)
	if err != nil {
		return lookup{}, false // who moves a tag is told
	}
	l, ok := saved.Lookups[name]
	return l, ok
}

// The prefixes of names that are looked up.
const (
	tagLookup      = "tag "
	referrerLookup = "referrers "
)

// findAttachedTag looks for a tag that attaches something to a digest.
func (c *upstreamClient) findAttachedTag(ctx context.Context, tag string, fresh time.Duration) (digest.Digest, error) {
	found, err := c.lookUp(ctx, tagLookup+tag, fresh, askTag, func(ctx context.Context, repository Repository) ([]ocispec.Descriptor, error) {
		desc, err := repository.Resolve(ctx, tag)
		if err == nil {
			err = desc.Digest.Validate()
		}
		return []ocispec.Descriptor{{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}}, err
	})
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("%s:%s: %w", c.where, tag, errdef.ErrNotFound)
	}
	if subject, suffix, is := attachedTag(tag); is && suffix != "" {
		c.g.subjects.keep(place{c.where, found[0].Digest.String()}, subject, 0)
	}
	return found[0].Digest, nil
}

// listReferrers lists what upstream says has a digest as its subject.
func (c *upstreamClient) listReferrers(ctx context.Context, subject digest.Digest, fresh time.Duration) ([]ocispec.Descriptor, error) {
	return c.lookUp(ctx, referrerLookup+subject.String(), fresh, askReferrers, func(ctx context.Context, repository Repository) ([]ocispec.Descriptor, error) {
		found, err := repository.Predecessors(ctx, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject})
		found = slices.DeleteFunc(found, func(d ocispec.Descriptor) bool { return d.Digest.Validate() != nil })
		return found, err
	})
}

// listTags lists the tags upstream.
func (c *upstreamClient) listTags(ctx context.Context) (tags []string, err error) {
	err = c.askUpstream(ctx, askTags, func(ctx context.Context, repository Repository) error {
		return repository.Tags(ctx, "", func(page []string) error {
			tags = append(tags, page...)
			return nil
		})
	})
	return tags, err
}

// openBlob opens a blob: in the cache, or on its way there, or upstream's.
func (c *upstreamClient) openBlob(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	fetch := func(ctx context.Context) (io.ReadCloser, error) {
		c.g.metrics.upstream[askBlob].Add(1)
		repository, err := c.openRepository(ctx)
		if err != nil {
			return nil, c.noteAnswer(ctx, err)
		}
		body, err := repository.Fetch(ctx, desc)
		if err = c.noteAnswer(ctx, err); err != nil {
			return nil, err
		}
		return &countedBody{body, &c.g.metrics.upstreamBytes}, nil
	}
	if c.g.cache != nil {
		body, err := c.g.cache.openBlob(ctx, desc, fetch)
		if !errors.Is(err, errNoRoom) {
			return body, err
		}
	}
	c.g.metrics.cacheMisses.Add(1)
	body, err := fetch(ctx)
	if err != nil {
		return nil, err
	}
	return newHeldReader(body, desc), nil
}

// attempt is upstream for one verification. It records what fails, since what cannot be read is not the same as what is not there, and
// what was read, to keep it when all is well.
type attempt struct {
	*upstreamClient

	mu      sync.Mutex
	failure error
	names   []string
	// read are manifests, signatures and the like.
	read     map[digest.Digest][]byte
	readSize int64
}

// maxAttemptBytes is how much of what one verification read is kept on disk for the next.
const maxAttemptBytes = 16 << 20

func (c *upstreamClient) newAttempt() *attempt {
	return &attempt{upstreamClient: c, read: map[digest.Digest][]byte{}}
}

// noteFailure records an error of upstream, and returns it.
func (a *attempt) noteFailure(err error) error {
	var failed *UpstreamError
	if errors.As(err, &failed) {
		a.mu.Lock()
		a.failure = err
		a.mu.Unlock()
	}
	return err
}

func (a *attempt) rememberContent(d digest.Digest, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.read[d] == nil && a.readSize+int64(len(data)) <= maxAttemptBytes {
		a.read[d] = data
		a.readSize += int64(len(data))
	}
}

// Resolve implements [content.Resolver].
func (a *attempt) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	d := digest.Digest(reference)
	if d.Validate() != nil {
		a.mu.Lock()
		a.names = append(a.names, tagLookup+reference)
		a.mu.Unlock()
		var err error
		if d, err = a.findAttachedTag(ctx, reference, a.g.o.Refresh); err != nil {
			return ocispec.Descriptor{}, a.noteFailure(err)
		}
	}
	stored, err := a.readManifest(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, a.noteFailure(err)
	}
	a.rememberContent(d, stored.data)
	return ocispec.Descriptor{MediaType: stored.mediaType, Digest: d, Size: int64(len(stored.data))}, nil
}

// Exists implements [content.ReadOnlyStorage].
func (a *attempt) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	body, err := a.Fetch(ctx, desc)
	if errors.Is(err, errdef.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, body.Close()
}

// Fetch implements [content.Fetcher].
func (a *attempt) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if oci.IsManifest(desc.MediaType) {
		stored, err := a.readManifest(ctx, desc.Digest)
		if err != nil {
			return nil, a.noteFailure(err)
		}
		a.rememberContent(desc.Digest, stored.data)
		return io.NopCloser(bytes.NewReader(stored.data)), nil
	}
	if stored, ok := a.g.manifests.find(desc.Digest); ok && stored.mediaType == "" {
		return io.NopCloser(bytes.NewReader(stored.data)), nil
	}
	body, err := a.openBlob(ctx, desc)
	if err != nil {
		return nil, a.noteFailure(err)
	}
	noted := &notedBody{body, a}
	if desc.Size > maxSmall {
		return noted, nil
	}
	// Signatures and the like stay in memory, for the next time.
	data, err := content.ReadAll(noted, desc)
	if err = errors.Join(err, noted.Close()); err != nil {
		return nil, err
	}
	a.g.manifests.keepManifest(desc.Digest, storedManifest{"", data})
	return io.NopCloser(bytes.NewReader(data)), nil
}

// notedBody records what fails while it is read.
type notedBody struct {
	io.ReadCloser
	attempt *attempt
}

func (b *notedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.attempt.noteFailure(&UpstreamError{b.attempt.where, err})
	}
	return n, err
}

// Predecessors implements [content.PredecessorFinder].
func (a *attempt) Predecessors(ctx context.Context, node ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	a.mu.Lock()
	a.names = append(a.names, referrerLookup+node.Digest.String())
	a.mu.Unlock()
	found, err := a.listReferrers(ctx, node.Digest, a.g.o.Refresh)
	return slices.Clone(found), a.noteFailure(err)
}

// saveContent keeps what was read, so that the same can be verified while upstream is down.
func (a *attempt) saveContent() {
	if a.g.cache == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for d, data := range a.read {
		a.g.cache.putBlob(d, data)
	}
}

// subjectsOf returns what a manifest is attached to by tags that are known to lead to it.
func (c *upstreamClient) subjectsOf(d digest.Digest) (subjects []digest.Digest) {
	if subject, ok := c.g.subjects.find(place{c.where, d.String()}); ok {
		subjects = append(subjects, subject)
	}
	saved, err := c.g.state.findRepository(c.where)
	if err != nil {
		return subjects // who moves a tag is told
	}
	for name, l := range saved.Lookups {
		if subject := lookedUpOf(name); strings.HasPrefix(name, tagLookup) && subject != "" && len(l.Found) == 1 && l.Found[0].Digest == d {
			subjects = append(subjects, subject)
		}
	}
	return subjects
}

// lookedUpOf returns the digest to which something is attached that was looked up by a name; "" for none.
func lookedUpOf(name string) digest.Digest {
	if text, is := strings.CutPrefix(name, referrerLookup); is {
		return digest.Digest(text)
	}
	subject, suffix, is := attachedTag(strings.TrimPrefix(name, tagLookup))
	if !is || suffix == "" {
		return ""
	}
	return subject
}

// attachedTag takes a tag apart that attaches something to a digest: cosign's, krtpkg's, and that of the
// referrers tag schema, which has no suffix.
func attachedTag(tag string) (subject digest.Digest, suffix string, is bool) {
	algorithm, rest, _ := strings.Cut(tag, "-")
	hex, suffix, _ := strings.Cut(rest, ".")
	subject = digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	if subject.Validate() != nil {
		return "", "", false
	}
	return subject, suffix, true
}
