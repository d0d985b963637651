package sign_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"krtpkg.dev/krtpkg/pkg/sign"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
)

func attach(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, opts sign.SignOptions) []sign.Attached {
	t.Helper()
	attached, err := sign.Sign(t.Context(), store, root, opts)
	if err != nil {
		t.Fatal(err)
	}
	return attached
}

func trust(t *testing.T, keys ...*sign.Key) sign.Policy {
	t.Helper()
	p, err := sign.KeyPolicy(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSignVerify(t *testing.T) {
	eachStore(t, func(t *testing.T, store oras.GraphTarget) {
		root := newRoot(t, store, "edge")
		opts := sign.SignOptions{
			Signer:      signer(t, "cosign"),
			Reference:   "registry.example/krt/edge:1.4.0",
			Annotations: map[string]string{"stage": "prod"},
		}
		attached := attach(t, store, root, opts)
		if len(attached) != 2 || attached[0].Form != sign.Legacy || attached[1].Form != sign.Bundle {
			t.Fatalf("attached %+v, want the legacy form and a bundle", attached)
		}
		res, err := sign.Verify(t.Context(), store, root, trust(t, key(t, "p256"), key(t, "cosign")))
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Verified) != 2 || len(res.Rejected) != 0 || res.Root != root.Digest {
			t.Fatalf("result %+v", res)
		}
		for i, v := range res.Verified {
			if v.Object != attached[i].Object || v.KeyID != key(t, "cosign").ID() || v.Annotations["stage"] != "prod" {
				t.Errorf("verified %+v, attached %+v", v, attached[i])
			}
		}
		if got := res.Verified[0].Reference; got != opts.Reference {
			t.Errorf("reference %q, want %q", got, opts.Reference)
		}

		// Once more changes nothing.
		for i, a := range attach(t, store, root, opts) {
			if !a.Existing || a.Object != attached[i].Object {
				t.Errorf("signed again: %+v, want %+v, existing", a, attached[i])
			}
		}
		if n := len(tagged(t, store, sign.Tag(root.Digest)).Layers); n != 1 {
			t.Errorf("signed twice: %d layers, want 1", n)
		}
		referrer(t, store, root)
	})
}

func TestSignEveryKeyAndForm(t *testing.T) {
	for kind := range pairs() {
		for _, form := range []sign.Form{sign.Legacy, sign.Bundle} {
			t.Run(kind+" "+string(form), func(t *testing.T) {
				store := memory.New()
				root := newRoot(t, store, "edge")
				attached := attach(t, store, root, sign.SignOptions{Signer: signer(t, kind), Forms: []sign.Form{form}})
				res, err := sign.Verify(t.Context(), store, root, trust(t, key(t, kind)))
				if err != nil {
					t.Fatal(err)
				}
				if len(attached) != 1 || len(res.Verified) != 1 || res.Verified[0].Form != form {
					t.Errorf("attached %+v, verified %+v", attached, res.Verified)
				}
			})
		}
	}
}

// A second signer, and a second claim by the first, join what is there.
func TestSignAdds(t *testing.T) {
	eachStore(t, func(t *testing.T, store oras.GraphTarget) {
		root := newRoot(t, store, "edge")
		attach(t, store, root, sign.SignOptions{Signer: signer(t, "p256")})
		attach(t, store, root, sign.SignOptions{Signer: signer(t, "ed25519")})
		attach(t, store, root, sign.SignOptions{Signer: signer(t, "p256"), Annotations: map[string]string{"stage": "prod"}})

		res, err := sign.Verify(t.Context(), store, root, trust(t, key(t, "p256")))
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Verified) != 4 || len(res.Rejected) != 2 {
			t.Fatalf("%d verified, %d rejected, want 4 and 2", len(res.Verified), len(res.Rejected))
		}
		for i, layer := range []int{0, 2} {
			if v := res.Verified[i]; v.Form != sign.Legacy || v.Layer != layer {
				t.Errorf("verified[%d] is %s, want layer %d of the legacy form", i, v.Object, layer)
			}
		}
		if layer := res.Rejected[0].Layer; layer != 1 {
			t.Errorf("rejected layer %d, want 1", layer)
		}
	})
}

func TestSignDeterministic(t *testing.T) {
	opts := sign.SignOptions{
		Signer:      signer(t, "ed25519"),
		Reference:   "registry.example/krt/edge:1.4.0",
		Annotations: map[string]string{"stage": "prod", "commit": "c0ffee", "<run>": "&1"},
	}
	var objects [][]sign.Object
	for range 2 {
		store := memory.New()
		var these []sign.Object
		for _, a := range attach(t, store, newRoot(t, store, "edge"), opts) {
			these = append(these, a.Object)
		}
		objects = append(objects, these)
	}
	if !slices.Equal(objects[0], objects[1]) {
		t.Errorf("the same input gave %v and %v", objects[0], objects[1])
	}
}

