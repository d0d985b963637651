package catalog_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/result"
)

// small builds three versions of a runtime of two bundles: with values, reports, and changes.
func small(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	dir := t.TempDir()
	const runtime = "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: edge, version: VERSION, description: What runs at the edge}\nspec: {bundles: [{path: web}, {path: base}]}\n"
	const web = `apiVersion: krtpkg.dev/v1alpha1
kind: Bundle
metadata: {name: web, version: VERSION, description: A web server, licenses: MIT, source: "https://krt.example/web"}
spec:
  layer: 6
  category: demo
  requires: [namespace]
  maintainers: [{name: The Web Team}]
  support: Ask the web team.
  releaseNotes: |
    First line.
    Second line.
  icon: <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path fill="#0969da" d="M0 0h8v8H0z"/></svg>
  files: [{path: firmware.bin}]
  sources: [{dir: config, template: ytt}]
`
	w.write(dir, "base/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: base, version: 1.0.0, licenses: Apache-2.0}\nspec: {layer: 1, provides: [namespace], sources: [{file: all.yaml}]}\n",
		"web/firmware.bin", "what a device runs", "base/all.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n",
		"web/config/schema.yaml", "#@data/values-schema\n---\n#@schema/desc \"How many run at once\"\nreplicas: 2\n#@schema/validation min_len=1\nhost: ''\n")
	for i, version := range []string{"1.0.0", "1.1.0", "1.10.0"} {
		w.write(dir, "runtime.yaml", strings.ReplaceAll(runtime, "VERSION", version), "web/bundle.yaml", strings.ReplaceAll(web, "VERSION", version),
			"web/config/web.yaml", fmt.Sprintf("#@ load(\"@ytt:data\", \"data\")\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: web}\nspec:\n  replicas: #@ data.values.replicas\n"+
				"  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: main, image: ghcr.io/example/web:1.%d}]}\n", i))
		root := w.build(dir, version)
		if i == 2 {
			continue // the newest is not signed
		}
		w.sign(root)
		w.attest(root, typeVEX, map[string]any{"statements": []any{map[string]any{"vulnerability": map[string]any{"name": "CVE-2026-0002"}, "status": "not_affected", "justification": "code_not_present"}}})
		w.attest(w.resolve(fmt.Sprintf("ghcr.io/example/web:1.%d", i)), typeVuln, trivyReport("ghcr.io/example/web:1.0",
			map[string]any{"VulnerabilityID": "CVE-2026-0002", "PkgName": "zlib", "InstalledVersion": "1.2", "Severity": "HIGH", "Title": "An overflow"},
			map[string]any{"VulnerabilityID": "CVE-2026-0001", "PkgName": "openssl", "InstalledVersion": "3.0.1", "FixedVersion": "3.0.2", "Severity": "CRITICAL", "Title": "It leaks"}))
	}
	return w
}

func TestPages(t *testing.T) {
	w := small(t)
	c := w.collect(w.policy)
	files := writeSite(t, c)
	checkLinks(t, files)
	checkInert(t, files)
	version := string(files["runtimes/edge/1.1.0.html"])
	for _, told := range []string{
		"What runs at the edge", "registry.example/krt/edge", "Accepted by the policy", "not_affected", "1 critical", "1 high", "linux/amd64",
		"ghcr.io/example/web:1.1", "Since <a", "krtpkg verify --key cosign.pub registry.example/krt/edge:1.1.0@sha256:", "A site that has 1.0.0 gets", "Apache-2.0", `<a href="../../runtimes/edge/bundles/web-1.1.0-`,
	} {
		if !strings.Contains(version+string(files["runtimes/edge/1.1.0.vulnerabilities.html"]), told) {
			t.Errorf("the page of 1.1.0 does not tell of %q", told)
		}
	}
	if !bytes.Contains(files["runtimes/edge/1.10.0.html"], []byte("Refused by the policy")) {
		t.Error("1.10.0 has no signature, and is not refused")
	}
	if !bytes.Contains(files["runtimes/edge/1.1.0.changes.html"], []byte("ghcr.io/example/web:1.0 → ghcr.io/example/web:1.1")) {
		t.Errorf("changes:\n%s", files["runtimes/edge/1.1.0.changes.html"])
	}
	var bundlePage string
	for name, data := range files {
		if strings.HasPrefix(name, "runtimes/edge/bundles/web-1.1.0-") {
			bundlePage = string(data)
		}
	}
	for _, told := range []string{"The Web Team", "Ask the web team.", "Second line.", "How many run at once", "must be set", "firmware.bin", `<img class="icon" src="data:image/svg&#43;xml;base64,`} {
		if !strings.Contains(bundlePage, told) {
			t.Errorf("the page of the bundle does not tell of %q", told)
		}
	}
	versions := c.Runtimes[0].Versions
	if len(c.Runtimes) != 1 || len(versions) != 3 || versions[0].Version != "1.10.0" || versions[1].Changes.From != "1.0.0" {
		t.Fatalf("%d runtimes, versions %+v", len(c.Runtimes), versions)
	}
	carry := versions[1].Changes.Carry
	if carry == nil || carry.CopiedBytes <= 0 || carry.CopiedBytes >= carry.Bytes || *versions[1].Graph.Bytes != carry.Bytes {
		t.Errorf("carries %+v of %d", carry, *versions[1].Graph.Bytes)
	}
	if got := versions[1].Licenses; len(got) != 2 || got[0].Count != 1 || got[0].License != "Apache-2.0" {
		t.Errorf("licences %+v", got)
	}
	if r := versions[1].Reports; len(r) != 1 || r[0].CriticalCount != 1 || r[0].Findings[0].ID != "CVE-2026-0001" || r[0].Time.Day() != 1 || r[0].Verified {
		t.Errorf("reports %+v", r)
	}
	if !bytes.HasPrefix(files["runtimes/edge/1.1.0.cdx.json"], []byte("{")) {
		t.Error("the bill of materials is not there")
	}
}

