package source

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on what a tree is picked from.
const (
	maxTree    = 512 << 20 // all the files that are picked
	maxEntries = 1_000_000
	maxName    = 4096
	maxNames   = 256 << 20 // the names of all entries, and where links lead
	maxLinks   = 8         // one after the other
)

// nodes is the tree of what an archive, a commit or an artifact holds, before anything of it is
// read. Every name comes from outside.
type nodes struct {
	top     *node
	entries int
	names   int
}

type kind int

const (
	isFolder kind = iota
	isFile
	isLink
	isSubmodule
	isOther // a device, a pipe
)

// node is an entry. A link leads to target from its own folder, or from the top.
type node struct {
	kind     kind
	children map[string]*node
	target   string
	fromTop  bool
	// pack has the bytes of a file under key.
	pack pack
	key  string
	size int64
}

// pack reads files: those that are keys of the map. For one that can't be read it has the error that
// failed makes of it, and goes on where that is nil.
type pack interface {
	read(files map[string][]byte, failed func(key string, err error) error) error
}

func newNodes() *nodes { return &nodes{top: newFolder()} }

func newFolder() *node { return &node{kind: isFolder, children: map[string]*node{}} }

// confine checks the name of an entry and makes it a path from the top.
func confine(name string) (string, error) {
	clean := path.Clean(name)
	switch {
	case len(name) > maxName:
		return "", fmt.Errorf("entry %.40q… has a name of over %d bytes", name, maxName)
	case name == "", strings.ContainsAny(name, "\\\x00"), !filepath.IsLocal(filepath.FromSlash(clean)), slices.Contains(strings.Split(name, "/"), ".."):
		return "", fmt.Errorf("entry %q leaves the tree", name)
	}
	return clean, nil
}

// add puts an entry into the tree.
func (t *nodes) add(name string, n *node) error {
	clean, err := confine(name)
	if err != nil {
		return err
	}
	if len(n.target) > maxName {
		return fmt.Errorf("entry %q is a link of over %d bytes", name, maxName)
	}
	t.entries++
	t.names += len(name) + len(n.target)
	if t.entries > maxEntries || t.names > maxNames {
		return errEntries
	}
	if clean == "." {
		if n.kind == isFolder {
			return nil
		}
		return fmt.Errorf("entry %q has no name", name)
	}
	at := t.top
	dir, base := path.Split(clean)
	for element := range strings.SplitSeq(strings.TrimSuffix(dir, "/"), "/") {
		if element == "" {
			continue
		}
		next := at.children[element]
		if next == nil {
			if t.entries++; t.entries > maxEntries {
				return errEntries
			}
			next = newFolder()
			at.children[element] = next
		}
		if at = next; at.kind != isFolder {
			return fmt.Errorf("entry %q is below %s, which is no folder", name, element)
		}
	}
	before := at.children[base]
	switch {
	case before == nil:
		at.children[base] = n
	case before.kind != isFolder || n.kind != isFolder:
		return fmt.Errorf("entry %q is there twice", name)
	}
	return nil
}

var errEntries = fmt.Errorf("there are over %d entries, or over %d bytes of names", maxEntries, maxNames)

var (
	errOutside = errors.New("leads out of the tree")
	errMissing = errors.New("leads to what is not there")
	errLinks   = fmt.Errorf("leads over more than %d links", maxLinks)
)

// follow goes a path from a folder, through the links on it, and says where that ends.
func (t *nodes) follow(from []string, to string) (*node, []string, error) {
	at := []*node{t.top}
	var names []string
	links := 0
	todo := append(slices.Clone(from), strings.Split(to, "/")...)
	if path.IsAbs(to) {
		return nil, nil, errOutside
	}
	for len(todo) > 0 {
		element := todo[0]
		todo = todo[1:]
		switch element {
		case "", ".":
			continue
		case "..":
			if len(names) == 0 {
				return nil, nil, errOutside
			}
			at, names = at[:len(at)-1], names[:len(names)-1]
			continue
		}
		next := at[len(at)-1].children[element]
		switch {
		case next == nil:
			return nil, names, errMissing
		case next.kind != isLink:
			at, names = append(at, next), append(names, element)
			continue
		case path.IsAbs(next.target):
			return nil, nil, errOutside
		}
		if links++; links > maxLinks {
			return nil, nil, errLinks
		}
		if next.fromTop {
			at, names = at[:1], names[:0]
		}
		todo = append(strings.Split(next.target, "/"), todo...)
	}
	return at[len(at)-1], names, nil
}

// choice is a file that is picked, by its path from the root.
type choice struct {
	path string
	node *node
}

// chooser walks a tree for the files that are picked.
type chooser struct {
	*nodes
	pick   Pick
	chosen []choice
	size   int64
	links  int
	inside [][]string // the linked folders that the walk is in
	tree   *Tree
}

// pick reads the files that are picked.
func (t *nodes) pick(pick Pick) (*Tree, error) {
	if err := pick.check(); err != nil {
		return nil, err
	}
	root, at, err := t.follow(nil, pick.Root)
	switch {
	case errors.Is(err, errMissing):
		return nil, t.noFolder(pick.Root, at)
	case err != nil:
		return nil, fmt.Errorf("%s %w", pick.Root, err)
	case root.kind != isFolder:
		return nil, fmt.Errorf("%s is no folder", pick.Root)
	}
	c := &chooser{nodes: t, pick: pick, tree: &Tree{}}
	if err := c.walk(root, at, ""); err != nil {
		return nil, err
	}
	switch {
	case len(c.chosen) > 0:
		return c.read()
	case pick.All:
		return nil, errors.New("there is no file that is included")
	}
	return nil, errors.New("there is no YAML or JSON file that is included")
}

