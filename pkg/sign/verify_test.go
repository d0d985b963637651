package sign_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"krtpkg.dev/krtpkg/internal/sigstoretest"
	"krtpkg.dev/krtpkg/pkg/sign"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
)

const (
	bundleType    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	signatureType = "application/vnd.dev.cosign.artifact.sig.v1+json"
	simpleType    = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureKey  = "dev.cosignproject.cosign/signature"
)

// bundleJSON is what the tests look at and change in a bundle.
type bundleJSON struct {
	MediaType    string          `json:"mediaType"`
	Verification json.RawMessage `json:"verificationMaterial"`
	DSSE         struct {
		Payload     []byte              `json:"payload"`
		PayloadType string              `json:"payloadType"`
		Signatures  []map[string]string `json:"signatures"`
	} `json:"dsseEnvelope"`
}

// scene is a store with root, and what Verify is to make of it.
type scene struct {
	// set changes the store and returns what Verify is to see.
	set func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget
	// is defaults to ErrNotVerified.
	is error
	// want is in the message; {root} and {other} are the digests of edge and of core,
	// a star is any text.
	want string
}

var rejections = map[string]scene{
	"unsigned": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return store
		},
		is:   sign.ErrUnsigned,
		want: "{root}: no signature found",
	},
	"another key, legacy": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			attach(t, store, root, sign.SignOptions{Signer: signer(t, "p256"), Forms: []sign.Form{sign.Legacy}})
			return store
		},
		want: "(legacy format): not signed by a trusted key, or changed after signing",
	},
	"another key, bundle": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			attach(t, store, root, sign.SignOptions{Signer: signer(t, "p256"), Forms: []sign.Form{sign.Bundle}})
			return store
		},
		want: "(bundle format): signed with key {p256}, which is not trusted",
	},
	"two signatures": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			attach(t, store, root, sign.SignOptions{Signer: signer(t, "p256")})
			return store
		},
		want: "{root}: 2 signatures, none valid: sha256:",
	},
	"moved from another artifact, legacy": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			other := newRoot(t, store, "core")
			attach(t, store, other, sign.SignOptions{Signer: signer(t, "cosign"), Forms: []sign.Form{sign.Legacy}})
			retag(t, store, sign.Tag(other.Digest), sign.Tag(root.Digest))
			return store
		},
		want: "{root}: 1 signature, not valid: sha256:*(legacy format): signed digest {other}, want {root}",
	},
	"moved from another artifact, bundle": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			m := signedBundle(t, store, newRoot(t, store, "core"))
			m.Subject = &root
			putJSON(t, store, m.MediaType, m)
			return store
		},
		want: "{root}: 1 signature, not valid: sha256:*(bundle format): signed digest {other}, want {root}",
	},
	"payload for this artifact under a signature for another": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, payload []byte) {
				other := newRoot(t, store, "core")
				l := put(t, store, simpleType, []byte(strings.ReplaceAll(string(payload), root.Digest.String(), other.Digest.String())))
				l.Annotations = m.Layers[0].Annotations
				m.Layers[0] = l
			})
		},
		want: "(legacy format): not signed by a trusted key, or changed after signing",
	},
	"payload of another type": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			attachRaw(t, store, root, `{"critical":{"image":{"docker-manifest-digest":"`+root.Digest.String()+`"},"type":"atomic container signature"}}`)
			return store
		},
		want: `(legacy format): signed type "atomic container signature", want "cosign container image signature"`,
	},
	"payload that is not JSON": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			attachRaw(t, store, root, `cosign container image signature `+root.Digest.String())
			return store
		},
		want: "(legacy format): payload: invalid character",
	},
	"payload changed in place": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			attach(t, store, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: []sign.Form{sign.Legacy}})
			return corrupt{store, tagged(t, store, sign.Tag(root.Digest)).Layers[0].Digest, flipLast}
		},
		want: "(legacy format): payload: sha256:*: mismatched digest",
	},
	"payload cut": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			attach(t, store, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: []sign.Form{sign.Legacy}})
			return corrupt{store, tagged(t, store, sign.Tag(root.Digest)).Layers[0].Digest, func(b []byte) []byte { return b[:10] }}
		},
		want: "(legacy format): payload: sha256:*: read failed: expected content size of *, got 10",
	},
	"payload missing": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) { m.Layers[0].Digest = digest.FromString("gone") })
		},
		want: "(legacy format): payload: " + digest.FromString("gone").String() + ": *not found",
	},
	"payload too large": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, payload []byte) {
				l := put(t, store, simpleType, append(payload, make([]byte, 1<<20)...))
				l.Annotations = m.Layers[0].Annotations
				m.Layers[0] = l
			})
		},
		want: "(legacy format): payload: sha256:*: 1048*bytes, the limit is 1048576: size exceeds limit",
	},
	"payload that claims to be vast": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) { m.Layers[0].Size = 1 << 62 })
		},
		want: "bytes, the limit is 1048576: size exceeds limit",
	},
	"payload of a negative size": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) { m.Layers[0].Size = -1 })
		},
		want: "(legacy format): payload: sha256:*",
	},
	"payload with a bad digest": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) { m.Layers[0].Digest = "../../etc/passwd\x1b[2J" })
		},
		want: `(legacy format): payload: digest "../../etc/passwd\x1b[2J": invalid checksum digest format`,
	},
	"layer of another type": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) { m.Layers[0].MediaType = "text/plain" })
		},
		want: `(legacy format): layer media type "text/plain", want application/vnd.dev.cosign.simplesigning.v1+json`,
	},
	"no signature annotation": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) { m.Layers[0].Annotations = nil })
		},
		want: "(legacy format): no annotation dev.cosignproject.cosign/signature",
	},
	"signature annotation is not base64": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) { m.Layers[0].Annotations[signatureKey] = "%" })
		},
		want: "(legacy format): annotation dev.cosignproject.cosign/signature: illegal base64 data",
	},
	"signature changed": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) {
				sig, _ := base64.StdEncoding.DecodeString(m.Layers[0].Annotations[signatureKey])
				m.Layers[0].Annotations[signatureKey] = base64.StdEncoding.EncodeToString(flipLast(sig))
			})
		},
		want: "(legacy format): not signed by a trusted key, or changed after signing",
	},
	"signature empty": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) { m.Layers[0].Annotations[signatureKey] = "" })
		},
		want: "(legacy format): not signed by a trusted key, or changed after signing",
	},
	"tag names an index": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			retagTo(t, store, putJSON(t, store, ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}), root)
			return store
		},
		want: `(legacy format): media type "application/vnd.oci.image.index.v1+json", want an image manifest`,
	},
	"tag names a manifest that is gone": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			attach(t, store, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: []sign.Form{sign.Legacy}})
			desc, err := store.Resolve(t.Context(), sign.Tag(root.Digest))
			if err != nil {
				t.Fatal(err)
			}
			return corrupt{store, desc.Digest, func([]byte) []byte { return nil }}
		},
		want: "(legacy format): manifest: read failed: expected content size of",
	},
	"manifest too large": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) {
				m.Annotations = map[string]string{"padding": strings.Repeat("x", 4<<20)}
			})
		},
		want: "(legacy format): manifest: sha256:*: 419*bytes, the limit is 4194304: size exceeds limit",
	},
	"bundle changed in place": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return corrupt{store, signedBundle(t, store, root).Layers[0].Digest, flipLast}
		},
		want: "(bundle format): bundle: sha256:*: mismatched digest",
	},
	"bundle with another statement": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			other := newRoot(t, store, "core")
			return changeBundle(t, store, other, root, func(b *bundleJSON) {
				b.DSSE.Payload = []byte(strings.ReplaceAll(string(b.DSSE.Payload), other.Digest.Encoded(), root.Digest.Encoded()))
			})
		},
		want: "(bundle format): names the trusted key {cosign}, but the signature is not valid",
	},
	"bundle with the wrong hint": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			sum := sha256.Sum256(nil)
			return changeBundle(t, store, newRoot(t, store, "core"), root, func(b *bundleJSON) {
				b.Verification = json.RawMessage(`{"publicKey":{"hint":"` + base64.StdEncoding.EncodeToString(sum[:]) + `"}}`)
				b.DSSE.Signatures[0]["sig"] = base64.StdEncoding.EncodeToString([]byte("sig"))
			})
		},
		want: "(bundle format): signed with key e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, which is not trusted",
	},
	"bundle without a hint": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeBundle(t, store, newRoot(t, store, "core"), root, func(b *bundleJSON) {
				b.Verification = json.RawMessage(`{"publicKey":{}}`)
				b.DSSE.Signatures[0]["sig"] = ""
			})
		},
		want: "(bundle format): not signed by a trusted key, or changed after signing",
	},
	"bundle with two signatures": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeBundle(t, store, newRoot(t, store, "core"), root, func(b *bundleJSON) {
				b.DSSE.Signatures = append(b.DSSE.Signatures, b.DSSE.Signatures[0])
			})
		},
		want: "(bundle format): names the trusted key {cosign}, but the signature is not valid",
	},
	"bundle with a certificate": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeBundle(t, store, newRoot(t, store, "core"), root, func(b *bundleJSON) {
				b.Verification = json.RawMessage(`{"certificate":{"rawBytes":"AAAA"}}`)
			})
		},
		want: "(bundle format): signed with a certificate, but only keys are trusted",
	},
	"bundle of a later version": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeBundle(t, store, newRoot(t, store, "core"), root, func(b *bundleJSON) {
				b.MediaType = "application/vnd.dev.sigstore.bundle.v0.4+json"
			})
		},
		want: "(bundle format): bundle: validation error: unsupported media type: bundle version v0.4 is not yet supported",
	},
	"bundle without an envelope": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			m := signedBundle(t, store, newRoot(t, store, "core"))
			m.Subject = &root
			m.Layers[0] = put(t, store, bundleType, []byte(`{"mediaType":"`+bundleType+`","verificationMaterial":{"publicKey":{}},`+
				`"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":"AA=="},"signature":"AA=="}}`))
			putJSON(t, store, m.MediaType, m)
			return store
		},
		want: "(bundle format): bundle: no DSSE envelope",
	},
	"bundle that is not JSON": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			m := signedBundle(t, store, newRoot(t, store, "core"))
			m.Subject = &root
			m.Layers[0] = put(t, store, bundleType, []byte("bundle"))
			putJSON(t, store, m.MediaType, m)
			return store
		},
		want: "(bundle format): bundle: *syntax error",
	},
	"bundle too large": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeBundle(t, store, newRoot(t, store, "core"), root, func(b *bundleJSON) {
				b.DSSE.Payload = make([]byte, 12<<20)
			})
		},
		want: "(bundle format): bundle: sha256:*bytes, the limit is 16777216: size exceeds limit",
	},
	"bundle in two layers": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			m := signedBundle(t, store, newRoot(t, store, "core"))
			m.Subject = &root
			m.Layers = append(m.Layers, m.Layers[0])
			putJSON(t, store, m.MediaType, m)
			return store
		},
		want: "(bundle format): 2 layers, want 1",
	},
	"attestation by the trusted key": {
		// Signed provenance says where something comes from, not that it is released.
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeBundle(t, store, newRoot(t, store, "core"), root, func(b *bundleJSON) {
				b.DSSE.Payload = []byte(strings.ReplaceAll(string(b.DSSE.Payload), "https://sigstore.dev/cosign/sign/v1", "https://slsa.dev/provenance/v1"))
			})
		},
		is:   sign.ErrUnsigned,
		want: "{root}: no signature found",
	},
	"listing names another artifact's bundle": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			m := signedBundle(t, store, newRoot(t, store, "core"))
			return listing{store, []ocispec.Descriptor{putJSON(t, store, m.MediaType, m)}}
		},
		is:   sign.ErrUnsigned,
		want: "{root}: no signature found",
	},
	"listing names what is not there": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return listing{store, []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4}}}
		},
		want: "{root}: 1 signature, not valid: " + digest.FromString("gone").String() + " (referrer format): manifest: *not found",
	},
	"five thousand and one referrers": {
		set: func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			l := listing{ReadOnlyGraphTarget: store}
			for i := range 5001 {
				l.referrers = append(l.referrers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i))})
			}
			return l
		},
		is:   sign.ErrTooMany,
		want: "{root}: 5000 signatures, none valid: * and 4995 more; 1 more: too many to examine",
	},
}

