package images

import (
	"encoding/base64"
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// documentScope is a document's file: the manifest itself, or one that a string of an outer scope
// holds.
type documentScope struct {
	file   *manifest.File
	outer  *documentScope
	holder *yaml.Node
	depth  int
	names  knownNames
}

// maxDepth is how far documents are followed that strings of documents hold.
const maxDepth = 8

// outerSpan returns the place of a part of a scalar in the outermost file.
func (s *documentScope) outerSpan(node *yaml.Node, start, end int) (manifest.Span, error) {
	span, err := s.file.ScalarSpan(node, start, end)
	if err != nil || s.outer == nil {
		return span, err
	}
	return s.outer.outerSpan(s.holder, span.Start, span.End)
}

// outermost returns the outermost file and the node of it that a node is or is in.
func (s *documentScope) outermost(node *yaml.Node) (*manifest.File, *yaml.Node) {
	for s.outer != nil {
		node, s = s.holder, s.outer
	}
	return s.file, node
}

// foundPiece is one part of something found, as bytes [start,end) of a scalar's value.
type foundPiece struct {
	node       *yaml.Node
	start, end int
	role       partRole
	order      int  // among the parts of the reference
	isKept     bool // whether it stays as it is
}

// newFound returns a thing found in pieces.
func (w *imageWalker) newFound(image string, at *documentPlace, state State, how string, pieces ...foundPiece) Found {
	file, node := w.scope.outermost(pieces[0].node)
	f := Found{
		Image: image, State: state, How: how, File: file.Name, Line: node.Line, Column: node.Column,
		Resource: w.resource, Path: w.inside + at.pathText(), steps: at.stepsFromRoot(),
		isWhole: len(pieces) == 1 && strings.TrimSpace(pieces[0].node.Value) == pieces[0].node.Value[pieces[0].start:pieces[0].end],
	}
	for i, p := range pieces {
		span, err := w.scope.outerSpan(p.node, p.start, p.end)
		if err != nil {
			f.err = err
			return f
		}
		if isBlock := node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0; i == 0 && (isBlock || w.scope.outer != nil || w.firstText(node) < p.start) {
			f.Line, f.Column = file.Position(span.Start)
		}
		f.parts = append(f.parts, foundPart{span: span, role: p.role, text: p.node.Value[p.start:p.end], order: p.order, isKept: p.isKept})
	}
	return f
}

// firstText returns where the text of a scalar begins, behind blanks, of which there may be very many.
func (w *imageWalker) firstText(node *yaml.Node) int {
	if w.leading.node != node {
		w.leading.node, w.leading.blanks = node, len(node.Value)-len(strings.TrimLeftFunc(node.Value, unicode.IsSpace))
	}
	return w.leading.blanks
}

func (w *imageWalker) addFound(f Found) { *w.found = append(*w.found, f) }

// wholeScalar returns a scalar that is a reference, less the white space around it.
func (w *imageWalker) wholeScalar(node *yaml.Node, at *documentPlace, state State, how string) Found {
	text := strings.TrimSpace(node.Value)
	start := strings.Index(node.Value, text)
	return w.newFound(text, at, state, how, foundPiece{node: node, start: start, end: start + len(text)})
}

// takeImage decides that a scalar is an image, if it can be one at all: templates have placeholders
// in its place.
func (w *imageWalker) takeImage(node *yaml.Node, at *documentPlace, how string) {
	w.taken[node] = true
	state := Image
	if _, err := ParseReference(strings.TrimSpace(node.Value)); err != nil {
		state = Suspect
	}
	w.addFound(w.wholeScalar(node, at, state, how))
}

// inText decides on what stands in a text: full references, and what only looks like one.
func (w *imageWalker) inText(node *yaml.Node, at *documentPlace, state State, how string) {
	add := func(m textMatch, state State) {
		w.taken[node] = true
		f := w.newFound(node.Value[m.start:m.end], at, state, how, foundPiece{node: node, start: m.start, end: m.end})
		if state == Ignored {
			f.Reason = "says where an image came from"
		}
		w.addFound(f)
	}
	found := scanText(node.Value)
	loose := scanLoose(node.Value, found)
	if len(found) == 0 && len(loose) == 0 {
		return // nearly always
	}
	comments := commentsOf(node.Value)
	for _, m := range found {
		if how != howText || !comments.contain(m.start) {
			add(m, state)
		}
	}
	for _, m := range loose {
		becomes, ok := judgeInText(m.said, node.Value[m.start:m.end])
		// What was found is in order, and nothing of it overlaps.
		next := sort.Search(len(found), func(i int) bool { return found[i].end > m.start })
		overlaps := next < len(found) && found[next].start < m.end
		if !ok || overlaps || comments.contain(m.start) {
			continue
		}
		if state != Image {
			becomes = state
		}
		found = slices.Insert(found, next, m)
		add(m, becomes)
	}
}

// reportSuspect notes what looks like a reference in a scalar.
func (w *imageWalker) reportSuspect(node *yaml.Node, at *documentPlace, state State, how string) {
	w.inText(node, at, state, how)
	if !w.taken[node] && isPointer(strings.TrimSpace(node.Value)) {
		w.addFound(w.wholeScalar(node, at, state, how))
	}
}

// checkText looks into a string that is a document or several lines of text.
func (w *imageWalker) checkText(node *yaml.Node, at *documentPlace, rules []compiledRule) error {
	if inner, ok := w.parseInner(node); ok {
		for _, doc := range inner.file.Documents {
			within := newWalker(doc, inner, rules)
			within.resource, within.found, within.inside = w.resource, w.found, w.inside+at.pathText()+" | "
			within.config, within.label = within.config || w.config, w.labelAt(at)
			if doc.Kind == yaml.MappingNode {
				within.label = min(within.label, mentions)
			}
			if err := within.walkDocument(doc); err != nil {
				return err
			}
		}
		return nil
	}
	if said := w.labelAt(at); said >= mentions {
		w.takeNamed(nil, &namedField{value: node}, at, said, howField)
	}
	switch {
	case w.taken[node]:
	case w.config:
		w.inText(node, at, Image, howText)
	default:
		w.reportSuspect(node, at, Suspect, howSweep)
	}
	return nil
}

// parseInner reads the YAML or JSON that a string holds, if it does.
func (w *imageWalker) parseInner(node *yaml.Node) (*documentScope, bool) {
	if w.scope.depth == maxDepth {
		return nil, false
	}
	file, err := manifest.Parse("", []byte(node.Value))
	if err != nil || len(file.Documents) == 0 {
		return nil, false
	}
	for _, doc := range file.Documents {
		if doc.Kind != yaml.MappingNode && doc.Kind != yaml.SequenceNode {
			return nil, false
		}
	}
	return &documentScope{file: file, outer: w.scope, holder: node, depth: w.scope.depth + 1, names: w.scope.names}, true
}

// comments are the parts of a text that are lines of comment, behind the mark that begins each.
type comments []struct{ start, end int }

// commentsOf finds them once, whatever is looked up: a line may hold all of a text.
func commentsOf(text string) (all comments) {
	at := 0
	for line := range strings.Lines(text) {
		blank := len(line) - len(strings.TrimLeftFunc(line, unicode.IsSpace))
		for _, mark := range []string{"#", "//", ";"} {
			if strings.HasPrefix(line[blank:], mark) {
				all = append(all, struct{ start, end int }{at + blank + len(mark), at + len(line)})
			}
		}
		at += len(line)
	}
	return all
}

// contain reports whether an offset is in a comment.
func (c comments) contain(offset int) bool {
	i := sort.Search(len(c), func(i int) bool { return c[i].end > offset })
	return i < len(c) && c[i].start <= offset
}

// checkEncoded reports what a Secret's data holds: it cannot be edited in place.
func (w *imageWalker) checkEncoded(node *yaml.Node, at *documentPlace) error {
	data, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(node.Value), ""))
	if err != nil || !utf8.Valid(data) {
		return nil
	}
	// What the Secret would say in clear.
	holder := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: string(data)}
	key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: at.fieldName()}
	clear := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{key, holder}}
	var found []Found
	within := newWalker(clear, &documentScope{file: w.scope.file, depth: w.scope.depth, names: w.scope.names}, nil)
	within.resource, within.found, within.config = w.resource, &found, true
	if err := within.walkNode(clear, &documentPlace{}); err != nil {
		return err
	}
	for _, f := range found {
		if f.State == Ignored {
			continue
		}
		what := w.wholeScalar(node, at, Suspect, howSweep)
		_, inside, isInside := strings.Cut(f.Path, " | ")
		if isInside {
			what.Path += " | " + inside
		}
		what.Image, what.parts, what.isWhole = f.Image, nil, false
		w.addFound(what)
	}
	return nil
}
