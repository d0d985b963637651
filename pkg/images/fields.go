package images

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// containers takes the images of a field of a pod, or of what a kind of resource has like it.
func (w *walker) containers(key string, value *yaml.Node, at place) error {
	within, how := []string{"image"}, howContainer
	switch {
	case slices.Contains([]string{"containers", "initContainers", "ephemeralContainers"}, key):
	case key == "volumes":
		within, how = []string{"image", "reference"}, howVolume
	case slices.Contains(containerFields[w.group], key):
	default:
		return nil
	}
	value = target(value)
	items := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		items = value.Content
	}
	for i, item := range items {
		itemAt := at
		if value.Kind == yaml.SequenceNode {
			itemAt = at.item(i)
		}
		for _, field := range within {
			itemAt = itemAt.key(field)
		}
		for _, node := range values(item, within, map[*yaml.Node]bool{}) {
			if err := w.container(node, itemAt, how); err != nil {
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

func (w *walker) container(node *yaml.Node, at place, how string) error {
	image := strings.TrimSpace(node.Value)
	if node.Tag == "!!null" || image == "" {
		// Whoever owns the resource fills it in: Deployments can't leave it out, but
		// templates of controllers can.
		return nil
	}
	if node.Tag != "!!str" {
		file, top := w.scope.top(node)
		return file.Errorf(top, "%s: %s is %s, not an image reference", w.resource, w.inside+at.path, node.Value)
	}
	w.take(node, at, how)
	return nil
}

// values are the scalars that keys lead to in a mapping and in those that it merges
// (yaml.org/type/merge.html). Readers differ in which of them wins, so each one counts.
func values(node *yaml.Node, keys []string, seen map[*yaml.Node]bool) []*yaml.Node {
	node = target(node)
	if len(keys) == 0 && node.Kind == yaml.ScalarNode {
		return []*yaml.Node{node}
	}
	if len(keys) == 0 || node.Kind != yaml.MappingNode || seen[node] {
		return nil
	}
	seen[node] = true
	var found []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := target(node.Content[i]), target(node.Content[i+1])
		switch {
		case key.Tag == "!!merge" && value.Kind == yaml.SequenceNode:
			for _, merged := range value.Content {
				found = append(found, values(merged, keys, seen)...)
			}
		case key.Tag == "!!merge":
			found = append(found, values(value, keys, seen)...)
		case key.Value == keys[0]:
			found = append(found, values(value, keys[1:], map[*yaml.Node]bool{})...)
		}
	}
	return found
}

// arguments takes the images of a command line: --flag=image, a flag and the image after it,
// and full references anywhere.
func (w *walker) arguments(list *yaml.Node, at place) {
	isFlag := func(text string) bool {
		return strings.HasPrefix(text, "-") && strings.Contains(strings.ToLower(text), "image") && !policyKey.MatchString(text)
	}
	before := ""
	for i, item := range list.Content {
		node := target(item)
		if node.Kind != yaml.ScalarNode || w.taken[node] {
			before = ""
			continue
		}
		text := node.Value
		flag, value, assigned := strings.Cut(text, "=")
		switch {
		case assigned && isFlag(flag) && isNamed(value):
			w.taken[node] = true
			w.add(w.new(value, at.item(i), Image, howArgument, piece{node: node, start: len(flag) + 1, end: len(text)}))
		case isFlag(before) && isNamed(text):
			w.take(node, at.item(i), howArgument)
		default:
			w.takeIn(node, at.item(i), Image, howArgument)
		}
		before = text
	}
}

// environment takes the images of a container's variables: of those that are called image, and
// full references in any other, a table of them too.
func (w *walker) environment(list *yaml.Node, at place) {
	for i, item := range list.Content {
		names := values(item, []string{"name"}, map[*yaml.Node]bool{})
		for _, node := range values(item, []string{"value"}, map[*yaml.Node]bool{}) {
			valueAt, text := at.item(i).key("value"), strings.TrimSpace(node.Value)
			switch {
			case len(names) == 0 || w.taken[node]:
			case isImageKey(names[0].Value) && isNamed(text):
				w.take(node, valueAt, howEnvironment)
			case isImageKey(names[0].Value) && isWord(text):
				w.taken[node] = true
				w.add(w.whole(node, valueAt, Suspect, howEnvironment))
			default:
				w.takeIn(node, valueAt, Image, howEnvironment)
			}
		}
	}
}

// split takes the images that a mapping holds in several fields: repository and tag with
// whatever comes before them in the fields' names, registry and digest besides.
func (w *walker) split(mapping *yaml.Node, at place) {
	if w.schema {
		return
	}
	fields := map[string]*yaml.Node{}
	var keys []string
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := target(mapping.Content[i]).Value, target(mapping.Content[i+1])
		if value.Kind == yaml.ScalarNode && value.Tag != "!!null" && value.Value != "" {
			fields[key], keys = value, append(keys, key)
		}
	}
	first := func(names []string) *yaml.Node {
		for _, name := range names {
			if fields[name] != nil {
				return fields[name]
			}
		}
		return nil
	}
	called := isImageKey(at.field()) || at.parent() == "images"
	for _, key := range keys {
		repo := fields[key]
		beside, ok := companions(key, called)
		if !ok || w.taken[repo] || !isRepository(repo.Value) || key == "name" && fields["newName"] != nil {
			continue
		}
		host, version, sum := first(beside.registry), first(beside.tag), first(beside.digest)
		alone := version == nil && sum == nil && host == nil
		if alone && (!called || key == "name" || key == "image") {
			continue
		}
		w.add(w.joined(at.key(key), host, repo, version, sum))
	}
}

// siblings are the names of the fields beside a repository.
type siblings struct{ registry, tag, digest []string }

// companions are the fields that go with a field that may hold a repository. called says that
// the mapping is called image, so that a plain name in it is an image's.
func companions(key string, called bool) (siblings, bool) {
	for _, suffix := range []string{"repository", "Repository", "REPOSITORY"} {
		prefix, ok := strings.CutSuffix(key, suffix)
		if !ok {
			continue
		}
		same := func(names ...string) (list []string) {
			for _, n := range names {
				switch suffix {
				case "Repository":
					n = strings.ToUpper(n[:1]) + n[1:]
				case "REPOSITORY":
					n = strings.ToUpper(n)
				}
				list = append(list, prefix+n)
			}
			return list
		}
		return siblings{same("registry"), same("tag"), same("digest", "sha", "sha256")}, true
	}
	switch {
	case key == "newName" && called, key == "name" && called:
		return siblings{[]string{"registry"}, []string{"newTag", "tag"}, []string{"digest"}}, true
	case key == "image":
		return siblings{[]string{"registry"}, []string{"tag"}, []string{"digest"}}, true
	}
	return siblings{}, false
}

// isRepository says whether a text names a repository alone, without a tag.
func isRepository(text string) bool {
	if !isWord(text) || strings.Contains(text, "@") {
		return false
	}
	last := text[strings.LastIndexByte(text, '/')+1:]
	return !strings.Contains(last, ":")
}

// joined puts a reference together.
func (w *walker) joined(at place, host, repo, version, sum *yaml.Node) Found {
	all := func(node *yaml.Node, r role) piece { return piece{node, 0, len(node.Value), r} }
	image, pieces := repo.Value, []piece{all(repo, repository)}
	if host != nil {
		image = host.Value + "/" + image
		pieces = append(pieces, all(host, registry))
	}
	if version != nil {
		image += ":" + version.Value
		pieces = append(pieces, all(version, tag))
	}
	if sum != nil {
		image += "@sha256:" + strings.TrimPrefix(sum.Value, "sha256:")
		pieces = append(pieces, all(sum, digest))
	}
	state := Image
	if version == nil && sum == nil || !isWord(image) {
		// Whoever reads it has a tag of its own for it.
		state = Suspect
	}
	for _, p := range pieces {
		w.taken[p.node] = true
	}
	return w.new(image, at, state, howSplit, pieces...)
}

// provenance are annotations that say where an image came from, for people and for tools that
// have been here before.
var provenance = []string{
	"kbld.carvel.dev/", "kbld.k14s.io/", "kapp.k14s.io/original", "kubectl.kubernetes.io/last-applied-configuration",
}

func isProvenance(annotation string) bool {
	return slices.ContainsFunc(provenance, func(prefix string) bool { return strings.HasPrefix(annotation, prefix) })
}

// parts of what was found are rewritten to what a reference says.
func (f *Found) rewrite(to string) (map[int]string, error) {
	if f.err != nil {
		return nil, f.err
	}
	repo, sum, ok := strings.Cut(to, "@")
	if !ok {
		return nil, fmt.Errorf("%s is not pinned by digest", to)
	}
	values := map[int]string{}
	split := slices.ContainsFunc(f.parts, func(p part) bool { return p.role == registry })
	pinned := slices.ContainsFunc(f.parts, func(p part) bool { return p.role == digest })
	for i, p := range f.parts {
		switch p.role {
		case whole:
			values[i] = to
		case registry:
			values[i], _, _ = strings.Cut(repo, "/")
		case repository:
			values[i] = repo
			if split {
				_, values[i], _ = strings.Cut(repo, "/")
			}
		case tag:
			values[i] = p.text
			if !pinned {
				// Who joins repository and tag gets repository:tag@digest.
				values[i] += "@" + sum
			}
		case digest:
			values[i] = sum
			if !strings.HasPrefix(p.text, "sha256:") {
				values[i] = strings.TrimPrefix(sum, "sha256:")
			}
		}
	}
	return values, nil
}
