package transfer_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/delta"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// publishDeltas publishes the deltas that make a root of another at a store that has both.
func publishDeltas(t *testing.T, store oras.GraphTarget, from, to ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	base := planOf(t, store, from, transfer.Options{})
	deltas, err := planOf(t, store, to, transfer.Options{}).MakeDeltas(t.Context(), []*transfer.Plan{base}, base.ContainsFunc(), transfer.DeltaOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer closeBody(t, deltas)
	desc, err := deltas.Publish(t.Context(), to, store, transfer.PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// listDeltas returns the layers of a manifest of deltas.
func listDeltas(t *testing.T, store content.Fetcher, desc ocispec.Descriptor) []ocispec.Descriptor {
	t.Helper()
	data, err := content.FetchAll(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	m, err := oci.ParseManifest(data)
	if err != nil || m.ArtifactType != bundle.TypeDeltas {
		t.Fatalf("%s, %v", m.ArtifactType, err)
	}
	return m.Layers
}

// readLayers returns which of the layers of a plan were asked for whole.
func readLayers(r *registrytest.Registry, p *transfer.Plan) (list []string) {
	has := p.ContainsFunc()
	for _, request := range r.Requests() {
		_, name, ok := strings.Cut(request.Path, "/blobs/")
		if d := digest.Digest(name); ok && request.Method == http.MethodGet && d.Validate() == nil && has(d) && p.SizeOf(d) > 64<<10 {
			list = append(list, name)
		}
	}
	return list
}

// A copy from a registry makes changed layers from the deltas that are published there, of whatever the target
// has, and the target has the same as after a copy without, deltas not among it.
func TestPublishedDeltas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	roots := w.releases(3)
	complete := newLayout(t)
	for _, root := range roots {
		w.mustCopy(root, complete)
	}
	for _, c := range []struct {
		from registrytest.Options
		to   string
	}{
		{registrytest.Options{Kind: registrytest.Olareg}, "distribution3"},
		{registrytest.Options{Kind: registrytest.Distribution3}, "olareg-noreferrers"},
		{registrytest.Options{Kind: registrytest.Distribution2}, "layout"},
		{registrytest.Options{Kind: registrytest.Olareg, NoReferrers: true}, "distribution2"},
	} {
		t.Run(c.from.String()+" to "+c.to, func(t *testing.T) {
			t.Parallel()
			c.from.Record = true
			r := registrytest.StartRegistry(t, c.from)
			src := open(t, r, "krt/edge")
			for _, root := range roots {
				w.mustCopy(root, src)
			}
			first := publishDeltas(t, src, roots[0], roots[1])
			publishDeltas(t, src, roots[1], roots[2])
			publishDeltas(t, src, roots[0], roots[2])
			if again := publishDeltas(t, src, roots[0], roots[1]); again.Digest != first.Digest {
				t.Errorf("the same deltas are %s, then %s", first.Digest, again.Digest)
			}
			site := func(has ocispec.Descriptor) oras.GraphTarget {
				dst := kinds[c.to](t)
				w.mustCopy(has, dst)
				return dst
			}
			o := transfer.Options{MoveTags: true, TemporaryDir: t.TempDir()}
			copyRoot := func(from oras.ReadOnlyGraphTarget, dst oras.GraphTarget, root ocispec.Descriptor, o transfer.Options) *transfer.Report {
				t.Helper()
				source := []transfer.Source{{Store: from, Root: root, Tags: []string{"1.0.0"}}}
				plan, err := transfer.PlanCopy(t.Context(), source, dst, o)
				if err != nil {
					t.Fatal(err)
				}
				difference, err := plan.Compare(t.Context(), dst)
				if err != nil {
					t.Fatal(err)
				}
				before := len(readLayers(r, plan))
				report, err := transfer.Copy(t.Context(), source, dst, o)
				if err != nil {
					t.Fatal(err)
				}
				if difference.MadeItems != report.Made || difference.DeltaBytes != report.DeltaBytes || difference.MadeBytes != report.MadeBytes {
					t.Errorf("dry run %+v, copy %+v", difference, report)
				}
				if whole := readLayers(r, plan)[before:]; report.Made == 2 && len(whole) > 0 {
					t.Errorf("read whole: %v", whole)
				}
				return report
			}
			chain, direct, whole := site(roots[0]), site(roots[0]), site(roots[0])
			for _, step := range []struct {
				dst  oras.GraphTarget
				root ocispec.Descriptor
				made int64
				o    transfer.Options
			}{
				{chain, roots[1], 2, o},
				{chain, roots[1], 0, o},
				{chain, roots[2], 2, o},
				{direct, roots[2], 2, o},
				{whole, roots[2], 0, transfer.Options{MoveTags: true, WholeLayers: true}},
				{kinds[c.to](t), roots[2], 0, o},
			} {
				report := copyRoot(src, step.dst, step.root, step.o)
				if report.Made != step.made || (report.MadeBytes > 200_000) != (step.made > 0) || report.DeltaBytes > report.MadeBytes/5 {
					t.Errorf("%d made, %d bytes of %d, want %d made", report.Made, report.DeltaBytes, report.MadeBytes, step.made)
				}
				equal(t, contentOf(t, step.dst, step.root), contentOf(t, complete, step.root))
			}
			noFiles(t, o.TemporaryDir)
			if c.to == "layout" {
				return
			}
			// A registry in between takes deltas along if it is asked to.
			between := site(roots[0])
			copyRoot(src, between, roots[1], transfer.Options{MoveTags: true, Attached: transfer.AttachedAll})
			if report := copyRoot(between, site(roots[0]), roots[1], o); report.Made != 2 {
				t.Errorf("on from a mirror: %d made", report.Made)
			}
		})
	}
}

// notes collects the notes of a transfer.
type notes struct {
	mu   sync.Mutex
	list []string
}

func (n *notes) add(e progress.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.Kind == progress.Note {
		n.list = append(n.list, e.Subject+" "+e.Detail)
	}
}

// putDeltas attaches deltas to a root as an attacker might.
func putDeltas(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, deltas ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return put(t, store, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundle.TypeDeltas,
		Config: put(t, store, ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: deltas,
		Subject: &ocispec.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: root.Size},
	})
}

// Whatever is wrong with a delta, the layer is copied whole, one line tells so, and the target has the right bytes.
func TestWrongPublishedDeltas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var roots []ocispec.Descriptor
	for i := range 2 {
		roots = append(roots, w.runtime(w.bundle("a", w.imageOfLayers("amd64", releaseLayer(t, 1, 0), releaseLayer(t, 2, i)))))
	}
	complete := newLayout(t)
	for _, root := range roots {
		w.mustCopy(root, complete)
	}
	good := listDeltas(t, complete, publishDeltas(t, complete, roots[0], roots[1]))[0]
	right, err := content.FetchAll(t.Context(), complete, ocispec.Descriptor{MediaType: good.MediaType, Digest: good.Digest, Size: good.Size})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := archive.ParseDelta(good)
	if err != nil {
		t.Fatal(err)
	}
	annotated := func(desc ocispec.Descriptor, key, value string) ocispec.Descriptor {
		changed := map[string]string{}
		for k, v := range desc.Annotations {
			changed[k] = v
		}
		changed["dev.krtpkg.delta."+key] = value
		desc.Annotations = changed
		return desc
	}
	changed := func(change func([]byte) []byte) func(t *testing.T, src oras.GraphTarget) {
		return func(t *testing.T, src oras.GraphTarget) {
			desc := put(t, src, archive.TypeDelta, change(bytes.Clone(right)))
			desc.Annotations = good.Annotations
			putDeltas(t, src, roots[1], desc)
		}
	}
	flipped := func(at int) func(t *testing.T, src oras.GraphTarget) {
		return changed(func(b []byte) []byte { b[at] ^= 1; return b })
	}
	listed := func(desc ocispec.Descriptor) func(t *testing.T, src oras.GraphTarget) {
		return func(t *testing.T, src oras.GraphTarget) {
			put(t, src, archive.TypeDelta, right)
			putDeltas(t, src, roots[1], desc)
		}
	}
	larger := good
	larger.Size++
	header := bytes.IndexByte(right, '{')
	parts := bytes.Index(right, []byte("}]}")) + 3
	cases := map[string]struct {
		publish func(t *testing.T, src oras.GraphTarget)
		// note is what the line has to say; empty if there is nothing to say.
		note string
		// fail is what the source does to requests for the delta.
		fail http.HandlerFunc
		made int64
	}{
		"nothing":                   {publish: listed(good), made: 1},
		"magic":                     {publish: flipped(0), note: "damaged or not a delta"},
		"version":                   {publish: flipped(8), note: "update krtpkg"},
		"header":                    {publish: flipped(header), note: "damaged or not a delta"},
		"sizes":                     {publish: flipped(parts), note: "damaged or not a delta"},
		"control":                   {publish: flipped(parts + 20), note: "damaged or not a delta"},
		"no end":                    {publish: changed(func(b []byte) []byte { return b[:len(b)-1] }), note: "damaged or not a delta"},
		"cut short":                 {publish: changed(func(b []byte) []byte { return b[:len(b)/2] }), note: "damaged or not a delta"},
		"cut in header":             {publish: changed(func(b []byte) []byte { return b[:header+10] }), note: "damaged or not a delta"},
		"empty":                     {publish: changed(func([]byte) []byte { return nil }), note: "damaged or not a delta"},
		"no delta":                  {publish: changed(func([]byte) []byte { return bytes.Repeat([]byte("x"), 5000) }), note: "damaged or not a delta"},
		"unknown encoder":           {publish: changed(func(b []byte) []byte { return bytes.Replace(b, []byte(`"name":"go"`), []byte(`"name":"og"`), 1) }), note: `encoder "og"`},
		"another level":             {publish: changed(func(b []byte) []byte { return bytes.Replace(b, []byte(`"level":6`), []byte(`"level":5`), 1) }), note: "cannot be used"},
		"lying size":                {publish: listed(annotated(good, "size", strconv.FormatInt(parsed.Layer.Size+1, 10))), note: "claims a layer of"},
		"size of no delta":          {publish: listed(larger), note: "cannot be used"},
		"size that is not a number": {publish: listed(annotated(good, "size", "much")), note: `of a layer of "much" bytes`},
		"digest that is not one":    {publish: listed(annotated(good, "to", "sha256:1")), note: `names "sha256:1"`},
		"a thousand bases":          {publish: listed(annotated(good, "from", strings.Repeat(parsed.Bases[0].String()+" ", 1000))), note: "names 1000 bases"},
		"a base that it does not name": {
			publish: listed(annotated(good, "from", rootLayer(t, complete, roots[0]).String())), note: "which its manifest does not name",
		},
		"a base that is not there": {publish: listed(annotated(good, "from", digest.FromString("another").String()))},
		"another layer":            {publish: listed(annotated(good, "to", digest.FromString("another").String()))},
		"larger than the layer":    {publish: listed(ocispec.Descriptor{MediaType: good.MediaType, Digest: good.Digest, Size: parsed.Layer.Size, Annotations: good.Annotations})},
		"a later format of the manifest": {publish: func(t *testing.T, src oras.GraphTarget) {
			later := good
			later.MediaType = "application/vnd.krtpkg.delta.v2"
			put(t, src, later.MediaType, right)
			putDeltas(t, src, roots[1], later)
		}},
		"a blob that was lost": {publish: listed(good), note: "not found", fail: http.NotFound},
		"a registry that fails": {publish: listed(good), note: "418", fail: func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "tea", http.StatusTeapot)
		}},
		"a damaged one among thousands": {publish: func(t *testing.T, src oras.GraphTarget) {
			put(t, src, archive.TypeDelta, right)
			many := []ocispec.Descriptor{good}
			for i := range 2000 {
				many = append(many, annotated(good, "to", digest.FromString(fmt.Sprint(i)).String()))
			}
			putDeltas(t, src, roots[1], many...)
		}, made: 1},
		"more work than the layer can need": {publish: changed(func(b []byte) []byte {
			return withHeader(t, b, func(h *delta.Header) { h.Bases[0].Size, h.Bases[0].TarSize = 1<<40, 1<<40 })
		}), note: delta.ErrWork.Error() + "; no other delta is used"},
		"more candidates than are looked at": {publish: func(t *testing.T, src oras.GraphTarget) {
			put(t, src, archive.TypeDelta, right)
			var many []ocispec.Descriptor
			for i := range 16 {
				of := annotated(put(t, src, archive.TypeDelta, []byte(fmt.Sprint(i))), "from", digest.FromString(fmt.Sprint(i)).String())
				many = append(many, annotated(annotated(of, "to", parsed.Layer.Digest.String()), "size", strconv.FormatInt(parsed.Layer.Size, 10)))
			}
			putDeltas(t, src, roots[1], append(many, good)...)
		}},
		"as many candidates as are looked at": {publish: func(t *testing.T, src oras.GraphTarget) {
			put(t, src, archive.TypeDelta, right)
			putDeltas(t, src, roots[1], annotated(good, "from", digest.FromString("another").String()), good)
		}, made: 1},
		"more manifests than are read": {publish: func(t *testing.T, src oras.GraphTarget) {
			for i := range 101 {
				of := annotated(put(t, src, archive.TypeDelta, []byte(fmt.Sprint(i))), "to", digest.FromString(fmt.Sprint(i)).String())
				putDeltas(t, src, roots[1], annotated(of, "size", "1"))
			}
			put(t, src, archive.TypeDelta, right)
			putDeltas(t, src, roots[1], good)
		}, note: "the limits are 100 manifests"},
	}
	var mu sync.Mutex
	failing := map[string]http.HandlerFunc{}
	r := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg, Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			repository, blob, _ := strings.Cut(req.URL.Path, "/blobs/")
			mu.Lock()
			fail := failing[repository]
			mu.Unlock()
			if fail != nil && blob == good.Digest.String() {
				fail(w, req)
				return
			}
			next.ServeHTTP(w, req)
		})
	}})
	want := contentOf(t, complete, roots[1])
	for key := range want { // what complete has more is the manifest of deltas
		if strings.Contains(key, " < ") && want[key] == bundle.TypeDeltas {
			deltas := key[strings.Index(key, " < ")+3:]
			for _, d := range []string{key, deltas, good.Digest.String()} {
				delete(want, d)
			}
		}
	}
	number := 0
	for name, c := range cases {
		number++
		repository := fmt.Sprintf("krt/edge%d", number)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := open(t, r, repository)
			for _, root := range roots {
				w.mustCopy(root, src)
			}
			c.publish(t, src)
			mu.Lock()
			failing["/v2/"+repository] = c.fail
			mu.Unlock()
			dst, said := newLayout(t), &notes{}
			w.mustCopy(roots[0], dst)
			o := transfer.Options{MoveTags: true, TemporaryDir: t.TempDir(), Progress: said.add}
			report, err := transfer.Copy(t.Context(), []transfer.Source{{Store: src, Root: roots[1], Tags: []string{"next"}}}, dst, o)
			if err != nil {
				t.Fatal(err)
			}
			if report.Made != c.made {
				t.Errorf("%d made, want %d", report.Made, c.made)
			}
			switch {
			case c.note == "" && len(said.list) > 0:
				t.Errorf("it says %q", said.list)
			case c.note != "" && (len(said.list) != 1 || !strings.Contains(said.list[0], c.note)):
				t.Errorf("it says %q, want one line with %q", said.list, c.note)
			}
			got := contentOf(t, dst, roots[1])
			delete(got, ocispec.DescriptorEmptyJSON.Digest.String())
			equal(t, got, without(want, ocispec.DescriptorEmptyJSON.Digest.String()))
			noFiles(t, o.TemporaryDir)
		})
	}
	t.Run("a damaged base", func(t *testing.T) {
		t.Parallel()
		src := open(t, r, "krt/base")
		for _, root := range roots {
			w.mustCopy(root, src)
		}
		listed(good)(t, src)
		dir := filepath.Join(t.TempDir(), "layout")
		dst, err := layout.Create(dir)
		if err != nil {
			t.Fatal(err)
		}
		w.mustCopy(roots[0], dst)
		if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", parsed.Bases[0].Encoded()), []byte("damaged"), 0o644); err != nil {
			t.Fatal(err)
		}
		copyWhole(t, src, dst, roots[1], parsed.Bases[0].String(), transfer.Options{MoveTags: true, TemporaryDir: t.TempDir()})
	})
	t.Run("a full disk", func(t *testing.T) {
		t.Parallel()
		src := open(t, r, "krt/disk")
		for _, root := range roots {
			w.mustCopy(root, src)
		}
		listed(good)(t, src)
		dst := newLayout(t)
		w.mustCopy(roots[0], dst)
		copyWhole(t, src, dst, roots[1], "temporary file", transfer.Options{MoveTags: true, TemporaryDir: filepath.Join(t.TempDir(), "missing")})
	})
}

