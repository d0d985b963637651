package layout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/layout"
)

// TestMain lets the test binary be a process of its own that pushes to a layout.
func TestMain(m *testing.M) {
	dir := os.Getenv("LAYOUT_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := pushSome(context.Background(), dir, os.Getenv("LAYOUT_TEST_NAME")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// artifact is a manifest with what it stands on, in the order to push it.
type artifact struct {
	desc  ocispec.Descriptor
	order []ocispec.Descriptor
	blobs map[string][]byte
}

func newArtifact(mediaType string, fields map[string]any) artifact {
	a := artifact{blobs: map[string][]byte{}}
	manifest := map[string]any{"schemaVersion": 2, "mediaType": mediaType}
	if mediaType == ocispec.MediaTypeImageManifest {
		manifest["config"] = a.add(ocispec.MediaTypeImageConfig, []byte("{}"))
		manifest["layers"] = []any{}
	}
	for key, value := range fields {
		manifest[key] = value
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		panic(err)
	}
	a.desc = a.add(mediaType, data)
	return a
}

func (a *artifact) add(mediaType string, data []byte) ocispec.Descriptor {
	desc := content.NewDescriptorFromBytes(mediaType, data)
	a.blobs[desc.Digest.String()] = data
	a.order = append(a.order, desc)
	return desc
}

func image(name string) artifact {
	return newArtifact(ocispec.MediaTypeImageManifest, map[string]any{"annotations": map[string]string{"name": name}})
}

func referrer(name string, subject ocispec.Descriptor) artifact {
	return newArtifact(ocispec.MediaTypeImageManifest, map[string]any{
		"artifactType": "application/x-test", "annotations": map[string]string{"name": name}, "subject": subject,
	})
}

func index(children ...ocispec.Descriptor) artifact {
	return newArtifact(ocispec.MediaTypeImageIndex, map[string]any{"manifests": children})
}

func create(t *testing.T, dir string) *layout.Store {
	t.Helper()
	s, err := layout.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func push(ctx context.Context, s *layout.Store, artifacts ...artifact) error {
	for _, a := range artifacts {
		for _, desc := range a.order {
			err := s.Push(ctx, desc, bytes.NewReader(a.blobs[desc.Digest.String()]))
			if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
				return err
			}
		}
	}
	return nil
}

func fill(t *testing.T, s *layout.Store, artifacts ...artifact) {
	t.Helper()
	if err := push(t.Context(), s, artifacts...); err != nil {
		t.Fatal(err)
	}
}

func tags(t *testing.T, s *layout.Store) []string {
	t.Helper()
	var all []string
	if err := s.Tags(t.Context(), "", func(page []string) error { all = append(all, page...); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// The same content is the same folder, in whichever order it came.
func TestOrderOfPushesDoesNotShow(t *testing.T) {
	t.Parallel()
	a, b, c := image("a"), image("b"), image("c")
	both := index(a.desc, b.desc)
	all := []artifact{a, b, c, both, referrer("r", a.desc), referrer("s", both.desc), referrer("t", a.desc)}
	var want string
	for range 5 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		dir := t.TempDir()
		s := create(t, dir)
		fill(t, s, all...)
		for tag, desc := range map[string]ocispec.Descriptor{"1.0.0": both.desc, "0.9.0": c.desc, "latest": both.desc} {
			if err := s.Tag(t.Context(), desc, tag); err != nil {
				t.Fatal(err)
			}
		}
		got := snapshot(t, dir)
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
	}
	if !strings.Contains(want, `"org.opencontainers.image.ref.name":"latest"`) {
		t.Errorf("got %s", want)
	}
}

// snapshot returns every file of a folder with its mode and content.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%s %s %s\n", strings.TrimPrefix(path, dir), info.Mode(), data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// pushSome pushes and tags, from a process or goroutine among many.
func pushSome(ctx context.Context, dir, name string) error {
	s, err := layout.Create(dir)
	if err != nil {
		return err
	}
	shared := image("shared")
	for i := range 5 {
		own := image(fmt.Sprint(name, i))
		if err := push(ctx, s, shared, own, referrer(fmt.Sprint(name, i), shared.desc)); err != nil {
			return err
		}
		if err := s.Tag(ctx, own.desc, fmt.Sprint(name, "-", i)); err != nil {
			return err
		}
	}
	return nil
}

// Many writers at once, in one process and in several, lose nothing of each other's.
func TestManyWriters(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "layout")
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			if err := pushSome(t.Context(), dir, fmt.Sprint("goroutine", i)); err != nil {
				t.Error(err)
			}
		})
		group.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "LAYOUT_TEST_DIR="+dir, fmt.Sprint("LAYOUT_TEST_NAME=process", i))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	group.Wait()
	s, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := tags(t, s); len(got) != 40 || !slices.IsSorted(got) {
		t.Errorf("%d tags: %q", len(got), got)
	}
	found, err := s.Predecessors(t.Context(), image("shared").desc)
	if err != nil || len(found) != 40 {
		t.Errorf("%d referrers, %v", len(found), err)
	}
}

