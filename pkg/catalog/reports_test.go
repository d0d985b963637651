package catalog_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

const webImage = "ghcr.io/example/web:1.0"

// buildWeb builds a bundle of one image, which is signed.
func (w *world) buildWeb(bundle, version string) ocispec.Descriptor {
	w.Helper()
	dir := w.TempDir()
	w.write(dir, "bundle.yaml", fmt.Sprintf("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: %s, version: %s}\nspec: {layer: 6, sources: [{file: all.yaml}]}\n", bundle, version),
		"all.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: main, image: "+webImage+"}]}\n")
	root := w.build(dir, version)
	w.sign(root)
	return root
}

// as returns the world of another signer, which the policy does not trust.
func (w *world) as(signer *sign.Signer) *world {
	other := *w
	other.signer = signer
	return &other
}

var otherSigner = sync.OnceValues(func() (*sign.Signer, error) {
	passphrase := []byte("battery staple")
	private, _, err := sign.GenerateKeyPair(passphrase)
	if err != nil {
		return nil, err
	}
	return sign.LoadSigner(private, func() ([]byte, error) { return passphrase, nil })
})

// findingsOf returns what versions say of findings, by their ids.
func findingsOf(reports []result.CatalogReport) map[string]result.CatalogFinding {
	all := map[string]result.CatalogFinding{}
	for _, report := range reports {
		for _, f := range report.Findings {
			all[f.ID] = f
		}
	}
	return all
}

// What somebody else attaches neither takes the place of what trusted signers say, nor looks like it.
func TestUntrustedAttestations(t *testing.T) {
	w := newWorld(t)
	signer, err := otherSigner()
	if err != nil {
		t.Fatal(err)
	}
	other := w.as(signer)
	root := w.buildWeb("web", "1.0.0")
	image := w.resolve(webImage)
	type object = map[string]any
	finding := func(id, pkg string) object {
		return object{"VulnerabilityID": id, "PkgName": pkg, "InstalledVersion": "3.0.1", "Severity": "HIGH"}
	}
	report := trivyReport(webImage, finding("CVE-1", "openssl"), finding("CVE-2", "openssl"), finding("CVE-3", "openssl"), finding("CVE-4", "openssl"), finding("CVE-5", "openssl"), finding("CVE-6", "openssl"))
	statement := func(id, status string, products ...any) object {
		s := object{"vulnerability": object{"name": id}, "status": status}
		if len(products) > 0 {
			s["products"] = products
		}
		return s
	}
	product := func(d digest.Digest) object {
		return object{"@id": "pkg:oci/web@" + strings.Replace(d.String(), ":", "%3A", 1) + "?repository_url=ghcr.io/example/web"}
	}
	elsewhere := digest.FromString("another image")
	w.attest(root, typeVuln, trivyReport(webImage, finding("CVE-7", "zlib")))
	w.attest(image, typeVuln, report)
	within := product(image.Digest)
	within["subcomponents"] = []any{object{"@id": "pkg:deb/debian/openssl@3.0.1?arch=amd64"}}
	beside := product(image.Digest)
	beside["subcomponents"] = []any{object{"@id": "pkg:deb/debian/zlib"}}
	w.attest(root, typeVEX, object{"statements": []any{
		statement("CVE-1", "affected"), statement("CVE-2", "affected", product(image.Digest)), statement("CVE-3", "fixed", product(elsewhere)),
		statement("CVE-4", "affected", within), statement("CVE-5", "fixed", beside),
	}})
	for i := range 6 { // in some order
		other.attest(root, typeVuln, trivyReport(webImage, finding("CVE-7", "zlib")))
		other.attest(root, typeVEX, object{"x": i, "statements": []any{statement("CVE-1", "not_affected"), statement("CVE-2", "not_affected", product(image.Digest)), statement("CVE-6", "not_affected", object{"hashes": object{"sha-256": image.Digest.Encoded()}})}})
	}
	c := w.collect(w.policy)
	v := c.Runtimes[0].Versions[0]
	found := findingsOf(v.Reports)
	for id, want := range map[string]string{"CVE-1": "affected true", "CVE-2": "affected true", "CVE-3": " false", "CVE-4": "affected true", "CVE-5": " false", "CVE-6": "not_affected false", "CVE-7": " false"} {
		if f := found[id]; fmt.Sprint(f.Status, " ", f.StatusVerified) != want {
			t.Errorf("%s: %q, verified: %t, want %s", id, f.Status, f.StatusVerified, want)
		}
	}
	for _, r := range v.Reports {
		if r.Subject == "" && (!r.Verified || r.Problem != "") {
			t.Errorf("the report of a trusted signer is by %s, verified: %t, %s", r.By, r.Verified, r.Problem)
		}
	}
	page := string(writeSite(t, c)["runtimes/web/1.0.0.vulnerabilities.html"])
	if !strings.Contains(page, "<strong>not_affected</strong>, claimed by <") || !strings.Contains(page, "<strong>affected</strong>, attested by <") {
		t.Errorf("the page does not tell claims from what was verified:\n%s", page)
	}
}