// withHeader returns a delta with a changed header.
func withHeader(t *testing.T, data []byte, change func(*delta.Header)) []byte {
	t.Helper()
	const magic = len("krtdelta") + 1
	size, n := binary.Uvarint(data[magic:])
	from := magic + n
	var h delta.Header
	if err := json.Unmarshal(data[from:from+int(size)], &h); err != nil {
		t.Fatal(err)
	}
	change(&h)
	header, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(binary.AppendUvarint(bytes.Clone(data[:magic]), uint64(len(header))), header, data[from+int(size):])
}

// A delta that takes more work than its layer can need ends the use of deltas: there may be one for each layer.
func TestDeltasThatKeepASiteBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := func(release int) ocispec.Descriptor {
		return w.runtime(w.bundle("a", w.imageOfLayers("amd64", releaseLayer(t, 1, release), releaseLayer(t, 2, release))))
	}
	before, after := root(0), root(1)
	src := open(t, registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg}), "krt/edge")
	w.mustCopy(before, src)
	w.mustCopy(after, src)
	manifest := publishDeltas(t, src, before, after)
	var hostile []ocispec.Descriptor
	for _, good := range listDeltas(t, src, manifest) {
		data, err := content.FetchAll(t.Context(), src, good)
		if err != nil {
			t.Fatal(err)
		}
		desc := put(t, src, archive.TypeDelta, withHeader(t, data, func(h *delta.Header) { h.Bases[0].TarSize = 2 << 30; h.Bases[0].Size = 2 << 30 }))
		desc.Annotations = good.Annotations
		hostile = append(hostile, desc)
	}
	if len(hostile) != 2 {
		t.Fatalf("%d deltas", len(hostile))
	}
	putDeltas(t, src, after, hostile...)
	if err := src.(content.Deleter).Delete(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	dst := newLayout(t)
	w.mustCopy(before, dst)
	copyWhole(t, src, dst, after, "no other delta is used", transfer.Options{MoveTags: true, Concurrency: 1, TemporaryDir: t.TempDir()})
}

