package layout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func push(t *testing.T, s *Store, mediaType, text string) ocispec.Descriptor {
	t.Helper()
	desc := content.NewDescriptorFromBytes(mediaType, []byte(text))
	if err := s.Push(t.Context(), desc, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return desc
}

// Nothing is on disk before the first write, and what is not a layout is left alone.
func TestCreate(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if _, err := os.Stat(s.folder.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder already exists (%v)", err)
	}
	if _, err := s.Resolve(t.Context(), "1.0.0"); !errors.Is(err, errdef.ErrNotFound) {
		t.Error(err)
	}
	push(t, s, "text/plain", "1")
	if _, err := Open(s.folder.dir); err != nil {
		t.Error(err)
	}

	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir); err == nil || !strings.Contains(err.Error(), dir+" is not an OCI layout") {
		t.Errorf("a folder of something else: %v", err)
	}
	for text, want := range map[string]string{
		`{"imageLayoutVersion":"2.0.0"}`: `layout version "2.0.0"`, "nonsense": "oci-layout: invalid",
	} {
		if err := os.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A manifest that is not listed is known by its bytes, if these leave no doubt.
func TestResolveByDigest(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	blob := `{"mediaType":"","digest":"` + digest.FromString("x").String() + `","size":1}`
	for _, c := range []struct{ data, want string }{
		{`{"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + blob + `,"layers":[]}`, ocispec.MediaTypeImageManifest},
		{`{"schemaVersion":2,"config":` + blob + `,"layers":[]}`, ocispec.MediaTypeImageManifest},
		{`{"schemaVersion":2,"manifests":[]}`, ocispec.MediaTypeImageIndex},
		{`{"schemaVersion":2,"config":` + blob + `,"layers":[],"manifests":[]}`, ""},
		{`{"schemaVersion":2}`, ""},
		{`"text"`, ""},
		{`text`, ""},
	} {
		desc := push(t, s, "application/octet-stream", c.data)
		got, err := s.Resolve(t.Context(), desc.Digest.String())
		if got.MediaType != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s is %q (%v), want %q", c.data, got.MediaType, err, c.want)
		}
		if err != nil && !errors.Is(err, errdef.ErrNotFound) {
			t.Error(err)
		}
	}
}

// An index is there when everything in it is.
func TestExists(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	child := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2}`))
	data, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{child}})
	if err != nil {
		t.Fatal(err)
	}
	inner := push(t, s, ocispec.MediaTypeImageIndex, string(data))
	if data, err = json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{inner}}); err != nil {
		t.Fatal(err)
	}
	outer := push(t, s, ocispec.MediaTypeImageIndex, string(data))
	for _, want := range []bool{false, true} {
		for _, desc := range []ocispec.Descriptor{inner, outer} {
			if got, err := s.Exists(t.Context(), desc); err != nil || got != want {
				t.Errorf("%s: %v, want %v (%v)", desc.Digest, got, want, err)
			}
		}
		if !want {
			push(t, s, ocispec.MediaTypeImageManifest, `{"schemaVersion":2}`)
		}
	}
}

// Referrers are found by their subject, also those that a killed process did not list.
func TestPredecessors(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	subject := push(t, s, ocispec.MediaTypeImageManifest, `{"schemaVersion":2}`)
	text := func(artifactType string) string {
		return fmt.Sprintf(`{"mediaType":%q,"artifactType":%q,"annotations":{%q:"2.0.0"},"subject":{"digest":%q}}`,
			ocispec.MediaTypeImageManifest, artifactType, ocispec.AnnotationRefName, subject.Digest)
	}
	first := push(t, s, ocispec.MediaTypeImageManifest, text("first"))
	second := push(t, s, ocispec.MediaTypeImageManifest, text("second"))
	find := func() (types []string) {
		t.Helper()
		found, err := s.Predecessors(t.Context(), subject)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range found {
			types = append(types, d.ArtifactType)
		}
		slices.Sort(types)
		return types
	}
	if got := find(); !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("found %v", got)
	}
	if err := s.saveIndex(ocispec.Index{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(t.Context(), first, strings.NewReader(text("first"))); !errors.Is(err, errdef.ErrAlreadyExists) {
		t.Error(err)
	}
	if got := find(); !slices.Equal(got, []string{"first"}) {
		t.Errorf("found %v after the second write", got)
	}
	if err := s.Tag(t.Context(), second, "2.0.0"); err != nil {
		t.Fatal(err)
	}
	if got := find(); !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("found %v with one tagged", got)
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	desc := push(t, s, ocispec.MediaTypeImageManifest, `{"schemaVersion":2}`)
	other := push(t, s, ocispec.MediaTypeImageManifest, `{"schemaVersion":2 }`)
	for _, tag := range []string{"b", "a", "c"} {
		if err := s.Tag(t.Context(), desc, tag); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Tag(t.Context(), other, "b"); err != nil {
		t.Fatal(err)
	}
	var tags []string
	if err := s.Tags(t.Context(), "", func(page []string) error { tags = page; return nil }); err != nil || !slices.Equal(tags, []string{"a", "b", "c"}) {
		t.Errorf("%v %v", tags, err)
	}
	if at, err := s.Resolve(t.Context(), "b"); err != nil || at.Digest != other.Digest {
		t.Errorf("b is %s (%v)", at.Digest, err)
	}
	gone := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, []byte("gone"))
	if err := s.Tag(t.Context(), gone, "d"); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("a tag of nothing: %v", err)
	}
}

