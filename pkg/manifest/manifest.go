// Package manifest reads Kubernetes YAML as its author wrote it: documents as node trees
// whose every node has a place, and edits of single scalars that leave each other byte
// alone.
//
// Call [Parse] with a file's bytes; find the [File.ScalarSpan] of what to change in a scalar of
// [File.Documents], hand it to [File.ReplaceSpan] and take the result from [File.Bytes]; report what
// is wrong with a node by [File.Errorf], which names its place.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"
)

// File is a parsed YAML (or JSON) file of any number of documents.
type File struct {
	// Name is how errors call the file.
	Name string
	// Documents are the root nodes of the documents, without those that are empty.
	Documents []*yaml.Node

	positionIndex
	spelled map[*yaml.Node]spelledScalar
	// bareTags is set if there may be scalars with the tag !.
	bareTags bool
	edits    []pendingEdit // in the order of the file
	// bracketed is set if an edit has put a registry's address in brackets into the file.
	bracketed bool
}

// Error is a problem at a place of a file. Line and Column count from 1; 0 is unknown.
type Error struct {
	File         string
	Line, Column int
	Problem      string
	// Hint says what to do, or is empty.
	Hint string
	// Cause is the error behind the problem, or nil.
	Cause error
}

// Unwrap gives the error's cause.
func (e *Error) Unwrap() error { return e.Cause }

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
		if e.Column > 0 {
			fmt.Fprintf(&b, ":%d", e.Column)
		}
	}
	fmt.Fprintf(&b, ": %s", e.Problem)
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

// Parse reads a whole file, which is UTF-8. Its errors are of type [*Error]: invalid YAML, and
// a key that a mapping has twice (YAML 1.2.2 §3.2.1.3), which readers resolve differently, and
// aliases that stand for endlessly much, and what is over the limits of [CheckSize].
// A File is for one goroutine at a time.
func Parse(name string, data []byte) (*File, error) {
	if err := CheckSize(data); err != nil {
		return nil, &Error{File: name, Problem: err.Error(), Cause: err}
	}
	f := &File{Name: name, positionIndex: positionIndex{data: data}, spelled: map[*yaml.Node]spelledScalar{}}
	if err := f.checkCharacters(); err != nil {
		return nil, err
	}
	f.bareTags = bareTag.Match(data)
	lines := countLines(data)
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		doc, err := decodeDocument(decoder)
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return nil, f.syntaxError(err)
		}
		root := doc.Content[0]
		if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
			continue
		}
		if err := f.checkDocument(root, lines); err != nil {
			return nil, err
		}
		f.Documents = append(f.Documents, root)
	}
}

// The tag that is ! alone: somewhere, and in front of a node.
var (
	bareTag    = regexp.MustCompile(`![\s\x{85}\x{2028}\x{2029}]`)
	bareTagged = regexp.MustCompile(`^(&\S+[\s\x{85}\x{2028}\x{2029}]+)?![\s\x{85}\x{2028}\x{2029}]`)
)

// decodeDocument reads one document. What yaml.v3 panics with on input that it cannot cope with is an
// error: a file must not end the program that reads it.
func decodeDocument(decoder *yaml.Decoder) (doc yaml.Node, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("yaml: %v", problem)
		}
	}()
	err = decoder.Decode(&doc)
	return doc, err
}

// Errorf returns an [*Error] at the place of a node; a nil node is the file as a whole.
func (f *File) Errorf(node *yaml.Node, format string, args ...any) *Error {
	e := &Error{File: f.Name, Problem: fmt.Sprintf(format, args...)}
	if node != nil {
		e.Line, e.Column = node.Line, node.Column
	}
	return e
}

// Position returns the line and the column of a byte of the source, both from 1 and in characters,
// as [Error] has them.
func (f *File) Position(offset int) (line, column int) { return f.positionAt(offset) }

// errorAt returns an [*Error] at an offset of the data.
func (f *File) errorAt(offset int, format string, args ...any) *Error {
	e := &Error{File: f.Name, Problem: fmt.Sprintf(format, args...)}
	e.Line, e.Column = f.Position(offset)
	return e
}

// GetValue returns the value of a key of a mapping node, or nil.
func GetValue(mapping *yaml.Node, key string) *yaml.Node {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// GetText returns the scalar at a key of a mapping, "" if the key is not set.
func GetText(mapping *yaml.Node, key string) string {
	if n := GetValue(mapping, key); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

// ListItems returns the resources that a document stands for: those of a list, or the document itself.
func ListItems(doc *yaml.Node) []*yaml.Node {
	kind, items := GetValue(doc, "kind"), GetValue(doc, "items")
	if kind != nil && strings.HasSuffix(kind.Value, "List") && items != nil && items.Kind == yaml.SequenceNode {
		return items.Content
	}
	return []*yaml.Node{doc}
}

// CheckResource reports whether a document is a Kubernetes resource: a mapping with
// apiVersion and kind. Its error names what is missing.
func (f *File) CheckResource(doc *yaml.Node) error {
	if doc.Kind != yaml.MappingNode {
		return f.Errorf(doc, "not a Kubernetes resource: the document is not a mapping")
	}
	for _, key := range []string{"apiVersion", "kind"} {
		value := GetValue(doc, key)
		switch {
		case value == nil:
			return f.Errorf(doc, "not a Kubernetes resource: %s is missing", key)
		case value.Kind != yaml.ScalarNode || value.Tag != "!!str" || value.Value == "":
			return f.Errorf(value, "not a Kubernetes resource: %s is not a string", key)
		}
	}
	return nil
}
