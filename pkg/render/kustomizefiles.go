package render

import (
	"errors"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/types"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// UsedFiles finds the files that a kustomization uses among many. Whatever a kustomization or the
// configuration of a plugin names counts as used, and so does what might only look like a name.
type UsedFiles struct {
	root     string
	mentions map[string][]string // by file: its scalars that can be names
	plugins  map[string][]string // by kustomization: its generators, transformers and validators
	lookups  int
}

// NewUsedFiles finds what the kustomization in a folder uses.
func NewUsedFiles(root string) *UsedFiles {
	return &UsedFiles{root: path.Clean(root), mentions: map[string][]string{}, plugins: map[string][]string{}}
}

// maxLookups limits how many names are looked for: each takes a microsecond.
const maxLookups = 20_000_000

var errTooManyLookups = errors.New("kustomizations name too many files")

// Find returns the names of used files, as far as the files that were read tell: read these and call it
// again, until there are no other ones. names are those of all files that there are, sorted.
func (u *UsedFiles) Find(names []string, read map[string][]byte) ([]string, error) {
	w := u.newWalk(names, read)
	err := w.addFolder(u.root)
	return w.list, err
}

// usedWalk is one walk over kustomizations.
type usedWalk struct {
	*UsedFiles
	names []string
	read  map[string][]byte
	list  []string // the used files
	used  map[string]bool
	seen  map[string]bool // folders
}

func (u *UsedFiles) newWalk(names []string, read map[string][]byte) *usedWalk {
	return &usedWalk{UsedFiles: u, names: names, read: read, used: map[string]bool{}, seen: map[string]bool{}}
}

func (w *usedWalk) isFile(name string) bool {
	_, is := slices.BinarySearch(w.names, name)
	return is
}

// firstBelow returns the first file below a folder; "" if there is no such folder.
func (w *usedWalk) firstBelow(dir string) string {
	prefix := dir + "/"
	if dir == "." {
		prefix = ""
	}
	i, _ := slices.BinarySearch(w.names, prefix)
	if i < len(w.names) && strings.HasPrefix(w.names[i], prefix) {
		return w.names[i]
	}
	return ""
}

func (w *usedWalk) add(name string) {
	if !w.used[name] {
		w.used[name] = true
		w.list = append(w.list, name)
	}
}

// addFolder adds the kustomization of a folder and what it uses. Of a folder without one it adds a file, by
// which it is known to be there.
func (w *usedWalk) addFolder(dir string) error {
	if w.seen[dir] {
		return nil
	}
	w.seen[dir] = true
	found := false
	for _, base := range konfig.RecognizedKustomizationFileNames() {
		name := path.Join(dir, base)
		if !w.isFile(name) {
			continue
		}
		found = true
		w.add(name)
		if err := w.addMentions(name, dir); err != nil {
			return err
		}
		if err := w.addPlugins(name, dir); err != nil {
			return err
		}
	}
	if first := w.firstBelow(dir); !found && first != "" {
		w.add(first)
	}
	return nil
}

// addMentions adds what a file names in a folder.
func (w *usedWalk) addMentions(name, dir string) error {
	for _, text := range w.listMentions(name) {
		if w.lookups++; w.lookups > maxLookups {
			return errTooManyLookups
		}
		at := path.Join(dir, text)
		switch {
		case w.isFile(at):
			w.add(at)
		case w.firstBelow(at) != "":
			if err := w.addFolder(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// addPlugins adds what the configuration of plugins names: it is looked for in the folder of the kustomization
// that has the plugins, wherever their configuration lies.
func (w *usedWalk) addPlugins(name, dir string) error {
	for _, config := range w.listPlugins(name) {
		at := path.Join(dir, config)
		files := []string{at}
		if !w.isFile(at) {
			inner := w.newWalk(w.names, w.read)
			if err := inner.addFolder(at); err != nil {
				return err
			}
			files = inner.list
		}
		for _, file := range files {
			if err := w.addMentions(file, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// listPlugins returns the generators, transformers and validators of a kustomization that was read.
func (w *usedWalk) listPlugins(name string) []string {
	data, there := w.read[name]
	list, known := w.plugins[name]
	if known || !there {
		return list
	}
	var k types.Kustomization
	if err := k.Unmarshal(data); err == nil { // kustomize says what is wrong with it
		for _, config := range slices.Concat(k.Generators, k.Transformers, k.Validators) {
			if isMention(config) && !slices.Contains(list, config) {
				list = append(list, config)
			}
		}
	}
	w.plugins[name] = list
	return list
}

// listMentions returns what a file that was read may name.
func (w *usedWalk) listMentions(name string) []string {
	data, there := w.read[name]
	list, known := w.mentions[name]
	if known || !there {
		return list
	}
	if parsed, err := manifest.Parse(name, data); err == nil { // likewise
		for _, doc := range parsed.Documents {
			list = appendMentions(list, doc)
		}
	}
	w.mentions[name] = list
	return list
}

// appendMentions appends the scalars of a node that can be names, and those of YAML inside of them.
func appendMentions(list []string, node *yaml.Node) []string {
	switch {
	case node.Kind != yaml.ScalarNode:
		for _, child := range node.Content {
			list = appendMentions(list, child)
		}
	case strings.Contains(node.Value, "\n"):
		if parsed, err := manifest.Parse("", []byte(node.Value)); err == nil {
			for _, doc := range parsed.Documents {
				if doc.Kind != yaml.ScalarNode {
					list = appendMentions(list, doc)
				}
			}
		}
	default:
		_, file, _ := strings.Cut(node.Value, "=") // KEY=FILE of a generator
		for _, text := range []string{node.Value, file} {
			if isMention(text) {
				list = append(list, text)
			}
		}
	}
	return list
}

func isMention(text string) bool {
	return text != "" && len(text) <= maxMention && !path.IsAbs(text) && !strings.Contains(text, "\n")
}

// maxMention is the longest path.
const maxMention = 4096
