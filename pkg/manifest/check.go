package manifest

import (
	"bytes"
	"encoding/binary"
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
	for at := len(f.data) - len(rest); ; {
		if at += skipPlain(f.data[at:]); at == len(f.data) {
			return nil
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
}

// skipPlain returns how many bytes a text begins with that are printable ASCII or line feeds, which nearly all are. It
// looks at eight of them at once.
func skipPlain(text []byte) (length int) {
	const ones = 0x0101010101010101
	for at := 0; ; {
		for ; len(text)-at >= 8; at += 8 {
			eight := binary.LittleEndian.Uint64(text[at:])
			// The top bit of a byte is set if it is below a blank, or above ~ or with one that is.
			if ((eight-ones*' ')&^eight|(eight+ones)|eight)&(ones<<7) != 0 {
				break
			}
		}
		end := min(at+8, len(text))
		for ; at < end; at++ {
			if c := text[at]; (c < ' ' || c >= 0x7F) && c != '\n' {
				return at
			}
		}
		if at == len(text) {
			return at
		}
	}
}

// checkDocument finds keys that are there twice or are no text by their tags, and aliases of other documents' anchors, which
// yaml.v3 follows, or that stand for endlessly much. It puts places inside the file, which has a number of lines.
func (f *File) checkDocument(root *yaml.Node, lines int) error {
	c := nodeChecker{file: f, lines: lines}
	if err := c.checkNode(root, 1); err != nil || !c.hasAliases {
		return err
	}
	return f.checkAliases(root)
}

// nodeChecker goes through the nodes of a document.
type nodeChecker struct {
	file       *File
	lines      int
	anchored   map[*yaml.Node]bool // those with an anchor that have come
	hasAliases bool
}

func (c *nodeChecker) checkNode(node *yaml.Node, depth int) error {
	if depth > oci.MaxDepth {
		return c.file.Errorf(node, "nested deeper than %d levels", oci.MaxDepth)
	}
	if node.Line > c.lines {
		// yaml.v3 ends the last line, though the file does not.
		node.Line, node.Column = c.file.Position(len(c.file.data))
	}
	switch node.Kind {
	case yaml.MappingNode:
		if err := c.file.checkKeys(node); err != nil {
			return err
		}
	case yaml.ScalarNode:
		if c.file.bareTags && node.Style == 0 {
			c.file.readBareTag(node)
		}
	case yaml.AliasNode:
		if c.hasAliases = true; !c.anchored[node.Alias] {
			return c.file.Errorf(node, "invalid YAML: the anchor of *%s is in another document", node.Value)
		}
	}
	if node.Anchor != "" {
		if c.anchored == nil {
			c.anchored = map[*yaml.Node]bool{}
		}
		c.anchored[node] = true
	}
	// An alias holds its anchor's node in Alias, not in Content: nothing is expanded here,
	// so that no bomb of aliases costs more than its own bytes.
	for _, child := range node.Content {
		if err := c.checkNode(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// readBareTag makes text of a plain scalar with the tag ! (YAML 1.2.2 §6.9.1), which yaml.v3 leaves out.
func (f *File) readBareTag(scalar *yaml.Node) {
	at, ok := f.offsetOf(scalar.Line, scalar.Column)
	if ok && (f.data[at] == '!' || f.data[at] == '&') && bareTagged.Match(f.data[at:]) {
		scalar.Tag, scalar.Style = "!!str", yaml.TaggedStyle
	}
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
		// Nearly all are scalars of another length.
		if one := content[i]; one.Kind == yaml.ScalarNode && len(one.Value) != len(name.value) {
			continue
		}
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
		e.Hint = "a tab indents here, YAML requires spaces"
	case strings.Contains(e.Problem, "found a tab character"):
		// The line is the first one of the scalar.
		e.Hint = "a tab indents a line of what begins here, YAML requires spaces"
	case strings.Contains(e.Problem, "incompatible YAML document"):
		e.Hint = "a %YAML directive can only say 1.1"
	}
	return e
}

// tabIndents reports whether a line begins with white space that has a tab in it.
func (f *File) tabIndents(line int) bool {
	starts := f.lineStarts()
	if line < 1 || line > len(starts) {
		return false
	}
	rest := f.data[starts[line-1]:]
	return bytes.Contains(rest[:len(rest)-len(bytes.TrimLeft(rest, " \t"))], []byte("\t"))
}
