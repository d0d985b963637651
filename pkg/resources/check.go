package resources

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// File is a file of manifests to check.
type File struct {
	*manifest.File
	// Data is what it was parsed from.
	Data []byte
	// Unset says that a site's values are still to come, which may bring names.
	Unset bool
}

// CheckFiles refuses files that kapp would not take together as one app, or of which it would read other
// resources than are written there. Its errors are of type [*manifest.Error], with the place.
func CheckFiles(files []File) error {
	first := map[string]placedResource{}
	var ordered *manifest.Error // where the order is first decided upon
	var together []kappres.Resource
	scopes := render.Scopes{}
	for _, f := range files {
		scopes.AddDefined(f.File)
	}
	readings := readEachFile(files)
	for n, f := range files {
		written, err := f.writtenResources()
		if err != nil {
			return err
		}
		read, err := readings[n].read, readings[n].err
		if err := f.compareReading(written, read, err); err != nil {
			return err
		}
		for i, r := range read {
			if err := f.checkResource(written[i], r); err != nil {
				return err
			}
			if err := f.checkForKapp(written[i], r); err != nil {
				return err
			}
			if !f.Unset {
				together = append(together, r)
			}
			if ordered == nil && isOrdered(r) {
				ordered = f.Errorf(written[i], "")
			}
			if IsConfig(r) {
				continue
			}
			// What is in no namespace is one thing, whatever namespace is written there.
			if namespaced, known := scopes.ScopeOf(written[i]); known && !namespaced && r.Namespace() != "" {
				r = r.DeepCopy()
				r.RemoveNamespace()
			}
			key := kappres.NewUniqueResourceKey(r).String()
			if other, twice := first[key]; twice && !other.Equal(r) {
				return f.Errorf(written[i], "%s occurs twice with different content, first at %s", describeResource(r), other.at)
			} else if !twice {
				at := f.Errorf(written[i], "")
				first[key] = placedResource{r, fmt.Sprintf("%s:%d", at.File, at.Line)}
			}
		}
	}
	if ordered == nil {
		return nil // kapp's own rules give way to each other
	}
	if err := checkOrder(together); err != nil {
		ordered.Problem, ordered.Cause = "kapp finds no order: "+err.Error(), err
		return ordered
	}
	return nil
}

// reading is what kapp reads of a file.
type reading struct {
	read []kappres.Resource
	err  error
}

// readEachFile reads files as kapp does.
func readEachFile(files []File) []reading {
	readings := make([]reading, len(files))
	manifest.ReadConcurrently(len(files), func(i int) {
		readings[i].read, readings[i].err = readFile(files[i].Name, files[i].Data)
	})
	return readings
}

// checkForKapp refuses what a resource asks of kapp and does not get.
func (f File) checkForKapp(node *yaml.Node, r kappres.Resource) error {
	if err := checkConfig(r); err != nil {
		return f.Errorf(node, "rules for kapp: %v", err)
	}
	if f.Unset || IsConfig(r) {
		return nil
	}
	if err := checkAnnotations(r); err != nil {
		return f.Errorf(node, "%s: %v", describeResource(r), err)
	}
	return nil
}

type placedResource struct {
	kappres.Resource
	at string
}

// writtenResources returns the resources of a file as its author has them. What a list of one kind holds is none of
// them to kapp, unless each item says what it is.
func (f File) writtenResources() (all []*yaml.Node, err error) {
	for _, doc := range f.Documents {
		items := findValue(doc, "items")
		kind := textValue(doc, "kind")
		if items != nil && items.Kind == yaml.SequenceNode && !strings.HasSuffix(kind, "List") {
			return nil, f.Errorf(items, "%s has a list of items, which kapp reads as resources: nothing else of it would be applied", kind)
		}
		for _, item := range manifest.ListItems(doc) {
			if item != doc && strings.HasSuffix(textValue(item, "kind"), "List") && findValue(item, "items") != nil {
				return nil, f.Errorf(item, "a list inside a list, which kapp does not expand")
			}
			all = append(all, item)
		}
	}
	return all, nil
}

// compareReading finds where what kapp has read is not what is written.
func (f File) compareReading(written []*yaml.Node, read []kappres.Resource, readError error) error {
	for i, r := range read {
		if i == len(written) || !isSame(written[i], r) {
			return f.differenceError(written, i, "reads "+describeResource(r)+" here")
		}
	}
	if readError != nil {
		cause := strings.TrimPrefix(strings.TrimPrefix(readError.Error(), f.Name+": "), "error converting YAML to JSON: ")
		problem := f.differenceError(written, len(read), "cannot read this: "+cause)
		problem.Cause = readError
		return problem
	}
	if len(read) < len(written) {
		return f.differenceError(written, len(read), fmt.Sprintf("reads %d resources of the file's %d", len(read), len(written)))
	}
	return nil
}

