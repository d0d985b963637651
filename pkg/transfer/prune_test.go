package transfer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// version puts a version of a runtime with one bundle into the world, with a signature and an SBOM of the SBOM.
func (w *world) version(version string, images ...ocispec.Descriptor) ocispec.Descriptor {
	w.t.Helper()
	web := w.pack(&bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
			Metadata: bundle.Metadata{Name: "web", Version: version}, Spec: bundle.BundleSpec{Layer: 6, Sources: []bundle.Source{{Dir: "config"}}},
		},
		Images: lockOf(w.t, "origin.example/app", images...),
	})
	root := w.pack(&bundle.Content{
		Runtime: &bundle.RuntimeLock{
			APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock,
			Metadata: bundle.Metadata{Name: "edge", Version: version},
		},
		Images: lockOf(w.t, "krtpkg.invalid/bundles/any", web),
	})
	signed(w.t, w.dist, root, signtest.NewSigner(w.t))
	sbom := refer(w.t, w.dist, root, "application/spdx+json", "an SBOM of "+version)
	attach(w.t, w.dist, sbom, ".sbom", "an SBOM of the SBOM of "+version)
	return root
}

// publish copies versions, each under its own tag and more.
func (w *world) publish(dst oras.GraphTarget, root ocispec.Descriptor, tags ...string) {
	w.t.Helper()
	_, err := transfer.Copy(w.t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: tags}}, dst, transfer.Options{Origins: w, MoveTags: true})
	if err != nil {
		w.t.Fatal(err)
	}
}

// threeVersions publishes versions that share all but one layer of one image.
func (w *world) threeVersions(dst oras.GraphTarget) (roots map[string]ocispec.Descriptor) {
	roots = map[string]ocispec.Descriptor{}
	tool := w.index(w.image("base", "tool on amd64"), w.image("base", "tool on arm64"))
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		roots[version] = w.version(version, tool, w.image("base", "web "+version+strings.Repeat(" padding", 5000)))
		w.publish(dst, roots[version], version)
	}
	return roots
}

// prunedWorld has a folder with everything, too, to look into.
type prunedWorld struct {
	*world
	whole *layout.Store
}

func newPrunedWorld(t *testing.T) prunedWorld { return prunedWorld{newWorld(t), newLayout(t)} }

// isManifest reports whether a digest is that of a manifest: some registries answer such a question with an error.
func (w prunedWorld) isManifest(d string) bool {
	if digest.Digest(d).Validate() != nil {
		return false
	}
	desc, err := w.whole.Resolve(w.t.Context(), d)
	return err == nil && oci.IsManifest(desc.MediaType) // a bundle of Sigstore has a media type, too
}

func planPrune(t *testing.T, store oras.GraphTarget, o transfer.PruneOptions) *transfer.PrunePlan {
	t.Helper()
	plan, err := transfer.PlanPrune(t.Context(), store.(transfer.PruneStore), o)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func prune(t *testing.T, store oras.GraphTarget, o transfer.PruneOptions) *transfer.PrunePlan {
	t.Helper()
	plan := planPrune(t, store, o)
	if _, err := plan.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	return plan
}

// reopen opens a store again, so that nothing is remembered.
func reopen(t *testing.T, store oras.GraphTarget) oras.GraphTarget {
	t.Helper()
	switch s := store.(type) {
	case *registry.Repository:
		client, err := registry.New(registry.Options{})
		if err != nil {
			t.Fatal(err)
		}
		again, err := client.Repository(t.Context(), s.String())
		if err != nil {
			t.Fatal(err)
		}
		return again
	case *layout.Store:
		again, err := layout.Open(strings.TrimPrefix(s.String(), "oci:"))
		if err != nil {
			t.Fatal(err)
		}
		return again
	}
	t.Fatalf("unknown store %T", store)
	return nil
}

func tagsOf(t *testing.T, store oras.GraphTarget) (tags []string) {
	t.Helper()
	err := store.(transfer.PruneStore).Tags(t.Context(), "", func(page []string) error {
		tags = append(tags, page...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tags
}

// isGone makes sure that a manifest was deleted.
func isGone(t *testing.T, store oras.GraphTarget, what string, d digest.Digest) {
	t.Helper()
	if _, err := store.Resolve(t.Context(), d.String()); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("%s %s is still there: %v", what, d, err)
	}
}

// checkAll reads every byte of a version at its place.
func checkAll(t *testing.T, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor) {
	t.Helper()
	plan, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: store, Root: root}}, transfer.Options{Attached: transfer.AttachedAll})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := plan.CheckContent(t.Context()); err != nil {
		t.Error(err)
	}
}

