package transfer_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

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
		"linux/arm64": {"file other is not there for linux/arm64", "tool linux/arm64, nic.bin "},
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
		if said := strings.Join(notes, "\n"); !strings.Contains(said, of.note) || of.note == "" && strings.Contains(said, "not there for") {
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