// Other tools keep referrers in an index tagged sha256-<hex>. What it says of them is not
// trusted: the manifests are read.
func TestPredecessorsOfTheFallbackTag(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := create(t, dir)
	subject := image("subject")
	signature, stranger := referrer("signature", subject.desc), image("stranger")
	listed := signature.desc
	listed.ArtifactType = "application/vnd.oci.empty.v1+json"
	fallback := index(listed, stranger.desc)
	fill(t, s, subject, stranger, fallback)
	// As another tool writes it: the blob is there, index.json does not list it.
	for _, desc := range signature.order {
		file := filepath.Join(dir, "blobs", "sha256", desc.Digest.Encoded())
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, signature.blobs[desc.Digest.String()], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Tag(t.Context(), fallback.desc, strings.Replace(subject.desc.Digest.String(), ":", "-", 1)); err != nil {
		t.Fatal(err)
	}
	found, err := s.Predecessors(t.Context(), subject.desc)
	if err != nil || len(found) != 1 || found[0].Digest != signature.desc.Digest || found[0].ArtifactType != "application/x-test" {
		t.Errorf("got %v, %v", found, err)
	}
}

// What fails on the way leaves nothing, neither under its final name nor under another, and
// can be pushed again.
func TestFailedPushLeavesNothing(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("content"), 100_000)
	desc := content.NewDescriptorFromBytes("application/octet-stream", data)
	broken := errors.New("connection reset")
	for name, c := range map[string]struct {
		sent io.Reader
		want error
	}{
		"connection that breaks": {io.MultiReader(bytes.NewReader(data[:len(data)/2]), failing{broken}), broken},
		"too little":             {bytes.NewReader(data[:len(data)-1]), io.ErrUnexpectedEOF},
		"too much":               {io.MultiReader(bytes.NewReader(data), strings.NewReader("x")), content.ErrTrailingData},
		"other bytes":            {io.MultiReader(strings.NewReader("x"), bytes.NewReader(data[1:])), content.ErrMismatchedDigest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := create(t, dir)
			if err := s.Push(t.Context(), desc, c.sent); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if exists, err := s.Exists(t.Context(), desc); err != nil || exists {
				t.Errorf("exists: %v, %v", exists, err)
			}
			if files := snapshot(t, dir); strings.Contains(files, "content") {
				t.Errorf("left %.300s", files)
			}
			if err := s.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
			if err := s.Push(t.Context(), desc, bytes.NewReader(data)); !errors.Is(err, errdef.ErrAlreadyExists) {
				t.Errorf("pushed again: %v", err)
			}
		})
	}
	escape := desc
	escape.Digest = "sha256:../../../evil"
	if err := create(t, t.TempDir()).Push(t.Context(), escape, bytes.NewReader(data)); !errors.Is(err, errdef.ErrInvalidDigest) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Processes that find no layout all make the same one, and none writes over another's tag.
func TestManyStartAtOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		dir := filepath.Join(t.TempDir(), "layout")
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				a := image(fmt.Sprint(i))
				s, err := layout.Create(dir)
				if err == nil {
					err = push(t.Context(), s, a)
				}
				if err == nil {
					err = s.Tag(t.Context(), a.desc, fmt.Sprint(i))
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		s, err := layout.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := tags(t, s); len(got) != 8 {
			t.Fatalf("tags %q", got)
		}
	}
}

// A process that was stopped while it made a layout is not an obstacle.
func TestCreateAfterAnInterrupt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "blobs"), 0o755), os.WriteFile(filepath.Join(dir, "oci-layout"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	fill(t, create(t, dir), image("a"))
	if _, err := layout.Open(dir); err != nil {
		t.Error(err)
	}
}
