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
	// Root is the folder whose content is picked; "" for the whole tree.
	Root string
	// Include keeps the files that match one of its globs, all if it is empty; Exclude leaves out
	// those that match one of its globs. Globs are relative to Root.
	Include, Exclude []string
	// All picks every kind of file instead of YAML and JSON only.
	All bool
	// Lazy leaves out picked files that cannot be read: links that lead nowhere, out of the tree or in
	// a circle, submodules, files in Git LFS, missing files and those over limits. [Tree.Absent] lists
	// them.
	Lazy bool
	// FindUsed narrows a lazy pick to the files that are used, if all picked files of an archive, a commit
	// or an artifact together are over a limit. It gets the names of all of them, sorted, and the content
	// of those that were read, and returns the names that are used as far as these tell. It is called again
	// until it returns no other ones. nil means that all files are used.
	FindUsed func(names []string, read map[string][]byte) ([]string, error)
}

// validate checks the globs.
func (p Pick) validate() error {
	for _, glob := range slices.Concat(p.Include, p.Exclude) {
		if !doublestar.ValidatePattern(glob) {
			return fmt.Errorf("invalid glob %q", glob)
		}
	}
	return nil
}

// matches reports whether the file at a path from Root is picked.
func (p Pick) matches(rel string) bool {
	switch path.Ext(rel) {
	case ".yaml", ".yml", ".json":
	default:
		if !p.All {
			return false
		}
	}
	return (len(p.Include) == 0 || matchesAny(rel, p.Include)) && !matchesAny(rel, p.Exclude)
}

func matchesAny(rel string, globs []string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool { return doublestar.MatchUnvalidated(glob, rel) })
}

// mayMatchBelow reports whether an include could match a file below a folder. It compares element
// by element, and counts globs that need more as a match.
func (p Pick) mayMatchBelow(folder string) bool {
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
