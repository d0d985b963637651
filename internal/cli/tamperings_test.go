package cli_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/sigstoretest"
)

func newPEM(t *testing.T) (private string, public crypto.PublicKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), key.Public()
}

// in changes a part in place.
func in(part string, change func([]byte) []byte) func(*forger) {
	return func(f *forger) { f.rewrite(f.digests[part], change) }
}

const untrusted = "not signed by a trusted key, or changed after signing"

// signatureOf changes the signature of a bundle's envelope.
func signatureOf(b map[string]any, change func([]byte) []byte) {
	s := b["dsseEnvelope"].(map[string]any)["signatures"].([]any)[0].(map[string]any)
	raw, _ := base64.StdEncoding.DecodeString(s["sig"].(string))
	s["sig"] = base64.StdEncoding.EncodeToString(change(raw))
}

// payloadOf changes the statement of a bundle's envelope.
func payloadOf(b map[string]any, change func([]byte) []byte) {
	e := b["dsseEnvelope"].(map[string]any)
	raw, _ := base64.StdEncoding.DecodeString(e["payload"].(string))
	e["payload"] = base64.StdEncoding.EncodeToString(change(raw))
}

func replace(old, new string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(old), []byte(new)) }
}

// mallory signs the root, in place of whoever did.
func mallory(with ...string) func(*forger) {
	return func(f *forger) {
		f.unsign()
		f.makeKeyPair("mallory")
		f.ok(append([]string{"sign", "oci:dist:1.0.0", "--key", "mallory.key", "--builder-id", "https://ci.example"}, with...)...)
	}
}

func policy(change func(string) string) func(*forger) {
	return func(f *forger) { f.write("trust.yaml", change(strictPolicy)) }
}

