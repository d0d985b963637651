package catalog

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// The predicate types of bills of materials.
const (
	typeCycloneDX = "https://cyclonedx.org/bom"
	typeSPDX      = "https://spdx.dev/Document"
)

const (
	// maxLicensed is how many names are listed of what has a licence.
	maxLicensed = 50
	// maxLicenses is how many licences of a version are listed; the others are counted as one.
	maxLicenses = 1000
)

// noLicense stands for what says nothing of its licence.
const noLicense = "not stated"

// licenseCounter counts components by licence, each name with its version once.
type licenseCounter struct {
	seen       map[string]bool
	components map[string][]string
}

// countLicenses counts the licences of a version: of its bundles, and of what attached bills of materials list.
func countLicenses(set *bundle.Set, claims []sign.Claim) []result.CatalogLicense {
	c := &licenseCounter{seen: map[string]bool{}, components: map[string][]string{}}
	for _, b := range set.Bundles {
		m := b.Metadata()
		c.addComponent(m.Name, m.Version, m.Licenses)
	}
	// The root's own is that of the definition, which need not be that of what it is made of.
	c.seen[set.Root.Metadata().Name+" "+set.Root.Metadata().Version] = true
	for _, claim := range claims {
		switch claim.PredicateType {
		case typeCycloneDX:
			c.addCycloneDX(claim.Predicate)
		case typeSPDX:
			c.addSPDX(claim.Predicate)
		}
	}
	all := []result.CatalogLicense{}
	for license, names := range c.components {
		slices.Sort(names)
		all = append(all, result.CatalogLicense{License: license, Count: len(names), Components: slices.Clone(names[:min(len(names), maxLicensed)])})
	}
	slices.SortFunc(all, func(a, b result.CatalogLicense) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.License, b.License))
	})
	if len(all) > maxLicenses {
		others := result.CatalogLicense{License: fmt.Sprintf("%d further licences", len(all)-maxLicenses), Components: []string{}}
		for _, l := range all[maxLicenses:] {
			others.Count += l.Count
		}
		all = append(slices.Clone(all[:maxLicenses]), others)
	}
	return all
}

func (c *licenseCounter) addComponent(name, version, license string) {
	key := cutText(300, strings.TrimSpace(name+" "+version))
	if name == "" || c.seen[key] {
		return
	}
	c.seen[key] = true
	license = cmp.Or(cutText(1000, strings.Join(strings.Fields(license), " ")), noLicense)
	c.components[license] = append(c.components[license], key)
}

// addCycloneDX adds the components of a bill that have a licence: others, such as images, are not what a licence is of.
func (c *licenseCounter) addCycloneDX(predicate []byte) {
	var bom struct {
		Components []struct {
			Name, Version string
			Licenses      []struct {
				Expression string
				License    struct{ ID, Name string }
			}
		}
	}
	if json.Unmarshal(predicate, &bom) != nil {
		return // listed among what is attached
	}
	for _, component := range bom.Components {
		var names []string
		for _, l := range component.Licenses {
			if name := cmp.Or(l.Expression, l.License.ID, l.License.Name); name != "" {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			c.addComponent(component.Name, component.Version, strings.Join(names, " AND "))
		}
	}
}

// addSPDX adds the packages of a bill that have a licence.
func (c *licenseCounter) addSPDX(predicate []byte) {
	var document struct {
		Packages []struct{ Name, VersionInfo, LicenseConcluded, LicenseDeclared string }
	}
	if json.Unmarshal(predicate, &document) != nil {
		return
	}
	for _, p := range document.Packages {
		for _, license := range []string{p.LicenseConcluded, p.LicenseDeclared} {
			if license != "" && license != "NOASSERTION" && license != "NONE" {
				c.addComponent(p.Name, p.VersionInfo, license)
				break
			}
		}
	}
}
