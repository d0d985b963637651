package catalog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/html"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/source"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// world is a folder with what tests build, their images and their key.
type world struct {
	testing.TB
	store  *layout.Store
	signer *sign.Signer
	policy *trust.Policy
	images *imagePusher
	roots  []catalog.Root
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t}
	var err error
	if w.store, err = layout.Create(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	w.images = &imagePusher{store: w.store, known: map[string]ocispec.Descriptor{}}
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	w.signer = key.signer
	if w.policy, err = trust.NewPolicy(sign.Authority{Name: "release", Key: key.public}); err != nil {
		t.Fatal(err)
	}
	return w
}

// keyPair is the key of all tests: to make one takes a while.
type keyPair struct {
	signer *sign.Signer
	public *sign.Key
}

var testKey = sync.OnceValues(func() (keyPair, error) {
	var pair keyPair
	passphrase := []byte("correct horse")
	private, public, err := sign.GenerateKeyPair(passphrase)
	if err == nil {
		pair.signer, err = sign.LoadSigner(private, func() ([]byte, error) { return passphrase, nil })
	}
	if err == nil {
		pair.public, err = sign.LoadPublicKey(public)
	}
	return pair, err
})

// build builds a definition, tags it, and adds it to the roots.
func (w *world) build(definition, tag string, mirrors ...source.Mirror) ocispec.Descriptor {
	w.Helper()
	return w.buildWhole(definition, tag, mirrors...).Descriptor
}

// buildWhole is [world.build] that also returns the bundles.
func (w *world) buildWhole(definition, tag string, mirrors ...source.Mirror) *assemble.Built {
	w.Helper()
	built, err := w.make(definition, mirrors...)
	if err != nil {
		w.Fatal(err)
	}
	if err := w.store.Tag(w.Context(), built.Descriptor, tag); err != nil {
		w.Fatal(err)
	}
	w.roots = append(w.roots, catalog.Root{Descriptor: built.Descriptor, Tags: []string{tag}})
	return built
}

// make builds a definition, and nothing more.
func (w *world) make(definition string, mirrors ...source.Mirror) (*assemble.Built, error) {
	return assemble.Build(w.Context(), definition, assemble.Options{Store: w.store, Images: w.images, Sources: source.Fetcher{Mirrors: mirrors}})
}

func (w *world) sign(root ocispec.Descriptor) {
	w.Helper()
	if _, err := sign.Sign(w.Context(), w.store, root, sign.SignOptions{Signer: w.signer}); err != nil {
		w.Fatal(err)
	}
}

