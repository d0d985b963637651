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
	"time"

	"krtpkg.dev/krtpkg/internal/browsertest"
	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
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
	const dns, issuer = "3-cluster-services/external-dns/external-dns", "4-security-and-observability/certificate-management/lets-encrypt"
	built := w.buildWhole(filepath.Join(workspace, "runtimes/enterprise"), "1.0.0", mirrors...)
	alone := func(definition string) *assemble.Built {
		t.Helper()
		made, err := w.make(filepath.Join(workspace, definition), mirrors...)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	edit(dns+"/bundle.yaml", `^( *)policy: upsert-only$`, "${1}policy: upsert-only\n${1}image: {tag: v0.23.0}\n${1}securityContext: {privileged: true, allowPrivilegeEscalation: true}")
	lock := w.repack(built.Content, "1.1.0", map[string]*assemble.Built{"external-dns": alone(dns)})
	edit(issuer+"/config/schema.yaml", `^ingressClass: contour$`, "ingressClass: public\n#@schema/desc \"Account at the authority\"\n#@schema/validation min_len=1\naccount: \"\"")
	w.repack(lock, "1.2.0", map[string]*assemble.Built{"lets-encrypt-issuer": alone(issuer), "guestbook": alone("6-applications/demo/hello/1.1.0")})
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

// repack makes a version of a runtime in which some bundles are others, without what it holds for controllers: to build
// that takes longer than all else.
func (w *world) repack(before *bundle.Content, version string, replaced map[string]*assemble.Built) *bundle.Content {
	w.Helper()
	lock := *before.Runtime
	lock.Metadata.Version = version
	lock.Bundles = slices.Clone(lock.Bundles)
	after := &bundle.Content{Runtime: &lock, Images: slices.Clone(before.Images)}
	for i, b := range lock.Bundles {
		by := replaced[b.Name]
		if by == nil {
			continue
		}
		delete(replaced, b.Name)
		m := by.Metadata()
		lock.Bundles[i] = bundle.LockedBundle{Name: m.Name, Version: m.Version, Layer: by.Bundle.Spec.Layer, Category: by.Bundle.Spec.Category, Digest: by.Descriptor.Digest.String()}
		for k, image := range after.Images {
			if image.Image.DigestStr() == b.Digest {
				moved := image.Image.Context().Digest(by.Descriptor.Digest.String())
				after.Images[k].Image, after.Images[k].Reference = moved, moved.Name()
			}
		}
	}
	if len(replaced) > 0 {
		w.Fatalf("not in the runtime: %v", slices.Collect(maps.Keys(replaced)))
	}
	desc, err := after.Pack(w.Context(), w.store, time.Time{})
	if err == nil {
		err = w.store.Tag(w.Context(), desc, version)
	}
	if err != nil {
		w.Fatal(err)
	}
	w.roots = append(w.roots, catalog.Root{Descriptor: desc, Tags: []string{version}})
	return after
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
	handler := catalog.NewHandler(http.NotFoundHandler())
	if err := handler.ShowCatalog(c); err != nil {
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
