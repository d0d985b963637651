// Package catalog makes pages of what registries, folders and archives have: for people to look at, without a server,
// without a network and without JavaScript.
//
// Call [ListRoots] for the versions at a place, [Collect] to read them, and [WriteSite] to write the pages, or
// [NewHandler] to serve them. [WriteStatus] writes a page of what runs on a cluster. Everything that comes from
// registries, bundles and images is shown as text. The same content gives the same bytes.
package catalog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sbom"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// Store is the content of a place.
type Store interface {
	oras.ReadOnlyGraphTarget
	// Tags calls fn with the tags after last, in order, a page at a time.
	Tags(ctx context.Context, last string, fn func(tags []string) error) error
}

// Place is where versions are.
type Place struct {
	// Name is what commands call it, without a version: registry.example/krt/edge, oci:dist, edge.tar.
	Name string
	// Repository is the name by which trust policies know it; [trust.Local] when empty.
	Repository string
	Store      Store
	// Roots are the versions to show, as [ListRoots] returns them.
	Roots []Root
	// OlderCount is how many more versions there are.
	OlderCount int
}

// Root is a version and the tags that lead to it.
type Root struct {
	Descriptor ocispec.Descriptor
	Tags       []string
}

// The limits on what pages show.
const (
	// DefaultVersions is how many versions of a runtime are shown.
	DefaultVersions = 20
	// maxOtherTags is how many tags are followed that are not versions.
	maxOtherTags = 200
	// parallel is how many bundles, images and attachments are read at once.
	parallel = 8
)

// Options are the parameters of [Collect].
type Options struct {
	// Policy is the trust policy that each version is held against; nil verifies nothing, and the pages say so.
	Policy *trust.Policy
	// PolicyName is what pages call the policy.
	PolicyName string
	// AllowRenamedTags lets a tag that is a version lead to another one. Without it that is an error of the version.
	AllowRenamedTags bool
	// Report is called with what should be known of a version, and of what could not be read; nil drops it.
	Report func(reference string, err error)
}

// listedTag is a tag, and the version that it names.
type listedTag struct {
	name    string
	version *semver.Version
}

// ListRoots returns the newest versions at a place that are bundles or runtimes, and how many older tags were not
// followed. Versions is how many tags that are versions are followed; [DefaultVersions] when zero. Others, such as
// channels, always are, up to 200.
func ListRoots(ctx context.Context, store Store, versions int) (roots []Root, older int, err error) {
	tags, older, err := listTags(ctx, store, cmp.Or(versions, DefaultVersions))
	if err != nil {
		return nil, 0, err
	}
	at := map[string]int{}
	for _, tag := range tags {
		desc, err := store.Resolve(ctx, tag.name)
		if err != nil {
			return nil, 0, fmt.Errorf("resolve %s: %w", tag.name, err)
		}
		i, known := at[desc.Digest.String()]
		if !known {
			_, err := bundle.ReadManifest(ctx, store, desc)
			if errors.Is(err, bundle.ErrNotOurs) {
				continue
			}
			// What cannot be read is shown as such.
			i = len(roots)
			at[desc.Digest.String()] = i
			roots = append(roots, Root{Descriptor: desc})
		}
		roots[i].Tags = append(roots[i].Tags, tag.name)
	}
	return roots, older, nil
}