// A report that cannot be read says nothing, and above all not that there is nothing.
func TestUnreadReports(t *testing.T) {
	w := newWorld(t)
	w.attest(w.buildWeb("web", "1.0.0"), typeVuln, map[string]any{"scanner": map[string]any{"uri": "x", "result": nil}})
	w.attest(w.buildWeb("web", "1.1.0"), typeVuln, map[string]any{"scanner": map[string]any{"uri": "x", "result": "all is well"}})
	files := writeSite(t, w.collect(nil))
	if index := string(files["index.html"]); strings.Contains(index, "none reported") || strings.Count(index, "1 report not readable") != 2 {
		t.Errorf("the first page takes reports for clean that cannot be read:\n%s", index)
	}
	for _, version := range []string{"1.0.0", "1.1.0"} {
		if page := string(files["runtimes/web/"+version+".vulnerabilities.html"]); strings.Contains(page, "list none") || !strings.Contains(page, "1 report not readable") {
			t.Errorf("%s: the page takes a report for clean that cannot be read", version)
		}
		if page := string(files["runtimes/web/"+version+".html"]); !strings.Contains(page, "1 report not readable") {
			t.Errorf("%s: the page of the version does not say that a report cannot be read", version)
		}
	}
}

// However much somebody attaches, pages keep a part of it, count all of it, and say so.
func TestFloods(t *testing.T) {
	w := newWorld(t)
	root := w.buildWeb("web", "1.0.0")
	w.attest(root, typeVuln, trivyReport("", make([]map[string]any, 25_000)...))
	var components []any
	for i := range 1100 {
		components = append(components, map[string]any{"name": fmt.Sprint("part-", i), "licenses": []any{map[string]any{"expression": fmt.Sprint("LicenseRef-", i)}}})
	}
	w.attest(root, "https://cyclonedx.org/bom", map[string]any{"components": components})
	image := w.resolve(webImage)
	opts := sign.SignOptions{Signer: w.signer, Annotations: map[string]string{"note": strings.Repeat("long ", 1000)}}
	if _, err := sign.Sign(t.Context(), w.store, image, opts); err != nil {
		t.Fatal(err)
	}
	c := w.collect(nil)
	report := c.Runtimes[0].Versions[0].Reports[0]
	if report.UnknownCount != 25_000 || len(report.Findings) != 20_000 || report.Problem != "only the first 20000 of its 25000 findings are shown" {
		t.Errorf("%d findings of %d: %q", len(report.Findings), report.UnknownCount, report.Problem)
	}
	if all := c.Runtimes[0].Versions[0].Licenses; len(all) != 1001 || all[1000].License != "101 further licences" || all[1000].Count != 101 {
		t.Errorf("%d licences, the last is %+v", len(all), all[len(all)-1])
	}
	for _, claim := range c.Runtimes[0].Images[0].Attached {
		if claim.Annotations != nil {
			t.Errorf("annotations of %d bytes are kept of what is attached to an image", len(fmt.Sprint(claim.Annotations)))
		}
	}
	if index := string(writeSite(t, c)["index.html"]); !strings.Contains(index, "25000 unknown") || strings.Contains(index, "not readable") {
		t.Error("the first page does not count all findings")
	}
}

