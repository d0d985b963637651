package catalog

import (
	"cmp"
	"slices"

	"krtpkg.dev/krtpkg/pkg/result"
)

// findingView is a vulnerability with the report that it is of.
type findingView struct {
	result.CatalogFinding
	Subject string
	// ID of the row, which the first of a vulnerability has.
	Anchor string
}

func addCounts(all *result.SeverityCounts, more result.SeverityCounts) {
	all.CriticalCount += more.CriticalCount
	all.HighCount += more.HighCount
	all.MediumCount += more.MediumCount
	all.LowCount += more.LowCount
	all.UnknownCount += more.UnknownCount
}

// countAll returns how many there are in all.
func countAll(c *result.SeverityCounts) int {
	return c.CriticalCount + c.HighCount + c.MediumCount + c.LowCount + c.UnknownCount
}

// countUnread returns how many reports cannot be read.
func countUnread(reports []result.CatalogReport) (n int) {
	for i := range reports {
		if reports[i].Problem != "" && countAll(&reports[i].SeverityCounts) == 0 {
			n++
		}
	}
	return n
}

// addFindings puts the findings of all reports together, the most severe first.
func (v *versionView) addFindings() {
	for _, report := range v.Reports {
		for _, f := range report.Findings {
			v.Findings = append(v.Findings, findingView{CatalogFinding: f, Subject: cmp.Or(report.Subject, f.Image)})
		}
	}
	slices.SortStableFunc(v.Findings, func(a, b findingView) int {
		return cmp.Or(cmp.Compare(severityRank(a.Severity), severityRank(b.Severity)), cmp.Compare(a.ID, b.ID))
	})
	v.FindingCount = countAll(&v.Counts)
	named := map[string]bool{}
	for i := range v.Findings {
		if anchor := slugText(v.Findings[i].ID); !named[anchor] {
			named[anchor] = true
			v.Findings[i].Anchor = anchor
		}
	}
}
