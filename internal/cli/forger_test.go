package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/internal/sigstoretest"
)

// forger has a signed runtime in a folder, oci:dist:1.0.0, and changes it.
type forger struct {
	*site
	t *testing.T
	// digests of the parts, by name.
	digests map[string]string
	pki     *sigstoretest.Sigstore
}

const (
	bundleArtifact = "application/vnd.dev.sigstore.bundle.v0.3+json"
	predicateNote  = "dev.sigstore.bundle.predicateType"
	refName        = "org.opencontainers.image.ref.name"
	typeSign       = "https://sigstore.dev/cosign/sign/v1"
	typeSLSA       = "https://slsa.dev/provenance/v1"
)

const strictPolicy = `apiVersion: krtpkg.dev/v1alpha1
kind: TrustPolicy
authorities:
- {name: release, key: cosign.pub}
rules:
- match: ["**"]
  attestations:
  - type: slsaprovenance1
    condition: predicate.runDetails.builder.id == "https://ci.example"
`

// newForger signs a runtime, by default in both forms with the key of cosign.
func newForger(t *testing.T, with []string) *forger {
	t.Helper()
	f := &forger{t: t, digests: map[string]string{}}
	build := func() *site {
		s := newSite(t, "ghcr.io/example/web:1.0")
		s.write(web...)
		s.write("trust.yaml", strictPolicy)
		s.ok("build", "-f", ".")
		return s
	}
	args := append([]string{"sign", "oci:dist:1.0.0", "--builder-id", "https://ci.example"}, with...)
	if slices.Contains(with, "--key") {
		f.site = build()
		f.certify("pki", "release@krt.example", sigstoretest.StartSigstore(t), time.Hour)
		f.ok(args...)
		f.findDigests()
	} else {
		f.site = copyOnce(t, "runtime signed with "+strings.Join(with, " "), func() *site {
			s := build()
			s.ok(append(args, "--key", "cosign.key")...)
			s.ok("verify", "oci:dist:1.0.0", "--policy", "trust.yaml")
			first := &forger{site: s, t: t, digests: map[string]string{}}
			first.findDigests()
			text, err := json.Marshal(first.digests)
			if err != nil {
				t.Fatal(err)
			}
			s.write("digests.json", string(text))
			return s
		})
		if err := json.Unmarshal(readFile(t, f.path("digests.json")), &f.digests); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// findDigests reads the digests of the runtime's parts.
func (f *forger) findDigests() {
	f.t.Helper()
	root, layer := artifact(f.t, f.site, "oci:dist:1.0.0", "")
	f.digests["root"], f.digests["layer"] = root, layer
	bundle, bundleLayer := artifact(f.t, f.site, "oci:dist:1.0.0", "web")
	f.digests["bundle"], f.digests["bundleLayer"] = bundle, bundleLayer
	f.digests["config"], f.digests["bundleConfig"] = f.config(root), f.config(bundle)
}

// certify makes NAME.key, a certificate for it, NAME-ended.crt that has ended, and ca.pem of who issued them.
func (f *forger) certify(name, subject string, pki *sigstoretest.Sigstore, until time.Duration) {
	f.t.Helper()
	f.pki = pki
	private, public := newPEM(f.t)
	certificate := func(until time.Duration) string {
		return string(pki.IssueCertificate(subject, public, time.Now().Add(-2*time.Hour), time.Now().Add(until)))
	}
	f.write(name+".key", private, name+".crt", certificate(until), name+"-ended.crt", certificate(-time.Hour))
	if name == "pki" {
		f.write("ca.pem", string(pki.Authorities()))
	}
}

// named puts the digests into a message.
func (f *forger) named(message string) string {
	for name, digest := range f.digests {
		message = strings.ReplaceAll(message, "{"+name+"}", digest)
	}
	return message
}

func (f *forger) config(manifest string) string {
	var m struct{ Config struct{ Digest string } }
	f.readJSON(manifest, &m)
	return m.Config.Digest
}

func (f *forger) readJSON(digest string, into any) {
	f.t.Helper()
	data, err := os.ReadFile(blob(f.site, digest))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// put writes a blob under its own digest.
func (f *forger) put(data []byte) (string, int) {
	f.t.Helper()
	d := digest.FromBytes(data).String()
	if err := os.WriteFile(blob(f.site, d), data, 0o644); err != nil {
		f.t.Fatal(err)
	}
	return d, len(data)
}

func (f *forger) putJSON(v any) (string, int) {
	f.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.put(data)
}

// rewrite changes a blob in place, so that it is not what its digest says.
func (f *forger) rewrite(digest string, change func([]byte) []byte) {
	f.t.Helper()
	name := blob(f.site, digest)
	data, err := os.ReadFile(name)
	if err == nil {
		err = os.Chmod(name, 0o644)
	}
	if err == nil {
		err = os.WriteFile(name, change(data), 0o644)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func flipMiddle(b []byte) []byte { b[len(b)/2] ^= 1; return b }
func flipFirst(b []byte) []byte  { b[0] ^= 1; return b }
func flipLast(b []byte) []byte   { b[len(b)-1] ^= 1; return b }
func cut(b []byte) []byte        { return b[:len(b)/2] }
func grow(b []byte) []byte       { return append(b, b[len(b)-1]) }

// entry is a manifest that index.json lists.
type entry map[string]any

func (e entry) note(key string) string {
	notes, _ := e["annotations"].(map[string]any)
	text, _ := notes[key].(string)
	return text
}

// tagged reports whether an entry is under one of cosign's tags.
func tagged(suffix string) func(entry) bool {
	return func(e entry) bool { return strings.HasSuffix(e.note(refName), suffix) }
}

// bundled reports whether an entry is a bundle with a statement of a type.
func bundled(predicateType string) func(entry) bool {
	return func(e entry) bool {
		return e["artifactType"] == bundleArtifact && e.note(predicateNote) == predicateType
	}
}

// entries gives index.json to a function, and writes what that returns.
func (f *forger) entries(change func([]entry) []entry) {
	f.t.Helper()
	name := f.path("dist/index.json")
	data, err := os.ReadFile(name)
	if err != nil {
		f.t.Fatal(err)
	}
	var index map[string]any
	if err := json.Unmarshal(data, &index); err != nil {
		f.t.Fatal(err)
	}
	var list []entry
	for _, e := range index["manifests"].([]any) {
		list = append(list, e.(map[string]any))
	}
	index["manifests"] = change(list)
	if data, err = json.Marshal(index); err == nil {
		err = os.WriteFile(name, data, 0o644)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// find returns the digest of the one entry that is looked for.
func (f *forger) find(is func(entry) bool) string {
	f.t.Helper()
	var found []string
	f.entries(func(all []entry) []entry {
		for _, e := range all {
			if is(e) {
				found = append(found, e["digest"].(string))
			}
		}
		return all
	})
	if len(found) != 1 {
		f.t.Fatalf("%d entries, want one", len(found))
	}
	return found[0]
}

// drop takes entries away.
func (f *forger) drop(is func(entry) bool) {
	f.t.Helper()
	f.entries(func(all []entry) (kept []entry) {
		for _, e := range all {
			if !is(e) {
				kept = append(kept, e)
			}
		}
		return kept
	})
}

// unsign takes away everything that is attached to the root.
func (f *forger) unsign() {
	f.drop(func(e entry) bool { return e.note(refName) == "" || strings.HasPrefix(e.note(refName), "sha256-") })
}

// forge changes the manifest of an entry, and lists the new one in its place.
func (f *forger) forge(is func(entry) bool, change func(m map[string]any)) {
	f.t.Helper()
	old := f.find(is)
	var m map[string]any
	f.readJSON(old, &m)
	change(m)
	d, size := f.putJSON(m)
	f.entries(func(all []entry) []entry {
		for _, e := range all {
			if e["digest"] == old {
				e["digest"], e["size"] = d, size
			}
		}
		return all
	})
	f.digests["forged"] = d
}

// layerOf returns a manifest's layer.
func layerOf(m map[string]any, i int) map[string]any {
	return m["layers"].([]any)[i].(map[string]any)
}

// forgeBundle changes the Sigstore bundle of an entry.
func (f *forger) forgeBundle(is func(entry) bool, change func(b map[string]any)) {
	f.t.Helper()
	f.forge(is, func(m map[string]any) {
		layer := layerOf(m, 0)
		var b map[string]any
		f.readJSON(layer["digest"].(string), &b)
		change(b)
		layer["digest"], layer["size"] = f.putJSON(b)
	})
}

// forgeLayer changes what a layer of an entry holds.
func (f *forger) forgeLayer(is func(entry) bool, change func([]byte) []byte) {
	f.t.Helper()
	f.forge(is, func(m map[string]any) {
		layer := layerOf(m, 0)
		data, err := os.ReadFile(blob(f.site, layer["digest"].(string)))
		if err != nil {
			f.t.Fatal(err)
		}
		layer["digest"], layer["size"] = f.put(change(data))
	})
}

// other signs another runtime in the same folder, and gives its digest.
func (f *forger) other(with ...string) string {
	f.t.Helper()
	f.ok("build", "-f", "base", "--to", "oci:dist:base")
	f.ok(append([]string{"sign", "oci:dist:base", "--key", "cosign.key", "--builder-id", "https://ci.example"}, with...)...)
	root, _ := artifact(f.t, f.site, "oci:dist:base", "")
	f.digests["other"] = root
	return root
}

// retag has 1.0.0 lead to what another tag leads to.
func (f *forger) retag(from string) {
	f.t.Helper()
	f.drop(func(e entry) bool { return e.note(refName) == "1.0.0" })
	f.entries(func(all []entry) []entry {
		for _, e := range all {
			if e.note(refName) == from {
				e["annotations"].(map[string]any)[refName] = "1.0.0"
			}
		}
		return all
	})
}

// steal moves what is attached to another runtime to the root: under its tags, or by its
// subject.
func (f *forger) steal(is func(entry) bool) {
	f.t.Helper()
	root := f.digests["root"]
	var rootEntry entry
	f.entries(func(all []entry) []entry {
		for _, e := range all {
			if e["digest"] == root {
				rootEntry = e
			}
		}
		return all
	})
	if tag := is(entry{"annotations": map[string]any{refName: "x.sig"}}) || is(entry{"annotations": map[string]any{refName: "x.att"}}); tag {
		f.entries(func(all []entry) []entry {
			for _, e := range all {
				if is(e) {
					suffix := filepath.Ext(e.note(refName))
					e["annotations"].(map[string]any)[refName] = strings.ReplaceAll(root, ":", "-") + suffix
				}
			}
			return all
		})
		return
	}
	f.forge(is, func(m map[string]any) {
		m["subject"] = map[string]any{"mediaType": rootEntry["mediaType"], "digest": root, "size": rootEntry["size"]}
	})
}

// artifact returns the digests of the manifest and the layer of a reference, or of a nested
// bundle of it.
func artifact(t *testing.T, s *site, reference, bundle string) (manifest, layer string) {
	t.Helper()
	var view struct {
		Digest  string
		Bundles []struct{ Name, Digest string }
	}
	if err := json.Unmarshal([]byte(s.ok("inspect", "-o", "json", reference)), &view); err != nil {
		t.Fatal(err)
	}
	manifest = view.Digest
	for _, b := range view.Bundles {
		if b.Name == bundle {
			manifest = b.Digest
		}
	}
	data, err := os.ReadFile(blob(s, manifest))
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return manifest, m.Layers[0].Digest
}

func blob(s *site, digest string) string {
	return s.path("dist/blobs/sha256/" + strings.TrimPrefix(digest, "sha256:"))
}

func flipFile(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err == nil {
		err = os.Chmod(name, 0o644)
	}
	if err == nil {
		err = os.WriteFile(name, flipMiddle(data), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
