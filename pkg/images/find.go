// Package images finds the image references of Kubernetes manifests, locks them by digest
// and rewrites them without harm to the YAML.
//
// Call [Finder.Find] on each manifest file, [ResolveLock] on what was found to get a [Lock], and
// on the target [Lock.Relocate] to make the manifests run exactly what the lock names.
package images

import (
	"cmp"
	"fmt"
	"maps"
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

	parts []foundPart
	steps []any // as [documentPlace] has it, in the innermost document
	// isWhole is set if it is all of a scalar, isLoose that a program joins it of flags or variables.
	isWhole, isLoose bool
	// fields are the names of the fields of which the parts are, as a search rule has them.
	fields []string
	// pinsDigest is set if the field of the tag takes a digest alone.
	pinsDigest bool
	err        error // why the parts cannot be edited
}

// Errorf returns an error at the place of what was found, which begins with the resource.
func (f *Found) Errorf(format string, args ...any) *manifest.Error {
	return &manifest.Error{File: f.File, Line: f.Line, Column: f.Column, Problem: f.Resource + ": " + fmt.Sprintf(format, args...)}
}

// foundPart is a piece of the source that a reference is written in.
type foundPart struct {
	span   manifest.Span
	role   partRole
	text   string
	order  int
	isKept bool
}

// partRole says what of a reference a part holds.
type partRole int

const (
	whole partRole = iota
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
	// Added are the images that the definition adds to the lock, with the reason for each. A suspect
	// that is one of them, or its repository, is settled: it stays as it is written.
	Added map[string]string
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
// is not a string is an error.
func (f *Finder) Find(file *manifest.File) ([]Found, error) {
	rules, err := compileRules(f.Rules)
	if err != nil {
		return nil, err
	}
	var found []Found
	for _, doc := range file.Documents {
		w := newWalker(doc, &documentScope{file: file}, rules)
		w.resource, w.found = describeResource(doc), &found
		if err := w.walkDocument(doc); err != nil {
			return nil, err
		}
	}
	for i := range found {
		if one := &found[i]; one.State == Suspect && !(one.IsRun() && canBeReference(one.Image)) {
			reason, ok := f.AllowedReason(one)
			if !ok {
				reason, ok = f.findLockReason(one)
			}
			if ok {
				one.State, one.Reason = Ignored, reason
			}
		}
	}
	return sortFound(found), nil
}

// findLockReason reports whether the definition adds what a suspect names to the lock, and why.
func (f *Finder) findLockReason(suspect *Found) (reason string, ok bool) {
	image := strings.TrimPrefix(strings.TrimPrefix(suspect.Image, "docker://"), "oci://")
	reason, ok = f.Added[image]
	if ok || !isRepository(image) {
		return asWritten + reason, ok
	}
	wanted, err := ParseReference(image)
	if err != nil {
		return "", false
	}
	for _, added := range slices.Sorted(maps.Keys(f.Added)) {
		if ref, err := ParseReference(added); err == nil && ref.Context().Name() == wanted.Context().Name() {
			return asWritten + f.Added[added], true
		}
	}
	return "", false
}

// asWritten begins the reason of what is locked and not rewritten.
const asWritten = "locked, but not rewritten:  "

// sortFound puts what was found in the order of the file, once for each place: what an alias leads
// to can be found in several, as an image in one of them and as something less in others.
func sortFound(found []Found) []Found {
	slices.SortStableFunc(found, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.certaintyRank(), b.certaintyRank()))
	})
	return slices.CompactFunc(found, func(a, b Found) bool {
		// What is encoded has one place and may be several.
		return a.Line == b.Line && a.Column == b.Column && (len(a.parts) > 0 || a.Image == b.Image)
	})
}

