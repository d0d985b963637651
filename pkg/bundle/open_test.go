package bundle

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
)

// opened opens a bundle whose layer is what write makes of an archive.
func opened(t *testing.T, write func(raw io.Writer, archive *tar.Writer)) error {
	t.Helper()
	var layer bytes.Buffer
	zip, err := gzip.NewWriterLevel(&layer, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(zip)
	write(zip, archive)
	if err := errors.Join(archive.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	store := memory.New()
	put := func(mediaType string, data []byte) ocispec.Descriptor {
		desc := content.NewDescriptorFromBytes(mediaType, data)
		if err := store.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: TypeBundle,
		Config: put(ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers: []ocispec.Descriptor{put(mediaTypeLayer, layer.Bytes())},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), store, put(ocispec.MediaTypeImageManifest, manifest))
	return err
}

func TestOpenRefusesHostileArchives(t *testing.T) {
	t.Parallel()
	file := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	for _, c := range []struct {
		name, want string
		entries    []*tar.Header
	}{
		{"a name outside", `entry "../x" leaves the bundle`, []*tar.Header{file("../x")}},
		{"an absolute name", `entry "/x" leaves the bundle`, []*tar.Header{file("/x")}},
		{"a way around", `entry "config/../../x" leaves the bundle`, []*tar.Header{file("config/../../x")}},
		{"a name that is not plain", `entry "config//x" leaves the bundle`, []*tar.Header{file("config//x")}},
		{"a folder outside", `entry "../x/" leaves the bundle`, []*tar.Header{{Typeflag: tar.TypeDir, Name: "../x/"}}},
		{"a symbolic link", `entry "config/x" is neither`, []*tar.Header{{Typeflag: tar.TypeSymlink, Name: "config/x", Linkname: "/etc"}}},
		{"a hard link", `entry "config/x" is neither`, []*tar.Header{{Typeflag: tar.TypeLink, Name: "config/x", Linkname: "y"}}},
		{"a device", `entry "config/x" is neither`, []*tar.Header{{Typeflag: tar.TypeChar, Name: "config/x"}}},
		{"an entry twice", `entry "config/x" is there twice`, []*tar.Header{file("config/x"), file("config/x")}},
		{"no lock", "images.yml is missing", []*tar.Header{file("config/x")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := opened(t, func(_ io.Writer, archive *tar.Writer) {
				for _, h := range c.entries {
					if err := archive.WriteHeader(h); err != nil {
						t.Fatal(err)
					}
				}
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A file that is too large is refused by its header, and so is an archive that has no large
// file in it but folders without end.
func TestOpenRefusesBombs(t *testing.T) {
	t.Parallel()
	err := opened(t, func(_ io.Writer, archive *tar.Writer) {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "config/x", Size: maxContent + 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(archive, zeros{}, maxContent+1); err != nil {
			t.Fatal(err)
		}
	})
	if err == nil || !strings.Contains(err.Error(), `entry "config/x" is over the limit`) {
		t.Errorf("a file: %v", err)
	}
	err = opened(t, func(raw io.Writer, archive *tar.Writer) {
		var header bytes.Buffer
		if err := tar.NewWriter(&header).WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "config/"}); err != nil {
			t.Fatal(err)
		}
		block := bytes.Repeat(header.Bytes(), 1000)
		for n := 0; n <= maxStream; n += len(block) {
			if _, err := raw.Write(block); err != nil {
				t.Fatal(err)
			}
		}
	})
	if err == nil || !strings.Contains(err.Error(), "the archive is over the limit") {
		t.Errorf("folders: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
