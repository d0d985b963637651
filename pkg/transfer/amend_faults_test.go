package transfer_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// signable returns an archive with one root.
func signable(t *testing.T, store func(w *world, root ocispec.Descriptor)) (file string, root ocispec.Descriptor) {
	t.Helper()
	w := newWorld(t)
	root = w.runtime(w.bundle("a", w.imageOf(bytes.Repeat([]byte("a"), 1<<20))))
	if store != nil {
		store(w, root)
	}
	complete := newLayout(t)
	w.mustCopy(root, complete)
	plan := planOf(t, complete, root, transfer.Options{})
	return export(t, plan, plan.ArchiveContents(nil, nil)), root
}

// cosign 2 signs with Docker's media types if it is told to: who signs too joins that.
func TestAmendJoinsDockerTypes(t *testing.T) {
	t.Parallel()
	file, root := signable(t, func(w *world, root ocispec.Descriptor) {
		signed(t, w.dist, root, signtest.NewSigner(t))
		desc, err := w.dist.Resolve(t.Context(), cosignTag(root, ".sig"))
		if err != nil {
			t.Fatal(err)
		}
		data, err := content.FetchAll(t.Context(), w.dist, desc)
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.ReplaceAll(data, []byte(ocispec.MediaTypeImageManifest), []byte(dockerManifest))
		if err := w.dist.Tag(t.Context(), put(t, w.dist, dockerManifest, data), cosignTag(root, ".sig")); err != nil {
			t.Fatal(err)
		}
	})
	a := amend(t, file)
	signed(t, a, root, signtest.NewSigner(t))
	if _, err := a.Save(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	whole(t, file, []ocispec.Descriptor{root}, transfer.Options{}, false, nil)
}

// A tar of a layout that something else made has another order, and more in it than is kept.
func TestAmendRefusesStrangers(t *testing.T) {
	t.Parallel()
	file, _ := signable(t, nil)
	store := openArchive(t, file)
	var manifests []ocispec.Descriptor
	for _, d := range store.ListContents() {
		if store.IsManifest(d.Digest) {
			manifests = append(manifests, d)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	stranger := filepath.Join(t.TempDir(), "other.tar")
	data = packAgain(t, data, []byte("dev.krtpkg.archive.manifests"), []byte("org.example.made.by.somebody"))
	if err := os.WriteFile(stranger, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.OpenAmendment(t.Context(), stranger); err == nil || !strings.Contains(err.Error(), "not made by krtpkg") || len(manifests) == 0 {
		t.Errorf("got %v", err)
	}
}

// packAgain returns an archive as another program packs it, with a text of index.json replaced.
func packAgain(t *testing.T, data, old, replacement []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		file, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == ocispec.ImageIndexFile {
			file = bytes.ReplaceAll(file, old, replacement)
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: h.Typeflag, Name: h.Name, Mode: h.Mode, Size: int64(len(file))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(file); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Two who sign at once: one of them is told, and what the other attached is there.
func TestAmendAtOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		file, root := signable(t, nil)
		both := [2]*recorded{amend(t, file), amend(t, file)}
		var errs [2]error
		var group sync.WaitGroup
		for i, a := range both {
			signed(t, a, root, signtest.NewSigner(t))
			group.Go(func() { _, errs[i] = a.Save(t.Context(), nil) })
		}
		group.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("the errors are %v and %v", errs[0], errs[1])
		}
		for i, a := range both {
			if errs[i] != nil {
				if !strings.Contains(errs[i].Error(), "was changed meanwhile") {
					t.Error(errs[i])
				}
				continue
			}
			for _, write := range a.writes {
				if err := write(t.Context(), holding{readOnly{Store: openArchive(t, file)}}); err != nil {
					t.Errorf("lost: %v", err)
				}
			}
		}
		if found := names(t, file); slices.Contains(found, filepath.Base(file)+".partial") {
			t.Errorf("left behind: %v", found)
		}
	}
}

// What has been saved can be added to and saved again.
func TestAmendTwice(t *testing.T) {
	t.Parallel()
	file, root := signable(t, nil)
	a := amend(t, file)
	for range 2 {
		signed(t, a, root, signtest.NewSigner(t))
		if changed, err := a.Save(t.Context(), nil); !changed || err != nil {
			t.Fatalf("changed %v, %v", changed, err)
		}
	}
	whole(t, file, []ocispec.Descriptor{root}, transfer.Options{}, false, nil)
}

// A link leads to the archive that was signed.
func TestAmendThroughLink(t *testing.T) {
	t.Parallel()
	file, root := signable(t, nil)
	link := filepath.Join(t.TempDir(), "latest.tar")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	a := amend(t, link)
	signed(t, a, root, signtest.NewSigner(t))
	if _, err := a.Save(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if at, err := os.Readlink(link); err != nil || at != file {
		t.Errorf("the link leads to %q, %v", at, err)
	}
	if found, err := sign.Find(t.Context(), openArchive(t, file), root); err != nil || len(found) != 2 {
		t.Errorf("signatures %v, %v", found, err)
	}
}

// Who plans from an amendment gets what was added; naming a root by the name it has is nothing.
func TestAmendmentIsASource(t *testing.T) {
	t.Parallel()
	file, root := signable(t, nil)
	was := sum(t, file)
	a := amend(t, file)
	if err := a.Tag(t.Context(), root, "1.0.0"); err != nil {
		t.Fatal(err)
	}
	if changed, err := a.Save(t.Context(), nil); changed || err != nil || sum(t, file) != was {
		t.Errorf("changed %v, %v", changed, err)
	}
	added := refer(t, a, root, "application/vnd.in-toto+json", "a note")
	dst := newLayout(t)
	if _, err := copyFrom(t, a.Amendment, root, dst); err != nil {
		t.Fatal(err)
	}
	if there, err := dst.Exists(t.Context(), added); err != nil || !there {
		t.Errorf("there %v, %v", there, err)
	}
}