func TestVerifyRejects(t *testing.T) {
	for name, sc := range rejections {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := memory.New()
			root := newRoot(t, store, "edge")
			_, err := sign.Verify(t.Context(), sc.set(t, store, root), root, trust(t, key(t, "cosign"), key(t, "ed25519")))
			is := sc.is
			if is == nil {
				is = sign.ErrNotVerified
			}
			if !errors.Is(err, is) {
				t.Errorf("%v is not %v", err, is)
			}
			want := strings.NewReplacer(
				"{root}", root.Digest.String(), "{other}", newRoot(t, store, "core").Digest.String(),
				"{cosign}", key(t, "cosign").ID(), "{p256}", key(t, "p256").ID(),
			).Replace(sc.want)
			checkGlob(t, err, want)
		})
	}
}

// checkGlob wants the parts of want between stars in err's message, in order.
func checkGlob(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("verified, want: %s", want)
	}
	rest, ok := err.Error(), true
	for part := range strings.SplitSeq(want, "*") {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			t.Fatalf("error:\n %v\nwant:\n %s", err, want)
		}
	}
}

// A bad signature next to a good one does no harm, and is reported.
func TestVerifyReportsRejected(t *testing.T) {
	store := memory.New()
	root := newRoot(t, store, "edge")
	m := signedBundle(t, store, newRoot(t, store, "core"))
	m.Subject = &root
	moved := putJSON(t, store, m.MediaType, m)
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: []sign.Form{sign.Legacy}})
	res, err := sign.Verify(t.Context(), store, root, trust(t, key(t, "cosign")))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Verified) != 1 || len(res.Rejected) != 1 || res.Rejected[0].Manifest != moved.Digest {
		t.Errorf("result %+v", res)
	}
}