var pruned = map[string]func(t *testing.T) oras.GraphTarget{
	"folder":        func(t *testing.T) oras.GraphTarget { return newLayout(t) },
	"olareg":        onRegistry(registrytest.Options{Kind: registrytest.Olareg}),
	"olareg plain":  onRegistry(registrytest.Options{Kind: registrytest.Olareg, NoReferrers: true}),
	"distribution3": onRegistry(registrytest.Options{Kind: registrytest.Distribution3}),
	"distribution2": onRegistry(registrytest.Options{Kind: registrytest.Distribution2}),
}

// What a prune leaves is whole, with all that is attached to it, wherever it is; what it deletes is gone, with all
// that is attached to it.
func TestPrune(t *testing.T) {
	t.Parallel()
	for name, target := range pruned {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newPrunedWorld(t)
			dst := target(t)
			roots := w.threeVersions(dst)
			for version, root := range roots {
				w.publish(w.whole, root, version)
			}
			want := contentOf(t, dst, roots["1.2.0"])
			old := contentOf(t, dst, roots["1.0.0"])
			plan := prune(t, dst, transfer.PruneOptions{KeepVersions: 1, KeepTags: []string{"1.1.0"}})
			dst = reopen(t, dst)
			equal(t, contentOf(t, dst, roots["1.2.0"]), want)
			for _, version := range []string{"1.1.0", "1.2.0"} {
				checkAll(t, dst, roots[version])
			}
			stays := contentOf(t, dst, roots["1.1.0"])
			closure := closureOf(t, w.whole, roots["1.0.0"]).Digest
			for d := range old {
				if w.isManifest(d) && stays[d] == "" && want[d] == "" {
					isGone(t, dst, "manifest", digest.Digest(d))
				}
			}
			isGone(t, dst, "closure", closure)
			for _, tag := range tagsOf(t, dst) {
				if tag == "1.0.0" || old[tag] != "" && stays[tag] == "" {
					t.Errorf("tag %s is still there", tag)
				}
			}
			// The runtime, its bundle, its image, the closure, two or more of the signature, SBOM and its SBOM.
			if n := len(plan.Manifests); n < 6 || plan.Bytes() < 40_000 || len(plan.Versions) != 3 {
				t.Errorf("plan of %d manifests, %d bytes, versions %+v", n, plan.Bytes(), plan.Versions)
			}
			if again := planPrune(t, dst, transfer.PruneOptions{KeepVersions: 2}); !again.IsEmpty() {
				t.Errorf("after a prune there is more to delete: %+v", again)
			}
		})
	}
}

// A folder has the bytes of what stays, and not one file more.
func TestPruneFolderFreesBlobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst, want := newLayout(t), newLayout(t)
	roots := w.threeVersions(dst)
	w.publish(want, roots["1.1.0"], "1.1.0")
	w.publish(want, roots["1.2.0"], "1.2.0")
	plan := prune(t, dst, transfer.PruneOptions{KeepVersions: 2})
	if got, want := filesOf(t, dst), filesOf(t, want); !slices.Equal(got, want) {
		t.Errorf("files %q\nwant %q", got, want)
	}
	if len(plan.Blobs) == 0 || len(plan.Tags) == 0 {
		t.Errorf("plan %+v", plan)
	}
}

func filesOf(t *testing.T, store *layout.Store) (files []string) {
	t.Helper()
	dir := strings.TrimPrefix(store.String(), "oci:")
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

// Garbage collection frees the bytes that the plan says, and takes nothing of what stays.
func TestPruneAndGarbageCollection(t *testing.T) {
	t.Parallel()
	for _, kind := range []registrytest.Kind{registrytest.Distribution3, registrytest.Distribution2} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			r := registrytest.StartRegistry(t, registrytest.Options{Kind: kind})
			dst := open(t, r, "krt/edge")
			w := newWorld(t)
			roots := w.threeVersions(dst)
			before, err := r.DiskBytes()
			if err != nil {
				t.Fatal(err)
			}
			plan := prune(t, dst, transfer.PruneOptions{KeepVersions: 1})
			if err := r.CollectGarbage(t.Context()); err != nil {
				t.Fatal(err)
			}
			after, err := r.DiskBytes()
			if err != nil {
				t.Fatal(err)
			}
			checkAll(t, reopen(t, dst), roots["1.2.0"])
			// Links, which are 71 bytes each, go as well.
			if freed := before - after; freed < plan.Bytes() || freed > plan.Bytes()+20_000 || plan.Bytes() < 80_000 {
				t.Errorf("%d bytes before, %d after, but the plan says that it frees %d", before, after, plan.Bytes())
			}
		})
	}
}

