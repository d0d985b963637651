package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// findOwn finds a digest in the roots of this repository that are accepted now.
func (r *repository) findOwn(d digest.Digest, want role) (*verdict, bool) {
	v, _, found := r.findIn(d, want)
	return v, found
}

func (r *repository) findIn(d digest.Digest, want role) (*verdict, item, bool) {
	return r.currentDecisions().findIn(r.where, d, want)
}

// findIn finds a digest in the accepted roots of a repository; of all if where is empty.
func (decided *decisions) findIn(where string, d digest.Digest, want role) (*verdict, item, bool) {
	for _, v := range decided.verdicts.listAccepted(where) {
		if found, ok := v.findItem(d); ok && found.role&want != 0 {
			v.used.Store(time.Now().UnixNano())
			decided.verdicts.find(v.repository.placeOf(v.root.String())) // it was used
			return v, found, true
		}
	}
	return nil, item{}, false
}

// findItem finds a digest in the accepted roots of a repository, and what images are made of in those of all.
func (g *Gate) findItem(r *repository, d digest.Digest, want role) (*verdict, item, bool) {
	decided := r.currentDecisions()
	if v, found, ok := decided.findIn(r.where, d, want); ok {
		return v, found, true
	}
	if want &= fromAnywhere; want == 0 {
		return nil, item{}, false
	}
	return decided.findIn("", d, want)
}

// unusedFor is how long verdicts are renewed that nobody asks for.
const unusedFor = time.Hour

// renewRoots verifies roots again whose verdicts have ended, and those that tags led to before the gate was started or the policy
// changed: first of this repository, and then of all, since an image may be named in any. It ends when isFound is true,
// so that nobody waits for repositories that take long.
func (r *repository) renewRoots(ctx context.Context, isFound func() bool) error {
	failure := r.renewOwnRoots(ctx, isFound)
	if isFound() {
		return nil
	}
	others := map[string]*repository{}
	for _, v := range r.currentDecisions().verdicts.listVerdicts("") {
		others[v.repository.where] = v.repository
	}
	for _, name := range r.g.state.listNames() {
		if other := r.g.findRepository(name); other != nil { // its upstream may be gone
			others[other.where] = other
		}
	}
	delete(others, r.where)
	searching, found := context.WithCancel(ctx)
	defer found()
	var mu sync.Mutex
	isFoundNow := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return isFound()
	}
	var group errgroup.Group
	group.SetLimit(maxRenewed)
	for _, other := range others {
		group.Go(func() error {
			if searching.Err() != nil {
				return nil
			}
			err := other.renewOwnRoots(searching, isFoundNow)
			if isFoundNow() {
				found()
				return nil
			}
			return err
		})
	}
	return cmp.Or(group.Wait(), failure)
}

// maxRenewed is in how many repositories a search renews verdicts at once.
const maxRenewed = 16

// renewOwnRoots is renewRoots of this repository. Verdicts that were not used for long make room.
func (r *repository) renewOwnRoots(ctx context.Context, isFound func() bool) (failure error) {
	verdicts := r.currentDecisions().verdicts
	for _, v := range verdicts.listVerdicts(r.where) {
		now := time.Now()
		switch {
		case now.Before(v.until):
		case v.err != nil || now.Sub(time.Unix(0, v.used.Load())) > unusedFor:
			verdicts.forgetVerdict(v)
		default:
			if err := r.renewVerdict(ctx, v.root); err != nil {
				failure = err
			}
			if isFound() {
				return nil
			}
		}
	}
	if err := r.reverifySavedTags(ctx, isFound); err != nil {
		failure = err
	}
	return failure
}

// renewVerdict decides on a root again.
func (r *repository) renewVerdict(ctx context.Context, d digest.Digest) error {
	stored, err := r.upstream.readManifest(ctx, d)
	if err == nil {
		_, err = r.verdictOn(ctx, ocispec.Descriptor{MediaType: stored.mediaType, Digest: d, Size: int64(len(stored.data))})
	}
	if errors.Is(err, errdef.ErrNotFound) {
		return nil
	}
	return err
}

// searchRoots looks for the root that names something: among verdicts that have ended, among the images of accepted roots, and last among
// what tags lead to. It reports whether isFound is true after that.
func (r *repository) searchRoots(ctx context.Context, isFound func() bool) (bool, error) {
	if isFound() {
		return true, nil
	}
	failure := r.renewRoots(ctx, isFound)
	for _, step := range []func(context.Context) error{r.g.expandAll, r.searchTags} {
		if isFound() {
			return true, nil
		}
		if err := step(ctx); err != nil {
			failure = err
		}
	}
	if isFound() {
		return true, nil
	}
	if err := r.g.expandAll(ctx); err != nil {
		failure = err
	}
	if isFound() {
		return true, nil
	}
	return false, failure
}

// expandAll expands all roots that are accepted, as far as there is room.
func (g *Gate) expandAll(ctx context.Context) (failure error) {
	verdicts := g.policy.Load().decided.verdicts
	for _, v := range verdicts.listAccepted("") {
		v.mu.Lock()
		done := v.expanded
		v.mu.Unlock()
		if done {
			continue
		}
		if !verdicts.hasRoom() {
			break
		}
		_, err := share(ctx, v.repository, "expand "+v.root.String(), func(ctx context.Context) (any, error) {
			defer verdicts.measureVerdict(v)
			return nil, v.expandImages(ctx, v.repository.upstream)
		})
		if err != nil {
			failure = err
		}
	}
	return failure
}

