package transfer_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// forPlatforms returns an index of an image for each platform.
func (w *world) forPlatforms(text string, architectures ...string) ocispec.Descriptor {
	var list []ocispec.Descriptor
	for _, arch := range architectures {
		desc := w.image("base", text+" on "+arch)
		desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		list = append(list, desc)
	}
	return w.index(list...)
}

// What an archive may lack is written into it, and everything that reads it goes by that: check,
// import into a folder, and what is done from there.
func TestPlatformArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.runtime(w.bundle("a", w.forPlatforms("first", "amd64", "arm64")), w.bundle("b", w.forPlatforms("second", "arm64", "amd64")))
	sources := []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}
	plan, err := transfer.NewPlan(t.Context(), sources, transfer.Options{Origins: w, Platforms: []string{"linux/amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	file := export(t, plan, plan.ArchiveContents(nil, nil))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	checked, err := archive.CheckStream(t.Context(), bytes.NewReader(data), nil)
	if err != nil || !slices.Equal(checked.Platforms, []string{"linux/amd64"}) || checked.Absent != 0 {
		t.Errorf("check: %+v, error %v", checked, err)
	}
	dir := newLayout(t)
	if _, err := transfer.Import(t.Context(), openArchive(t, file), dir, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	stream, err := archive.OpenStream(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	streamed := newLayout(t)
	if _, err := transfer.ImportStream(t.Context(), stream, streamed, transfer.Options{}); err != nil {
		t.Fatal(err)
	}

	// The folder says so too: it can be checked, copied on, and exported to the same bytes.
	from := []transfer.Source{{Store: dir, Root: root, Tags: []string{"1.0.0"}}}
	again, err := transfer.NewPlan(t.Context(), from, transfer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := again.CheckContent(t.Context()); err != nil {
		t.Error(err)
	}
	if second, err := os.ReadFile(export(t, again, again.ArchiveContents(nil, nil))); err != nil || !bytes.Equal(second, data) {
		t.Errorf("an export from there has other bytes, error %v", err)
	}
	if _, err := copyFrom(t, dir, root, newLayout(t)); err != nil {
		t.Error(err)
	}
	// A registry takes no index with holes, unless it has the rest.
	r := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	if _, err := copyFrom(t, dir, root, open(t, r, "krt/edge")); err == nil {
		t.Error("a registry took an index with holes")
	}
	full := open(t, r, "krt/full")
	w.mustCopy(root, full)
	if _, err := transfer.Import(t.Context(), openArchive(t, file), full, transfer.Options{}); err != nil {
		t.Errorf("to a registry that has the rest: %v", err)
	}
	// When the rest arrives, the folder is whole, and says so.
	if _, err := copyFrom(t, full, root, dir); err != nil {
		t.Fatal(err)
	}
	if limit, err := dir.PlatformsOf(root.Digest); err != nil || len(limit) > 0 {
		t.Errorf("it is whole, and limited to %q, error %v", limit, err)
	}
	equal(t, contentOf(t, dir, root), contentOf(t, full, root))
}

// exportPlatforms returns an archive of a root limited to platforms.
func exportPlatforms(t *testing.T, w *world, root ocispec.Descriptor, tag string, platforms ...string) (string, error) {
	t.Helper()
	plan, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{tag}}}, transfer.Options{Origins: w, Platforms: platforms, AllowRenamedTags: true})
	if err != nil {
		return "", err
	}
	return export(t, plan, plan.ArchiveContents(nil, nil)), nil
}

// A folder says what it has of a root, whatever archives that came from.
func TestPlatformArchivesInOneFolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.bundle("a", w.forPlatforms("first", "amd64", "arm64", "s390x"))
	var files []string
	for i, platforms := range [][]string{{"linux/amd64"}, {"linux/arm64"}, {"linux/s390x", "linux/amd64"}} {
		file, err := exportPlatforms(t, w, root, []string{"1.0.0", "1.0.0", "latest"}[i], platforms...)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	dir := newLayout(t)
	for i, want := range []string{"linux/amd64", "linux/amd64,linux/arm64", ""} {
		if _, err := transfer.Import(t.Context(), openArchive(t, files[i]), dir, transfer.Options{AllowRenamedTags: true}); err != nil {
			t.Fatal(err)
		}
		limit, err := dir.PlatformsOf(root.Digest)
		if got := strings.Join(limit, ","); err != nil || got != want {
			t.Errorf("after %d archives it is limited to %q, error %v, want %q", i+1, got, err, want)
		}
		if _, _, err := planOf(t, dir, root, transfer.Options{}).CheckContent(t.Context()); err != nil {
			t.Error(err)
		}
	}
	whole := newLayout(t)
	w.mustCopy(root, whole)
	if _, err := transfer.Import(t.Context(), openArchive(t, files[0]), whole, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	if limit, err := whole.PlatformsOf(root.Digest); err != nil || len(limit) > 0 {
		t.Errorf("what was whole is limited to %q, error %v", limit, err)
	}
	equal(t, contentOf(t, dir, root), contentOf(t, whole, root))
}

// However a platform is written, the archive that it makes is whole to check and to import.
func TestPlatformSpellings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	armed := w.image("base", "armed")
	armed.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm"}
	// Docker's images of Redis have the variant in the index, and not in the image (zarf issue 4108).
	redis := w.image("base", "redis on arm64")
	redis.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	other := w.image("base", "redis on amd64")
	other.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	root := w.bundle("a", w.forPlatforms("first", "amd64", "arm64"), w.index(armed, w.image("base", "without a platform")), w.index(redis, other))
	for platform, want := range map[string]string{
		"linux/arm64/v8": "", "Linux/ARM64": "", "linux/aarch64": "", "linux/x86_64": "", "linux/amd64/v1": "", "linux/amd64/": "",
		"linux/arm64/v9": transfer.ErrPlatform.Error(), "windows/amd64:10.0": "want os/architecture", "linux/arm64,linux/amd64": "want os/architecture",
	} {
		file, err := exportPlatforms(t, w, root, "1.0.0", platform, "linux/arm/v7")
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", platform, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", platform, err)
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		checked, err := archive.CheckStream(t.Context(), bytes.NewReader(data), nil)
		if err != nil || checked.Absent > 0 {
			t.Errorf("%s: check: %+v, error %v", platform, checked, err)
		}
		if _, err := transfer.Import(t.Context(), openArchive(t, file), newLayout(t), transfer.Options{}); err != nil {
			t.Errorf("%s: import: %v", platform, err)
		}
	}
}

// An archive that lacks platforms says so after it was signed, too.
func TestSignedPlatformArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.bundle("a", w.forPlatforms("first", "amd64", "arm64"))
	file, err := exportPlatforms(t, w, root, "1.0.0", "linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.OpenAmendment(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	signed(t, a, root, signtest.NewSigner(t))
	if _, err := a.Save(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if checked, err := archive.CheckStream(t.Context(), bytes.NewReader(data), nil); err != nil || !slices.Equal(checked.Platforms, []string{"linux/amd64"}) {
		t.Errorf("check: %+v, error %v", checked, err)
	}
	dir := newLayout(t)
	if _, err := transfer.Import(t.Context(), openArchive(t, file), dir, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	if limit, err := dir.PlatformsOf(root.Digest); err != nil || !slices.Equal(limit, []string{"linux/amd64"}) {
		t.Errorf("limited to %q, error %v", limit, err)
	}
}

// An index that has the wrong size of a manifest is named with its image; what has the right ones can be taken
// (hauler issue 161).
func TestWrongSizeInIndex(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	right, wrong := w.image("base", "right"), w.image("base", "wrong")
	right.Platform, wrong.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}, &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	wrong.Size += 100
	index := w.index(right, wrong)
	root := w.bundle("a", index)
	if _, err := exportPlatforms(t, w, root, "1.0.0"); err == nil || !strings.Contains(err.Error(), "origin.example/app@"+index.Digest.String()) ||
		!strings.Contains(err.Error(), fmt.Sprintf("%s has %d bytes, want %d", wrong.Digest, wrong.Size-100, wrong.Size)) {
		t.Errorf("got %v", err)
	}
	file, err := exportPlatforms(t, w, root, "1.0.0", "linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.Import(t.Context(), openArchive(t, file), newLayout(t), transfer.Options{}); err != nil {
		t.Error(err)
	}
}

// A root that must be whole is not less so next to one that is limited.
func TestLimitedBesideWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shared := w.forPlatforms("shared", "amd64", "arm64")
	limited, whole := w.bundle("limited", shared), w.bundle("whole", shared)
	store := newLayout(t)
	_, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: limited, Tags: []string{"limited"}}}, store, transfer.Options{Origins: w, Platforms: []string{"linux/amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	// The other root says nothing of platforms, and its image has a hole.
	if _, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: whole, Tags: []string{"whole"}}}, store, transfer.Options{Origins: w, OnlyBundles: true}); err != nil {
		t.Fatal(err)
	}
	sources := []transfer.Source{{Store: store, Root: limited, Tags: []string{"limited"}}, {Store: store, Root: whole, Tags: []string{"whole"}}}
	var incomplete *transfer.IncompleteError
	if _, err := transfer.NewPlan(t.Context(), sources, transfer.Options{}); !errors.As(err, &incomplete) {
		t.Errorf("got %v", err)
	}
	if _, err := transfer.NewPlan(t.Context(), sources[:1], transfer.Options{}); err != nil {
		t.Error(err)
	}
}

