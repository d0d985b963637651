package images

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// findInContainers takes the images of a field of a pod, or of what a kind of resource has like it.
func (w *imageWalker) findInContainers(key string, value *yaml.Node, at *documentPlace) error {
	var within []string
	how := howContainer
	switch key {
	case "containers", "initContainers", "ephemeralContainers":
		within = []string{"image"}
	case "volumes":
		within, how = []string{"image", "reference"}, howVolume
	default:
		if !slices.Contains(w.containers, key) {
			return nil
		}
		within = []string{"image"}
	}
	value = resolveAlias(value)
	items := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		items = value.Content
	}
	for i, item := range items {
		itemAt := at
		if value.Kind == yaml.SequenceNode {
			itemAt = at.atIndex(i)
		}
		for _, field := range within {
			itemAt = itemAt.atKey(field)
		}
		for _, node := range scalarsAt(item, within, nil) {
			if err := w.takeContainerImage(node, itemAt, how); err != nil {
				return err
			}
		}
	}
	return nil
}

// containerFields are the fields of other API groups that hold a container, or a list of them.
var containerFields = map[string][]string{
	"tekton.dev":  {"steps", "sidecars", "stepTemplate"},
	"argoproj.io": {"container", "script", "sidecars"},
}

func (w *imageWalker) takeContainerImage(node *yaml.Node, at *documentPlace, how string) error {
	image := strings.TrimSpace(node.Value)
	if node.Tag == "!!null" || image == "" {
		// Whoever owns the resource fills it in: Deployments cannot leave it out, but
		// templates of controllers can.
		return nil
	}
	if node.Tag != "!!str" {
		file, top := w.scope.outermost(node)
		return file.Errorf(top, "%s: %s is %s, not an image reference", w.resource, w.inside+at.pathText(), node.Value)
	}
	w.takeImage(node, at, how)
	return nil
}

// scalarsAt returns the scalars that keys lead to in a mapping and in those that it merges
// (yaml.org/type/merge.html). Readers differ in which of them wins, so each one counts. Those that
// merge it are in seen, which may be nil.
func scalarsAt(node *yaml.Node, keys []string, seen map[*yaml.Node]bool) []*yaml.Node {
	node = resolveAlias(node)
	if len(keys) == 0 && node.Kind == yaml.ScalarNode {
		return []*yaml.Node{node}
	}
	if len(keys) == 0 || node.Kind != yaml.MappingNode || seen[node] {
		return nil
	}
	var found []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := resolveAlias(node.Content[i]), resolveAlias(node.Content[i+1])
		if key.Tag == "!!merge" {
			if seen == nil {
				seen = map[*yaml.Node]bool{}
			}
			seen[node] = true
		}
		switch {
		case key.Tag == "!!merge" && value.Kind == yaml.SequenceNode:
			for _, merged := range value.Content {
				found = append(found, scalarsAt(merged, keys, seen)...)
			}
		case key.Tag == "!!merge":
			found = append(found, scalarsAt(value, keys, seen)...)
		case key.Value == keys[0]:
			found = append(found, scalarsAt(value, keys[1:], nil)...)
		}
	}
	return found
}

// findInArguments takes the images of a command line: --flag=image, a flag and the image after it,
// and what a text names.
func (w *imageWalker) findInArguments(list *yaml.Node, at *documentPlace) {
	flags := w.parseFlags(list, at)
	w.findJoinedFields(flags, &documentPlace{})
	for i := range flags.list {
		one := &flags.list[i]
		if !w.taken[one.value] && !w.isVariable(one.trimmedText()) {
			w.takeNamed(flags, one, flags.placeOfField(one), labelOf(strings.TrimLeft(one.name, "-")), howArgument)
		}
	}
	for i, item := range list.Content {
		if node := resolveAlias(item); node.Kind == yaml.ScalarNode && !w.taken[node] {
			w.inText(node, at.atIndex(i), Image, howArgument)
		}
	}
}

// parseFlags returns the values of the flags of a command line.
func (w *imageWalker) parseFlags(list *yaml.Node, at *documentPlace) *fieldGroup {
	f := &fieldGroup{isLoose: true, at: at}
	for i, item := range list.Content {
		node := resolveAlias(item)
		if node.Kind != yaml.ScalarNode || !strings.HasPrefix(node.Value, "-") || strings.ContainsAny(node.Value, " \t\n") {
			continue
		}
		if name, _, assigned := strings.Cut(node.Value, "="); assigned {
			f.addField(namedField{name: name, value: node, start: len(name) + 1, index: i})
		} else if i+1 < len(list.Content) {
			if next := resolveAlias(list.Content[i+1]); !strings.HasPrefix(next.Value, "-") && !strings.ContainsAny(next.Value, " \t\n") {
				f.addField(namedField{name: name, value: next, index: i + 1})
			}
		}
	}
	return f
}

// isVariable reports whether a text is nothing but a variable that the container's environment
// has, where its value is looked at.
func (w *imageWalker) isVariable(text string) bool {
	name, ok := strings.CutPrefix(text, "$(")
	if !ok || !strings.HasSuffix(name, ")") || w.near == nil {
		return false
	}
	env := resolveAlias(manifest.GetValue(w.near.mapping, "env"))
	if env == nil {
		return false
	}
	for _, item := range env.Content {
		if manifest.GetText(resolveAlias(item), "name") == strings.TrimSuffix(name, ")") {
			return true
		}
	}
	return false
}

