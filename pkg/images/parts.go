package images

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// A namedField is a named value: of a mapping, an environment or a command line.
type namedField struct {
	name  string
	value *yaml.Node
	start int // where the text begins in the value
	index int // the item of its list
}

func (f *namedField) trimmedText() string { return strings.TrimSpace(f.value.Value[f.start:]) }

// asPiece returns the field as a part of a reference.
func (f *namedField) asPiece(role partRole) foundPiece {
	start := f.start + strings.Index(f.value.Value[f.start:], f.trimmedText())
	return foundPiece{node: f.value, start: start, end: start + len(f.trimmedText()), role: role}
}

// fieldGroup are named values next to each other, and those around them.
type fieldGroup struct {
	list     []namedField // of a mapping, once listFields has been called
	isListed bool
	mapping  *yaml.Node // nil for an environment and a command line
	at       *documentPlace
	itemKey  string // the key of the values in the items of a list; "" if they are the items
	outer    *fieldGroup
	// isLoose is set if they are joined by a program only, never by convention.
	isLoose bool
}

// placeOfField returns where a field of the group is.
func (f *fieldGroup) placeOfField(one *namedField) *documentPlace {
	switch {
	case f.mapping != nil:
		return f.at.atKey(one.name)
	case f.itemKey != "":
		return f.at.atIndex(one.index).atKey(f.itemKey)
	}
	return f.at.atIndex(one.index)
}

// listFields returns the fields of the group. Those of a mapping are its scalars that are set; few mappings are asked for them.
func (f *fieldGroup) listFields() []namedField {
	if f.mapping != nil && !f.isListed {
		f.isListed = true
		for i := 0; i+1 < len(f.mapping.Content); i += 2 {
			f.addField(namedField{name: resolveAlias(f.mapping.Content[i]).Value, value: resolveAlias(f.mapping.Content[i+1])})
		}
	}
	return f.list
}

func (f *fieldGroup) addField(one namedField) {
	if one.value.Kind == yaml.ScalarNode && one.value.Tag != "!!null" && one.trimmedText() != "" {
		f.list = append(f.list, one)
	}
}

func (f *fieldGroup) findField(name string) *namedField {
	if f == nil {
		return nil
	}
	fields := f.listFields()
	for i := range fields {
		if fields[i].name == name {
			return &fields[i]
		}
	}
	return nil
}

// roleOf reads by its name which part of a reference a field holds. What comes before is common
// to all parts of one reference.
func roleOf(name string) (of string, role partRole, ok bool) {
	return roleOfLower(strings.ToLower(name))
}

// roleEnds are what each name of a part ends in that does not begin with related_image.
var roleEnds = indexEnds(slices.Concat(referenceWords, []string{
	"digest", "sha256", "sha", "tag", "version", "repository", "repo", "registry", "hub", "registryurl", "registryhost", "registryserver",
	"base", "prefix", "images", "image",
})...)

// roleOfLower is roleOf for a name in lower case.
func roleOfLower(name string) (of string, role partRole, ok bool) {
	if !roleEnds().isEndOf(name) && !strings.HasPrefix(name, "related_image") {
		return "", 0, false // as nearly all
	}
	return readRole(name)
}

func readRole(name string) (of string, role partRole, ok bool) {
	rest := name
	switch {
	case rest == "baserepo", rest == "baserepository":
		return "", registry, true
	case cutSuffix(&rest, "digest", "sha256", "sha"):
		role = digest
	case cutSuffix(&rest, "tag", "version"):
		if role = tag; rest == "new" {
			rest = ""
		}
	case cutSuffix(&rest, "repository", "repo"):
		role = repository
	case cutSuffix(&rest, "registry", "hub", "registryurl", "registryhost", "registryserver"):
		role = registry
		cutSuffix(&rest, "container", "docker")
	case cutSuffix(&rest, "base", "prefix"):
		if role = registry; rest != "" && !strings.HasSuffix(rest, "image") {
			return "", 0, false
		}
	case strings.HasPrefix(name, "related_image"):
		return "", whole, true
	default:
		cutSuffix(&rest, referenceWords...)
		if !cutSuffix(&rest, "images", "image") {
			return "", 0, false
		}
		return strings.Trim(rest, "._-"), whole, true
	}
	cutSuffix(&rest, "image")
	cutSuffix(&rest, "default")
	return strings.Trim(rest, "._-"), role, true
}