// A registry that deletes nothing is named before anything is asked or done.
func TestPruneWhereNothingIsDeleted(t *testing.T) {
	t.Parallel()
	for _, kind := range []registrytest.Kind{registrytest.Distribution3, registrytest.Distribution2, registrytest.Olareg} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			r := registrytest.StartRegistry(t, registrytest.Options{Kind: kind, NoDeletes: true})
			dst := open(t, r, "krt/edge")
			newWorld(t).threeVersions(dst)
			plan, err := transfer.PlanPrune(t.Context(), dst.(transfer.PruneStore), transfer.PruneOptions{KeepVersions: 1})
			var refused *registry.NoDeletesError
			if !errors.As(err, &refused) || refused.Host != r.Host || plan == nil || len(plan.Manifests) == 0 {
				t.Errorf("error %v, plan %+v", err, plan)
			}
		})
	}
}

// What stays, and why.
func TestPruneKeeps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst := newLayout(t)
	roots := w.threeVersions(dst)
	w.publish(dst, roots["1.0.0"], "stable")
	for name, c := range map[string]struct {
		o    transfer.PruneOptions
		want string
	}{
		"newest":            {transfer.PruneOptions{KeepVersions: 1}, "1.2.0: newest version; 1.1.0: -; 1.0.0: channel stable"},
		"channels, too":     {transfer.PruneOptions{KeepVersions: 2, DeleteChannels: true}, "1.2.0: newest 2 versions; 1.1.0: newest 2 versions; 1.0.0: -"},
		"a pattern":         {transfer.PruneOptions{KeepTags: []string{"1.[01].*"}, DeleteChannels: true}, "1.2.0: -; 1.1.0: tag 1.1.0 matches 1.[01].*; 1.0.0: tag 1.0.0 matches 1.[01].*"},
		"a channel by name": {transfer.PruneOptions{KeepTags: []string{"stable"}, DeleteChannels: true}, "1.2.0: -; 1.1.0: -; 1.0.0: tag stable"},
		"a revision": {transfer.PruneOptions{KeepDigests: map[digest.Digest]string{roots["1.1.0"].Digest: "revision 3 of edge"}, DeleteChannels: true},
			"1.2.0: -; 1.1.0: revision 3 of edge; 1.0.0: -"},
	} {
		var lines []string
		for _, v := range planPrune(t, dst, c.o).Versions {
			reasons := strings.Join(v.Reasons, ", ")
			if reasons == "" {
				reasons = "-"
			}
			lines = append(lines, v.Version+": "+reasons)
		}
		if got := strings.Join(lines, "; "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// A revision that a cluster has recorded stays without a tag, and a bundle with a tag of its own stays while a
// runtime that stays names it.
func TestPruneKeepsUntaggedAndNested(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]func(t *testing.T) oras.GraphTarget{"folder": pruned["folder"], "olareg": pruned["olareg"]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dst := target(t)
			shared := w.image("base", "shared")
			root, other := w.runtime(w.bundle("web", shared)), w.version("2.0.0", shared)
			w.publish(dst, other, "2.0.0")
			w.publish(dst, root, "1.0.0")
			nested := w.bundle("web", shared)
			if err := dst.Tag(t.Context(), nested, "web-1"); err != nil {
				t.Fatal(err)
			}
			if err := dst.Tag(t.Context(), other, "1.0.0"); err != nil { // the tag moved on
				t.Fatal(err)
			}
			prune(t, dst, transfer.PruneOptions{KeepDigests: map[digest.Digest]string{root.Digest: "revision 1 of edge"}, DeleteChannels: true})
			dst = reopen(t, dst)
			checkAll(t, dst, root)
			if at, err := dst.Resolve(t.Context(), "web-1"); err != nil || at.Digest != nested.Digest {
				t.Errorf("web-1 is %v, %v", at.Digest, err)
			}
			isGone(t, dst, "the other version", other.Digest)
		})
	}
}

