package source

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Pick selects the files of a tree.
type Pick struct {
	// Root is the folder inside the tree that becomes its top; "" for all of it.
	Root string
	// Include keeps the files that match one of its globs, all when there is none; Exclude
	// leaves out those that match one of its. They are relative to Root.
	Include, Exclude []string
	// All takes every kind of file, not YAML and JSON alone.
	All bool
	// Lazy leaves out what is picked and can't be had: links that lead nowhere, out of the tree or in a
	// circle, submodules, files that Git LFS keeps, that are over limits or missing. [Tree.Absent] has them.
	Lazy bool
}

// check says whether the globs are globs.
func (p Pick) check() error {
	for _, glob := range slices.Concat(p.Include, p.Exclude) {
		if !doublestar.ValidatePattern(glob) {
			return fmt.Errorf("invalid glob %q", glob)
		}
	}
	return nil
}

// wants says whether a file is picked, by its path from Root.
func (p Pick) wants(rel string) bool {
	switch path.Ext(rel) {
	case ".yaml", ".yml", ".json":
	default:
		if !p.All {
			return false
		}
	}
	return (len(p.Include) == 0 || matches(rel, p.Include)) && !matches(rel, p.Exclude)
}

func matches(rel string, globs []string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool { return doublestar.MatchUnvalidated(glob, rel) })
}

// mayHold says whether an include could match what is below a folder. A glob that would take
// more than a look at each element of the path counts as one that could.
func (p Pick) mayHold(folder string) bool {
	return len(p.Include) == 0 || slices.ContainsFunc(p.Include, func(glob string) bool {
		globs := strings.Split(glob, "/")
		for i, element := range strings.Split(folder, "/") {
			switch {
			case i == len(globs)-1:
				return strings.Contains(globs[i], "**")
			case strings.Contains(globs[i], "**") || strings.Contains(glob, "{"):
				return true
			case !doublestar.MatchUnvalidated(globs[i], element):
				return false
			}
		}
		return true
	})
}
