package manifest

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
	"gopkg.in/yaml.v3"
)

// ParseStrict reads a file of one document into a struct with yaml tags. A field that the struct
// does not have and a value of another type are errors, each an [*Error] with its place.
func ParseStrict(name string, data []byte, into any) (*File, error) {
	f, err := Parse(name, data)
	if err != nil {
		return nil, err
	}
	switch len(f.Documents) {
	case 1:
	case 0:
		return nil, &Error{File: name, Problem: "the file is empty"}
	default:
		return nil, f.Errorf(f.Documents[1], "want a single document, this is the second")
	}
	root := f.Documents[0]
	if err := f.checkFields(root, reflect.TypeOf(into).Elem()); err != nil {
		return nil, err
	}
	return f, f.decodeStrict(root, into)
}

// checkFields looks for fields that a type does not have, and values that it cannot hold.
func (f *File) checkFields(node *yaml.Node, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case node.Kind == yaml.AliasNode:
		return f.Errorf(node, "aliases are not allowed here")
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		if node.Kind != yaml.SequenceNode {
			return f.Errorf(node, "want a list")
		}
		for _, item := range node.Content {
			if err := f.checkFields(item, t.Elem()); err != nil {
				return err
			}
		}
	case t.Kind() == reflect.Struct && t.PkgPath() != "time":
		if node.Kind != yaml.MappingNode {
			return f.Errorf(node, "want a mapping with %s", strings.Join(fieldsOf(t), ", "))
		}
		for i := 0; i+1 < len(node.Content); i += 2 {
			field, known := fieldOf(t, node.Content[i].Value)
			if !known {
				problem := f.Errorf(node.Content[i], "unknown field %q", node.Content[i].Value)
				if near := NearestName(node.Content[i].Value, fieldsOf(t)); near != "" {
					problem.Hint = fmt.Sprintf("did you mean %q?", near)
				}
				return problem
			}
			if err := f.checkFields(node.Content[i+1], field); err != nil {
				return err
			}
		}
	case t.Kind() == reflect.String && (node.Kind != yaml.ScalarNode || node.Tag != "!!str"):
		problem := f.Errorf(node, "want text")
		if node.Kind == yaml.ScalarNode {
			problem.Hint = fmt.Sprintf("write it in quotes: %q", node.Value)
		}
		return problem
	}
	return nil
}

func (f *File) decodeStrict(root *yaml.Node, into any) error {
	err := root.Decode(into)
	var mistyped *yaml.TypeError
	if errors.As(err, &mistyped) {
		e := &Error{File: f.Name, Problem: mistyped.Errors[0]}
		if line, problem, found := strings.Cut(strings.TrimPrefix(e.Problem, "line "), ": "); found {
			if n, err := strconv.Atoi(line); err == nil {
				e.Line, e.Problem = n, problem
			}
		}
		return e
	}
	if err != nil {
		return f.syntaxError(err)
	}
	return nil
}

func fieldsOf(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

func fieldOf(t reflect.Type, name string) (reflect.Type, bool) {
	for i := range t.NumField() {
		if tag, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); tag == name {
			return t.Field(i).Type, true
		}
	}
	return nil, false
}

// NearestName returns the name that someone may have meant, or empty.
func NearestName(typed string, names []string) string {
	best, score := "", 0.49 // two letters that changed places in a word of four
	for _, name := range names {
		if s := levenshtein.Similarity(strings.ToLower(typed), strings.ToLower(name), nil); s > score {
			best, score = name, s
		}
	}
	return best
}
