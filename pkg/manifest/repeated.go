package manifest

import (
	"bytes"
	"errors"
	"io"
	"slices"

	"gopkg.in/yaml.v3"
)

// RepeatedKey is a key that a mapping had more than once.
type RepeatedKey struct {
	Key string
	// Line is that of a value that was dropped, and Kept that of the last one.
	Line, Kept int
}

// DropRepeated leaves of the values of a key that a mapping has more than once the last one, as helm
// and kubectl take it (YAML 1.2.2 §3.2.1.3 wants it once). Every other byte stays. An error says that
// what is left would mean something else; what is not YAML stays as it is.
func DropRepeated(name string, data []byte) ([]byte, []RepeatedKey, error) {
	f := &File{Name: name, positionIndex: positionIndex{data: data}}
	if f.checkCharacters() != nil {
		return data, nil, nil
	}
	documents, err := decodeAll(data)
	if err != nil {
		return data, nil, nil // whoever parses it says so
	}
	d := keyDropper{file: f}
	for _, doc := range documents {
		if err := d.dropRepeated(doc); err != nil {
			return nil, nil, err
		}
	}
	if len(d.dropped) == 0 {
		return data, nil, nil
	}
	left := d.cutSpans(data)
	again, err := decodeAll(left)
	if err != nil || !slices.EqualFunc(documents, again, sameNode) {
		return nil, nil, d.first
	}
	slices.SortStableFunc(d.dropped, func(a, b RepeatedKey) int { return a.Line - b.Line })
	return left, d.dropped, nil
}

func decodeAll(data []byte) (documents []*yaml.Node, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		doc, err := decodeDocument(decoder)
		switch {
		case errors.Is(err, io.EOF):
			return documents, nil
		case err != nil:
			return nil, err
		}
		documents = append(documents, &doc)
	}
}

// keyDropper takes pairs out of nodes, and knows where they stand in the text.
type keyDropper struct {
	file    *File
	dropped []RepeatedKey
	spans   []Span
	first   error // what is wrong with the first
}

// dropRepeated goes through what stays: what is dropped takes what is in it along.
func (d *keyDropper) dropRepeated(node *yaml.Node) error {
	if node.Kind == yaml.MappingNode {
		last := map[keyName]int{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			last[nameOf(node.Content[i])] = i
		}
		var kept []*yaml.Node
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			at := last[nameOf(key)]
			if key.Kind != yaml.ScalarNode || at == i || isMergeKey(key) || KeyName(key) != KeyName(node.Content[at]) {
				kept = append(kept, key, node.Content[i+1])
				continue
			}
			if err := d.dropPair(key, node.Content[i+2], node.Content[at]); err != nil {
				return err
			}
		}
		node.Content = kept
	}
	for _, child := range node.Content {
		if err := d.dropRepeated(child); err != nil {
			return err
		}
	}
	return nil
}

// dropPair takes out what stands between a key and the next one.
func (d *keyDropper) dropPair(key, next, last *yaml.Node) error {
	problem := d.file.Errorf(last, "duplicate key %q, first at line %d", key.Value, key.Line)
	start, known := d.file.offsetOf(key.Line, key.Column)
	end, knowsEnd := d.file.offsetOf(next.Line, next.Column)
	if !known || !knowsEnd || end < start {
		return problem
	}
	if d.first == nil {
		d.first = problem
	}
	d.dropped = append(d.dropped, RepeatedKey{Key: key.Value, Line: key.Line, Kept: last.Line})
	d.spans = append(d.spans, Span{start, end})
	return nil
}

func (d *keyDropper) cutSpans(data []byte) []byte {
	slices.SortFunc(d.spans, func(a, b Span) int { return a.Start - b.Start })
	var left []byte
	at := 0
	for _, s := range d.spans {
		left = append(left, data[at:max(at, s.Start)]...)
		at = max(at, s.End)
	}
	return append(left, data[at:]...)
}

// sameNode reports whether two nodes mean the same.
func sameNode(a, b *yaml.Node) bool {
	if a.Kind == yaml.AliasNode && b.Kind == yaml.AliasNode &&
		(a.Alias.Kind != b.Alias.Kind || a.Alias.Value != b.Alias.Value || len(a.Alias.Content) != len(b.Alias.Content)) {
		return false
	}
	return a.Kind == b.Kind && a.Tag == b.Tag && a.Value == b.Value && a.Anchor == b.Anchor &&
		a.Style == b.Style && slices.EqualFunc(a.Content, b.Content, sameNode)
}