// What others read, to the byte.
func TestSignBytes(t *testing.T) {
	store := memory.New()
	root := newRoot(t, store, "edge")
	attach(t, store, root, sign.SignOptions{
		Signer: signer(t, "ed25519"), Reference: "registry.example/krt/edge:1.4.0", Annotations: map[string]string{"stage": "prod"},
	})
	m := tagged(t, store, sign.Tag(root.Digest))
	if got, want := string(fetch(t, store, m.Layers[0])), `{"critical":{"identity":{"docker-reference":"registry.example/krt/edge:1.4.0"},`+
		`"image":{"docker-manifest-digest":"`+root.Digest.String()+`"},"type":"cosign container image signature"},"optional":{"stage":"prod"}}`; got != want {
		t.Errorf("payload:\n %s\nwant:\n %s", got, want)
	}
	if got, want := string(fetch(t, store, m.Config)), `{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":["`+m.Layers[0].Digest.String()+`"]}}`; got != want {
		t.Errorf("config:\n %s\nwant:\n %s", got, want)
	}
	m = referrer(t, store, root)
	if m.ArtifactType != bundleType || m.Config.MediaType != ocispec.MediaTypeEmptyJSON || m.Subject.Digest != root.Digest {
		t.Errorf("manifest %+v", m)
	}
	var b bundleJSON
	fetchJSON(t, store, m.Layers[0], &b)
	if got, want := string(b.DSSE.Payload), `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"`+root.Digest.Encoded()+`"},`+
		`"annotations":{"stage":"prod"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`; got != want {
		t.Errorf("statement:\n %s\nwant:\n %s", got, want)
	}
}

// COSIGN_DOCKER_MEDIA_TYPES makes cosign 2 write this; what is there keeps its type.
func TestSignJoinsDockerManifest(t *testing.T) {
	store := newLayout(t)
	root := newRoot(t, store, "edge")
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "p256"), Forms: []sign.Form{sign.Legacy}})
	m := tagged(t, store, sign.Tag(root.Digest))
	m.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
	m.Config.MediaType = "application/vnd.docker.container.image.v1+json"
	if err := store.Tag(t.Context(), putJSON(t, store, m.MediaType, m), sign.Tag(root.Digest)); err != nil {
		t.Fatal(err)
	}
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "ed25519"), Forms: []sign.Form{sign.Legacy}})
	got := tagged(t, store, sign.Tag(root.Digest))
	if got.MediaType != m.MediaType || got.Config.MediaType != m.Config.MediaType || len(got.Layers) != 2 {
		t.Errorf("manifest %+v", got)
	}
	res, err := sign.Verify(t.Context(), store, root, trust(t, key(t, "p256"), key(t, "ed25519")))
	if err != nil || len(res.Verified) != 2 {
		t.Errorf("verified %+v, %v", res, err)
	}
}

func TestSignRefuses(t *testing.T) {
	store := memory.New()
	root := newRoot(t, store, "edge")
	s := signer(t, "p256")
	sha512 := root
	sha512.Digest = digest.SHA512.FromString("edge")
	tests := map[string]struct {
		root ocispec.Descriptor
		opts sign.SignOptions
		want string
	}{
		"no signer":     {root, sign.SignOptions{}, "SignOptions.Signer is nil"},
		"referrer form": {root, sign.SignOptions{Signer: s, Forms: []sign.Form{sign.Referrer}}, `unknown signature format "referrer"`},
		"no digest":     {ocispec.Descriptor{}, sign.SignOptions{Signer: s}, `root digest "": invalid checksum digest format`},
		"sha512":        {sha512, sign.SignOptions{Signer: s}, "root digest is sha512, want sha256"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			attached, err := sign.Sign(t.Context(), store, tt.root, tt.opts)
			checkError(t, err, tt.want)
			if len(attached) != 0 {
				t.Errorf("attached %+v", attached)
			}
		})
	}
}

// Whatever else is under the tag, it is not replaced.
func TestSignKeepsWhatItCannotRead(t *testing.T) {
	store := memory.New()
	root := newRoot(t, store, "edge")
	index := putJSON(t, store, ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex})
	if err := store.Tag(t.Context(), index, sign.Tag(root.Digest)); err != nil {
		t.Fatal(err)
	}
	_, err := sign.Sign(t.Context(), store, root, sign.SignOptions{Signer: signer(t, "p256")})
	checkError(t, err, `media type "application/vnd.oci.image.index.v1+json", want an image manifest`)
	if desc, err := store.Resolve(t.Context(), sign.Tag(root.Digest)); err != nil || desc.Digest != index.Digest {
		t.Errorf("the tag names %s, %v, want %s", desc.Digest, err, index.Digest)
	}
}

// Find shows what is there, whoever made it.
func TestFind(t *testing.T) {
	eachStore(t, func(t *testing.T, store oras.GraphTarget) {
		root := newRoot(t, store, "edge")
		if found, err := sign.Find(t.Context(), store, root); err != nil || len(found) != 0 {
			t.Errorf("found %v, %v, want nothing", found, err)
		}
		var want []sign.Object
		for _, a := range attach(t, store, root, sign.SignOptions{Signer: signer(t, "rsa")}) {
			want = append(want, a.Object)
		}
		if found, err := sign.Find(t.Context(), store, root); err != nil || !slices.Equal(found, want) {
			t.Errorf("found %v, %v, want %v", found, err, want)
		}
	})
}

func TestKeyPolicy(t *testing.T) {
	if _, err := sign.KeyPolicy(); err == nil {
		t.Error("a policy without a key was made")
	}
	if _, err := sign.KeyPolicy(nil); err == nil {
		t.Error("a policy with a nil key was made")
	}
	store := memory.New()
	root := newRoot(t, store, "edge")
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "p256")})
	_, err := sign.Verify(t.Context(), store, root, sign.Policy{})
	checkError(t, err, "the policy trusts no signer")
	if errors.Is(err, sign.ErrNotVerified) {
		t.Errorf("%v is about the signatures", err)
	}
}
