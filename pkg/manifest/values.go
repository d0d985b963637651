package manifest

import (
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"
)

// Values are a mapping of values as their author wrote it. What a scalar means is for the engine
// that reads it to decide: of `enabled: no` only the text is known, and that it has no quotes. The
// zero Values hold nothing.
type Values struct{ root *yaml.Node }

// NewValues returns the values of a mapping, which [ExpandAliases] has made.
func NewValues(mapping *yaml.Node) Values { return Values{mapping} }

// IsZero reports whether there are no values.
func (v Values) IsZero() bool { return v.root == nil || len(v.root.Content) == 0 }

// Node returns the mapping, or nil.
func (v Values) Node() *yaml.Node { return v.root }

// UnmarshalYAML takes a mapping as it is written.
func (v *Values) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: values must be a mapping", node.Line)
	}
	expanded, ok := ExpandAliases(node)
	if !ok {
		return fmt.Errorf("line %d: values have more than %d parts with their aliases expanded", node.Line, MaxValues)
	}
	v.root = expanded
	return nil
}

// MarshalYAML returns the values in their normal form.
func (v Values) MarshalYAML() (any, error) {
	if v.root == nil {
		return nil, nil
	}
	return NormalizeValues(v.root), nil
}

// Bytes returns the values as a YAML document in their normal form; nil if there are none.
func (v Values) Bytes() ([]byte, error) {
	if v.IsZero() {
		return nil, nil
	}
	return yaml.Marshal(NormalizeValues(v.root))
}

// MaxValues limits the nodes that [ExpandAliases] makes, since aliases can stand for endlessly many.
const MaxValues = 100_000

// ExpandAliases copies a node with what aliases stand for in their place and merge keys (<<) carried
// out, so that each part of the copy can do without the others. It reports false for more than
// [MaxValues] nodes.
func ExpandAliases(node *yaml.Node) (*yaml.Node, bool) {
	e := aliasExpander{left: MaxValues}
	expanded := e.expandNode(node)
	return expanded, e.left >= 0
}

type aliasExpander struct{ left int }

func (e *aliasExpander) expandNode(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	expanded := *node
	expanded.Anchor, expanded.Content = "", nil
	if e.left--; e.left < 0 {
		return &expanded
	}
	if node.Kind != yaml.MappingNode {
		for _, child := range node.Content {
			expanded.Content = append(expanded.Content, e.expandNode(child))
		}
		return &expanded
	}
	var pairs mappingBuilder
	for i := 0; i+1 < len(node.Content) && e.left >= 0; i += 2 {
		key, value := e.expandNode(node.Content[i]), e.expandNode(node.Content[i+1])
		if isMergeKey(key) && isMergeable(value) {
			pairs.mergeMapping(value)
		} else {
			pairs.setPair(key, value)
		}
	}
	expanded.Content = pairs.content
	return &expanded
}

// mappingBuilder are the content of a mapping that is being made.
type mappingBuilder struct {
	content []*yaml.Node
	at      map[string]int // where the value of a key is
}

// setPair gives a key a value; the last of several stays, in the place of the first, as helm and ytt
// have it.
func (p *mappingBuilder) setPair(key, value *yaml.Node) {
	name := KeyName(key)
	if i, there := p.at[name]; there {
		p.content[i] = value
		return
	}
	if p.at == nil {
		p.at = map[string]int{}
	}
	p.content = append(p.content, key, value)
	p.at[name] = len(p.content) - 1
}

// mergeMapping carries out a merge key. Both engines do so where the key stands: it replaces what comes
// before it. Of a list the first mapping wins.
func (p *mappingBuilder) mergeMapping(value *yaml.Node) {
	for _, from := range slices.Backward(mergedMappings(value)) {
		for i := 0; i+1 < len(from.Content); i += 2 {
			p.setPair(from.Content[i], from.Content[i+1])
		}
	}
}

func isMergeKey(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.Value == "<<" && (isPlain(key) || key.Tag == "!!merge")
}

// isMergeable reports whether a value can be merged; the engines refuse any other.
func isMergeable(value *yaml.Node) bool {
	return !slices.ContainsFunc(mergedMappings(value), func(n *yaml.Node) bool { return n.Kind != yaml.MappingNode })
}