// An index lists as many manifests as images have: each is a request.
func TestLongIndex(t *testing.T) {
	w := newWorld(t)
	list := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	list.SchemaVersion = 2
	for i := range 1001 {
		list.Manifests = append(list.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
	}
	w.pushImage(webImage, list)
	w.buildWeb("web", "1.0.0")
	c, err := catalog.Collect(t.Context(), []catalog.Place{{Name: "oci:dist", Store: w.store, Roots: w.roots}}, catalog.Options{})
	if err == nil || !strings.Contains(err.Error(), "more than 1000 manifests") || c.Runtimes[0].Images[0].Problem == "" {
		t.Errorf("error %v", err)
	}
}

// pushImage makes an index the image of a reference.
func (w *world) pushImage(reference string, list ocispec.Index) {
	w.Helper()
	data, err := json.Marshal(list)
	if err != nil {
		w.Fatal(err)
	}
	desc, err := pushBytes(w.Context(), w.store, list.MediaType, data)
	if err != nil {
		w.Fatal(err)
	}
	ref, err := name.ParseReference(reference)
	if err != nil {
		w.Fatal(err)
	}
	w.images.known[ref.Name()] = desc
}

// An image that is too much to read is so in every version that has it.
func TestImageBeyondLimit(t *testing.T) {
	w := newWorld(t)
	w.buildWeb("web", "1.0.0")
	w.buildWeb("web", "1.1.0")
	image := w.resolve(webImage).Digest.String()
	store := brokenStore{w.store, image, fmt.Errorf("the image: %w", oci.ErrTooLarge)}
	c, err := catalog.Collect(t.Context(), []catalog.Place{{Name: "oci:dist", Store: store, Roots: w.roots}}, catalog.Options{})
	if err == nil {
		t.Error("no error")
	}
	files := writeSite(t, c)
	for _, version := range []string{"1.0.0", "1.1.0"} {
		if page := string(files["runtimes/web/"+version+".html"]); !strings.Contains(page, "the image: ") || strings.Contains(page, "has an error") {
			t.Errorf("the page of %s does not say that its image was not read", version)
		}
	}
}

// A channel that the policy does not follow is not shown as accepted.
func TestStaleTags(t *testing.T) {
	w := newWorld(t)
	w.buildWeb("web", "1.0.0")
	w.roots[0].Tags = append(w.roots[0].Tags, "stable")
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := key.public.PEM()
	if err != nil {
		t.Fatal(err)
	}
	policy, err := trust.ParsePolicy("trust.yaml", []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: TrustPolicy\nauthorities: [{name: release, key: release.pub}]\nrules:\n- match: ['**']\n  channels: {stale: refuse}\n"),
		func(string) ([]byte, error) { return encoded, nil })
	if err != nil {
		t.Fatal(err)
	}
	c := w.collect(policy)
	if got := c.Runtimes[0].Versions[0].Verdict; !got.Accepted || len(got.StaleTags) != 1 || got.StaleTags[0].Tag != "stable" || !got.StaleTags[0].Refused {
		t.Errorf("%+v", got)
	}
	files := writeSite(t, c)
	for _, page := range []string{"index.html", "runtimes/web/1.0.0.html"} {
		if !strings.Contains(string(files[page]), `stable <span class="tag critical">refused</span>`) {
			t.Errorf("%s does not say that the policy refuses the channel", page)
		}
	}
	if !strings.Contains(string(files["runtimes/web/1.0.0.html"]), "The policy refuses to follow the tag stable: channel stable is stale: no trusted signer") {
		t.Error("the page of the version does not say why")
	}
}

// The older tags of a place are counted once, and its runtimes are in order.
func TestOlderTags(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"c", "a", "b"} {
		w.buildWeb(name, "1.0.0")
	}
	for range 3 {
		c, err := catalog.Collect(t.Context(), []catalog.Place{{Name: "oci:dist", Store: w.store, Roots: w.roots, OlderCount: 5}}, catalog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if index := string(writeSite(t, c)["index.html"]); strings.Count(index, "5 older tags") != 1 || c.Runtimes[0].OlderCount != 5 {
			t.Errorf("%d runtimes have 5 older tags, the first has %d", strings.Count(index, "5 older tags"), c.Runtimes[0].OlderCount)
		}
	}
}

// No version is called as another file of a version is.
func TestPagesOfSimilarNames(t *testing.T) {
	r := result.CatalogRuntime{Name: "edge"}
	for i, version := range []string{"1.2.0-a", "1.2.0-a.changes", "1.2.0-a.vulnerabilities", "1.2.0-a.cdx", "1.2.0-A"} {
		v := result.CatalogVersion{Changes: &result.CatalogChanges{Problem: "x"}, Reports: []result.CatalogReport{{}}, SBOM: json.RawMessage("{}")}
		v.Name, v.Version, v.Digest = "edge", version, fmt.Sprintf("sha256:%064x", i)
		r.Versions = append(r.Versions, v)
	}
	if got := len(writeSite(t, &result.Catalog{Runtimes: []result.CatalogRuntime{r}})); got != 5+5*4 {
		t.Errorf("%d files", got)
	}
}
