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

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// argoCDSuffix ends the tag of a manifest for Argo CD.
const argoCDSuffix = ".argocd"

// tagged is what a tag may lead to.
type tagged struct {
	digest        digest.Digest
	name, version string
	root          *verdict
}

// tagAnswer is what a tag leads to.
type tagAnswer struct {
	digest digest.Digest
	// warning is why it is not what it leads to upstream; empty if it is.
	warning string
	err     error
	until   time.Time
}

func (a tagAnswer) size() int64 {
	n := int64(len(a.warning))
	if a.err != nil {
		n += int64(len(a.err.Error()))
	}
	return n
}

// resolveTag returns what a tag leads to: what it leads to upstream if that is accepted, or else what it led to before.
func (r *repository) resolveTag(ctx context.Context, tag string) (tagAnswer, error) {
	known, ok := r.currentDecisions().answers.find(r.placeOf(tag))
	if ok && time.Now().Before(known.until) {
		return known, known.err
	}
	answer, err := share(ctx, r, "tag "+tag, func(ctx context.Context) (tagAnswer, error) {
		now := r.g.policy.Load()
		answer := r.decideTag(ctx, tag)
		answer.until = time.Now().Add(r.g.o.Refresh)
		now.decided.answers.keep(r.placeOf(tag), answer, answer.size())
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
	now := r.g.policy.Load()
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
	saved, err := r.g.state.findRepository(r.where)
	if err != nil {
		return tagAnswer{err: errors.Join(reason, &StateError{err})}
	}
	last, known := saved.Tags[tag]
	if !known || last.Digest == upstream || last.Gone && upstream == "" {
		return tagAnswer{err: reason}
	}
	if _, err := r.checkTag(ctx, tag, last.Digest); err != nil {
		return tagAnswer{err: fmt.Errorf("%w; its previous digest %s: %w", reason, last.Digest, err)}
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
		return tagged{}, fmt.Errorf("%s: %w: a catalogue, which is not signed: name a runtime", d, ErrNotNamed)
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
	// Who only warns of stale channels has them answered.
	if stale := found.root.channels.Check(metadata, tag, time.Now()); stale != nil && stale.Refused {
		return tagged{}, stale
	}
	return found, nil
}

// checkArgoCDTag accepts the manifest for Argo CD of a root under a tag that is the root's and a suffix.
func (r *repository) checkArgoCDTag(ctx context.Context, tag string, d digest.Digest, m *oci.Manifest) (tagged, error) {
	of, is := strings.CutSuffix(tag, argoCDSuffix)
	if !is {
		return tagged{}, fmt.Errorf("%s: %w: a manifest for Argo CD", d, ErrNotNamed)
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
	for _, v := range r.currentDecisions().verdicts.listAccepted(r.where) {
		if v.rootLayer == layer {
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
	if err := r.renewRoots(ctx, isFound); err != nil && !isFound() {
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
	for _, v := range r.currentDecisions().verdicts.listAccepted("") {
		for path := r.name; path != ""; _, path, _ = strings.Cut(path, "/") {
			if v.names[path+":"+tag] == d {
				return true
			}
		}
	}
	return false
}

// moveTag records what a tag leads to, as decided under a policy, unless it would go back. It may go back if the policy
// revokes what it led to.
func (r *repository) moveTag(tag string, found tagged, decidedBy *loadedPolicy) error {
	defer r.g.state.lockRepository(r.where)()
	if r.g.policy.Load() != decidedBy {
		return errPolicyChanged
	}
	saved, err := r.g.state.readRepository(r.where)
	if err != nil {
		return &StateError{err}
	}
	last, known := saved.Tags[tag]
	if known && !last.Gone && last.Digest == found.digest {
		return nil
	}
	mayGoBack := r.g.o.AllowDowngrade || known && (last.Digest == found.digest || decidedBy.policy.CheckRevoked(last.Digest) != nil)
	if known && !mayGoBack {
		if err := checkDowngrade(last, found); err != nil {
			return err
		}
	}
	if err := r.saveTag(saved, tag, savedTag{Digest: found.digest, Name: found.name, Version: found.version, Since: time.Now().UTC()}, found); err != nil {
		return err
	}
	r.g.metrics.moved.Add(1)
	r.g.o.Report(Event{Kind: EventMoved, Repository: r.where, Reference: tag, Digest: found.digest.String(), Name: found.name, Version: found.version})
	return nil
}

// forgetTag records that a tag is removed upstream: it is not answered from what was saved while upstream fails.
func (r *repository) forgetTag(tag string) error {
	defer r.g.state.lockRepository(r.where)()
	saved, err := r.g.state.readRepository(r.where)
	if err != nil {
		return &StateError{err}
	}
	last, known := saved.Tags[tag]
	if !known || last.Gone {
		return nil
	}
	last.Gone = true
	return r.saveTag(saved, tag, last, tagged{})
}

// saveTag saves what a tag leads to, beside all that was saved. The lock of the state is held.
func (r *repository) saveTag(saved *savedRepository, tag string, t savedTag, found tagged) error {
	next := &savedRepository{Repository: r.where, Name: r.name, Tags: maps.Clone(saved.Tags)}
	next.Tags[tag] = t
	next.Lookups = r.collectLookups(next.Tags, saved.Lookups, found)
	if err := r.g.state.saveRepository(next); err != nil {
		r.g.metrics.stateErrors.Add(1)
		r.g.o.Report(Event{Kind: EventState, Repository: r.where, Reference: tag, Err: err})
		return &StateError{err}
	}
	return nil
}

// collectLookups returns the answers by which the roots were verified that tags lead to: those that are known now, and
// else those that were saved.
func (r *repository) collectLookups(tags map[string]savedTag, saved map[string]lookup, found tagged) map[string]lookup {
	all := map[string]lookup{}
	collect := func(v *verdict) {
		for _, name := range v.lookups {
			if l, ok := r.g.lookups.find(r.placeOf(name)); ok {
				all[name] = l
			} else if l, ok := saved[name]; ok {
				all[name] = l
			}
		}
	}
	roots := map[digest.Digest]bool{}
	for _, t := range tags {
		roots[t.Digest] = true
	}
	verdicts := r.currentDecisions().verdicts
	for d := range roots {
		if v, ok := verdicts.find(r.placeOf(d.String())); ok {
			collect(v)
		}
	}
	if found.root != nil {
		collect(found.root)
	}
	for name, l := range saved {
		if _, ok := all[name]; !ok && roots[lookedUpOf(name)] {
			all[name] = l
		}
	}
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
	return transfer.CheckRelease("the tag",
		bundle.Release{Name: last.Name, Version: last.Version, Digest: last.Digest},
		bundle.Release{Name: found.name, Version: found.version, Digest: found.digest})
}

// listTags lists the tags that would be answered.
func (r *repository) listTags(ctx context.Context) ([]string, error) {
	if known, ok := r.currentDecisions().lists.find(r.where); ok && time.Now().Before(known.until) {
		return known.tags, nil
	}
	return share(ctx, r, "tags", func(ctx context.Context) ([]string, error) {
		now := r.g.policy.Load()
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
		l := tagList{answered, time.Now().Add(r.g.o.Refresh)}
		now.decided.lists.keep(r.where, l, l.size())
		return answered, nil
	})
}

// listSavedTags lists the tags that were answered before, while upstream is down.
func (r *repository) listSavedTags(ctx context.Context, failure error) ([]string, error) {
	var failed *UpstreamError
	if !errors.As(failure, &failed) {
		return nil, failure
	}
	saved, err := r.g.state.findRepository(r.where)
	if err != nil {
		return nil, &StateError{err}
	}
	tags := slices.Sorted(maps.Keys(saved.Tags))
	if len(tags) == 0 {
		return nil, failure
	}
	return slices.DeleteFunc(tags, func(tag string) bool {
		_, err := r.resolveTag(ctx, tag)
		return err != nil
	}), nil
}
