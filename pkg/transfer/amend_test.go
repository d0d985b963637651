package transfer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// recorded is an amendment that remembers what is written to it: signatures are random, so
// that the very same ones must be attached elsewhere.
type recorded struct {
	*archive.Amendment
	writes []func(ctx context.Context, dst oras.GraphTarget) error
}

func (r *recorded) Push(ctx context.Context, desc ocispec.Descriptor, body io.Reader) error {
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	r.writes = append(r.writes, func(ctx context.Context, dst oras.GraphTarget) error {
		err := dst.Push(ctx, desc, bytes.NewReader(data))
		if errors.Is(err, errdef.ErrAlreadyExists) {
			return nil
		}
		return err
	})
	return r.Amendment.Push(ctx, desc, bytes.NewReader(data))
}

func (r *recorded) Tag(ctx context.Context, desc ocispec.Descriptor, reference string) error {
	r.writes = append(r.writes, func(ctx context.Context, dst oras.GraphTarget) error { return dst.Tag(ctx, desc, reference) })
	return r.Amendment.Tag(ctx, desc, reference)
}

func amend(t *testing.T, file string) *recorded {
	t.Helper()
	a, err := archive.OpenAmendment(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBody(t, a) })
	return &recorded{Amendment: a}
}

// attested signs and attests what a store has.
func attested(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, signer *sign.Signer) {
	t.Helper()
	signed(t, store, root, signer)
	statement := sign.Statement{Type: "https://krt.example/v1", Predicate: json.RawMessage(`{"a":1}`)}
	if _, err := sign.Attest(t.Context(), store, root, []sign.Statement{statement}, sign.SignOptions{Signer: signer}); err != nil {
		t.Fatal(err)
	}
}

// platformed are two runtimes that share a bundle. Their images are for two platforms and are
// signed by upstream, one under a tag and one by a referrer.
func (w *world) platformed() (first, second ocispec.Descriptor, bundles []ocispec.Descriptor) {
	w.t.Helper()
	on := func(arch, text string) ocispec.Descriptor {
		desc := w.image("base", text+" on "+arch)
		desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		return desc
	}
	web := w.index(on("amd64", "web"), on("arm64", "web"))
	db := w.index(on("amd64", "db"), on("arm64", "db"))
	attach(w.t, w.origin, web, ".sig", "upstream's signature")
	refer(w.t, w.origin, db, "application/spdx+json", "upstream's SBOM")
	shared, extra := w.bundle("shared", web), w.bundle("extra", db)
	return w.runtime(shared), w.runtime(shared, extra), []ocispec.Descriptor{shared, extra}
}

// Signed in the archive or signed at the source and exported: these are the same bytes, for
// every kind of archive, whether something was signed before or not.
func TestAmendIsSignThenExport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second, bundles := w.platformed()
	both := []ocispec.Descriptor{first, second}
	for _, c := range []struct {
		name    string
		roots   []ocispec.Descriptor
		options transfer.Options
		base    bool
	}{
		{name: "everything", roots: both[1:]},
		{name: "two roots", roots: both},
		{name: "a platform", roots: both[1:], options: transfer.Options{Platforms: []string{"linux/arm64"}}},
		{name: "two roots, a platform", roots: both, options: transfer.Options{Platforms: []string{"linux/amd64"}}},
		{name: "no image signatures", roots: both[1:], options: transfer.Options{NoImageSignatures: true}},
		{name: "only bundles", roots: both[1:], options: transfer.Options{OnlyBundles: true}},
		{name: "a base", roots: both[1:], base: true},
		{name: "a base and a platform", roots: both[1:], options: transfer.Options{Platforms: []string{"linux/arm64"}}, base: true},
		{name: "a bundle", roots: bundles[:1]},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// Registries are held to what they take, so that the source is a real one.
			src := open(t, registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg}), "krt/edge")
			for _, root := range []ocispec.Descriptor{first, second, bundles[0]} {
				w.mustCopy(root, src)
			}
			old, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: src, Root: first, Tags: []string{"previous"}}}, c.options)
			if err != nil {
				t.Fatal(err)
			}
			exported := func() string {
				var sources []transfer.Source
				for i, root := range c.roots {
					sources = append(sources, transfer.Source{Store: src, Root: root, Tags: [][]string{{"1.0.0", "stable"}, {"next"}}[i]})
				}
				plan, err := transfer.NewPlan(t.Context(), sources, c.options)
				if err != nil {
					t.Fatal(err)
				}
				var has func(digest.Digest) bool
				var base []string
				if c.base {
					has, base = old.ContainsFunc(), old.Names()
				}
				return export(t, plan, plan.ArchiveContents(has, base))
			}
			file := exported()
			for range 2 { // the second signer joins the first
				signer := signtest.NewSigner(t)
				a := amend(t, file)
				for _, desc := range append(slices.Clone(c.roots), bundles[0]) {
					attested(t, a, desc, signer)
				}
				if changed, err := a.Save(t.Context(), nil); !changed || err != nil {
					t.Fatalf("changed %v, %v", changed, err)
				}
				for _, write := range a.writes {
					if err := write(t.Context(), src); err != nil {
						t.Fatal(err)
					}
				}
				if want := exported(); sum(t, file) != sum(t, want) {
					t.Errorf("the amended archive has %d bytes, the export %d, or others", size(t, file), size(t, want))
				}
			}
			whole(t, file, c.roots, c.options, c.base, old)
		})
	}
}

