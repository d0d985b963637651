package trust_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
)

// A strict rule is for a place, however that is spelled; the lax one after it is for others.
func TestRulesAreForPlaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct{ strict, name, decides string }{
		{"localhost/**", "localhost/a", "strict"},
		{"localhost/**", "localhost:443/a", "strict"},
		{"localhost/**", "localhost:80/a", "strict"},
		{"localhost/**", "LOCALHOST/a", "strict"},
		{"localhost/**", "localhost./a", "strict"},
		{"localhost/**", "127.0.0.1/a", "strict"},
		{"localhost/**", "127.1.2.3:443/a", "strict"},
		{"localhost/**", "[::1]/a", "strict"},
		{"localhost/**", "[0:0:0:0:0:0:0:1]:443/a", "strict"},
		{"localhost/**", "[::ffff:127.0.0.1]/a", "strict"},
		{"localhost/**", "[::ffff:7f00:1]:443/a", "strict"},
		{"localhost/**", "127.1/a", "strict"},
		{"localhost/**", "0x7f.0.0.1/a", "strict"},
		{"localhost/**", "0177.0.0.1/a", "strict"},
		{"localhost/**", "2130706433:443/a", "strict"},
		{"localhost/**", "localhost:5000/a", "lax"},
		{"localhost:5000/**", "127.0.0.1:5000/a", "strict"},
		{"localhost:5000/**", "localhost:05000/a", "strict"},
		{"127.0.0.1:5000/**", "[::ffff:127.0.0.1]:5000/a", "strict"},
		{"10.0.0.1/**", "[::ffff:10.0.0.1]:443/a", "strict"},
		{"10.0.0.1/**", "10.0.0.2/a", "lax"},
		{"[fd00::1]:5000/**", "[fd00:0:0::1]:5000/a", "strict"},
		{"[fd00::1]:5000/**", "[fd00::2]:5000/a", "lax"},
		{"registry.example:443/krt/**", "registry.example/krt/edge", "strict"},
		{"registry.example/krt/**", "Registry.Example.:443/krt/edge", "strict"},
		{"registry.example/krt/**", "registry.example:8443/krt/edge", "lax"},
		{"registry.example/krt/**", "registry.example/KRT/edge", "lax"}, // no registry has it
		{"registry.example*/krt/**", "registry.example:8443/krt/edge", "strict"},
		{"*.example/**", "registry.example:443/a", "strict"},
		{"docker.io/library/*", "index.docker.io/library/nginx", "strict"},
		{"docker.io/nginx", "index.docker.io/library/nginx", "strict"},
		{"index.docker.io/library/nginx", "docker.io/nginx", "strict"},
		{"docker.io/**", "registry-1.docker.io:443/library/nginx", "strict"},
		{"bücher.example/**", "xn--bcher-kva.example/a", "strict"},
		{"xn--bcher-kva.example/**", "BÜCHER.example/a", "strict"},
		{"local", "local", "strict"},
	} {
		p, err := parse(t, authorities+"rules:\n- match: ['"+c.strict+"']\n  authorities: [release]\n- match: ['**']\n  authorities: [build]\n", w.keys)
		if err != nil {
			t.Fatal(err)
		}
		rule, err := p.FindRule(c.name)
		if err != nil {
			t.Fatal(err)
		}
		if got := map[string]string{"release": "strict", "build": "lax"}[rule.Authorities[0]]; got != c.decides {
			t.Errorf("%s, by a rule for %s: %s decides, want %s", c.name, c.strict, got, c.decides)
		}
	}
}

// indexed has an image of two platforms locked, under some names, and gives what is in it.
func (w *world) indexed(t *testing.T, names ...images.Locked) (root ocispec.Descriptor, within map[string]digest.Digest) {
	t.Helper()
	push := func(mediaType, text string) ocispec.Descriptor {
		desc, err := oras.PushBytes(t.Context(), w.store, mediaType, []byte(text))
		if err == nil {
			err = w.store.Tag(t.Context(), desc, desc.Digest.String())
		}
		if err != nil {
			t.Fatal(err)
		}
		return desc
	}
	layer := push(ocispec.MediaTypeImageLayer, "layer")
	manifest := push(ocispec.MediaTypeImageManifest, `{"schemaVersion":2,"layers":[{"mediaType":"`+layer.MediaType+`","digest":"`+layer.Digest.String()+`","size":5}]}`)
	inner := push(ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[{"mediaType":"`+manifest.MediaType+`","digest":"`+manifest.Digest.String()+`","size":1}]}`)
	index := push(ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[{"mediaType":"`+inner.MediaType+`","digest":"`+inner.Digest.String()+`","size":1}]}`)
	c := &bundle.Content{Bundle: &bundle.Bundle{APIVersion: bundle.APIVersion, Kind: bundle.KindBundle, Metadata: bundle.Metadata{Name: "web", Version: "1.0.0"},
		Spec: bundle.BundleSpec{Layer: 6, Sources: []bundle.Source{{Dir: "config", Path: "config"}}}}}
	for _, l := range names {
		l.Image = l.Image.Context().Digest(index.Digest.String())
		c.Images = append(c.Images, l)
	}
	root, err := c.Pack(t.Context(), w.store, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	w.image = index
	return root, map[string]digest.Digest{"index": index.Digest, "inner index": inner.Digest, "manifest": manifest.Digest, "layer": layer.Digest}
}