// An archive that lacks a manifest or a blob, and does not say why, is incomplete to all.
func TestArchiveWithHoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.bundle("a", w.forPlatforms("web", "amd64", "arm64"))
	plan, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, transfer.Options{Origins: w})
	if err != nil {
		t.Fatal(err)
	}
	whole := plan.ArchiveContents(nil, nil)
	arm := w.image("base", "web on arm64").Digest
	blob := content.NewDescriptorFromBytes("", []byte("web on arm64")).Digest
	var m ocispec.Manifest
	data, err := content.FetchAll(t.Context(), w.origin, w.image("base", "web on arm64"))
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, lost := range map[string][]digest.Digest{"a manifest": {arm, blob, m.Config.Digest}, "a blob": {blob}} {
		for _, stated := range []bool{false, true} {
			c := whole
			is := func(d ocispec.Descriptor) bool { return slices.Contains(lost, d.Digest) }
			c.Manifests = slices.DeleteFunc(slices.Clone(c.Manifests), is)
			c.Blobs = slices.DeleteFunc(slices.Clone(c.Blobs), is)
			c.Named = slices.Clone(c.Named)
			if stated { // of another platform than the one that is lost
				for i, d := range c.Named {
					if d.Digest == root.Digest {
						c.Named[i] = archive.NameDescriptor(d, "1.0.0", "")
						c.Named[i].Annotations[layout.AnnotationPlatforms] = "linux/arm64"
					}
				}
			}
			file := filepath.Join(t.TempDir(), "a.tar")
			if _, err := archive.WriteFile(t.Context(), file, c, plan, archive.Options{}); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var incomplete *archive.IncompleteError
			if _, err := archive.CheckStream(t.Context(), bytes.NewReader(data), nil); !errors.As(err, &incomplete) || incomplete.Missing[0].Digest != lost[0] {
				t.Errorf("%s: check: %v", name, err)
			}
			var base *transfer.BaseError
			if _, err := transfer.Import(t.Context(), openArchive(t, file), newLayout(t), transfer.Options{}); !errors.As(err, &base) {
				t.Errorf("%s: import: %v", name, err)
			}
		}
	}
}

