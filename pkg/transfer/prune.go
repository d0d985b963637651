package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// PruneStore is a repository of a registry, or a folder, from which something can be deleted. It also has either
// the methods of a registry's repository, CheckDeletes, DeleteTag and DeleteManifest, or Unlist and Remove of a folder.
type PruneStore interface {
	oras.ReadOnlyGraphTarget
	Tags(ctx context.Context, last string, fn func(tags []string) error) error
}

type (
	repositoryPruner interface {
		CheckDeletes(ctx context.Context) error
		DeleteTag(ctx context.Context, tag string) error
		DeleteManifest(ctx context.Context, d digest.Digest) error
	}
	folderPruner interface {
		Unlist(ctx context.Context, manifests []digest.Digest) error
		Remove(ctx context.Context, d digest.Digest) error
		Stat(d digest.Digest) (int64, error)
	}
)

// PruneOptions say what stays. What no option names is deleted, so the zero value is refused.
type PruneOptions struct {
	// KeepTags are globs; what a tag names that one of them matches stays. Each must match a tag. A tag of something that
	// belongs to a version, such as stable.argocd, keeps that version, too.
	KeepTags []string
	// KeepVersions is how many versions of each name stay, the newest. What says that it is another version than all of
	// its tags stays if it seems to be new, but counts for none. Signatures are not verified.
	KeepVersions int
	// KeepDigests are versions that stay, with the reason, such as the revisions that clusters may roll back to.
	KeepDigests map[digest.Digest]string
	// DeleteChannels also deletes versions that a tag names which is not a version; such tags stay by default.
	DeleteChannels bool
	// DeleteUnknown also deletes tags that name neither a bundle nor a runtime, and all that only these need.
	DeleteUnknown bool
	// Leftovers are manifests, and blobs of a folder, that an interrupted prune was about to delete. Those that turn
	// out to be needed stay.
	Leftovers []digest.Digest
	// Concurrency is how many manifests are read at once; 4 when zero.
	Concurrency int
	// BeforeDelete is called after the tags were checked again, before anything is deleted; its error ends the prune.
	BeforeDelete func() error
	// Progress receives events; nil drops them.
	Progress progress.Func
}

// PrunePlan is what a prune deletes, and what stays.
type PrunePlan struct {
	// Versions are the bundles and runtimes that have a tag or are to stay, by name and version, the newest first.
	Versions []PruneVersion
	// Unknown are the tags that name something else, by tag.
	Unknown []PruneUnknown
	// Tags are deleted first, in the order of what they name. The registry deletes them along with Manifests at the latest.
	Tags []string
	// Manifests are deleted in this order, each before all that it names and all that is attached to it.
	Manifests []ocispec.Descriptor
	// Blobs are what then nothing names any more. Registries free them with their garbage collection.
	Blobs []ocispec.Descriptor

	store   PruneStore
	options PruneOptions
	entries []pruneEntry
	// leftoverBlobs are blobs of a folder that an interrupted prune left.
	leftoverBlobs []digest.Digest
}

// PruneVersion is a bundle or a runtime.
type PruneVersion struct {
	Digest digest.Digest
	// Kind is [bundle.KindBundle] or [bundle.KindRuntime].
	Kind, Name, Version string
	Tags                []string
	// Reasons are why it stays; empty if it is deleted.
	Reasons []string
}

// PruneUnknown is a tag that names neither a bundle nor a runtime, and is not attached to anything that is deleted.
type PruneUnknown struct {
	Tag    string
	Digest digest.Digest
	// What says what it is.
	What string
	// Deleted is set if it is deleted all the same.
	Deleted bool
}

// Bytes returns the size of all that is deleted, as its manifests say it.
func (p *PrunePlan) Bytes() (total int64) {
	for _, list := range [][]ocispec.Descriptor{p.Manifests, p.Blobs} {
		for _, d := range list {
			total += d.Size
		}
	}
	return total
}

// IsEmpty reports whether there is nothing to delete.
func (p *PrunePlan) IsEmpty() bool {
	return len(p.Tags)+len(p.Manifests)+len(p.leftoverBlobs) == 0
}

// Digests returns all that is deleted, for [PruneOptions.Leftovers] of the next prune if this one is interrupted.
func (p *PrunePlan) Digests() (all []digest.Digest) {
	for _, d := range p.Manifests {
		all = append(all, d.Digest)
	}
	if _, isFolder := p.store.(folderPruner); isFolder {
		for _, d := range p.Blobs {
			all = append(all, d.Digest)
		}
		all = append(all, p.leftoverBlobs...)
	}
	return sortedDigests(all)
}

