package sbom

import (
	"bytes"
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

const (
	noAssertion = "NOASSERTION"
	// documentID is the name that every SPDX document has in itself.
	documentID = "DOCUMENT"
)

// SPDX returns the bill of materials of a set as an SPDX 2.3 document in JSON. SPDX wants a time of
// every document: it is 1970-01-01 for an artifact that has none.
func SPDX(set *bundle.Set) ([]byte, error) {
	inv, err := takeInventory(set)
	if err != nil {
		return nil, err
	}
	when := inv.created
	if when.IsZero() {
		when = time.Unix(0, 0).UTC()
	}
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: documentID,
		DocumentName: strings.TrimSpace(inv.root.name + " " + inv.root.version),
		DocumentNamespace: fmt.Sprintf("https://krtpkg.dev/spdx/%s-%s-%s",
			inv.root.name, url.PathEscape(inv.root.version), inv.root.sha256),
		CreationInfo:  &spdx.CreationInfo{Creators: []spdx.Creator{{CreatorType: "Tool", Creator: "krtpkg"}}, Created: when.Format(time.RFC3339)},
		Relationships: []*spdx.Relationship{newRelationship(documentID, common.TypeRelationshipDescribe, inv.root.ref)},
	}
	for _, e := range append([]*element{inv.root}, inv.rest...) {
		doc.Packages = append(doc.Packages, spdxPackage(e, doc.CreationInfo.Created))
		doc.Relationships = append(doc.Relationships, listRelationships(e)...)
	}
	doc.OtherLicenses = otherLicenses(doc.Packages)
	var out bytes.Buffer
	err = json.Write(doc, &out, json.Indent("  "), json.EscapeHTML(false))
	return out.Bytes(), err
}

var purposes = map[elementKind]string{
	isRuntime: "APPLICATION", isBundle: "APPLICATION", isImage: "CONTAINER", isFile: "SOURCE", isTree: "SOURCE", isCargo: "FILE",
}

func spdxPackage(e *element, when string) *spdx.Package {
	p := &spdx.Package{
		PackageSPDXIdentifier: spdx.ElementID(e.ref),
		PackageName:           e.name, PackageVersion: e.version, PackageDescription: e.description,
		PackageDownloadLocation: cmp.Or(e.download, noAssertion),
		PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: noAssertion, PackageCopyrightText: noAssertion,
		PrimaryPackagePurpose: purposes[e.kind],
	}
	if e.sha256 != "" {
		p.PackageChecksums = []spdx.Checksum{{Algorithm: spdx.SHA256, Value: e.sha256}}
	}
	switch {
	case isExpression(e.licences):
		p.PackageLicenseDeclared = e.licences
	case e.licences != "":
		p.PackageLicenseComments = fmt.Sprintf("declared as %q, which is no SPDX licence expression", e.licences)
	}
	if e.repository != "" && (e.kind == isRuntime || e.kind == isBundle) {
		p.PackageSourceInfo = "source code: " + e.repository
	}
	for _, purl := range e.purls {
		p.PackageExternalReferences = append(p.PackageExternalReferences, &spdx.PackageExternalReference{
			Category: spdx.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl,
		})
	}
	// SPDX 2.3 has no properties: an annotation comes closest.
	for _, property := range e.properties {
		p.Annotations = append(p.Annotations, spdx.Annotation{
			Annotator:      spdx.Annotator{AnnotatorType: "Tool", Annotator: "krtpkg"},
			AnnotationDate: when, AnnotationType: "OTHER",
			AnnotationComment: property.name + "=" + property.value,
		})
	}
	return p
}

func newRelationship(from, how, to string) *spdx.Relationship {
	return &spdx.Relationship{
		RefA: common.MakeDocElementID("", from), RefB: common.MakeDocElementID("", to), Relationship: how,
	}
}

func listRelationships(e *element) []*spdx.Relationship {
	var all []*spdx.Relationship
	for _, r := range []struct {
		how  string
		refs []string
	}{
		{common.TypeRelationshipContains, e.contains},
		{common.TypeRelationshipDependsOn, e.dependsOn},
		{common.TypeRelationshipGeneratedFrom, e.generatedFrom},
	} {
		for _, ref := range r.refs {
			all = append(all, newRelationship(e.ref, r.how, ref))
		}
	}
	return all
}

// otherLicenses defines the licences that no list has: a document must for each one it names.
func otherLicenses(packages []*spdx.Package) []*spdx.OtherLicense {
	var refs []string
	for _, p := range packages {
		refs = append(refs, licenceRefs(p.PackageLicenseDeclared)...)
	}
	slices.Sort(refs)
	var others []*spdx.OtherLicense
	for _, ref := range slices.Compact(refs) {
		others = append(others, &spdx.OtherLicense{
			LicenseIdentifier: ref, LicenseName: noAssertion,
			ExtractedText: "The artifact names this licence and does not hold its text.",
		})
	}
	return others
}
