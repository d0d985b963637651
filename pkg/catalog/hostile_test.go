package catalog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/html"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/result"
)

// elements are all that pages have, and pictures in them.
var elements = strings.Fields(`html head meta title link script body a header nav form label input section p ol ul li main footer span h1 h2 h3 small div
	table thead tbody tr th td dl dt dd pre code details summary img br strong time style
	svg desc rect text g path`)

// attributes are all that these have.
var attributes = strings.Fields(`lang charset http-equiv content name rel href src defer class id hidden role for type autocomplete placeholder
	aria-label aria-hidden aria-labelledby tabindex scope data-root datetime alt width height rel
	xmlns viewbox viewBox x y rx d`)

var directionMarks = regexp.MustCompile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

// checkInert holds pages to what they are made of: nothing runs but their own script, nothing is fetched from elsewhere.
func checkInert(t testing.TB, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		if path.Ext(name) != ".html" {
			continue
		}
		if mark := directionMarks.Find(data); mark != nil {
			t.Errorf("%s has %q", name, mark)
		}
		for node := range parsePage(t, name, data).Descendants() {
			if node.Type == html.CommentNode {
				t.Errorf("%s has a comment %.80q", name, node.Data)
			}
			if node.Type != html.ElementNode {
				continue
			}
			if !slices.Contains(elements, node.Data) {
				t.Errorf("%s has an element %s", name, node.Data)
			}
			for _, a := range node.Attr {
				if !slices.Contains(attributes, a.Key) {
					t.Errorf("%s has an attribute %s of %s", name, a.Key, node.Data)
				}
			}
			switch link := attribute(node, "href"); {
			case node.Data == "script" && (!strings.HasSuffix(attribute(node, "src"), "catalog.js") || node.FirstChild != nil):
				t.Errorf("%s has a script of %q", name, attribute(node, "src"))
			case node.Data == "style" && name != "status.html":
				t.Errorf("%s has a style", name)
			case node.Data == "img" && !strings.HasPrefix(attribute(node, "src"), "data:image/svg+xml;base64,"):
				t.Errorf("%s has a picture %q", name, attribute(node, "src"))
			case node.Data == "a" && strings.Contains(link, ":") && !strings.HasPrefix(link, "https://") && !strings.HasPrefix(link, "http://"):
				t.Errorf("%s has a link %q", name, link)
			case node.Data == "meta" && attribute(node, "http-equiv") != "" && attribute(node, "http-equiv") != "Content-Security-Policy":
				t.Errorf("%s has a meta element %v", name, node.Attr)
			}
		}
	}
}

// pageText returns all text of pages, as people read it.
func pageText(t testing.TB, files map[string][]byte) string {
	t.Helper()
	var all strings.Builder
	for name, data := range files {
		if path.Ext(name) != ".html" {
			continue
		}
		for node := range parsePage(t, name, data).Descendants() {
			if node.Type == html.TextNode && node.Parent.Data != "script" && node.Parent.Data != "style" {
				all.WriteString(node.Data + "\n")
			}
		}
	}
	return all.String()
}

// hostileTexts are what somebody may write anywhere.
var hostileTexts = []string{
	`<script>alert("N")</script>`,
	`"><img src=x onerror=alert('N')>`,
	`' onmouseover='alert("N")`,
	`javascript:alert('N')`,
	`JaVaScRiPt:alert('N')//https://krt.example`,
	`data:text/html;base64,N`,
	`</title><svg onload=alert('N')>`,
	`</textarea><script src=//evil.example/N></script>`,
	`<svg xmlns="http://www.w3.org/2000/svg"><script>alert('N')</script></svg>`,
	`<iframe srcdoc="<script>N</script>">`,
	`<a href="https://evil.example/N">N</a>`,
	`<meta http-equiv="refresh" content="0;url=//evil.example/N">`,
	`<style>@import "//evil.example/N";</style>`,
	`<base href="//evil.example/N/">`,
	`<!-- N`,
	`]]><x:script xmlns:x="http://www.w3.org/1999/xhtml">N</x:script>`,
	`{{template "top" .}}{{N}}`,
	"${N}`+alert(`N`)+`",
	"\u202egnp.N\u202c",
	"\u2066N\u2069\u200f",
	"\x1b[31mN\x1b[0m\x07",
	"a\x00b\x08N",
	"N\u2028alert('N')\u2029",
	"N\r\nSet-Cookie: N",
	`\u003cscript\u003eN`,
	`&lt;script&gt;N&amp;`,
	`</script><script>N`,
	`%3Cscript%3EN`,
	`../../N`,
	`N' OR '1'='1`,
}

