package gate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"
)

// repository is what is known of a repository. What was decided belongs to a ruling, and is forgotten with it.
type repository struct {
	g *Gate
	// name is what it is called at the gate, where upstream.
	name, where string
	upstream    *upstreamClient
	flights     singleflight.Group

	mu       sync.Mutex
	ruling   *ruling
	verdicts map[digest.Digest]*verdict
	// attached are manifests that are answered because of what they are attached to, with the sizes of their blobs.
	attached map[digest.Digest]attachment
	// refusals are decisions on other manifests, for a while.
	refusals map[digest.Digest]refusedManifest
	// blobRefusals are those on blobs: the same digest may be asked for as either.
	blobRefusals map[digest.Digest]refusedManifest
	// answers are what tags lead to, for a while.
	answers map[string]tagAnswer
	// tags are those that would be answered, for a while.
	tags      []string
	tagsUntil time.Time
	// searched is when the tags were last searched for roots.
	searched time.Time

	// saving is held while the state is written.
	saving sync.Mutex
	saved  *savedRepository
}

type refusedManifest struct {
	err   error
	until time.Time
}

// The limits on what is remembered of a repository. What is over them is forgotten and found again.
const (
	maxVerdicts = 500
	maxAttached = 20_000
	maxRefusals = 20_000
	maxAnswers  = 20_000
	// maxSearched is how many tags are looked at for roots.
	maxSearched = 1_000
)

func newRepository(g *Gate, name, where string, number int, saved *savedRepository) *repository {
	r := &repository{g: g, name: name, where: where, saved: saved, upstream: &upstreamClient{
		g: g, where: where, open: g.o.Upstreams[number].Open, health: &g.health[number], lookups: map[string]lookup{},
	}}
	r.upstream.importLookups(saved.Lookups)
	return r
}

// current returns the ruling, and forgets what was decided under another one. The lock is held.
func (r *repository) current() *ruling {
	now := r.g.ruling.Load()
	if r.ruling != now {
		r.ruling, r.searched, r.tagsUntil = now, time.Time{}, time.Time{}
		r.verdicts, r.attached = map[digest.Digest]*verdict{}, map[digest.Digest]attachment{}
		r.refusals, r.blobRefusals = map[digest.Digest]refusedManifest{}, map[digest.Digest]refusedManifest{}
		r.answers = map[string]tagAnswer{}
	}
	return now
}

func (r *repository) isUnused() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.verdicts)+len(r.attached) == 0
}

func (r *repository) countAccepted() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current()
	for _, v := range r.verdicts {
		if v.err == nil {
			n++
		}
	}
	return n
}

// share does work once for all who want the same at the same time. It goes on if one of them goes away.
func share[T any](ctx context.Context, r *repository, key string, work func(context.Context) (T, error)) (T, error) {
	// Under a new policy it is other work.
	key = fmt.Sprintf("%p %s", r.g.ruling.Load(), key)
	done := r.flights.DoChan(key, func() (any, error) {
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
	r.mu.Lock()
	r.current()
	v := r.verdicts[desc.Digest]
	r.mu.Unlock()
	if v != nil && time.Now().Before(v.until) {
		return v, nil
	}
	return share(ctx, r, "verdict "+desc.Digest.String(), func(ctx context.Context) (*verdict, error) {
		now := r.g.ruling.Load()
		if now.err != nil {
			return nil, now.err
		}
		next, err := r.decide(ctx, now, desc, v)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.current() == now {
			r.makeRoomForVerdict()
			r.verdicts[desc.Digest] = next
		}
		return next, nil
	})
}

// makeRoomForVerdict forgets the verdict that ends first. The lock is held.
func (r *repository) makeRoomForVerdict() {
	if len(r.verdicts) < maxVerdicts {
		return
	}
	var oldest *verdict
	for _, v := range r.verdicts {
		if oldest == nil || v.until.Before(oldest.until) {
			oldest = v
		}
	}
	delete(r.verdicts, oldest.root)
}

func describe(d digest.Digest, stored storedManifest) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: stored.mediaType, Digest: d, Size: int64(len(stored.data))}
}

// checkRevoked holds a digest against the policy as it is now.
func (r *repository) checkRevoked(d digest.Digest) error {
	now := r.g.ruling.Load()
	if now.err != nil {
		return now.err
	}
	return now.policy.CheckRevoked(d)
}

// acceptManifest returns a manifest by digest if it is accepted.
func (r *repository) acceptManifest(ctx context.Context, d digest.Digest) (storedManifest, error) {
	now := r.g.ruling.Load()
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
		v.learn(stored.data)
	}
	if err == nil && r.g.cache != nil {
		r.g.cache.put(d, stored.data)
	}
	if err == nil {
		err = r.checkStillUnder(now)
	}
	return stored, err
}

// checkStillUnder returns an error if the policy has changed since a decision was begun: the client asks again.
func (r *repository) checkStillUnder(began *ruling) error {
	if r.g.ruling.Load() != began {
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
	isFound := func() bool {
		if _, found, ok := r.g.findItem(r, d, anyBlob); ok {
			desc.Size = found.size
			return true
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		now := time.Now()
		for _, a := range r.attached {
			if size, ok := a.blobs[d]; ok && now.Before(a.until) {
				desc.Size = size
				return true
			}
		}
		return false
	}
	if isFound() {
		return desc, nil
	}
	r.mu.Lock()
	refused, known := r.blobRefusals[d]
	r.mu.Unlock()
	if known && time.Now().Before(refused.until) {
		return desc, refused.err
	}
	now := r.g.ruling.Load()
	found, err := r.search(ctx, isFound)
	switch {
	case found:
		return desc, nil
	case err == nil:
		err = fmt.Errorf("%s: %w", d, ErrNotNamed)
	}
	if ctx.Err() != nil {
		return desc, err // of this client, and of no other
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current() == now {
		if len(r.blobRefusals) >= maxRefusals {
			clear(r.blobRefusals)
		}
		r.blobRefusals[d] = refusedManifest{err, time.Now().Add(r.g.refusalTime(err))}
	}
	return desc, err
}