// A version has the fields that inspect prints, and the same document gives the same pages wherever it was read.
func TestDocument(t *testing.T) {
	w := small(t)
	c := w.collect(nil)
	again := w.collect(nil)
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var read result.Catalog
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	for k := range read.Runtimes[0].Versions {
		read.Runtimes[0].Versions[k].SBOM = c.Runtimes[0].Versions[k].SBOM
	}
	files := writeSite(t, c)
	for what, other := range map[string]map[string][]byte{"read again": writeSite(t, again), "decoded": writeSite(t, &read)} {
		if !maps.EqualFunc(files, other, bytes.Equal) {
			t.Errorf("%s: the pages are others", what)
		}
	}
	if !bytes.Contains(files["index.html"], []byte("No trust policy was given")) {
		t.Error("the first page does not say that nothing was verified")
	}
	var view result.Inspect
	one, err := json.Marshal(c.Runtimes[0].Versions[0])
	if err == nil {
		err = json.Unmarshal(one, &view)
	}
	if err != nil || view.Name != "edge" || len(view.Bundles) != 2 || view.Digest != c.Runtimes[0].Versions[0].Digest {
		t.Errorf("%v, as a result of inspect: %+v", err, view)
	}
}

// What cannot be read of a place is on its pages, and an error.
func TestDamagedVersion(t *testing.T) {
	w := small(t)
	lost := w.collect(nil).Runtimes[0].Versions[1].Bundles[0].Digest // of all versions
	for _, v := range w.collect(nil).Runtimes[0].Versions[1].Bundles {
		if v.Name == "web" {
			lost = v.Digest
		}
	}
	desc, err := w.store.Resolve(t.Context(), lost)
	if err == nil {
		err = w.store.Remove(t.Context(), desc.Digest)
	}
	if err != nil {
		t.Fatal(err)
	}
	var reported []string
	c, err := catalog.Collect(t.Context(), []catalog.Place{{Name: "oci:dist", Store: w.store, Roots: w.roots}}, catalog.Options{
		Report: func(reference string, err error) { reported = append(reported, reference) },
	})
	if err == nil || len(reported) != 1 || !strings.HasPrefix(reported[0], "oci:dist:1.1.0@sha256:") {
		t.Fatalf("error %v, reported %q", err, reported)
	}
	files := writeSite(t, c)
	checkLinks(t, files)
	if !slices.ContainsFunc(slices.Collect(maps.Values(files)), func(data []byte) bool {
		return bytes.Contains(data, []byte("Something is wrong with it: "))
	}) {
		t.Error("no page says that a version cannot be read")
	}
	// Those next to it are compared with each other.
	if got := c.Runtimes[0].Versions[0].Changes; got == nil || got.From != "1.0.0" {
		t.Errorf("changes of 1.10.0: %+v", got)
	}
}