var tamperings = []tampering{
	// What was signed.
	{"root manifest, first byte", in("root", flipFirst), "{root}", nil, nil},
	{"root manifest, a digest in it", in("root", flipMiddle), "{root}", nil, nil},
	{"root manifest, last byte", in("root", flipLast), "{root}", nil, nil},
	{"root manifest cut", in("root", cut), "{root}", nil, nil},
	{"root manifest grown", in("root", grow), "{root}", nil, nil},
	{"root config", in("config", flipMiddle), "{config}", nil, nil},
	{"root config cut", in("config", cut), "{config}", nil, nil},
	{"lock: root layer, its gzip header", in("layer", flipFirst), "{layer}", nil, nil},
	{"lock: root layer, its content", in("layer", flipMiddle), "{layer}", nil, nil},
	{"lock: root layer, its checksum", in("layer", flipLast), "{layer}", nil, nil},
	{"lock: root layer cut", in("layer", cut), "{layer}", nil, nil},
	{"lock: root layer grown", in("layer", grow), "{layer}", nil, nil},
	{"nested bundle's manifest", in("bundle", flipMiddle), "{bundle}", nil, nil},
	{"nested bundle's config", in("bundleConfig", flipMiddle), "{bundleConfig}", nil, nil},
	{"nested bundle's layer", in("bundleLayer", flipMiddle), "{bundleLayer}", nil, nil},
	{"nested bundle's layer cut", in("bundleLayer", cut), "{bundleLayer}", nil, nil},
	{"nested bundle is another's", func(f *forger) {
		data, err := os.ReadFile(blob(f.site, f.digests["root"]))
		if err != nil {
			f.t.Fatal(err)
		}
		f.rewrite(f.digests["bundle"], func([]byte) []byte { return data })
	}, "{bundle}", nil, nil},
	{"lock of one's own, under the old signatures", func(f *forger) {
		// A runtime with another lock, tagged as the old one, with the old one's signatures.
		old := f.digests["root"]
		f.write("base/base.yaml", strings.ReplaceAll(web[5], "name: web", "name: evil"))
		f.drop(func(e entry) bool { return e.note(refName) == "1.0.0" })
		f.ok("build", "-f", ".")
		root, _ := artifact(f.t, f.site, "oci:dist:1.0.0", "")
		f.digests["root"], f.digests["other"] = root, old
		f.steal(tagged(".sig"))
		f.steal(bundled(typeSign))
	}, "signed digest {other}, want {root}", nil, byKey},

	// Who signed it, and whether.
	{"unsigned", func(f *forger) { f.unsign() }, "{root}: no signature found", nil, nil},
	{"tag moved to what is unsigned", func(f *forger) {
		f.ok("build", "-f", "base", "--to", "oci:dist:base")
		root, _ := artifact(f.t, f.site, "oci:dist:base", "")
		f.digests["other"] = root
		f.drop(func(e entry) bool { return e.note(refName) == "1.0.0" })
		f.entries(func(all []entry) []entry {
			for _, e := range all {
				if e.note(refName) == "base" {
					e["annotations"].(map[string]any)[refName] = "1.0.0"
				}
			}
			return all
		})
	}, "{other}: no signature found", nil, nil},
	{"tag of another version", func(f *forger) {
		f.write("runtime.yaml", strings.Replace(web[1], "1.0.0", "0.9.0", 1))
		f.ok("build", "-f", ".")
		f.ok("sign", "oci:dist:0.9.0", "--key", "cosign.key", "--builder-id", "https://ci.example")
		f.retag("0.9.0")
	}, "oci:dist: tag 1.0.0 is not the version of edge 0.9.0", nil, nil},
	{"tag of another runtime", func(f *forger) {
		f.write("trust.yaml", strictPolicy+"  names: [edge]\n")
		f.other()
		f.retag("base")
	}, "local: signed as base, but the rule of trust.yaml is for edge", nil, nil},
	{"one tag for two roots", func(f *forger) {
		f.ok("build", "-f", "base", "--to", "oci:dist:base")
		f.entries(func(all []entry) []entry {
			for _, e := range all {
				if e.note(refName) == "base" {
					e["annotations"].(map[string]any)[refName] = "1.0.0"
				}
			}
			return all
		})
	}, `tag "1.0.0" names `, nil, nil},
	{"by another key", mallory(), "{root}: 2 signatures, none valid", nil, nil},
	{"by another key, legacy", mallory(onlyLegacy...), untrusted, nil, nil},
	{"by another key that calls itself the trusted one", func(f *forger) {
		hint := ""
		f.forgeBundle(bundled(typeSign), func(b map[string]any) {
			hint = b["verificationMaterial"].(map[string]any)["publicKey"].(map[string]any)["hint"].(string)
		})
		mallory(onlyBundle...)(f)
		f.forgeBundle(bundled(typeSign), func(b map[string]any) {
			b["verificationMaterial"].(map[string]any)["publicKey"].(map[string]any)["hint"] = hint
		})
	}, "but the signature is not valid", nil, nil},
	{"signature of another artifact, legacy", func(f *forger) {
		f.unsign()
		f.other(onlyLegacy...)
		f.steal(tagged(".sig"))
	}, "(legacy format): signed digest {other}, want {root}", nil, nil},
	{"signature of another artifact, bundle", func(f *forger) {
		f.unsign()
		f.other(onlyBundle...)
		f.steal(bundled(typeSign))
	}, "(bundle format): signed digest {other}, want {root}", nil, nil},
	{"only an attestation is left", func(f *forger) { f.drop(bundled(typeSign)) }, "{root}: no signature found", onlyBundle, nil},
	{"an attestation in the signature's place", func(f *forger) {
		att := f.find(tagged(".att"))
		f.entries(func(all []entry) []entry {
			for _, e := range all {
				if tagged(".sig")(e) {
					e["digest"] = att
					info, err := os.Stat(blob(f.site, att))
					if err != nil {
						f.t.Fatal(err)
					}
					e["size"] = info.Size()
				}
			}
			return all
		})
	}, "{root}: no signature found", onlyLegacy, nil},
	{"a listing that calls an attestation a signature", func(f *forger) {
		f.drop(bundled(typeSign))
		f.entries(func(all []entry) []entry {
			for _, e := range all {
				if bundled(typeSLSA)(e) {
					e["annotations"].(map[string]any)[predicateNote] = typeSign
					e["artifactType"] = "application/vnd.dev.cosign.artifact.sig.v1+json"
				}
			}
			return all
		})
	}, "{root}: no signature found", onlyBundle, nil},

	// The signature itself.
	{"legacy manifest", func(f *forger) { f.digests["sig"] = f.find(tagged(".sig")); f.rewrite(f.digests["sig"], flipMiddle) }, "{sig}: mismatched digest", onlyLegacy, nil},
	{"legacy claim", func(f *forger) {
		f.forge(tagged(".sig"), func(m map[string]any) {
			f.rewrite(layerOf(m, 0)["digest"].(string), flipMiddle)
		})
	}, "(legacy format): payload: ", onlyLegacy, nil},
	{"legacy claim of another root", func(f *forger) {
		f.forgeLayer(tagged(".sig"), replace("docker-manifest-digest\":\"sha256:0", "docker-manifest-digest\":\"sha256:1"))
		f.forgeLayer(tagged(".sig"), grow)
	},
		"(legacy format): " + untrusted, onlyLegacy, nil},
	{"legacy signature", func(f *forger) {
		f.forge(tagged(".sig"), func(m map[string]any) {
			notes := layerOf(m, 0)["annotations"].(map[string]any)
			raw, _ := base64.StdEncoding.DecodeString(notes["dev.cosignproject.cosign/signature"].(string))
			notes["dev.cosignproject.cosign/signature"] = base64.StdEncoding.EncodeToString(flipLast(raw))
		})
	}, "(legacy format): " + untrusted, onlyLegacy, nil},
	{"legacy signature left out", func(f *forger) {
		f.forge(tagged(".sig"), func(m map[string]any) { delete(layerOf(m, 0), "annotations") })
	}, "no annotation dev.cosignproject.cosign/signature", onlyLegacy, nil},
	{"legacy tag names the root", func(f *forger) {
		f.entries(func(all []entry) []entry {
			for _, e := range all {
				if tagged(".sig")(e) {
					e["digest"] = f.digests["root"]
					info, _ := os.Stat(blob(f.site, f.digests["root"]))
					e["size"] = info.Size()
				}
			}
			return all
		})
	}, "(legacy format): layer media type", onlyLegacy, nil},
	{"oversized legacy signature", func(f *forger) {
		f.forgeLayer(tagged(".sig"), func(b []byte) []byte { return append(b, make([]byte, 2<<20)...) })
	}, "the limit is 1048576", onlyLegacy, nil},
	{"a thousand and one signatures", func(f *forger) {
		f.forge(tagged(".sig"), func(m map[string]any) {
			layers := m["layers"].([]any)
			layerOf(m, 0)["annotations"].(map[string]any)["dev.cosignproject.cosign/signature"] = "AAAA"
			for len(layers) < 1001 {
				layers = append(layers, layers[0])
			}
			m["layers"] = layers
		})
	}, "{root}: 1001 signatures, none valid", onlyLegacy, nil},
	{"bundle manifest", func(f *forger) { f.digests["sig"] = f.find(bundled(typeSign)); f.rewrite(f.digests["sig"], flipMiddle) }, "{sig}: mismatched digest", onlyBundle, nil},
	{"bundle in place", func(f *forger) {
		f.forge(bundled(typeSign), func(m map[string]any) { f.rewrite(layerOf(m, 0)["digest"].(string), flipMiddle) })
	}, "(bundle format): bundle: ", onlyBundle, nil},
	{"bundle's signature", func(f *forger) {
		f.forgeBundle(bundled(typeSign), func(b map[string]any) { signatureOf(b, flipLast) })
	}, "but the signature is not valid", onlyBundle, nil},
	{"bundle's statement", func(f *forger) {
		f.forgeBundle(bundled(typeSign), func(b map[string]any) { payloadOf(b, replace(`"predicate":{}`, `"predicate":{"x":1}`)) })
	}, "but the signature is not valid", onlyBundle, nil},
	{"bundle's key hint", func(f *forger) {
		f.forgeBundle(bundled(typeSign), func(b map[string]any) {
			b["verificationMaterial"] = map[string]any{"publicKey": map[string]any{"hint": base64.StdEncoding.EncodeToString(make([]byte, 32))}}
			signatureOf(b, flipLast)
		})
	}, "which is not trusted", onlyBundle, nil},
	{"oversized bundle", func(f *forger) {
		f.forgeBundle(bundled(typeSign), func(b map[string]any) {
			payloadOf(b, func(p []byte) []byte { return append(p, bytes.Repeat([]byte(" "), 16<<20)...) })
		})
	}, "the limit is 16777216", onlyBundle, nil},
	{"a thousand and one referrers", func(f *forger) {
		f.drop(bundled(typeSign))
		f.entries(func(all []entry) []entry {
			for i := range 1001 {
				d, size := f.putJSON(map[string]any{
					"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json",
					"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": f.digests["config"], "size": 2},
					"layers": []any{}, "annotations": map[string]any{"n": fmt.Sprint(i)},
					"subject": map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": f.digests["root"], "size": 1},
				})
				all = append(all, entry{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": d, "size": size})
			}
			return all
		})
	}, "{root}: 1001 signatures, none valid", onlyBundle, nil},

	// Certificates.
	{"certificate changed", func(f *forger) {
		f.forgeBundle(bundled(typeSign), func(b map[string]any) {
			c := b["verificationMaterial"].(map[string]any)["certificate"].(map[string]any)
			raw, _ := base64.StdEncoding.DecodeString(c["rawBytes"].(string))
			c["rawBytes"] = base64.StdEncoding.EncodeToString(flipLast(raw))
		})
	}, "certificate of release@krt.example: x509: ", byPKI, trustsPKI},
	{"certificate for someone else", func(f *forger) {
		f.unsign()
		f.certify("boss", "boss@krt.example", f.pki, time.Hour)
		f.ok("sign", "oci:dist:1.0.0", "--key", "boss.key", "--certificate", "boss.crt", "--signature-format", "bundle")
	}, `signed by "boss@krt.example" (issuer ""), want "release@krt.example"`, byPKI, trustsPKI},
	{"certificate of another authority", func(f *forger) {
		f.unsign()
		f.certify("mallory", "release@krt.example", sigstoretest.StartSigstore(f.t), time.Hour)
		f.ok("sign", "oci:dist:1.0.0", "--key", "mallory.key", "--certificate", "mallory.crt", "--signature-format", "bundle")
	}, "certificate of release@krt.example: x509: certificate signed by unknown authority", byPKI, trustsPKI},
	{"certificate that has ended", func(f *forger) {
		f.unsign()
		f.certify("old", "release@krt.example", f.pki, time.Hour)
		f.ok("sign", "oci:dist:1.0.0", "--key", "old.key", "--certificate", "old.crt", "--signature-format", "bundle")
		der, _ := pem.Decode([]byte(f.read("old-ended.crt")))
		f.forgeBundle(bundled(typeSign), func(b map[string]any) {
			b["verificationMaterial"].(map[string]any)["certificate"] = map[string]any{"rawBytes": base64.StdEncoding.EncodeToString(der.Bytes)}
		})
	}, "certificate of release@krt.example: x509: certificate has expired", byPKI, trustsPKI},
	{"certificate of another signature", func(f *forger) {
		f.certify("second", "release@krt.example", f.pki, time.Hour)
		der, _ := pem.Decode([]byte(f.read("second.crt")))
		f.forgeBundle(bundled(typeSign), func(b map[string]any) {
			b["verificationMaterial"].(map[string]any)["certificate"] = map[string]any{"rawBytes": base64.StdEncoding.EncodeToString(der.Bytes)}
		})
	}, "failed to verify signature", byPKI, trustsPKI},

	// Attestations, which the policy wants.
	{"attestation left out", func(f *forger) { f.drop(bundled(typeSLSA)) }, "{root}: found 0 of 1 required attestations of type " + typeSLSA, onlyBundle, nil},
	{"attestation's payload", func(f *forger) {
		f.forgeBundle(bundled(typeSLSA), func(b map[string]any) { payloadOf(b, replace("https://ci.example", "https://xi.example")) })
	}, "found 0 of 1 required attestations of type " + typeSLSA, onlyBundle, nil},
	{"attestation in place", func(f *forger) {
		f.forge(bundled(typeSLSA), func(m map[string]any) { f.rewrite(layerOf(m, 0)["digest"].(string), flipMiddle) })
	}, "found 0 of 1 required attestations of type " + typeSLSA, onlyBundle, nil},
	{"attestation of another artifact", func(f *forger) {
		f.drop(bundled(typeSLSA))
		f.other(onlyBundle...)
		f.steal(bundled(typeSLSA))
	}, "signed digest {other}, want {root}", onlyBundle, nil},
	{"attestation of another builder", func(f *forger) {
		f.drop(bundled(typeSLSA))
		f.ok("sign", "oci:dist:1.0.0", "--key", "cosign.key", "--builder-id", "https://home.example", "--signature-format", "bundle")
	}, "condition not met", onlyBundle, nil},
	{"attestation by another key", func(f *forger) {
		f.drop(bundled(typeSLSA))
		f.makeKeyPair("mallory")
		f.ok("sign", "oci:dist:1.0.0", "--key", "mallory.key", "--builder-id", "https://ci.example", "--signature-format", "bundle")
	}, "found 0 of 1 required attestations of type " + typeSLSA, onlyBundle, nil},

	// The policy.
	{"policy with another key", func(f *forger) {
		f.makeKeyPair("mallory")
		f.write("trust.yaml", strings.ReplaceAll(strictPolicy, "cosign.pub", "mallory.pub"))
	}, "{root}: 2 signatures, none valid", nil, nil},
	{"policy's key changed", func(f *forger) { flipFile(f.t, f.path("cosign.pub")) }, "trust.yaml:4:", nil, nil},
	{"policy cut", policy(func(s string) string { return s[:len(s)/2] }), "trust.yaml", nil, nil},
	{"policy gone", func(f *forger) {
		if err := os.Remove(f.path("trust.yaml")); err != nil {
			f.t.Fatal(err)
		}
	}, "trust.yaml: no such file", nil, nil},
	{"policy for other places", policy(func(s string) string { return strings.ReplaceAll(s, `"**"`, "registry.example/**") }), "local: no rule of trust.yaml matches", nil, nil},
	{"policy wants two", func(f *forger) {
		f.makeKeyPair("second")
		f.write("trust.yaml", strings.Replace(strictPolicy, "rules:", "- {name: second, key: second.pub}\nrules:", 1)+"  threshold: 2\n")
	}, "signed by release, but 2 signers are required", nil, nil},
	{"key revoked", func(f *forger) {
		id := strings.Fields(strings.Split(f.ok("trust", "show", "--policy", "trust.yaml"), "\n")[3])[1]
		f.write("trust.yaml", strictPolicy+"revoked: {keys: ["+id+"]}\n")
	}, "which is revoked", nil, nil},
	{"bundle revoked", func(f *forger) {
		f.write("trust.yaml", strictPolicy+"revoked: {digests: ['"+f.digests["bundle"]+"']}\n")
	}, "bundle web: {bundle} is revoked by trust.yaml", nil, nil},
	{"layer of a bundle revoked", func(f *forger) {
		f.write("trust.yaml", strictPolicy+"revoked: {digests: ['"+f.digests["bundleLayer"]+"']}\n")
	}, "bundle web: {bundleLayer} is revoked by trust.yaml", nil, nil},
	{"config of the root revoked", func(f *forger) {
		f.write("trust.yaml", strictPolicy+"revoked: {digests: ['"+f.digests["config"]+"']}\n")
	}, "{config} is revoked by trust.yaml", nil, nil},
	{"signature revoked", func(f *forger) {
		f.digests["sig"] = f.find(bundled(typeSign))
		f.write("trust.yaml", strictPolicy+"revoked: {digests: ['"+f.digests["sig"]+"']}\n")
	}, "{sig} is revoked by trust.yaml", onlyBundle, nil},
	{"key has ended", policy(func(s string) string { return strings.Replace(s, "cosign.pub", "cosign.pub, notAfter: 2020-01-01", 1) }),
		"no proof of the signing time: release is trusted only until 2020-01-01", nil, nil},
}

func (f *forger) read(name string) string {
	f.t.Helper()
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(data)
}
