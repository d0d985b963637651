package transfer_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// followed publishes what Argo CD needs of a version, under a tag.
func followed(t *testing.T, dst oras.GraphTarget, root ocispec.Descriptor, tag string) ocispec.Descriptor {
	t.Helper()
	data, err := content.FetchAll(t.Context(), dst, root)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	_, second, err := bundle.ForArgoCD(&m)
	if err != nil {
		t.Fatal(err)
	}
	desc := put(t, dst, ocispec.MediaTypeImageManifest, second)
	_, index, err := bundle.ArgoCDIndex(root, []ocispec.Descriptor{desc})
	if err != nil {
		t.Fatal(err)
	}
	put(t, dst, ocispec.MediaTypeImageIndex, index)
	if err := dst.Tag(t.Context(), desc, tag); err != nil {
		t.Fatal(err)
	}
	return desc
}

// reasonsOf returns the versions of a plan with their reasons.
func reasonsOf(plan *transfer.PrunePlan) string {
	var lines []string
	for _, v := range plan.Versions {
		reasons := strings.Join(v.Reasons, ", ")
		if reasons == "" {
			reasons = "-"
		}
		lines = append(lines, v.Version+": "+reasons)
	}
	return strings.Join(lines, "; ")
}

// A tag of something that belongs to a version keeps that version, as a tag of the version itself would.
func TestPruneKeepsOwners(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]func(t *testing.T) oras.GraphTarget{"folder": pruned["folder"], "olareg": pruned["olareg"]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dst := target(t)
			roots := w.threeVersions(dst)
			followed(t, dst, roots["1.0.0"], "1.0.0.argocd")
			followed(t, dst, roots["1.1.0"], "1.1.0.argocd")
			attach(t, dst, roots["1.0.0"], ".sig", "a signature by cosign")
			if err := dst.Tag(t.Context(), closureOf(t, dst, roots["1.0.0"]), "site"); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				keep, want string
			}{
				{"1.0.0.argocd", "1.2.0: -; 1.1.0: -; 1.0.0: tag 1.0.0.argocd"},
				{"1.1.0.argo*", "1.2.0: -; 1.1.0: tag 1.1.0.argocd matches 1.1.0.argo*; 1.0.0: -"},
				{cosignTag(roots["1.0.0"], ".sig"), "1.2.0: -; 1.1.0: -; 1.0.0: tag " + cosignTag(roots["1.0.0"], ".sig")},
				{"site", "1.2.0: -; 1.1.0: -; 1.0.0: tag site"},
			} {
				plan := planPrune(t, dst, transfer.PruneOptions{KeepTags: []string{c.keep}, DeleteChannels: true})
				if got := reasonsOf(plan); got != c.want {
					t.Errorf("keep %s: %s, want %s", c.keep, got, c.want)
				}
				if slices.Contains(plan.Tags, c.keep) {
					t.Errorf("keep %s: the plan deletes it", c.keep)
				}
			}
		})
	}
}

// Argo CD follows a tag that lags behind: the version that it has stays whole, with its images.
func TestPruneKeepsWhatArgoCDFollows(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]func(t *testing.T) oras.GraphTarget{"folder": pruned["folder"], "olareg": pruned["olareg"]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dst := target(t)
			roots := w.threeVersions(dst)
			second := followed(t, dst, roots["1.0.0"], "stable.argocd")
			w.publish(dst, roots["1.2.0"], "stable")
			plan := prune(t, dst, transfer.PruneOptions{KeepVersions: 1, DeleteChannels: true})
			dst = reopen(t, dst)
			if at, err := dst.Resolve(t.Context(), "stable.argocd"); err != nil || at.Digest != second.Digest {
				t.Errorf("stable.argocd: %s, %v", at.Digest, err)
			}
			checkAll(t, dst, roots["1.0.0"])
			isGone(t, dst, "the other version", roots["1.1.0"].Digest)
			if got := reasonsOf(plan); !strings.Contains(got, "1.0.0: named by") {
				t.Errorf("reasons %s", got)
			}
		})
	}
}

// A prune whose options keep nothing is refused before it deletes anything.
func TestPruneRefusesToKeepNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst := newLayout(t)
	w.publish(dst, w.version("1.0.0", w.image("base", "web")), "1.0.0")
	elsewhere := map[digest.Digest]string{digest.FromString("elsewhere"): "revision 1 of another runtime"}
	for name, c := range map[string]struct {
		o    transfer.PruneOptions
		want error
	}{
		"zero value":                      {transfer.PruneOptions{}, transfer.ErrKeepsNothing},
		"negative":                        {transfer.PruneOptions{KeepVersions: -1}, transfer.ErrKeepsNothing},
		"revisions of other repositories": {transfer.PruneOptions{KeepDigests: elsewhere}, transfer.ErrKeepsNothing},
		"a pattern that matches nothing":  {transfer.PruneOptions{KeepTags: []string{"2.*"}, KeepVersions: 1}, errdef.ErrNotFound},
	} {
		if plan, err := transfer.PlanPrune(t.Context(), dst, c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, plan %+v", name, err, plan)
		}
	}
}