// findInEnvironment takes the images of a container's variables: of those that are called image, and
// what a text names in any other, a table too.
func (w *imageWalker) findInEnvironment(list *yaml.Node, at *documentPlace) {
	vars := &fieldGroup{isLoose: true, at: at, itemKey: "value"}
	for i, item := range list.Content {
		names := scalarsAt(item, []string{"name"}, nil)
		for _, node := range scalarsAt(item, []string{"value"}, nil) {
			if len(names) > 0 {
				vars.addField(namedField{name: names[0].Value, value: node, index: i})
			}
		}
	}
	w.findJoinedFields(vars, &documentPlace{})
	for i := range vars.list {
		one := &vars.list[i]
		if !w.taken[one.value] && !w.isVariable(one.trimmedText()) {
			w.takeNamed(vars, one, vars.placeOfField(one), labelOf(one.name), howEnvironment)
		}
		if !w.taken[one.value] {
			w.inText(one.value, vars.placeOfField(one), Image, howEnvironment)
		}
	}
}

// findInPairs reports the values of names that say image, as of the parameters of Tekton and Argo Workflows: what is
// done with them is not known.
func (w *imageWalker) findInPairs(list *yaml.Node, at *documentPlace) {
	for i, item := range list.Content {
		names := scalarsAt(item, []string{"name"}, nil)
		if len(names) == 0 {
			continue
		}
		for _, field := range []string{"value", "default"} {
			for _, node := range scalarsAt(item, []string{field}, nil) {
				text := strings.TrimSpace(node.Value)
				if state, ok := judgeValue(labelOf(names[0].Value), text); ok && state == Image && node.Tag == "!!str" && !w.taken[node] {
					w.taken[node] = true
					w.addFound(w.wholeScalar(node, at.atIndex(i).atKey(field), Suspect, howField))
				}
			}
		}
	}
}

// takeNamed takes what a value is whose name speaks of images: one, or several. Its group is nil if nothing is next to it.
func (w *imageWalker) takeNamed(f *fieldGroup, one *namedField, at *documentPlace, said nameLabel, how string) {
	text := one.trimmedText()
	whole := one.asPiece(whole)
	var inner []textMatch
	if said >= mentions {
		inner = splitElements(text)
	}
	if len(inner) > 1 || len(inner) == 1 && inner[0].end-inner[0].start < len(text) {
		for _, m := range inner {
			state, ok := judgeValue(said, text[m.start:m.end])
			if !ok || !isComplete(text[m.start:m.end]) && !strings.Contains(text[m.start:m.end], "/") {
				continue
			}
			w.taken[one.value] = true
			w.addFound(w.newFound(text[m.start:m.end], at, w.capState(state), how, foundPiece{node: one.value, start: whole.start + m.start, end: whole.start + m.end}))
		}
		if w.taken[one.value] {
			return
		}
	}
	state, ok := judgeValue(said, text)
	switch {
	case !ok, one.value.Tag != "!!str" && !isComplete(text):
		return
	case state == Image:
		if parts, is := f.isPartial(one); is {
			w.addJoined(joinParts(parts), at, Suspect, how, parts).isLoose = f.isLoose
			return
		}
	}
	w.taken[one.value] = true
	w.addFound(w.newFound(text, at, w.capState(state), how, whole))
}

// capState returns state, or Suspect inside a schema, which only describes images.
func (w *imageWalker) capState(state State) State {
	if w.schema {
		return Suspect
	}
	return state
}

// provenance are annotations that say where an image came from, for people and for tools that
// have been here before.
var provenance = []string{
	"kbld.carvel.dev/", "kbld.k14s.io/", "kapp.k14s.io/original", "kubectl.kubernetes.io/last-applied-configuration",
}

func isProvenance(annotation string) bool {
	return slices.ContainsFunc(provenance, func(prefix string) bool { return strings.HasPrefix(annotation, prefix) })
}

// rewriteParts returns what the parts of what was found become, for a reference that is pinned.
func (f *Found) rewriteParts(to string) (map[int]string, error) {
	if f.err != nil {
		return nil, f.err
	}
	repo, sum, ok := strings.Cut(to, "@")
	if !ok {
		return nil, fmt.Errorf("%s is not pinned by digest", to)
	}
	var path []int
	isPinned, hasDigest := false, false
	for i, p := range f.parts {
		switch {
		case p.isKept:
		case p.role == tag:
			isPinned = true
		case p.role == digest:
			isPinned, hasDigest = true, true
		default:
			path = append(path, i)
		}
	}
	// What comes first is the part that is reported; the registry comes before it.
	slices.SortStableFunc(path, func(a, b int) int { return f.parts[a].order - f.parts[b].order })
	spread, err := splitRepository(repo, len(path))
	if err != nil {
		return nil, err
	}
	values := map[int]string{}
	for n, i := range path {
		values[i] = spread[n]
		if n == len(path)-1 && !isPinned {
			values[i] += "@" + sum
		}
	}
	for i, p := range f.parts {
		switch {
		case p.isKept:
		case p.role == tag && f.pinsDigest:
			values[i] = sum
		case p.role == tag:
			values[i], _, _ = strings.Cut(p.text, "@")
			if !hasDigest {
				// Who joins repository and tag gets repository:tag@digest.
				values[i] += "@" + sum
			}
		case p.role == digest:
			values[i] = sum
			if !strings.HasPrefix(p.text, "sha256:") {
				values[i] = strings.TrimPrefix(sum, "sha256:")
			}
		}
	}
	return values, nil
}

// splitRepository divides a repository over fields: the host in the first of several, the last name in
// the last of three or more.
func splitRepository(repo string, n int) ([]string, error) {
	if n < 2 {
		return []string{repo}, nil
	}
	host, rest, _ := strings.Cut(repo, "/")
	parts := []string{host}
	for range n - 2 {
		first, more, ok := strings.Cut(rest, "/")
		if !ok {
			return nil, fmt.Errorf("%s has too few parts for %d fields: rewrite fewer fields in the search rule", repo, n)
		}
		parts, rest = append(parts, first), more
	}
	return append(parts, rest), nil
}