// unknown puts an image that is nothing of krtpkg's under a tag.
func unknown(t *testing.T, dst oras.GraphTarget, tag string, layers ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	desc := put(t, dst, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(t, dst, ocispec.MediaTypeImageConfig, map[string]any{"of": tag}), Layers: layers,
	})
	if tag != "" {
		if err := dst.Tag(t.Context(), desc, tag); err != nil {
			t.Fatal(err)
		}
	}
	return desc
}

// What a prune does not know stays, with what it shares with what is deleted; only a flag deletes it.
func TestPruneKeepsUnknown(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]func(t *testing.T) oras.GraphTarget{"folder": pruned["folder"], "olareg": pruned["olareg"], "distribution3": pruned["distribution3"]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dst := target(t)
			roots := w.threeVersions(dst)
			image := w.image("base", "web 1.0.0"+strings.Repeat(" padding", 5000)) // of the old version
			index := put(t, dst, ocispec.MediaTypeImageIndex, ocispec.Index{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
				// A media type that lies: the registry looks at its digest.
				Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: image.Digest, Size: image.Size}},
			})
			if err := dst.Tag(t.Context(), index, "somebodys"); err != nil {
				t.Fatal(err)
			}
			gone := digest.FromString("somewhere else")
			foreign := unknown(t, dst, cosignTag(ocispec.Descriptor{Digest: gone}, ".sig"), put(t, dst, ocispec.MediaTypeImageLayer, []byte("a signature of something in another repository")))
			custom := unknown(t, dst, cosignTag(roots["1.0.0"], ".custom"), put(t, dst, ocispec.MediaTypeImageLayer, []byte("who knows")))
			plan := prune(t, dst, transfer.PruneOptions{KeepVersions: 1})
			dst = reopen(t, dst)
			for what, d := range map[string]digest.Digest{"index": index.Digest, "image": image.Digest, "signature": foreign.Digest, "attachment": custom.Digest} {
				if _, err := dst.Resolve(t.Context(), d.String()); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			isGone(t, dst, "1.0.0", roots["1.0.0"].Digest)
			if len(plan.Unknown) != 3 || plan.Unknown[0].Deleted {
				t.Errorf("unknown %+v", plan.Unknown)
			}
			plan = prune(t, dst, transfer.PruneOptions{KeepVersions: 1, DeleteUnknown: true})
			dst = reopen(t, dst)
			for what, d := range map[string]digest.Digest{"index": index.Digest, "image": image.Digest, "signature": foreign.Digest, "attachment": custom.Digest} {
				isGone(t, dst, what, d)
			}
			if len(plan.Unknown) != 3 || !plan.Unknown[0].Deleted {
				t.Errorf("unknown %+v", plan.Unknown)
			}
			checkAll(t, dst, roots["1.2.0"])
		})
	}
}

// A bundle that imgpkg has made names images by its lock alone; they stay with it.
func TestPruneKeepsWhatOtherLocksName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst := newLayout(t)
	image := w.image("base", "shared with a bundle of imgpkg")
	w.publish(dst, w.version("1.0.0", image, w.image("base", "not shared")), "1.0.0")
	w.publish(dst, w.version("2.0.0", w.image("base", "new")), "2.0.0")
	lock, err := lockOf(t, "registry.example/app", image).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	zip := gzip.NewWriter(&layer)
	archive := tar.NewWriter(zip)
	err = archive.WriteHeader(&tar.Header{Name: ".imgpkg/images.yml", Mode: 0o644, Size: int64(len(lock)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = archive.Write(lock)
	}
	if err := errors.Join(err, archive.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	theirs := put(t, dst, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(t, dst, ocispec.MediaTypeImageConfig, map[string]any{"config": map[string]any{"Labels": map[string]string{"dev.carvel.imgpkg.bundle": "true"}}}),
		Layers: []ocispec.Descriptor{put(t, dst, dockerLayer, layer.Bytes())},
	})
	if err := dst.Tag(t.Context(), theirs, "theirs"); err != nil {
		t.Fatal(err)
	}
	if err := dst.Tag(t.Context(), image, cosignTag(image, ".imgpkg")); err != nil { // as imgpkg does
		t.Fatal(err)
	}
	plan := prune(t, dst, transfer.PruneOptions{KeepVersions: 1})
	if at, err := dst.Resolve(t.Context(), cosignTag(image, ".imgpkg")); err != nil || at.Digest != image.Digest {
		t.Errorf("the image of imgpkg's bundle: %v, %v", at, err)
	}
	if len(plan.Unknown) != 1 || plan.Unknown[0].Tag != "theirs" {
		t.Errorf("unknown %+v", plan.Unknown)
	}
	prune(t, dst, transfer.PruneOptions{KeepVersions: 1, DeleteUnknown: true})
	isGone(t, dst, "the image", image.Digest)
}

// A manifest that names more than fits into memory ends the prune before it deletes anything.
func TestPruneWithinMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst := newLayout(t)
	roots := w.threeVersions(dst)
	huge := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for i := range 5000 {
		huge.Manifests = append(huge.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(strings.Repeat("x", i)), Size: 1})
	}
	if err := dst.Tag(t.Context(), put(t, dst, ocispec.MediaTypeImageIndex, huge), "huge"); err != nil {
		t.Fatal(err)
	}
	var over *oci.BudgetError
	_, err := transfer.PlanPrune(oci.WithMemory(t.Context(), 2<<20), dst, transfer.PruneOptions{KeepVersions: 1})
	if !errors.As(err, &over) {
		t.Errorf("error %v", err)
	}
	prune(t, dst, transfer.PruneOptions{KeepVersions: 1})
	checkAll(t, dst, roots["1.2.0"])
}

