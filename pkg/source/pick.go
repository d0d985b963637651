package source

import (
	"cmp"
	"fmt"
	"path"
	"path/filepath"
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

// below is a path relative to Root, if it is below it.
func (p Pick) below(name string) (string, bool) {
	if p.Root == "" || p.Root == "." {
		return name, true
	}
	return strings.CutPrefix(name, path.Clean(p.Root)+"/")
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

// Limits on what a tree is gathered from.
const (
	maxTree    = 512 << 20 // all the files that are picked
	maxEntries = 1_000_000
)

// gatherer picks the files of an archive, a commit or an artifact. Every name that it is given
// comes from outside.
type gatherer struct {
	pick    Pick
	files   map[string][]byte // by the whole path
	links   map[string]string
	folders map[string]bool // the first ones, for errors
	entries int
	bytes   int64
}

func newGatherer(pick Pick) (*gatherer, error) {
	g := &gatherer{pick: pick, files: map[string][]byte{}, links: map[string]string{}, folders: map[string]bool{}}
	return g, pick.check()
}

// enter checks the name of an entry, and says by what path it is known and whether it is picked.
func (g *gatherer) enter(name string) (clean string, picked bool, err error) {
	if g.entries++; g.entries > maxEntries {
		return "", false, fmt.Errorf("has over %d entries", maxEntries)
	}
	clean = path.Clean(strings.TrimSuffix(name, "/"))
	if !filepath.IsLocal(clean) || strings.ContainsAny(name, "\\\x00") {
		return "", false, fmt.Errorf("entry %q leaves the tree", name)
	}
	if dir := path.Dir(clean); dir != "." && len(g.folders) < 1000 {
		g.folders[dir] = true
	}
	rel, ok := g.pick.below(clean)
	return clean, ok && g.pick.wants(rel), nil
}

// room says whether a file of a size may still come.
func (g *gatherer) room(name string, size int64) error {
	switch {
	case size > maxFile:
		return fmt.Errorf("%s: %d bytes are over the limit of %d", name, size, maxFile)
	case g.bytes+size > maxTree:
		return fmt.Errorf("the files that are picked are over the limit of %d bytes", maxTree)
	case len(g.files) == maxFiles:
		return fmt.Errorf("over %d files are picked", maxFiles)
	}
	return nil
}

// add takes a file.
func (g *gatherer) add(name string, data []byte) error {
	if _, twice := g.files[name]; twice {
		return fmt.Errorf("entry %q is there twice", name)
	}
	if err := g.room(name, int64(len(data))); err != nil {
		return err
	}
	g.bytes += int64(len(data))
	g.files[name] = data
	return nil
}

// maxLinks is how many links one after the other are followed.
const maxLinks = 8

// leads is where a link leads in the end; the empty path when it does not stay in the tree.
func (g *gatherer) leads(name string) string {
	for range maxLinks {
		to, isLink := g.links[name]
		if !isLink {
			return name
		}
		if path.IsAbs(to) {
			return ""
		}
		if name = path.Join(path.Dir(name), to); !filepath.IsLocal(name) {
			return ""
		}
	}
	return ""
}

// tree is what was gathered, with read for the files that only links lead to.
func (g *gatherer) tree(read func(name string) ([]byte, error)) (*Tree, error) {
	for name := range g.links {
		rel, ok := g.pick.below(name)
		if !ok || matches(rel, g.pick.Exclude) {
			continue
		}
		to := g.leads(name)
		isFolder := to != "" && g.isFolder(to)
		switch {
		case isFolder:
			return nil, fmt.Errorf("%s is a link to a folder: make that folder a source of its own, or exclude the link", name)
		case !g.pick.wants(rel):
			continue
		case to == "":
			return nil, fmt.Errorf("%s is a link that leads out of the tree", name)
		}
		data, known := g.files[to]
		if !known {
			var err error
			if data, err = read(to); err != nil {
				return nil, fmt.Errorf("%s is a link to %s: %w", name, to, err)
			}
		}
		if err := g.add(name, data); err != nil {
			return nil, err
		}
	}
	tree := &Tree{}
	for name, data := range g.files {
		if rel, ok := g.pick.below(name); ok && g.pick.wants(rel) {
			tree.Files = append(tree.Files, File{rel, data})
		}
	}
	if len(tree.Files) == 0 {
		return nil, g.nothing()
	}
	slices.SortFunc(tree.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	tree.SHA256 = listing(tree.Files)
	return tree, nil
}

func (g *gatherer) isFolder(name string) bool {
	if g.folders[name] || name == "." {
		return true
	}
	for folder := range g.folders {
		if strings.HasPrefix(folder, name+"/") {
			return true
		}
	}
	return false
}

// nothing says why no file was picked.
func (g *gatherer) nothing() error {
	if root := path.Clean(g.pick.Root); g.pick.Root != "" && !g.isFolder(root) {
		var top []string
		for folder := range g.folders {
			if first, _, _ := strings.Cut(folder, "/"); !slices.Contains(top, first) {
				top = append(top, first)
			}
		}
		slices.Sort(top)
		if len(top) > 8 {
			top = append(top[:8], "…")
		}
		return fmt.Errorf("there is no folder %s: at the top are %s", g.pick.Root, strings.Join(top, ", "))
	}
	if g.pick.All {
		return fmt.Errorf("there is no file that is included")
	}
	return fmt.Errorf("there is no YAML or JSON file that is included")
}