// Every text that a document can hold, with each hostile text in it, is shown as text.
func TestHostileDocument(t *testing.T) {
	if len(hostileTexts) < 25 {
		t.Fatalf("only %d texts", len(hostileTexts))
	}
	for i, text := range hostileTexts {
		text = strings.ReplaceAll(text, "N", fmt.Sprintf("m4rk%d", i))
		var c result.Catalog
		fillTexts(reflect.ValueOf(&c).Elem(), text, 0)
		// One bundle is that of the version, with its picture.
		r := &c.Runtimes[0]
		r.Versions[0].Graph.Nodes[0].Requires = nil
		r.Versions[0].SBOM = nil
		files := writeSite(t, &c)
		checkInert(t, files)
		checkIndex(t, files["search.js"])
		shown := strings.TrimSpace(graph.CleanText(text))
		if got := strings.ReplaceAll(pageText(t, files), "\r", ""); !strings.Contains(got, shown) && !strings.Contains(strings.ReplaceAll(got, "\n", "\ufffd"), strings.ReplaceAll(shown, "\ufffd\ufffd", "\ufffd")) {
			t.Errorf("%q is not shown as %q", text, shown)
		}
		var page strings.Builder
		state := &catalog.ClusterState{Graphs: map[string]*graph.Graph{}}
		fillTexts(reflect.ValueOf(state).Elem(), text, 0)
		if err := catalog.WriteStatus(&page, state); err != nil {
			t.Fatal(err)
		}
		checkInert(t, map[string][]byte{"status.html": []byte(page.String())})
	}
}

// checkIndex holds the search's index to what it is: a variable with texts.
func checkIndex(t *testing.T, data []byte) {
	t.Helper()
	text, is := strings.CutPrefix(string(data), "var krtpkgSearch = ")
	text, ends := strings.CutSuffix(text, ";\n")
	var entries [][5]string
	if err := json.Unmarshal([]byte(text), &entries); err != nil || !is || !ends || strings.ContainsAny(text, "<>&\u2028\u2029") {
		t.Errorf("search.js: %v\n%.200s", err, data)
	}
	for _, e := range entries {
		if strings.Contains(e[3], ":") || strings.HasPrefix(e[3], "/") || strings.Contains(e[3], "..") {
			t.Errorf("search.js leads to %q", e[3])
		}
	}
}

// fillTexts sets all that a value holds, with a text where it has one.
func fillTexts(v reflect.Value, text string, level int) {
	if level > 14 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillTexts(v.Elem(), text, level+1)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(0, 0).UTC()))
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() && v.Type().Field(i).Name != "Error" {
				fillTexts(v.Field(i), text, level+1)
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return // JSON of its own
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillTexts(v.Index(0), text, level+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fillTexts(key, text, level+1)
		fillTexts(value, text, level+1)
		v.SetMapIndex(key, value)
	case reflect.Interface:
		if v.NumMethod() == 0 {
			v.Set(reflect.ValueOf(text))
		}
	case reflect.String:
		v.SetString(text)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(1)
	}
}

// hostileRow is a field that somebody else sets, and what is written there.
type hostileRow struct{ where, text string }

