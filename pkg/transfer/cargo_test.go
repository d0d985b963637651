package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// A site of one platform gets the files for it and for any. A file that is for others only is noted, and holds up nothing.
func TestCopyTakesFilesOfPlatform(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := []bundle.CargoFile{
		{Name: "tool", Path: "a", Platform: "linux/amd64"}, {Name: "tool", Path: "b", Platform: "linux/arm64"},
		{Name: "other", Path: "c", Platform: "linux/amd64"}, {Name: "nic.bin", Path: "d"},
	}
	for i := range files {
		f := &files[i]
		f.SHA256, f.Size = digest.FromString(f.Path).Encoded(), int64(len(f.Path))
		if err := w.dist.Push(t.Context(), f.Content(), strings.NewReader(f.Path)); err != nil {
			t.Fatal(err)
		}
	}
	cargo, err := bundle.PackFiles(t.Context(), w.dist, files)
	if err != nil {
		t.Fatal(err)
	}
	root := w.pack(&bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle, Metadata: bundle.Metadata{Name: "node", Version: "1.0.0"},
			Spec: bundle.BundleSpec{Layer: 1, Files: files},
		}, Images: images.Lock{}, Cargo: cargo,
	})
	for platform, of := range map[string]struct{ note, has string }{
		"linux/amd64": {"", "tool linux/amd64, other linux/amd64, nic.bin "},
		"linux/arm64": {"file other has no variant for linux/arm64: nodes of these platforms do not get it", "tool linux/arm64, nic.bin "},
		"":            {"", "tool linux/amd64, tool linux/arm64, other linux/amd64, nic.bin "},
	} {
		dst := newLayout(t)
		var notes []string
		o := transfer.Options{Progress: func(e progress.Event) {
			if e.Kind == progress.Note {
				notes = append(notes, e.Subject+" "+e.Detail)
			}
		}}
		if platform != "" {
			o.Platforms = []string{platform}
		}
		report, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, dst, o)
		if err != nil {
			t.Errorf("%s: %v", platform, err)
			continue
		}
		if report.Roots[0].Cargo != 3 || report.Roots[0].Images != 0 {
			t.Errorf("%s: %+v", platform, report.Roots[0])
		}
		if said := strings.Join(notes, "\n"); !strings.Contains(said, of.note) || of.note == "" && strings.Contains(said, "has no variant for") {
			t.Errorf("%s: noted %q, want %q", platform, said, of.note)
		}
		a, err := bundle.Open(t.Context(), dst, root)
		if err != nil {
			t.Fatal(err)
		}
		var has []string
		for _, item := range a.ListCargo() {
			if err := item.CopyTo(t.Context(), dst, &bytes.Buffer{}); err == nil {
				has = append(has, item.Name+" "+item.Platform)
			}
		}
		if got := strings.Join(has, ", "); got != of.has {
			t.Errorf("%s: %s, want %s", platform, got, of.has)
		}
	}
}

// carryChart packs a bundle that carries a chart of some content.
func (w *world) carryChart(bundleName, version, text string) ocispec.Descriptor {
	w.t.Helper()
	charts := []bundle.CargoChart{{Dir: "web"}}
	cargo, err := charts[0].Pack(w.t.Context(), w.dist, &bundle.PackedChart{Data: []byte(text), Metadata: []byte(`{"name":"web"}`), Name: "web", Version: "1.2.0"})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.pack(&bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle, Metadata: bundle.Metadata{Name: bundleName, Version: version},
			Spec: bundle.BundleSpec{Layer: 1, Charts: charts},
		}, Images: images.Lock{}, Cargo: cargo,
	})
}

// A published version of a chart stays as it is, as that of a bundle.
func TestPreservedChartsStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, again, twin := w.carryChart("node", "1.0.0", "a chart"), w.carryChart("node", "1.1.0", "another chart"), w.carryChart("twin", "1.0.0", "a third chart")
	charts, dst := newLayout(t), newLayout(t)
	var notes []string
	options := transfer.Options{
		Preserve: func(context.Context, string) (oras.GraphTarget, error) { return charts, nil },
		Progress: func(e progress.Event) {
			if e.Kind == progress.Note {
				notes = append(notes, e.Subject+" "+e.Detail)
			}
		},
	}
	copyAll := func(roots ...ocispec.Descriptor) error {
		var sources []transfer.Source
		for _, root := range roots {
			sources = append(sources, transfer.Source{Store: w.dist, Root: root})
		}
		_, err := transfer.Copy(w.t.Context(), sources, dst, options)
		return err
	}
	if err := copyAll(first, first); err != nil {
		t.Fatal(err)
	}
	was, err := charts.Resolve(t.Context(), "1.2.0")
	if err != nil {
		t.Fatal(err)
	}
	var moved *transfer.MovedTagError
	if err := copyAll(again); !errors.As(err, &moved) || !strings.Contains(err.Error(), "chart web 1.2.0, "+was.Digest.String()) {
		t.Errorf("other content of a version: %v", err)
	}
	if there, err := dst.Exists(t.Context(), again); err != nil || there {
		t.Errorf("a refused copy has written: %v", err)
	}
	if err := copyAll(again, twin); err == nil || !strings.Contains(err.Error(), "charts/web:1.2.0 is sha256:") {
		t.Errorf("two charts of one version: %v", err)
	}
	options.MoveTags = true
	if err := copyAll(again); err != nil || !strings.Contains(strings.Join(notes, " "), "tag 1.2.0 of ") {
		t.Errorf("%v, noted %q", err, notes)
	}
	if now, err := charts.Resolve(t.Context(), "1.2.0"); err != nil || now.Digest == was.Digest {
		t.Errorf("still %s, %v", now.Digest, err)
	}
}
