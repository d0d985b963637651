package archive_test

import (
	"archive/tar"
	"bytes"
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

// Every bit of index.json that changes is seen, whoever reads the archive, and so is every bit of the
// checksum: names are nowhere else.
func TestDamagedNames(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	whole := mustWrite(t, contents, from)
	begin := bytes.Index(whole, []byte("comment="))
	end := bytes.Index(whole, []byte(`{"schemaVersion"`))
	end += bytes.IndexByte(whole[end:], 0)
	index := bytes.Index(whole[begin:], []byte("index.json")) + begin
	if begin < 0 || end < index || index < begin {
		t.Fatalf("the record is at %d, the entry at %d, the end at %d", begin, index, end)
	}
	for at := begin; at < end; at++ {
		if whole[at] == 0 || at >= index && at < index+512 {
			continue // padding, and the tar's own header with its own checksum
		}
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[at] ^= 1 << bit
			if _, err := archive.CheckStream(t.Context(), bytes.NewReader(damaged), nil); !errors.Is(err, archive.ErrDamaged) {
				t.Errorf("bit %d of byte %d, in %q, as a stream: %v", bit, at, whole[max(at-10, begin):at+10], err)
			}
		}
		if at%16 != 0 {
			continue // the same code, but a file each
		}
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1
		name := writeFile(t, damaged)
		if _, err := archive.Open(t.Context(), name); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("byte %d, in place: %v", at, err)
		}
		if _, err := archive.CheckFile(t.Context(), name, nil); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("byte %d, by check: %v", at, err)
		}
	}
}

// An archive without a checksum is read: of an earlier version, and one that was unpacked, edited and
// packed by another program, which may add records of its own.
func TestNamesWithoutChecksum(t *testing.T) {
	t.Parallel()
	before := entries(t)
	before[1].Header = regular(ocispec.ImageIndexFile, before[1].data).Header
	edited := slices.Clone(before)
	edited[1] = regular(ocispec.ImageIndexFile, bytes.ReplaceAll(before[1].data, []byte("1.0.0"), []byte("2.0.0")))
	edited[1].Format = tar.FormatPAX
	edited[1].PAXRecords = map[string]string{"SCHILY.dev": "42", "LIBARCHIVE.creationtime": "1700000000"}
	for tag, files := range map[string][]file{"1.0.0": before, "2.0.0": edited} {
		data := tarOf(t, files...)
		if err := readAll(t.Context(), bytes.NewReader(data)); err != nil {
			t.Errorf("%s, as a stream: %v", tag, err)
		}
		store, err := archive.Open(t.Context(), writeFile(t, data))
		if err != nil {
			t.Errorf("%s, in place: %v", tag, err)
			continue
		}
		if _, err := store.Resolve(t.Context(), tag); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

// tar takes an archive without a word, and what it packs after an edit is read.
func TestEditedWithTar(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	name, dir := writeFile(t, mustWrite(t, contents, from)), t.TempDir()
	runTar := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "tar", args...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("tar %v: %v, and it writes %q", args, err, out)
		}
	}
	runTar("-C", dir, "-xf", name)
	index := filepath.Join(dir, ocispec.ImageIndexFile)
	data, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(index, bytes.ReplaceAll(data, []byte("1.0.0"), []byte("2.0.0")), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "pax", "ustar"} {
		again := filepath.Join(t.TempDir(), "again.tar")
		runTar("-C", dir, "--format="+format, "-cf", again, ".")
		if _, err := archive.CheckFile(t.Context(), again, nil); err != nil {
			t.Errorf("%s: %v", format, err)
		}
	}
}

// Volumes have an index each, and a changed one is the damaged one.
func TestDamagedNamesOfVolume(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	volumes, err := contents.Split(16 << 10)
	if err != nil || len(volumes) != 1 {
		t.Fatalf("%d volumes, error %v", len(volumes), err)
	}
	whole := mustWrite(t, volumes[0], from)
	if size, err := volumes[0].Size(); err != nil || size != int64(len(whole)) {
		t.Errorf("size %d, want %d; error %v", size, len(whole), err)
	}
	damaged := bytes.Replace(whole, []byte("example:1.0.0"), []byte("example:1.0.1"), 1)
	_, err = archive.Open(t.Context(), writeFile(t, damaged))
	if !errors.Is(err, archive.ErrDamaged) || !strings.Contains(err.Error(), "index.json does not match its checksum") {
		t.Errorf("got %v", err)
	}
}