// breakingStore fails after some deletions, as if the process had been killed.
type breakingStore struct {
	*registry.Repository
	left int
}

var errKilled = errors.New("killed")

func (b *breakingStore) DeleteTag(ctx context.Context, tag string) error {
	if b.left--; b.left < 0 {
		return errKilled
	}
	return b.Repository.DeleteTag(ctx, tag)
}

func (b *breakingStore) DeleteManifest(ctx context.Context, d digest.Digest) error {
	if b.left--; b.left < 0 {
		return errKilled
	}
	return b.Repository.DeleteManifest(ctx, d)
}

// breakingFolder is the same of a folder.
type breakingFolder struct {
	*layout.Store
	left int
}

func (b *breakingFolder) Unlist(ctx context.Context, manifests []digest.Digest) error {
	if b.left--; b.left < 0 {
		return errKilled
	}
	return b.Store.Unlist(ctx, manifests)
}

func (b *breakingFolder) Remove(ctx context.Context, d digest.Digest) error {
	if b.left--; b.left < 0 {
		return errKilled
	}
	return b.Store.Remove(ctx, d)
}

// A prune that is killed again and again, each time after one deletion more, ends as one that is not. All the while
// what stays is whole, and no tag names something incomplete.
func TestPruneIsInterrupted(t *testing.T) {
	t.Parallel()
	stores := map[string]func(t *testing.T) (oras.GraphTarget, func(kills int) transfer.PruneStore){
		"olareg": func(t *testing.T) (oras.GraphTarget, func(kills int) transfer.PruneStore) {
			dst := pruned["olareg"](t)
			return dst, func(int) transfer.PruneStore { return &breakingStore{reopen(t, dst).(*registry.Repository), 1} }
		},
		"distribution2": func(t *testing.T) (oras.GraphTarget, func(kills int) transfer.PruneStore) {
			dst := pruned["distribution2"](t)
			// It deletes no tag alone, which is tried first.
			return dst, func(int) transfer.PruneStore { return &breakingStore{reopen(t, dst).(*registry.Repository), 2} }
		},
		"folder": func(t *testing.T) (oras.GraphTarget, func(kills int) transfer.PruneStore) {
			dst := newLayout(t)
			return dst, func(kills int) transfer.PruneStore {
				return &breakingFolder{reopen(t, dst).(*layout.Store), 1 + min(kills, 1)} // index.json is written each time
			}
		},
	}
	for name, start := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dst, breaking := start(t)
			roots := w.threeVersions(dst)
			o := transfer.PruneOptions{KeepVersions: 1}
			whole := planPrune(t, dst, o)
			o.Leftovers = whole.Digests()
			kills := 0
			for ; kills < 200; kills++ {
				plan, err := transfer.PlanPrune(t.Context(), breaking(kills), o)
				if err != nil {
					t.Fatal(err)
				}
				if _, err = plan.Prune(t.Context()); err == nil {
					break
				}
				if !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				again := reopen(t, dst)
				checkAll(t, again, roots["1.2.0"])
				for _, version := range []string{"1.0.0", "1.1.0"} {
					if desc, err := again.Resolve(t.Context(), version); err == nil {
						checkAll(t, again, desc)
					}
				}
			}
			if kills < 15 {
				t.Errorf("it was killed %d times, want 15 or more", kills)
			}
			last := reopen(t, dst)
			for _, desc := range whole.Manifests {
				isGone(t, last, "manifest", desc.Digest)
			}
			if store, is := last.(*layout.Store); is {
				want := newLayout(t)
				w.publish(want, roots["1.2.0"], "1.2.0")
				if got, want := filesOf(t, store), filesOf(t, want); !slices.Equal(got, want) {
					t.Errorf("%d files are left, want %d", len(got), len(want))
				}
			}
		})
	}
}