// PlanPrune finds out what a repository or folder does not need any more. It reads every manifest that a tag leads to, and
// writes nothing. What stays, stays with all that it names and all that is attached to any of it. Something is
// deleted only if a version that does not stay, or a leftover, leads to it, and nothing that stays names it. An
// error to read any of it ends the search: what cannot be read may name what would be deleted.
//
// It returns [ErrKeepsNothing] if the options name nothing that stays, and [*registry.NoDeletesError] as the store does,
// with the plan.
func PlanPrune(ctx context.Context, store PruneStore, o PruneOptions) (*PrunePlan, error) {
	o.Concurrency = cmp.Or(o.Concurrency, 4)
	if len(o.KeepTags)+len(o.KeepDigests) == 0 && o.KeepVersions <= 0 {
		return nil, fmt.Errorf("prune %s: %w", storeName(store), ErrKeepsNothing)
	}
	o.Leftovers = sortedDigests(o.Leftovers)
	for _, pattern := range o.KeepTags {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", pattern, err)
		}
	}
	_, isRepository := store.(repositoryPruner)
	_, isFolder := store.(folderPruner)
	if !isRepository && !isFolder {
		return nil, fmt.Errorf("prune %s: %w: read-only", storeName(store), errdef.ErrUnsupported)
	}
	_, budget := oci.WithBudget(ctx)
	g := &pruneGraph{store: store, options: o, budget: budget, attachedTags: map[digest.Digest][]pruneEntry{}, nodes: map[digest.Digest]*pruneNode{}, sizes: map[digest.Digest]int64{}}
	entries, err := g.listEntries(ctx)
	if err != nil {
		return nil, fmt.Errorf("prune %s: %w", storeName(store), err)
	}
	if err := checkPatterns(o.KeepTags, entries); err != nil {
		return nil, fmt.Errorf("prune %s: %w", storeName(store), err)
	}
	p := &pruner{pruneGraph: g, plan: &PrunePlan{store: store, options: o, entries: entries}}
	if err := p.makePlan(ctx, entries); err != nil {
		return nil, fmt.Errorf("prune %s: %w", storeName(store), err)
	}
	if r, is := store.(repositoryPruner); is {
		if err := r.CheckDeletes(ctx); err != nil {
			return p.plan, fmt.Errorf("prune %s: %w", storeName(store), err)
		}
	}
	return p.plan, nil
}

// ErrKeepsNothing reports a prune that would delete every version: what was to stay is not there.
var ErrKeepsNothing = errors.New("no version would stay")

// checkPatterns makes sure that each pattern matches a tag: one that was mistyped would keep nothing.
func checkPatterns(patterns []string, entries []pruneEntry) error {
	for _, pattern := range patterns {
		matches := func(e pruneEntry) bool { return e.tag != "" && matchTag([]string{pattern}, e.tag) != "" }
		if !slices.ContainsFunc(entries, matches) {
			return fmt.Errorf("keep %s: no tag matches: %w", pattern, errdef.ErrNotFound)
		}
	}
	return nil
}

