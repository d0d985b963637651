package manifest

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// checkCharacters finds what YAML does not allow (YAML 1.2.2 §5.1), since yaml.v3 names no place
// for it. A byte order mark may stand in front only: yaml.v3 takes others for text, and drops
// characters that come after.
func (f *File) checkCharacters() error {
	rest := bytes.TrimPrefix(f.data, []byte(byteOrderMark))
	if bytes.HasPrefix(rest, []byte("\xFF\xFE")) || bytes.HasPrefix(rest, []byte("\xFE\xFF")) {
		return f.Errorf(nil, "is UTF-16, want UTF-8")
	}
	for at := len(f.data) - len(rest); at < len(f.data); {
		if c := f.data[at]; c >= ' ' && c < 0x7F || c == '\n' {
			at++ // nearly all
			continue
		}
		character, size := utf8.DecodeRune(f.data[at:])
		switch {
		case character == utf8.RuneError && size == 1:
			return f.errorAt(at, "invalid YAML: is not UTF-8")
		case character == '\uFEFF':
			return f.errorAt(at, "invalid YAML: byte order mark inside the file")
		case character < ' ' && strings.IndexByte("\t\n\r", byte(character)) < 0,
			character >= 0x7F && character < 0xA0 && character != 0x85, character == 0xFFFE, character == 0xFFFF:
			return f.errorAt(at, "invalid YAML: the control character %U is not allowed", character)
		}
		at += size
	}
	return nil
}

// checkNodes finds keys that are there twice or are no text by their tags, and aliases of other documents' anchors, which
// yaml.v3 follows. It puts places inside the file.
func (f *File) checkNodes(root *yaml.Node) error {
	anchored := map[*yaml.Node]bool{}
	var check func(*yaml.Node, int) error
	check = func(node *yaml.Node, depth int) error {
		if depth > oci.MaxDepth {
			return f.Errorf(node, "nested deeper than %d levels", oci.MaxDepth)
		}
		if node.Line > len(f.lines) {
			// yaml.v3 ends the last line, though the file does not.
			node.Line, node.Column = f.Position(len(f.data))
		}
		switch {
		case node.Kind == yaml.MappingNode:
			if err := f.checkKeys(node); err != nil {
				return err
			}
		case node.Kind == yaml.ScalarNode && f.bareTags && node.Style == 0:
			// ! makes text of what follows (YAML 1.2.2 §6.9.1), which yaml.v3 leaves out.
			if at, ok := f.offsetOf(node.Line, node.Column); ok && bareTagged.Match(f.data[at:]) {
				node.Tag, node.Style = "!!str", yaml.TaggedStyle
			}
		case node.Kind == yaml.AliasNode && !anchored[node.Alias]:
			return f.Errorf(node, "invalid YAML: the anchor of *%s is in another document", node.Value)
		}
		if node.Anchor != "" {
			anchored[node] = true
		}
		// An alias holds its anchor's node in Alias, not in Content: nothing is expanded here,
		// so that no bomb of aliases costs more than its own bytes.
		for _, child := range node.Content {
			if err := check(child, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return check(root, 1)
}

// fewKeys is up to how many keys of a mapping are compared with each other, which takes less than an index of them.
const fewKeys = 16

func (f *File) checkKeys(mapping *yaml.Node) error {
	var seen map[keyName]*yaml.Node
	if len(mapping.Content) > 2*fewKeys {
		seen = make(map[keyName]*yaml.Node, len(mapping.Content)/2)
	}
	for i := 0; i < len(mapping.Content); i += 2 {
		node := mapping.Content[i]
		if tag := keyTag(node); tag != "" {
			problem := f.Errorf(node, "key %q has the tag %s, and readers differ in what it is called", node.Value, tag)
			problem.Hint = "write the key as text"
			return problem
		}
		key := nameOf(node)
		if key == (keyName{}) {
			continue
		}
		first := seen[key]
		if seen == nil {
			first = findKey(mapping.Content[:i], key)
		}
		if first != nil {
			return f.Errorf(node, "duplicate key %q, first at line %d", key.value, first.Line)
		}
		if seen != nil {
			seen[key] = node
		}
	}
	return nil
}

// findKey returns the key of a mapping's content that has a name, or nil.
func findKey(content []*yaml.Node, name keyName) *yaml.Node {
	for i := 0; i < len(content); i += 2 {
		if nameOf(content[i]) == name {
			return content[i]
		}
	}
	return nil
}

// keyTag is the tag of a key that says itself that it is something else than text; "" for none. To kapp
// a key of !!binary is what it decodes to, such as image.
func keyTag(key *yaml.Node) string {
	if key.Kind == yaml.AliasNode {
		key = key.Alias
	}
	if key.Kind != yaml.ScalarNode || key.Style&yaml.TaggedStyle == 0 || key.Tag == "!!str" || key.Tag == "!!merge" {
		return ""
	}
	return key.Tag
}

// keyName is what makes a key of a mapping differ from another.
type keyName struct{ tag, value string }

// nameOf returns the name of a key; none of what is not a scalar.
func nameOf(key *yaml.Node) keyName {
	if key.Kind == yaml.AliasNode {
		key = key.Alias
	}
	if key.Kind != yaml.ScalarNode {
		return keyName{}
	}
	return keyName{key.Tag, key.Value}
}

// yaml.v3 keeps a syntax error's place only in its text.
var syntaxPlace = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// parserProblem is one for which yaml.v3 counts lines from 0.
var parserProblem = regexp.MustCompile(`^(did not find expected (<|node content|'-'|key|','))|found (undefined|duplicate|incompatible) `)

func (f *File) syntaxError(err error) *Error {
	e := &Error{File: f.Name, Problem: "invalid YAML: " + err.Error()}
	if m := syntaxPlace.FindStringSubmatch(err.Error()); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Problem = "invalid YAML: " + m[2]
		// It leaves out line 0. Of aliases it says no line at all.
		if parserProblem.MatchString(m[2]) || e.Line == 0 && !strings.HasPrefix(m[2], "unknown anchor") {
			e.Line++
		}
	}
	switch {
	case strings.Contains(e.Problem, "cannot start any token") && f.tabIndents(e.Line):
		e.Hint = "a tab indents here, YAML wants spaces"
	case strings.Contains(e.Problem, "found a tab character"):
		// The line is the first one of the scalar.
		e.Hint = "a tab indents a line of what begins here, YAML wants spaces"
	case strings.Contains(e.Problem, "incompatible YAML document"):
		e.Hint = "a %YAML directive can only say 1.1"
	}
	return e
}

// tabIndents reports whether a line begins with white space that has a tab in it.
func (f *File) tabIndents(line int) bool {
	if line < 1 || line > len(f.lines) {
		return false
	}
	rest := f.data[f.lines[line-1]:]
	return bytes.Contains(rest[:len(rest)-len(bytes.TrimLeft(rest, " \t"))], []byte("\t"))
}
