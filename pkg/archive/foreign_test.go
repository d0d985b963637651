package archive_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/archive"
)

func writeFile(t *testing.T, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// An archive that was unpacked and packed again is whole to check as it is to import, whatever
// the order; as a stream it is refused for its order, and not for damage.
func TestPackedAgain(t *testing.T) {
	t.Parallel()
	files := entries(t)
	byName := slices.SortedFunc(slices.Values(files), func(a, b file) int { return strings.Compare(a.Name, b.Name) })
	reversed := slices.Clone(files)
	slices.Reverse(reversed)
	blobsOtherwise := slices.Concat(files[:2], slices.Clone(files[2:]))
	slices.Reverse(blobsOtherwise[2:])
	folders := []file{{Header: tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}}, {Header: tar.Header{Typeflag: tar.TypeDir, Name: "./blobs/", Mode: 0o755}}}
	for _, f := range byName {
		f.Name = "./" + f.Name
		folders = append(folders, f)
	}
	dir := t.TempDir()
	for _, f := range files {
		name := filepath.Join(dir, f.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, f.data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	real, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-cf", "-", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"by name": tarOf(t, byName...), "reversed": tarOf(t, reversed...), "the blobs otherwise": tarOf(t, blobsOtherwise...),
		"folders and ./": tarOf(t, folders...), "by tar": real,
	} {
		file := writeFile(t, data)
		c, err := archive.CheckFile(t.Context(), file, nil)
		if err != nil || c.Manifests != 1 || c.Blobs != 3 || c.Absent != 0 {
			t.Errorf("%s: %+v, error %v", name, c, err)
		}
		if err := readInPlace(t.Context(), file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := readAll(t.Context(), bytes.NewReader(data)); !errors.Is(err, archive.ErrOrder) || errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s, as a stream: %v", name, err)
		}
		// It is not taken for whole because of its order.
		at := bytes.Index(data, []byte("oneone"))
		data[at] ^= 1
		if _, err := archive.CheckFile(t.Context(), writeFile(t, data), nil); err == nil {
			t.Errorf("%s: a byte that changed is not found", name)
		}
	}
	// A blob that is missing is missing in any order.
	lost := slices.DeleteFunc(slices.Clone(reversed), func(f file) bool { return string(f.data) == "two" })
	var incomplete *archive.IncompleteError
	if _, err := archive.CheckFile(t.Context(), writeFile(t, tarOf(t, lost...)), nil); !errors.As(err, &incomplete) {
		t.Errorf("a blob that is missing: %v", err)
	}
}

// What other tools write is called by its name.
func TestForeignArchives(t *testing.T) {
	t.Parallel()
	files := entries(t)
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	zip.Write(tarOf(t, files...))
	zip.Close()
	id := strings.Repeat("0a", 32)
	docker := []file{
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: id + "/", Mode: 0o755}},
		regular(id+"/VERSION", []byte("1.0")), regular(id+"/layer.tar", []byte("layer")), regular(id+".json", []byte("{}")),
		regular("manifest.json", []byte("[]")), regular("repositories", []byte("{}")),
	}
	linked := slices.Insert(slices.Clone(docker), 4, file{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: strings.Repeat("1b", 32) + "/layer.tar", Linkname: "../" + id + "/layer.tar"}})
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"gzip":                   {zipped.Bytes(), "compressed with gzip"},
		"docker save":            {tarOf(t, docker...), "an archive of docker save"},
		"docker save with links": {tarOf(t, linked...), "an archive of docker save"},
	} {
		var foreign *archive.ForeignError
		_, err := archive.CheckFile(t.Context(), writeFile(t, c.data), nil)
		if !errors.As(err, &foreign) || !strings.Contains(err.Error(), c.want) || foreign.Hint == "" || errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s: check: %v", name, err)
		}
		if _, err := archive.Open(t.Context(), writeFile(t, c.data)); !errors.As(err, &foreign) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: open: %v", name, err)
		}
	}

	// Layouts are whole or not, whoever wrote them, and say who may have.
	plain := slices.Clone(files)
	var index ocispec.Index
	if err := json.Unmarshal(plain[1].data, &index); err != nil {
		t.Fatal(err)
	}
	index.Annotations = nil
	data, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	plain[1] = regular("index.json", data)
	for want, files := range map[string][]file{
		"skopeo":            plain,
		"ctr images export": append(slices.Clone(plain), regular("manifest.json", []byte("[]"))),
		"":                  files,
	} {
		name := writeFile(t, tarOf(t, files...))
		if _, err := archive.CheckFile(t.Context(), name, nil); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		store, err := archive.Open(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		if by := store.MadeBy(); !strings.Contains(by, want) || want == "" && by != "" {
			t.Errorf("made by %q, want %q", by, want)
		}
	}
}