// Build metadata makes no version newer, and what claims to be a version that no tag of it claims takes nobody's place.
func TestPruneCountsVersions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tags map[string]string // to version
		keep int
		want string
	}{
		"builds":            {map[string]string{"1.0.0_9": "1.0.0+9", "1.0.0_10": "1.0.0+10", "0.9.0": "0.9.0"}, 1, "1.0.0+9: newest version; 1.0.0+10: newest version; 0.9.0: -"},
		"builds, two stay":  {map[string]string{"1.0.0_9": "1.0.0+9", "1.0.0_10": "1.0.0+10", "0.9.0": "0.9.0", "0.8.0": "0.8.0"}, 2, "1.0.0+9: newest 2 versions; 1.0.0+10: newest 2 versions; 0.9.0: newest 2 versions; 0.8.0: -"},
		"claims of a push":  {map[string]string{"0.0.1": "999.0.0", "1.0.0": "1.0.0", "0.9.0": "0.9.0"}, 1, "999.0.0: newest version; 1.0.0: newest version; 0.9.0: -"},
		"a channel's claim": {map[string]string{"x": "999.0.0", "1.0.0": "1.0.0", "0.9.0": "0.9.0"}, 1, "999.0.0: channel x, newest version; 1.0.0: newest version; 0.9.0: -"},
	} {
		w := newWorld(t)
		dst := newLayout(t)
		for tag, version := range c.tags {
			release := w.release("web", version, "")
			if err := oras.CopyGraph(t.Context(), w.dist, dst, release, oras.DefaultCopyGraphOptions); err != nil {
				t.Fatal(err)
			}
			if err := dst.Tag(t.Context(), release, tag); err != nil { // a copy refuses a tag that lies
				t.Fatal(err)
			}
		}
		if got := reasonsOf(planPrune(t, dst, transfer.PruneOptions{KeepVersions: c.keep})); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// What any tool attaches by its tag to something that stays, stays.
func TestPruneKeepsAnySuffix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst := newLayout(t)
	roots := w.threeVersions(dst)
	scan := unknown(t, dst, cosignTag(roots["1.2.0"], ".vuln"), put(t, dst, ocispec.MediaTypeImageLayer, []byte("no findings")))
	prune(t, dst, transfer.PruneOptions{KeepVersions: 1, DeleteUnknown: true})
	if at, err := dst.Resolve(t.Context(), cosignTag(roots["1.2.0"], ".vuln")); err != nil || at.Digest != scan.Digest {
		t.Errorf("the scan: %s, %v", at.Digest, err)
	}
}

// hidingStore lists a tag that it does not resolve, as registries do that forbid it.
type hidingStore struct {
	*layout.Store
	hidden string
	// deleted hides it from later lists, too.
	deleted bool
	lists   int
}

func (h *hidingStore) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	if reference == h.hidden {
		return ocispec.Descriptor{}, errdef.ErrNotFound
	}
	return h.Store.Resolve(ctx, reference)
}

func (h *hidingStore) Tags(ctx context.Context, last string, fn func([]string) error) error {
	h.lists++
	return h.Store.Tags(ctx, last, func(page []string) error {
		isGone := func(tag string) bool { return h.deleted && h.lists > 1 && tag == h.hidden }
		return fn(slices.DeleteFunc(slices.Clone(page), isGone))
	})
}

// A tag that is listed and cannot be read may name what would be deleted; one that was just deleted cannot.
func TestPruneOfHiddenTags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst := newLayout(t)
	w.threeVersions(dst)
	_, err := transfer.PlanPrune(t.Context(), &hidingStore{Store: dst, hidden: "1.1.0"}, transfer.PruneOptions{KeepVersions: 1})
	if err == nil || !strings.Contains(err.Error(), "resolve tag 1.1.0: listed") {
		t.Errorf("error %v", err)
	}
	plan, err := transfer.PlanPrune(t.Context(), &hidingStore{Store: dst, hidden: "1.1.0", deleted: true}, transfer.PruneOptions{KeepVersions: 1})
	if err != nil || slices.Contains(plan.Tags, "1.1.0") {
		t.Errorf("error %v, plan %+v", err, plan)
	}
}