// sortedDigests returns digests in order, each once.
func sortedDigests(list []digest.Digest) []digest.Digest {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// pruner makes a plan.
type pruner struct {
	*pruneGraph
	plan *PrunePlan

	versions map[digest.Digest]*PruneVersion
	// others are entries that are not versions, nor attached by their tag.
	others []pruneEntry
	// belonging are entries that are attached to a version, by their tag or by what they are.
	belonging []pruneEntry
	// keptEntries are those of belonging that stay for their tag.
	keptEntries []pruneEntry
	// kept and dropped are the manifests that what stays leads to, and the rest, with what led there.
	kept, dropped map[digest.Digest]string
}

func (p *pruner) makePlan(ctx context.Context, entries []pruneEntry) error {
	p.options.Progress.Emit(progress.Event{Kind: progress.Started, Subject: storeName(p.store), Detail: fmt.Sprintf("%d tags", len(entries))})
	if err := p.sortEntries(ctx, entries); err != nil {
		return err
	}
	p.chooseVersions()
	p.kept, p.dropped = map[digest.Digest]string{}, map[digest.Digest]string{}
	if err := p.walkKept(ctx); err != nil {
		return err
	}
	if err := p.walkDropped(ctx); err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	if err := p.checkReadable(); err != nil {
		return err
	}
	p.fillPlan()
	stays := func(v PruneVersion) bool { return len(v.Reasons) > 0 }
	if len(p.plan.Versions) > 0 && !slices.ContainsFunc(p.plan.Versions, stays) {
		return ErrKeepsNothing
	}
	return nil
}

// sortEntries finds out what each entry is.
func (p *pruner) sortEntries(ctx context.Context, entries []pruneEntry) error {
	p.versions = map[digest.Digest]*PruneVersion{}
	byTag := map[string]digest.Digest{}
	var rest []pruneEntry
	for _, e := range entries {
		byTag[e.tag] = e.desc.Digest
		if subject, is := taggedSubject(e.tag); is {
			p.attachedTags[subject] = append(p.attachedTags[subject], e)
			p.belonging = append(p.belonging, e)
		} else {
			rest = append(rest, e)
		}
	}
	// Before anything is read: what is attached to a manifest is found when that is read.
	for _, e := range rest {
		if tag, is := argoCDTag(e.tag); is && byTag[tag] != "" {
			p.attachedTags[byTag[tag]] = append(p.attachedTags[byTag[tag]], e)
		}
	}
	for d := range p.options.KeepDigests {
		rest = append(rest, pruneEntry{desc: ocispec.Descriptor{Digest: d}})
	}
	nodes := make([]*pruneNode, len(rest))
	group, loading := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i, e := range rest {
		group.Go(func() (err error) {
			if nodes[i], err = p.load(loading, e.desc.Digest); err != nil && e.tag != "" {
				return fmt.Errorf("tag %s: %w", e.tag, err)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, e := range rest {
		p.sortEntry(e, nodes[i], byTag)
	}
	return nil
}

func (p *pruner) sortEntry(e pruneEntry, n *pruneNode, byTag map[string]digest.Digest) {
	followed, isFollower := argoCDTag(e.tag)
	switch {
	case n.absent:
	case n.isVersion():
		v := p.versions[e.desc.Digest]
		if v == nil {
			v = &PruneVersion{Digest: e.desc.Digest, Kind: bundle.KindBundle, Name: n.name, Version: n.version}
			if n.artifactType == bundle.TypeRuntime {
				v.Kind = bundle.KindRuntime
			}
			p.versions[e.desc.Digest] = v
		}
		if e.tag != "" {
			v.Tags = append(v.Tags, e.tag)
		}
	case isFollower && byTag[followed] != "":
		p.belonging = append(p.belonging, e)
	case n.isAttachment() || e.tag == "" && n.subject != "":
		// A registry lists it as a referrer, but a folder of another tool need not.
		p.attachedTags[n.subject] = append(p.attachedTags[n.subject], e)
		p.belonging = append(p.belonging, e)
		if subject := p.nodes[n.subject]; subject != nil {
			subject.attached = append(subject.attached, e.desc.Digest)
		}
	default:
		p.others = append(p.others, e)
		if n.artifactType == bundle.TypeArgoCD {
			p.belonging = append(p.belonging, e)
		}
	}
}

// walkKept visits all that stays because somebody said so.
func (p *pruner) walkKept(ctx context.Context) error {
	for _, d := range slices.Sorted(maps.Keys(p.versions)) {
		if v := p.versions[d]; len(v.Reasons) > 0 {
			if err := p.walk(ctx, []digest.Digest{d}, p.kept, p.nodes[d].label()); err != nil {
				return err
			}
		}
	}
	for _, d := range slices.Sorted(maps.Keys(p.options.KeepDigests)) {
		if err := p.walk(ctx, []digest.Digest{d}, p.kept, p.nodes[d].label()); err != nil {
			return err
		}
	}
	for _, e := range p.keptEntries {
		starts := []digest.Digest{e.desc.Digest}
		if subject, is := taggedSubject(e.tag); is {
			starts = append(starts, subject)
		}
		if err := p.walk(ctx, starts, p.kept, "tag "+e.tag); err != nil {
			return err
		}
	}
	for _, e := range p.others {
		if e.tag == "" || p.options.DeleteUnknown && matchTag(p.options.KeepTags, e.tag) == "" {
			continue // of what has no tag it turns out whether something else leads to it
		}
		if err := p.walk(ctx, []digest.Digest{e.desc.Digest}, p.kept, "tag "+e.tag); err != nil {
			return err
		}
	}
	return nil
}

// walkDropped visits all that does not stay for itself.
func (p *pruner) walkDropped(ctx context.Context) error {
	starts := slices.Clone(p.options.Leftovers)
	for _, d := range slices.Sorted(maps.Keys(p.versions)) {
		if len(p.versions[d].Reasons) == 0 && len(p.versions[d].Tags) > 0 {
			starts = append(starts, d)
		}
	}
	for _, e := range p.others {
		if e.tag != "" && p.options.DeleteUnknown {
			starts = append(starts, e.desc.Digest)
		}
	}
	if p.options.DeleteUnknown {
		orphans, err := p.listOrphans(ctx)
		if err != nil {
			return err
		}
		starts = append(starts, orphans...)
	}
	return p.walk(ctx, starts, p.dropped, "")
}

// listOrphans returns what tags attach to manifests that are not here.
func (p *pruner) listOrphans(ctx context.Context) (orphans []digest.Digest, err error) {
	for _, subject := range slices.Sorted(maps.Keys(p.attachedTags)) {
		n, err := p.load(ctx, subject)
		if err != nil {
			return nil, err
		}
		for _, e := range p.attachedTags[subject] {
			if n.absent && matchTag(p.options.KeepTags, e.tag) == "" {
				orphans = append(orphans, e.desc.Digest)
			}
		}
	}
	return orphans, nil
}

// settle keeps what cannot be shown to be unneeded: what something that stays names in any way, and what
// nothing that is deleted leads to. What is kept for that keeps more, until nothing changes.
func (p *pruner) settle(ctx context.Context) error {
	leftover := map[digest.Digest]bool{}
	for _, d := range p.options.Leftovers {
		leftover[d] = true
	}
	for {
		before := len(p.kept)
		// What is listed without a tag and cannot be reached from what is deleted.
		for _, e := range p.others {
			if _, known := p.dropped[e.desc.Digest]; !known {
				if err := p.walk(ctx, []digest.Digest{e.desc.Digest}, p.kept, cmp.Or(e.tag, "an entry of index.json")); err != nil {
					return err
				}
			}
		}
		for _, v := range p.versions {
			if _, known := p.dropped[v.Digest]; !known && len(v.Reasons) == 0 {
				if err := p.walk(ctx, []digest.Digest{v.Digest}, p.kept, "an entry of index.json"); err != nil {
					return err
				}
			}
		}
		// What is attached to something that is not here, or that nothing leads to.
		for _, subject := range slices.Sorted(maps.Keys(p.attachedTags)) {
			_, isDropped := p.dropped[subject]
			if isDropped && (p.isHere(subject) || leftover[subject]) {
				continue
			}
			for _, e := range p.attachedTags[subject] {
				if _, isOrphan := p.dropped[e.desc.Digest]; isOrphan && p.options.DeleteUnknown && !p.isHere(subject) {
					continue
				}
				if err := p.walk(ctx, []digest.Digest{e.desc.Digest}, p.kept, "tag "+e.tag); err != nil {
					return err
				}
			}
		}
		// What is attached to something that stays, under a tag of a tool that is not known.
		for _, e := range p.others {
			subject, _ := suffixedSubject(e.tag)
			if _, isKept := p.kept[subject]; isKept && p.isHere(subject) {
				if err := p.walk(ctx, []digest.Digest{e.desc.Digest}, p.kept, "tag "+e.tag); err != nil {
					return err
				}
			}
		}
		named := p.namedBy(p.kept)
		seconds := p.secondManifests()
		for _, d := range slices.Sorted(maps.Keys(p.dropped)) {
			_, isKept := p.kept[d]
			_, subjectIsKept := p.kept[p.nodes[d].subject]
			hasSecond := p.nodes[d].isVersion() && seconds[p.nodes[d].contentKey()]
			if !isKept && (named[d] || hasSecond || subjectIsKept && !p.nodes[p.nodes[d].subject].absent) {
				if err := p.walk(ctx, []digest.Digest{d}, p.kept, p.nodes[d].label()); err != nil {
					return err
				}
			}
		}
		if len(p.kept) == before {
			return nil
		}
	}
}

// checkReadable makes sure that what stays was read as far as it says that it leads.
func (p *pruner) checkReadable() error {
	for _, d := range slices.Sorted(maps.Keys(p.kept)) {
		for _, next := range p.nodes[d].expected {
			if n := p.nodes[next]; n != nil && n.isOpaque {
				return fmt.Errorf("read manifest %s (required by %s): not a valid manifest", next, p.nodes[d].label())
			}
		}
	}
	return nil
}

// secondManifests returns the content of the manifests for Argo CD that stay: each needs its bundle or runtime, whose
// signatures and images it has.
func (p *pruner) secondManifests() map[string]bool {
	seconds := map[string]bool{}
	for d := range p.kept {
		if n := p.nodes[d]; n.artifactType == bundle.TypeArgoCD && len(n.blobs) > 0 {
			seconds[n.contentKey()] = true
		}
	}
	return seconds
}

// isHere reports whether a subject that was visited, or none that was, exists.
func (p *pruner) isHere(subject digest.Digest) bool {
	n := p.nodes[subject]
	return n != nil && !n.absent
}

// fillPlan fills the plan with what was found.
func (p *pruner) fillPlan() {
	deleted := map[digest.Digest]bool{}
	for d := range p.dropped {
		if _, isKept := p.kept[d]; !isKept && !p.nodes[d].absent {
			deleted[d] = true
		}
	}
	named := p.namedBy(p.kept)
	for d := range deleted {
		if named[d] {
			delete(deleted, d)
		}
	}
	blobs := map[digest.Digest]bool{}
	for _, d := range p.sortParentsFirst(deleted) {
		p.plan.Manifests = append(p.plan.Manifests, p.nodes[d].desc)
		for _, blob := range p.nodes[d].blobs {
			if !named[blob] && !deleted[blob] {
				blobs[blob] = true
			}
		}
	}
	for _, d := range p.options.Leftovers {
		if n := p.nodes[d]; n != nil && n.absent && !named[d] {
			p.plan.leftoverBlobs = append(p.plan.leftoverBlobs, d)
		}
	}
	p.addBlobs(blobs)
	tags := map[digest.Digest][]string{}
	for _, e := range p.plan.entries {
		if e.tag != "" {
			tags[e.desc.Digest] = append(tags[e.desc.Digest], e.tag)
		}
	}
	// In the order of their manifests: some registries delete the manifest with its tag.
	for _, desc := range p.plan.Manifests {
		p.plan.Tags = append(p.plan.Tags, tags[desc.Digest]...)
	}
	p.describeVersions(deleted)
	p.describeUnknown(deleted)
}

// addBlobs adds the blobs that exist, as far as that can be told.
func (p *pruner) addBlobs(blobs map[digest.Digest]bool) {
	folder, isFolder := p.store.(folderPruner)
	if !isFolder {
		p.plan.leftoverBlobs = nil
	}
	for _, d := range slices.Sorted(maps.Keys(blobs)) {
		size := p.sizes[d]
		if isFolder {
			var err error
			if size, err = folder.Stat(d); err != nil {
				continue
			}
		}
		p.plan.Blobs = append(p.plan.Blobs, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size})
	}
	p.plan.leftoverBlobs = slices.DeleteFunc(p.plan.leftoverBlobs, func(d digest.Digest) bool {
		size, err := folder.Stat(d)
		if err == nil && !blobs[d] {
			p.plan.Blobs = append(p.plan.Blobs, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size})
		}
		return err != nil || blobs[d]
	})
}

func (p *pruner) describeVersions(deleted map[digest.Digest]bool) {
	for d, v := range p.versions {
		if by, isKept := p.kept[d]; isKept && len(v.Reasons) == 0 {
			v.Reasons = []string{"named by " + by}
			if by == p.nodes[d].label() {
				v.Reasons = []string{"named by what stays"}
			}
		}
		if deleted[d] || len(v.Reasons) > 0 {
			p.plan.Versions = append(p.plan.Versions, *v)
		}
	}
	slices.SortFunc(p.plan.Versions, func(a, b PruneVersion) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind)*-1, cmp.Compare(a.Name, b.Name), compareVersions(&a, &b))
	})
}

// describeUnknown lists what is not a version and stays, or is deleted, though nothing explains it.
func (p *pruner) describeUnknown(deleted map[digest.Digest]bool) {
	for _, e := range p.others {
		if e.tag != "" {
			n := p.nodes[e.desc.Digest]
			p.plan.Unknown = append(p.plan.Unknown, PruneUnknown{e.tag, e.desc.Digest, cmp.Or(n.artifactType, n.desc.MediaType), deleted[e.desc.Digest]})
		}
	}
	for subject, entries := range p.attachedTags {
		_, isKept := p.kept[subject]
		_, isDropped := p.dropped[subject]
		if p.isHere(subject) && (isKept || isDropped) {
			continue
		}
		for _, e := range entries {
			if e.tag != "" && (!deleted[e.desc.Digest] || p.options.DeleteUnknown) {
				p.plan.Unknown = append(p.plan.Unknown, PruneUnknown{e.tag, e.desc.Digest, "attached to a manifest that no version names", deleted[e.desc.Digest]})
			}
		}
	}
	slices.SortFunc(p.plan.Unknown, func(a, b PruneUnknown) int { return strings.Compare(a.Tag, b.Tag) })
}
