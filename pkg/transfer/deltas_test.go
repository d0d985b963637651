package transfer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/delta"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// releaseLayer returns a layer of a program of which a release changes little.
func releaseLayer(t *testing.T, seed uint64, release int) []byte {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0))
	program := make([]byte, 200_000)
	for i := range program {
		program[i] = byte(random.IntN(100))
	}
	for i := range release {
		copy(program[40_000*i:], "what this release has changed")
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Name: "usr/bin/program", Typeflag: tar.TypeReg, Size: int64(len(program)), Mode: 0o755})
	if err == nil {
		_, err = w.Write(program)
	}
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// imageOfLayers puts an image of layers and a platform at the origin.
func (w *world) imageOfLayers(arch string, layers ...[]byte) ocispec.Descriptor {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(w.t, w.origin, ocispec.MediaTypeImageConfig, map[string]any{"architecture": arch, "os": "linux"}),
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, put(w.t, w.origin, ocispec.MediaTypeImageLayerGzip, l))
	}
	desc := put(w.t, w.origin, ocispec.MediaTypeImageManifest, m)
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return desc
}

// releases are versions of a runtime whose image has a layer that stays and one that changes, each for two
// platforms.
func (w *world) releases(count int) (roots []ocispec.Descriptor) {
	stays := releaseLayer(w.t, 1, 0)
	for i := range count {
		image := w.index(w.imageOfLayers("amd64", stays, releaseLayer(w.t, 2, i)), w.imageOfLayers("arm64", stays, releaseLayer(w.t, 3, i)))
		roots = append(roots, w.runtime(w.bundle("a", image)))
	}
	return roots
}

// deltaArchive returns the contents of an archive of a plan with deltas against another.
func deltaArchive(t *testing.T, plan, base *transfer.Plan, o transfer.DeltaOptions) (*transfer.Deltas, archive.Contents) {
	t.Helper()
	o.Dir = t.TempDir()
	deltas, err := plan.MakeDeltas(t.Context(), []*transfer.Plan{base}, base.ContainsFunc(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := deltas.Close(); err != nil {
			t.Error(err)
		}
		noFiles(t, o.Dir)
	})
	return deltas, deltas.AddTo(plan.ArchiveContents(base.ContainsFunc(), base.Names()))
}

func noFiles(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
}

