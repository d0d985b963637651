package catalog

import (
	"errors"
	"fmt"
	"strings"

	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/deploy"
)

// changeMark is what stands before something that was added, removed or changed.
func changeMark(c compare.Change) string {
	return map[compare.Change]string{compare.Added: "added", compare.Removed: "removed", compare.Changed: "changed"}[c]
}

// describeMove returns a value that may have changed.
func describeMove(was, is string) string {
	if was == is {
		return is
	}
	return was + " → " + is
}

// diffLine is a line of a difference.
type diffLine struct{ Class, Text string }

// diffLines returns the first lines of a difference, and says how many more there are.
func diffLines(text string) (all []diffLine) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		if i == maxDiffLines {
			return append(all, diffLine{"more", fmt.Sprintf("… and %d more lines: krtpkg diff --full prints them", len(lines)-i)})
		}
		one := diffLine{"", cutText(maxLine, line)}
		switch trimmed := strings.TrimLeft(line, " 0123456789,"); {
		case strings.HasPrefix(trimmed, "+"):
			one.Class = "plus"
		case strings.HasPrefix(trimmed, "-"):
			one.Class = "minus"
		}
		all = append(all, one)
	}
	return all
}

// limited is the beginning of a list, and how much more there is.
type limited[T any] struct {
	All  []T
	More int
}

func limitEntries[T any](all []T) limited[T] {
	return limited[T]{all[:min(len(all), maxEntries)], max(len(all)-maxEntries, 0)}
}

// The sections of changes, cut to what a page shows.

// Risks returns what deserves a look first.
func (v *versionView) Risks() limited[compare.Risk] { return limitEntries(v.Changes.Comparison.Risks) }

// ChangedBundles returns the bundles that differ.
func (v *versionView) ChangedBundles() limited[compare.BundleChange] {
	return limitEntries(v.Changes.Comparison.Bundles)
}

// ChangedImages returns the images that differ.
func (v *versionView) ChangedImages() limited[compare.ImageChange] {
	return limitEntries(v.Changes.Comparison.Images)
}

// ChangedValues returns the values that differ.
func (v *versionView) ChangedValues() limited[compare.ValueChange] {
	return limitEntries(v.Changes.Comparison.Values)
}

// ChangedResources returns the resources that differ.
func (v *versionView) ChangedResources() limited[deploy.ManifestChange] {
	return limitEntries(v.Changes.Comparison.Resources)
}

var errNoRuntimes = errors.New("nothing to show: no bundle or runtime was found")
