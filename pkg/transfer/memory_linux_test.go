package transfer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/peaktest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

const (
	// emptyEntries are three bytes of JSON each, and over a hundred in memory.
	emptyEntries = `{"schemaVersion":2,"manifests":[%s{}]}`
	// mostMemory is what an operation may take at its peak (docs/DESIGN.md).
	mostMemory = 256 << 20
)

// bomb is a folder of files that are small and want much.
type bomb struct {
	t   *testing.T
	dir string
}

func (b bomb) write(name string, data []byte) {
	b.t.Helper()
	file := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b bomb) blob(mediaType string, data []byte) ocispec.Descriptor {
	desc := content.NewDescriptorFromBytes(mediaType, data)
	b.write("blobs/sha256/"+desc.Digest.Encoded(), data)
	return desc
}

// layout is a folder whose index lists the entries.
func (b bomb) layout(entries ...ocispec.Descriptor) {
	data, err := json.Marshal(ocispec.Index{Manifests: entries})
	if err != nil {
		b.t.Fatal(err)
	}
	b.write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	b.write("index.json", data)
}

func (b bomb) manifest(m ocispec.Manifest) ocispec.Descriptor {
	m.SchemaVersion, m.MediaType = 2, ocispec.MediaTypeImageManifest
	data, err := json.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	desc := b.blob(ocispec.MediaTypeImageManifest, data)
	desc.ArtifactType = m.ArtifactType
	return desc
}

// bundle returns an artifact of the type whose layer has these files.
func (b bomb) bundle(artifactType string, files ...lump) ocispec.Descriptor {
	var layer bytes.Buffer
	zip, err := gzip.NewWriterLevel(&layer, gzip.BestSpeed)
	if err != nil {
		b.t.Fatal(err)
	}
	w := tar.NewWriter(zip)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: f.size}); err != nil {
			b.t.Fatal(err)
		}
		if _, err := io.CopyN(w, io.MultiReader(strings.NewReader(f.text), blank{}), f.size); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		b.t.Fatal(err)
	}
	return b.manifest(ocispec.Manifest{
		ArtifactType: artifactType, Config: b.blob(ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers: []ocispec.Descriptor{b.blob("application/vnd.docker.image.rootfs.diff.tar.gzip", layer.Bytes())},
	})
}

// lump is a file of a layer: its text, and blanks up to its size.
type lump struct {
	name, text string
	size       int64
}

func text(name, text string) lump { return lump{name, text, int64(len(text))} }

type blank struct{}

func (blank) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func bundleYAML(name string) string {
	return fmt.Sprintf("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: %s, version: 1.0.0}\nspec: {layer: 6, sources: [{file: all.yaml}]}\n", name)
}

const emptyLock = "apiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages: []\n"

// tarOf makes an archive of what is in the folder.
func (b bomb) tarOf(names ...string) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil {
			b.t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			b.t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.write("edge.tar", out.Bytes())
}

// hugeIndex is an index.json of 61 MB that lists 20 million times nothing.
func (b bomb) hugeIndex() {
	b.layout()
	b.write("index.json", fmt.Appendf(nil, emptyEntries, strings.Repeat("{},", 61_000_000/3)))
}

func openBomb(dir string, tag string, open func(ctx context.Context, s *layout.Store, desc ocispec.Descriptor) error) error {
	s, err := layout.Open(dir)
	if err != nil {
		return err
	}
	desc, err := s.Resolve(context.Background(), tag)
	if err != nil {
		return err
	}
	return open(context.Background(), s, desc)
}

func openArtifact(ctx context.Context, s *layout.Store, desc ocispec.Descriptor) error {
	_, err := bundle.OpenSet(ctx, s, desc)
	return err
}