// copyWhole copies a root of which no delta can be used.
func copyWhole(t *testing.T, src oras.ReadOnlyGraphTarget, dst oras.GraphTarget, root ocispec.Descriptor, note string, o transfer.Options) {
	t.Helper()
	said := &notes{}
	o.Progress = said.add
	report, err := transfer.Copy(t.Context(), []transfer.Source{{Store: src, Root: root, Tags: []string{"next"}}}, dst, o)
	if err != nil || report.Made != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	if len(said.list) != 1 || !strings.Contains(said.list[0], note) {
		t.Errorf("it says %q, want one line with %q", said.list, note)
	}
	contentOf(t, dst, root)
}

// rootLayer returns the digest of the layer of a bundle itself.
func rootLayer(t *testing.T, store content.Fetcher, root ocispec.Descriptor) digest.Digest {
	t.Helper()
	data, err := content.FetchAll(t.Context(), store, root)
	if err != nil {
		t.Fatal(err)
	}
	m, err := oci.ParseManifest(data)
	if err != nil || len(m.Layers) == 0 {
		t.Fatal(err)
	}
	return m.Layers[0].Digest
}

func without(all map[string]string, key string) map[string]string {
	left := map[string]string{}
	for k, v := range all {
		if !slices.Contains([]string{key}, k) {
			left[k] = v
		}
	}
	return left
}