// reverifySavedTags verifies what tags of the repository led to before the gate was started, or before the policy changed, no more
// often than Refresh, or soon again if that failed.
func (r *repository) reverifySavedTags(ctx context.Context, isFound func() bool) (failure error) {
	decided := r.currentDecisions()
	if last, ok := decided.recalled.find(r.where); ok && time.Now().Before(last.until) {
		return last.err
	}
	saved, err := r.g.state.findRepository(r.where)
	if err != nil {
		return err
	}
	for d := range saved.listRoots() {
		known, ok := decided.verdicts.find(r.placeOf(d.String()))
		if ok && time.Now().Before(known.until) {
			continue
		}
		if !decided.verdicts.hasRoom() {
			return failure
		}
		if err := r.renewVerdict(ctx, d); err != nil {
			failure = err
		}
		if isFound() {
			return nil
		}
	}
	if ctx.Err() == nil {
		decided.recalled.keep(r.where, refusal{failure, time.Now().Add(r.g.refusalTime(failure))}, 0)
	}
	return failure
}

// searchTags verifies the roots that the repository's tags lead to, no more often than Refresh.
func (r *repository) searchTags(ctx context.Context) error {
	if at, ok := r.currentDecisions().searched.find(r.where); ok && time.Since(at) < r.g.o.Refresh {
		return nil
	}
	_, err := share(ctx, r, "search", func(ctx context.Context) (any, error) {
		now := r.g.policy.Load()
		tags, err := r.upstream.listTags(ctx)
		if errors.Is(err, errdef.ErrNotFound) {
			err = nil
		}
		if err == nil {
			err = r.verifyTags(ctx, newestTags(tags))
		}
		if err == nil {
			now.decided.searched.keep(r.where, time.Now(), 0)
		}
		return nil, err
	})
	return err
}

// verifyTags verifies the roots that tags lead to, as far as there is room.
func (r *repository) verifyTags(ctx context.Context, tags []string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, tag := range tags {
		group.Go(func() error {
			if !r.currentDecisions().verdicts.hasRoom() {
				return nil
			}
			_, err := r.resolveTag(ctx, tag)
			var failed *UpstreamError
			if errors.As(err, &failed) {
				return err
			}
			return nil
		})
	}
	return group.Wait()
}

// newestTags returns the tags of roots, the highest versions first, and no more than are looked at.
func newestTags(tags []string) []string {
	tags = slices.DeleteFunc(slices.Clone(tags), func(tag string) bool {
		_, _, attached := attachedTag(tag)
		return attached
	})
	version := func(tag string) *semver.Version {
		v, err := semver.NewVersion(strings.TrimSuffix(strings.ReplaceAll(tag, "_", "+"), argoCDSuffix))
		if err != nil {
			return &semver.Version{}
		}
		return v
	}
	slices.SortStableFunc(tags, func(a, b string) int { return version(b).Compare(version(a)) })
	return tags[:min(len(tags), maxSearched)]
}

// searchManifest finds out whether a manifest is accepted of which nothing is known.
func (r *repository) searchManifest(ctx context.Context, d digest.Digest) (*verdict, item, error) {
	type result struct {
		verdict *verdict
		item    item
	}
	refused, known := r.currentDecisions().refusals.find(r.placeOf(d.String()))
	if known && time.Now().Before(refused.until) {
		return nil, item{}, refused.err
	}
	found, err := share(ctx, r, "manifest "+d.String(), func(ctx context.Context) (result, error) {
		now := r.g.policy.Load()
		v, i, err := r.searchManifestOnce(ctx, d)
		if err != nil {
			keepRefusal(now.decided.refusals, r.placeOf(d.String()), refusal{err, time.Now().Add(r.g.refusalTime(err))})
		}
		return result{v, i}, err
	})
	return found.verdict, found.item, err
}

// refusalTime returns how long a refusal is remembered: what fails may work soon.
func (g *Gate) refusalTime(err error) time.Duration {
	var failed *UpstreamError
	if errors.As(err, &failed) {
		return min(g.o.Refresh, 2*time.Second)
	}
	return g.o.Refresh
}

func (r *repository) searchManifestOnce(ctx context.Context, d digest.Digest) (*verdict, item, error) {
	stored, err := r.upstream.readManifest(ctx, d)
	if err != nil {
		return nil, item{}, err
	}
	m, err := oci.ParseManifest(stored.data)
	if err != nil {
		return nil, item{}, fmt.Errorf("%s: %w", d, err)
	}
	reason := fmt.Errorf("%s: %w", d, ErrNotNamed)
	isARoot := m.ArtifactType == bundle.TypeRuntime || m.ArtifactType == bundle.TypeBundle
	if isARoot {
		v, err := r.verdictOn(ctx, describe(d, stored))
		if err != nil {
			return nil, item{}, err
		}
		if v.err == nil {
			found, _ := v.findItem(d)
			return v, found, nil
		}
		reason = v.err // unless a lock names it
	}
	var v *verdict
	var found item
	isFound := func() (ok bool) {
		if v, found, ok = r.g.findItem(r, d, anyManifest); ok {
			return true
		}
		v = nil
		return !isARoot && r.acceptAttached(ctx, d, stored, m) == nil
	}
	ok, err := r.searchRoots(ctx, isFound)
	switch {
	case ok:
		return v, found, nil
	case err != nil:
		return nil, item{}, err
	case !isARoot && (m.Subject != nil || isArgoCD(m)):
		return nil, item{}, fmt.Errorf("%s: %w", d, r.acceptAttached(ctx, d, stored, m))
	}
	return nil, item{}, reason
}
