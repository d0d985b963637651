package images

import (
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// A field is a named value: of a mapping, an environment or a command line.
type field struct {
	name  string
	value *yaml.Node
	start int // where the text begins in the value
	index int // the item of its list
}

func (f *field) text() string { return strings.TrimSpace(f.value.Value[f.start:]) }

// piece returns the field as a part of a reference.
func (f *field) piece(is role) piece {
	start := f.start + strings.Index(f.value.Value[f.start:], f.text())
	return piece{node: f.value, start: start, end: start + len(f.text()), role: is}
}

// fields are named values next to each other, and those around them.
type fields struct {
	list    []field
	mapping *yaml.Node // nil for an environment and a command line
	outer   *fields
	place   func(*field) place
	// isLoose says that they are joined by a program only, never by convention.
	isLoose bool
}

// fieldsOf returns the scalars of a mapping that are set.
func fieldsOf(mapping *yaml.Node, at place, outer *fields) *fields {
	f := &fields{mapping: mapping, outer: outer, place: func(one *field) place { return at.key(one.name) }}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		f.add(field{name: target(mapping.Content[i]).Value, value: target(mapping.Content[i+1])})
	}
	return f
}

func (f *fields) add(one field) {
	if one.value.Kind == yaml.ScalarNode && one.value.Tag != "!!null" && one.text() != "" {
		f.list = append(f.list, one)
	}
}

func (f *fields) named(name string) *field {
	if f == nil {
		return nil
	}
	for i := range f.list {
		if f.list[i].name == name {
			return &f.list[i]
		}
	}
	return nil
}

// roleOf reads by its name which part of a reference a field holds. What comes before is common
// to all parts of one reference.
func roleOf(name string) (of string, is role, ok bool) {
	name = strings.ToLower(name)
	rest := name
	switch {
	case rest == "baserepo", rest == "baserepository":
		return "", registry, true
	case cut(&rest, "digest", "sha256", "sha"):
		is = digest
	case cut(&rest, "tag", "version"):
		if is = tag; rest == "new" {
			rest = ""
		}
	case cut(&rest, "repository", "repo"):
		is = repository
	case cut(&rest, "registry", "hub", "registryurl", "registryhost", "registryserver"):
		is = registry
		cut(&rest, "container", "docker")
	case cut(&rest, "base", "prefix"):
		if is = registry; rest != "" && !strings.HasSuffix(rest, "image") {
			return "", 0, false
		}
	case strings.HasPrefix(name, "related_image"):
		return "", whole, true
	default:
		cut(&rest, referenceWords...)
		if !cut(&rest, "images", "image") {
			return "", 0, false
		}
		return strings.Trim(rest, "._-"), whole, true
	}
	cut(&rest, "image")
	cut(&rest, "default")
	return strings.Trim(rest, "._-"), is, true
}

// isOneStyle reports whether two fields are called alike but for the part that they hold:
// image and tag, imageRepository and imageTag.
func isOneStyle(a, b *field) bool {
	return a == nil || b == nil || stem(a.name) == stem(b.name)
}

func stem(name string) string {
	rest := strings.ToLower(name)
	if rest == "newname" || rest == "newtag" || rest == "name" {
		return ""
	}
	if !cut(&rest, "digest", "sha256", "sha", "tag", "version", "repository", "repo", "registry") {
		cut(&rest, referenceWords...)
		cut(&rest, "images", "image")
	}
	return rest
}

func cut(name *string, words ...string) (ok bool) {
	*name, ok = cutWord(*name, words...)
	return ok
}

// part returns the field that may hold another part of the reference that a field is a part of, or nil.
func (f *fields) part(of string, is role, except *field) *field {
	var found *field
	for i := range f.list {
		one := &f.list[i]
		prefix, role, ok := roleOf(one.name)
		if !ok || role != is || one.value == except.value || prefix != of && prefix != "" || !canBe(is, one.text()) {
			continue
		}
		// The same prefix is closer, and a tag is closer than a version.
		if found == nil || prefix == of && !isTagged(found) {
			found = one
		}
	}
	return found
}