// A tag that is set while the question waits for an answer ends the prune before it deletes anything.
func TestPruneOfWhatChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst := newLayout(t)
	roots := w.threeVersions(dst)
	plan := planPrune(t, dst, transfer.PruneOptions{KeepVersions: 1})
	w.publish(dst, roots["1.0.0"], "stable")
	if _, err := plan.Prune(t.Context()); !errors.Is(err, transfer.ErrChanged) {
		t.Errorf("error %v", err)
	}
	checkAll(t, dst, roots["1.0.0"])
}

// hostile are manifests that a prune must not believe.
func TestPruneBelievesNothing(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]func(t *testing.T) oras.GraphTarget{"folder": pruned["folder"], "olareg": pruned["olareg"]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dst := target(t)
			image := w.image("base", "wanted")
			kept := w.version("2.0.0", image)
			old := w.version("1.0.0", w.image("base", "old"))
			w.publish(dst, kept, "2.0.0")
			w.publish(dst, old, "1.0.0")
			subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: old.Digest, Size: old.Size}
			// A closure of the old version that names all of the new one, twice, with types and sizes that are wrong.
			lying := ocispec.Index{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: bundle.TypeClosure, Subject: &subject,
				Manifests: []ocispec.Descriptor{
					{MediaType: ocispec.MediaTypeImageIndex, Digest: kept.Digest, Size: 1},
					{MediaType: "application/octet-stream", Digest: image.Digest, Size: 1 << 40},
					{MediaType: ocispec.MediaTypeImageManifest, Digest: image.Digest, Size: image.Size},
				},
			}
			list := lying
			list.Manifests = append(slices.Clone(lying.Manifests), closureOf(t, dst, kept))
			if name == "folder" { // registries refuse this
				lying.Manifests = append(lying.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:none", Size: -1})
			}
			closure := put(t, dst, ocispec.MediaTypeImageIndex, lying)
			// A list of referrers of the old version, under its fallback tag, with what belongs to the new one.
			list.ArtifactType, list.Subject = "", nil
			listed := put(t, dst, ocispec.MediaTypeImageIndex, list)
			if err := dst.Tag(t.Context(), listed, cosignTag(old, "")); err != nil {
				t.Fatal(err)
			}
			want := contentOf(t, dst, kept)
			prune(t, dst, transfer.PruneOptions{KeepVersions: 1})
			dst = reopen(t, dst)
			equal(t, contentOf(t, dst, kept), want)
			checkAll(t, dst, kept)
			isGone(t, dst, "the closure that lies", closure.Digest)
			isGone(t, dst, "the list that lies", listed.Digest)
			isGone(t, dst, "the old version", old.Digest)
		})
	}
}

// What stays and cannot be read ends the prune: it may name what would be deleted.
func TestPruneWithDamage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dst := newLayout(t)
	roots := w.threeVersions(dst)
	data, err := content.FetchAll(t.Context(), dst, roots["1.2.0"])
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(data, []byte(`"layers"`)) + bytes.Index(data[bytes.Index(data, []byte(`"layers"`)):], []byte("sha256:"))
	layer := digest.Digest(data[i : i+71])
	if err := dst.Remove(t.Context(), layer); err != nil {
		t.Fatal(err)
	}
	_, err = transfer.PlanPrune(t.Context(), dst, transfer.PruneOptions{KeepVersions: 1})
	if err == nil || !strings.Contains(err.Error(), "the image lock of edge 1.2.0, which stays") || !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	prune(t, dst, transfer.PruneOptions{KeepTags: []string{"1.1.0"}})
	checkAll(t, dst, roots["1.1.0"])
	isGone(t, dst, "the damaged version", roots["1.2.0"].Digest)
}
