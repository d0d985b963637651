package catalog

import (
	"html/template"
	"slices"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/result"
)

// versionView is a version with all that its page shows.
type versionView struct {
	*result.CatalogVersion
	Runtime *result.CatalogRuntime
	// Link is its page, from the top of the site, and File the name of that without an ending.
	Link, File string
	// Picture was made by package graph, which escapes what it is given.
	Picture template.HTML
	Bundles []bundleView
	Images  []imageView
	Counts  result.SeverityCounts
	// Newest is the time of the newest report.
	Newest time.Time
	// Findings are those of all reports.
	Findings     []findingView
	FindingCount int
	// UnreadCount is how many reports cannot be read: what they list is not known.
	UnreadCount int
	Commands    []command
	// Before is the page of the version before.
	Before     string
	TrustWords []string
	Policy     *result.ReceiptPolicy
	ImageCount int
	// Attached are the signatures and attestations, those that were verified first.
	Attached []attachedView
}

// bundleView is a bundle of a version.
type bundleView struct {
	result.Bundle
	Detail *result.CatalogBundle
	Link   string
	Icon   template.URL
	Images []imageView
	// Versions are the versions of the runtime that have it.
	Versions []crumb
}

// imageView is an image with where it is used.
type imageView struct {
	result.CatalogImage
	References []string
	Image      string
	Bundles    []crumb
	Counts     *result.SeverityCounts
	Signatures int
	Attests    int
	Link       string
}

// viewVersion returns all that the page of a version shows.
func (b *runtimeBuilder) viewVersion(at int) *versionView {
	v := &b.runtime.Versions[at]
	view := &versionView{CatalogVersion: v, Runtime: b.runtime, Policy: b.catalog.Policy, File: b.versions[b.at][v.Digest]}
	view.Link = view.File + ".html"
	counts := map[string]*result.SeverityCounts{}
	view.UnreadCount = countUnread(v.Reports)
	for i := range v.Reports {
		report := &v.Reports[i]
		addCounts(&view.Counts, report.SeverityCounts)
		if counts[report.Digest] == nil {
			counts[report.Digest] = &result.SeverityCounts{}
		}
		addCounts(counts[report.Digest], report.SeverityCounts)
		if report.Time.After(view.Newest) {
			view.Newest = report.Time
		}
	}
	links, byDigest := map[string]string{}, map[string]int{}
	for _, one := range v.Bundles {
		link := b.bundleLink(&one)
		links[one.Name] = link
		page := b.pages[one.Digest]
		if page == nil {
			page = &bundleView{Bundle: one, Detail: b.details[one.Digest], Link: link}
			page.Icon = b.iconURL(page.Detail)
			b.pages[one.Digest] = page
		}
		page.Versions = append(page.Versions, crumb{strings.TrimSpace(b.runtime.Name + " " + v.Version), view.Link})
		var own []imageView
		for _, image := range one.Images {
			i, known := byDigest[image.Digest]
			if !known {
				i = len(view.Images)
				byDigest[image.Digest] = i
				one := imageView{Image: image.Image, Counts: counts[image.Digest], Link: view.Link + "#" + imageAnchor(image.Digest)}
				one.Digest = image.Digest
				if found := b.images[image.Digest]; found != nil {
					one.CatalogImage = *found
				}
				for _, c := range one.Attached {
					if c.PredicateType == "" {
						one.Signatures++
					} else {
						one.Attests++
					}
				}
				view.Images = append(view.Images, one)
			}
			is := &view.Images[i]
			if !slices.Contains(is.References, image.Reference) {
				is.References = append(is.References, image.Reference)
			}
			if user := (crumb{one.Name, link}); !slices.Contains(is.Bundles, user) {
				is.Bundles = append(is.Bundles, user)
			}
			own = append(own, view.Images[i])
		}
		if page.Images == nil {
			page.Images = own
		}
		view.Bundles = append(view.Bundles, *page)
	}
	view.ImageCount = len(view.Images)
	view.addFindings()
	view.Attached, view.TrustWords = describeTrust(v, b.catalog.Policy)
	if v.Changes != nil && b.versions[b.at][v.Changes.Digest] != "" {
		view.Before = b.versions[b.at][v.Changes.Digest] + ".html"
	}
	view.Commands = listCommands(v)
	if v.Graph != nil {
		root := strings.Repeat("../", strings.Count(view.Link, "/"))
		view.Picture = template.HTML(v.Graph.DrawSVG(graph.SVGOptions{NoStyle: true, ID: "picture-", Link: func(n *graph.Node) string {
			if links[n.Name] == "" {
				return ""
			}
			return root + links[n.Name]
		}}))
	}
	return view
}

// TagState returns refused or stale for a tag that is a channel, and that the policy does not follow or warns of.
func (v *versionView) TagState(tag string) string {
	if v.Verdict == nil {
		return ""
	}
	for _, stale := range v.Verdict.StaleTags {
		if stale.Tag == tag {
			if stale.Refused {
				return "refused"
			}
			return "stale"
		}
	}
	return ""
}

// imageAnchor returns the id of an image on the page of a version.
func imageAnchor(digest string) string {
	return "image-" + slugText(strings.TrimPrefix(digest, "sha256:"))
}
