package images

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"
)

// Rule says where an image is, with the meaning of a search rule of kbld
// (carvel.dev/kbld/docs/latest/config#searchrules): a place, a value or both have to match.
type Rule struct {
	// KeyMatcher matches places.
	KeyMatcher *KeyMatcher `json:"keyMatcher,omitempty" yaml:"keyMatcher,omitempty"`
	// ValueMatcher matches values.
	ValueMatcher *ValueMatcher `json:"valueMatcher,omitempty" yaml:"valueMatcher,omitempty"`
	// UpdateStrategy says what of the value is the image; all of it when empty.
	UpdateStrategy *UpdateStrategy `json:"updateStrategy,omitempty" yaml:"updateStrategy,omitempty"`
	// Join names the fields of a mapping that make up one reference, in its order, for example
	// [registry, repository, tag]; ../NAME is a field of the mapping around. A field called tag,
	// version, digest or the like holds that, and so does one that is written with a colon (":rev")
	// or an @ before it; the others are joined by slashes. KeyMatcher matches the mapping then.
	Join []string `json:"join,omitempty" yaml:"join,omitempty" jsonschema:"minItems=2"`
	// Rewrite names the fields of Join that point to the locked image on the target; all of
	// them when empty. Of several that hold a path, the first takes the host.
	Rewrite []string `json:"rewrite,omitempty" yaml:"rewrite,omitempty"`
	// Pin is what the field of the tag becomes: tag@digest (TAG@sha256:…), which is the default, or
	// digest (sha256:…), for a product that puts an @ before it then.
	Pin string `json:"pin,omitempty" yaml:"pin,omitempty" jsonschema:"enum=tag@digest,enum=digest"`
}

// KeyMatcher matches a field by its key or by its way from the root; one of them is set.
type KeyMatcher struct {
	// Name is the field's key.
	Name string `json:"name,omitempty" yaml:"name,omitempty"`
	// Path is the field's way from the resource: keys of mappings, and for items of lists
	// {index: N} or {allIndexes: true}.
	Path []any `json:"path,omitempty" yaml:"path,omitempty"`
}

// ValueMatcher matches a value that is an image.
type ValueMatcher struct {
	// Image is the whole value.
	Image string `json:"image,omitempty" yaml:"image,omitempty"`
	// ImageRepo is the repository of the value's reference, without tag and digest.
	ImageRepo string `json:"imageRepo,omitempty" yaml:"imageRepo,omitempty"`
}

// UpdateStrategy says what of a value is the image: exactly one is set.
type UpdateStrategy struct {
	// None leaves the value alone, whatever else matches it.
	None *struct{} `json:"none,omitempty" yaml:"none,omitempty"`
	// EntireValue is the whole value.
	EntireValue *struct{} `json:"entireValue,omitempty" yaml:"entireValue,omitempty"`
	// JSON is JSON text, with rules for what is in it.
	JSON *Embedded `json:"json,omitempty" yaml:"json,omitempty"`
	// YAML is YAML text, with rules for what is in it.
	YAML *Embedded `json:"yaml,omitempty" yaml:"yaml,omitempty"`
}

// Embedded holds the rules for a value that is a document itself.
type Embedded struct {
	SearchRules []Rule `json:"searchRules" yaml:"searchRules"`
}

// NotImage allows suspects: strings that look like image references and are none, or none that
// the target fetches.
type NotImage struct {
	// Value is a glob for the string that is reported; * crosses slashes.
	Value string `json:"value" yaml:"value" jsonschema:"minLength=1"`
	// Resource is a glob for the kind and name of the resource that it is in, as in "Deployment web";
	// any resource when empty.
	Resource string `json:"resource,omitempty" yaml:"resource,omitempty"`
	// Path is a glob for the field, as it is reported; any field when empty.
	Path string `json:"path,omitempty" yaml:"path,omitempty"`
	// Reason says why it is not locked.
	Reason string `json:"reason" yaml:"reason" jsonschema:"minLength=1"`
}