// A tag that lies is told of, next to all else of its version.
func TestRenamedTag(t *testing.T) {
	w := small(t)
	w.roots[2].Tags = []string{"9.9.9"}
	place := []catalog.Place{{Name: "oci:dist", Store: w.store, Roots: w.roots}}
	c, err := catalog.Collect(t.Context(), place, catalog.Options{})
	if v := c.Runtimes[0].Versions[0]; err == nil || v.Error == nil || !strings.Contains(v.Error.Message, "9.9.9") || v.Graph == nil || v.Changes == nil {
		t.Errorf("error %v, of %+v", err, v.Error)
	}
	if _, err := catalog.Collect(t.Context(), place, catalog.Options{AllowRenamedTags: true}); err != nil {
		t.Error(err)
	}
}

func TestListRoots(t *testing.T) {
	w := small(t)
	stable := w.roots[0].Descriptor
	if err := w.store.Tag(t.Context(), stable, "stable"); err != nil {
		t.Fatal(err)
	}
	roots, older, err := catalog.ListRoots(t.Context(), w.store, 2)
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, root := range roots {
		tags = append(tags, strings.Join(root.Tags, "+"))
	}
	if got := strings.Join(tags, " "); got != "1.10.0 1.1.0 stable" || older != 1 {
		t.Errorf("%s, %d older", got, older)
	}
}

// Pages are served with a policy that a page's own element cannot state, and nothing of the registry runs in a browser.
func TestHandler(t *testing.T) {
	w := small(t)
	registry := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "registry "+r.URL.Path) })
	handler := catalog.NewHandler(registry)
	get := func(method, target, tag string) *http.Response {
		r := httptest.NewRequest(method, target, nil)
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, r)
		return recorder.Result()
	}
	// The registry does not wait for the pages.
	for target, status := range map[string]int{"/": 503, "/catalog.json": 503, "/v2/": 200} {
		got := get("GET", target, "")
		var body bytes.Buffer
		body.ReadFrom(got.Body)
		if got.StatusCode != status || status == 503 && (got.Header.Get("Retry-After") == "" || !strings.Contains(body.String(), "being made") || got.Header.Get("ETag") != "") {
			t.Errorf("before the pages are made: %s: %d %v\n%s", target, got.StatusCode, got.Header, &body)
		}
		if isPage := status == 503; isPage != strings.Contains(got.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("before the pages are made: %s: %v", target, got.Header)
		}
	}
	if got := get("POST", "/", ""); got.StatusCode != 405 {
		t.Errorf("before the pages are made: POST: %d", got.StatusCode)
	}
	if err := handler.ShowCatalog(w.collect(w.policy)); err != nil {
		t.Fatal(err)
	}
	first := get("GET", "/", "")
	for _, row := range []struct {
		method, target, tag string
		status              int
		mediaType, body     string
	}{
		{"GET", "/", "", 200, "text/html; charset=utf-8", "<!DOCTYPE html>"},
		{"GET", "/runtimes/edge/1.1.0.html", "", 200, "text/html; charset=utf-8", "<!DOCTYPE html>"},
		{"GET", "/catalog.js", "", 200, "text/javascript; charset=utf-8", "//"},
		{"GET", "/catalog.json", "", 200, "application/json", "{"},
		{"HEAD", "/catalog.css", "", 200, "text/css; charset=utf-8", ""},
		{"GET", "/", first.Header.Get("ETag"), 304, "", ""},
		{"GET", "/../catalog.json", "", 404, "text/plain; charset=utf-8", "no such page"},
		{"GET", "/v2x", "", 404, "text/plain; charset=utf-8", "no such page"},
		{"POST", "/", "", 405, "text/plain; charset=utf-8", "pages"},
		{"GET", "/v2/", "", 200, "", "registry /v2/"},
		{"GET", "/v2/edge/manifests/1.0.0", "", 200, "", "registry /v2/edge/manifests/1.0.0"},
	} {
		got := get(row.method, row.target, row.tag)
		var body bytes.Buffer
		body.ReadFrom(got.Body)
		if got.StatusCode != row.status || row.mediaType != "" && got.Header.Get("Content-Type") != row.mediaType || !strings.HasPrefix(body.String(), row.body) {
			t.Errorf("%s %s: %d, %s, %.40s", row.method, row.target, got.StatusCode, got.Header.Get("Content-Type"), &body)
		}
		policy := got.Header.Get("Content-Security-Policy")
		isPage := !strings.HasPrefix(row.target, "/v2/")
		if !strings.Contains(policy, "default-src 'none'") || isPage != strings.Contains(policy, "frame-ancestors 'none'") || isPage == strings.Contains(policy, "sandbox") || got.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: policy %q", row.target, policy)
		}
	}
}