func isTagged(f *field) bool { return strings.HasSuffix(strings.ToLower(f.name), "tag") }

// around returns the nearest field around these that may hold another part, and how many mappings
// out it is.
func (f *fields) around(of string, is role, except *field) (*field, int) {
	steps := 0
	for outer := f.outer; outer != nil; outer = outer.outer {
		steps++
		if found := outer.part(of, is, except); found != nil {
			return found, steps
		}
	}
	return nil, 0
}

// origin returns the field that may say where a reference without a host comes from.
func (f *fields) origin(of string, is role, one *field) (host *field, steps int) {
	if host = f.part(of, registry, one); host != nil {
		return host, 0
	}
	if host, steps = f.around(of, registry, one); host == nil && is == whole {
		host, steps = f.around(of, repository, one)
	}
	return host, steps
}

var tagText = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(?:@sha256:[0-9a-f]{64})?$`)

// canBe reports whether a text can be a part of a reference.
func canBe(is role, text string) bool {
	switch is {
	case tag:
		return tagText.MatchString(text)
	case digest:
		sum := strings.TrimPrefix(text, "sha256:")
		return len(sum) == 64 && strings.Trim(sum, "0123456789abcdef") == ""
	case registry:
		return !strings.HasPrefix(text, "/") && isRepository(strings.TrimSuffix(text, "/")+"/x")
	case repository:
		return isRepository(strings.Trim(text, "/"))
	}
	return isWord(text)
}

// isRepository reports whether a text names a repository alone, without a tag.
func isRepository(text string) bool {
	if strings.Contains(text, "@") || !isWord(text) {
		return false
	}
	return !strings.Contains(text[strings.LastIndexByte(text, '/')+1:], ":")
}

// split takes the images that fields hold together. It is sure where a repository, its tag or
// digest and whatever else there is stand in fields of one mapping that are called so. Where another
// field next to them or around them may be a part of the reference, or nothing says which
// registry it comes from, it is a suspect.
func (w *walker) split(f *fields, at place) {
	if w.schema {
		return
	}
	called := isImageKey(at.field()) || at.parent() == "images"
	for i := range f.list {
		one := &f.list[i]
		isEntry := called && (one.name == "newName" || one.name == "name" && f.named("newName") == nil)
		of, is, ok := roleOf(one.name)
		switch {
		case called && one.name == "name" && !isEntry:
			w.taken[one.value] = true // what a kustomization replaces
			continue
		case isEntry:
			of, is = "", repository
		case !ok || is != repository && is != whole:
			continue
		}
		if !w.taken[one.value] && isRepository(strings.Trim(one.text(), "/")) {
			w.join(f, one, of, is, called && is != whole)
		}
	}
}

// join puts a reference together around the field that holds its repository. Alone, a field
// is one only where isImage says so.
func (w *walker) join(f *fields, one *field, of string, is role, isImage bool) {
	version, sum := f.part(of, tag, one), f.part(of, digest, one)
	inner := f.part(of, repository, one)
	if is == repository {
		inner = f.part(of, whole, one)
	}
	if inner != nil && (w.taken[inner.value] || hasHost(inner.text()) && hasHost(one.text())) {
		inner = nil
	}
	host, steps := f.origin(of, is, one)
	if steps > 0 && hasHost(one.text()) {
		host, steps = nil, 0
	}
	isBare := version == nil && sum == nil && inner == nil
	if isBare && (host == nil && (!isImage || one.name == "name") || !isImage && is != whole) {
		return
	}
	isKnown := strings.Contains(one.text(), "/") && is == repository
	if host != nil {
		isKnown = steps == 0 && strings.HasSuffix(strings.ToLower(host.name), "registry") && !strings.HasSuffix(host.text(), "/") && !hasHost(one.text())
	} else if hasHost(one.text()) {
		isKnown = true
	}
	parts := []joinedField{{field: one, is: repository}}
	switch {
	case inner != nil && is == repository:
		parts = append(parts, joinedField{field: inner, is: repository})
	case inner != nil:
		parts = []joinedField{{field: inner, is: repository}, {field: one, is: repository}}
	}
	if host != nil && !hasHost(parts[0].text()) {
		parts = slices.Insert(parts, 0, joinedField{field: host, steps: steps, is: registry})
	}
	sure := isKnown && isRepository(one.text()) && (version == nil || !isToDo(version.text())) && isOneStyle(one, host) && isOneStyle(one, version) && isOneStyle(one, sum) && inner == nil && !f.isLoose && (version == nil || isTagged(version)) && (version != nil || sum != nil)
	if version == nil && sum == nil {
		version, steps = f.around(of, tag, one)
	} else {
		steps = 0
	}
	if version != nil {
		parts = append(parts, joinedField{field: version, steps: steps, is: tag})
	}
	if sum != nil {
		parts = append(parts, joinedField{field: sum, is: digest})
	}
	image := joinParts(parts)
	state := Suspect
	if sure && isWord(image) {
		// Whoever reads any other has more to it.
		state = Image
	}
	w.addJoined(image, f.place(one), state, howSplit, parts).isLoose = f.isLoose
}

// joinedField is a field as one part of a reference, and how many mappings out it is.
type joinedField struct {
	*field
	steps  int
	is     role
	isKept bool
}

// path returns the field as a search rule names it.
func (j joinedField) path() string { return strings.Repeat("../", j.steps) + j.name }

// joinParts returns the reference that fields make up.
func joinParts(parts []joinedField) (image string) {
	for i, p := range parts {
		switch text := p.text(); {
		case p.is == tag:
			image += ":" + text
		case p.is == digest:
			image += "@sha256:" + strings.TrimPrefix(text, "sha256:")
		case i == 0:
			image = text
		default:
			image = strings.TrimSuffix(image, "/") + "/" + strings.TrimPrefix(text, "/")
		}
	}
	return image
}

// addJoined adds what stands in several fields, at the place of one of them.
func (w *walker) addJoined(image string, at place, state State, how string, parts []joinedField) *Found {
	main := slices.IndexFunc(parts, func(p joinedField) bool { return p.steps == 0 && p.is == repository })
	if how == howRule {
		main = len(parts) - 1
		for main > 0 && (parts[main].steps > 0 || parts[main].is != repository) {
			main--
		}
	}
	ordered := slices.Concat(parts[max(main, 0):], parts[:max(main, 0)])
	var pieces []piece
	for _, p := range ordered {
		one := p.piece(p.is)
		one.order = slices.IndexFunc(parts, func(other joinedField) bool { return other.field == p.field })
		one.isKept = p.isKept
		pieces = append(pieces, one)
		w.taken[p.value] = true
	}
	found := w.new(image, at, state, how, pieces...)
	for _, p := range parts {
		found.fields = append(found.fields, p.path())
	}
	w.add(found)
	return &(*w.found)[len(*w.found)-1]
}

// isPartial reports whether a reference that is complete in itself may be a part of a longer one
// still: a field next to it or around it has a registry for it, or one next to it a tag or a digest.
// It gives the fields, as far as they make up a reference.
func (f *fields) isPartial(one *field) ([]joinedField, bool) {
	if f == nil {
		return nil, false
	}
	of, is, _ := roleOf(one.name)
	text := one.text()
	if !hasHost(text) {
		host, steps := f.origin(of, is, one)
		if host == nil {
			host = f.part(of, repository, one)
		}
		if host != nil {
			return []joinedField{{field: host, steps: steps, is: registry}, {field: one, is: repository}}, true
		}
	}
	alone := []joinedField{{field: one, is: repository}}
	if version := f.part(of, tag, one); version != nil && isTagged(version) {
		return alone, true
	}
	return alone, !strings.Contains(text, "@") && f.part(of, digest, one) != nil
}