// The message stays readable with many signatures; the error has them all.
func TestVerifyErrorIsShort(t *testing.T) {
	store := memory.New()
	root := newRoot(t, store, "edge")
	for i := range 7 {
		attach(t, store, root, sign.SignOptions{
			Signer: signer(t, "ed25519"), Annotations: map[string]string{"n": fmt.Sprint(i)}, Forms: []sign.Form{sign.Legacy},
		})
	}
	_, err := sign.Verify(t.Context(), store, root, trust(t, key(t, "cosign")))
	checkGlob(t, err, "7 signatures, none valid: *, layer 4): *; and 2 more")
	var e *sign.VerifyError
	if !errors.As(err, &e) || len(e.Rejected) != 7 || e.Root != root.Digest {
		t.Errorf("error %#v", err)
	}
}

// The third form, which cosign 2 writes with its OCI 1.1 experiment: known by the artifact
// type, or by the config's media type where a client of OCI 1.0 made the manifest.
func TestVerifyReferrerForm(t *testing.T) {
	types := map[string]func(*ocispec.Manifest){
		"artifact type":     func(m *ocispec.Manifest) { m.ArtifactType = signatureType },
		"config media type": func(m *ocispec.Manifest) { m.Config.MediaType = signatureType },
	}
	for name, set := range types {
		t.Run(name, func(t *testing.T) {
			eachStore(t, func(t *testing.T, store oras.GraphTarget) {
				root := newRoot(t, store, "edge")
				from := memory.New()
				newRoot(t, from, "edge")
				attach(t, from, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: []sign.Form{sign.Legacy}})
				m := tagged(t, from, sign.Tag(root.Digest))
				put(t, store, m.Config.MediaType, fetch(t, from, m.Config))
				put(t, store, simpleType, fetch(t, from, m.Layers[0]))
				m.Subject = &root
				set(&m)
				desc := putJSON(t, store, m.MediaType, m)
				res, err := sign.Verify(t.Context(), store, root, trust(t, key(t, "cosign")))
				if err != nil {
					t.Fatal(err)
				}
				if len(res.Verified) != 1 || res.Verified[0].Object != (sign.Object{Form: sign.Referrer, Manifest: desc.Digest}) {
					t.Errorf("result %+v", res)
				}
			})
		})
	}
}

