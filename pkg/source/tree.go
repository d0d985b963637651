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

// Limits on the tree from which files are picked.
const (
	maxTree    = 512 << 20 // all picked files
	maxEntries = 1_000_000
	maxName    = 4096
	maxNames   = 256 << 20 // the names of all entries and the targets of links
	maxLinks   = 8         // in a chain
)

// entryTree is the tree of the entries of an archive, a commit or an artifact, before any file is
// read. All names come from outside.
type entryTree struct {
	root    *node
	entries int
	names   int
}

type entryKind int

const (
	isFolder entryKind = iota
	isFile
	isLink
	isSubmodule
	isOther // a device, a pipe
)

// node is an entry. A link leads to target from its own folder, or from the top.
type node struct {
	kind     entryKind
	children map[string]*node
	target   string
	fromTop  bool
	// pack has the bytes of a file under key.
	pack contentReader
	key  string
	size int64
}

// contentReader reads the files that are keys of the map. It calls failed for a file that it cannot
// read, and goes on if that returns nil.
type contentReader interface {
	readFiles(files map[string][]byte, failed func(key string, err error) error) error
}

func newEntryTree() *entryTree { return &entryTree{root: newFolder()} }

func newFolder() *node { return &node{kind: isFolder, children: map[string]*node{}} }

// cleanEntryName checks the name of an entry and returns it as a path from the root.
func cleanEntryName(name string) (string, error) {
	clean := path.Clean(name)
	switch {
	case len(name) > maxName:
		return "", fmt.Errorf("entry %.40q… has a name of over %d bytes", name, maxName)
	case name == "", strings.ContainsAny(name, "\\\x00"), !filepath.IsLocal(filepath.FromSlash(clean)), slices.Contains(strings.Split(name, "/"), ".."):
		return "", fmt.Errorf("entry %q leaves the tree", name)
	}
	return clean, nil
}

// addEntry adds an entry to the tree.
func (t *entryTree) addEntry(name string, n *node) error {
	clean, err := cleanEntryName(name)
	if err != nil {
		return err
	}
	if len(n.target) > maxName {
		return fmt.Errorf("entry %q is a link of over %d bytes", name, maxName)
	}
	t.entries++
	t.names += len(name) + len(n.target)
	if t.entries > maxEntries || t.names > maxNames {
		return errTooManyEntries
	}
	if clean == "." {
		if n.kind == isFolder {
			return nil
		}
		return fmt.Errorf("entry %q has no name", name)
	}
	at := t.root
	dir, base := path.Split(clean)
	for element := range strings.SplitSeq(strings.TrimSuffix(dir, "/"), "/") {
		if element == "" {
			continue
		}
		next := at.children[element]
		if next == nil {
			if t.entries++; t.entries > maxEntries {
				return errTooManyEntries
			}
			next = newFolder()
			at.children[element] = next
		}
		if at = next; at.kind != isFolder {
			return fmt.Errorf("entry %q is below %s, which is not a folder", name, element)
		}
	}
	before := at.children[base]
	switch {
	case before == nil:
		at.children[base] = n
	case before.kind != isFolder || n.kind != isFolder:
		return fmt.Errorf("duplicate entry %q", name)
	}
	return nil
}

var errTooManyEntries = fmt.Errorf("more than %d entries or %d bytes of names", maxEntries, maxNames)

var (
	errLinkOutside  = errors.New("leads out of the tree")
	errLinkMissing  = errors.New("leads to a missing file")
	errTooManyLinks = fmt.Errorf("leads through more than %d links", maxLinks)
)

// resolvePath follows a path from a folder, through links, and returns the node at its end.
func (t *entryTree) resolvePath(from []string, to string) (*node, []string, error) {
	at := []*node{t.root}
	var names []string
	links := 0
	todo := append(slices.Clone(from), strings.Split(to, "/")...)
	if path.IsAbs(to) {
		return nil, nil, errLinkOutside
	}
	for len(todo) > 0 {
		element := todo[0]
		todo = todo[1:]
		switch element {
		case "", ".":
			continue
		case "..":
			if len(names) == 0 {
				return nil, nil, errLinkOutside
			}
			at, names = at[:len(at)-1], names[:len(names)-1]
			continue
		}
		next := at[len(at)-1].children[element]
		switch {
		case next == nil:
			return nil, names, errLinkMissing
		case next.kind != isLink:
			at, names = append(at, next), append(names, element)
			continue
		case path.IsAbs(next.target):
			return nil, nil, errLinkOutside
		}
		if links++; links > maxLinks {
			return nil, nil, errTooManyLinks
		}
		if next.fromTop {
			at, names = at[:1], names[:0]
		}
		todo = append(strings.Split(next.target, "/"), todo...)
	}
	return at[len(at)-1], names, nil
}

// pickedFile is a picked file and its path from the root.
type pickedFile struct {
	path string
	node *node
}

