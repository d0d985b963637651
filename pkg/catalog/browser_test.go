package catalog_test

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/browsertest"
	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/result"
)

var update = flag.Bool("update", false, "take the pictures in docs again")

// enterprise builds three versions of the enterprise runtime, with signatures and reports. Only the bundles that change are
// built again.
func enterprise(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	workspace, mirrors := bundletest.CopyDefinitions(t), bundletest.CorpusMirrors(t)
	edit := func(name, pattern, replacement string) {
		t.Helper()
		name = filepath.Join(workspace, name)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		matcher := regexp.MustCompile("(?m)" + pattern)
		if !matcher.Match(data) {
			t.Fatalf("%s does not have %q", name, pattern)
		}
		w.write(filepath.Dir(name), filepath.Base(name), matcher.ReplaceAllString(string(data), replacement))
	}
	const runtime = "runtimes/enterprise/runtime.yaml"
	const dns, issuer = "3-cluster-services/external-dns/external-dns", "4-security-and-observability/certificate-management/lets-encrypt"
	built := w.buildWhole(filepath.Join(workspace, "runtimes/enterprise"), "1.0.0", mirrors...)
	text, err := os.ReadFile(filepath.Join(workspace, runtime))
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, b := range built.Bundles {
		name := b.Metadata().Name
		path := regexp.MustCompile(`(?m)path: .*/` + name + `$`)
		if name != "external-dns" && name != "lets-encrypt" && name != "guestbook" && path.Match(text) {
			kept++
			text = path.ReplaceAll(text, []byte("ref: oci:dist@"+b.Descriptor.Digest.String()))
		}
	}
	if kept < len(built.Bundles)/2 {
		t.Errorf("%d of %d bundles are built again", len(built.Bundles)-kept, len(built.Bundles))
	}
	w.write(filepath.Dir(filepath.Join(workspace, runtime)), "runtime.yaml", string(text))
	edit(dns+"/bundle.yaml", `^( *)policy: upsert-only$`, "${1}policy: upsert-only\n${1}image: {tag: v0.23.0}\n${1}securityContext: {privileged: true, allowPrivilegeEscalation: true}")
	edit(runtime, `^  version: .*$`, "  version: 1.1.0")
	w.build(filepath.Join(workspace, "runtimes/enterprise"), "1.1.0", mirrors...)
	edit(runtime, `demo/guestbook$`, "demo/hello/1.1.0")
	edit(issuer+"/config/schema.yaml", `^ingressClass: contour$`, "ingressClass: public\n#@schema/desc \"Account at the authority\"\n#@schema/validation min_len=1\naccount: \"\"")
	edit(runtime, `^  version: .*$`, "  version: 1.2.0")
	w.build(filepath.Join(workspace, "runtimes/enterprise"), "1.2.0", mirrors...)
	for _, root := range w.roots {
		w.sign(root.Descriptor)
		w.attest(root.Descriptor, typeVEX, map[string]any{"statements": []any{map[string]any{"vulnerability": map[string]any{"name": "CVE-2026-31337"}, "status": "not_affected", "justification": "vulnerable_code_not_in_execute_path"}}})
		w.attest(root.Descriptor, "https://krt.example/tests/v1", map[string]any{"failed": 0})
	}
	// What scanners found in some images.
	for i, reference := range slices.Sorted(maps.Keys(w.images.known)) {
		if i%4 != 0 || strings.Contains(reference, "@") {
			continue
		}
		var findings []map[string]any
		for k, severity := range []string{"CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN"}[i%3:] {
			findings = append(findings, map[string]any{"VulnerabilityID": fmt.Sprintf("CVE-2026-%d", 31337+k*7), "PkgName": "openssl", "InstalledVersion": "3.0.1", "FixedVersion": "3.0.2", "Severity": severity, "Title": "A message that is not checked leads to memory of others being read"})
		}
		w.attest(w.images.known[reference], typeVuln, trivyReport("", findings...))
	}
	return w
}

