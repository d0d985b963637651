package catalog

import (
	"cmp"

	"krtpkg.dev/krtpkg/pkg/result"
)

// overviewData is what the first page shows.
type overviewData struct {
	Policy   *result.ReceiptPolicy
	Runtimes []runtimeView
}

// runtimeView is a runtime on the first page.
type runtimeView struct {
	*result.CatalogRuntime
	Description string
	Kind        string
	Rows        []*versionView
}

func (s *siteWriter) viewOverview() *overviewData {
	o := &overviewData{Policy: s.catalog.Policy}
	for at := range s.catalog.Runtimes {
		r := &s.catalog.Runtimes[at]
		view := runtimeView{CatalogRuntime: r}
		for i := range r.Versions {
			v := &r.Versions[i]
			view.Description, view.Kind = cmp.Or(view.Description, v.Metadata.Description), cmp.Or(view.Kind, v.Kind)
			row := &versionView{CatalogVersion: v, Policy: s.catalog.Policy, Link: s.versions[at][v.Digest] + ".html", File: s.versions[at][v.Digest]}
			images := map[string]bool{}
			for _, b := range v.Bundles {
				row.Bundles = append(row.Bundles, bundleView{})
				for _, image := range b.Images {
					images[image.Digest] = true
				}
			}
			row.ImageCount = len(images)
			for _, report := range v.Reports {
				addCounts(&row.Counts, report.SeverityCounts)
			}
			row.FindingCount, row.UnreadCount = countAll(&row.Counts), countUnread(v.Reports)
			view.Rows = append(view.Rows, row)
		}
		o.Runtimes = append(o.Runtimes, view)
	}
	return o
}

// CheckEmpty returns an error for a document that shows nothing.
func CheckEmpty(c *result.Catalog) error {
	if len(c.Runtimes) == 0 {
		return errNoRuntimes
	}
	return nil
}