// attest attests a predicate of a version or of an image.
func (w *world) attest(root ocispec.Descriptor, predicateType string, predicate any) {
	w.Helper()
	data, err := json.Marshal(predicate)
	if err != nil {
		w.Fatal(err)
	}
	statements := []sign.Statement{{Type: predicateType, Predicate: data}}
	if _, err := sign.Attest(w.Context(), w.store, root, statements, sign.SignOptions{Signer: w.signer}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) collect(policy *trust.Policy) *result.Catalog {
	w.Helper()
	c, err := catalog.Collect(w.Context(), []catalog.Place{{Name: "registry.example/krt/edge", Store: w.store, Roots: w.roots}}, catalog.Options{Policy: policy})
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// write writes files, pairs of a name and a text.
func (w *world) write(dir string, pairs ...string) {
	w.Helper()
	for i := 0; i < len(pairs); i += 2 {
		file := filepath.Join(dir, pairs[i])
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			w.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(pairs[i+1]), 0o600); err != nil {
			w.Fatal(err)
		}
	}
}

// imagePusher resolves references to stand-ins, which it puts into a store.
type imagePusher struct {
	store *layout.Store
	mu    sync.Mutex
	known map[string]ocispec.Descriptor
	// areBare is set for images without layers and platforms, which are made faster.
	areBare bool
}

func (p *imagePusher) Resolve(ctx context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if desc, is := p.known[ref.Name()]; is {
		return desc, nil
	}
	desc, err := p.push(ctx, ref.Name())
	if pinned, is := ref.(name.Digest); is {
		desc.Digest = digest.Digest(pinned.DigestStr()) // which nobody has here
	}
	p.known[ref.Name()] = desc
	return desc, err
}

// push puts what stands in for a reference into the store.
func (p *imagePusher) push(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	if p.areBare {
		data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[],"annotations":{"reference":%q}}`,
			ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, reference)
		if _, err := pushBytes(ctx, p.store, ocispec.MediaTypeImageConfig, []byte("{}")); err != nil {
			return ocispec.Descriptor{}, err
		}
		return pushBytes(ctx, p.store, ocispec.MediaTypeImageManifest, data)
	}
	index, err := imagetest.StandIn(reference)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return pushIndex(ctx, p.store, index)
}

// pushIndex puts an index with its images into a store.
func pushIndex(ctx context.Context, store *layout.Store, index v1.ImageIndex) (ocispec.Descriptor, error) {
	list, err := index.IndexManifest()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, m := range list.Manifests {
		image, err := index.Image(m.Digest)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		layers, err := image.Layers()
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		for _, layer := range layers {
			blob, err := layer.Compressed()
			if err != nil {
				return ocispec.Descriptor{}, err
			}
			data, err := io.ReadAll(blob)
			if err != nil {
				return ocispec.Descriptor{}, err
			}
			if _, err := pushBytes(ctx, store, ocispec.MediaTypeImageLayerGzip, data); err != nil {
				return ocispec.Descriptor{}, err
			}
		}
		for mediaType, read := range map[string]func() ([]byte, error){ocispec.MediaTypeImageConfig: image.RawConfigFile, ocispec.MediaTypeImageManifest: image.RawManifest} {
			data, err := read()
			if err != nil {
				return ocispec.Descriptor{}, err
			}
			if _, err := pushBytes(ctx, store, mediaType, data); err != nil {
				return ocispec.Descriptor{}, err
			}
		}
	}
	data, err := index.RawManifest()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return pushBytes(ctx, store, ocispec.MediaTypeImageIndex, data)
}

func pushBytes(ctx context.Context, store *layout.Store, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := content.NewDescriptorFromBytes(mediaType, data)
	there, err := store.Exists(ctx, desc)
	if err != nil || there {
		return desc, err
	}
	return desc, store.Push(ctx, desc, bytes.NewReader(data))
}

// writeSite returns the files of a document.
func writeSite(t testing.TB, c *result.Catalog) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	if err := catalog.WriteSite(c, func(f catalog.File) error {
		if _, twice := files[f.Path]; twice {
			t.Errorf("%s is written twice", f.Path)
		}
		files[f.Path] = f.Data
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

// parsePage returns the tree of a page.
func parsePage(t testing.TB, name string, data []byte) *html.Node {
	t.Helper()
	root, err := html.Parse(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return root
}

// attribute returns that of an element, "" if it is not set.
func attribute(node *html.Node, key string) string {
	for _, a := range node.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// checkLinks holds all links of pages to files that are there, and to ids that these have.
func checkLinks(t testing.TB, files map[string][]byte) {
	t.Helper()
	ids := map[string]map[string]bool{}
	for name, data := range files {
		if path.Ext(name) != ".html" {
			continue
		}
		ids[name] = map[string]bool{}
		for node := range parsePage(t, name, data).Descendants() {
			if id := attribute(node, "id"); id != "" {
				if ids[name][id] {
					t.Errorf("%s has two elements %q", name, id)
				}
				ids[name][id] = true
			}
		}
	}
	links := 0
	for name := range ids {
		for node := range parsePage(t, name, files[name]).Descendants() {
			for _, key := range []string{"href", "src"} {
				link := attribute(node, key)
				if link == "" || strings.HasPrefix(link, "data:") {
					continue
				}
				if strings.Contains(link, ":") {
					if node.Data != "a" || !strings.HasPrefix(link, "https://") && !strings.HasPrefix(link, "http://") {
						t.Errorf("%s: %s %s=%q", name, node.Data, key, link)
					}
					continue
				}
				links++
				file, anchor, _ := strings.Cut(link, "#")
				target := name
				if file != "" {
					target = path.Join(path.Dir(name), file)
				}
				if files[target] == nil {
					t.Errorf("%s leads to %s, which is not there", name, link)
				} else if anchor != "" && !ids[target][anchor] {
					t.Errorf("%s leads to %s, which has no such part", name, link)
				}
			}
		}
	}
	if links < 10 {
		t.Errorf("only %d links", links)
	}
}

// trivyReport is a report as Trivy writes it, in cosign's envelope.
func trivyReport(image string, findings ...map[string]any) map[string]any {
	return map[string]any{
		"scanner": map[string]any{"uri": "pkg:github/aquasecurity/trivy@0.66.0", "version": "0.66.0", "result": map[string]any{
			"SchemaVersion": 2, "ArtifactName": image, "Results": []any{map[string]any{"Target": image, "Vulnerabilities": findings}},
		}},
		"metadata": map[string]any{"scanStartedOn": "2026-11-01T10:00:00Z", "scanFinishedOn": "2026-11-01T10:01:00Z"},
	}
}

const (
	typeVuln = "https://cosign.sigstore.dev/attestation/vuln/v1"
	typeVEX  = "https://openvex.dev/ns"
)

// resolve returns the descriptor of an image.
func (w *world) resolve(reference string) ocispec.Descriptor {
	w.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		w.Fatal(err)
	}
	desc, err := w.images.Resolve(w.Context(), ref)
	if err != nil {
		w.Fatal(err)
	}
	return desc
}