// The pages of the enterprise runtime in three versions, in a browser: from files, and served.
func TestEnterpriseInBrowser(t *testing.T) {
	t.Parallel()
	w := enterprise(t)
	c := w.collect(w.policy)
	site := t.TempDir()
	files := writeSite(t, c)
	checkLinks(t, files)
	checkInert(t, files)
	var status strings.Builder
	if err := catalog.WriteStatus(&status, clusterState()); err != nil {
		t.Fatal(err)
	}
	files["status.html"] = []byte(status.String())
	for name, data := range files {
		w.write(site, name, string(data))
	}
	handler, err := catalog.NewHandler(c, http.NotFoundHandler())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	at := func(name string) string { return "file://" + site + "/" + name }
	newest := c.Runtimes[0].Versions[0]
	pages := []string{at("index.html"), server.URL + "/", at("status.html")}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasPrefix(name, "runtimes/enterprise/1.") && strings.HasSuffix(name, ".html") && (strings.Contains(name, "/1.2.0") || strings.HasSuffix(name, "/1.0.0.html")) {
			pages = append(pages, at(name))
		}
	}
	pages = append(pages, at(longestBundle(c, files)))
	image := newest.Bundles[len(newest.Bundles)-1].Images[0].Digest
	job := browsertest.Job{Pages: pages, Widths: []int{360, 768, 1440}, Searches: []browsertest.Search{
		{Page: at("index.html"), Query: "external-dns"}, {Page: at("runtimes/enterprise/1.2.0.html"), Query: image}, {Page: at("index.html"), Query: "CVE-2026-31337"}, {Page: server.URL + "/", Query: "no such thing"},
	}}
	if *update {
		docs, err := filepath.Abs("../../docs")
		if err != nil {
			t.Fatal(err)
		}
		job.Shots = []browsertest.Shot{
			{Page: at("runtimes/enterprise/1.2.0.html"), File: filepath.Join(docs, "catalog-version.png"), Width: 1280, Height: 1000},
			{Page: at("runtimes/enterprise/1.2.0.vulnerabilities.html"), File: filepath.Join(docs, "catalog-phone.png"), Width: 360, Height: 720, Dark: true},
		}
	}
	report := browsertest.Visit(t, job)
	for what, found := range map[string][]string{"console": report.Console, "layout": report.Layout, "axe": report.Violations} {
		for _, fault := range found {
			t.Errorf("%s: %s", what, fault)
		}
	}
	for _, url := range report.Requests {
		if !strings.HasPrefix(url, at("")) && !strings.HasPrefix(url, server.URL+"/") && url != "data:," && !strings.HasPrefix(url, "data:image/svg+xml;base64,") {
			t.Errorf("a page asked for %.200s", url)
		}
	}
	if len(report.Requests) < len(pages) || report.Rules < 15 {
		t.Errorf("%d requests, and %d rules of axe passed", len(report.Requests), report.Rules)
	}
	for i, want := range []string{"/bundles/external-dns-", "#image-" + strings.TrimPrefix(image, "sha256:"), ".vulnerabilities.html#CVE-2026-31337", ""} {
		hits := report.Hits[i]
		if want == "" && len(hits) > 0 || want != "" && (len(hits) == 0 || !strings.Contains(hits[0].Link, want)) {
			t.Errorf("search for %q: %+v", job.Searches[i].Query, hits)
		}
	}
}

// longestBundle returns the page of the bundle with the most values.
func longestBundle(c *result.Catalog, files map[string][]byte) (longest string) {
	most := 0
	for _, b := range c.Runtimes[0].Bundles {
		if len(b.Values) < most {
			continue
		}
		for name := range files {
			if strings.HasPrefix(name, "runtimes/enterprise/bundles/"+b.Metadata.Name+"-"+b.Metadata.Version+"-") {
				most, longest = len(b.Values), name
			}
		}
	}
	return longest
}