// picker walks a tree and collects the picked files.
type picker struct {
	*entryTree
	pick          Pick
	picked        []pickedFile
	size          int64
	walked        int
	walkedNames   int
	excess        error // the first limit that all picked files together are over
	links         int
	linkedFolders [][]string // the linked folders that the walk is in
	tree          *Tree
}

// pickFiles reads the picked files.
func (t *entryTree) pickFiles(pick Pick) (*Tree, error) {
	if err := pick.validate(); err != nil {
		return nil, err
	}
	root, at, err := t.resolvePath(nil, pick.Root)
	switch {
	case errors.Is(err, errLinkMissing):
		return nil, t.missingFolderError(pick.Root, at)
	case err != nil:
		return nil, fmt.Errorf("%s %w", pick.Root, err)
	case root.kind != isFolder:
		return nil, fmt.Errorf("%s is not a folder", pick.Root)
	}
	c := &picker{entryTree: t, pick: pick, tree: &Tree{}}
	if err := c.walkFolder(root, at, ""); err != nil {
		return nil, err
	}
	switch {
	case c.excess != nil && !c.canNarrow():
		return nil, c.excess
	case c.excess != nil:
		return c.readUsed()
	case len(c.picked) > 0:
		return c.readPicked()
	case pick.All:
		return nil, errors.New("no file is included")
	}
	return nil, errors.New("no YAML or JSON file is included")
}

// missingFolderError lists the folders that exist where one is missing.
func (t *entryTree) missingFolderError(root string, at []string) error {
	dir, where := t.root, "at the top"
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
		return fmt.Errorf("folder %s not found: no folder %s", root, where)
	case len(there) > 8:
		there = append(there[:8], "…")
	}
	return fmt.Errorf("folder %s not found: folders %s are %s", root, where, strings.Join(there, ", "))
}

