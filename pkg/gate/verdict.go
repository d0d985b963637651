package gate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// role is what a digest is to a verified root. One digest may be several things.
type role uint8

const (
	isRoot   role = 1 << iota // the root itself
	isBundle                  // a bundle in its lock
	isImage                   // an image in a lock, or the manifest of a platform
	isBlob                    // a config or a layer of a root or a bundle
	isImageBlob

	anyManifest = isRoot | isBundle | isImage
	anyBlob     = isBlob | isImageBlob
	// fromAnywhere is what may be answered in any repository: what an image is does not depend on its name. A root or
	// a bundle is accepted by the rule of its place.
	fromAnywhere = isImage | isImageBlob
)

// item is a digest that a root names.
type item struct {
	role role
	// size is by the manifest that names it; -1 if none does, but a lock.
	size int64
}

// verdict is what the policy says of a root.
type verdict struct {
	// repository is where it was verified.
	repository *repository
	root       digest.Digest
	// err is why it is refused; nil if it is accepted.
	err error
	// until is when it is looked at again, used when it was last asked for, in Unix nanoseconds.
	until time.Time
	used  atomic.Int64

	name, version, signers string
	// channels are what the policy says of tags that lead to the root.
	channels *trust.Channels
	// rootLayer is the layer of the root, by which its manifest for Argo CD is known.
	rootLayer digest.Digest
	// names are the images of the locks by their upstream names, REGISTRY/PATH:TAG.
	names map[string]digest.Digest
	// lookups are the names that were asked for to verify it.
	lookups []string

	mu       sync.Mutex
	items    map[digest.Digest]item
	expanded bool
}

func (v *verdict) addItem(d digest.Digest, role role, size int64) {
	known, ok := v.items[d]
	if !ok || known.size < 0 {
		known.size = size
	}
	known.role |= role
	v.items[d] = known
}

// addBlobs adds what a manifest names. Sizes that are not possible are refused when they are asked for.
func (v *verdict) addBlobs(m *oci.Manifest, role role) {
	for _, b := range m.Blobs() {
		if b.Digest.Validate() == nil {
			v.addItem(b.Digest, role, b.Size)
		}
	}
}

func (v *verdict) findItem(d digest.Digest) (item, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found, ok := v.items[d]
	return found, ok
}

// isAccepted reports whether it accepts a root at a time.
func (v *verdict) isAccepted(now time.Time) bool { return v.err == nil && now.Before(v.until) }

// size returns about how many bytes it takes.
func (v *verdict) size() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 160 * int64(len(v.items))
	for path := range v.names {
		n += 160 + int64(len(path))
	}
	for _, name := range v.lookups {
		n += 16 + int64(len(name))
	}
	if v.err != nil {
		n += int64(len(v.err.Error()))
	}
	return n
}

// decideOnRoot verifies a root under a loaded policy; last is an earlier verdict under the same one, or nil. An error that is not of the root, but
// of upstream, is returned and no verdict.
func (r *repository) decideOnRoot(ctx context.Context, now *loadedPolicy, desc ocispec.Descriptor, last *verdict) (*verdict, error) {
	limit := r.g.verifying
	if last != nil && last.err == nil {
		limit = r.g.renewing
	}
	var v *verdict
	err := limit.runVerification(ctx, r.where, func(ctx context.Context) (err error) {
		v, err = r.decideNow(ctx, now, desc, last)
		return err
	})
	if err == nil {
		r.g.metrics.verifications.Add(1)
	}
	return v, err
}

// decideNow is decideOnRoot once there is a place for it.
func (r *repository) decideNow(ctx context.Context, now *loadedPolicy, desc ocispec.Descriptor, last *verdict) (*verdict, error) {
	started := time.Now()
	store := r.upstream.newAttempt()
	v, err := r.verifyRoot(ctx, now, store, desc, last)
	if err == nil {
		v.until = now.nextChange(started, started.Add(r.g.o.Recheck))
		v.lookups, v.repository = store.names, r
		v.used.Store(started.UnixNano())
		if last != nil {
			v.used.Store(last.used.Load())
		}
		store.saveContent()
		r.g.o.Report(Event{Kind: EventVerified, Repository: r.where, Digest: desc.Digest.String(), Name: v.name, Version: v.version, Signers: v.signers})
		return v, nil
	}
	if store.failure != nil {
		return nil, store.failure
	}
	if ctx.Err() != nil {
		return nil, &UpstreamError{r.where, fmt.Errorf("verify %s: %w", desc.Digest, ctx.Err())}
	}
	return &verdict{repository: r, root: desc.Digest, err: &decidedError{err}, until: now.nextChange(started, started.Add(r.g.o.Refresh))}, nil
}

// verifyRoot verifies a root and opens its locks.
func (r *repository) verifyRoot(ctx context.Context, now *loadedPolicy, store *attempt, desc ocispec.Descriptor, last *verdict) (*verdict, error) {
	if now.err != nil {
		return nil, now.err
	}
	result, channels, err := now.policy.VerifyChannels(ctx, store, desc, r.where)
	if err != nil {
		return nil, err
	}
	if last != nil && last.err == nil && !r.g.o.Images {
		v := last.copyVerdict() // its locks are what they were
		v.channels = channels
		return v, nil
	}
	set, err := bundle.OpenSet(ctx, store, desc)
	if err != nil {
		return nil, err
	}
	if r.g.o.Images && now.policy.HasImageRules() {
		if _, err := now.policy.VerifyImages(ctx, store, set); err != nil {
			return nil, err
		}
	}
	v := newVerdict(set)
	v.signers, v.channels = strings.Join(result.Authorities(), ", "), channels
	return v, nil
}