func mergedMappings(value *yaml.Node) []*yaml.Node {
	if value.Kind == yaml.SequenceNode {
		return value.Content
	}
	return []*yaml.Node{value}
}

// OverlayValues returns values over others, both from [ExpandAliases]: mappings are merged, all else replaces.
// Either may be nil; neither is changed.
func OverlayValues(base, over *yaml.Node) *yaml.Node {
	switch {
	case over == nil:
		return base
	case base == nil || base.Kind != yaml.MappingNode || over.Kind != yaml.MappingNode:
		return over
	}
	var all mappingBuilder
	for i := 0; i+1 < len(base.Content); i += 2 {
		all.setPair(base.Content[i], base.Content[i+1])
	}
	for i := 0; i+1 < len(over.Content); i += 2 {
		key, value := over.Content[i], over.Content[i+1]
		if at, there := all.at[KeyName(key)]; there {
			value = OverlayValues(all.content[at], value)
		}
		all.setPair(key, value)
	}
	both := *base
	both.Content = all.content
	return &both
}

// FindValue returns the value of a key of a mapping, a key being the same where an engine takes it for
// the same; nil if the key is not set.
func FindValue(mapping, key *yaml.Node) *yaml.Node {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if KeyName(mapping.Content[i]) == KeyName(key) {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// KeyName returns what a key of values is called. Helm turns keys into those of JSON: 0x10 is "16"
// and a plain on is "true", which "on" in quotes is not.
func KeyName(key *yaml.Node) string {
	if key.Kind != yaml.ScalarNode {
		return fmt.Sprintf("%p", key) // neither engine takes it
	}
	if isPlain(key) {
		switch kind, value := meaningOf(key.Value); kind {
		case "":
		case "null":
			return "\x00null" // as above
		default:
			return value
		}
	}
	return key.Value
}

// NonStringKeys yields the keys below a node that are not strings to ytt, each with what ytt takes it for.
func NonStringKeys(node *yaml.Node) iter.Seq2[*yaml.Node, string] {
	return func(yield func(*yaml.Node, string) bool) { yieldNonStringKeys(node, yield) }
}

func yieldNonStringKeys(node *yaml.Node, yield func(*yaml.Node, string) bool) bool {
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 {
			kind, _ := meaningOf(child.Value)
			switch {
			case child.Kind != yaml.ScalarNode:
				kind = "a mapping or a list"
			case !isPlain(child):
				kind = ""
			}
			if kind != "" && !yield(child, kind) {
				return false
			}
		}
		if !yieldNonStringKeys(child, yield) {
			return false
		}
	}
	return true
}

// CheckKeys refuses values with a key that is not text to ytt, which panics at one. nameOf says
// what the file of a key is called.
func CheckKeys(values *yaml.Node, nameOf func(key *yaml.Node) string) error {
	for key, kind := range NonStringKeys(values) {
		e := &Error{File: nameOf(key), Line: key.Line, Column: key.Column}
		e.Problem = fmt.Sprintf("key %s is %s, but ytt accepts only text as keys", key.Value, kind)
		if key.Kind == yaml.ScalarNode {
			e.Hint = fmt.Sprintf("write it in quotes: %q", key.Value)
		}
		return e
	}
	return nil
}

// isPlain reports whether a scalar's text alone says what it is.
func isPlain(scalar *yaml.Node) bool {
	const notPlain = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle | yaml.TaggedStyle
	return scalar.Style&notPlain == 0
}

// IsText reports whether a scalar is text to helm, ytt, kapp and kubectl.
func IsText(scalar *yaml.Node) bool {
	if scalar.Kind != yaml.ScalarNode || scalar.ShortTag() == "!!binary" {
		return scalar.Kind == yaml.ScalarNode
	}
	kind, _ := meaningOf(scalar.Value)
	return !isPlain(scalar) && scalar.ShortTag() == "!!str" || isPlain(scalar) && kind == ""
}

var (
	floatStyle = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
	sixtyStyle = regexp.MustCompile(`^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$`)
)

// meaningOf returns what a plain scalar is to the YAML 1.1 of helm, ytt and kubectl: its kind, "" for
// text, and how JSON writes it as a key.
func meaningOf(text string) (kind, value string) {
	switch text {
	case "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		return "a boolean", "true"
	case "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		return "a boolean", "false"
	case "", "~", "null", "Null", "NULL":
		return "null", ""
	case ".nan", ".NaN", ".NAN":
		return "a number", ".nan"
	case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF":
		return "a number", ".inf"
	case "-.inf", "-.Inf", "-.INF":
		return "a number", "-.inf"
	}
	if strings.IndexByte("+-.0123456789", text[0]) < 0 {
		return "", ""
	}
	digits := strings.ReplaceAll(text, "_", "")
	if whole, err := strconv.ParseInt(digits, 0, 64); err == nil && text[0] != '.' {
		return "a number", strconv.FormatInt(whole, 10)
	}
	if whole, err := strconv.ParseUint(digits, 0, 64); err == nil && text[0] != '.' {
		return "a number", strconv.FormatUint(whole, 10)
	}
	if floatStyle.MatchString(digits) {
		if f, err := strconv.ParseFloat(digits, 64); err == nil {
			return "a number", strconv.FormatFloat(f, 'g', -1, 32)
		}
	}
	return "", ""
}

// NormalizeValues returns a copy of values from [ExpandAliases] without comments and flow style. A scalar
// without quotes keeps its text; one in quotes keeps them where the text could be taken for
// anything but text. So equal values have the same bytes, and mean the same to whoever reads them.
func NormalizeValues(node *yaml.Node) *yaml.Node {
	normal := &yaml.Node{Kind: node.Kind, Tag: node.Tag, Value: node.Value, Style: node.Style & yaml.TaggedStyle}
	switch {
	case node.Kind == yaml.AliasNode:
		return NormalizeValues(node.Alias)
	case node.Kind == yaml.ScalarNode:
		normalizeScalar(node, normal)
	}
	for _, child := range node.Content {
		normal.Content = append(normal.Content, NormalizeValues(child))
	}
	if node.Kind == yaml.MappingNode {
		normalizeKeys(normal)
	}
	return normal
}

func normalizeScalar(node, normal *yaml.Node) {
	isText := node.ShortTag() == "!!str"
	switch {
	case node.Style&yaml.TaggedStyle != 0 && !isText:
		return // with its tag: !!binary, !!float, one of an engine's own
	case isPlain(node) && !strings.Contains(node.Value, "\n"):
		normal.Tag = "" // its text says what it is
		return
	}
	normal.Tag, normal.Style = "!!str", 0
	switch {
	case isBlock(node.Value):
		normal.Style = yaml.LiteralStyle
	case strings.Contains(node.Value, "\n") || isAmbiguous(node.Value):
		normal.Style = yaml.DoubleQuotedStyle
	}
}

// normalizeKeys writes keys so that they can be read again.
func normalizeKeys(mapping *yaml.Node) {
	written := map[string]int{}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		written[mapping.Content[i].Value]++
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key := mapping.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode:
		case key.Value == "" && key.Tag == "":
			key.Value = "null" // an emitter would quote it
		case key.Style&yaml.LiteralStyle != 0:
			key.Style = yaml.DoubleQuotedStyle
		case written[key.Value] > 1 && key.Tag == "":
			key.Value = KeyName(key) // on, where "on" is there as well: a reader of YAML 1.2 takes both for one
		}
	}
}

// isAmbiguous reports whether a text without quotes could be taken for anything else by a reader
// of YAML 1.1 or 1.2.
func isAmbiguous(text string) bool {
	kind, _ := meaningOf(text)
	other := yaml.Node{Kind: yaml.ScalarNode, Value: text}
	return kind != "" || other.ShortTag() != "!!str" || sixtyStyle.MatchString(text) || text == "=" || text == "<<"
}

// isBlock reports whether a text of several lines can be written as a literal block, whatever is
// around it.
func isBlock(text string) bool {
	return strings.Contains(text, "\n") && !strings.ContainsAny(text[:1], " \n\t") && !strings.Contains(text, " \n") &&
		strings.IndexFunc(text, func(r rune) bool { return r != '\n' && r != '\t' && (!unicode.IsPrint(r) || r == '\uFEFF') }) < 0
}
