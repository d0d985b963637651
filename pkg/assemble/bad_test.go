package assemble_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/source"
)

var update = flag.Bool("update", false, "write the messages into the archives; read each one then")

// Each archive is a folder with a mistake in it and the message that the mistake gets: one
// clear error with its place. A file "links" makes symbolic links, a line "name target" each.
func TestBadDefinitions(t *testing.T) {
	archives, err := filepath.Glob("../../testdata/definitions/bad/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(archives) < 25 {
		t.Fatalf("only %d archives", len(archives))
	}
	for i := range archives {
		if archives[i], err = filepath.Abs(archives[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Chdir(t.TempDir())
			want := unpack(t, archive)
			_, err = assemble.Build(t.Context(), ".", options())
			if err == nil {
				t.Fatal("no error")
			}
			got := err.Error() + "\n"
			if *update {
				setError(t, archive, file, got)
				return
			}
			if got != want {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			// One mistake, one line: what follows from it is not reported as well.
			if strings.Count(got, "\n") > strings.Count(want, "\n") {
				t.Errorf("more than one error:\n%s", got)
			}
		})
	}
}

// unpack writes an archive's files and returns the message that it wants.
func unpack(t *testing.T, archive *txtar.Archive) (want string) {
	t.Helper()
	for _, f := range archive.Files {
		switch f.Name {
		case "error":
			want = string(f.Data)
		case "links":
			for line := range strings.Lines(string(f.Data)) {
				name, target, _ := strings.Cut(strings.TrimSpace(line), " ")
				if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.Symlink(target, name)); err != nil {
					t.Fatal(err)
				}
			}
		default:
			data := strings.NewReplacer("<TAB>", "\t", "<EMPTY>\n", "").Replace(string(f.Data))
			if err := errors.Join(os.MkdirAll(filepath.Dir(f.Name), 0o755), os.WriteFile(f.Name, []byte(data), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return want
}

func setError(t *testing.T, archive *txtar.Archive, file, message string) {
	t.Helper()
	for i := range archive.Files {
		if archive.Files[i].Name == "error" {
			archive.Files[i].Data = []byte(message)
		}
	}
	if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

// options build into memory; images exist but for those of missing.example.
func options() assemble.Options {
	return assemble.Options{
		Store:  memory.New(),
		Images: resolver{},
		Open: func(_ context.Context, ref, _ string) (content.Fetcher, ocispec.Descriptor, error) {
			return nil, ocispec.Descriptor{}, fmt.Errorf("%s is not there", ref)
		},
		Sources: source.Fetcher{Mirrors: []source.Mirror{{Prefix: "https://upstream.example/", Replacement: "mirror/"}}},
	}
}

// resolver gives each reference its digest, or one of its own, always the same.
type resolver struct{}

func (resolver) Resolve(_ context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	if ref.Context().RegistryStr() == "missing.example" {
		return ocispec.Descriptor{}, errors.New("not found")
	}
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, []byte(ref.Name()))
	if pinned, is := ref.(name.Digest); is {
		desc.Digest = digest.Digest(pinned.DigestStr())
	}
	return desc, nil
}