// copyVerdict returns a verdict on the same root, to be given another time.
func (v *verdict) copyVerdict() *verdict {
	v.mu.Lock()
	defer v.mu.Unlock()
	return &verdict{
		root: v.root, name: v.name, version: v.version, signers: v.signers, rootLayer: v.rootLayer, names: v.names,
		items: maps.Clone(v.items), expanded: v.expanded,
	}
}

func newVerdict(set *bundle.Set) *verdict {
	m := set.Root.Metadata()
	v := &verdict{
		root: set.Root.Descriptor.Digest, name: m.Name, version: m.Version,
		names: map[string]digest.Digest{}, items: map[digest.Digest]item{},
	}
	v.rootLayer = set.Root.Manifest.Layers[0].Digest
	addArtifact := func(a *bundle.Artifact, role role) {
		v.addItem(a.Descriptor.Digest, role, a.Descriptor.Size)
		for _, b := range append([]ocispec.Descriptor{a.Manifest.Config}, a.Manifest.Layers...) {
			v.addItem(b.Digest, isBlob, b.Size)
		}
	}
	addArtifact(set.Root, isRoot)
	for _, b := range set.Bundles {
		if b.Descriptor.Digest != v.root {
			addArtifact(b, isBundle)
		}
		for _, locked := range b.Images.Merge(b.Cargo) {
			d := digest.Digest(locked.Image.DigestStr())
			v.addItem(d, isImage, -1)
			if repository, tag := locked.CalledBy(); tag != "" {
				v.names[transfer.UpstreamPath(repository)+":"+tag] = d
			}
		}
	}
	return v
}

// maxNesting is how deep manifests refer to each other.
const maxNesting = 8

// expandImages reads the manifests of the images, so that platforms and blobs are known that somebody asks for who has the manifests already.
func (v *verdict) expandImages(ctx context.Context, upstream *upstreamClient) error {
	v.mu.Lock()
	done := v.expanded
	var images []digest.Digest
	for d, i := range v.items {
		if i.role&isImage != 0 {
			images = append(images, d)
		}
	}
	v.mu.Unlock()
	if done {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, d := range images {
		group.Go(func() error { return v.expandImage(ctx, upstream, d, 0) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.expanded = true
	return nil
}

// expandImage adds what an image is made of, as far as it is there.
func (v *verdict) expandImage(ctx context.Context, upstream *upstreamClient, d digest.Digest, depth int) error {
	if depth > maxNesting {
		return nil
	}
	stored, err := upstream.readManifest(ctx, d)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil // of a platform that was not copied
	}
	if err != nil {
		return err
	}
	for _, next := range v.addManifestBlobs(stored.data) {
		if err := v.expandImage(ctx, upstream, next, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// addManifestBlobs adds what the manifest of an image names, and returns the manifests among that.
func (v *verdict) addManifestBlobs(data []byte) (manifests []digest.Digest) {
	m, err := oci.ParseManifest(data)
	if err != nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.addBlobs(m, isImageBlob)
	for _, next := range m.Manifests {
		if next.Digest.Validate() == nil {
			v.addItem(next.Digest, isImage, next.Size)
			manifests = append(manifests, next.Digest)
		}
	}
	return manifests
}

// decidedError is the reason why a root is refused. That something is not found, say a signature, is among what was
// decided on; it does not mean that the root is not there.
type decidedError struct{ error }

func (e *decidedError) Unwrap() error { return e.error }

// Refusal is the error of what is not answered.
type Refusal struct {
	// Reference is what was asked for, REPOSITORY:TAG or REPOSITORY@DIGEST.
	Reference string
	Err       error
}

func (e *Refusal) Error() string { return e.Reference + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *Refusal) Unwrap() error { return e.Err }

// RefusedByPolicy is the detail of the answer DENIED for a [Refusal]: another login would not help.
const RefusedByPolicy = "refused by the trust policy of a gate"

// ErrNotNamed is the reason of a refusal: no verified root names what was asked for.
var ErrNotNamed = errors.New("no verified root names it")

// reasonOf names the reason of a refusal for the metrics.
func reasonOf(err error) string {
	var (
		stale     *trust.StaleError
		renamed   *bundle.TagError
		downgrade *transfer.DowngradeError
	)
	switch {
	case errors.Is(err, errNoPolicy):
		return "no_policy"
	case errors.As(err, &downgrade):
		return "downgrade"
	case errors.As(err, &renamed):
		return "renamed_tag"
	case errors.Is(err, sign.ErrUnsigned):
		return "unsigned"
	case errors.Is(err, sign.ErrNotVerified):
		return "not_verified"
	case errors.As(err, &stale):
		return "stale_channel"
	case errors.Is(err, trust.ErrRefused):
		return "policy"
	case errors.Is(err, ErrNotNamed):
		return "not_named"
	case errors.Is(err, errNotAttached):
		return "attachment"
	}
	return "invalid"
}
