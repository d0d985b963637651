package starter

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layers"
)

// File is a file to write, with a slash path relative to the folder of the runtime.
type File struct {
	Path string
	Data []byte
}

// Files returns the runtime's definition, the record of the decisions, and the ready bundles below
// bundles/, sorted by path.
//
// Errors: the definition is none, because of its name or version ([*manifest.Error]).
func (s *Start) Files() ([]File, error) {
	runtime := s.formatRuntime()
	if _, err := bundle.Parse("runtime.yaml", runtime); err != nil {
		return nil, err
	}
	all := []File{{"DECISIONS.md", s.formatDecisions()}, {"runtime.yaml", runtime}}
	for _, u := range s.Bundles {
		err := fs.WalkDir(bundles.Files, u.Path, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			data, err := bundles.Files.ReadFile(name)
			all = append(all, File{path.Join("bundles", name), data})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

// formatRuntime returns the definition.
func (s *Start) formatRuntime() []byte {
	var b bytes.Buffer
	from := ""
	if s.Answers.From != "" {
		from = fmt.Sprintf(", from the ready runtime %s", s.Answers.From)
	}
	fmt.Fprintf(&b, "# Begun by krtpkg init%s. DECISIONS.md has what was decided, and what is open.\n", from)
	fmt.Fprintf(&b, "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata:\n  name: %q\n  version: %q\nspec:\n", s.Answers.Name, s.Answers.Version)
	if len(s.Outside) > 0 {
		fmt.Fprintf(&b, "  # What comes from outside the runtime.\n  provided:\n")
		for _, o := range s.Outside {
			writeComment(&b, "    ", o.Why)
			fmt.Fprintf(&b, "    - %s\n", o.Capability)
		}
	}
	fmt.Fprintf(&b, "  bundles:\n")
	last := -1
	for _, u := range s.Bundles {
		if u.Layer != last {
			if last >= 0 {
				fmt.Fprintln(&b)
			}
			fmt.Fprintf(&b, "    # Layer %d, %s.\n", u.Layer, layers.LayerName(u.Layer))
			last = u.Layer
		}
		writeComment(&b, "    ", u.Why)
		fmt.Fprintf(&b, "    - path: bundles/%s\n", u.Path)
	}
	for _, w := range s.Wanting {
		fmt.Fprintf(&b, "    # %s has no ready bundle: write it, and name its folder here.\n    # - path: bundles/%s\n", w.Product.Name, w.bundlePath())
	}
	return b.Bytes()
}

// bundlePath returns where the bundle of a product would be.
func (c Chosen) bundlePath() string {
	layer := fmt.Sprintf("%d-%s", c.Layer, strings.ReplaceAll(layers.LayerName(c.Layer), " ", "-"))
	return path.Join(layer, c.Category.ID, c.Product.ID)
}

// writeComment writes a text of any number of lines, wrapped.
func writeComment(b *bytes.Buffer, indent, text string) {
	line := indent + "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > 100 {
			fmt.Fprintln(b, line)
			line = indent + "#"
		}
		line += " " + word
	}
	if line != indent+"#" {
		fmt.Fprintln(b, line)
	}
}

// formatDecisions returns the record: each category with its purpose, what fills it and why, and the
// questions with their answers.
func (s *Start) formatDecisions() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Decisions about %s\n\n", s.Answers.Name)
	fmt.Fprintf(&b, "What fills each category of the layers, and why. A question without an answer is open.\n")
	for number, l := range s.model.Layers {
		fmt.Fprintf(&b, "\n## Layer %d: %s\n", number, l.Name)
		for _, c := range l.Categories {
			s.writeDecision(&b, number, c)
		}
	}
	return b.Bytes()
}

func (s *Start) writeDecision(b *bytes.Buffer, layer int, c layers.Category) {
	d := s.Answers.Decisions[c.ID]
	fmt.Fprintf(b, "\n### %s\n\n%s\n\n", c.Title, c.Purpose)
	decided := false
	for _, u := range s.Bundles {
		if u.Layer == layer && u.Category == c.ID {
			writeItem(b, "**%s** %s. %s", u.Name, u.Version, u.Why)
			decided = true
		}
	}
	for _, w := range s.Wanting {
		if w.Layer == layer && w.Category.ID == c.ID {
			writeItem(b, "**%s**, whose bundle has to be written. %s", w.Product.Name, w.Why)
			decided = true
		}
	}
	for _, id := range d.Products {
		if p, _ := findProduct(c, id); p.Delivery != layers.Manifests && p.Delivery != layers.Chart && !s.hasBundle(layer, c, id) {
			writeItem(b, "**%s**, from outside the runtime (%s). %s %s", p.Name, p.Delivery, d.Why, p.Note)
			decided = true
		}
	}
	switch {
	case d.Outside != "":
		writeItem(b, "From outside the runtime: %s. %s", d.Outside, d.Why)
	case d.Later:
		writeItem(b, "Nothing for now. %s", d.Why)
	case !decided:
		writeItem(b, "Not decided.")
	}
	for i, question := range c.Questions {
		answer := "open"
		if i < len(d.Answers) && d.Answers[i] != "" {
			answer = d.Answers[i]
		}
		writeItem(b, "%s _%s_", question, answer)
	}
}

func (s *Start) hasBundle(layer int, c layers.Category, product string) bool {
	return slices.ContainsFunc(s.Bundles, func(u bundles.Use) bool {
		return u.Layer == layer && u.Category == c.ID && u.Product == product
	})
}

// writeItem writes an item of a list, as one line.
func writeItem(b *bytes.Buffer, format string, args ...any) {
	fmt.Fprintf(b, "- %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// oneLine keeps a text from adding lines of its own.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
