package catalog

import (
	"encoding/base64"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/result"
)

// writeRuntime writes the pages of a runtime in one place.
func (s *siteWriter) writeRuntime(at int) error {
	r := &s.catalog.Runtimes[at]
	details := map[string]*result.CatalogBundle{}
	for i := range r.Bundles {
		details[r.Bundles[i].Digest] = &r.Bundles[i]
	}
	pictured := map[string]*result.CatalogImage{}
	for i := range r.Images {
		pictured[r.Images[i].Digest] = &r.Images[i]
	}
	b := &runtimeBuilder{siteWriter: s, at: at, runtime: r, details: details, images: pictured, pages: map[string]*bundleView{}}
	for i := range r.Versions {
		if err := b.writeVersion(i); err != nil {
			return err
		}
	}
	for _, digest := range slices.Sorted(maps.Keys(b.pages)) {
		view := b.pages[digest]
		head := pageHead{Title: view.Name + " " + view.Version, Crumbs: []crumb{{r.Name, ""}}}
		if err := s.writePage(view.Link, "bundle", head, view); err != nil {
			return err
		}
		s.index.addBundle(r, view)
	}
	s.index.addImages(b)
	return nil
}

// runtimeBuilder makes the pages of one runtime.
type runtimeBuilder struct {
	*siteWriter
	at      int
	runtime *result.CatalogRuntime
	details map[string]*result.CatalogBundle
	images  map[string]*result.CatalogImage
	// pages are those of bundles, by digest.
	pages map[string]*bundleView
	// views are those of versions, the newest first.
	views []*versionView
}

// cutDigest returns as much of a digest as nobody can make another content have.
func cutDigest(digest string) string {
	_, encoded, _ := strings.Cut(digest, ":")
	return encoded[:min(len(encoded), 32)]
}

// bundleLink returns the page of a bundle, from the top of the site.
func (b *runtimeBuilder) bundleLink(one *result.Bundle) string {
	return fmt.Sprintf("%s/bundles/%s-%s-%s.html", b.folders[b.at], slugText(one.Name), slugText(one.Version), slugText(cutDigest(one.Digest)))
}

// iconURL returns the picture of a bundle: only ever shown as an image, in which nothing runs.
func (b *runtimeBuilder) iconURL(detail *result.CatalogBundle) template.URL {
	if detail == nil || b.catalog.Icons[detail.Icon] == "" {
		return ""
	}
	return template.URL("data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString([]byte(b.catalog.Icons[detail.Icon])))
}

// writeVersion writes the pages of a version.
func (b *runtimeBuilder) writeVersion(at int) error {
	view := b.viewVersion(at)
	b.views = append(b.views, view)
	name := strings.TrimSpace(b.runtime.Name + " " + view.Version)
	b.index.addVersion(b.runtime, view)
	up := []crumb{{name, view.Link}}
	if err := b.writePage(view.Link, "version", pageHead{Title: name}, view); err != nil {
		return err
	}
	if len(view.SBOM) > 0 {
		if err := b.write(view.File+".cdx.json", view.SBOM); err != nil {
			return err
		}
	}
	if view.Changes != nil {
		if err := b.writePage(view.File+".changes.html", "changes", pageHead{Title: "Changes in " + name, Crumbs: up}, view); err != nil {
			return err
		}
	}
	if len(view.Reports) > 0 {
		b.index.addFindings(b.runtime, view)
		shown := *view
		shown.Findings = shown.Findings[:min(len(shown.Findings), maxFindings)]
		return b.writePage(view.File+".vulnerabilities.html", "vulnerabilities", pageHead{Title: "Vulnerabilities of " + name, Crumbs: up}, &shown)
	}
	return nil
}