// What the author of a bundle, of a chart or of an image, or whoever may write to a registry, can set to any text, is shown as text.
func TestHostileSources(t *testing.T) {
	rows := []hostileRow{
		{"runtime description", `<script>alert("runtime description")</script>`},
		{"runtime licence", `<b onclick=alert(1)>runtime licence</b>`},
		{"runtime source", `javascript:alert("runtime source")`},
		{"runtime revision", `"><img src=x onerror=alert("runtime revision")>`},
		{"bundle description", `<svg onload=alert("bundle description")>` + strings.Repeat("long ", 200_000)},
		{"bundle licence", "\x1b[31mbundle licence\u202e"},
		{"bundle source", `data:text/html,<script>bundle source</script>`},
		{"maintainer", `<iframe src=//evil.example>maintainer`},
		{"support", `<form action=//evil.example>support`},
		{"release notes", "first\n<script>alert('release notes')</script>\u2066\n"},
		{"value description", `<a href='javascript:1'>value description</a>`},
		{"value default", `</td><script>value default</script>`},
		{"value allowed", `<img src=x onerror=1>value allowed`},
		{"chart key", `<script>chart key</script>`},
		{"chart default", `<style>*{display:none}</style>chart default`},
		{"manifest", `<script>manifest</script>`},
		{"config platform", `<script>config platform</script>`},
		{"index platform", "index\u202eplatform<script>"},
		{"predicate type", `https://krt.example/<script>predicate</script>`},
		{"scanner", `<script>scanner</script>`},
		{"vulnerability", `CVE-<script>vulnerability</script>`},
		{"package", `<img src=x onerror=1>package`},
		{"installed", `<b>installed</b>`},
		{"fixed", `<i>fixed</i>`},
		{"finding title", `javascript:finding title`},
		{"report image", `<script>report image</script>`},
		{"severity", `<script>critical</script>`},
		{"vex status", `<script>vex status</script>`},
		{"sbom licence", `<script>sbom licence</script>`},
		{"sbom component", `<script>sbom component</script>`},
		{"annotation", `<script>annotation</script>`},
		{"tag", `<script>tag</script>`},
		{"error of the registry", `<script>error of the registry</script>`},
	}
	at := map[string]string{}
	for _, row := range rows {
		at[row.where] = row.text
	}
	w := newWorld(t)
	dir := t.TempDir()
	encode := func(v any) string {
		data, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	type object = map[string]any
	quoted := func(text string) string {
		var out strings.Builder
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false) // ytt does not know what that writes
		if err := encoder.Encode(text); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	for _, version := range []string{"1.0.0", "1.1.0"} {
		changed := "before"
		if version == "1.1.0" {
			changed = at["manifest"]
		}
		w.write(dir, "runtime.yaml", encode(object{"apiVersion": "krtpkg.dev/v1alpha1", "kind": "Runtime", "spec": object{"bundles": []any{object{"path": "web"}}}, "metadata": object{
			"name": "edge", "version": version, "description": at["runtime description"], "licenses": at["runtime licence"], "source": at["runtime source"], "revision": at["runtime revision"],
		}}), "web/bundle.yaml", encode(object{"apiVersion": "krtpkg.dev/v1alpha1", "kind": "Bundle", "metadata": object{
			"name": "web", "version": version, "description": at["bundle description"], "licenses": at["bundle licence"], "source": at["bundle source"],
		}, "spec": object{
			"layer": 6, "maintainers": []any{object{"name": at["maintainer"]}}, "support": at["support"], "releaseNotes": at["release notes"],
			"sources": []any{object{"dir": "config", "template": "ytt"}, object{"dir": "chart", "template": "helm", "render": "target"}},
		}}), "web/config/schema.yaml", "#@data/values-schema\n---\n#@schema/desc "+quoted(at["value description"])+"\nplain: "+quoted(at["value default"])+"\n#@schema/validation one_of=[\"a\", "+quoted(at["value allowed"])+"]\nchoice: a\n",
			"web/config/web.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {text: "+quoted(changed)+"}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: one, image: ghcr.io/example/one:1.0}, {name: two, image: ghcr.io/example/two:1.0}, {name: three, image: ghcr.io/example/three:1.0}]}\n",
			"web/chart/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n", "web/chart/values.yaml", encode(object{at["chart key"]: at["chart default"]}),
			"web/chart/templates/web.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: chart}\n")
		if version == "1.0.0" {
			w.hostileImages(at)
		}
		root := w.build(dir, version)
		w.sign(root)
		w.attest(root, at["predicate type"], object{"x": 1})
		w.attest(root, typeVEX, object{"statements": []any{object{"vulnerability": object{"name": at["vulnerability"]}, "status": at["vex status"]}}})
		w.attest(root, "https://cyclonedx.org/bom", object{"components": []any{object{"name": at["sbom component"], "licenses": []any{object{"license": object{"name": at["sbom licence"]}}}}}})
		report := trivyReport(at["report image"], object{
			"VulnerabilityID": at["vulnerability"], "PkgName": at["package"], "InstalledVersion": at["installed"], "FixedVersion": at["fixed"], "Severity": at["severity"], "Title": at["finding title"],
		})
		report["scanner"].(object)["uri"] = at["scanner"]
		w.attest(root, typeVuln, report)
	}
	w.roots[1].Tags = append(w.roots[1].Tags, at["tag"])
	c, err := catalog.Collect(t.Context(), []catalog.Place{{Name: "registry.example/edge", Store: brokenStore{w.store, w.resolve("ghcr.io/example/three:1.0").Digest.String(), errors.New(at["error of the registry"])}, Roots: w.roots}}, catalog.Options{})
	if err == nil || !strings.Contains(err.Error(), "error of the registry") {
		t.Errorf("error %v", err)
	}
	files := writeSite(t, c)
	checkInert(t, files)
	checkLinks(t, files)
	checkIndex(t, files["search.js"])
	text := pageText(t, files)
	for _, row := range rows {
		shown := strings.TrimSpace(row.text)
		if len(shown) > 200 {
			shown = shown[:200]
		}
		lines := strings.Split(shown, "\n")
		for i, line := range lines {
			lines[i] = graph.CleanText(line)
		}
		switch shown = strings.Join(lines, "\n"); row.where {
		case "severity": // is one of five, whatever it says
			shown = "1 unknown"
		case "annotation": // is in catalog.json alone
			continue
		case "value default", "value allowed", "chart default": // as JSON
			encoded, err := json.Marshal(shown)
			if err != nil {
				t.Fatal(err)
			}
			shown = string(encoded)
		}
		if !strings.Contains(text, shown) {
			t.Errorf("%s: %q is not shown", row.where, shown)
		}
	}
	for name, data := range files {
		if path.Ext(name) == ".html" && len(data) > 100_000 {
			t.Errorf("%s has %d bytes", name, len(data))
		}
	}
}

// hostileImages pushes the images of the bundle, whose config and whose index say what rows say.
func (w *world) hostileImages(at map[string]string) {
	w.Helper()
	push := func(mediaType string, v any) map[string]any {
		data, err := json.Marshal(v)
		if err != nil {
			w.Fatal(err)
		}
		desc, err := pushBytes(w.Context(), w.store, mediaType, data)
		if err != nil {
			w.Fatal(err)
		}
		return map[string]any{"mediaType": mediaType, "digest": desc.Digest, "size": desc.Size}
	}
	const image, index = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
	config := push("application/vnd.oci.image.config.v1+json", map[string]any{"os": at["config platform"], "architecture": "amd64"})
	one := push(image, map[string]any{"schemaVersion": 2, "mediaType": image, "config": config, "layers": []any{}, "annotations": map[string]any{"x": at["annotation"]}})
	listed := push(image, map[string]any{"schemaVersion": 2, "mediaType": image, "config": config, "layers": []any{}})
	listed["platform"] = map[string]any{"os": at["index platform"], "architecture": "arm64"}
	two := push(index, map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": []any{listed}})
	for reference, desc := range map[string]map[string]any{"ghcr.io/example/one:1.0": one, "ghcr.io/example/two:1.0": two} {
		found, err := w.store.Resolve(w.Context(), desc["digest"].(digest.Digest).String())
		if err != nil {
			w.Fatal(err)
		}
		w.images.known[reference] = found
	}
}

// brokenStore fails to find an image, with an error that a registry wrote.
type brokenStore struct {
	catalog.Store
	digest string
	err    error
}

func (s brokenStore) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	if reference == s.digest {
		return ocispec.Descriptor{}, s.err
	}
	return s.Store.Resolve(ctx, reference)
}