// A fallback index as cosign 2.6 maintains it lies about the artifact type.
func TestVerifyListingLies(t *testing.T) {
	store := repository(t, serve(t, newRegistry(false)))
	root := newRoot(t, store, "edge")
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: []sign.Form{sign.Bundle}})
	all, err := store.Predecessors(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	all[0].ArtifactType, all[0].Annotations = ocispec.MediaTypeEmptyJSON, nil
	index := putJSON(t, store, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: all,
	})
	if err := store.Tag(t.Context(), index, strings.TrimSuffix(sign.Tag(root.Digest), ".sig")); err != nil {
		t.Fatal(err)
	}
	res, err := sign.Verify(t.Context(), repository(t, store.Reference.Registry), root, trust(t, key(t, "cosign")))
	if err != nil || len(res.Verified) != 1 {
		t.Errorf("result %+v, %v", res, err)
	}
}

// An index that lists the root is its predecessor in a layout, but no referrer.
func TestVerifyIgnoresParents(t *testing.T) {
	store := newLayout(t)
	root := newRoot(t, store, "edge")
	putJSON(t, store, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{root},
	})
	_, err := sign.Verify(t.Context(), store, root, trust(t, key(t, "cosign")))
	if !errors.Is(err, sign.ErrUnsigned) {
		t.Errorf("error %v, want %v", err, sign.ErrUnsigned)
	}
}