// compiledRule is a [Rule] made ready.
type compiledRule struct {
	name     string
	path     []any // string, int, or nil for every item
	value    *ValueMatcher
	strategy *UpdateStrategy
	embedded []compiledRule
	join     []joinPart
	pin      string
}

// joinPart is a field of a [Rule.Join].
type joinPart struct {
	name   string
	steps  int // mappings out
	role   partRole
	isKept bool
}

// CheckRules says what is wrong with rules; its error begins with the place, as in
// "searchRules[0].keyMatcher.path[1]: …".
func CheckRules(rules []Rule) error {
	_, err := compileRules(rules)
	return err
}

// compileRules makes rules ready.
func compileRules(rules []Rule) ([]compiledRule, error) {
	compiled := make([]compiledRule, len(rules))
	for i, r := range rules {
		one, err := r.compileRule()
		if err != nil {
			return nil, fmt.Errorf("searchRules[%d]%w", i, err)
		}
		compiled[i] = one
	}
	return compiled, nil
}

func (r Rule) compileRule() (compiledRule, error) {
	c := compiledRule{value: r.ValueMatcher, strategy: r.UpdateStrategy, pin: r.Pin}
	key := r.KeyMatcher
	if err := c.compileJoin(r); err != nil {
		return c, err
	}
	if key == nil && c.value == nil && c.join == nil || c.value != nil && (c.value.Image == "") == (c.value.ImageRepo == "") {
		return c, fmt.Errorf(": want keyMatcher, or valueMatcher with one of image and imageRepo, or both")
	}
	if key != nil {
		if (key.Name == "") == (len(key.Path) == 0) {
			return c, fmt.Errorf(".keyMatcher: want one of name and path")
		}
		c.name = key.Name
		for i, part := range key.Path {
			step, err := pathPart(part)
			if err != nil {
				return c, fmt.Errorf(".keyMatcher.path[%d]: %w", i, err)
			}
			c.path = append(c.path, step)
		}
	}
	if s := c.strategy; s != nil {
		set, within := 0, s.JSON
		for _, isSet := range []bool{s.None != nil, s.EntireValue != nil, s.JSON != nil, s.YAML != nil} {
			if isSet {
				set++
			}
		}
		if set != 1 {
			return c, fmt.Errorf(".updateStrategy: want one of none, entireValue, json and yaml")
		}
		if within == nil {
			within = s.YAML
		}
		if within != nil {
			inner, err := compileRules(within.SearchRules)
			if err != nil {
				return c, fmt.Errorf(".updateStrategy: %w", err)
			}
			c.embedded = inner
		}
	}
	return c, nil
}

// compileJoin makes the fields of a rule ready that joins several.
func (c *compiledRule) compileJoin(r Rule) error {
	switch {
	case len(r.Join) == 0 && (len(r.Rewrite) > 0 || r.Pin != ""):
		return fmt.Errorf(": rewrite and pin require join")
	case len(r.Join) == 0:
		return nil
	case len(r.Join) == 1:
		return fmt.Errorf(".join: want at least two fields")
	case r.UpdateStrategy != nil && r.UpdateStrategy.None == nil:
		return fmt.Errorf(".updateStrategy: want none or nothing with join")
	case r.Pin != "" && r.Pin != pinTag && r.Pin != pinDigest:
		return fmt.Errorf(".pin is %q, want %s or %s", r.Pin, pinTag, pinDigest)
	}
	for i, name := range r.Rewrite {
		if !slices.Contains(r.Join, name) {
			return fmt.Errorf(".rewrite[%d]: %q is not in join", i, name)
		}
	}
	paths := 0
	for i, name := range r.Join {
		p := joinPart{name: name, role: repository, isKept: len(r.Rewrite) > 0 && !slices.Contains(r.Rewrite, name)}
		for strings.HasPrefix(p.name, "../") {
			p.name, p.steps = p.name[3:], p.steps+1
		}
		switch first := p.name[:min(1, len(p.name))]; first {
		case "":
			return fmt.Errorf(".join[%d]: %q names no field", i, name)
		case ":":
			p.name, p.role = p.name[1:], tag
		case "@":
			p.name, p.role = p.name[1:], digest
		default:
			if _, role, ok := roleOf(p.name); ok && (role == tag || role == digest) {
				p.role = role
			}
		}
		if p.role == repository {
			if len(c.join) > paths {
				return fmt.Errorf(".join[%d]: %q comes after the tag: want the fields in the order of the reference", i, name)
			}
			paths++
		}
		c.join = append(c.join, p)
	}
	if paths == 0 {
		return fmt.Errorf(".join: want a field with a repository")
	}
	return nil
}

