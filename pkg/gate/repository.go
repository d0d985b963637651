package gate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
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

// tagAnswer is what a tag leads to.
type tagAnswer struct {
	digest digest.Digest
	// warning is why it is not what it leads to upstream; empty if it is.
	warning string
	err     error
	until   time.Time
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

// findOwn finds a digest in the roots of this repository that are accepted now.
func (r *repository) findOwn(d digest.Digest, want role) (*verdict, bool) {
	v, _, found := r.findIn(d, want)
	return v, found
}

func (r *repository) findIn(d digest.Digest, want role) (*verdict, item, bool) {
	now := time.Now()
	r.mu.Lock()
	r.current()
	var accepted []*verdict
	for _, v := range r.verdicts {
		if v.err == nil && now.Before(v.until) {
			accepted = append(accepted, v)
		}
	}
	r.mu.Unlock()
	for _, v := range accepted {
		if found, ok := v.find(d); ok && found.role&want != 0 {
			return v, found, true
		}
	}
	return nil, item{}, false
}

// findItem finds a digest in the accepted roots of a repository, and what images are made of in those of all.
func (g *Gate) findItem(r *repository, d digest.Digest, want role) (*verdict, item, bool) {
	if v, found, ok := r.findIn(d, want); ok {
		return v, found, true
	}
	if want &= fromAnywhere; want == 0 {
		return nil, item{}, false
	}
	for _, other := range g.listRepositories() {
		if other == r {
			continue
		}
		if v, found, ok := other.findIn(d, want); ok {
			return v, found, true
		}
	}
	return nil, item{}, false
}

// renew renews verdicts that have ended, of all repositories: something was not found, and may be of one of them.
func (g *Gate) renew(ctx context.Context) error {
	var failure error
	for _, r := range g.listRepositories() {
		now := time.Now()
		var ended []digest.Digest
		r.mu.Lock()
		r.current()
		for d, v := range r.verdicts {
			if v.err == nil && !now.Before(v.until) {
				ended = append(ended, d)
			}
		}
		r.mu.Unlock()
		for _, d := range ended {
			if err := r.renewVerdict(ctx, d); err != nil {
				failure = err
			}
		}
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

// search looks for the root that names something: among verdicts that have ended, among the images of accepted roots, and last among
// what tags lead to. It reports whether isFound is true after that.
func (r *repository) search(ctx context.Context, isFound func() bool) (bool, error) {
	if isFound() {
		return true, nil
	}
	failure := r.g.renew(ctx)
	for _, step := range []func(context.Context) error{r.g.recall, r.g.expandAll, r.searchTags} {
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

// expandAll expands all roots that are accepted.
func (g *Gate) expandAll(ctx context.Context) (failure error) {
	for _, r := range g.listRepositories() {
		now := time.Now()
		r.mu.Lock()
		r.current()
		var accepted []*verdict
		for _, v := range r.verdicts {
			if v.err == nil && now.Before(v.until) {
				accepted = append(accepted, v)
			}
		}
		r.mu.Unlock()
		for _, v := range accepted {
			v.mu.Lock()
			done := v.expanded
			v.mu.Unlock()
			if done {
				continue
			}
			_, err := share(ctx, r, "expand "+v.root.String(), func(ctx context.Context) (any, error) {
				return nil, v.expand(ctx, r.upstream)
			})
			if err != nil {
				failure = err
			}
		}
	}
	return failure
}

// recall verifies what tags led to before the gate was started, or before the policy changed, no more often than
// Refresh.
func (g *Gate) recall(ctx context.Context) (failure error) {
	now := g.ruling.Load()
	g.mu.Lock()
	recent := g.recalledFor == now && time.Since(g.recalled) < g.o.Refresh
	g.mu.Unlock()
	if recent {
		return nil
	}
	defer func() {
		if failure == nil {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.recalledFor, g.recalled = now, time.Now()
		}
	}()
	for _, name := range g.state.listNames() {
		r, err := g.findRepository(name)
		if err != nil || r == nil {
			failure = errors.Join(failure, err)
			continue
		}
		r.saving.Lock()
		roots := map[digest.Digest]bool{}
		for _, t := range r.saved.Tags {
			if t.Name != "" && !t.Gone {
				roots[t.Digest] = true
			}
		}
		r.saving.Unlock()
		for d := range roots {
			r.mu.Lock()
			r.current()
			known := r.verdicts[d]
			r.mu.Unlock()
			if known != nil && time.Now().Before(known.until) {
				continue
			}
			if err := r.renewVerdict(ctx, d); err != nil {
				failure = err
			}
		}
	}
	return failure
}

// searchTags verifies the roots that the repository's tags lead to, no more often than Refresh.
func (r *repository) searchTags(ctx context.Context) error {
	r.mu.Lock()
	r.current()
	recent := time.Since(r.searched) < r.g.o.Refresh
	r.mu.Unlock()
	if recent {
		return nil
	}
	_, err := share(ctx, r, "search", func(ctx context.Context) (any, error) {
		tags, err := r.upstream.listTags(ctx)
		if errors.Is(err, errdef.ErrNotFound) {
			err = nil
		}
		if err == nil {
			err = r.verifyTags(ctx, newestTags(tags))
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if err == nil {
			r.searched = time.Now()
		}
		return nil, err
	})
	return err
}

// verifyTags verifies the roots that tags lead to.
func (r *repository) verifyTags(ctx context.Context, tags []string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, tag := range tags {
		group.Go(func() error {
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

// argoCDSuffix ends the tag of a manifest for Argo CD.
const argoCDSuffix = ".argocd"

// tagged is what a tag may lead to.
type tagged struct {
	digest        digest.Digest
	name, version string
	root          *verdict
}

// resolveTag returns what a tag leads to: what it leads to upstream if that is accepted, or else what it led to before.
func (r *repository) resolveTag(ctx context.Context, tag string) (tagAnswer, error) {
	r.mu.Lock()
	r.current()
	known, ok := r.answers[tag]
	r.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known, known.err
	}
	answer, err := share(ctx, r, "tag "+tag, func(ctx context.Context) (tagAnswer, error) {
		now := r.g.ruling.Load()
		answer := r.decideTag(ctx, tag)
		answer.until = time.Now().Add(r.g.o.Refresh)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.current() == now {
			if len(r.answers) >= maxAnswers {
				clear(r.answers)
			}
			r.answers[tag] = answer
		}
		return answer, answer.err
	})
	return answer, err
}

// errPolicyChanged reports a decision under a policy that is not the current one any more.
var errPolicyChanged = errors.New("the policy has changed")

func (r *repository) decideTag(ctx context.Context, tag string) (answer tagAnswer) {
	for range 3 {
		if answer = r.decideTagOnce(ctx, tag); !errors.Is(answer.err, errPolicyChanged) {
			break
		}
	}
	return answer
}

func (r *repository) decideTagOnce(ctx context.Context, tag string) tagAnswer {
	now := r.g.ruling.Load()
	if now.err != nil {
		return tagAnswer{err: now.err}
	}
	d, err := r.upstream.resolveTag(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		if saveErr := r.forgetTag(tag); saveErr != nil {
			return tagAnswer{err: saveErr}
		}
		return tagAnswer{err: err}
	}
	var found tagged
	if err == nil {
		found, err = r.checkTag(ctx, tag, d)
	}
	if err == nil {
		err = r.moveTag(tag, found, now)
	}
	switch {
	case err == nil:
		return tagAnswer{digest: found.digest}
	case errors.Is(err, errPolicyChanged):
		return tagAnswer{err: err}
	}
	return r.keepTag(ctx, tag, d, err)
}

// keepTag answers what a tag led to before, if that is still accepted.
func (r *repository) keepTag(ctx context.Context, tag string, upstream digest.Digest, reason error) tagAnswer {
	r.saving.Lock()
	last, known := r.saved.Tags[tag]
	r.saving.Unlock()
	if !known || last.Digest == upstream || last.Gone && upstream == "" {
		return tagAnswer{err: reason}
	}
	if _, err := r.checkTag(ctx, tag, last.Digest); err != nil {
		return tagAnswer{err: fmt.Errorf("%w; what it led to before, %s: %w", reason, last.Digest, err)}
	}
	r.g.metrics.kept.Add(1)
	r.g.o.Report(Event{Kind: EventKept, Repository: r.where, Reference: tag, Digest: last.Digest.String(), Name: last.Name, Version: last.Version, Err: reason})
	stays := last.Digest.String()
	if last.Version != "" {
		stays = last.Version + " (" + stays + ")"
	}
	return tagAnswer{digest: last.Digest, warning: fmt.Sprintf("tag %s stays at %s: %v", tag, stays, reason)}
}

// checkTag decides whether a tag may lead to a digest.
func (r *repository) checkTag(ctx context.Context, tag string, d digest.Digest) (tagged, error) {
	stored, err := r.upstream.readManifest(ctx, d)
	if err != nil {
		return tagged{}, err
	}
	if err := r.checkRevoked(d); err != nil {
		return tagged{}, err
	}
	m, err := oci.ParseManifest(stored.data)
	if err != nil {
		return tagged{}, fmt.Errorf("%s: %w", d, err)
	}
	switch m.ArtifactType {
	case bundle.TypeRuntime, bundle.TypeBundle:
		v, err := r.verdictOn(ctx, describe(d, stored))
		if err == nil {
			err = v.err
		}
		if err != nil {
			return tagged{}, err
		}
		return r.checkVersionTag(tag, tagged{d, v.name, v.version, v})
	case bundle.TypeCatalogue:
		return tagged{}, fmt.Errorf("%s: %w: it is a catalogue, which is not signed: name a runtime", d, ErrNotNamed)
	case bundle.TypeArgoCD:
		return r.checkArgoCDTag(ctx, tag, d, m)
	}
	return r.checkImageTag(ctx, tag, d)
}

func (r *repository) checkVersionTag(tag string, found tagged) (tagged, error) {
	metadata := bundle.Metadata{Name: found.name, Version: found.version}
	if err := metadata.CheckTag(tag); err != nil && !r.g.o.AllowRenamedTags {
		return tagged{}, err
	}
	return found, nil
}

// checkArgoCDTag accepts the manifest for Argo CD of a root under a tag that is the root's and a suffix.
func (r *repository) checkArgoCDTag(ctx context.Context, tag string, d digest.Digest, m *oci.Manifest) (tagged, error) {
	of, is := strings.CutSuffix(tag, argoCDSuffix)
	if !is {
		return tagged{}, fmt.Errorf("%s: %w: it is a manifest for Argo CD", d, ErrNotNamed)
	}
	if len(m.Layers) != 1 {
		return tagged{}, fmt.Errorf("%s: %w: want one layer", d, errNotAttached)
	}
	var root *verdict
	isFound := func() bool {
		if r.checkArgoCD(m) != nil {
			return false
		}
		root = r.findRootWithLayer(m.Layers[0].Digest)
		return root != nil
	}
	if !isFound() {
		// Its root is what the tag without the suffix leads to, or did when this one was set.
		if _, err := r.resolveTag(ctx, of); err != nil && !errors.Is(err, errdef.ErrNotFound) {
			return tagged{}, err
		}
	}
	// Tags of other versions are not searched here: a search looks at this tag, too.
	if !isFound() {
		return tagged{}, fmt.Errorf("%s: %w", d, ErrNotNamed)
	}
	return r.checkVersionTag(of, tagged{d, root.name, root.version, root})
}

func (r *repository) findRootWithLayer(layer digest.Digest) *verdict {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current()
	for _, v := range r.verdicts {
		if v.err == nil && v.rootLayer == layer && now.Before(v.until) {
			return v
		}
	}
	return nil
}

// checkImageTag accepts an image under the name that a lock has for it, where upstream's names are kept.
func (r *repository) checkImageTag(ctx context.Context, tag string, d digest.Digest) (tagged, error) {
	isFound := func() bool { return r.g.namesImage(r, tag, d) }
	if isFound() {
		return tagged{digest: d}, nil
	}
	if err := errors.Join(r.g.renew(ctx), r.g.recall(ctx)); err != nil && !isFound() {
		return tagged{}, err
	}
	if !isFound() {
		return tagged{}, fmt.Errorf("%s: %w under this tag", d, ErrNotNamed)
	}
	return tagged{digest: d}, nil
}

// namesImage reports whether an accepted root has an image under the name of a repository and a tag.
func (g *Gate) namesImage(r *repository, tag string, d digest.Digest) bool {
	if tag == "digest-"+d.Encoded() { // as images without a tag are kept
		_, _, found := g.findItem(r, d, isImage)
		return found
	}
	now := time.Now()
	for _, other := range g.listRepositories() {
		other.mu.Lock()
		other.current()
		accepted := slices.Collect(maps.Values(other.verdicts))
		other.mu.Unlock()
		for _, v := range accepted {
			if v.err != nil || !now.Before(v.until) {
				continue
			}
			for path := r.name; path != ""; _, path, _ = strings.Cut(path, "/") {
				if v.names[path+":"+tag] == d {
					return true
				}
			}
		}
	}
	return false
}

// moveTag records what a tag leads to, as decided under a policy, unless it would go back. It may go back if the policy
// revokes what it led to.
func (r *repository) moveTag(tag string, found tagged, decidedBy *ruling) error {
	r.saving.Lock()
	defer r.saving.Unlock()
	if r.g.ruling.Load() != decidedBy {
		return errPolicyChanged
	}
	last, known := r.saved.Tags[tag]
	if known && !last.Gone && last.Digest == found.digest {
		return nil
	}
	mayGoBack := r.g.o.AllowDowngrade || known && (last.Digest == found.digest || decidedBy.policy.CheckRevoked(last.Digest) != nil)
	if known && !mayGoBack {
		if err := checkDowngrade(last, found); err != nil {
			return err
		}
	}
	if err := r.saveTag(tag, savedTag{Digest: found.digest, Name: found.name, Version: found.version, Since: time.Now().UTC()}, found); err != nil {
		return err
	}
	r.g.metrics.moved.Add(1)
	r.g.o.Report(Event{Kind: EventMoved, Repository: r.where, Reference: tag, Digest: found.digest.String(), Name: found.name, Version: found.version})
	return nil
}

// forgetTag records that a tag is removed upstream: it is not answered from what was saved while upstream fails.
func (r *repository) forgetTag(tag string) error {
	r.saving.Lock()
	defer r.saving.Unlock()
	last, known := r.saved.Tags[tag]
	if !known || last.Gone {
		return nil
	}
	last.Gone = true
	return r.saveTag(tag, last, tagged{})
}

// saveTag saves what a tag leads to. The lock for saving is held.
func (r *repository) saveTag(tag string, t savedTag, found tagged) error {
	next := *r.saved
	next.Repository, next.Name = r.where, r.name
	if next.Tags = maps.Clone(r.saved.Tags); next.Tags == nil {
		next.Tags = map[string]savedTag{}
	}
	next.Tags[tag] = t
	next.Lookups = r.collectLookups(found)
	if err := r.g.state.save(&next); err != nil {
		r.g.metrics.stateErrors.Add(1)
		r.g.o.Report(Event{Kind: EventState, Repository: r.where, Reference: tag, Err: err})
		return &StateError{err}
	}
	r.saved = &next
	return nil
}

// collectLookups returns the answers by which the roots were verified that tags lead to.
func (r *repository) collectLookups(found tagged) map[string]lookup {
	var names []string
	r.mu.Lock()
	for _, t := range r.saved.Tags {
		if v := r.verdicts[t.Digest]; v != nil {
			names = append(names, v.lookups...)
		}
	}
	r.mu.Unlock()
	if found.root != nil {
		names = append(names, found.root.lookups...)
	}
	all := map[string]lookup{}
	for _, t := range r.saved.Tags {
		for name, l := range r.saved.Lookups {
			if strings.Contains(name, t.Digest.Encoded()) {
				all[name] = l
			}
		}
	}
	maps.Copy(all, r.upstream.exportLookups(names))
	return all
}

// StateError reports that what a tag leads to cannot be recorded.
type StateError struct{ Err error }

func (e *StateError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *StateError) Unwrap() error { return e.Err }

// checkDowngrade returns an error if a tag would go back. Images have no versions.
func checkDowngrade(last savedTag, found tagged) error {
	if last.Name == "" && found.name == "" {
		return nil
	}
	e := &DowngradeError{last.Name, last.Version, last.Digest, found.name, found.version, found.digest}
	if found.name != last.Name || found.version == last.Version {
		return e
	}
	before, err1 := semver.NewVersion(last.Version)
	after, err2 := semver.NewVersion(found.version)
	if err1 == nil && err2 == nil && !after.GreaterThan(before) {
		return e
	}
	return nil
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

// searchManifest finds out whether a manifest is accepted of which nothing is known.
func (r *repository) searchManifest(ctx context.Context, d digest.Digest) (*verdict, item, error) {
	type result struct {
		verdict *verdict
		item    item
	}
	r.mu.Lock()
	r.current()
	refused, known := r.refusals[d]
	r.mu.Unlock()
	if known && time.Now().Before(refused.until) {
		return nil, item{}, refused.err
	}
	found, err := share(ctx, r, "manifest "+d.String(), func(ctx context.Context) (result, error) {
		now := r.g.ruling.Load()
		v, i, err := r.searchManifestOnce(ctx, d)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil && r.current() == now {
			if len(r.refusals) >= maxRefusals {
				clear(r.refusals)
			}
			r.refusals[d] = refusedManifest{err, time.Now().Add(r.g.refusalTime(err))}
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
			found, _ := v.find(d)
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
	ok, err := r.search(ctx, isFound)
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

func (r *repository) isAttached(d digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current()
	a, ok := r.attached[d]
	return ok && time.Now().Before(a.until)
}

// attachment is what is answered of a manifest because of what it is attached to.
type attachment struct {
	// blobs are the sizes of the blobs.
	blobs map[digest.Digest]int64
	// until is when it is looked at again, as verdicts are.
	until time.Time
}

// acceptAttached accepts a manifest that says itself what it is attached to, or for Argo CD of what it is made, or
// to which a tag leads that says so.
func (r *repository) acceptAttached(ctx context.Context, d digest.Digest, stored storedManifest, m *oci.Manifest) error {
	for _, subject := range r.upstream.subjectsOf(d) {
		if r.isAnswered(subject, maxAttachedLevels) {
			return r.recordAttached(ctx, d, stored)
		}
	}
	if m.Subject == nil && !isArgoCD(m) {
		return fmt.Errorf("%w: it has no subject", errNotAttached)
	}
	if m.Subject != nil && !r.isAnswered(m.Subject.Digest, maxAttachedLevels) {
		return fmt.Errorf("%w: its subject %s is not answered", errNotAttached, m.Subject.Digest)
	}
	return r.recordAttached(ctx, d, stored)
}

// maxAttachedLevels is how many times something is attached to something attached.
const maxAttachedLevels = 4

// isAnswered reports whether a manifest is known to be accepted, as a root, in a lock, or attached.
func (r *repository) isAnswered(d digest.Digest, levels int) bool {
	if _, _, ok := r.g.findItem(r, d, anyManifest); ok {
		return true
	}
	return levels > 0 && r.isAttached(d)
}

// recordAttached accepts a manifest whose subject is answered, if it is one that may be attached.
func (r *repository) recordAttached(ctx context.Context, d digest.Digest, stored storedManifest) error {
	now := r.g.ruling.Load()
	if err := r.checkAttached(ctx, stored); err != nil {
		return err
	}
	m, err := oci.ParseManifest(stored.data)
	if err != nil {
		return err
	}
	blobs := map[digest.Digest]int64{}
	for _, b := range m.Blobs() {
		if b.Digest.Validate() == nil {
			blobs[b.Digest] = b.Size
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current() != now {
		return fmt.Errorf("%w: the policy has changed", errNotAttached)
	}
	if len(r.attached) >= maxAttached {
		clear(r.attached)
	}
	began := time.Now()
	r.attached[d] = attachment{blobs, now.nextChange(began, began.Add(r.g.o.Recheck))}
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

// acceptAttachedTag returns what a tag that attaches something leads to.
func (r *repository) acceptAttachedTag(ctx context.Context, tag string, subject digest.Digest, suffix string) (digest.Digest, error) {
	if suffix == "" {
		// The list of the referrers tag schema: it is not needed where there is the API.
		return "", fmt.Errorf("%s:%s: %w", r.where, tag, errdef.ErrNotFound)
	}
	if !r.isAnswered(subject, maxAttachedLevels) {
		if _, err := r.acceptManifest(ctx, subject); err != nil {
			return "", err
		}
	}
	d, err := r.upstream.findAttachedTag(ctx, tag, absentFor)
	if err != nil {
		return "", err
	}
	if err := r.checkRevoked(d); err != nil {
		return "", err
	}
	stored, err := r.upstream.readManifest(ctx, d)
	if err == nil {
		err = r.recordAttached(ctx, d, stored)
	}
	return d, err
}

// absentFor is how long it is remembered what is attached to something, and that nothing is.
const absentFor = time.Minute

// listReferrers lists what is attached to a manifest and would be answered. The descriptors are made of the content.
func (r *repository) listReferrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	if !r.isAnswered(subject, maxAttachedLevels) {
		var refused *UpstreamError
		if _, err := r.acceptManifest(ctx, subject); errors.As(err, &refused) {
			return nil, err
		} else if err != nil {
			return nil, nil // nothing is attached to what is not answered
		}
	}
	found, err := r.upstream.listReferrers(ctx, subject, absentFor)
	if err != nil {
		return nil, err
	}
	listed := []ocispec.Descriptor{}
	for _, desc := range found {
		described, err := r.describeReferrer(ctx, subject, desc.Digest)
		var failed *UpstreamError
		if errors.As(err, &failed) {
			return nil, err
		}
		if err == nil {
			listed = append(listed, described)
		}
	}
	return listed, nil
}

func (r *repository) describeReferrer(ctx context.Context, subject, d digest.Digest) (ocispec.Descriptor, error) {
	stored, err := r.upstream.readManifest(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m, err := oci.ParseManifest(stored.data)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if m.Subject == nil || m.Subject.Digest != subject {
		return ocispec.Descriptor{}, fmt.Errorf("%w: its subject is another one", errNotAttached)
	}
	if err := r.checkRevoked(d); err != nil {
		return ocispec.Descriptor{}, err
	}
	isARoot := m.ArtifactType == bundle.TypeRuntime || m.ArtifactType == bundle.TypeBundle
	if isARoot {
		if _, err := r.acceptManifest(ctx, d); err != nil {
			return ocispec.Descriptor{}, err
		}
	} else if err := r.recordAttached(ctx, d, stored); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := describe(d, stored)
	desc.ArtifactType, desc.Annotations = m.ArtifactType, m.Annotations
	if desc.ArtifactType == "" && m.Config != nil {
		desc.ArtifactType = m.Config.MediaType
	}
	return desc, nil
}

// listTags lists the tags that would be answered.
func (r *repository) listTags(ctx context.Context) ([]string, error) {
	r.mu.Lock()
	r.current()
	tags, until := r.tags, r.tagsUntil
	r.mu.Unlock()
	if time.Now().Before(until) {
		return tags, nil
	}
	return share(ctx, r, "tags", func(ctx context.Context) ([]string, error) {
		now := r.g.ruling.Load()
		tags, err := r.upstream.listTags(ctx)
		if err != nil {
			return r.listSavedTags(ctx, err)
		}
		var mu sync.Mutex
		var answered []string
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(8)
		for _, tag := range newestTags(tags) {
			group.Go(func() error {
				_, err := r.resolveTag(ctx, tag)
				var failed *UpstreamError
				if errors.As(err, &failed) {
					return err
				}
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					answered = append(answered, tag)
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		slices.Sort(answered)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.current() == now {
			r.tags, r.tagsUntil = answered, time.Now().Add(r.g.o.Refresh)
		}
		return answered, nil
	})
}

// listSavedTags lists the tags that were answered before, while upstream is down.
func (r *repository) listSavedTags(ctx context.Context, failure error) ([]string, error) {
	var failed *UpstreamError
	if !errors.As(failure, &failed) {
		return nil, failure
	}
	r.saving.Lock()
	tags := slices.Sorted(maps.Keys(r.saved.Tags))
	r.saving.Unlock()
	if len(tags) == 0 {
		return nil, failure
	}
	return slices.DeleteFunc(tags, func(tag string) bool {
		_, err := r.resolveTag(ctx, tag)
		return err != nil
	}), nil
}
