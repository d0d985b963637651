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
	metadata := GetValue(resource, "metadata")
	switch {
	case metadata == nil:
		return f.Errorf(resource, "metadata is missing")
	case metadata.Kind != yaml.MappingNode || len(metadata.Content) == 0:
		return f.unwritableError(metadata)
	}
	var entries []newEntry
	if add.Namespace != "" {
		key, value := findPair(metadata, "namespace")
		switch {
		case key == nil:
			entries = append(entries, newEntry{key: "namespace", value: add.Namespace})
		case isEmpty(value):
			if err := f.fillValue(key, value, quoteString(add.Namespace)); err != nil {
				return err
			}
		}
	}
	key, annotations := findPair(metadata, "annotations")
	if annotations != nil && annotations.Kind == yaml.AliasNode && len(add.Annotations) > 0 {
		return f.unwritableError(annotations)
	}
	var missing []newEntry
	for _, name := range slices.Sorted(maps.Keys(add.Annotations)) {
		if GetValue(annotations, name) == nil {
			missing = append(missing, newEntry{key: name, value: add.Annotations[name]})
		}
	}
	switch {
	case len(missing) == 0:
	case annotations == nil:
		entries = append(entries, newEntry{key: "annotations", entries: missing})
	case annotations.Kind == yaml.MappingNode:
		if err := f.prependEntries(annotations, missing); err != nil {
			return err
		}
	case isEmpty(annotations):
		if err := f.fillValue(key, annotations, "{"+formatFlow(missing)+"}"); err != nil {
			return err
		}
	default:
		return f.unwritableError(annotations)
	}
	return f.prependEntries(metadata, entries)
}

func (f *File) unwritableError(node *yaml.Node) error {
	return f.Errorf(node, "is written in a form that cannot be extended in place")
}

func isEmpty(value *yaml.Node) bool {
	return value.Kind == yaml.ScalarNode && (value.Value == "" || value.Tag == "!!null")
}

// findPair returns a key of a mapping with its value.
func findPair(mapping *yaml.Node, name string) (key, value *yaml.Node) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i], mapping.Content[i+1]
		}
	}
	return nil, nil
}

// newEntry is a key with a text or a mapping.
type newEntry struct {
	key, value string
	entries    []newEntry
}

// quoteString writes text so that YAML and JSON both read it as a string.
func quoteString(text string) string {
	data, _ := json.Marshal(text) // text always can be
	return string(data)
}

// formatFlow writes entries as they stand between braces, in YAML and in JSON.
func formatFlow(entries []newEntry) string {
	var all []string
	for _, e := range entries {
		value := quoteString(e.value)
		if e.entries != nil {
			value = "{" + formatFlow(e.entries) + "}"
		}
		all = append(all, quoteString(e.key)+": "+value)
	}
	return strings.Join(all, ", ")
}

// formatBlock writes entries as lines, of which the first one's indentation is there already.
func formatBlock(entries []newEntry, indent string) string {
	var text strings.Builder
	for _, e := range entries {
		text.WriteString(e.key + ":")
		if e.entries == nil {
			text.WriteString(" " + quoteString(e.value) + "\n" + indent)
			continue
		}
		inner := formatBlock(e.entries, indent+"  ")
		text.WriteString("\n" + indent + "  " + strings.TrimRight(inner, " ") + indent)
	}
	return text.String()
}

// prependEntries puts entries before the first one of a mapping.
func (f *File) prependEntries(mapping *yaml.Node, entries []newEntry) error {
	if len(entries) == 0 {
		return nil
	}
	if len(mapping.Content) == 0 { // {}
		at, ok := f.offsetOf(mapping.Line, mapping.Column)
		if ok && at < len(f.data) && f.data[at] == '{' {
			return f.insertText(at+1, formatFlow(entries))
		}
		return f.unwritableError(mapping)
	}
	first := mapping.Content[0]
	at, ok := f.offsetOf(first.Line, first.Column)
	if !ok {
		return f.unwritableError(first)
	}
	if mapping.Style&yaml.FlowStyle != 0 {
		return f.insertText(at, formatFlow(entries)+", ")
	}
	indent := f.data[f.lineStarts()[first.Line-1]:at]
	if len(bytes.Trim(indent, " ")) > 0 {
		return f.unwritableError(first)
	}
	return f.insertText(at, formatBlock(entries, string(indent)))
}

// empties are the ways to write nothing.
var empties = []string{`""`, "''", "null", "Null", "NULL", "~"}

// fillValue gives a key a value where it has none, or an empty one.
func (f *File) fillValue(key, value *yaml.Node, text string) error {
	at, ok := f.offsetOf(key.Line, key.Column)
	if !ok || value.Anchor != "" {
		return f.unwritableError(key)
	}
	colon := bytes.IndexByte(f.data[at:], ':')
	if colon < 0 {
		return f.unwritableError(key)
	}
	from := at + colon + 1
	if start, ok := f.offsetOf(value.Line, value.Column); ok && start >= from {
		for _, written := range empties {
			if bytes.HasPrefix(f.data[start:], []byte(written)) {
				return f.replaceText(Span{start, start + len(written)}, text)
			}
		}
	}
	if value.Value != "" || value.Style != 0 {
		return f.unwritableError(value)
	}
	return f.insertText(from, " "+text)
}

func (f *File) insertText(at int, text string) error { return f.replaceText(Span{at, at}, text) }

// DocumentSpan returns the source of one of [File.Documents], from its marker to the next one.
func (f *File) DocumentSpan(doc *yaml.Node) Span {
	span := Span{0, len(f.data)}
	for i, start := range f.lineStarts() {
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

// SpanText returns the source of a span.
func (f *File) SpanText(span Span) []byte { return f.data[span.Start:span.End] }

// RemoveSpan takes a span out. No edit may lie in it.
func (f *File) RemoveSpan(span Span) error { return f.replaceText(span, "") }
