package manifest

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Metadata is what [File.SetMetadata] adds to a resource.
type Metadata struct {
	// Namespace is for a resource that names none; "" adds none.
	Namespace string
	// Annotations are added under keys that the resource does not have.
	Annotations map[string]string
}

// SetMetadata adds a namespace and annotations to a resource and leaves every other byte as it
// was. A key that is there stays as its author wrote it, unless it is empty. An error says that the
// metadata is written in a form that cannot be edited in place. Call it once for a resource.
func (f *File) SetMetadata(resource *yaml.Node, add Metadata) error {
	metadata := Get(resource, "metadata")
	switch {
	case metadata == nil:
		return f.Errorf(resource, "metadata is missing")
	case metadata.Kind != yaml.MappingNode || len(metadata.Content) == 0:
		return f.unwritable(metadata)
	}
	var entries []entry
	if add.Namespace != "" {
		key, value := pair(metadata, "namespace")
		switch {
		case key == nil:
			entries = append(entries, entry{key: "namespace", value: add.Namespace})
		case isEmpty(value):
			if err := f.fill(key, value, quote(add.Namespace)); err != nil {
				return err
			}
		}
	}
	key, annotations := pair(metadata, "annotations")
	if annotations != nil && annotations.Kind == yaml.AliasNode && len(add.Annotations) > 0 {
		return f.unwritable(annotations)
	}
	var missing []entry
	for _, name := range slices.Sorted(maps.Keys(add.Annotations)) {
		if Get(annotations, name) == nil {
			missing = append(missing, entry{key: name, value: add.Annotations[name]})
		}
	}
	switch {
	case len(missing) == 0:
	case annotations == nil:
		entries = append(entries, entry{key: "annotations", entries: missing})
	case annotations.Kind == yaml.MappingNode:
		if err := f.prepend(annotations, missing); err != nil {
			return err
		}
	case isEmpty(annotations):
		if err := f.fill(key, annotations, "{"+flow(missing)+"}"); err != nil {
			return err
		}
	default:
		return f.unwritable(annotations)
	}
	return f.prepend(metadata, entries)
}

func (f *File) unwritable(node *yaml.Node) error {
	return f.Errorf(node, "is written in a form that nothing can be added to in place")
}

func isEmpty(value *yaml.Node) bool {
	return value.Kind == yaml.ScalarNode && (value.Value == "" || value.Tag == "!!null")
}

// pair returns a key of a mapping with its value.
func pair(mapping *yaml.Node, name string) (key, value *yaml.Node) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i], mapping.Content[i+1]
		}
	}
	return nil, nil
}

// entry is a key with a text or a mapping.
type entry struct {
	key, value string
	entries    []entry
}

// quote writes text so that YAML and JSON both read it as a string.
func quote(text string) string {
	data, _ := json.Marshal(text) // text always can be
	return string(data)
}

// flow writes entries as they stand between braces, in YAML and in JSON.
func flow(entries []entry) string {
	var all []string
	for _, e := range entries {
		value := quote(e.value)
		if e.entries != nil {
			value = "{" + flow(e.entries) + "}"
		}
		all = append(all, quote(e.key)+": "+value)
	}
	return strings.Join(all, ", ")
}

// block writes entries as lines, of which the first one's indentation is there already.
func block(entries []entry, indent string) string {
	var text strings.Builder
	for _, e := range entries {
		text.WriteString(e.key + ":")
		if e.entries == nil {
			text.WriteString(" " + quote(e.value) + "\n" + indent)
			continue
		}
		inner := block(e.entries, indent+"  ")
		text.WriteString("\n" + indent + "  " + strings.TrimRight(inner, " ") + indent)
	}
	return text.String()
}

// prepend puts entries before the first one of a mapping.
func (f *File) prepend(mapping *yaml.Node, entries []entry) error {
	if len(entries) == 0 {
		return nil
	}
	if len(mapping.Content) == 0 { // {}
		at, ok := f.offset(mapping.Line, mapping.Column)
		if ok && at < len(f.data) && f.data[at] == '{' {
			return f.insert(at+1, flow(entries))
		}
		return f.unwritable(mapping)
	}
	first := mapping.Content[0]
	at, ok := f.offset(first.Line, first.Column)
	if !ok {
		return f.unwritable(first)
	}
	if mapping.Style&yaml.FlowStyle != 0 {
		return f.insert(at, flow(entries)+", ")
	}
	indent := f.data[f.lines[first.Line-1]:at]
	if len(bytes.Trim(indent, " ")) > 0 {
		return f.unwritable(first)
	}
	return f.insert(at, block(entries, string(indent)))
}

// empties are the ways to write nothing.
var empties = []string{`""`, "''", "null", "Null", "NULL", "~"}

// fill gives a key a value where it has none, or an empty one.
func (f *File) fill(key, value *yaml.Node, text string) error {
	at, ok := f.offset(key.Line, key.Column)
	if !ok || value.Anchor != "" {
		return f.unwritable(key)
	}
	colon := bytes.IndexByte(f.data[at:], ':')
	if colon < 0 {
		return f.unwritable(key)
	}
	from := at + colon + 1
	if start, ok := f.offset(value.Line, value.Column); ok && start >= from {
		for _, written := range empties {
			if bytes.HasPrefix(f.data[start:], []byte(written)) {
				return f.replace(Span{start, start + len(written)}, text)
			}
		}
	}
	if value.Value != "" || value.Style != 0 {
		return f.unwritable(value)
	}
	return f.insert(from, " "+text)
}

func (f *File) insert(at int, text string) error { return f.replace(Span{at, at}, text) }

// Segment returns the source of one of [File.Documents], from its marker to the next one.
func (f *File) Segment(doc *yaml.Node) Span {
	span := Span{0, len(f.data)}
	for i, start := range f.lines {
		line := f.data[start:]
		if !bytes.HasPrefix(line, []byte("---")) || len(line) > 3 && bytes.IndexByte([]byte(" \t\r\n"), line[3]) < 0 {
			continue
		}
		if i+1 > doc.Line {
			span.End = start
			break
		}
		span.Start = start
	}
	return span
}

// Text returns the source of a span.
func (f *File) Text(span Span) []byte { return f.data[span.Start:span.End] }

// Remove takes a span out. No edit may lie in it.
func (f *File) Remove(span Span) error { return f.replace(span, "") }