// whole checks an archive in every way that there is, and imports it.
func whole(t *testing.T, file string, roots []ocispec.Descriptor, o transfer.Options, onBase bool, base *transfer.Plan) {
	t.Helper()
	opened, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer closeBody(t, opened)
	if _, err := archive.CheckStream(t.Context(), opened, nil); err != nil {
		t.Errorf("check: %v", err)
	}
	dst := newLayout(t)
	if onBase {
		if _, err := base.Copy(t.Context(), dst); err != nil {
			t.Fatal(err)
		}
	}
	store := openArchive(t, file)
	if _, err := transfer.Import(t.Context(), store, dst, o); err != nil {
		t.Fatalf("import: %v", err)
	}
	for _, root := range roots {
		if found, err := sign.Find(t.Context(), dst, root); err != nil || len(found) != 4 {
			t.Errorf("%d signatures of %s arrived, want 4; %v", len(found), root.Digest, err)
		}
	}
	sources, err := transfer.FindRoots(t.Context(), store)
	if err != nil || len(sources) != len(roots) {
		t.Fatalf("%d roots, %v", len(sources), err)
	}
	o.Fallback = dst
	plan, err := transfer.NewPlan(t.Context(), sources, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := plan.CheckContent(t.Context()); err != nil {
		t.Errorf("check of the plan: %v", err)
	}
}

// An archive to which nothing is attached is not touched: nor is one that is only looked at,
// nor one that has the signature already.
func TestAmendWritesNothingForNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	complete := newLayout(t)
	w.mustCopy(root, complete)
	signer := signtest.NewSigner(t)
	signed(t, complete, root, signer)
	plan := planOf(t, complete, root, transfer.Options{})
	file := export(t, plan, plan.ArchiveContents(nil, nil))
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	a := amend(t, file)
	if at, err := a.Resolve(t.Context(), "1.0.0"); err != nil || at.Digest != root.Digest {
		t.Errorf("1.0.0 is %s, %v", at.Digest, err)
	}
	signed(t, a, root, signer)
	if changed, err := a.Save(t.Context(), nil); changed || err != nil {
		t.Errorf("changed %v, %v", changed, err)
	}
	after, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Error("the file was written")
	}
}