func writeDeltas(t *testing.T, plan *transfer.Plan, deltas *transfer.Deltas, contents ...archive.Contents) (names []string) {
	t.Helper()
	names = archive.VolumeNames(filepath.Join(t.TempDir(), "edge.tar"), len(contents))
	for i, name := range names {
		if _, err := archive.WriteFile(t.Context(), name, contents[i], deltas.WithDeltas(plan), archive.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

func openFile(t *testing.T, name string) *os.File {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBody(t, file) })
	return file
}

// importWays are the ways into a target.
var importWays = map[string]func(t *testing.T, names []string, dst oras.GraphTarget, o transfer.Options) error{
	"file": func(t *testing.T, names []string, dst oras.GraphTarget, o transfer.Options) error {
		store, err := archive.Open(t.Context(), names...)
		if err != nil {
			return err
		}
		defer store.Close()
		_, err = transfer.Import(t.Context(), store, dst, o)
		return err
	},
	"copy": func(t *testing.T, names []string, dst oras.GraphTarget, o transfer.Options) error {
		store, err := archive.Open(t.Context(), names...)
		if err != nil {
			return err
		}
		defer store.Close()
		sources, err := transfer.FindRoots(t.Context(), store)
		if err != nil {
			return err
		}
		_, err = transfer.Copy(t.Context(), sources, dst, o)
		return err
	},
	"stream": func(t *testing.T, names []string, dst oras.GraphTarget, o transfer.Options) (err error) {
		for _, name := range names {
			stream, err := archive.OpenStream(t.Context(), io.MultiReader(openFile(t, name)))
			if err != nil {
				return err
			}
			defer stream.Close()
			if _, err := transfer.ImportStream(t.Context(), stream, dst, o); err != nil {
				return err
			}
		}
		return nil
	},
	"one volume after the other": func(t *testing.T, names []string, dst oras.GraphTarget, o transfer.Options) error {
		for _, name := range slices.Backward(names) {
			if _, err := transfer.Import(t.Context(), openArchive(t, name), dst, o); err != nil {
				return err
			}
		}
		return nil
	},
}

// planWays plans an import and a copy of an archive.
func planWays(t *testing.T, names []string, dst oras.GraphTarget, check func(way string, p *transfer.Plan, err error)) {
	t.Helper()
	store := openArchive(t, names...)
	p, err := transfer.PlanImport(t.Context(), store, dst, transfer.Options{MoveTags: true})
	check("plan of an import", p, err)
	sources, err := transfer.FindRoots(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	p, err = transfer.PlanCopy(t.Context(), sources, dst, transfer.Options{MoveTags: true})
	check("plan of a copy", p, err)
}

// An archive with deltas is smaller, the same bytes again, and gives every target what a copy gives it, from
// a file, volumes and a stream; releases follow one another, or one is left out.
func TestDeltas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	roots := w.releases(3)
	complete := newLayout(t)
	var plans []*transfer.Plan
	for _, root := range roots {
		w.mustCopy(root, complete)
		plans = append(plans, planOf(t, complete, root, transfer.Options{}))
	}
	archives := map[string][]string{}
	write := func(name string, from, to int) {
		deltas, contents := deltaArchive(t, plans[to], plans[from], transfer.DeltaOptions{})
		archives[name] = writeDeltas(t, plans[to], deltas, contents)
		whole := export(t, plans[to], plans[to].ArchiveContents(plans[from].ContainsFunc(), plans[from].Names()))
		if a, b := size(t, archives[name][0]), size(t, whole); a > b/5 {
			t.Errorf("%s: %d bytes with deltas, %d without", name, a, b)
		}
		if len(deltas.Layers) != 2 || deltas.Layers[0].DeltaSize == 0 || deltas.Layers[0].Encoder != "go -6" || deltas.Saved() < 200_000 {
			t.Errorf("%s: %+v", name, deltas.Layers)
		}
		again, contents := deltaArchive(t, plans[to], plans[from], transfer.DeltaOptions{})
		if sum(t, writeDeltas(t, plans[to], again, contents)[0]) != sum(t, archives[name][0]) {
			t.Errorf("%s: the same export gives another archive", name)
		}
		if name == "0 to 1" {
			volumes, err := contents.Split(size(t, archives[name][0]) - 1024)
			if err != nil || len(volumes) < 2 {
				t.Fatalf("%d volumes, %v", len(volumes), err)
			}
			archives["volumes"] = writeDeltas(t, plans[to], again, volumes...)
		}
		c, err := archive.CheckFile(t.Context(), archives[name][0], nil)
		if err != nil || c.Deltas != 2 {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	write("0 to 1", 0, 1)
	write("1 to 2", 1, 2)
	write("0 to 2", 0, 2)
	for _, kind := range []string{"layout", "olareg-noreferrers", "distribution3", "distribution2"} {
		for way, run := range importWays {
			t.Run(kind+" "+way, func(t *testing.T) {
				t.Parallel()
				names := archives["0 to 1"]
				if strings.Contains(way, "volume") {
					names = archives["volumes"]
				}
				o := transfer.Options{TemporaryDir: t.TempDir(), MoveTags: true}
				dst := kinds[kind](t)
				err := run(t, names, dst, o)
				var base *transfer.BaseError
				if !errors.As(err, &base) || !strings.Contains(err.Error(), "edge:1.0.0@"+roots[0].Digest.String()) {
					t.Fatalf("without the base: %v", err)
				}
				planWays(t, names, dst, func(way string, p *transfer.Plan, err error) {
					if !errors.As(err, &base) {
						t.Errorf("%s without the base: %v", way, err)
					}
				})
				noTag(t, dst)
				if _, err := dst.Resolve(t.Context(), roots[1].Digest.String()); !errors.Is(err, errdef.ErrNotFound) {
					t.Errorf("something was written: %v", err)
				}
				w.mustCopy(roots[0], dst)
				planWays(t, names, dst, func(way string, p *transfer.Plan, err error) {
					if err != nil {
						t.Fatalf("%s: %v", way, err)
					}
					if d, err := p.Compare(t.Context(), dst); err != nil || d.Bytes-d.ThereBytes < 200_000 {
						t.Errorf("%s: %+v, %v", way, d, err)
					}
				})
				for i, names := range [][]string{names, archives["1 to 2"]} {
					if err := run(t, names, dst, o); err != nil {
						t.Fatal(err)
					}
					equal(t, contentOf(t, dst, roots[i+1]), contentOf(t, complete, roots[i+1]))
				}
				if err := run(t, archives["1 to 2"], dst, o); err != nil {
					t.Errorf("again: %v", err)
				}
				direct := kinds[kind](t)
				w.mustCopy(roots[0], direct)
				if err := run(t, archives["0 to 2"], direct, o); err != nil {
					t.Fatal(err)
				}
				equal(t, contentOf(t, direct, roots[2]), contentOf(t, complete, roots[2]))
				noFiles(t, o.TemporaryDir)
			})
		}
	}
}

// addedManifest is a manifest next to other content.
type addedManifest struct {
	content.Fetcher
	data []byte
}

func (a addedManifest) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Digest == digest.FromBytes(a.data) {
		return io.NopCloser(bytes.NewReader(a.data)), nil
	}
	return a.Fetcher.Fetch(ctx, desc)
}

// What is not worth a delta, or cannot be one, travels whole, and why is said.
func TestLayersThatTravelWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	noise := make([]byte, 100_000)
	random := rand.New(rand.NewPCG(1, 1))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	old := w.runtime(w.bundle("a", w.imageOfLayers("amd64", releaseLayer(t, 1, 0), []byte("small"))))
	root := w.runtime(w.bundle("a", w.imageOfLayers("amd64", releaseLayer(t, 9, 0), []byte("other"), noise)), w.bundle("b", w.imageOfLayers("s390x", append(releaseLayer(t, 1, 1), 0))))
	complete := newLayout(t)
	w.mustCopy(old, complete)
	w.mustCopy(root, complete)
	plan, base := planOf(t, complete, root, transfer.Options{}), planOf(t, complete, old, transfer.Options{})
	deltas, contents := deltaArchive(t, plan, base, transfer.DeltaOptions{})
	var why []string
	for _, l := range deltas.Layers {
		why = append(why, l.Why)
	}
	want := []string{delta.ErrEncoder.Error(), "a delta would have", "a delta would have", "small"}
	for i := range want {
		if i >= len(why) || !strings.HasPrefix(why[i], want[i]) {
			t.Fatalf("got %q, want %q", why, want)
		}
	}
	if contents.HasDeltas {
		t.Error("an archive without deltas requires a reader that knows them")
	}
	equalNames := export(t, plan, plan.ArchiveContents(base.ContainsFunc(), base.Names()))
	if sum(t, writeDeltas(t, plan, deltas, contents)[0]) != sum(t, equalNames) {
		t.Error("an archive without deltas is another than without the option")
	}
}

// A damaged or wrong delta, or a damaged base, tags nothing, and the error names the layer.
func TestDamagedDeltas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	roots := w.releases(2)
	complete := newLayout(t)
	for _, root := range roots {
		w.mustCopy(root, complete)
	}
	base, plan := planOf(t, complete, roots[0], transfer.Options{}), planOf(t, complete, roots[1], transfer.Options{})
	deltas, contents := deltaArchive(t, plan, base, transfer.DeltaOptions{})
	file := writeDeltas(t, plan, deltas, contents)[0]
	list, err := openArchive(t, file).Deltas(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%d deltas, %v", len(list), err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte("krtdelta"))
	change := func(what func([]byte) []byte) string {
		name := filepath.Join(t.TempDir(), "edge.tar")
		if err := os.WriteFile(name, what(bytes.Clone(data)), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	other := []byte(list[1].Layer.Digest.String())
	files := map[string]string{
		"first byte":      change(func(b []byte) []byte { b[at] ^= 1; return b }),
		"format":          change(func(b []byte) []byte { b[at+8] = 9; return b }),
		"middle":          change(func(b []byte) []byte { b[at+int(list[0].Blob.Size)/2] ^= 1; return b }),
		"for another one": change(func(b []byte) []byte { return bytes.ReplaceAll(b, other, []byte(list[0].Layer.Digest.String())) }),
		"cut short":       change(func(b []byte) []byte { return b[:at+int(list[0].Blob.Size)/2] }),
	}
	for name, file := range files {
		for _, way := range []string{"file", "stream"} {
			o := transfer.Options{TemporaryDir: t.TempDir(), MoveTags: true}
			dst := newLayout(t)
			w.mustCopy(roots[0], dst)
			err := importWays[way](t, []string{file}, dst, o)
			if err == nil {
				t.Errorf("%s, %s: no error", name, way)
			}
			if _, err := dst.Resolve(t.Context(), roots[1].Digest.String()); !errors.Is(err, errdef.ErrNotFound) {
				t.Errorf("%s, %s: %v", name, way, err)
			}
			noFiles(t, o.TemporaryDir)
		}
	}
	for i := range list {
		list[i].Layer.Size++
	}
	manifest, err := archive.EncodeDeltas(list)
	if err != nil {
		t.Fatal(err)
	}
	contents.Manifests, contents.Named = slices.Clone(contents.Manifests), slices.Clone(contents.Named)
	contents.Manifests[0] = content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, manifest)
	contents.Named[0] = contents.Manifests[0]
	larger := filepath.Join(t.TempDir(), "larger.tar")
	if _, err := archive.WriteFile(t.Context(), larger, contents, addedManifest{deltas.WithDeltas(plan), manifest}, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{"file", "copy", "stream"} {
		dst := newLayout(t)
		w.mustCopy(roots[0], dst)
		if err := importWays[way](t, []string{larger}, dst, transfer.Options{MoveTags: true}); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s of deltas that claim another size: %v", way, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "layout")
	dst, err := layout.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	w.mustCopy(roots[0], dst)
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", list[0].Bases[0].Encoded()), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = transfer.Import(t.Context(), openArchive(t, file), dst, transfer.Options{MoveTags: true})
	if err == nil || !strings.Contains(err.Error(), list[0].Bases[0].String()) {
		t.Errorf("damaged base: %v", err)
	}
	if _, err := dst.Resolve(t.Context(), roots[1].Digest.String()); !errors.Is(err, errdef.ErrNotFound) {
		t.Error(err)
	}
}

// A thousand deltas are made, listed, carried and applied, with as little memory and as few files as one.
func TestThousandDeltas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const count = 1000
	layers := func(release int) (list [][]byte) {
		for i := range count {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			content := make([]byte, 2500)
			for k := range content {
				content[k] = byte(random.IntN(256))
			}
			copy(content[1000:], fmt.Sprint("release ", release))
			list = append(list, content)
		}
		return list
	}
	old := w.runtime(w.bundle("a", w.imageOfLayers("amd64", layers(0)...)))
	root := w.runtime(w.bundle("a", w.imageOfLayers("amd64", layers(1)...)))
	complete, dst := newLayout(t), newLayout(t)
	w.mustCopy(old, complete)
	w.mustCopy(root, complete)
	w.mustCopy(old, dst)
	plan, base := planOf(t, complete, root, transfer.Options{}), planOf(t, complete, old, transfer.Options{})
	deltas, contents := deltaArchive(t, plan, base, transfer.DeltaOptions{MinLayer: 1, MaxShare: 100})
	names := writeDeltas(t, plan, deltas, contents)
	if c, err := archive.CheckFile(t.Context(), names[0], nil); err != nil || c.Deltas != count {
		t.Fatalf("%+v, %v", c, err)
	}
	if err := importWays["file"](t, names, dst, transfer.Options{MoveTags: true, TemporaryDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	equal(t, contentOf(t, dst, root), contentOf(t, complete, root))
}