// Tags and manifests go in one order: what is attached after its subject, each once, however often it is left over.
func TestPruneOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst := newLayout(t)
	roots := w.threeVersions(dst)
	old := roots["1.0.0"]
	signature := attach(t, dst, old, ".sig", "a signature by cosign")
	o := transfer.PruneOptions{KeepVersions: 1}
	plan := planPrune(t, dst, o)
	position := func(d digest.Digest) int {
		return slices.IndexFunc(plan.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == d })
	}
	if at := position(old.Digest); at < 0 || at > position(signature.Digest) {
		t.Errorf("manifest %d of the version, %d of its signature", at, position(signature.Digest))
	}
	if at := slices.Index(plan.Tags, "1.0.0"); at < 0 || at > slices.Index(plan.Tags, cosignTag(old, ".sig")) {
		t.Errorf("tags %q", plan.Tags)
	}
	all := plan.Digests()
	o.Leftovers = slices.Concat(all, all)
	again := planPrune(t, dst, o)
	if again.Bytes() != plan.Bytes() || len(again.Digests()) != len(all) {
		t.Errorf("with leftovers %d bytes, %d digests, want %d, %d", again.Bytes(), len(again.Digests()), plan.Bytes(), len(all))
	}
	// Blobs whose manifests are gone, too.
	for _, desc := range plan.Manifests {
		if err := dst.Unlist(t.Context(), []digest.Digest{desc.Digest}); err != nil {
			t.Fatal(err)
		}
		if err := dst.Remove(t.Context(), desc.Digest); err != nil {
			t.Fatal(err)
		}
	}
	rest := planPrune(t, dst, o)
	o.Leftovers = all
	if once := planPrune(t, dst, o); rest.Bytes() != once.Bytes() || rest.Bytes() == 0 {
		t.Errorf("%d bytes of leftovers listed twice, %d of leftovers listed once", rest.Bytes(), once.Bytes())
	}
}

// What stays is read whole, or nothing is deleted; what goes need not be.
func TestPruneReadsWhatStays(t *testing.T) {
	t.Parallel()
	damagedLayer := func(w *world, dst *layout.Store) []ocispec.Descriptor {
		return []ocispec.Descriptor{put(w.t, dst, dockerLayer, []byte{})} // of which gzip says EOF
	}
	for name, c := range map[string]struct {
		layers func(w *world, dst *layout.Store) []ocispec.Descriptor
		want   string
	}{
		"no layer": {func(*world, *layout.Store) []ocispec.Descriptor { return []ocispec.Descriptor{} }, "has 0 layers, want 1"},
		"two layers": {func(w *world, dst *layout.Store) []ocispec.Descriptor {
			l := damagedLayer(w, dst)
			return append(l, l...)
		}, "has 2 layers, want 1"},
		"empty": {damagedLayer, "EOF"},
	} {
		w := newWorld(t)
		dst := newLayout(t)
		roots := w.threeVersions(dst)
		odd := put(t, dst, ocispec.MediaTypeImageManifest, ocispec.Manifest{
			MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundle.TypeRuntime,
			Config: put(t, dst, ocispec.MediaTypeImageConfig, []byte("{}")), Layers: c.layers(w, dst),
			Annotations: map[string]string{ocispec.AnnotationTitle: "edge", ocispec.AnnotationVersion: "0.1.0"},
		})
		if err := dst.Tag(t.Context(), odd, "0.1.0"); err != nil {
			t.Fatal(err)
		}
		_, err := transfer.PlanPrune(t.Context(), dst, transfer.PruneOptions{KeepTags: []string{"0.1.0"}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "the image lock of edge 0.1.0, which stays") {
			t.Errorf("%s, kept: error %v", name, err)
		}
		prune(t, dst, transfer.PruneOptions{KeepVersions: 1})
		isGone(t, dst, name, odd.Digest)
		checkAll(t, dst, roots["1.2.0"])
	}
}

// A folder can hold more than a registry takes: what stays and is too large to read ends the prune.
func TestPruneOfOversizedManifests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst := newLayout(t)
	w.threeVersions(dst)
	large := put(t, dst, "application/octet-stream", []byte(`{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageIndex+`","manifests":[]`+strings.Repeat(" ", 5<<20)+"}"))
	large.MediaType = ocispec.MediaTypeImageIndex
	index := put(t, dst, ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{large}})
	if err := dst.Tag(t.Context(), index, "large"); err != nil {
		t.Fatal(err)
	}
	_, err := transfer.PlanPrune(t.Context(), dst, transfer.PruneOptions{KeepVersions: 1})
	if err == nil || !strings.Contains(err.Error(), "not a valid manifest") {
		t.Errorf("error %v", err)
	}
}