// listTags returns the tags to follow: versions, the newest first, and then the others.
func listTags(ctx context.Context, store Store, most int) (tags []listedTag, older int, err error) {
	var others []listedTag
	listed := 0
	err = store.Tags(ctx, "", func(page []string) error {
		if listed += len(page); listed > oci.MaxListed {
			return fmt.Errorf("more than %d tags: %w", oci.MaxListed, oci.ErrTooLarge)
		}
		for _, tag := range page {
			if strings.HasPrefix(tag, "sha256-") || strings.ContainsAny(tag, "/:") {
				continue // a signature, a referrer, or an image by its name
			}
			if v, err := semver.NewVersion(strings.Replace(tag, "_", "+", 1)); err == nil {
				tags = append(tags, listedTag{tag, v})
			} else {
				others = append(others, listedTag{name: tag})
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	slices.SortStableFunc(tags, func(a, b listedTag) int { return cmp.Or(b.version.Compare(a.version), cmp.Compare(a.name, b.name)) })
	if len(tags) > most {
		tags, older = tags[:most], len(tags)-most
	}
	if len(others) > maxOtherTags {
		return nil, 0, fmt.Errorf("more than %d tags that are not versions: name the versions to show: %w", maxOtherTags, oci.ErrTooLarge)
	}
	slices.SortFunc(others, func(a, b listedTag) int { return cmp.Compare(a.name, b.name) })
	return append(tags, others...), older, nil
}

// Collect reads the versions at places. What cannot be read of a version is in the document, reported, and in the
// error, with which the document is complete but for that.
func Collect(ctx context.Context, places []Place, o Options) (*result.Catalog, error) {
	_, budget := oci.WithBudget(ctx)
	c := &collector{options: o, budget: budget, findingRoom: maxFindingBytes, catalog: &result.Catalog{Runtimes: []result.CatalogRuntime{}, Icons: map[string]string{}}}
	if o.Policy != nil {
		c.catalog.Policy = &result.ReceiptPolicy{Name: cmp.Or(o.PolicyName, o.Policy.DisplayName()), Digest: o.Policy.Digest.String()}
	}
	for i := range places {
		if places[i].Store == nil {
			return nil, fmt.Errorf("catalog: Place.Store is nil in place %d of %d", i+1, len(places))
		}
		if err := c.addPlace(ctx, &places[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", places[i].Name, err)
		}
	}
	slices.SortStableFunc(c.catalog.Runtimes, func(a, b result.CatalogRuntime) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Place, b.Place))
	})
	return c.catalog, errors.Join(c.failed...)
}

// collector makes the document.
type collector struct {
	options Options
	catalog *result.Catalog
	failed  []error
	// budget is for what is kept of images and of what is attached, and findingRoom how many more bytes findings may take.
	budget      *oci.Budget
	findingRoom int64
}

func (c *collector) reportProblem(reference string, err error) {
	c.failed = append(c.failed, fmt.Errorf("%s: %w", reference, err))
	if c.options.Report != nil {
		c.options.Report(reference, err)
	}
}

// placeReader reads the versions of one thing at one place, the oldest first.
type placeReader struct {
	*collector
	place   *Place
	runtime *result.CatalogRuntime
	bundles map[string]bool
	images  *imageReader
	// before is the version before the one that is read.
	before *bundle.Set
}

// foundRoot is a root with what its manifest says of it.
type foundRoot struct {
	Root
	name    string
	version *semver.Version
}

// addPlace adds all that is at a place.
func (c *collector) addPlace(ctx context.Context, place *Place) error {
	byName := map[string][]foundRoot{}
	for _, root := range place.Roots {
		found := foundRoot{Root: root, name: "unreadable"}
		m, err := bundle.ReadManifest(ctx, place.Store, root.Descriptor)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			found.name = cmp.Or(m.Annotations[ocispec.AnnotationTitle], "unnamed")
			found.version, _ = semver.NewVersion(m.Annotations[ocispec.AnnotationVersion])
		}
		byName[found.name] = append(byName[found.name], found)
	}
	older := place.OlderCount
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		roots := byName[name]
		slices.SortStableFunc(roots, func(a, b foundRoot) int {
			return cmp.Or(compareVersions(a.version, b.version), cmp.Compare(a.Descriptor.Digest, b.Descriptor.Digest))
		})
		r := &placeReader{
			collector: c, place: place, bundles: map[string]bool{}, images: newImageReader(place.Store, c.budget),
			runtime: &result.CatalogRuntime{
				Name: name, Place: place.Name, OlderCount: older,
				Versions: []result.CatalogVersion{}, Bundles: []result.CatalogBundle{}, Images: []result.CatalogImage{},
			},
		}
		older = 0 // of all that is at the place
		for _, root := range roots {
			if err := r.addVersion(ctx, root); err != nil {
				return err
			}
		}
		slices.Reverse(r.runtime.Versions)
		slices.SortFunc(r.runtime.Bundles, func(a, b result.CatalogBundle) int {
			return cmp.Or(cmp.Compare(a.Metadata.Name, b.Metadata.Name), cmp.Compare(a.Digest, b.Digest))
		})
		r.runtime.Images = append(r.runtime.Images, r.images.listImages()...)
		c.catalog.Runtimes = append(c.catalog.Runtimes, *r.runtime)
	}
	return nil
}

// compareVersions compares versions; what has none is the oldest.
func compareVersions(a, b *semver.Version) int {
	switch {
	case a == nil || b == nil:
		return cmp.Compare(btoi(a != nil), btoi(b != nil))
	}
	return cmp.Or(a.Compare(b), cmp.Compare(a.Original(), b.Original()))
}

func btoi(is bool) int {
	if is {
		return 1
	}
	return 0
}