// The values of [Rule.Pin].
const (
	pinTag    = "tag@digest"
	pinDigest = "digest"
)

// pathPart reads a part of a path: a key, or {index: N}, or {allIndexes: true}.
func pathPart(part any) (any, error) {
	switch p := part.(type) {
	case string:
		return p, nil
	case map[string]any:
		if all, ok := p["allIndexes"].(bool); ok && all && len(p) == 1 {
			return nil, nil
		}
		if index, ok := p["index"].(int); ok && len(p) == 1 {
			if index == -1 {
				return nil, nil // kbld's older word for every item
			}
			return index, nil
		}
	}
	return nil, fmt.Errorf("%v is not part of a path: want a key, {index: N} or {allIndexes: true}", part)
}

// matchesValue reports whether the rule is for a value at a place.
func (r *compiledRule) matchesValue(text string, at *documentPlace) bool {
	switch {
	case r.name != "" && r.name != at.fieldName():
		return false
	case r.path != nil && !onPath(at.stepsFromRoot(), r.path):
		return false
	case r.value == nil:
		return true
	case r.value.Image != "":
		return text == r.value.Image
	}
	ref, err := ParseReference(text)
	if err != nil {
		return false
	}
	wanted, err := ParseReference(r.value.ImageRepo)
	return err == nil && wanted.Context().Name() == ref.Context().Name()
}

func onPath(way, path []any) bool {
	if len(way) != len(path) {
		return false
	}
	for i, step := range path {
		if _, isIndex := way[i].(int); step == nil && !isIndex || step != nil && step != way[i] {
			return false
		}
	}
	return true
}