// differenceError returns an error at a resource that kapp reads otherwise, with the reason where it is known.
func (f File) differenceError(written []*yaml.Node, i int, what string) *manifest.Error {
	var at *yaml.Node
	if len(written) > 0 {
		at = written[min(i, len(written)-1)]
	}
	problem := f.Errorf(at, "kapp %s", what)
	switch {
	case loneReturn.Match(f.Data):
		problem.Hint = "lines end in CR: use LF"
	case strings.Contains(what, "document separator"):
		if found := crowded.FindIndex(f.Data); found != nil {
			problem.Line, problem.Column = f.Position(found[0])
		}
		problem.Hint = "begin the document on the line after ---"
	case bytes.HasPrefix(f.Data, []byte("%")) || bytes.Contains(f.Data, []byte("\n%")):
		problem.Hint = "remove the % directive"
	case infinite.Match(f.Data) && strings.Contains(what, "unsupported value"):
		problem.Hint = "JSON has neither infinity nor NaN"
	}
	return problem
}

var (
	loneReturn = regexp.MustCompile(`\r(?:[^\n]|$)`)
	crowded    = regexp.MustCompile(`(?m)^---[ \t]*[^\s#]`)
	infinite   = regexp.MustCompile(`(?i)\.(inf|nan)\b`)
)

// checkResource refuses what kapp refuses of a resource itself.
func (f File) checkResource(node *yaml.Node, r kappres.Resource) error {
	metadata := findValue(node, "metadata")
	name := findValue(metadata, "name")
	isEmpty := name == nil || isNull(name) || name.Kind == yaml.ScalarNode && name.Value == ""
	switch {
	case r.Kind() == "" || r.APIVersion() == "":
		return f.Errorf(node, "a resource of a list has no kind or apiVersion, and kapp does not inherit them from the list")
	case IsConfig(r):
		return nil
	case hasName(r):
	case findValue(metadata, "generateName") != nil:
		problem := f.Errorf(node, "%s has generateName: each apply would create another one", r.Kind())
		problem.Hint = "give it a name"
		return problem
	case isEmpty && !f.Unset:
		problem := f.Errorf(node, "%s has no metadata.name", r.Kind())
		problem.Hint = "give it a name, or leave the file out with exclude"
		return problem
	case isEmpty:
	default:
		return notText(f.Errorf(name, "metadata.name is not text"), name)
	}
	for _, field := range []string{"labels", "annotations"} {
		if err := f.checkTexts(findValue(metadata, field), field); err != nil {
			return err
		}
	}
	return nil
}

// checkTexts refuses labels and annotations that no API server takes.
func (f File) checkTexts(node *yaml.Node, field string) error {
	if node == nil || isNull(node) {
		return nil
	}
	if node.Kind != yaml.MappingNode {
		return f.Errorf(node, "metadata.%s is not a mapping", field)
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		item := resolveAlias(node.Content[i+1])
		if manifest.IsText(item) || isNull(item) || node.Content[i].Tag == "!!merge" {
			continue
		}
		return notText(f.Errorf(node.Content[i+1], "metadata.%s: %s is not text", field, node.Content[i].Value), item)
	}
	return nil
}

func notText(problem *manifest.Error, node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		problem.Hint = fmt.Sprintf("write it in quotes: %q", node.Value)
	}
	return problem
}

// IsConfig reports whether a resource configures kapp and is not applied.
func IsConfig(r kappres.Resource) bool { return r.APIGroup() == "kapp.k14s.io" && r.Kind() == "Config" }

func hasName(r kappres.Resource) bool {
	metadata, _ := r.UnstructuredObject()["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	return name != ""
}

// isSame reports whether kapp has read a resource that is written.
func isSame(node *yaml.Node, r kappres.Resource) bool {
	if kind := textValue(node, "kind"); kind != r.Kind() && !(kind == "" && r.Kind() == "") {
		return false
	}
	metadata := findValue(node, "metadata")
	name := findValue(metadata, "name")
	return textValue(node, "apiVersion") == r.APIVersion() &&
		(name == nil || !manifest.IsText(name) || !hasName(r) || name.Value == r.Name())
}

func describeResource(r kappres.Resource) string {
	if r.Kind() == "" {
		return "something without a kind"
	}
	return strings.TrimSpace(r.Kind() + " " + strings.TrimPrefix(r.Namespace()+"/"+r.Name(), "/"))
}

// findValue returns that of a key of a mapping, with what aliases and merge keys bring in; nil where there is
// none.
func findValue(mapping *yaml.Node, key string) *yaml.Node {
	mapping = resolveAlias(mapping)
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	if own := manifest.GetValue(mapping, key); own != nil {
		return resolveAlias(own)
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Tag != "!!merge" {
			continue
		}
		from := resolveAlias(mapping.Content[i+1])
		merged := []*yaml.Node{from}
		if from.Kind == yaml.SequenceNode {
			merged = from.Content
		}
		for _, m := range merged {
			if found := findValue(m, key); found != nil {
				return found
			}
		}
	}
	return nil
}

func resolveAlias(node *yaml.Node) *yaml.Node {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

func textValue(mapping *yaml.Node, key string) string {
	if n := findValue(mapping, key); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" }
