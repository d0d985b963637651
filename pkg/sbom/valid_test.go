package sbom_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
)

// schema is CycloneDX's own, from the library's module.
func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	for url, file := range map[string]string{
		"bom-1.6.schema.json":  "bom-1.6.schema.json",
		"spdx.schema.json":     "spdx.schema.json",
		"jsf-0.82.schema.json": "jsf-0.82.schemax.json", // as it is called there
	} {
		data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("http://cyclonedx.org/schema/"+url, document); err != nil {
			t.Fatal(err)
		}
	}
	compiled, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// validCycloneDX holds a document against the schema, and its references against what is there.
func validCycloneDX(t *testing.T, data []byte) {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema(t).Validate(document); err != nil {
		t.Errorf("%v", err)
	}
	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(data), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	refs := []string{bom.Metadata.Component.BOMRef}
	for _, c := range *bom.Components {
		if slices.Contains(refs, c.BOMRef) {
			t.Errorf("%s", c.BOMRef)
		}
		refs = append(refs, c.BOMRef)
	}
	reached := []string{bom.Metadata.Component.BOMRef}
	for _, d := range *bom.Dependencies {
		if !slices.Contains(refs, d.Ref) {
			t.Errorf("%s is not there", d.Ref)
		}
		if d.Dependencies != nil {
			for _, on := range *d.Dependencies {
				if !slices.Contains(refs, on) {
					t.Errorf("%s depends on %s, which is not there", d.Ref, on)
				}
				reached = append(reached, on)
			}
		}
	}
	for _, ref := range refs {
		if !slices.Contains(reached, ref) {
			t.Errorf("nothing depends on %s", ref)
		}
	}
	if len(*bom.Dependencies) != len(refs) {
		t.Errorf("%d dependencies of %d components", len(*bom.Dependencies), len(refs))
	}
}

var (
	spdxID       = regexp.MustCompile(`^[A-Za-z0-9.-]+$`)
	hexSHA256    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	downloadFrom = regexp.MustCompile(`^(NOASSERTION|(git\+)?(https|ssh)://[^\s]+)$`)
	licenceRef   = regexp.MustCompile(`LicenseRef-[A-Za-z0-9.-]+`)
)

// validSPDX reads a document back and holds it against the rules of SPDX 2.3 (clauses 6, 7, 10
// and 11): what is mandatory, how identifiers look, and that each one that is used is defined.
func validSPDX(t *testing.T, data []byte) {
	t.Helper()
	doc, err := spdxjson.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if doc.SPDXVersion != "SPDX-2.3" || doc.DataLicense != "CC0-1.0" || doc.SPDXIdentifier != "DOCUMENT" || doc.DocumentName == "" {
		t.Errorf("head %q %q %q %q", doc.SPDXVersion, doc.DataLicense, doc.SPDXIdentifier, doc.DocumentName)
	}
	if ns := doc.DocumentNamespace; !strings.HasPrefix(ns, "https://krtpkg.dev/spdx/") || strings.ContainsAny(ns, "# \n\"") {
		t.Errorf("namespace %q", ns)
	}
	if _, err := time.Parse("2006-01-02T15:04:05Z", doc.CreationInfo.Created); err != nil || len(doc.CreationInfo.Creators) == 0 {
		t.Errorf("creation %+v: %v", doc.CreationInfo, err)
	}
	var defined []string
	for _, l := range doc.OtherLicenses {
		if l.ExtractedText == "" || slices.Contains(defined, l.LicenseIdentifier) {
			t.Errorf("licence %+v", l)
		}
		defined = append(defined, l.LicenseIdentifier)
	}
	ids := []string{"DOCUMENT"}
	for _, p := range doc.Packages {
		id := string(p.PackageSPDXIdentifier)
		if slices.Contains(ids, id) || !spdxID.MatchString(id) {
			t.Errorf("identifier %q", id)
		}
		ids = append(ids, id)
		checkPackage(t, p, defined)
	}
	checkRelationships(t, doc, ids)
}

func checkPackage(t *testing.T, p *spdx.Package, licences []string) {
	t.Helper()
	id := p.PackageSPDXIdentifier
	if p.PackageName == "" || !downloadFrom.MatchString(p.PackageDownloadLocation) {
		t.Errorf("%s: name %q, download location %q", id, p.PackageName, p.PackageDownloadLocation)
	}
	if p.FilesAnalyzed || p.PackageVerificationCode != nil || len(p.PackageLicenseInfoFromFiles) > 0 {
		t.Errorf("%s: files were not analysed", id)
	}
	if p.PackageLicenseDeclared == "" || p.PackageLicenseConcluded == "" || p.PackageCopyrightText == "" {
		t.Errorf("%s: no licence", id)
	}
	for _, ref := range licenceRef.FindAllString(p.PackageLicenseDeclared, -1) {
		if !slices.Contains(licences, ref) {
			t.Errorf("%s: licence %s is not defined", id, ref)
		}
	}
	for _, sum := range p.PackageChecksums {
		if sum.Algorithm != spdx.SHA256 || !hexSHA256.MatchString(sum.Value) {
			t.Errorf("%s: checksum %+v", id, sum)
		}
	}
	for _, ref := range p.PackageExternalReferences {
		if ref.Category != "PACKAGE-MANAGER" || ref.RefType != "purl" || !strings.HasPrefix(ref.Locator, "pkg:oci/") {
			t.Errorf("%s: external reference %+v", id, ref)
		}
	}
	for _, a := range p.Annotations {
		if a.Annotator.AnnotatorType != "Tool" || a.AnnotationType != "OTHER" || a.AnnotationDate == "" || a.AnnotationComment == "" {
			t.Errorf("%s: annotation %+v", id, a)
		}
	}
}

func checkRelationships(t *testing.T, doc *spdx.Document, ids []string) {
	t.Helper()
	reached := []string{"DOCUMENT"}
	described := 0
	for _, r := range doc.Relationships {
		from, to := string(r.RefA.ElementRefID), string(r.RefB.ElementRefID)
		if !slices.Contains(ids, from) || !slices.Contains(ids, to) {
			t.Errorf("%s %s %s: one is not there", from, r.Relationship, to)
		}
		switch r.Relationship {
		case "DESCRIBES":
			described++
		case "CONTAINS", "DEPENDS_ON", "GENERATED_FROM":
		default:
			t.Errorf("relationship %s", r.Relationship)
		}
		reached = append(reached, to)
	}
	if described != 1 {
		t.Errorf("the document describes %d packages", described)
	}
	for _, id := range ids {
		if !slices.Contains(reached, id) {
			t.Errorf("nothing leads to %s", id)
		}
	}
}
