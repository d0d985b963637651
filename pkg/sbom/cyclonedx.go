package sbom

import (
	"bytes"
	"slices"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// CycloneDX returns the bill of materials of a set as a CycloneDX 1.6 document in JSON. Its serial
// number is made of the root's digest. The set's root is the document's subject.
func CycloneDX(set *bundle.Set) ([]byte, error) {
	inv, err := takeInventory(set)
	if err != nil {
		return nil, err
	}
	bom := cyclonedx.NewBOM()
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://krtpkg.dev/cyclonedx/"+inv.root.sha256)).URN()
	root := toComponent(inv.root)
	bom.Metadata = &cyclonedx.Metadata{
		Component: &root,
		Tools:     &cyclonedx.ToolsChoice{Components: &[]cyclonedx.Component{{Type: cyclonedx.ComponentTypeApplication, Name: "krtpkg"}}},
	}
	if !inv.created.IsZero() {
		bom.Metadata.Timestamp = inv.created.Format(time.RFC3339)
	}
	components := []cyclonedx.Component{}
	dependencies := []cyclonedx.Dependency{toDependency(inv.root)}
	for _, e := range inv.rest {
		components = append(components, toComponent(e))
		dependencies = append(dependencies, toDependency(e))
	}
	bom.Components, bom.Dependencies = &components, &dependencies
	var out bytes.Buffer
	err = cyclonedx.NewBOMEncoder(&out, cyclonedx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).Encode(bom)
	return out.Bytes(), err
}

var componentTypes = map[elementKind]cyclonedx.ComponentType{
	isRuntime: cyclonedx.ComponentTypePlatform,
	isBundle:  cyclonedx.ComponentTypeApplication,
	isImage:   cyclonedx.ComponentTypeContainer,
	isFile:    cyclonedx.ComponentTypeFile,
	isTree:    cyclonedx.ComponentTypeData,
	isCargo:   cyclonedx.ComponentTypeFile,
}

func toComponent(e *element) cyclonedx.Component {
	c := cyclonedx.Component{
		BOMRef: e.ref, Type: componentTypes[e.kind],
		Name: e.name, Version: e.version, Description: e.description,
	}
	if len(e.purls) > 0 {
		c.PackageURL = e.purls[0]
	}
	if e.sha256 != "" {
		c.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: e.sha256}}
	}
	switch {
	case isExpression(e.licences):
		c.Licenses = &cyclonedx.Licenses{{Expression: e.licences}}
	case e.licences != "":
		c.Licenses = &cyclonedx.Licenses{{License: &cyclonedx.License{Name: e.licences}}}
	}
	if refs := externalReferences(e); len(refs) > 0 {
		c.ExternalReferences = &refs
	}
	if len(e.properties) > 0 {
		properties := []cyclonedx.Property{}
		for _, p := range e.properties {
			properties = append(properties, cyclonedx.Property{Name: p.name, Value: p.value})
		}
		c.Properties = &properties
	}
	return c
}

// externalReferences tells chart repositories, which charts are downloaded from, from those of
// source code.
func externalReferences(e *element) []cyclonedx.ExternalReference {
	var refs []cyclonedx.ExternalReference
	switch {
	case e.repository != "" && (e.kind == isFile || e.kind == isCargo):
		refs = append(refs, cyclonedx.ExternalReference{Type: cyclonedx.ERTypeDistribution, URL: e.repository})
	case e.repository != "":
		refs = append(refs, cyclonedx.ExternalReference{Type: cyclonedx.ERTypeVCS, URL: e.repository})
	case e.download != "":
		refs = append(refs, cyclonedx.ExternalReference{Type: cyclonedx.ERTypeDistribution, URL: e.download})
	}
	return refs
}

// toDependency lists what an element contains, needs and was made of: CycloneDX has one word for
// all of it.
func toDependency(e *element) cyclonedx.Dependency {
	d := cyclonedx.Dependency{Ref: e.ref}
	if on := slices.Concat(e.contains, e.dependsOn, e.generatedFrom); len(on) > 0 {
		slices.Sort(on)
		d.Dependencies = &on
	}
	return d
}