// noFolder says which folders there are, where one is not.
func (t *nodes) noFolder(root string, at []string) error {
	dir, where := t.top, "at the top"
	for _, element := range at {
		dir = dir.children[element]
	}
	if len(at) > 0 {
		where = "in " + strings.Join(at, "/")
	}
	var there []string
	for _, name := range slices.Sorted(maps.Keys(dir.children)) {
		if dir.children[name].kind == isFolder {
			there = append(there, name)
		}
	}
	switch {
	case len(there) == 0:
		return fmt.Errorf("there is no folder %s: %s is none", root, where)
	case len(there) > 8:
		there = append(there[:8], "…")
	}
	return fmt.Errorf("there is no folder %s: %s are %s", root, where, strings.Join(there, ", "))
}

func (c *chooser) walk(dir *node, at []string, rel string) error {
	for _, name := range slices.Sorted(maps.Keys(dir.children)) {
		n := dir.children[name]
		rel := path.Join(rel, name)
		here := append(slices.Clip(at), name)
		var err error
		switch {
		case n.kind == isFolder:
			err = c.walk(n, here, rel)
		case matches(rel, c.pick.Exclude):
		case n.kind == isSubmodule:
			if c.pick.mayHold(rel) {
				err = fmt.Errorf("%s is a submodule, which is not fetched: make it a source of its own, or exclude it", path.Join(here...))
			}
		case n.kind == isLink:
			err = c.link(n, at, rel, path.Join(here...))
		case c.pick.wants(rel):
			err = c.take(n, rel, path.Join(here...))
		}
		if n.kind != isFolder && !isExcess(err) {
			err = c.tree.leave(c.pick, rel, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// excessError says that too much is picked, which leaving out a file does not change.
type excessError string

func (e excessError) Error() string { return string(e) }

func isExcess(err error) bool {
	var excess excessError
	return errors.As(err, &excess)
}

// link takes the file that a link leads to, or the files of a folder.
func (c *chooser) link(n *node, at []string, rel, name string) error {
	if !c.pick.wants(rel) && !c.pick.mayHold(rel) {
		return nil
	}
	if c.links++; c.links > maxFiles {
		return excessError(fmt.Sprintf("over %d links are picked", maxFiles))
	}
	if n.fromTop {
		at = nil
	}
	end, where, err := c.follow(at, n.target)
	switch {
	case err == nil && end.kind == isFolder && c.pick.All && c.pick.mayHold(rel):
		return c.linked(end, where, rel, name)
	case err == nil && end.kind == isFolder && c.pick.mayHold(rel):
		return fmt.Errorf("%s is a link to a folder: make that folder a source of its own, or exclude the link", name)
	case !c.pick.wants(rel):
		return nil
	case err != nil:
		return fmt.Errorf("%s is a link that %w", name, err)
	}
	return c.take(end, rel, name)
}

// linked takes the files of a folder that a link leads to, as if they were where the link is.
func (c *chooser) linked(dir *node, at []string, rel, name string) error {
	var from []string
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		from = strings.Split(name[:i], "/")
	}
	for _, outer := range append(c.inside, from) {
		if len(outer) >= len(at) && slices.Equal(outer[:len(at)], at) {
			return fmt.Errorf("%s is a link to a folder that it is in", name)
		}
	}
	if len(c.inside) == maxLinks {
		return fmt.Errorf("%s %w", name, errLinks)
	}
	c.inside = append(c.inside, at)
	defer func() { c.inside = c.inside[:len(c.inside)-1] }()
	return c.walk(dir, at, rel)
}

func (c *chooser) take(n *node, rel, name string) error {
	switch {
	case n.kind != isFile:
		return fmt.Errorf("entry %q is no regular file", name)
	case n.size > maxFile:
		return fmt.Errorf("%s: %d bytes are over the limit of %d", name, n.size, maxFile)
	case c.size+n.size > maxTree:
		return excessError(fmt.Sprintf("the files that are picked are over the limit of %d bytes", maxTree))
	case len(c.chosen) == maxFiles:
		return excessError(fmt.Sprintf("over %d files are picked", maxFiles))
	}
	if err := printable(rel); err != nil {
		return err
	}
	c.size += n.size
	c.chosen = append(c.chosen, choice{rel, n})
	return nil
}

// printable refuses names that a listing, a line for each, would be ambiguous with.
func printable(rel string) error {
	if !utf8.ValidString(rel) || strings.ContainsFunc(rel, unicode.IsControl) {
		return fmt.Errorf("%q is picked, but its name is not printable", rel)
	}
	return nil
}

// read reads the files that were chosen.
func (c *chooser) read() (*Tree, error) {
	packs := map[pack]map[string][]byte{}
	for _, file := range c.chosen {
		if packs[file.node.pack] == nil {
			packs[file.node.pack] = map[string][]byte{}
		}
		packs[file.node.pack][file.node.key] = nil
	}
	missing := map[string]error{}
	for p, files := range packs {
		err := p.read(files, func(key string, err error) error {
			i := slices.IndexFunc(c.chosen, func(f choice) bool { return f.node.pack == p && f.node.key == key })
			if err = fmt.Errorf("%s: %w", path.Join(c.pick.Root, c.chosen[i].path), err); !c.pick.Lazy {
				return err
			}
			missing[key] = err
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	tree := c.tree
	for _, file := range c.chosen {
		if err := missing[file.node.key]; err != nil {
			if err := tree.leave(c.pick, file.path, err); err != nil {
				return nil, err
			}
			continue
		}
		tree.Files = append(tree.Files, File{file.path, packs[file.node.pack][file.node.key]})
	}
	slices.SortFunc(tree.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	tree.SHA256 = listing(tree.Files)
	return tree, nil
}
