package trust_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// image is something with a digest in the store.
func image(t *testing.T, store *memory.Store, text string) ocispec.Descriptor {
	t.Helper()
	desc, err := oras.PushBytes(t.Context(), store, ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageManifest+`","annotations":{"name":"`+text+`"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Tag(t.Context(), desc, desc.Digest.String()); err != nil {
		t.Fatal(err)
	}
	return desc
}

// packed returns a runtime of one bundle with one image.
func packed(t *testing.T, store *memory.Store, img ocispec.Descriptor) (root, inner ocispec.Descriptor) {
	t.Helper()
	locked, err := name.NewDigest("ghcr.io/example/web@" + img.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle.Content{
		Bundle: &bundle.Bundle{APIVersion: bundle.APIVersion, Kind: bundle.KindBundle, Metadata: bundle.Metadata{Name: "web", Version: "1.0.0"},
			Spec: bundle.BundleSpec{Layer: 6, Sources: []bundle.Source{{Dir: "config", Path: "config"}}}},
		Images: images.Lock{{Image: locked, Reference: "ghcr.io/example/web:1.0"}},
		Files:  []bundle.File{{Path: "config/a.yaml", Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")}},
	}
	inner, err = b.Pack(t.Context(), store, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Tag(t.Context(), inner, inner.Digest.String()); err != nil {
		t.Fatal(err)
	}
	nested, err := name.NewDigest("krtpkg.invalid/bundles/web@" + inner.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	r := &bundle.Content{
		Runtime: &bundle.RuntimeLock{APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock, Metadata: bundle.Metadata{Name: "edge", Version: "1.0.0"},
			Bundles: []bundle.LockedBundle{{Name: "web", Version: "1.0.0", Layer: 6, Digest: inner.Digest.String()}}},
		Images: images.Lock{{Image: nested, Reference: nested.Name()}},
	}
	if root, err = r.Pack(t.Context(), store, time.Time{}); err != nil {
		t.Fatal(err)
	}
	return root, inner
}

type world struct {
	store       *memory.Store
	root, inner ocispec.Descriptor
	image       ocispec.Descriptor
	keys        map[string]string
	signers     map[string]*sign.Signer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{store: memory.New(), keys: map[string]string{}, signers: map[string]*sign.Signer{}}
	w.image = image(t, w.store, "web")
	w.root, w.inner = packed(t, w.store, w.image)
	for _, name := range []string{"build", "release", "upstream"} {
		s, public := signtest.NewSignerWithKey(t)
		w.signers[name], w.keys[name+".pub"] = s, string(public)
	}
	return w
}

func (w *world) sign(t *testing.T, by string, what ocispec.Descriptor) {
	t.Helper()
	if _, err := sign.Sign(t.Context(), w.store, what, sign.SignOptions{Signer: w.signers[by]}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) attest(t *testing.T, by, predicateType, predicate string) {
	t.Helper()
	statements := []sign.Statement{{Type: predicateType, Predicate: json.RawMessage(predicate)}}
	if _, err := sign.Attest(t.Context(), w.store, w.root, statements, sign.SignOptions{Signer: w.signers[by]}); err != nil {
		t.Fatal(err)
	}
}

const authorities = head + `
authorities:
- {name: build, key: build.pub}
- {name: release, key: release.pub}
- {name: upstream, key: upstream.pub}
`

func (w *world) verify(t *testing.T, rest, where string) (*sign.Result, error) {
	t.Helper()
	p, err := parse(t, authorities+strings.ReplaceAll(strings.ReplaceAll(rest, "{root}", w.root.Digest.String()), "{image}", w.image.Digest.String()), w.keys)
	if err != nil {
		t.Fatal(err)
	}
	return p.Verify(t.Context(), w.store, w.root, where)
}

func TestVerify(t *testing.T) {
	const provenance = "https://slsa.dev/provenance/v1"
	rule := "rules:\n- match: [registry.example/krt/**]\n  authorities: [build, release]\n"
	wanted := rule + `  attestations:
  - type: slsaprovenance1
    authorities: [build]
    condition: predicate.runDetails.builder.id.startsWith("https://ci.example/")
`
	good, bad := `{"runDetails":{"builder":{"id":"https://ci.example/krt"}}}`, `{"runDetails":{"builder":{"id":"https://home.example"}}}`
	for name, c := range map[string]struct {
		do    func(t *testing.T, w *world)
		rest  string
		where string
		want  string
		is    error
	}{
		"signed":              {func(t *testing.T, w *world) { w.sign(t, "build", w.root) }, rule, "", "", nil},
		"unsigned":            {func(*testing.T, *world) {}, rule, "", "no signature found", sign.ErrUnsigned},
		"by another":          {func(t *testing.T, w *world) { w.sign(t, "upstream", w.root) }, rule, "", "none valid", sign.ErrNotVerified},
		"no rule":             {func(t *testing.T, w *world) { w.sign(t, "build", w.root) }, rule, "other.example/edge", "other.example/edge: no rule of trust.yaml matches", trust.ErrRefused},
		"from a folder":       {func(t *testing.T, w *world) { w.sign(t, "build", w.root) }, rule, trust.Local, "local: no rule of trust.yaml matches", trust.ErrRefused},
		"one of two":          {func(t *testing.T, w *world) { w.sign(t, "build", w.root) }, rule + "  threshold: 2\n", "", "signed by build, but 2 signers are required", sign.ErrNotVerified},
		"two of two":          {func(t *testing.T, w *world) { w.sign(t, "build", w.root); w.sign(t, "release", w.root) }, rule + "  threshold: 2\n", "", "", nil},
		"revoked key":         {func(t *testing.T, w *world) { w.sign(t, "build", w.root) }, rule + "revoked: {keys: [{build}]}\n", "", "which is revoked", sign.ErrNotVerified},
		"revoked root":        {func(t *testing.T, w *world) { w.sign(t, "build", w.root) }, rule + "revoked: {digests: ['{root}']}\n", "", "is revoked by trust.yaml", trust.ErrRefused},
		"revoked image":       {func(t *testing.T, w *world) { w.sign(t, "build", w.root) }, rule + "revoked: {digests: ['{image}']}\n", "", "image ghcr.io/example/web:1.0: sha256:", trust.ErrRefused},
		"named":               {func(t *testing.T, w *world) { w.sign(t, "build", w.root) }, rule + "  names: [shop, e*]\n", "", "", nil},
		"named otherwise":     {func(t *testing.T, w *world) { w.sign(t, "build", w.root) }, rule + "  names: [shop]\n", "", "registry.example/krt/edge: signed as edge, but the rule of trust.yaml is for shop", trust.ErrRefused},
		"attested":            {func(t *testing.T, w *world) { w.sign(t, "release", w.root); w.attest(t, "build", provenance, good) }, wanted, "", "", nil},
		"not attested":        {func(t *testing.T, w *world) { w.sign(t, "release", w.root) }, wanted, "", "found 0 of 1 required attestations of type " + provenance + " by build that meet", trust.ErrRefused},
		"attested by another": {func(t *testing.T, w *world) { w.sign(t, "release", w.root); w.attest(t, "release", provenance, good) }, wanted, "", "found 0 of 1 required attestations", trust.ErrRefused},
		"attested other things": {func(t *testing.T, w *world) { w.sign(t, "release", w.root); w.attest(t, "build", provenance, bad) }, wanted, "",
			"condition not met", trust.ErrRefused},
		"attested without": {func(t *testing.T, w *world) { w.sign(t, "release", w.root); w.attest(t, "build", provenance, "{}") }, wanted, "",
			"no such key: runDetails", trust.ErrRefused},
		"attested, unsigned": {func(t *testing.T, w *world) { w.attest(t, "build", provenance, good) }, wanted, "", "no signature found", sign.ErrUnsigned},
		"a condition without end": {func(t *testing.T, w *world) {
			w.sign(t, "build", w.root)
			w.attest(t, "build", "https://krt.example/list", `{"list":[`+strings.Repeat("1,", 5000)+"1]}")
		}, rule + "  attestations:\n  - type: https://krt.example/list\n    condition: predicate.list.all(a, predicate.list.all(b, predicate.list.all(c, a == b || b == c || true)))\n", "",
			"cost limit exceeded", trust.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.do(t, w)
			where := c.where
			if where == "" {
				where = "registry.example/krt/edge"
			}
			res, err := w.verify(t, strings.ReplaceAll(c.rest, "{build}", w.signers["build"].Key().ID()), where)
			if c.is == nil {
				if err != nil || len(res.Verified) == 0 {
					t.Errorf("%+v, %v", res, err)
				}
				return
			}
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v\nwant %s, %v", err, c.want, c.is)
			}
		})
	}
}

func TestVerifyImages(t *testing.T) {
	w := newWorld(t)
	set, err := bundle.OpenSet(t.Context(), w.store, w.root)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(match string) ([]trust.Image, error) {
		p, err := parse(t, authorities+"rules:\n- match: ['**']\nimages:\n- match: ["+match+"]\n  authorities: [upstream]\n", w.keys)
		if err != nil {
			t.Fatal(err)
		}
		return p.VerifyImages(t.Context(), w.store, set)
	}
	if all, err := verify("quay.io/**"); err != nil || len(all) != 1 || all[0].Result != nil || all[0].Digest != w.image.Digest {
		t.Errorf("no rule: %+v, %v", all, err)
	}
	w.sign(t, "build", w.image)
	if _, err := verify("ghcr.io/example/*"); !errors.Is(err, sign.ErrNotVerified) || !strings.Contains(err.Error(), "image ghcr.io/example/web:1.0: ") {
		t.Errorf("signed by another: %v", err)
	}
	w.sign(t, "upstream", w.image)
	if all, err := verify("ghcr.io/example/*"); err != nil || all[0].Result == nil || all[0].Result.Authorities()[0] != "upstream" {
		t.Errorf("signed by upstream: %+v, %v", all, err)
	}
}

// New trusts any one key with everything.
func TestNew(t *testing.T) {
	w := newWorld(t)
	w.sign(t, "release", w.root)
	p, err := trust.NewPolicy(sign.Authority{Key: w.signers["build"].Key()}, sign.Authority{Key: w.signers["release"].Key()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(t.Context(), w.store, w.root, "anywhere.example/x"); err != nil {
		t.Error(err)
	}
	if _, err := trust.NewPolicy(); err == nil {
		t.Error("a policy that trusts nobody was made")
	}
	var d digest.Digest = w.root.Digest
	if _, err := p.Verify(t.Context(), memory.New(), ocispec.Descriptor{Digest: d}, trust.Local); !errors.Is(err, sign.ErrUnsigned) {
		t.Errorf("in an empty store: %v", err)
	}
}

// What another policy revokes is refused in addition, and named as what that policy revokes.
func TestWithRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sign(t, "build", w.root)
	flagged, err := trust.NewPolicy(sign.Authority{Key: w.signers["build"].Key()})
	if err != nil {
		t.Fatal(err)
	}
	for revoked, want := range map[string]string{
		"": "",
		"revoked: {keys: [" + w.signers["build"].Key().ID() + "]}\n": "which is revoked",
		"revoked: {digests: ['" + w.root.Digest.String() + "']}\n":   "is revoked by trust.yaml",
	} {
		configured, err := parse(t, authorities+"rules:\n- match: [registry.example/**]\n  authorities: [release]\n"+revoked, w.keys)
		if err != nil {
			t.Fatal(err)
		}
		policy := flagged.WithRevoked(configured)
		_, err = policy.Verify(t.Context(), w.store, w.root, trust.Local)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", revoked, err, want)
		}
		if same := policy.Digest == flagged.Digest; same != (want == "") {
			t.Errorf("%q: the digest of the policy stays: %v", revoked, same)
		}
	}
}