// buildkit's attestations about platforms that are kept come along, unless their registry does not
// give them. A wanted platform that an image does not have is noted.
func TestPlatformsAndAttestations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	amd64 := w.image("on amd64")
	amd64.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	attestation := func(desc ocispec.Descriptor) ocispec.Descriptor {
		desc.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
		desc.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd64.Digest.String()}
		return desc
	}
	absent := attestation(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digestOf("absent"), Size: 6})
	for name, c := range map[string]struct {
		attested  ocispec.Descriptor
		platforms []string
		items     int
		err, note string
	}{
		"all":                  {attestation(w.image("provenance")), nil, 3 + 1 + 3 + 3, "", ""},
		"one platform":         {attestation(w.image("provenance")), []string{"linux/amd64"}, 3 + 1 + 3 + 3, "", ""},
		"absent":               {absent, nil, 0, "an attestation in index sha256:", ""},
		"absent, one platform": {absent, []string{"linux/amd64"}, 3 + 1 + 3, "", "is an attestation in index sha256:"},
		"a platform that it does not have": {attestation(w.image("provenance")), []string{"linux/arm64", "linux/amd64"}, 3 + 1 + 3 + 3, "",
			"origin.example/app@sha256:"},
	} {
		t.Run(name, func(t *testing.T) {
			root := w.bundle("a", w.index(amd64, c.attested))
			var notes []string
			plan, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, transfer.Options{
				Origins: w, Platforms: c.platforms, Progress: func(e progress.Event) {
					if e.Kind == progress.Note {
						notes = append(notes, e.Subject+" "+e.Detail)
					}
				},
			})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "--platform leaves out") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(notes, "\n"); !strings.Contains(text, c.note) || (c.note == "") != (text == "") {
				t.Errorf("notes %q, want %q", text, c.note)
			}
			file := export(t, plan, plan.ArchiveContents(nil, nil))
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			checked, err := archive.CheckStream(t.Context(), bytes.NewReader(data), nil)
			if err != nil || checked.Manifests+checked.Blobs != c.items+1 || checked.Absent != 0 {
				t.Errorf("check: %+v, %v, want %d items", checked, err, c.items+1)
			}
			if _, err := transfer.Import(t.Context(), openArchive(t, file), newLayout(t), transfer.Options{}); err != nil {
				t.Errorf("import: %v", err)
			}
		})
	}
}