// What is small and wants much memory before any signature was looked at, in any place, is
// refused by name, within the memory that an operation has, and soon.
func TestMemoryBombs(t *testing.T) {
	root := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, []byte("root"))
	predecessors := func(dir string) error {
		s, err := layout.Open(dir)
		if err == nil {
			_, err = s.Predecessors(context.Background(), root)
		}
		return err
	}
	for _, c := range []struct {
		name    string
		prepare func(b bomb)
		work    func(dir string) error
		want    string
	}{
		{"an index of 61 MB in a folder", bomb.hugeIndex, func(dir string) error {
			return openBomb(dir, "1.0.0", openArtifact)
		}, "index.json: manifests: more than 50000 entries: over the limit"},
		{"an index of 61 MB in an archive", func(b bomb) {
			b.hugeIndex()
			b.tarOf("oci-layout", "index.json")
		}, func(dir string) error {
			_, err := archive.Open(t.Context(), filepath.Join(dir, "edge.tar"))
			return err
		}, "index.json: manifests: more than 50000 entries: over the limit"},
		{"an index of 61 MB in a stream", func(b bomb) {
			b.hugeIndex()
			b.tarOf("oci-layout", "index.json")
		}, func(dir string) error {
			file, err := os.Open(filepath.Join(dir, "edge.tar"))
			if err == nil {
				_, err = archive.OpenStream(t.Context(), file)
			}
			return err
		}, "index.json: manifests: more than 50000 entries: over the limit"},
		{"an index of 61 MB of annotations", func(b bomb) {
			b.layout()
			b.write("index.json", fmt.Appendf(nil, `{"annotations":{%s"":""}}`, strings.Repeat(`"a":"",`, 61_000_000/7)))
		}, func(dir string) error {
			return openBomb(dir, "1.0.0", openArtifact)
		}, "JSON of more than 750000 values: over the limit"},
		{"a listed manifest of 61 MB", func(b bomb) {
			b.layout(b.blob(ocispec.MediaTypeImageIndex, fmt.Appendf(nil, emptyEntries, strings.Repeat("{},", 61_000_000/3))))
		}, predecessors, "the manifest has 61000035 bytes, the limit is 4194304: over the limit"},
		{"a listed manifest of 4 MB", func(b bomb) {
			b.layout(b.blob(ocispec.MediaTypeImageIndex, fmt.Appendf(nil, emptyEntries, strings.Repeat("{},", 4_000_000/3))))
		}, predecessors, "JSON of more than 250000 values: over the limit"},
		{"referrers with 200 MB of annotations", func(b bomb) {
			var entries []ocispec.Descriptor
			for i := range 50 {
				entries = append(entries, b.manifest(ocispec.Manifest{
					Config: ocispec.DescriptorEmptyJSON, Subject: &root,
					Annotations: map[string]string{fmt.Sprint(i): strings.Repeat("x", 4_000_000)},
				}))
			}
			b.layout(entries...)
		}, predecessors, "annotations of referrers have more than 33554432 bytes"},
		{"a root of 4 MB", func(b bomb) {
			data := fmt.Appendf(nil, `{"schemaVersion":2,"layers":[%s{}]}`, strings.Repeat("{},", 4_000_000/3))
			b.layout(archive.NameDescriptor(b.blob(ocispec.MediaTypeImageManifest, data), "1.0.0", ""))
		}, func(dir string) error {
			return openBomb(dir, "1.0.0", openArtifact)
		}, "JSON of more than 250000 values: over the limit"},
		{"a bundle.yaml of 160 MB", func(b bomb) {
			b.layout(archive.NameDescriptor(b.bundle(bundle.TypeBundle, text(".imgpkg/images.yml", emptyLock),
				text(".krtpkg/bundle.yaml", bundleYAML("web")+strings.Repeat("- a\n", 40_000_000))), "1.0.0", ""))
		}, func(dir string) error {
			return openBomb(dir, "1.0.0", openArtifact)
		}, `entry ".krtpkg/bundle.yaml" has 160000129 bytes, the limit is 4194304: over the limit`},
		{"a bundle.yaml of 4 MB of letters", func(b bomb) {
			b.layout(archive.NameDescriptor(b.bundle(bundle.TypeBundle, text(".imgpkg/images.yml", emptyLock),
				text(".krtpkg/bundle.yaml", "spec: ["+strings.Repeat("a,", 2_000_000)+"]")), "1.0.0", ""))
		}, func(dir string) error {
			return openBomb(dir, "1.0.0", openArtifact)
		}, ".krtpkg/bundle.yaml: more than 250000 keys and values: over the limit"},
		{"manifests of 8 MB of numbers", func(b bomb) {
			b.layout(archive.NameDescriptor(b.bundle(bundle.TypeBundle, text(".imgpkg/images.yml", emptyLock), text(".krtpkg/bundle.yaml", bundleYAML("web")),
				text("config/big.yaml", "apiVersion: v1\nkind: Big\nmetadata: {name: big}\nspec: ["+strings.Repeat("1,", 4_000_000)+"1]")), "1.0.0", ""))
		}, func(dir string) error {
			return openBomb(dir, "1.0.0", openArtifact)
		}, "config/big.yaml: more than 500000 keys and values"},
		{"manifests of 60 MB of letters", func(b bomb) {
			b.layout(archive.NameDescriptor(b.bundle(bundle.TypeBundle, text(".imgpkg/images.yml", emptyLock), text(".krtpkg/bundle.yaml", bundleYAML("web")),
				text("config/big.yaml", "apiVersion: v1\nkind: Big\nmetadata: {name: big}\nspec: "+strings.Repeat("a", 60_000_000))), "1.0.0", ""))
		}, func(dir string) error {
			return openBomb(dir, "1.0.0", openArtifact)
		}, "config/big.yaml: 60000053 bytes, the limit for a file of manifests is 33554432"},
		{"many manifests of 400,000 values", func(b bomb) {
			var files []lump
			for i := range 5 {
				files = append(files, text(fmt.Sprintf("config/%d.yaml", i), "apiVersion: v1\nkind: Big\nmetadata: {name: big}\nspec: ["+strings.Repeat("1,", 400_000)+"1]"))
			}
			files = append(files, text(".imgpkg/images.yml", emptyLock), text(".krtpkg/bundle.yaml", bundleYAML("web")))
			b.layout(archive.NameDescriptor(b.bundle(bundle.TypeBundle, files...), "1.0.0", ""))
		}, func(dir string) error {
			return openBomb(dir, "1.0.0", openArtifact)
		}, "the files of the bundle have more than 1000000 keys and values"},
		{"an image lock of 100,000 keys", func(b bomb) {
			var lock strings.Builder
			for i := range 100_000 {
				fmt.Fprintf(&lock, "%d:\n", i)
			}
			b.layout(archive.NameDescriptor(b.bundle(bundle.TypeBundle, text(".imgpkg/images.yml", lock.String()), text(".krtpkg/bundle.yaml", bundleYAML("web"))), "1.0.0", ""))
		}, func(dir string) error {
			return openBomb(dir, "1.0.0", openArtifact)
		}, ".imgpkg/images.yml: a mapping of more than 10000 keys: over the limit"},
		{"ten layers of 30 MB of blanks", func(b bomb) {
			var bundles, lock strings.Builder
			var entries []ocispec.Descriptor
			for i := range 10 {
				name := fmt.Sprint("web", i)
				desc := b.bundle(bundle.TypeBundle, text(".imgpkg/images.yml", emptyLock), text(".krtpkg/bundle.yaml", bundleYAML(name)), lump{"config/a.yaml", "", 30 << 20})
				entries = append(entries, desc)
				fmt.Fprintf(&bundles, "- {name: %s, version: 1.0.0, layer: 6, digest: '%s'}\n", name, desc.Digest)
				fmt.Fprintf(&lock, "- image: krtpkg.invalid/bundles/%s@%s\n", name, desc.Digest)
			}
			entries = append(entries, archive.NameDescriptor(b.bundle(bundle.TypeRuntime,
				text(".imgpkg/images.yml", "apiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages:\n"+lock.String()),
				text(".krtpkg/runtime.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: RuntimeLock\nmetadata: {name: edge, version: 1.0.0}\nbundles:\n"+bundles.String())), "1.0.0", ""))
			b.layout(entries...)
		}, func(dir string) error {
			if err := openBomb(dir, "1.0.0", openArtifact); err == nil || !strings.Contains(err.Error(), "exceeds the memory limit of 128 MiB") {
				return fmt.Errorf("opened: %v", err)
			}
			debug.FreeOSMemory() // what follows is another operation, which has the limit for itself
			return openBomb(dir, "1.0.0", func(ctx context.Context, s *layout.Store, desc ocispec.Descriptor) error {
				_, err := transfer.NewPlan(ctx, []transfer.Source{{Store: s, Root: desc}}, transfer.Options{})
				return err
			})
		}, `entry "config/a.yaml": content exceeds the memory limit of 128 MiB for one operation`},
		{"an attestation of 12 MB of empty lists", func(b bomb) {
			payload := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://krt.example","subject":[{"digest":{"sha256":%q}}],"predicate":{"a":[%s[]]}}`,
				root.Digest.Encoded(), strings.Repeat("[],", 4_000_000))
			raw := fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":{"payloadType":"application/vnd.in-toto+json","payload":%q,"signatures":[{"sig":"AAAA"}]}}`,
				base64.StdEncoding.EncodeToString(payload))
			b.layout(b.manifest(ocispec.Manifest{
				ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Config: ocispec.DescriptorEmptyJSON, Subject: &root,
				Layers: []ocispec.Descriptor{b.blob("application/vnd.dev.sigstore.bundle.v0.3+json", raw)},
			}))
		}, func(dir string) error {
			s, err := layout.Open(dir)
			if err != nil {
				return err
			}
			pub, err := sign.LoadPublicKey([]byte(publicKey))
			if err != nil {
				return err
			}
			policy, err := sign.KeyPolicy(pub)
			if err != nil {
				return err
			}
			_, err = sign.Verify(context.Background(), s, root, policy)
			return err
		}, "JSON of more than 500000 values: over the limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			above, err := peaktest.Run(t, func(dir string) { c.prepare(bomb{t, dir}) }, c.work)
			t.Logf("%d MiB, %s: %v", above>>20, time.Since(start).Round(time.Millisecond), err)
			if above > mostMemory {
				t.Errorf("it takes %d MiB", above>>20)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("no %q in: %v", c.want, err)
			}
		})
	}
}

const publicKey = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8nXRh950IZbRj8Ra/N9sbqOPZrfM
5/KAQN0/KjHcorm/J5yctVd7iEcnessRQjU917hmKO6JWVGHpDguIyakZA==
-----END PUBLIC KEY-----
`
