package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/archive"
)

// layers returns the contents of an archive of one image with random layers.
func layers(t testing.TB, sizes ...int) (archive.Contents, content.Fetcher) {
	t.Helper()
	store, random := memory.New(), rand.NewChaCha8([32]byte{9})
	push := func(mediaType string, data []byte) ocispec.Descriptor {
		desc := content.NewDescriptorFromBytes(mediaType, data)
		if err := store.Push(context.Background(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: push(ocispec.MediaTypeImageConfig, []byte("{}")),
	}
	for _, size := range sizes {
		data := make([]byte, size)
		_, _ = random.Read(data) // it never fails
		manifest.Layers = append(manifest.Layers, push(ocispec.MediaTypeImageLayerGzip, data))
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	desc := push(ocispec.MediaTypeImageManifest, data)
	blobs := append([]ocispec.Descriptor{manifest.Config}, manifest.Layers...)
	archive.SortBlobs(blobs)
	return archive.Contents{
		Named: []ocispec.Descriptor{archive.NameDescriptor(desc, "1.0.0", "example.test/app:1.0.0")}, Manifests: []ocispec.Descriptor{desc}, Blobs: blobs,
	}, store
}

// writeProtected writes an archive with parity.
func writeProtected(t testing.TB, c archive.Contents, from content.Fetcher) (name string, data []byte) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "app.tar")
	written, err := archive.WriteFile(t.Context(), name, c, from, archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if data, err = os.ReadFile(name); err != nil {
		t.Fatal(err)
	}
	if size, err := c.Size(); err != nil || size != int64(len(data)) || written.Size != size {
		t.Errorf("%d bytes, want %d; written %+v, error %v", len(data), size, written, err)
	}
	return name, data
}

// readEverything reads all content in place and verifies it.
func readEverything(ctx context.Context, name string) error {
	store, err := archive.Open(ctx, name)
	if err != nil {
		return err
	}
	defer store.Close()
	for _, desc := range store.ListContents() {
		body, err := store.Fetch(ctx, desc)
		if err != nil {
			return err
		}
		verified := content.NewVerifyReader(body, desc)
		if _, err := io.Copy(io.Discard, verified); err != nil {
			return err
		}
		if err := verified.Verify(); err != nil {
			return err
		}
	}
	return nil
}

// An archive with parity is a layout as before: the same bytes twice, a tar that other programs read, a stream.
func TestParityIsAnArchive(t *testing.T) {
	t.Parallel()
	contents, from := layers(t, 300_000, 70_000)
	contents.Parity = 10
	name, data := writeProtected(t, contents, from)
	if _, again := writeProtected(t, contents, from); !bytes.Equal(again, data) {
		t.Error("not the same twice")
	}
	result, err := archive.CheckFile(t.Context(), name, nil)
	if err != nil || result.Manifests != 1 || result.Blobs != 3 {
		t.Errorf("%+v, %v", result, err)
	}
	if _, err := archive.CheckStream(t.Context(), bytes.NewReader(data), nil); err != nil {
		t.Errorf("as a stream: %v", err)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if names[0] != "krtpkg-parity/geometry" || names[1] != "oci-layout" || names[2] != "index.json" || names[len(names)-1] != "krtpkg-parity/blocks" {
		t.Errorf("entries are %v", names)
	}
	// What broke off is gone on with, also in the parity.
	for _, left := range []int{100, len(data) / 2, len(data) - 20_000, len(data) - 1} {
		resumed := filepath.Join(t.TempDir(), "app.tar")
		if err := os.WriteFile(resumed+".partial", data[:left], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.WriteFile(t.Context(), resumed, contents, from, archive.Options{}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(resumed); err != nil || !bytes.Equal(got, data) {
			t.Errorf("after %d bytes: differs, error %v", left, err)
		}
	}
	if err := archive.Write(t.Context(), io.Discard, contents, from, archive.Options{}); err == nil {
		t.Error("parity in a stream")
	}
	if _, err := archive.WriteFile(t.Context(), name, contents, from, archive.Options{Compress: true}); err == nil {
		t.Error("parity in a compressed archive")
	}
}

// What is damaged is read healed, told, and repaired to the same bytes; more than that is named.
func TestParityHeals(t *testing.T) {
	t.Parallel()
	contents, from := layers(t, 3<<20, 700_000, 1)
	contents.Parity = 10
	_, whole := writeProtected(t, contents, from)
	end := len(whole)
	zero := func(from, to int) func([]byte) []byte {
		return func(data []byte) []byte { clear(data[from:to]); return data }
	}
	for _, c := range []struct {
		name   string
		damage func([]byte) []byte
		lost   string
	}{
		{"tar headers and index.json", zero(0, 8192), ""},
		{"the beginning and the end", func(data []byte) []byte { clear(data[:20_000]); clear(data[end-20_000:]); return data }, ""},
		{"a hole in a layer", zero(1_000_000, 1_250_000), ""},
		{"something behind the end", func(data []byte) []byte { data[end-5] = 7; return data }, ""},
		{"the header of the parity", func(data []byte) []byte {
			at := bytes.Index(data, []byte("krtpkg-parity/blocks"))
			clear(data[at : at+512])
			return data
		}, ""},
		{"cut off in the parity", func(data []byte) []byte { return data[:end-50_000] }, ""},
		{"an intact archive with a name in the index changed", func(data []byte) []byte {
			return bytes.Replace(data, []byte(`ref.name":"1.0.0`), []byte(`ref.name":"6.6.6`), 1)
		}, ""},
		{"all parity, and a bit of a layer", func(data []byte) []byte {
			clear(data[bytes.Index(data, []byte("krtpkg-parity/blocks"))+512 : end-1024-2048])
			data[500_000] ^= 1
			return data
		}, "layer of example.test/app:1.0.0"},
		{"a hole of a fifth", zero(1_000_000, 1_900_000), "layer of example.test/app:1.0.0"},
		{"a beginning of a fifth", zero(0, 900_000), "headers and index.json"},
		{"all parity and the headers", func(data []byte) []byte {
			clear(data[bytes.Index(data, []byte("krtpkg-parity/blocks"))+512 : end-1024-2048])
			clear(data[2560:8192])
			return data
		}, "cannot be checked: the headers and index.json"},
		{"all parity, and the last headers", func(data []byte) []byte {
			at := bytes.Index(data, []byte("krtpkg-parity/blocks"))
			clear(data[at-100_000 : end-1024-2048])
			return data
		}, "cannot be"},
	} {
		name := filepath.Join(t.TempDir(), "app.tar")
		if err := os.WriteFile(name, c.damage(slices.Clone(whole)), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := archive.CheckFile(t.Context(), name, nil)
		var damage *archive.DamageError
		if !errors.As(err, &damage) || damage.IsHealable() != (c.lost == "") || !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		t.Logf("%s: %v", c.name, err)
		repaired, err := archive.Repair(t.Context(), name, archive.RepairOptions{})
		if c.lost != "" {
			if !errors.As(err, &damage) || readEverything(t.Context(), name) == nil {
				t.Errorf("%s: repaired: %v", c.name, err)
			}
			if !strings.Contains(damage.Error(), c.lost) {
				t.Errorf("%s: %v, want %s", c.name, damage, c.lost)
			}
			continue
		}
		if err != nil || repaired.File != name {
			t.Errorf("%s: %+v, %v", c.name, repaired, err)
		}
		if err := readEverything(t.Context(), name); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, whole) {
			t.Errorf("%s: repaired to other bytes, error %v", c.name, err)
		}
		// Read in place without a repair.
		if err := os.WriteFile(name, c.damage(slices.Clone(whole)), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := readEverything(t.Context(), name); err != nil {
			t.Errorf("%s, in place: %v", c.name, err)
		}
	}
	// All parity, and nothing else: each item is verified by its digest, and the parity is made again.
	name := filepath.Join(t.TempDir(), "app.tar")
	bare := slices.Clone(whole)
	clear(bare[bytes.Index(bare, []byte("krtpkg-parity/blocks"))+512 : end-1024-2048])
	if err := os.WriteFile(name, bare, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.CheckFile(t.Context(), name, nil); err == nil || !strings.Contains(err.Error(), "the content is intact") {
		t.Errorf("got %v", err)
	}
	// A folder gets what is healed, but nothing there is replaced.
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "app.tar"), []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Repair(t.Context(), name, archive.RepairOptions{Dir: folder}); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("repaired over another file: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(folder, "app.tar")); err != nil || string(got) != "precious" {
		t.Errorf("got %q, %v", got, err)
	}
	link := filepath.Join(folder, "link.tar")
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	if repaired, err := archive.Repair(t.Context(), link, archive.RepairOptions{}); err != nil || repaired.File == link {
		t.Errorf("got %+v, %v", repaired, err)
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("repaired to other bytes: %v", err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	if repaired, err := archive.Repair(t.Context(), name, archive.RepairOptions{}); err != nil || repaired.File != "" {
		t.Errorf("of an intact archive: %+v, %v", repaired, err)
	}
	contents.Parity = 0
	plain, _ := writeProtected(t, contents, from)
	if _, err := archive.Repair(t.Context(), plain, archive.RepairOptions{}); !errors.Is(err, archive.ErrNoParity) {
		t.Errorf("without parity: %v", err)
	}
}

// writeVolumes writes volumes with layers of some sizes, and with n volumes of parity.
func writeVolumes(t *testing.T, dir string, n int, sizes ...int) (names, parityNames []string) {
	t.Helper()
	contents, from := layers(t, sizes...)
	contents.Parity, contents.ParityVolumes = 10, n
	volumes, err := contents.Split(300_000)
	if err != nil || len(volumes) != len(sizes) {
		t.Fatalf("%d volumes, %v", len(volumes), err)
	}
	name := filepath.Join(dir, "app.tar")
	names, parityNames = archive.VolumeNames(name, len(volumes)), archive.ParityVolumeNames(name, n)
	for i, name := range names {
		if _, err := archive.WriteFile(t.Context(), name, volumes[i], from, archive.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if n > 0 {
		if _, err := archive.WriteParityVolumes(t.Context(), names, parityNames, volumes, nil); err != nil {
			t.Fatal(err)
		}
	}
	return names, parityNames
}

// Volumes of parity that an earlier export left say nothing of the volumes of a later one.
func TestParityOfEarlierExport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeVolumes(t, dir, 2, 190_000, 190_001)
	names, _ := writeVolumes(t, dir, 0, 170_000, 170_001)
	if state, err := archive.InspectSet(t.Context(), names[0]); err != nil || state != nil {
		t.Errorf("got %+v, %v", state, err)
	}
	names, _ = writeVolumes(t, dir, 1, 170_000, 170_001)
	if state, err := archive.InspectSet(t.Context(), names[0]); err != nil || !reflect.DeepEqual(state, &archive.SetState{Parity: 1}) {
		t.Errorf("with its own parity: got %+v, %v", state, err)
	}
}

// Volumes are looked at only if there is parity for them, and no longer than wanted.
func TestInspectSetLooksAtLittle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	names, parityNames := writeVolumes(t, dir, 1, 190_000, 190_001)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if state, err := archive.InspectSet(canceled, names[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got %+v, %v", state, err)
	}
	if lost, err := archive.LostVolumes(canceled, names[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: lost are %v, %v", lost, err)
	}
	if err := os.Remove(parityNames[0]); err != nil {
		t.Fatal(err)
	}
	// A volume with neither of its ends would be searched.
	if err := os.WriteFile(names[1], make([]byte, 200_000), 0o644); err != nil {
		t.Fatal(err)
	}
	if state, err := archive.InspectSet(canceled, names[0]); err != nil || state != nil {
		t.Errorf("without parity: got %+v, %v", state, err)
	}
}

// Volumes: lost ones are read from the others and restored, and so is what one cannot heal itself.
func TestParityVolumes(t *testing.T) {
	t.Parallel()
	sizes := make([]int, 10)
	for i := range sizes {
		sizes[i] = 190_000 + i
	}
	contents, from := layers(t, sizes...)
	contents.Parity, contents.ParityVolumes = 10, 2
	const limit = 300_000
	volumes, err := contents.Split(limit)
	if err != nil || len(volumes) != 10 {
		t.Fatalf("%d volumes, %v", len(volumes), err)
	}
	whole := map[string][]byte{}
	write := func(t *testing.T) (names, parityNames []string) {
		dir := t.TempDir()
		names, parityNames = archive.VolumeNames(filepath.Join(dir, "app.tar"), 10), archive.ParityVolumeNames(filepath.Join(dir, "app.tar"), 2)
		if len(whole) > 0 {
			for name, data := range whole {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			return names, parityNames
		}
		for i, name := range names {
			if _, err := archive.WriteFile(t.Context(), name, volumes[i], from, archive.Options{}); err != nil {
				t.Fatal(err)
			}
		}
		written, err := archive.WriteParityVolumes(t.Context(), names, parityNames, volumes, nil)
		if err != nil {
			t.Fatal(err)
		}
		planned, err := archive.PlanParityVolumes(volumes)
		if err != nil || planned[1] != written[1].Size {
			t.Errorf("planned %v, written %v, error %v", planned, written, err)
		}
		for _, name := range slices.Concat(names, parityNames) {
			data, err := os.ReadFile(name)
			if err != nil || len(data) > limit {
				t.Errorf("%s: %d bytes, error %v", name, len(data), err)
			}
			whole[filepath.Base(name)] = data
		}
		return names, parityNames
	}
	readSet := func(name string) error {
		names, err := archive.AddSiblings(name)
		if err != nil {
			return err
		}
		store, err := archive.Open(t.Context(), names...)
		if err != nil {
			return err
		}
		defer store.Close()
		if absent := store.AbsentVolumes(); len(absent) > 0 {
			return &archive.AbsentVolumesError{Volumes: absent, Of: store.Volumes()}
		}
		if _, err := store.Survey(t.Context(), nil); err != nil {
			return err
		}
		for _, desc := range store.ListContents() {
			if _, err := content.FetchAll(t.Context(), store, desc); err != nil {
				return err
			}
		}
		return nil
	}
	write(t)
	for _, c := range []struct {
		name string
		// gone are volumes, from 0, and from 10 on those of parity; torn are damaged too much to heal themselves.
		gone, torn []int
		works      bool
	}{
		{"nothing", nil, nil, true},
		{"one volume", []int{3}, nil, true},
		{"the first and the last volume", []int{0, 9}, nil, true},
		{"a volume and one of parity", []int{5, 10}, nil, true},
		{"both of parity", []int{10, 11}, nil, true},
		{"a volume, and another one torn", []int{5}, []int{7}, true},
		{"two volumes torn", nil, []int{2, 7}, true},
		{"three volumes", []int{1, 2, 3}, nil, false},
		{"two volumes, and one torn", []int{1, 2}, []int{3}, false},
	} {
		names, parityNames := write(t)
		all := slices.Concat(names, parityNames)
		for _, i := range c.torn {
			data := slices.Clone(whole[filepath.Base(all[i])])
			clear(data[100_000:180_000])
			if err := os.WriteFile(all[i], data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, i := range c.gone {
			if err := os.Remove(all[i]); err != nil {
				t.Fatal(err)
			}
		}
		err := readSet(names[4])
		if (err == nil) != c.works {
			t.Errorf("%s: %v", c.name, err)
		}
		t.Logf("%s: %v", c.name, err)
		if !c.works {
			continue
		}
		lost, err := archive.LostVolumes(t.Context(), names[4])
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, i := range c.torn {
			lost = append(lost, names[i])
		}
		for _, name := range lost {
			repaired, err := archive.Repair(t.Context(), name, archive.RepairOptions{})
			if err != nil || repaired.File != name {
				t.Errorf("%s: %+v, %v", c.name, repaired, err)
			}
		}
		for _, name := range names {
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, whole[filepath.Base(name)]) {
				t.Errorf("%s: %s was restored to other bytes: %v", c.name, name, err)
			}
		}
	}
	// Volumes that are cut off, empty or overwritten are restored like lost ones.
	for _, c := range []struct {
		name  string
		spoil func([]byte) []byte
	}{
		{"cut off", func(data []byte) []byte { return data[:len(data)/2] }},
		{"empty", func([]byte) []byte { return nil }},
		{"zeros", func(data []byte) []byte { return make([]byte, len(data)) }},
		{"the second half zeros", func(data []byte) []byte { clear(data[len(data)/2:]); return data }},
	} {
		names, _ := write(t)
		if err := os.WriteFile(names[1], c.spoil(slices.Clone(whole[filepath.Base(names[1])])), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(names[6]); err != nil {
			t.Fatal(err)
		}
		if err := readSet(names[0]); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, i := range []int{1, 6} {
			if repaired, err := archive.Repair(t.Context(), names[i], archive.RepairOptions{}); err != nil || repaired.File != names[i] {
				t.Errorf("%s: %+v, %v", c.name, repaired, err)
			}
			if got, err := os.ReadFile(names[i]); err != nil || !bytes.Equal(got, whole[filepath.Base(names[i])]) {
				t.Errorf("%s: %s was restored to other bytes: %v", c.name, names[i], err)
			}
		}
	}
	// One volume is enough to tell what can be restored.
	for _, c := range []struct {
		lost, lostParity []int
		want             archive.SetState
	}{
		{nil, nil, archive.SetState{Parity: 2}},
		{[]int{2, 7}, nil, archive.SetState{Absent: []int{3, 8}, Parity: 2}},
		{[]int{2, 7}, []int{1}, archive.SetState{Absent: []int{3, 8}, Parity: 1, Lacking: 1}},
	} {
		names, parityNames := write(t)
		for _, i := range c.lost {
			if err := os.Remove(names[i]); err != nil {
				t.Fatal(err)
			}
		}
		for _, i := range c.lostParity {
			if err := os.Remove(parityNames[i]); err != nil {
				t.Fatal(err)
			}
		}
		if state, err := archive.InspectSet(t.Context(), names[0]); err != nil || !reflect.DeepEqual(state, &c.want) {
			t.Errorf("without volumes %v and %v of parity: %+v, %v", c.lost, c.lostParity, state, err)
		}
		for _, name := range parityNames {
			os.Remove(name)
		}
		if state, err := archive.InspectSet(t.Context(), names[0]); err != nil || state != nil {
			t.Errorf("without parity: %+v, %v", state, err)
		}
	}
	// A volume that cannot be restored leaves the others as they are.
	some, _ := write(t)
	torn := slices.Clone(whole[filepath.Base(some[3])])
	clear(torn[:120_000])
	if err := errors.Join(os.Remove(some[1]), os.Remove(some[2]), os.WriteFile(some[3], torn, 0o644)); err != nil {
		t.Fatal(err)
	}
	store, err := archive.Open(t.Context(), some[4])
	if err != nil {
		t.Fatal(err)
	}
	if absent := store.AbsentVolumes(); len(absent) != 9 {
		t.Errorf("%v are absent", absent)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	var absent *archive.AbsentVolumesError
	if err := os.Remove(some[3]); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Repair(t.Context(), some[2], archive.RepairOptions{}); !errors.As(err, &absent) || !slices.Equal(absent.Volumes, []int{2, 3, 4}) {
		t.Errorf("got %v", err)
	}
	// Parity is not made of what is damaged, and a set of another export is not taken for the right one.
	some, parities := write(t)
	clear(torn[:])
	copy(torn, whole[filepath.Base(some[3])])
	clear(torn[100_000:200_000])
	if err := errors.Join(os.WriteFile(some[3], torn, 0o644), os.Remove(parities[1])); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.WriteParityVolumes(t.Context(), some, parities, volumes, nil); !errors.Is(err, archive.ErrDamaged) || !strings.Contains(err.Error(), some[3]) {
		t.Errorf("got %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(some[0]), "*.partial")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	some, _ = write(t)
	stale, staleFrom := layers(t, 190_001, 190_002, 190_003, 190_004, 190_005, 190_006, 190_007, 190_008, 190_009, 150_000)
	stale.Parity, stale.ParityVolumes = 10, 1
	others, err := stale.Split(limit)
	if err != nil || len(others) != 10 {
		t.Fatalf("%d volumes, %v", len(others), err)
	}
	dir := t.TempDir()
	staleNames := archive.VolumeNames(filepath.Join(dir, "app.tar"), 10)
	for i, name := range staleNames {
		if _, err := archive.WriteFile(t.Context(), name, others[i], staleFrom, archive.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := archive.WriteParityVolumes(t.Context(), staleNames, archive.ParityVolumeNames(filepath.Join(filepath.Dir(some[0]), "app.tar"), 1), others, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(some[5]); err != nil {
		t.Fatal(err)
	}
	if err := readSet(some[0]); err != nil {
		t.Errorf("with a stale volume of parity: %v", err)
	}
	// A volume of parity is no archive, and heals itself.
	names, parityNames := write(t)
	var foreign *archive.ForeignError
	if _, err := archive.Open(t.Context(), parityNames[0]); !errors.As(err, &foreign) {
		t.Errorf("opened: %v", err)
	}
	if _, err := archive.CheckParityVolume(t.Context(), parityNames[0], nil); err != nil {
		t.Error(err)
	}
	damaged := slices.Clone(whole[filepath.Base(parityNames[0])])
	clear(damaged[:5000])
	if err := os.WriteFile(parityNames[0], damaged, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Repair(t.Context(), parityNames[0], archive.RepairOptions{}); err != nil {
		t.Error(err)
	}
	half := slices.Clone(whole[filepath.Base(parityNames[1])])
	clear(half[len(half)/2:])
	if err := os.WriteFile(parityNames[1], half, 0o644); err != nil {
		t.Fatal(err)
	}
	// One that is not is made again of the volumes, or stays as it is without them.
	if err := os.Rename(names[3], names[3]+".away"); err != nil {
		t.Fatal(err)
	}
	var damage *archive.DamageError
	if repaired, err := archive.Repair(t.Context(), parityNames[1], archive.RepairOptions{}); !errors.As(err, &damage) {
		t.Errorf("half a volume of parity was repaired: %+v, %v", repaired, err)
	}
	if got, err := os.ReadFile(parityNames[1]); err != nil || !bytes.Equal(got, half) {
		t.Errorf("half a volume of parity was replaced: %v", err)
	}
	if err := os.Rename(names[3]+".away", names[3]); err != nil {
		t.Fatal(err)
	}
	for _, spoil := range []func() error{func() error { return nil }, func() error { return os.Remove(parityNames[1]) }, func() error { return os.Truncate(parityNames[1], 0) }} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if repaired, err := archive.Repair(t.Context(), parityNames[1], archive.RepairOptions{}); err != nil || !repaired.IsRemade {
			t.Errorf("got %+v, %v", repaired, err)
		}
		if got, err := os.ReadFile(parityNames[1]); err != nil || !bytes.Equal(got, whole[filepath.Base(parityNames[1])]) {
			t.Errorf("the volume of parity was made again with other bytes: %v", err)
		}
	}
	if got, err := os.ReadFile(parityNames[0]); err != nil || !bytes.Equal(got, whole[filepath.Base(parityNames[0])]) {
		t.Errorf("the volume of parity was repaired to other bytes: %v", err)
	}
	if all, err := archive.AddSiblings(slices.Concat(names, parityNames)...); err != nil || len(all) != 10 {
		t.Errorf("got %v, %v", all, err)
	}
	var tooSmall *archive.VolumeSizeError
	if _, err := contents.Split(150_000); !errors.As(err, &tooSmall) || tooSmall.Limit != 150_000 {
		t.Errorf("got %v", err)
	}
	// No volume is larger than asked for, though a few bytes less can take more parity; and more than there can be is fine.
	for _, percent := range []int{1, 10, 37, 100} {
		contents.Parity = percent
		for limit := int64(500_000); limit < 1_900_000; limit += 7001 {
			volumes, err := contents.Split(limit)
			if err != nil {
				t.Fatal(err)
			}
			sizes, err := archive.PlanParityVolumes(volumes)
			if err != nil {
				t.Fatal(err)
			}
			for _, volume := range volumes {
				size, err := volume.Size()
				if err != nil {
					t.Fatal(err)
				}
				sizes = append(sizes, size)
			}
			if largest := slices.Max(sizes); largest > limit {
				t.Errorf("%d %%: %d bytes, limit %d", percent, largest, limit)
			}
		}
	}
	if volumes, err := contents.Split(5e12); err != nil || len(volumes) != 1 {
		t.Errorf("%d volumes, %v", len(volumes), err)
	}
	contents.ParityVolumes = 300
	if _, err := contents.Split(500_000); err == nil {
		t.Error("300 volumes of parity")
	}
}
