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

// partRole is the part of a reference that a field holds.
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
	names := knownNames{}
	for _, doc := range file.Documents {
		w := newWalker(doc, &documentScope{file: file, names: names}, rules)
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
	// containers are the fields of the API group that hold containers.
	containers []string
	seen       map[*yaml.Node]bool // the nodes with an anchor that have come
	taken      map[*yaml.Node]bool // the scalars that are decided on
	frames     []*walkFrame
	depth      int // how many of the frames are in use
}

func newWalker(doc *yaml.Node, within *documentScope, rules []compiledRule) *imageWalker {
	w := &imageWalker{rules: rules, scope: within, seen: map[*yaml.Node]bool{}, taken: map[*yaml.Node]bool{}}
	if kind := manifest.GetValue(doc, "kind"); kind != nil {
		w.config = kind.Value == "ConfigMap" || kind.Value == "Secret"
		w.secret = kind.Value == "Secret"
		w.schema = kind.Value == "CustomResourceDefinition"
	}
	w.schema = w.schema || manifest.GetValue(doc, "$schema") != nil
	if version := manifest.GetValue(doc, "apiVersion"); version != nil {
		group, _, _ := strings.Cut(version.Value, "/")
		w.containers = containerFields[group]
	}
	return w
}

// documentPlace is where in a document the walker is: the last step, a key or an index, and the place before. Its zero
// value is the root. A walker moves one place along all that a mapping or a list holds, so it is only valid meanwhile.
type documentPlace struct {
	up     *documentPlace
	key    string
	index  int
	isItem bool // the step is an index

	// said is what the names on the way say, once it has been asked for.
	said      placeLabel
	isLabeled bool
}

func (p *documentPlace) atKey(key string) *documentPlace {
	return &documentPlace{up: p, key: key}
}

func (p *documentPlace) atIndex(i int) *documentPlace {
	return &documentPlace{up: p, index: i, isItem: true}
}

// moveToKey goes on to the next key of a mapping.
func (p *documentPlace) moveToKey(key string) { *p = documentPlace{up: p.up, key: key} }

// moveToIndex goes on to the next item of a list.
func (p *documentPlace) moveToIndex(i int) { *p = documentPlace{up: p.up, index: i, isItem: true} }

// stepsFromRoot returns all steps from the root, keys (string) and indexes (int). They are put together where they are asked
// for: each node has one, and a path for each takes the square of the depth.
func (p *documentPlace) stepsFromRoot() []any {
	var steps []any
	for at := p; at.up != nil; at = at.up {
		if at.isItem {
			steps = append(steps, at.index)
		} else {
			steps = append(steps, at.key)
		}
	}
	slices.Reverse(steps)
	return steps
}

// pathText returns the way as users read it.
func (p *documentPlace) pathText() string {
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
func (p *documentPlace) fieldName() string { return p.key }

// parentName returns the key of the mapping that the place is in, or "".
func (p *documentPlace) parentName() string {
	if p.up == nil {
		return ""
	}
	return p.up.fieldName()
}

// walkDocument finds all there is in a document: the definition's rules decide first.
func (w *imageWalker) walkDocument(doc *yaml.Node) error {
	if len(w.rules) > 0 {
		if err := w.applyRules(doc, &documentPlace{}, map[*yaml.Node]bool{}); err != nil {
			return err
		}
	}
	return w.walkNode(doc, &documentPlace{})
}

func (w *imageWalker) walkNode(node *yaml.Node, at *documentPlace) error {
	// Each node once, however many aliases lead to it: one may lead to itself, and a few
	// may multiply to millions. They lead to nodes with an anchor.
	if node.Anchor != "" {
		if w.seen[node] {
			return nil
		}
		w.seen[node] = true
	}
	switch node.Kind {
	case yaml.AliasNode:
		return w.walkNode(node.Alias, at)
	case yaml.ScalarNode:
		return w.checkScalar(node, at)
	case yaml.SequenceNode:
		return w.walkList(node, at)
	case yaml.MappingNode:
		return w.walkMapping(node, at)
	}
	return nil
}

func (w *imageWalker) walkList(list *yaml.Node, at *documentPlace) error {
	switch at.fieldName() {
	case "args", "command":
		w.findInArguments(list, at)
	case "env":
		w.findInEnvironment(list, at)
	default:
		w.findInPairs(list, at)
	}
	frame := w.enterFrame(at)
	defer w.leaveFrame()
	for i, item := range list.Content {
		frame.within.moveToIndex(i)
		if err := w.walkNode(item, &frame.within); err != nil {
			return err
		}
	}
	return nil
}

func (w *imageWalker) walkMapping(mapping *yaml.Node, at *documentPlace) error {
	frame, outer := w.enterFrame(at), w.near
	defer w.leaveFrame()
	frame.group = fieldGroup{mapping: mapping, at: at, outer: outer, list: frame.group.list[:0]}
	w.near = &frame.group
	w.findJoinedFields(w.near, at)
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := resolveAlias(mapping.Content[i]).Value, mapping.Content[i+1]
		if w.passOver(key, at) {
			continue
		}
		frame.within.moveToKey(key)
		if err := w.findInContainers(key, value, &frame.within); err != nil {
			return err
		}
		if err := w.walkNode(value, &frame.within); err != nil {
			return err
		}
	}
	w.near = outer
	return nil
}

// walkFrame is what a walker needs while it is in a mapping or a list. Frames are used again, as most of a walk would
// be to allocate them.
type walkFrame struct {
	within documentPlace
	group  fieldGroup
}

// enterFrame returns a frame for what is at a place.
func (w *imageWalker) enterFrame(at *documentPlace) *walkFrame {
	if w.depth == len(w.frames) {
		w.frames = append(w.frames, &walkFrame{})
	}
	frame := w.frames[w.depth]
	w.depth++
	frame.within.up = at
	return frame
}

func (w *imageWalker) leaveFrame() { w.depth-- }

// passOver reports whether a field is out of the rules' reach: what describes the values of a
// schema, and text that a checksum next to it covers (Knative's ConfigMaps).
func (w *imageWalker) passOver(key string, at *documentPlace) bool {
	if w.schema {
		switch key {
		case "description", "example", "examples", "pattern", "required", "title":
			return true
		}
		return false
	}
	return w.config && key == "_example" && at.pathText() == "data"
}

// checkScalar looks at a value that no rule for lists and mappings has decided on.
func (w *imageWalker) checkScalar(node *yaml.Node, at *documentPlace) error {
	text, annotation := strings.TrimSpace(node.Value), at.parentName() == "annotations"
	if text == "" || node.Tag == "!!null" || w.taken[node] {
		return nil
	}
	switch {
	case annotation && isProvenance(at.fieldName()):
		w.reportSuspect(node, at, Ignored, howProvenance)
		return nil
	case w.secret && at.parentName() == "data",
		w.config && at.parentName() == "binaryData" && at.pathText() == "binaryData."+at.fieldName():
		return w.checkEncoded(node, at)
	case w.schema:
	case strings.Contains(text, "\n"), strings.HasPrefix(text, "{") && strings.HasSuffix(text, "}"), strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]"):
		return w.checkText(node, at, w.rules)
	}
	if said := w.labelAt(at); said >= location {
		how := howField
		if annotation {
			how = howAnnotation
		}
		w.takeNamed(w.near, &namedField{name: at.fieldName(), value: node}, at, said, how)
	}
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