// addVersion reads a version. Its error is that of the context, or that a limit was met.
func (r *placeReader) addVersion(ctx context.Context, root foundRoot) error {
	reference := r.place.Name
	if len(root.Tags) > 0 {
		reference += ":" + root.Tags[0]
	}
	reference += "@" + root.Descriptor.Digest.String()
	v := result.CatalogVersion{
		Inspect: result.Inspect{
			Artifact: result.Artifact{Reference: reference, Name: root.name, Digest: root.Descriptor.Digest.String()},
			Bundles:  []result.Bundle{}, Signatures: []sign.Claim{}, Attestations: []sign.Claim{},
		},
		Tags: append([]string{}, root.Tags...), Licenses: []result.CatalogLicense{}, Reports: []result.CatalogReport{},
	}
	set, err := r.readVersion(ctx, root, reference, &v)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		v.Error = &result.Error{Code: result.Failed, ExitCode: 1, Message: err.Error(), Object: reference}
		r.reportProblem(reference, err)
	}
	if set != nil {
		r.before = set
	}
	r.runtime.Versions = append(r.runtime.Versions, v)
	return nil
}

// readVersion reads a version into v, and returns what was opened; nil if that failed.
func (r *placeReader) readVersion(ctx context.Context, root foundRoot, reference string, v *result.CatalogVersion) (*bundle.Set, error) {
	set, err := bundle.OpenSet(ctx, r.place.Store, root.Descriptor)
	if err != nil {
		return nil, err
	}
	claims, release, err := r.listClaims(ctx, root.Descriptor)
	if err != nil {
		return set, err
	}
	defer release()
	v.Inspect = *DescribeRoot(set, reference, claims)
	for i := range v.Attestations {
		v.Attestations[i].Predicate = nil // what the claims hold is read, and is not part of the document
	}
	if v.Created, err = set.Root.Created(); err != nil {
		return set, err
	}
	var renamed error
	for _, tag := range root.Tags {
		if err := set.Root.Metadata().CheckTag(tag); err != nil && !r.options.AllowRenamedTags {
			renamed = errors.Join(renamed, err)
		}
	}
	r.verifyVersion(ctx, root.Root, set.Root.Metadata(), v)
	if err := r.images.readImages(ctx, set); err != nil {
		return set, err
	}
	for _, problem := range r.images.listProblems(set) {
		r.reportProblem(reference, problem)
	}
	if err := r.addBundles(ctx, set); err != nil {
		return set, err
	}
	signed := graph.WithoutSignature
	if len(v.Signatures) > 0 {
		signed = graph.WithSignature
	}
	if v.Graph, err = DrawGraph(set, signed, r.images.sizeFunc()); err != nil {
		return set, err
	}
	if v.SBOM, err = sbom.CycloneDX(set); err != nil {
		return set, fmt.Errorf("SBOM: %w", err)
	}
	v.Licenses = countLicenses(set, claims)
	v.Reports = r.listReports(v, claims)
	if r.before != nil {
		v.Changes = r.compareBefore(ctx, set)
	}
	return set, errors.Join(renamed, ctx.Err())
}

// listClaims returns what is attached to a root, within the budget. What it returns gives back what the predicates take, once
// they are dropped.
func (r *placeReader) listClaims(ctx context.Context, root ocispec.Descriptor) (claims []sign.Claim, release func(), err error) {
	if claims, err = sign.ListClaims(ctx, r.place.Store, root); err != nil {
		return nil, nil, err
	}
	var kept, predicates int64
	for i := range claims {
		kept += claimMemory(&claims[i])
		predicates += int64(len(claims[i].Predicate))
	}
	if err := r.budget.Take(kept + predicates); err != nil {
		return nil, nil, fmt.Errorf("signatures and attestations: %w", err)
	}
	return claims, func() { r.budget.Release(predicates) }, nil
}

// DrawGraph returns the picture of a root: what it requires by layers, and what sizeOf returns of images by digest,
// or nil where that is not known.
func DrawGraph(set *bundle.Set, signed graph.Signed, sizeOf func(digests ...string) *int64) (*graph.Graph, error) {
	m := set.Root.Metadata()
	g := &graph.Graph{Name: m.Name, Version: m.Version, Signed: signed}
	var components []layers.Component
	all := []string{set.Root.Descriptor.Digest.String()}
	count := map[string]bool{}
	for _, b := range set.Bundles {
		components = append(components, b.Bundle.Component())
		own := []string{b.Descriptor.Digest.String()}
		for _, image := range b.Images.DistinctImages() {
			own = append(own, image.DigestStr())
			count[image.DigestStr()] = true
		}
		images := len(own) - 1
		for _, item := range b.Cargo.DistinctImages() {
			own = append(own, item.DigestStr())
		}
		g.Nodes = append(g.Nodes, graph.Node{
			Name: b.Metadata().Name, Version: b.Metadata().Version, Layer: b.Bundle.Spec.Layer, Category: b.Bundle.Spec.Category,
			Images: &images, Bytes: sizeOf(own...), Signed: signed,
		})
		all = append(all, own...)
	}
	images := len(count)
	g.Images, g.Bytes = &images, sizeOf(all...)
	if set.Root.Runtime == nil {
		return g, nil // what a bundle on its own requires is elsewhere
	}
	needs, err := layers.RequiredIndexes(components, set.Root.Runtime.Provided...)
	if err != nil {
		return nil, err
	}
	for i, list := range needs {
		for _, on := range list {
			g.Nodes[i].Requires = append(g.Nodes[i].Requires, components[on].Name)
		}
	}
	return g, nil
}

