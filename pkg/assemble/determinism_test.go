package assemble_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
)

// files returns a runtime of two bundles.
func files() map[string]string {
	f := map[string]string{
		"runtime.yaml":     "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: edge, version: 1.0.0, description: an edge}\nspec: {bundles: [{path: web}, {path: base}]}\n",
		"base/bundle.yaml": "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: base, version: 1.0.0}\nspec: {layer: 1, sources: [{file: ns.yaml}]}\n",
		"base/ns.yaml":     "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n",
		"web/bundle.yaml":  "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\nspec: {layer: 6, provides: [b, a], sources: [{dir: manifests}]}\n",
	}
	for i := range 40 {
		f[fmt.Sprintf("web/manifests/%c/%d.yaml", 'a'+i%7, i)] = fmt.Sprintf(
			"apiVersion: v1\nkind: Pod\nmetadata: {name: web-%d}\nspec: {containers: [{name: c, image: ghcr.io/example/web:%d}]}\n", i, i%11)
	}
	return f
}

// write writes the files in an order, with a time.
func write(t *testing.T, dir string, names []string, when time.Time) {
	t.Helper()
	all := files()
	for _, name := range names {
		path := filepath.Join(dir, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(all[name]), 0o666), os.Chtimes(path, when, when))
		if err != nil {
			t.Fatal(err)
		}
	}
}

func digestOf(t *testing.T, dir string) string {
	t.Helper()
	built, err := assemble.Build(t.Context(), dir, options())
	if err != nil {
		t.Fatal(err)
	}
	return built.Descriptor.Digest.String()
}

// The same inputs give the same digest, whatever is around them.
func TestSameDigestEverywhere(t *testing.T) {
	names := make([]string, 0)
	for name := range files() {
		names = append(names, name)
	}
	slices.Sort(names)
	first := t.TempDir()
	write(t, first, names, time.Unix(1_000_000_000, 0))
	want := digestOf(t, first)

	check := func(what, dir string) {
		t.Helper()
		if got := digestOf(t, dir); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	check("again", first)

	other := filepath.Join(t.TempDir(), "some", "where else")
	slices.Reverse(names)
	withUmask(0o077, func() { write(t, other, names, time.Now()) })
	check("another directory, umask, mtime and listing order", other)

	t.Setenv("TZ", "Pacific/Kiritimati")
	zone := time.Local
	time.Local = time.FixedZone("test", 14*3600)
	check("another time zone", other)
	time.Local = zone

	t.Chdir(first)
	check("a relative path", ".")
	check("the definition's file", "runtime.yaml")

	for _, n := range []int{1, 2, 8} {
		before := runtime.GOMAXPROCS(n)
		check(fmt.Sprintf("GOMAXPROCS=%d", n), first)
		runtime.GOMAXPROCS(before)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { check("eight at once", first) })
	}
	group.Wait()
}

// A time that is given is in the digest, and nothing else of the moment.
func TestGivenTimeIsInTheDigest(t *testing.T) {
	t.Parallel()
	seen := map[string]time.Time{}
	for _, when := range []time.Time{{}, time.Unix(1_700_000_000, 0), time.Unix(1_700_000_001, 0)} {
		var first string
		for _, zone := range []*time.Location{time.UTC, time.FixedZone("test", -11*3600)} {
			o := options()
			if o.Created = when; !when.IsZero() {
				o.Created = when.In(zone)
			}
			built, err := assemble.Build(t.Context(), "../../bundles/runtimes/demo/1.0.0", o)
			if err != nil {
				t.Fatal(err)
			}
			digest := built.Descriptor.Digest.String()
			if first == "" {
				first = digest
			}
			if digest != first {
				t.Errorf("%v in %v: %s, want %s", when, zone, digest, first)
			}
		}
		if other, taken := seen[first]; taken {
			t.Errorf("%v and %v give the same digest", when, other)
		}
		seen[first] = when
	}
}

// A digest that changes here changes for every user: it wants a reason.
func TestGoldenDigests(t *testing.T) {
	var got strings.Builder
	for _, version := range []string{"1.0.0", "1.1.0"} {
		built, err := assemble.Build(t.Context(), "../../bundles/runtimes/demo/"+version, options())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "%s demo %s\n", built.Descriptor.Digest, version)
		for _, b := range built.Bundles {
			fmt.Fprintf(&got, "%s %s %s\n", b.Descriptor.Digest, b.Metadata().Name, b.Metadata().Version)
		}
	}
	const file = "../../testdata/golden/demo.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the bytes of artifacts have changed. If bundles/, the format or the compressor in go.mod was meant to change: go test ./pkg/assemble -run Golden -update\ngot:\n%swant:\n%s", got.String(), want)
	}
}

// Nothing of the machine is in a layer, and a given time is in all of it.
func TestLayerHoldsNothingOfTheMachine(t *testing.T) {
	for _, when := range []time.Time{{}, time.Unix(1_700_000_000, 0)} {
		store := memory.New()
		o := options()
		o.Store, o.Created = store, when
		built, err := assemble.Build(t.Context(), "../../bundles/6-applications/demo/hello/1.0.0", o)
		if err != nil {
			t.Fatal(err)
		}
		m, err := bundle.ReadManifest(t.Context(), store, built.Descriptor)
		if err != nil {
			t.Fatal(err)
		}
		blob, err := store.Fetch(t.Context(), m.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		zip, err := gzip.NewReader(blob)
		if err != nil {
			t.Fatal(err)
		}
		if zip.Name != "" || zip.Comment != "" || zip.ModTime.Unix() != 0 || len(zip.Extra) > 0 {
			t.Errorf("gzip header: %+v", zip.Header)
		}
		checkEntries(t, tar.NewReader(zip), when)
	}
}

func checkEntries(t *testing.T, archive *tar.Reader, when time.Time) {
	t.Helper()
	mtime := time.Unix(0, 0)
	if !when.IsZero() {
		mtime = when
	}
	var last string
	count := 0
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		count++
		mode := map[byte]int64{tar.TypeReg: 0o644, tar.TypeDir: 0o755}[h.Typeflag]
		if mode == 0 || h.Mode != mode || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(mtime) {
			t.Errorf("entry %+v", h)
		}
		if h.Typeflag == tar.TypeReg && h.Name <= last {
			t.Errorf("entry %s comes after %s", h.Name, last)
		}
		if h.Typeflag == tar.TypeReg {
			last = h.Name
		}
	}
	if count < 8 {
		t.Errorf("only %d entries", count)
	}
}