// isOneStyle reports whether two fields are called alike but for the part that they hold:
// image and tag, imageRepository and imageTag.
func isOneStyle(a, b *namedField) bool {
	return a == nil || b == nil || fieldStem(a.name) == fieldStem(b.name)
}

func fieldStem(name string) string {
	rest := strings.ToLower(name)
	if rest == "newname" || rest == "newtag" || rest == "name" {
		return ""
	}
	if !cutSuffix(&rest, "digest", "sha256", "sha", "tag", "version", "repository", "repo", "registry") {
		cutSuffix(&rest, referenceWords...)
		cutSuffix(&rest, "images", "image")
	}
	return rest
}

func cutSuffix(name *string, words ...string) (ok bool) {
	*name, ok = cutWord(*name, words...)
	return ok
}

// findPart returns the field that may hold another part of the reference that a field is a part of, or nil.
func (f *fieldGroup) findPart(of string, role partRole, except *namedField) *namedField {
	var found *namedField
	fields := f.listFields()
	for i := range fields {
		one := &fields[i]
		prefix, fieldRole, ok := roleOf(one.name)
		if !ok || fieldRole != role || one.value == except.value || prefix != of && prefix != "" || !canBe(role, one.trimmedText()) {
			continue
		}
		// The same prefix is closer, and a tag is closer than a version.
		if found == nil || prefix == of && !isTagged(found) {
			found = one
		}
	}
	return found
}

func isTagged(f *namedField) bool { return strings.HasSuffix(strings.ToLower(f.name), "tag") }

// findOuterPart returns the nearest field around these that may hold another part, and how many mappings
// out it is.
func (f *fieldGroup) findOuterPart(of string, role partRole, except *namedField) (*namedField, int) {
	steps := 0
	for outer := f.outer; outer != nil; outer = outer.outer {
		steps++
		if found := outer.findPart(of, role, except); found != nil {
			return found, steps
		}
	}
	return nil, 0
}

// findHost returns the field that may say where a reference without a host comes from.
func (f *fieldGroup) findHost(of string, role partRole, one *namedField) (host *namedField, steps int) {
	if host = f.findPart(of, registry, one); host != nil {
		return host, 0
	}
	if host, steps = f.findOuterPart(of, registry, one); host == nil && role == whole {
		host, steps = f.findOuterPart(of, repository, one)
	}
	return host, steps
}