func (c *picker) walkFolder(dir *node, at []string, rel string) error {
	for _, name := range slices.Sorted(maps.Keys(dir.children)) {
		n := dir.children[name]
		rel := path.Join(rel, name)
		here := append(slices.Clip(at), name)
		err := c.countEntry(rel)
		switch {
		case err != nil:
			return err
		case n.kind == isFolder:
			err = c.walkFolder(n, here, rel)
		case matchesAny(rel, c.pick.Exclude):
		case n.kind == isSubmodule:
			if c.pick.mayMatchBelow(rel) {
				err = fmt.Errorf("%s is a submodule, which is not fetched: add it as a separate source, or exclude it", path.Join(here...))
			}
		case n.kind == isLink:
			err = c.addLink(n, at, rel, path.Join(here...))
		case c.pick.matches(rel):
			err = c.addFile(n, rel, path.Join(here...))
		}
		if n.kind != isFolder && !isLimitError(err) {
			err = c.tree.leaveOut(c.pick, rel, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// limitError is the error of picking too much; leaving out a single file does not help.
type limitError string

func (e limitError) Error() string { return string(e) }

func isLimitError(err error) bool {
	var excess limitError
	return errors.As(err, &excess)
}

func (c *picker) canNarrow() bool { return c.pick.Lazy && c.pick.FindUsed != nil }

// countEntry counts an entry that the walk comes to: linked folders may have it come to one again and again.
func (c *picker) countEntry(rel string) error {
	c.walked, c.walkedNames = c.walked+1, c.walkedNames+len(rel)
	if c.walked > maxEntries || c.walkedNames > maxNames {
		return errTooManyEntries
	}
	return nil
}

// checkTotal returns an error if all picked files are over limits together. Of a pick that can be narrowed it
// only notes that: there a file that is not used does not count.
func (c *picker) checkTotal(files, links int, size int64) error {
	var err error
	switch {
	case files > maxFiles:
		err = limitError(fmt.Sprintf("more than %d files are picked", maxFiles))
	case links > maxFiles:
		err = limitError(fmt.Sprintf("more than %d links are picked", maxFiles))
	case size > maxTree:
		err = limitError(fmt.Sprintf("picked files are over the limit of %d bytes", maxTree))
	}
	if c.canNarrow() {
		c.excess = cmp.Or(c.excess, err)
		return nil
	}
	return err
}

// addLink adds the file that a link leads to, or the files of a folder.
func (c *picker) addLink(n *node, at []string, rel, name string) error {
	if !c.pick.matches(rel) && !c.pick.mayMatchBelow(rel) {
		return nil
	}
	c.links++
	if err := c.checkTotal(0, c.links, 0); err != nil {
		return err
	}
	if n.fromTop {
		at = nil
	}
	end, where, err := c.resolvePath(at, n.target)
	switch {
	case err == nil && end.kind == isFolder && c.pick.All && c.pick.mayMatchBelow(rel):
		return c.addLinkedFolder(end, where, rel, name)
	case err == nil && end.kind == isFolder && c.pick.mayMatchBelow(rel):
		return fmt.Errorf("%s is a link to a folder: add that folder as a separate source, or exclude the link", name)
	case !c.pick.matches(rel):
		return nil
	case err != nil:
		return fmt.Errorf("%s is a link that %w", name, err)
	}
	return c.addFile(end, rel, name)
}

// addLinkedFolder adds the files of a folder that a link leads to, under the path of the link.
func (c *picker) addLinkedFolder(dir *node, at []string, rel, name string) error {
	var from []string
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		from = strings.Split(name[:i], "/")
	}
	for _, outer := range append(c.linkedFolders, from) {
		if len(outer) >= len(at) && slices.Equal(outer[:len(at)], at) {
			return fmt.Errorf("%s is a link to a folder that contains it", name)
		}
	}
	if len(c.linkedFolders) == maxLinks {
		return fmt.Errorf("%s %w", name, errTooManyLinks)
	}
	c.linkedFolders = append(c.linkedFolders, at)
	defer func() { c.linkedFolders = c.linkedFolders[:len(c.linkedFolders)-1] }()
	return c.walkFolder(dir, at, rel)
}

func (c *picker) addFile(n *node, rel, name string) error {
	switch {
	case n.kind != isFile:
		return fmt.Errorf("entry %q is not a regular file", name)
	case n.size > maxFile:
		return fmt.Errorf("%s: %d bytes are over the limit of %d", name, n.size, maxFile)
	}
	if err := c.checkTotal(len(c.picked)+1, 0, c.size+n.size); err != nil {
		return err
	}
	if err := checkPrintable(rel); err != nil {
		return err
	}
	c.size += n.size
	c.picked = append(c.picked, pickedFile{rel, n})
	return nil
}

// checkPrintable refuses names that would make a listing, one line a file, ambiguous.
func checkPrintable(rel string) error {
	// Format characters change the order of a text or hide parts of it.
	isHidden := func(r rune) bool { return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) }
	if !utf8.ValidString(rel) || strings.ContainsFunc(rel, isHidden) {
		return fmt.Errorf("%q is picked, but its name is not printable", rel)
	}
	return nil
}

// readPicked reads the picked files.
func (c *picker) readPicked() (*Tree, error) {
	if err := c.readFiles(c.picked); err != nil {
		return nil, err
	}
	return c.finishTree(), nil
}

// readUsed reads those of the picked files that are used.
func (c *picker) readUsed() (*Tree, error) {
	there := map[string]*node{}
	for _, file := range c.picked {
		there[file.path] = file.node
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(there)), maps.Keys(c.tree.Absent))
	slices.Sort(names)
	used, read := map[string]bool{}, map[string][]byte{}
	var size int64
	for range maxSteps {
		list, err := c.pick.FindUsed(names, read)
		if err != nil {
			return nil, err
		}
		var next []pickedFile
		for _, name := range list {
			if n := there[name]; n != nil && !used[name] {
				next = append(next, pickedFile{name, n})
				size += n.size
			}
			used[name] = true
		}
		switch {
		case len(next) == 0:
			maps.DeleteFunc(c.tree.Absent, func(name, _ string) bool { return !used[name] })
			return c.finishTree(), nil
		case len(read)+len(next) > maxFiles:
			return nil, fmt.Errorf("more than %d files are used", maxFiles)
		case size > maxTree:
			return nil, fmt.Errorf("used files are over the limit of %d bytes", maxTree)
		}
		before := len(c.tree.Files)
		if err := c.readFiles(next); err != nil {
			return nil, err
		}
		for _, file := range c.tree.Files[before:] {
			read[file.Path] = file.Data
		}
	}
	return nil, fmt.Errorf("used files name others over %d steps", maxSteps)
}

// maxSteps limits how often the files of a narrowed pick are read: an archive is unpacked each time.
const maxSteps = 50

// readFiles reads files into the tree.
func (c *picker) readFiles(list []pickedFile) error {
	packs := map[contentReader]map[string][]byte{}
	for _, file := range list {
		if packs[file.node.pack] == nil {
			packs[file.node.pack] = map[string][]byte{}
		}
		packs[file.node.pack][file.node.key] = nil
	}
	missing := map[string]error{}
	for p, files := range packs {
		err := p.readFiles(files, func(key string, err error) error {
			i := slices.IndexFunc(list, func(f pickedFile) bool { return f.node.pack == p && f.node.key == key })
			if err = fmt.Errorf("%s: %w", path.Join(c.pick.Root, list[i].path), err); !c.pick.Lazy {
				return err
			}
			missing[key] = err
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, file := range list {
		if err := missing[file.node.key]; err != nil {
			if err := c.tree.leaveOut(c.pick, file.path, err); err != nil {
				return err
			}
			continue
		}
		c.tree.Files = append(c.tree.Files, File{file.path, packs[file.node.pack][file.node.key]})
	}
	return nil
}

// finishTree returns the tree with all that was read, in order.
func (c *picker) finishTree() *Tree {
	slices.SortFunc(c.tree.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	c.tree.SHA256 = listingDigest(c.tree.Files)
	return c.tree
}
