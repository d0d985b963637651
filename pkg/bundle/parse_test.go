package bundle_test

import (
	"errors"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Every mistake is reported at once, in the order of the file, each with its place.
func TestParseReportsAllMistakes(t *testing.T) {
	t.Parallel()
	_, err := bundle.Parse("bundle.yaml", []byte(`apiVersion: krtpkg.dev/v1alpha1
kind: Bundle
metadata:
  name: Web
  version: v1
spec:
  layer: 7
  categry: demo
  sources:
    - dir: a
      sha256: ABC
    - {url: "ftp://x", extra: 1}
`))
	const want = `bundle.yaml:4:9: metadata.name "Web" is not a name: want lower-case letters, digits and dashes, at most 63
bundle.yaml:5:12: metadata.version "v1" is not a semantic version: want MAJOR.MINOR.PATCH, as in 1.2.3 or 2.0.0-rc.1
bundle.yaml:7:10: spec.layer is 7, want a number from 0 to 6
bundle.yaml:8:3: unknown field "categry" (did you mean "category"?)
bundle.yaml:11:15: spec.sources[0].sha256 "ABC" is not a sha256 digest: want 64 hexadecimal digits in lower case
bundle.yaml:12:13: spec.sources[1].url "ftp://x" is not an https URL: want https://…
bundle.yaml:12:24: unknown field "extra"`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	var placed *manifest.Error
	if !errors.As(err, &placed) || placed.Line != 4 {
		t.Errorf("the first error is %v", placed)
	}
}

// Where sources go when they do not say.
func TestParseGivesSourcesAPath(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"dir: manifests":       "manifests",
		"dir: a/b/":            "b",
		"dir: .":               "manifests",
		"dir: ./":              "manifests",
		"file: a/b.yaml":       "b.yaml",
		"{dir: a, path: b/c}":  "b/c",
		"{dir: a, path: b/c/}": "b/c",
		"{dir: a, path: ./b}":  "b",
		"{url: https://x.example/v1/install.yaml, sha256: " + strings.Repeat("ab", 32) + "}":     "install.yaml",
		"{url: \"https://x.example/v1/install.yaml\", sha256: " + strings.Repeat("ab", 32) + "}": "install.yaml",
	} {
		d, err := bundle.Parse("bundle.yaml", []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\nspec:\n  layer: 1\n  sources:\n  - "+source+"\n"))
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got := d.Bundle.Spec.Sources[0].Path; got != want {
			t.Errorf("%s: got %q, want %q", source, got, want)
		}
	}
}

// What is written in more than one way is one version, one name, one layer.
func TestParseTakesEveryStyle(t *testing.T) {
	t.Parallel()
	for _, data := range []string{
		`{"apiVersion": "krtpkg.dev/v1alpha1", "kind": "Bundle", "metadata": {"name": "web", "version": "1.0.0"}, "spec": {"layer": 3, "sources": [{"dir": "m"}]}}`,
		"---\n# comment\napiVersion: 'krtpkg.dev/v1alpha1'\nkind: \"Bundle\"\nmetadata:\n  name: >-\n    web\n  version: 1.0.0\nspec: {layer: 0x3, sources: [dir: m]}\n...\n",
		"\uFEFFapiVersion: krtpkg.dev/v1alpha1\r\nkind: Bundle\r\nmetadata: {name: web, version: 1.0.0}\r\nspec: {layer: 3, sources: [{dir: m}]}\r\n",
	} {
		d, err := bundle.Parse("bundle.yaml", []byte(data))
		if err != nil {
			t.Errorf("%q: %v", data, err)
			continue
		}
		if m := d.Metadata(); m.Name != "web" || m.Version != "1.0.0" || d.Bundle.Spec.Layer != 3 {
			t.Errorf("%q: %+v", data, d.Bundle)
		}
	}
}

// Fuzzed definitions are definitions or errors with a place, and never a panic.
func FuzzParse(f *testing.F) {
	f.Add([]byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\nspec: {layer: 3, sources: [{dir: m}]}\n"))
	f.Add([]byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: web, version: 1.0.0}\nspec: {bundles: [{path: a}], provided: [x]}\n"))
	f.Add([]byte("kind: Bundle\nspec: {sources: {0: {}}, layer: 1e3}\n? [a]\n: b\n"))
	f.Add([]byte("kind: Bundle\nmetadata: {version: 2001-01-01, name: 0o7}\nspec: [~]\n"))
	f.Add([]byte("kind: Runtime\n<<: {a: 1}\nspec: {bundles: [[], 1, {ref: 2}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := bundle.Parse("f.yaml", data)
		if err != nil {
			var placed *manifest.Error
			if !errors.As(err, &placed) || placed.File != "f.yaml" {
				t.Errorf("%q: %v has no place", data, err)
			}
			return
		}
		if (d.Bundle == nil) == (d.Runtime == nil) || d.Metadata().Name == "" {
			t.Errorf("%q: %+v", data, d)
		}
	})
}