var tagText = lazyregexp.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(?:@sha256:[0-9a-f]{64})?$`)

// canBe reports whether a text can be a part of a reference.
func canBe(role partRole, text string) bool {
	switch role {
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

// findJoinedFields takes the images that fields hold together. It is sure where a repository, its tag or
// digest and whatever else there is stand in fields of one mapping that are called so. Where another
// field next to them or around them may be a part of the reference, or nothing says which
// registry it comes from, it is a suspect.
func (w *imageWalker) findJoinedFields(f *fieldGroup, at *documentPlace) {
	if w.schema {
		return
	}
	names := w.scope.names
	called := names.readName(at.fieldName()).label == denotes || at.parentName() == "images"
	if f.mapping != nil && !called && !names.haveRepository(f.mapping) {
		return // as nearly all
	}
	fields := f.listFields()
	for i := range fields {
		one := &fields[i]
		isEntry := called && (one.name == "newName" || one.name == "name" && f.findField("newName") == nil)
		name := names.readName(one.name)
		of, role, ok := name.of, name.role, name.isPart
		switch {
		case called && one.name == "name" && !isEntry:
			w.taken[one.value] = true // what a kustomization replaces
			continue
		case isEntry:
			of, role = "", repository
		case !ok || role != repository && role != whole:
			continue
		}
		if !w.taken[one.value] && isRepository(strings.Trim(one.trimmedText(), "/")) {
			w.joinReference(f, one, of, role, called && role != whole)
		}
	}
}

// joinReference puts a reference together around the field that holds its repository. Alone, a field
// is one only where isImage says so.
func (w *imageWalker) joinReference(f *fieldGroup, one *namedField, of string, role partRole, isImage bool) {
	version, sum := f.findPart(of, tag, one), f.findPart(of, digest, one)
	inner := f.findPart(of, repository, one)
	if role == repository {
		inner = f.findPart(of, whole, one)
	}
	if inner != nil && (w.taken[inner.value] || hasHost(inner.trimmedText()) && hasHost(one.trimmedText())) {
		inner = nil
	}
	host, steps := f.findHost(of, role, one)
	if steps > 0 && hasHost(one.trimmedText()) {
		host, steps = nil, 0
	}
	isBare := version == nil && sum == nil && inner == nil
	if isBare && (host == nil && (!isImage || one.name == "name") || !isImage && role != whole) {
		return
	}
	isKnown := strings.Contains(one.trimmedText(), "/") && role == repository
	if host != nil {
		isKnown = steps == 0 && strings.HasSuffix(strings.ToLower(host.name), "registry") && !strings.HasSuffix(host.trimmedText(), "/") && !hasHost(one.trimmedText())
	} else if hasHost(one.trimmedText()) {
		isKnown = true
	}
	parts := []joinedField{{namedField: one, role: repository}}
	switch {
	case inner != nil && role == repository:
		parts = append(parts, joinedField{namedField: inner, role: repository})
	case inner != nil:
		parts = []joinedField{{namedField: inner, role: repository}, {namedField: one, role: repository}}
	}
	if host != nil && !hasHost(parts[0].trimmedText()) {
		parts = slices.Insert(parts, 0, joinedField{namedField: host, steps: steps, role: registry})
	}
	sure := isKnown && isRepository(one.trimmedText()) && (version == nil || !isToDo(version.trimmedText())) && isOneStyle(one, host) && isOneStyle(one, version) && isOneStyle(one, sum) && inner == nil && !f.isLoose && (version == nil || isTagged(version)) && (version != nil || sum != nil)
	if version == nil && sum == nil {
		version, steps = f.findOuterPart(of, tag, one)
	} else {
		steps = 0
	}
	if version != nil {
		parts = append(parts, joinedField{namedField: version, steps: steps, role: tag})
	}
	if sum != nil {
		parts = append(parts, joinedField{namedField: sum, role: digest})
	}
	image := joinParts(parts)
	state := Suspect
	if sure && isWord(image) {
		// Whoever reads any other has more to it.
		state = Image
	}
	w.addJoined(image, f.placeOfField(one), state, howSplit, parts).isLoose = f.isLoose
}

// joinedField is a field as one part of a reference, and how many mappings out it is.
type joinedField struct {
	*namedField
	steps  int
	role   partRole
	isKept bool
}

// rulePath returns the field as a search rule names it.
func (j joinedField) rulePath() string { return strings.Repeat("../", j.steps) + j.name }

// joinParts returns the reference that fields make up.
func joinParts(parts []joinedField) (image string) {
	for i, p := range parts {
		switch text := p.trimmedText(); {
		case p.role == tag:
			image += ":" + text
		case p.role == digest:
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
func (w *imageWalker) addJoined(image string, at *documentPlace, state State, how string, parts []joinedField) *Found {
	main := slices.IndexFunc(parts, func(p joinedField) bool { return p.steps == 0 && p.role == repository })
	if how == howRule {
		main = len(parts) - 1
		for main > 0 && (parts[main].steps > 0 || parts[main].role != repository) {
			main--
		}
	}
	ordered := slices.Concat(parts[max(main, 0):], parts[:max(main, 0)])
	var pieces []foundPiece
	for _, p := range ordered {
		one := p.asPiece(p.role)
		one.order = slices.IndexFunc(parts, func(other joinedField) bool { return other.namedField == p.namedField })
		one.isKept = p.isKept
		pieces = append(pieces, one)
		w.taken[p.value] = true
	}
	found := w.newFound(image, at, state, how, pieces...)
	for _, p := range parts {
		found.fields = append(found.fields, p.rulePath())
	}
	w.addFound(found)
	return &(*w.found)[len(*w.found)-1]
}

// isPartial reports whether a reference that is complete in itself may be a part of a longer one
// still: a field next to it or around it has a registry for it, or one next to it a tag or a digest.
// It gives the fields, as far as they make up a reference.
func (f *fieldGroup) isPartial(one *namedField) ([]joinedField, bool) {
	if f == nil {
		return nil, false
	}
	of, role, _ := roleOf(one.name)
	text := one.trimmedText()
	if !hasHost(text) {
		host, steps := f.findHost(of, role, one)
		if host == nil {
			host = f.findPart(of, repository, one)
		}
		if host != nil {
			return []joinedField{{namedField: host, steps: steps, role: registry}, {namedField: one, role: repository}}, true
		}
	}
	alone := []joinedField{{namedField: one, role: repository}}
	if version := f.findPart(of, tag, one); version != nil && isTagged(version) {
		return alone, true
	}
	return alone, !strings.Contains(text, "@") && f.findPart(of, digest, one) != nil
}
