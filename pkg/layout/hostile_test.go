//go:build unix

package layout

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// A folder of a stranger keeps nobody waiting, is read only inside, and is written only inside.
func TestHostileFolders(t *testing.T) {
	t.Parallel()
	small := []byte("content")
	large := bytes.Repeat([]byte("x"), worthKeeping)
	manifest := []byte(`{"schemaVersion":2}`)
	link := func(t *testing.T, to, at string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(at), os.Symlink(to, at)); err != nil {
			t.Fatal(err)
		}
	}
	pipe := func(t *testing.T, at string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(at), syscall.Mkfifo(at, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	fetch := func(data []byte) func(context.Context, string) error {
		return func(ctx context.Context, dir string) error {
			s, err := Open(dir)
			if err != nil {
				return err
			}
			_, err = content.FetchAll(ctx, s, content.NewDescriptorFromBytes("text/plain", data))
			return err
		}
	}
	push := func(mediaType string, data []byte, tag string) func(context.Context, string) error {
		return func(ctx context.Context, dir string) error {
			s, err := Create(dir)
			if err != nil {
				return err
			}
			desc := content.NewDescriptorFromBytes(mediaType, data)
			if err := s.Push(ctx, desc, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
				return err
			}
			if tag == "" {
				return nil
			}
			return s.Tag(ctx, desc, tag)
		}
	}
	resolve := func(ctx context.Context, dir string) error {
		s, err := Open(dir)
		if err != nil {
			return err
		}
		_, err = s.Resolve(ctx, "1.0.0")
		return err
	}
	nameOf := func(data []byte) string { return blobPath(content.NewDescriptorFromBytes("", data).Digest) }
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir, outside string)
		work    func(ctx context.Context, dir string) error
		want    string
	}{
		{"index.json is /dev/zero", func(t *testing.T, dir, _ string) { link(t, "/dev/zero", filepath.Join(dir, "index.json")) }, resolve, "escapes"},
		{"index.json is a pipe", func(t *testing.T, dir, _ string) { pipe(t, filepath.Join(dir, "index.json")) }, resolve, "index.json is not a regular file"},
		{"index.json is a folder", func(t *testing.T, dir, _ string) {
			if err := errors.Join(os.Remove(filepath.Join(dir, "index.json")), os.Mkdir(filepath.Join(dir, "index.json"), 0o755)); err != nil {
				t.Fatal(err)
			}
		}, resolve, "index.json is not a regular file"},
		{"oci-layout is /dev/zero", func(t *testing.T, dir, _ string) { link(t, "/dev/zero", filepath.Join(dir, "oci-layout")) }, resolve, "escapes"},
		{"oci-layout is a pipe", func(t *testing.T, dir, _ string) { pipe(t, filepath.Join(dir, "oci-layout")) }, resolve, "oci-layout is not a regular file"},
		{"oci-layout is large", func(t *testing.T, dir, _ string) {
			if err := os.WriteFile(filepath.Join(dir, "oci-layout"), make([]byte, 1<<20), 0o644); err != nil {
				t.Fatal(err)
			}
		}, resolve, "more than 65536 bytes"},
		{"a blob is /dev/zero", func(t *testing.T, dir, _ string) { link(t, "/dev/zero", filepath.Join(dir, nameOf(small))) }, fetch(small), "escapes"},
		{"a blob is a pipe", func(t *testing.T, dir, _ string) { pipe(t, filepath.Join(dir, nameOf(small))) }, fetch(small), "is not a regular file"},
		{"a blob is outside", func(t *testing.T, dir, outside string) {
			link(t, filepath.Join(outside, "secret"), filepath.Join(dir, nameOf(small)))
		}, fetch(small), "escapes"},
		{"blobs is outside, small", func(t *testing.T, dir, outside string) { link(t, outside, filepath.Join(dir, "blobs")) }, push("text/plain", small, ""), "escapes"},
		{"blobs is outside, large", func(t *testing.T, dir, outside string) { link(t, outside, filepath.Join(dir, "blobs")) }, push("text/plain", large, ""), "escapes"},
		{"blobs/sha256 is outside", func(t *testing.T, dir, outside string) { link(t, outside, filepath.Join(dir, "blobs", "sha256")) }, push("text/plain", small, ""), "escapes"},
		{"ingest is outside, small", func(t *testing.T, dir, outside string) { link(t, outside, filepath.Join(dir, "ingest")) }, push("text/plain", small, ""), "escapes"},
		{"ingest is outside, large", func(t *testing.T, dir, outside string) { link(t, outside, filepath.Join(dir, "ingest")) }, push("text/plain", large, ""), "escapes"},
		{"a partial blob is outside", func(t *testing.T, dir, outside string) {
			if err := os.MkdirAll(filepath.Join(dir, "ingest"), 0o755); err != nil {
				t.Fatal(err)
			}
			link(t, filepath.Join(outside, "new"), filepath.Join(dir, "ingest", filepath.Base(nameOf(large))+".partial"))
		}, push("text/plain", large, ""), "escapes"},
		{"index.json is outside", func(t *testing.T, dir, outside string) {
			link(t, filepath.Join(outside, "secret"), filepath.Join(dir, "index.json"))
		}, push(ocispec.MediaTypeImageManifest, manifest, "2.0.0"), "escapes"},
		{"oci-layout is outside", func(t *testing.T, dir, outside string) {
			link(t, filepath.Join(outside, "empty"), filepath.Join(dir, "oci-layout"))
		}, push(ocispec.MediaTypeImageManifest, manifest, "2.0.0"), "escapes"},
		{"oci-layout is nowhere", func(t *testing.T, dir, outside string) {
			link(t, filepath.Join(outside, "new"), filepath.Join(dir, "oci-layout"))
		}, push(ocispec.MediaTypeImageManifest, manifest, "2.0.0"), "escapes"},
		{"oci-layout is nowhere inside", func(t *testing.T, dir, _ string) { link(t, "new", filepath.Join(dir, "oci-layout")) }, push(ocispec.MediaTypeImageManifest, manifest, "2.0.0"), "no file oci-layout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, outside := filepath.Join(t.TempDir(), "layout"), t.TempDir()
			if err := errors.Join(push(ocispec.MediaTypeImageManifest, manifest, "1.0.0")(t.Context(), dir),
				os.WriteFile(filepath.Join(outside, "secret"), small, 0o644), os.WriteFile(filepath.Join(outside, "empty"), nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			before := listing(t, outside)
			c.prepare(t, dir, outside)
			done := make(chan error, 1)
			go func() { done <- c.work(t.Context(), dir) }()
			select {
			case err := <-done:
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("no %q in: %v", c.want, err)
				}
			case <-time.After(20 * time.Second):
				t.Error("it does not end")
			}
			if after := listing(t, outside); after != before {
				t.Errorf("outside there is now\n%s, before\n%s", after, before)
			}
		})
	}
}

// Links that stay inside of the folder are followed.
func TestLinksInside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := []byte("content")
	desc := content.NewDescriptorFromBytes("text/plain", data)
	s, err := Create(dir)
	if err == nil {
		err = s.Push(t.Context(), desc, bytes.NewReader(data))
	}
	if err := errors.Join(err, os.Rename(filepath.Join(dir, "blobs"), filepath.Join(dir, "elsewhere")), os.Symlink("elsewhere", filepath.Join(dir, "blobs"))); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := content.FetchAll(t.Context(), s, desc); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%q, %v", got, err)
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all.WriteString(path + " " + string(data) + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
