package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/result"
)

// searchIndex is what the search of pages looks through. It is a script that assigns a variable, since pages that are
// files cannot fetch others.
type searchIndex struct{ entries []searchEntry }

// searchEntry is a place that a search finds: what it is, its name, what is said of it, its page from the top of the site, and
// more text that is searched and not shown.
type searchEntry [5]string

// maxSearchText is how much is searched of a text.
const maxSearchText = 300

func (x *searchIndex) addEntry(kind, name, detail, link string, more ...string) {
	for i := range more {
		more[i] = cutText(maxSearchText, more[i])
	}
	x.entries = append(x.entries, searchEntry{kind, cutText(maxSearchText, name), cutText(maxSearchText, detail), link, strings.Join(more, " ")})
}

func (x *searchIndex) addVersion(r *result.CatalogRuntime, v *versionView) {
	x.addEntry(strings.ToLower(v.Kind), strings.TrimSpace(r.Name+" "+v.Version), v.Metadata.Description, v.Link, v.Digest, r.Place, strings.Join(v.Tags, " "))
	for _, l := range v.Licenses {
		x.addEntry("licence", l.License, fmt.Sprintf("%s of %s %s", graph.CountNoun(l.Count, "component"), r.Name, v.Version), v.Link+"#licences")
	}
}

func (x *searchIndex) addBundle(r *result.CatalogRuntime, b *bundleView) {
	more := []string{b.Digest, b.Category, r.Name}
	more = append(more, b.Provides...)
	for _, item := range b.Cargo {
		more = append(more, item.Name, item.SHA256)
	}
	detail := ""
	if d := b.Detail; d != nil {
		detail = d.Metadata.Description
		more = append(more, d.Maintainers...)
		for _, v := range d.Values {
			more = append(more, v.Value)
		}
	}
	x.addEntry("bundle", strings.TrimSpace(b.Name+" "+b.Version), detail, b.Link, more...)
}

// addImages adds each image once, on the page of the newest version that has it.
func (x *searchIndex) addImages(b *runtimeBuilder) {
	seen := map[string]bool{}
	for _, v := range b.views {
		for _, image := range v.Images {
			if seen[image.Digest] {
				continue
			}
			seen[image.Digest] = true
			x.addEntry("image", strings.Join(image.References, ", "), image.Digest, image.Link, image.Image, strings.Join(image.Platforms, " "))
		}
	}
}

// addFindings adds each vulnerability of a version once.
func (x *searchIndex) addFindings(r *result.CatalogRuntime, v *versionView) {
	for i, f := range v.Findings {
		if f.Anchor == "" {
			continue
		}
		link := v.File + ".vulnerabilities.html"
		if i < maxFindings {
			link += "#" + f.Anchor
		}
		x.addEntry("vulnerability", f.ID, strings.TrimSpace(fmt.Sprintf("%s in %s %s, %s %s", f.Severity, f.Package, f.Version, r.Name, v.Version)), link, f.Title)
	}
}

func (x *searchIndex) encodeIndex() ([]byte, error) {
	entries := slices.Clone(x.entries)
	if entries == nil {
		entries = []searchEntry{}
	}
	data, err := json.Marshal(entries)
	return append(append([]byte("var krtpkgSearch = "), data...), ";\n"...), err
}