// A registry that does not answer has not said that there is no signature.
func TestVerifyStoreFails(t *testing.T) {
	host := serve(t, newRegistry(true))
	store := repository(t, host)
	root := newRoot(t, store, "edge")
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "cosign")})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := sign.Verify(ctx, store, root, trust(t, key(t, "cosign")))
	if !errors.Is(err, context.Canceled) || errors.Is(err, sign.ErrUnsigned) || errors.Is(err, sign.ErrNotVerified) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

// No bundle that anyone makes up verifies, and none makes Verify panic.
func FuzzVerifyBundle(f *testing.F) {
	f.Add([]byte(`{"mediaType":"` + bundleType + `","verificationMaterial":{"publicKey":{"hint":""}},"dsseEnvelope":` +
		`{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AA=="}]}}`))
	f.Add([]byte(`{"mediaType":"` + bundleType + `","dsseEnvelope":null}`))
	policy := everyone(f)
	f.Fuzz(func(t *testing.T, bundle []byte) {
		store := memory.New()
		root := newRoot(t, store, "edge")
		putJSON(t, store, ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned:    specs.Versioned{SchemaVersion: 2},
			MediaType:    ocispec.MediaTypeImageManifest,
			ArtifactType: bundleType,
			Config:       put(t, store, ocispec.MediaTypeEmptyJSON, []byte("{}")),
			Layers:       []ocispec.Descriptor{put(t, store, bundleType, bundle)},
			Subject:      &root,
		})
		if res, err := sign.Verify(t.Context(), store, root, policy); err == nil {
			t.Errorf("verified %+v", res)
		}
	})
}

