package archive_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/archive"
)

// added is content next to other content.
type added struct {
	content.Fetcher
	more map[digest.Digest][]byte
}

func (a added) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if data, ok := a.more[desc.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	return a.Fetcher.Fetch(ctx, desc)
}

// withDelta returns an archive with a delta of one of its blobs instead of the blob.
func withDelta(t *testing.T, change func(*ocispec.Manifest)) (data []byte, layer ocispec.Descriptor) {
	t.Helper()
	contents, from := small(t)
	layer = contents.Blobs[0]
	if layer.Digest == ocispec.DescriptorEmptyJSON.Digest {
		layer = contents.Blobs[1]
		contents.Blobs[0], contents.Blobs[1] = contents.Blobs[1], contents.Blobs[0]
	}
	blob := []byte("the delta")
	manifest, err := archive.EncodeDeltas([]archive.Delta{{
		Layer: layer, Blob: content.NewDescriptorFromBytes(archive.TypeDelta, blob), Bases: []digest.Digest{digest.FromString("base")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		var m ocispec.Manifest
		if err := json.Unmarshal(manifest, &m); err != nil {
			t.Fatal(err)
		}
		change(&m)
		if manifest, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
	}
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, manifest)
	contents.HasDeltas, contents.Base = true, []string{"edge:1.0.0@" + digest.FromString("root").String()}
	contents.Named = append(contents.Named, desc)
	contents.Manifests = append(contents.Manifests, desc)
	contents.Blobs = append(contents.Blobs[1:], content.NewDescriptorFromBytes("", blob))
	isConfig := func(d ocispec.Descriptor) bool { return d.Digest == ocispec.DescriptorEmptyJSON.Digest }
	if !slices.ContainsFunc(slices.Concat(contents.Blobs, contents.Front), isConfig) {
		contents.Blobs = append(contents.Blobs, ocispec.DescriptorEmptyJSON)
	}
	archive.SortBlobs(contents.Blobs)
	return mustWrite(t, contents, added{from, map[digest.Digest][]byte{
		desc.Digest: manifest, digest.FromBytes(blob): blob, ocispec.DescriptorEmptyJSON.Digest: ocispec.DescriptorEmptyJSON.Data,
	}}), layer
}

func openBytes(t *testing.T, data []byte) (*archive.Store, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "edge.tar")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	store, err := archive.Open(t.Context(), file)
	if err == nil {
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return store, err
}

// Deltas are listed, in place and as a stream, and their blobs are nothing that a target lacks.
func TestDeltasAreListed(t *testing.T) {
	t.Parallel()
	data, layer := withDelta(t, nil)
	store, err := openBytes(t, data)
	if err != nil {
		t.Fatal(err)
	}
	inPlace, err := store.Deltas(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := archive.OpenStream(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for _, list := range [][]archive.Delta{inPlace, stream.Deltas()} {
		if len(list) != 1 || list[0].Layer.Digest != layer.Digest || list[0].Layer.Size != layer.Size || list[0].Bases[0] != digest.FromString("base") {
			t.Errorf("%+v", list)
		}
	}
	lacking, err := store.ListLacking(t.Context())
	if err != nil || len(lacking) != 1 || lacking[0].Digest != layer.Digest {
		t.Errorf("lacks %v, %v", lacking, err)
	}
	c, err := archive.CheckStream(t.Context(), bytes.NewReader(data), nil)
	if err != nil || c.Deltas != 1 || c.Absent != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

// Versions before deltas read the number of manifests as a number alone, and print what they cannot
// read: it says what to do. What this version does not know it refuses too.
func TestReadersWithoutDeltas(t *testing.T) {
	t.Parallel()
	data, _ := withDelta(t, nil)
	stream, err := archive.OpenStream(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	index, err := stream.Index()
	if err != nil {
		t.Fatal(err)
	}
	text := index.Annotations["dev.krtpkg.archive.manifests"]
	if _, err := strconv.Atoi(text); err == nil || !strings.Contains(text, "update krtpkg") {
		t.Errorf("number of manifests: %q", text)
	}
	files := entriesOf(t, bytes.NewReader(data))
	files[1] = regular("index.json", bytes.Replace(files[1].data, []byte(`requires":"deltas"`), []byte(`requires":"newest"`), 1))
	later := tarOf(t, files...)
	var feature *archive.FeatureError
	if _, err := openBytes(t, later); !errors.As(err, &feature) || !strings.Contains(err.Error(), "update krtpkg") {
		t.Errorf("in place: %v", err)
	}
	if _, err := archive.OpenStream(t.Context(), bytes.NewReader(later)); !errors.As(err, &feature) {
		t.Errorf("stream: %v", err)
	}
}

// What a manifest of deltas says is checked.
func TestDamagedListsOfDeltas(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*ocispec.Manifest){
		"no size":       func(m *ocispec.Manifest) { delete(m.Layers[0].Annotations, "dev.krtpkg.delta.size") },
		"negative size": func(m *ocispec.Manifest) { m.Layers[0].Annotations["dev.krtpkg.delta.size"] = "-1" },
		"no layer":      func(m *ocispec.Manifest) { m.Layers[0].Annotations["dev.krtpkg.delta.to"] = "sha256:1" },
		"odd base":      func(m *ocispec.Manifest) { m.Layers[0].Annotations["dev.krtpkg.delta.from"] = "../../etc" },
		"other digest":  func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:no" },
	} {
		data, _ := withDelta(t, change)
		if _, err := archive.OpenStream(t.Context(), bytes.NewReader(data)); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s, stream: %v", name, err)
		}
		store, err := openBytes(t, data)
		if err == nil {
			_, err = store.Deltas(t.Context())
		}
		if !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s, in place: %v", name, err)
		}
	}
}