// Stores of one folder do not overwrite each other's index.
func TestConcurrentWriters(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "layout")
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			s, err := Create(dir)
			if err != nil {
				t.Error(err)
				return
			}
			data := fmt.Appendf(nil, `{"schemaVersion":2,"n":%d}`, i)
			desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, data)
			if err := errors.Join(s.Push(t.Context(), desc, bytes.NewReader(data)), s.Tag(t.Context(), desc, fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		if _, err := s.Resolve(t.Context(), fmt.Sprint(i)); err != nil {
			t.Error(err)
		}
	}
}

// Content that is not what its digest says is not kept.
func TestWrongContent(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, mediaType := range []string{"text/plain", ocispec.MediaTypeImageManifest} {
		desc := content.NewDescriptorFromBytes(mediaType, []byte("right"))
		if err := s.Push(t.Context(), desc, strings.NewReader("wrong")); !errors.Is(err, content.ErrMismatchedDigest) {
			t.Errorf("%s: %v", mediaType, err)
		}
		if there, err := s.Exists(t.Context(), desc); err != nil || there {
			t.Errorf("%s is there (%v)", mediaType, err)
		}
	}
}

// The names that Docker Hub's images go by are one, whichever a tool has written.
func TestDockerHubsNames(t *testing.T) {
	t.Parallel()
	for written, same := range map[string][]string{
		"docker.io/library/nginx:1":      {"docker.io/library/nginx:1", "index.docker.io/library/nginx:1", "docker.io/nginx:1", "index.docker.io/nginx:1"},
		"index.docker.io/krt/web:1":      {"docker.io/krt/web:1", "index.docker.io/krt/web:1"},
		"docker.io/nginx:1":              {"index.docker.io/library/nginx:1"},
		"registry.example/docker.io/x:1": {"registry.example/docker.io/x:1"},
	} {
		store, err := Create(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		data := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
		desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, data)
		if err := store.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if err := store.Tag(t.Context(), desc, written); err != nil {
			t.Fatal(err)
		}
		for _, name := range same {
			if found, err := store.Resolve(t.Context(), name); err != nil || found.Digest != desc.Digest {
				t.Errorf("%s as %s: %v, error %v", written, name, found.Digest, err)
			}
		}
		for _, name := range []string{"docker.io/krt/other:1", "docker.io/library/web:1", "nginx:1", "evil.example/docker.io/nginx:1", "docker.io.example/nginx:1"} {
			if _, err := store.Resolve(t.Context(), name); !errors.Is(err, errdef.ErrNotFound) {
				t.Errorf("%s as %s: %v", written, name, err)
			}
		}
	}
}

// A manifest that cannot be read is not one that is missing: whoever believes that may delete what it needs.
func TestUnreadableIsNotMissing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	data := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, data)
	unreadable := errors.New("input/output error")
	view := &View{Blobs: failingBlobs{size: desc.Size, err: unreadable}, Index: func() (ocispec.Index, error) { return ocispec.Index{}, nil }, Name: s.String()}
	if _, err := view.Resolve(t.Context(), desc.Digest.String()); !errors.Is(err, unreadable) || errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	other := content.NewDescriptorFromBytes("text/plain", []byte("not a manifest"))
	if err := s.Push(t.Context(), other, strings.NewReader("not a manifest")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(t.Context(), other.Digest.String()); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("text: error %v", err)
	}
}

// failingBlobs has content on a disk that does not give it.
type failingBlobs struct {
	Blobs
	size int64
	err  error
}

func (f failingBlobs) Stat(digest.Digest) (int64, error) { return f.size, nil }

func (f failingBlobs) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return nil, f.err
}