// everyone trusts a key, an identity and a private PKI, with a log and a timestamp authority, so
// that all that a signature may come with is looked at.
func everyone(f *testing.F) sign.Policy {
	s := sigstoretest.StartSigstore(f)
	f.Add([]byte(`{"mediaType":"` + bundleType + `","verificationMaterial":{"certificate":{"rawBytes":"` + base64.StdEncoding.EncodeToString(s.Intermediate()) + `"},` +
		`"tlogEntries":[{"logIndex":"1","logId":{"keyId":"AAAA"},"kindVersion":{"kind":"dsse","version":"0.0.1"},"integratedTime":"1700000000",` +
		`"inclusionPromise":{"signedEntryTimestamp":"AAAA"},"inclusionProof":{"logIndex":"1","rootHash":"AAAA","treeSize":"2","hashes":["AAAA"],"checkpoint":{"envelope":"x"}},"canonicalizedBody":"e30="}],` +
		`"timestampVerificationData":{"rfc3161Timestamps":[{"signedTimestamp":"MAA="}]}},"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AA=="}]}}`))
	f.Add([]byte(`{"layers":[{"mediaType":"application/vnd.dsse.envelope.v1+json","annotations":{"dev.sigstore.cosign/certificate":"x","dev.sigstore.cosign/bundle":"{}","dev.sigstore.cosign/rfc3161timestamp":"{}"}}]}`))
	roots, err := sign.LoadTrustedRoot(s.TrustedRoot(sigstoretest.Parts{}))
	if err != nil {
		f.Fatal(err)
	}
	private, err := sign.LoadCertificates(s.Authorities(), s.TimestampAuthorities())
	if err != nil {
		f.Fatal(err)
	}
	k, err := sign.LoadPublicKey(pairs()["cosign"].public)
	if err != nil {
		f.Fatal(err)
	}
	return sign.Policy{Authorities: []sign.Authority{
		{Key: k, Roots: roots}, {Identity: &sign.Identity{Subject: "a"}, Roots: roots}, {Identity: &sign.Identity{Subject: "b"}, Roots: private},
	}}
}

// No manifest under the tag does either.
func FuzzVerifyManifest(f *testing.F) {
	f.Add([]byte(`{"layers":[{"mediaType":"` + simpleType + `","annotations":{"` + signatureKey + `":"AA=="}}]}`))
	policy := everyone(f)
	f.Fuzz(func(t *testing.T, manifest []byte) {
		store := memory.New()
		root := newRoot(t, store, "edge")
		desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, manifest)
		if store.Push(t.Context(), desc, bytes.NewReader(manifest)) != nil || store.Tag(t.Context(), desc, sign.Tag(root.Digest)) != nil {
			return // no store takes it
		}
		if res, err := sign.Verify(t.Context(), store, root, policy); err == nil {
			t.Errorf("verified %+v", res)
		}
	})
}

func flipLast(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

func retagTo(t *testing.T, store oras.GraphTarget, desc, root ocispec.Descriptor) {
	t.Helper()
	if err := store.Tag(t.Context(), desc, sign.Tag(root.Digest)); err != nil {
		t.Fatal(err)
	}
}

func retag(t *testing.T, store oras.GraphTarget, from, to string) {
	t.Helper()
	if _, err := oras.Tag(t.Context(), store, from, to); err != nil {
		t.Fatal(err)
	}
}

// changeLegacy signs root and puts a changed manifest under the tag.
func changeLegacy(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, change func(m *ocispec.Manifest, payload []byte)) oras.ReadOnlyGraphTarget {
	t.Helper()
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: []sign.Form{sign.Legacy}})
	m := tagged(t, store, sign.Tag(root.Digest))
	change(&m, fetch(t, store, m.Layers[0]))
	retagTo(t, store, putJSON(t, store, m.MediaType, m), root)
	return store
}

// signedBundle signs root as a bundle and returns the manifest.
func signedBundle(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) ocispec.Manifest {
	t.Helper()
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: []sign.Form{sign.Bundle}})
	return referrer(t, store, root)
}