func locked(t *testing.T, repository, reference string) images.Locked {
	t.Helper()
	d, err := name.NewDigest(repository + "@sha256:" + strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	return images.Locked{Image: d, Reference: reference}
}

// Whatever is in an image can be revoked, not only what the lock names.
func TestRevokedWithinAnImage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root, within := w.indexed(t, locked(t, "ghcr.io/example/web", "ghcr.io/example/web:1.0"))
	w.root = root
	w.sign(t, "build", root)
	const rule = "rules:\n- match: ['**']\n"
	if _, err := w.verify(t, rule+"revoked: {digests: ['sha256:"+strings.Repeat("0", 64)+"']}\n", "registry.example/krt/edge"); err != nil {
		t.Error(err)
	}
	for what, d := range within {
		_, err := w.verify(t, rule+"revoked: {digests: ['"+d.String()+"']}\n", "registry.example/krt/edge")
		if want := "image ghcr.io/example/web:1.0: " + d.String() + " is revoked by trust.yaml"; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", what, err, want)
		}
	}
}

// Files and charts can be revoked as images can: by their artifacts and by their content.
func TestRevokedCargo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := bundle.CargoFile{Name: "tool", Path: "tool", SHA256: digest.FromString("a tool").Encoded(), Size: 6}
	files := []bundle.CargoFile{f}
	cargo, err := bundle.PackFiles(t.Context(), w.store, files)
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle.Content{
		Bundle: &bundle.Bundle{APIVersion: bundle.APIVersion, Kind: bundle.KindBundle, Metadata: bundle.Metadata{Name: "node", Version: "1.0.0"},
			Spec: bundle.BundleSpec{Layer: 1, Files: files}},
		Images: images.Lock{}, Cargo: cargo,
	}
	if w.root, err = b.Pack(t.Context(), w.store, time.Time{}); err != nil {
		t.Fatal(err)
	}
	w.sign(t, "build", w.root)
	for what, d := range map[string]string{"artifact": files[0].Artifact, "content": "sha256:" + f.SHA256} {
		_, err := w.verify(t, "rules:\n- match: ['**']\nrevoked: {digests: ['"+d+"']}\n", "registry.example/krt/node")
		if want := "file tool: " + d + " is revoked by trust.yaml"; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", what, err, want)
		}
	}
}

// An image satisfies the rule of every name that it has.
func TestEveryNameOfAnImageCounts(t *testing.T) {
	t.Parallel()
	const rules = "rules:\n- match: ['**']\nimages:\n- match: [lax.example/**]\n  authorities: [build]\n- match: [strict.example/**]\n  authorities: [upstream]\n"
	for name, locks := range map[string][]images.Locked{
		"two locks":                    {locked(t, "lax.example/web", "lax.example/web:1"), locked(t, "strict.example/web", "strict.example/web:1")},
		"two locks, the other way":     {locked(t, "strict.example/web", "strict.example/web:1"), locked(t, "lax.example/web", "lax.example/web:1")},
		"called by another repository": {locked(t, "lax.example/web", "strict.example/web:1")},
		"locked from another":          {locked(t, "strict.example/web", "lax.example/web:1")},
	} {
		w := newWorld(t)
		root, _ := w.indexed(t, locks...)
		set, err := bundle.OpenSet(t.Context(), w.store, root)
		if err != nil {
			t.Fatal(err)
		}
		p, err := parse(t, authorities+rules, w.keys)
		if err != nil {
			t.Fatal(err)
		}
		w.sign(t, "build", w.image)
		if found, err := p.VerifyImages(t.Context(), w.store, set); err == nil {
			t.Errorf("%s: passed with the signature of the lax rule: %+v", name, found)
		}
		w.sign(t, "upstream", w.image)
		if found, err := p.VerifyImages(t.Context(), w.store, set); err != nil || len(found) != 1 || found[0].Result == nil {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
}