// certaintyRank is lower the surer it is.
func (f *Found) certaintyRank() int {
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

// imageWalker goes through a document. A walker of its own goes through each document that a string
// of it holds.
type imageWalker struct {
	// leading is how many blanks the scalar begins with that was asked for last.
	leading struct {
		node   *yaml.Node
		blanks int
	}
	rules    []compiledRule
	scope    *documentScope
	resource string
	inside   string // the path of the string that holds this document, with " | "
	found    *[]Found

	near   *fieldGroup // the mapping that the walker is in
	label  nameLabel   // what is said of the string that holds this document
	config bool        // a ConfigMap or a Secret, or within one: its strings are what programs read
	secret bool
	schema bool // a CustomResourceDefinition
	group  string
	seen   map[*yaml.Node]bool
	taken  map[*yaml.Node]bool  // the scalars that are decided on
	labels map[string]nameLabel // what names of fields say
}

func newWalker(doc *yaml.Node, within *documentScope, rules []compiledRule) *imageWalker {
	w := &imageWalker{rules: rules, scope: within, seen: map[*yaml.Node]bool{}, taken: map[*yaml.Node]bool{}, labels: map[string]nameLabel{}}
	if kind := manifest.GetValue(doc, "kind"); kind != nil {
		w.config = kind.Value == "ConfigMap" || kind.Value == "Secret"
		w.secret = kind.Value == "Secret"
		w.schema = kind.Value == "CustomResourceDefinition"
	}
	w.schema = w.schema || manifest.GetValue(doc, "$schema") != nil
	if version := manifest.GetValue(doc, "apiVersion"); version != nil {
		w.group, _, _ = strings.Cut(version.Value, "/")
	}
	return w
}

// documentPlace is where in a document the walker is: the last step, a key (string) or an index (int), and
// the place before.
type documentPlace struct {
	up *documentPlace
	// step is the last one, nil at the root.
	step any
}

func (p documentPlace) atKey(key string) documentPlace {
	return documentPlace{&p, key}
}

func (p documentPlace) atIndex(i int) documentPlace {
	return documentPlace{&p, i}
}

// stepsFromRoot returns all steps from the root. They are put together where they are asked for: each node has
// one, and a path for each takes the square of the depth.
func (p documentPlace) stepsFromRoot() []any {
	var steps []any
	for at := &p; at.up != nil; at = at.up {
		steps = append(steps, at.step)
	}
	slices.Reverse(steps)
	return steps
}

// pathText returns the way as users read it.
func (p documentPlace) pathText() string {
	var text strings.Builder
	for _, step := range p.stepsFromRoot() {
		key, isKey := step.(string)
		switch {
		case !isKey:
			fmt.Fprintf(&text, "[%d]", step)
		case text.Len() > 0:
			text.WriteString("." + key)
		default:
			text.WriteString(key)
		}
	}
	return text.String()
}

// fieldName returns the key of the field that the place is, or "".
func (p documentPlace) fieldName() string {
	key, _ := p.step.(string)
	return key
}

// parentName returns the key of the mapping that the place is in, or "".
func (p documentPlace) parentName() string {
	if p.up == nil {
		return ""
	}
	return p.up.fieldName()
}

// walkDocument finds all there is in a document: the definition's rules decide first.
func (w *imageWalker) walkDocument(doc *yaml.Node) error {
	if len(w.rules) > 0 {
		if err := w.byRules(doc, documentPlace{}, map[*yaml.Node]bool{}); err != nil {
			return err
		}
	}
	return w.walkNode(doc, documentPlace{})
}

func (w *imageWalker) walkNode(node *yaml.Node, at documentPlace) error {
	// Each node once, however many aliases lead to it: one may lead to itself, and a few
	// may multiply to millions.
	if w.seen[node] {
		return nil
	}
	w.seen[node] = true
	switch node.Kind {
	case yaml.AliasNode:
		return w.walkNode(node.Alias, at)
	case yaml.ScalarNode:
		return w.checkScalar(node, at)
	case yaml.SequenceNode:
		switch at.fieldName() {
		case "args", "command":
			w.findInArguments(node, at)
		case "env":
			w.findInEnvironment(node, at)
		default:
			w.findInPairs(node, at)
		}
		for i, item := range node.Content {
			if err := w.walkNode(item, at.atIndex(i)); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		w.near = fieldsOf(node, at, w.near)
		defer func(outer *fieldGroup) { w.near = outer }(w.near.outer)
		w.findJoinedFields(w.near, at)
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := resolveAlias(node.Content[i]).Value, node.Content[i+1]
			if w.passOver(key, at) {
				continue
			}
			if err := w.findInContainers(key, value, at.atKey(key)); err != nil {
				return err
			}
			if err := w.walkNode(value, at.atKey(key)); err != nil {
				return err
			}
		}
	}
	return nil
}

// passOver reports whether a field is out of the rules' reach: what describes the values of a
// schema, and text that a checksum next to it covers (Knative's ConfigMaps).
func (w *imageWalker) passOver(key string, at documentPlace) bool {
	if w.schema {
		return slices.Contains([]string{"description", "example", "examples", "pattern", "required", "title"}, key)
	}
	return w.config && key == "_example" && at.pathText() == "data"
}

// checkScalar looks at a value that no rule for lists and mappings has decided on.
func (w *imageWalker) checkScalar(node *yaml.Node, at documentPlace) error {
	text, annotation := strings.TrimSpace(node.Value), at.parentName() == "annotations"
	if w.taken[node] || text == "" || node.Tag == "!!null" {
		return nil
	}
	switch {
	case annotation && isProvenance(at.fieldName()):
		w.reportSuspect(node, at, Ignored, howProvenance)
		return nil
	case w.secret && at.parentName() == "data", w.config && at.pathText() == "binaryData."+at.fieldName():
		return w.checkEncoded(node, at)
	case w.schema:
	case strings.Contains(text, "\n"), strings.HasPrefix(text, "{") && strings.HasSuffix(text, "}"), strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]"):
		return w.checkText(node, at, w.rules)
	}
	how := howField
	if annotation {
		how = howAnnotation
	}
	one := &namedField{name: at.fieldName(), value: node}
	near := &fieldGroup{place: func(*namedField) documentPlace { return at }}
	if w.near != nil {
		near.list, near.mapping, near.outer = w.near.list, w.near.mapping, w.near.outer
	}
	w.takeNamed(near, one, w.labelAt(at), how)
	switch {
	case w.taken[node]:
	case w.config && !annotation && !w.schema:
		w.inText(node, at, Image, howText)
		if !w.taken[node] && isPointer(text) {
			w.addFound(w.wholeScalar(node, at, Suspect, howText))
		}
	default:
		w.reportSuspect(node, at, Suspect, howSweep)
	}
	return nil
}

func resolveAlias(node *yaml.Node) *yaml.Node {
	if node != nil && node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func describeResource(doc *yaml.Node) string {
	kind, name := manifest.GetValue(doc, "kind"), manifest.GetValue(manifest.GetValue(doc, "metadata"), "name")
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

// KeptFields returns the fields of an image that stay as they are when the rest of it points to the locked one,
// each with its value: what they say is upstream's.
func (f *Found) KeptFields() (kept []string) {
	parts := slices.Clone(f.parts)
	slices.SortFunc(parts, func(a, b foundPart) int { return a.order - b.order })
	for _, p := range parts {
		if p.isKept {
			kept = append(kept, f.fields[p.order]+" "+p.text)
		}
	}
	return kept
}

// CheckEditable says why an image cannot be rewritten in place, if so.
func (f *Found) CheckEditable() error { return f.err }