// changeBundle signs other, changes that bundle and attaches it to root.
func changeBundle(t *testing.T, store oras.GraphTarget, other, root ocispec.Descriptor, change func(*bundleJSON)) oras.ReadOnlyGraphTarget {
	t.Helper()
	m := signedBundle(t, store, other)
	var b bundleJSON
	fetchJSON(t, store, m.Layers[0], &b)
	change(&b)
	m.Layers[0] = putJSON(t, store, bundleType, b)
	m.Subject = &root
	putJSON(t, store, m.MediaType, m)
	return store
}

// attachRaw signs any payload with the ed25519 key, and lays it out in the legacy form.
func attachRaw(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, payload string) {
	t.Helper()
	block, _ := pem.Decode(pairs()["ed25519"].private)
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	l := put(t, store, simpleType, []byte(payload))
	l.Annotations = map[string]string{
		signatureKey: base64.StdEncoding.EncodeToString(ed25519.Sign(private.(ed25519.PrivateKey), []byte(payload))),
	}
	retagTo(t, store, putJSON(t, store, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    put(t, store, ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers:    []ocispec.Descriptor{l},
	}), root)
}

// Referrers of other kinds, however many, do not keep anyone from verifying.
func TestForeignReferrersDoNoHarm(t *testing.T) {
	t.Parallel()
	store := newLayout(t)
	root, by := newRoot(t, store, "a"), signer(t, "p256")
	if _, err := sign.Sign(t.Context(), store, root, sign.SignOptions{Signer: by}); err != nil {
		t.Fatal(err)
	}
	policy, err := sign.KeyPolicy(by.Key())
	if err != nil {
		t.Fatal(err)
	}
	l := listing{ReadOnlyGraphTarget: store}
	if l.referrers, err = store.Predecessors(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		l.referrers = append(l.referrers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), ArtifactType: "application/vnd.example"})
	}
	result, err := sign.Verify(t.Context(), l, root, policy)
	if err != nil || len(result.Verified) != 2 {
		t.Errorf("%+v, %v", result, err)
	}
}

// flood lists what is not there in front of everything else.
func flood(t *testing.T, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, n int, size int64) oras.ReadOnlyGraphTarget {
	t.Helper()
	found, err := store.Predecessors(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	var junk []ocispec.Descriptor
	for i := range n {
		junk = append(junk, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: size})
	}
	return listing{store, append(junk, found...)}
}

// What proves nothing does not displace what does, however much of it someone attaches.
func TestJunkDisplacesNothing(t *testing.T) {
	t.Parallel()
	const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	for name, set := range map[string]func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget{
		"a thousand signatures under the tag": func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return changeLegacy(t, store, root, func(m *ocispec.Manifest, _ []byte) {
				for len(m.Layers) <= 1100 {
					m.Layers = append(m.Layers, m.Layers[0])
				}
			})
		},
		"a thousand referrers, and one under the tag": func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			return flood(t, changeLegacy(t, store, root, func(*ocispec.Manifest, []byte) {}), root, 1100, 4)
		},
		"a thousand referrers before the one": func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			signedBundle(t, store, root)
			return flood(t, store, root, 1100, 4)
		},
		"manifests of gigabytes before the one": func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			signedBundle(t, store, root)
			return flood(t, store, root, 900, 4<<20)
		},
		"gigabytes before the one": func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) oras.ReadOnlyGraphTarget {
			signedBundle(t, store, root)
			for i := range 60 {
				putJSON(t, store, ocispec.MediaTypeImageManifest, ocispec.Manifest{
					MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundleType, Config: ocispec.DescriptorEmptyJSON, Subject: &root,
					Layers: []ocispec.Descriptor{{MediaType: bundleType, Digest: digest.FromString(fmt.Sprint(i)), Size: 9 << 20}},
				})
			}
			return store
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := memory.New()
			root := newRoot(t, store, "edge")
			result, err := sign.Verify(t.Context(), set(t, store, root), root, trust(t, key(t, "cosign")))
			if err != nil {
				t.Fatal(err)
			}
			if all := len(result.Verified) + len(result.Rejected) + result.Unexamined; len(result.Verified) == 0 || all < 60 {
				t.Errorf("%d verified of %d", len(result.Verified), all)
			}
		})
	}
}