// addBundles adds what the bundles of a version say of themselves, each digest once.
func (r *placeReader) addBundles(ctx context.Context, set *bundle.Set) error {
	var fresh []*bundle.Artifact
	for _, b := range set.Bundles {
		if d := b.Descriptor.Digest.String(); !r.bundles[d] {
			r.bundles[d] = true
			fresh = append(fresh, b)
		}
	}
	described := make([]result.CatalogBundle, len(fresh))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, b := range fresh {
		group.Go(func() error {
			described[i] = describeContent(ctx, b)
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, b := range fresh {
		if icon := b.Bundle.Spec.Icon; icon != "" && bundle.CheckIcon(icon) == nil {
			sum := sha256.Sum256([]byte(icon))
			described[i].Icon = hex.EncodeToString(sum[:])
			r.catalog.Icons[described[i].Icon] = icon
		}
		if described[i].Problem != "" {
			r.reportProblem(r.place.Name, fmt.Errorf("values of bundle %s %s: %s", b.Metadata().Name, b.Metadata().Version, described[i].Problem))
		}
	}
	r.runtime.Bundles = append(r.runtime.Bundles, described...)
	return nil
}

// describeContent returns what a bundle says of itself, and which values it takes.
func describeContent(ctx context.Context, b *bundle.Artifact) result.CatalogBundle {
	spec := b.Bundle.Spec
	d := result.CatalogBundle{
		Digest: b.Descriptor.Digest.String(), Metadata: b.Metadata(), Layer: spec.Layer, Category: spec.Category,
		Support: spec.Support, ReleaseNotes: spec.ReleaseNotes, Values: []result.CatalogValue{},
	}
	for _, m := range spec.Maintainers {
		d.Maintainers = append(d.Maintainers, m.Name)
	}
	fields, err := render.ListValues(ctx, &b.Content)
	if err != nil {
		d.Problem = err.Error()
		return d
	}
	for at, f := range fields {
		d.Values = append(d.Values, result.CatalogValue{
			Value: at, Description: f.Description,
			ValueState: compare.ValueState{Type: f.Type, Default: f.Default, Required: f.Required, Allowed: f.Allowed},
		})
	}
	slices.SortFunc(d.Values, func(a, b result.CatalogValue) int { return cmp.Compare(a.Value, b.Value) })
	return d
}

// compareBefore compares a version with the one before.
func (r *placeReader) compareBefore(ctx context.Context, set *bundle.Set) *result.CatalogChanges {
	changes := &result.CatalogChanges{From: r.before.Root.Metadata().Version, Digest: r.before.Root.Descriptor.Digest.String()}
	platforms := func(_ context.Context, digest string) ([]string, error) { return r.images.platformsOf(digest), nil }
	compared, err := compare.Compare(ctx, compare.Version{Set: r.before, Platforms: platforms}, compare.Version{Set: set, Platforms: platforms})
	if err != nil {
		changes.Problem = err.Error()
		return changes
	}
	changes.Comparison = compared
	changes.Carry = r.images.measureCarry(r.before, set)
	return changes
}

// verifyVersion holds a version against the policy.
func (r *placeReader) verifyVersion(ctx context.Context, root Root, m bundle.Metadata, v *result.CatalogVersion) {
	policy := r.options.Policy
	if policy == nil {
		return
	}
	v.Verdict = &result.CatalogVerdict{}
	found, channels, err := policy.VerifyChannels(ctx, r.place.Store, root.Descriptor, cmp.Or(r.place.Repository, trust.Local))
	if err != nil {
		v.Verdict.Reason = err.Error()
		return
	}
	now := policy.Now
	if now.IsZero() {
		now = time.Now()
	}
	v.Verdict.Accepted, v.Verdict.Signatures = true, DescribeSignatures(found)
	v.Verdict.Promotions = site.ListPromotions(found)
	for i := range v.Verdict.Signatures.Attestations {
		v.Verdict.Signatures.Attestations[i].Predicate = nil
	}
	if stale := channels.CheckAll(now); stale != nil {
		v.Verdict.Stale = stale.Error()
	}
	for _, tag := range root.Tags {
		if stale := channels.Check(m, tag, now); stale != nil {
			v.Verdict.StaleTags = append(v.Verdict.StaleTags, result.StaleTag{Tag: tag, Reason: stale.Error(), Refused: stale.Refused})
		}
	}
}
