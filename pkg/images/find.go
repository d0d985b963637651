// Package images finds the image references of Kubernetes manifests, locks them by digest
// and rewrites them without harm to the YAML.
//
// Call [Finder.Find] on each manifest file, [Resolve] on what was found to get a [Lock], and
// on the target [Lock.Relocate] to make the manifests run exactly what the lock names.
package images

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// State says what becomes of something that was found.
type State string

// The states.
const (
	// Image is an image: it is locked, and relocated on the target.
	Image State = "image"
	// Suspect looks like an image where none is known to be: it is reported and left alone.
	Suspect State = "suspect"
	// Ignored is allowed by a rule, with its reason.
	Ignored State = "ignored"
)

// Found is something in a manifest that is, or looks like, an image reference.
type Found struct {
	// Image is the reference, put together when it is written in several fields.
	Image string
	State State
	// How names the rule that found it, for example "container" or "argument".
	How string
	// Reason says why it is ignored.
	Reason string
	// File, Line and Column are where it stands; both count from 1.
	File         string
	Line, Column int
	// Resource is the kind and name of the resource that it belongs to.
	Resource string
	// Path is the way from the resource to the field, as in spec.containers[0].image; what is
	// inside a string that holds a document comes after " | ".
	Path string

	parts []part
	err   error // why the parts can't be edited
}

// Errorf is an error at the place of what was found, which begins with the resource.
func (f *Found) Errorf(format string, args ...any) *manifest.Error {
	return &manifest.Error{File: f.File, Line: f.Line, Column: f.Column, Problem: f.Resource + ": " + fmt.Sprintf(format, args...)}
}

// part is a piece of the source that a reference is written in.
type part struct {
	span manifest.Span
	role role
	text string
}

// role says what of a reference a part holds.
type role int

const (
	whole role = iota
	registry
	repository // with or without the registry, as there is a part for it
	tag
	digest
)

// A Finder finds images. Its zero value has the built-in rules only.
type Finder struct {
	// Rules come before the built-in ones; the first that matches a field counts.
	Rules []Rule
	// NotImages are suspects that are not to be locked. They have no effect on images, nor on what a
	// container names, unless that is a placeholder that no runtime could take for a reference.
	NotImages []NotImage
}

// The rules, as [Found] calls them.
const (
	howContainer   = "container"
	howVolume      = "image volume"
	howField       = "image field"
	howSplit       = "split fields"
	howArgument    = "argument"
	howEnvironment = "environment"
	howText        = "text"
	howAnnotation  = "annotation"
	howRule        = "search rule"
	howSweep       = "sweep"
	howProvenance  = "provenance"
)

// Find lists what a file names, in the order of the file:
//
//   - images in container fields at any depth of any kind of resource, in image volumes
//     (Kubernetes v1.Volume), and in the steps of Tekton and Argo Workflows;
//   - in fields, annotations, arguments and environment variables that are called image, and
//     in arguments and variables that hold a full reference;
//   - images written over several fields, as repository, tag and digest;
//   - all of these in the documents that strings hold, and full references in the text of
//     ConfigMaps.
//
// Anything else that looks like a reference is a [Suspect]. An image field of a container that
// is no string is an error.
func (f *Finder) Find(file *manifest.File) ([]Found, error) {
	rules, err := compile(f.Rules)
	if err != nil {
		return nil, err
	}
	var found []Found
	for _, doc := range file.Documents {
		w := newWalker(doc, &scope{file: file}, rules)
		w.resource, w.found = describe(doc), &found
		if err := w.document(doc); err != nil {
			return nil, err
		}
	}
	for i := range found {
		if one := &found[i]; one.State == Suspect && !(one.IsRun() && canBeReference(one.Image)) {
			if reason, ok := f.Allows(one.Image); ok {
				one.State, one.Reason = Ignored, reason
			}
		}
	}
	return settle(found), nil
}

// settle puts what was found in the order of the file, once for each place: what an alias leads
// to can be found in several, as an image in one of them and as something less in others.
func settle(found []Found) []Found {
	slices.SortStableFunc(found, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.rank(), b.rank()))
	})
	return slices.CompactFunc(found, func(a, b Found) bool { return a.Line == b.Line && a.Column == b.Column })
}

// rank is lower the surer it is.
func (f *Found) rank() int {
	switch {
	case f.IsRun():
		return 0
	case f.How == howRule:
		return 1
	case f.State == Image:
		return 2
	}
	return 3
}

// walker goes through a document. A walker of its own goes through each document that a string
// of it holds.
type walker struct {
	rules    []rule
	scope    *scope
	resource string
	inside   string // the path of the string that holds this document, with " | "
	found    *[]Found

	config bool // a ConfigMap or a Secret, or within one: its strings are what programs read
	secret bool
	schema bool // a CustomResourceDefinition
	group  string
	seen   map[*yaml.Node]bool
	taken  map[*yaml.Node]bool // the scalars that are decided on
}