// applyRules lets the definition's rules decide on each scalar of a document.
func (w *imageWalker) applyRules(node *yaml.Node, at *documentPlace, seen map[*yaml.Node]bool) error {
	if seen[node] {
		return nil
	}
	seen[node] = true
	switch node.Kind {
	case yaml.AliasNode:
		return w.applyRules(node.Alias, at, seen)
	case yaml.ScalarNode:
		return w.applyRule(node, at)
	case yaml.SequenceNode:
		within := at.atIndex(0)
		for i, item := range node.Content {
			within.moveToIndex(i)
			if err := w.applyRules(item, within, seen); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		w.near = &fieldGroup{mapping: node, at: at, outer: w.near}
		defer func(outer *fieldGroup) { w.near = outer }(w.near.outer)
		w.applyJoinRules(at)
		within := at.atKey("")
		for i := 0; i+1 < len(node.Content); i += 2 {
			within.moveToKey(resolveAlias(node.Content[i]).Value)
			if err := w.applyRules(node.Content[i+1], within, seen); err != nil {
				return err
			}
		}
	}
	return nil
}

// applyJoinRules lets the rules that join fields decide on those of the mapping that the walker is in.
func (w *imageWalker) applyJoinRules(at *documentPlace) {
	for _, r := range w.rules {
		parts, main := r.fieldsIn(w.near)
		if parts == nil || slices.ContainsFunc(parts, func(p joinedField) bool { return p.steps == 0 && w.taken[p.value] }) {
			continue
		}
		image := joinParts(parts)
		if !r.matchesValue(image, at) {
			continue
		}
		state := Image
		if _, err := ParseReference(image); err != nil {
			state = Suspect
		}
		if r.strategy != nil {
			state = Ignored
		}
		found := w.addJoined(image, w.near.placeOfField(main.namedField), state, howRule, parts)
		found.pinsDigest = r.pin == pinDigest
		if state == Ignored {
			found.Reason = "a search rule excludes it"
		}
	}
}

// fieldsIn returns the fields that a rule joins, and the one of them that holds the name of the
// image, or nil where one of them is not set.
func (r *compiledRule) fieldsIn(near *fieldGroup) (parts []joinedField, main joinedField) {
	for _, p := range r.join {
		in := near
		for range p.steps {
			if in != nil {
				in = in.outer
			}
		}
		one := in.findField(p.name)
		if one == nil {
			return nil, main
		}
		part := joinedField{namedField: one, steps: p.steps, role: p.role, isKept: p.isKept}
		if parts = append(parts, part); p.role == repository && p.steps == 0 || main.namedField == nil {
			main = part
		}
	}
	return parts, main
}

// applyRule lets the first rule that matches a scalar decide on it.
func (w *imageWalker) applyRule(node *yaml.Node, at *documentPlace) error {
	text := strings.TrimSpace(node.Value)
	i := slices.IndexFunc(w.rules, func(r compiledRule) bool { return r.join == nil && r.matchesValue(text, at) })
	if i < 0 || w.taken[node] || text == "" {
		return nil
	}
	w.taken[node] = true
	strategy := w.rules[i].strategy
	switch {
	case strategy == nil || strategy.EntireValue != nil:
		w.takeImage(node, at, howRule)
	case strategy.None != nil:
		f := w.wholeScalar(node, at, Ignored, howRule)
		f.Reason = "a search rule excludes it"
		w.addFound(f)
	default:
		if _, ok := w.parseInner(node); !ok {
			file, top := w.scope.outermost(node)
			return file.Errorf(top, "%s: %s is not YAML or JSON, as a search rule says", w.resource, w.inside+at.pathText())
		}
		return w.checkText(node, at, w.rules[i].embedded)
	}
	return nil
}

// AllowedReason tells by the rules of NotImages why something is not an image.
func (f *Finder) AllowedReason(found *Found) (reason string, ok bool) {
	for _, n := range f.NotImages {
		if matchesGlob(n.Value, found.Image) && (n.Resource == "" || matchesGlob(n.Resource, found.Resource)) && (n.Path == "" || matchesGlob(n.Path, found.Path)) {
			return n.Reason, true
		}
	}
	return "", false
}

// canBeReference reports whether some container runtime could take a text for an image reference. It
// has to err on that side: the grammars differ (github.com/distribution/reference), and what none of
// them knows is a placeholder, which fails to start until something on the cluster fills it in.
func canBeReference(text string) bool {
	if strings.Contains(text, "//") || strings.ContainsFunc(text, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-+/:@[]", r)
	}) {
		return false
	}
	repository := text // without the host, which alone may be in capitals
	if _, after, ok := strings.Cut(text, "/"); ok {
		repository = after
	}
	repository, _, _ = strings.Cut(repository, "@")
	repository, _, _ = strings.Cut(repository, ":")
	return repository == strings.ToLower(repository)
}

// matchesGlob reports whether a text is what a glob means, in which * is any characters at all.
func matchesGlob(glob, text string) bool {
	parts := strings.Split(glob, "*")
	last := len(parts) - 1
	if last == 0 {
		return glob == text
	}
	rest, ok := strings.CutPrefix(text, parts[0])
	if !ok || !strings.HasSuffix(rest, parts[last]) {
		return false
	}
	rest = strings.TrimSuffix(rest, parts[last])
	for _, part := range parts[1:last] {
		_, after, ok := strings.Cut(rest, part)
		if !ok {
			return false
		}
		rest = after
	}
	return true
}
