// Package manifest reads Kubernetes YAML as its author wrote it: documents as node trees
// whose every node has a place, and edits of single scalars that leave each other byte
// alone.
//
// Call [Parse] with a file's bytes; hand nodes of [File.Documents] to [File.Replace] to
// change them and take the result from [File.Bytes]; report what is wrong with a node by
// [File.Errorf], which names its place.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// File is a parsed YAML (or JSON) file of any number of documents.
type File struct {
	// Name is how errors call the file.
	Name string
	// Documents are the root nodes of the documents, without those that are empty.
	Documents []*yaml.Node

	data  []byte
	lines []int // byte offset of the start of each line
	edits []edit
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

// Parse reads a whole file. Its errors are of type [*Error]: invalid YAML, and a key that
// a mapping has twice (YAML 1.2.2 §3.2.1.3), which readers resolve differently.
func Parse(name string, data []byte) (*File, error) {
	f := &File{Name: name, data: data, lines: lineStarts(data)}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
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
		if err := f.checkKeys(root); err != nil {
			return nil, err
		}
		f.Documents = append(f.Documents, root)
	}
}

// Errorf is an [*Error] at the place of a node; a nil node is the file as a whole.
func (f *File) Errorf(node *yaml.Node, format string, args ...any) *Error {
	e := &Error{File: f.Name, Problem: fmt.Sprintf(format, args...)}
	if node != nil {
		e.Line, e.Column = node.Line, node.Column
	}
	return e
}

// Get returns the value of a key of a mapping node, or nil.
func Get(mapping *yaml.Node, key string) *yaml.Node {
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

// CheckResource says whether a document is a Kubernetes resource: a mapping with
// apiVersion and kind. Its error names what is missing.
func (f *File) CheckResource(doc *yaml.Node) error {
	if doc.Kind != yaml.MappingNode {
		return f.Errorf(doc, "not a Kubernetes resource: the document is no mapping")
	}
	for _, key := range []string{"apiVersion", "kind"} {
		value := Get(doc, key)
		switch {
		case value == nil:
			return f.Errorf(doc, "not a Kubernetes resource: %s is missing", key)
		case value.Kind != yaml.ScalarNode || value.Tag != "!!str" || value.Value == "":
			return f.Errorf(value, "not a Kubernetes resource: %s is not a string", key)
		}
	}
	return nil
}

func (f *File) checkKeys(node *yaml.Node) error {
	if node.Kind == yaml.MappingNode {
		seen := make(map[string]*yaml.Node, len(node.Content)/2)
		for i := 0; i < len(node.Content); i += 2 {
			key := node.Content[i]
			if key.Kind != yaml.ScalarNode {
				continue
			}
			if first, twice := seen[key.Value]; twice && key.Tag == first.Tag {
				return f.Errorf(key, "key %q is there twice, first at line %d", key.Value, first.Line)
			}
			seen[key.Value] = key
		}
	}
	// An alias holds its anchor's node in Alias, not in Content: nothing is expanded here,
	// so that no bomb of aliases costs more than its own bytes.
	for _, child := range node.Content {
		if err := f.checkKeys(child); err != nil {
			return err
		}
	}
	return nil
}

// yaml.v3 keeps a syntax error's place only in its text.
var syntaxPlace = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func (f *File) syntaxError(err error) *Error {
	e := &Error{File: f.Name, Problem: "invalid YAML: " + err.Error()}
	if m := syntaxPlace.FindStringSubmatch(err.Error()); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Problem = "invalid YAML: " + m[2]
	}
	if strings.Contains(e.Problem, "cannot start any token") && f.tabIndents(e.Line) {
		e.Hint = "a tab indents here, YAML wants spaces"
	}
	return e
}

// tabIndents says whether a line begins with white space that has a tab in it.
func (f *File) tabIndents(line int) bool {
	if line < 1 || line > len(f.lines) {
		return false
	}
	rest := f.data[f.lines[line-1]:]
	return bytes.Contains(rest[:len(rest)-len(bytes.TrimLeft(rest, " \t"))], []byte("\t"))
}