func newWalker(doc *yaml.Node, within *scope, rules []rule) *walker {
	w := &walker{rules: rules, scope: within, seen: map[*yaml.Node]bool{}, taken: map[*yaml.Node]bool{}}
	if kind := manifest.Get(doc, "kind"); kind != nil {
		w.config = kind.Value == "ConfigMap" || kind.Value == "Secret"
		w.secret = kind.Value == "Secret"
		w.schema = kind.Value == "CustomResourceDefinition"
	}
	if version := manifest.Get(doc, "apiVersion"); version != nil {
		w.group, _, _ = strings.Cut(version.Value, "/")
	}
	return w
}

// place is where in a document the walker is: the way there as users read it, and as keys
// (string) and indexes (int).
type place struct {
	path string
	way  []any
}

func (p place) key(key string) place {
	return place{strings.TrimPrefix(p.path+"."+key, "."), append(slices.Clip(p.way), key)}
}

func (p place) item(i int) place {
	return place{fmt.Sprintf("%s[%d]", p.path, i), append(slices.Clip(p.way), i)}
}

// field is the key of the field that the place is, or "".
func (p place) field() string {
	if len(p.way) == 0 {
		return ""
	}
	key, _ := p.way[len(p.way)-1].(string)
	return key
}

// parent is the key of the mapping that the place is in, or "".
func (p place) parent() string {
	if len(p.way) < 2 {
		return ""
	}
	key, _ := p.way[len(p.way)-2].(string)
	return key
}

// document finds all there is in a document: the definition's rules decide first.
func (w *walker) document(doc *yaml.Node) error {
	if len(w.rules) > 0 {
		if err := w.byRules(doc, place{}, map[*yaml.Node]bool{}); err != nil {
			return err
		}
	}
	return w.walk(doc, place{})
}

func (w *walker) walk(node *yaml.Node, at place) error {
	// Each node once, however many aliases lead to it: one may lead to itself, and a few
	// may multiply to millions.
	if w.seen[node] {
		return nil
	}
	w.seen[node] = true
	switch node.Kind {
	case yaml.AliasNode:
		return w.walk(node.Alias, at)
	case yaml.ScalarNode:
		return w.scalar(node, at)
	case yaml.SequenceNode:
		switch at.field() {
		case "args", "command":
			w.arguments(node, at)
		case "env":
			w.environment(node, at)
		}
		for i, item := range node.Content {
			if err := w.walk(item, at.item(i)); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		w.split(node, at)
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := target(node.Content[i]).Value, node.Content[i+1]
			if w.passOver(key, at) {
				continue
			}
			if err := w.containers(key, value, at.key(key)); err != nil {
				return err
			}
			if err := w.walk(value, at.key(key)); err != nil {
				return err
			}
		}
	}
	return nil
}

// passOver says whether a field is out of the rules' reach: what describes the values of a
// schema, and text that a checksum beside it covers (Knative's ConfigMaps).
func (w *walker) passOver(key string, at place) bool {
	if w.schema {
		return slices.Contains([]string{"description", "example", "examples", "pattern", "title"}, key)
	}
	return w.config && key == "_example" && at.path == "data"
}

// scalar looks at a value that no rule for lists and mappings has decided on.
func (w *walker) scalar(node *yaml.Node, at place) error {
	text, annotation := strings.TrimSpace(node.Value), at.parent() == "annotations"
	if w.taken[node] || text == "" || node.Tag == "!!null" {
		return nil
	}
	switch {
	case annotation && isProvenance(at.field()):
		w.report(node, at, Ignored, howProvenance)
	case w.schema:
		w.report(node, at, Suspect, howSweep)
	case isImageKey(at.field()) && isNamed(text):
		how := howField
		if annotation {
			how = howAnnotation
		}
		w.take(node, at, how)
	case at.field() == "image" && node.Tag == "!!str" && isWord(text):
		w.add(w.whole(node, at, Suspect, howField))
	case w.config && isFull(text):
		w.take(node, at, howText)
	case w.secret && at.parent() == "data":
		w.encoded(node, at)
	case strings.Contains(text, "\n"), strings.HasPrefix(text, "{") && strings.HasSuffix(text, "}"):
		return w.text(node, at, w.rules)
	default:
		w.report(node, at, Suspect, howSweep)
	}
	return nil
}

func target(node *yaml.Node) *yaml.Node {
	if node != nil && node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func describe(doc *yaml.Node) string {
	kind, name := manifest.Get(doc, "kind"), manifest.Get(manifest.Get(doc, "metadata"), "name")
	switch {
	case kind == nil:
		return "document"
	case name == nil:
		return kind.Value
	}
	return kind.Value + " " + name.Value
}

// IsRun reports whether a node of the cluster fetches the image as the field names it: it is that of a
// container or of an image volume. No rule of a definition takes such an image out of the lock.
func (f *Found) IsRun() bool { return f.How == howContainer || f.How == howVolume }

// Editable says why an image can't be rewritten in place, if so.
func (f *Found) Editable() error { return f.err }
