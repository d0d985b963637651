package transfer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// An archive that was signed in place is, byte for byte, the export of what it holds.
func TestAmendedArchiveIsAnExport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shared := w.imageOf(bytes.Repeat([]byte("shared"), 2000))
	old, new := w.runtime(w.bundle("a", shared)), w.runtime(w.bundle("a", shared), w.bundle("b", w.imageOf(bytes.Repeat([]byte("new"), 2000))))
	complete := newLayout(t)
	w.mustCopy(old, complete)
	w.mustCopy(new, complete)
	signed(t, complete, old, signtest.NewSigner(t)) // one already exists
	before := planOf(t, complete, old, transfer.Options{})
	both, err := transfer.NewPlan(t.Context(), []transfer.Source{
		{Store: complete, Root: old, Tags: []string{"1.0.0"}}, {Store: complete, Root: new, Tags: []string{"1.1.0", "stable"}},
	}, transfer.Options{AllowRenamedTags: true})
	if err != nil {
		t.Fatal(err)
	}
	update := planOf(t, complete, new, transfer.Options{})
	lean := planOf(t, complete, new, transfer.Options{OnlyBundles: true})
	for name, c := range map[string]struct {
		plan     *transfer.Plan
		contents archive.Contents
		has      func(digest.Digest) bool
		base     []string
		options  transfer.Options
	}{
		"one root":     {before, before.ArchiveContents(nil, nil), nil, nil, transfer.Options{}},
		"two roots":    {both, both.ArchiveContents(nil, nil), nil, nil, transfer.Options{}},
		"with a base":  {update, update.ArchiveContents(before.ContainsFunc(), before.Names()), before.ContainsFunc(), before.Names(), transfer.Options{}},
		"only bundles": {lean, lean.ArchiveContents(nil, nil), nil, nil, transfer.Options{OnlyBundles: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := export(t, c.plan, c.contents)
			roots, err := transfer.FindRoots(t.Context(), openArchive(t, file))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time joins the first under the tags
				signer := signtest.NewSigner(t)
				for _, root := range roots {
					a, err := archive.OpenAmendment(t.Context(), file)
					if err != nil {
						t.Fatal(err)
					}
					if changed, err := a.Save(t.Context(), nil); changed || err != nil {
						t.Errorf("nothing was attached: changed %v, %v", changed, err)
					}
					signed(t, a, root.Root, signer)
					if _, err := sign.Attest(t.Context(), a, root.Root, []sign.Statement{{Type: "https://krt.example/v1", Predicate: json.RawMessage(`{"a":1}`)}}, sign.SignOptions{Signer: signer}); err != nil {
						t.Fatal(err)
					}
					if changed, err := a.Save(t.Context(), nil); !changed || err != nil {
						t.Fatalf("changed %v, %v", changed, err)
					}
					closeBody(t, a)
				}
			}
			opened, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer closeBody(t, opened)
			if _, err := archive.CheckStream(t.Context(), opened, nil); err != nil {
				t.Error(err)
			}

			// Where everything of it is, with what an archive leaves out.
			dst := newLayout(t)
			if c.base != nil {
				w.mustCopy(old, dst)
			}
			options := c.options
			options.Fallback, options.AllowRenamedTags, options.MoveTags = complete, true, true
			for _, root := range roots {
				if _, err := transfer.Copy(t.Context(), []transfer.Source{{Store: openArchive(t, file), Root: root.Root, Tags: root.Tags}}, dst, options); err != nil {
					t.Fatal(err)
				}
			}
			var sources []transfer.Source
			for _, root := range roots {
				sources = append(sources, transfer.Source{Store: dst, Root: root.Root, Tags: root.Tags})
			}
			planned := c.options
			planned.AllowRenamedTags = true
			plan, err := transfer.NewPlan(t.Context(), sources, planned)
			if err != nil {
				t.Fatal(err)
			}
			has := c.has
			if has != nil {
				// The base may hold by chance what was attached: an empty config.
				in := map[digest.Digest]bool{}
				for _, d := range openArchive(t, file).ListContents() {
					in[d.Digest] = true
				}
				has = func(d digest.Digest) bool { return !in[d] }
			}
			if again := export(t, plan, plan.ArchiveContents(has, c.base)); sum(t, again) != sum(t, file) {
				t.Errorf("the export has %d bytes, the amended archive %d, or others", size(t, again), size(t, file))
			}
		})
	}
}

// What cannot be amended says so, and what breaks off leaves the archive as it was.
func TestAmendRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	complete := newLayout(t)
	w.mustCopy(root, complete)
	plan := planOf(t, complete, root, transfer.Options{})
	volumes, err := plan.ArchiveContents(nil, nil).Split(50 << 10)
	if err != nil || len(volumes) < 2 {
		t.Fatalf("%d volumes, %v", len(volumes), err)
	}
	if _, err := archive.OpenAmendment(t.Context(), export(t, plan, volumes[0])); err == nil || !strings.Contains(err.Error(), "attach before splitting") {
		t.Errorf("a volume: %v", err)
	}
	compressed := filepath.Join(t.TempDir(), "edge.tar")
	if _, err := archive.WriteFile(t.Context(), compressed, plan.ArchiveContents(nil, nil), plan, archive.Options{Compress: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.OpenAmendment(t.Context(), compressed); err == nil || !strings.Contains(err.Error(), "the whole archive is compressed") {
		t.Errorf("compressed: %v", err)
	}

	file := export(t, plan, plan.ArchiveContents(nil, nil))
	was := sum(t, file)
	a, err := archive.OpenAmendment(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer closeBody(t, a)
	signed(t, a, root, signtest.NewSigner(t))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Save(cancelled, nil); err == nil {
		t.Error("a cancelled save succeeded")
	}
	if sum(t, file) != was {
		t.Error("the archive is another one")
	}
	if changed, err := a.Save(t.Context(), nil); !changed || err != nil {
		t.Fatalf("again: %v, %v", changed, err)
	}
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	result, err := sign.Find(t.Context(), openArchive(t, file), root)
	if err != nil || len(result) < 2 {
		t.Errorf("signatures %v, %v", result, err)
	}
}
