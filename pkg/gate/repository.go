package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
)

// repository is a repository at the gate. What is known of it is in the memories of all.
type repository struct {
	g *Gate
	// name is what it is called at the gate, where upstream.
	name, where string
	upstream    *upstreamClient
}

// maxSearched is how many tags of a repository are looked at for roots.
const maxSearched = 1_000

func newRepository(g *Gate, name, where string, number int) *repository {
	return &repository{g: g, name: name, where: where, upstream: &upstreamClient{
		g: g, where: where, open: g.o.Upstreams[number].Open, health: &g.health[number],
	}}
}

// placeOf returns the place of a name in the repository.
func (r *repository) placeOf(name string) place { return place{r.where, name} }

// currentDecisions returns what was decided under the current policy.
func (r *repository) currentDecisions() *decisions { return r.g.policy.Load().decided }

// share does work once for all who want the same at the same time. It goes on if one of them goes away.
func share[T any](ctx context.Context, r *repository, key string, work func(context.Context) (T, error)) (T, error) {
	// Under a new policy it is other work.
	key = fmt.Sprintf("%p %s %s", r.g.policy.Load(), r.where, key)
	done := r.g.flights.DoChan(key, func() (any, error) {
		return work(r.g.ctx)
	})
	select {
	case result := <-done:
		value, _ := result.Val.(T)
		return value, result.Err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// verdictOn returns what the policy says of a root now.
func (r *repository) verdictOn(ctx context.Context, desc ocispec.Descriptor) (*verdict, error) {
	v, ok := r.currentDecisions().verdicts.find(r.placeOf(desc.Digest.String()))
	if ok && time.Now().Before(v.until) {
		return v, nil
	}
	return share(ctx, r, "verdict "+desc.Digest.String(), func(ctx context.Context) (*verdict, error) {
		now := r.g.policy.Load()
		if now.err != nil {
			return nil, now.err
		}
		last, _ := now.decided.verdicts.find(r.placeOf(desc.Digest.String()))
		next, err := r.decideOnRoot(ctx, now, desc, last)
		if err != nil {
			return nil, err
		}
		now.decided.verdicts.keepVerdict(next)
		return next, nil
	})
}

func describe(d digest.Digest, stored storedManifest) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: stored.mediaType, Digest: d, Size: int64(len(stored.data))}
}

// checkRevoked holds a digest against the policy as it is now.
func (r *repository) checkRevoked(d digest.Digest) error {
	now := r.g.policy.Load()
	if now.err != nil {
		return now.err
	}
	return now.policy.CheckRevoked(d)
}

// acceptManifest returns a manifest by digest if it is accepted.
func (r *repository) acceptManifest(ctx context.Context, d digest.Digest) (storedManifest, error) {
	now := r.g.policy.Load()
	if err := r.checkRevoked(d); err != nil {
		return storedManifest{}, err
	}
	v, found, ok := r.g.findItem(r, d, anyManifest)
	if !ok {
		if r.isAttached(d) {
			stored, err := r.upstream.readManifest(ctx, d)
			return stored, errors.Join(err, r.checkStillUnder(now))
		}
		var err error
		if v, found, err = r.searchManifest(ctx, d); err != nil {
			return storedManifest{}, err
		}
	}
	stored, err := r.upstream.readManifest(ctx, d)
	if err == nil && v != nil && found.role&isImage != 0 {
		v.addManifestBlobs(stored.data)
		now.decided.verdicts.measureVerdict(v)
	}
	if err == nil && r.g.cache != nil {
		r.g.cache.putBlob(d, stored.data)
	}
	if err == nil {
		err = r.checkStillUnder(now)
	}
	return stored, err
}

// checkStillUnder returns an error if the policy has changed since a decision was begun: the client asks again.
func (r *repository) checkStillUnder(began *loadedPolicy) error {
	if r.g.policy.Load() != began {
		return &UpstreamError{r.where, errPolicyChanged}
	}
	return nil
}

// acceptBlob returns the descriptor of a blob that something accepted names.
func (r *repository) acceptBlob(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	if err := r.checkRevoked(d); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d}
	isDisputed := false
	isFound := func() bool {
		isDisputed = false
		if _, found, ok := r.g.findItem(r, d, anyBlob); ok {
			desc.Size = found.size
			return true
		}
		sizes, ok := r.currentDecisions().attached.findBlob(r.placeOf(d.String()))
		if ok {
			desc.Size, isDisputed = sizes[0], len(sizes) > 1
		}
		return ok
	}
	settle := func() (_ ocispec.Descriptor, err error) {
		if isDisputed {
			desc.Size, err = r.measureBlob(ctx, desc)
		}
		return desc, err
	}
	if isFound() {
		return settle()
	}
	decided := r.currentDecisions()
	refused, known := decided.blobRefusals.find(r.placeOf(d.String()))
	if known && time.Now().Before(refused.until) {
		return desc, refused.err
	}
	found, err := r.searchRoots(ctx, isFound)
	switch {
	case found:
		return settle()
	case err == nil:
		err = fmt.Errorf("%s: %w", d, ErrNotNamed)
	}
	if ctx.Err() != nil {
		return desc, err // of this client, and of no other
	}
	keepRefusal(decided.blobRefusals, r.placeOf(d.String()), refusal{err, time.Now().Add(r.g.refusalTime(err))})
	return desc, err
}

// measureBlob returns the size of a blob to which attachments give several: that of the cache, or upstream's. The digest is
// checked as ever.
func (r *repository) measureBlob(ctx context.Context, desc ocispec.Descriptor) (size int64, err error) {
	if c := r.g.cache; c != nil {
		if file := c.openFile(desc.Digest); file != nil {
			defer file.Close()
			info, err := file.Stat()
			if err != nil {
				return 0, err
			}
			return info.Size(), nil
		}
	}
	err = r.upstream.askUpstream(ctx, askBlob, func(ctx context.Context, repository Repository) error {
		size = desc.Size
		if r, ok := repository.(interface{ Blobs() registry.BlobStore }); ok {
			found, err := r.Blobs().Resolve(ctx, desc.Digest.String())
			size = found.Size
			return err
		}
		return nil
	})
	return size, err
}