// Whatever breaks a save, the archive is the old one, and the next attempt gets there.
func TestAmendBreaksOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	complete := newLayout(t)
	w.mustCopy(root, complete)
	plan := planOf(t, complete, root, transfer.Options{})
	for _, c := range []struct {
		name string
		// save fails, and mend lets it succeed.
		save func(t *testing.T, a *recorded, file string) error
		mend func(file string) error
	}{
		{"where nothing can be written", func(t *testing.T, a *recorded, file string) error {
			// A folder in the way stops root too, unlike its permissions.
			if err := os.Mkdir(file+".partial", 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := a.Save(t.Context(), nil)
			return err
		}, func(file string) error { return os.Remove(file + ".partial") }},
		{"in the middle", func(t *testing.T, a *recorded, _ string) error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			items := 0
			_, err := a.Save(ctx, func(e progress.Event) {
				if e.Kind == progress.Copied {
					if items++; items == 5 {
						cancel()
					}
				}
			})
			return err
		}, nil},
		{"where a blob is damaged", func(t *testing.T, a *recorded, file string) error {
			flip(t, file)
			_, err := a.Save(t.Context(), nil)
			flip(t, file)
			return err
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file := export(t, plan, plan.ArchiveContents(nil, nil))
			was := sum(t, file)
			a := amend(t, file)
			signed(t, a, root, signtest.NewSigner(t))
			if err := c.save(t, a, file); err == nil {
				t.Fatal("it was saved")
			}
			if sum(t, file) != was {
				t.Error("the archive is another one")
			}
			if found := names(t, file); len(found) > 2 || len(found) == 2 && found[1] != filepath.Base(file)+".partial" {
				t.Errorf("left behind: %v", found)
			}
			if c.mend != nil {
				if err := c.mend(file); err != nil {
					t.Fatal(err)
				}
			}
			if changed, err := a.Save(t.Context(), nil); !changed || err != nil {
				t.Fatalf("changed %v, %v", changed, err)
			}
			if found := names(t, file); len(found) != 1 {
				t.Errorf("left behind: %v", found)
			}
			for _, write := range a.writes {
				if err := write(t.Context(), holding{readOnly{Store: openArchive(t, file)}}); err != nil {
					t.Errorf("not in the archive: %v", err)
				}
			}
		})
	}
}

// flip inverts a byte of an archive's last blob; done again, it mends it.
func flip(t *testing.T, file string) {
	t.Helper()
	store := openArchive(t, file)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, desc := range slices.Backward(store.ListContents()) {
		if store.IsManifest(desc.Digest) || desc.Size == 0 {
			continue
		}
		body, err := store.Fetch(t.Context(), desc)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(body)
		closeBody(t, body)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.LastIndex(data, content)
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer closeBody(t, f)
		if _, err := f.WriteAt([]byte{content[0] ^ 0xff}, int64(at)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil { // as disks do it
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no blobs")
}

func names(t *testing.T, file string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// holding is an archive that takes only what it has already.
type holding struct{ readOnly }

func (h holding) Push(ctx context.Context, desc ocispec.Descriptor, _ io.Reader) error {
	if there, err := h.Exists(ctx, desc); err != nil || there {
		return err
	}
	return errdef.ErrNotFound
}

func (h holding) Tag(ctx context.Context, desc ocispec.Descriptor, reference string) error {
	at, err := h.Resolve(ctx, reference)
	if err == nil && at.Digest != desc.Digest {
		err = errors.New(reference + " is " + at.Digest.String())
	}
	return err
}

// What is attached is held in memory, and has an end.
func TestAmendIsCapped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	complete := newLayout(t)
	w.mustCopy(root, complete)
	plan := planOf(t, complete, root, transfer.Options{})
	file := export(t, plan, plan.ArchiveContents(nil, nil))
	a := amend(t, file)
	large := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digestOf("large"), Size: 256<<20 + 1}
	if err := a.Amendment.Push(t.Context(), large, bytes.NewReader(nil)); !errors.Is(err, errdef.ErrSizeExceedsLimit) {
		t.Errorf("a byte over 256 MiB: %v", err)
	}
	wrong := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digestOf("this"), Size: 4}
	if err := amend(t, file).Push(t.Context(), wrong, bytes.NewReader([]byte("that"))); err == nil {
		t.Error("content that is not its digest was taken")
	}
	if changed, err := a.Save(t.Context(), nil); changed || err != nil {
		t.Errorf("changed %v, %v", changed, err)
	}
}
