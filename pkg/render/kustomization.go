package render

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// kustomizationTree is the files of a kustomization, to see before kustomize runs that it will find each
// in it: what it does not, it would fetch.
type kustomizationTree struct {
	files   map[string][]byte
	folders map[string]bool
	absent  map[string]string // why files cannot be had that the source names
	seen    map[string]bool
	names   []string // of the kustomizations that were looked through, in order
	source  []bundle.File
	note    func(string)
}

// checkKustomization reports whether the kustomization in a folder, and each that it builds on,
// names only what is in the source, and lists their files.
func checkKustomization(files []bundle.File, absent map[string]string, root string, note func(string)) (names []string, err error) {
	t := &kustomizationTree{files: map[string][]byte{}, folders: map[string]bool{".": true}, absent: absent, seen: map[string]bool{}, source: files, note: note}
	for _, f := range files {
		t.files[path.Clean(f.Path)] = f.Data
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			t.folders[dir] = true
		}
	}
	if name := t.findKustomization(root); name == "" {
		return nil, fmt.Errorf("%s has no kustomization.yaml: set root to the folder that has one", bundleFolder(root))
	}
	err = t.checkFolder(root)
	return t.names, err
}

func bundleFolder(root string) string {
	if root == "." {
		return "the source's top"
	}
	return "folder " + root
}

// findKustomization returns the name of the kustomization of a folder, or nothing.
func (t *kustomizationTree) findKustomization(dir string) string {
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		if _, ok := t.files[path.Join(dir, name)]; ok {
			return path.Join(dir, name)
		}
	}
	return ""
}

// checkFolder looks through the kustomization in a folder; kustomize itself says what else is
// wrong with one.
func (t *kustomizationTree) checkFolder(dir string) error {
	name := t.findKustomization(dir)
	if name == "" || t.seen[name] {
		return nil
	}
	t.seen[name], t.names = true, append(t.names, name)
	var k types.Kustomization
	if err := k.Unmarshal(t.files[name]); err != nil {
		return fmt.Errorf("%s: %s", name, strings.Join(strings.Fields(err.Error()), " "))
	}
	if old := k.CheckDeprecatedFields(); old != nil && t.note != nil {
		for _, warning := range *old {
			t.note(name + ": " + oneLineWarning(warning))
		}
	}
	k.FixKustomization()
	if len(k.HelmCharts) > 0 || k.HelmGlobals != nil {
		return t.errorAt(name, "helmCharts", "helm charts of a kustomization are not rendered", "add each as a separate source")
	}
	for _, entry := range listReferences(&k) {
		if err := t.checkReference(name, dir, entry); err != nil {
			return err
		}
	}
	for _, dirEntry := range slices.Concat(k.Resources, k.Components) {
		if err := t.checkFolder(path.Join(dir, dirEntry)); err != nil {
			return err
		}
	}
	for _, config := range slices.Concat(k.Generators, k.Transformers, k.Validators) {
		if at := path.Join(dir, config); t.folders[at] {
			if err := t.checkGenerated(at); err != nil {
				return err
			}
			continue
		}
		if err := t.checkPlugin(name, dir, config); err != nil {
			return err
		}
	}
	return nil
}

// oneLineWarning returns a warning of an engine as the end of a line.
func oneLineWarning(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	for _, before := range []string{"# Warning: ", "Warning: ", "WARNING: ", "warning: "} {
		text = strings.TrimPrefix(text, before)
	}
	return text
}

// listReferences returns all of a kustomization that kustomize takes for a path or a URL.
func listReferences(k *types.Kustomization) (all []kustomizeReference) {
	add := func(inline bool, paths ...string) {
		for _, p := range paths {
			if p != "" {
				all = append(all, kustomizeReference{p, inline})
			}
		}
	}
	add(false, k.Resources...)
	add(false, k.Components...)
	add(false, k.Crds...)
	add(false, k.Configurations...)
	add(false, k.OpenAPI["path"])
	add(true, slices.Concat(k.Generators, k.Transformers, k.Validators)...)
	//lint:ignore SA1019 kustomize still reads it
	for _, p := range k.PatchesStrategicMerge {
		add(true, string(p))
	}
	//lint:ignore SA1019 kustomize still reads it
	for _, p := range slices.Concat(k.Patches, k.PatchesJson6902) {
		add(false, p.Path)
	}
	for _, r := range k.Replacements {
		add(false, r.Path)
	}
	sources := make([]types.KvPairSources, 0, len(k.ConfigMapGenerator)+len(k.SecretGenerator))
	for _, g := range k.ConfigMapGenerator {
		sources = append(sources, g.KvPairSources)
	}
	for _, g := range k.SecretGenerator {
		sources = append(sources, g.KvPairSources)
	}
	for _, s := range sources {
		add(false, s.EnvSources...)
		for _, f := range s.FileSources {
			if _, file, ok := strings.Cut(f, "="); ok {
				f = file
			}
			add(false, f)
		}
	}
	return all
}

// kustomizeReference is a path or a URL in a kustomization, or YAML where inline.
type kustomizeReference struct {
	path   string
	inline bool
}

// checkReference reports whether what a kustomization names is in the source.
func (t *kustomizationTree) checkReference(name, dir string, r kustomizeReference) error {
	if isRemote(r.path) {
		return t.errorAt(name, r.path, r.path+" is not in the source", notFetched)
	}
	at := path.Join(dir, r.path)
	_, isFile := t.files[at]
	if r.inline || (isFile || t.folders[at]) && !path.IsAbs(r.path) {
		return nil
	}
	if why := t.absent[at]; why != "" {
		return t.errorAt(name, r.path, r.path+" cannot be read from the source: "+why, "")
	}
	hint := ""
	if at == ".." || strings.HasPrefix(at, "../") {
		hint = "it is above the source: take the folder that holds both as the source, and set root to this one"
	}
	return t.errorAt(name, r.path, r.path+" is not in the source", hint)
}

const notFetched = "remote resources are not fetched: add it as a separate source"

// scp is how git, and kustomize, write a repository that is reached by ssh.
var scp = lazyregexp.New(`^[a-zA-Z][a-zA-Z0-9-]*@`)

// isRemote reports whether kustomize takes a path for something to fetch.
func isRemote(reference string) bool {
	lower := strings.TrimPrefix(strings.ToLower(reference), "git::")
	u, err := url.Parse(lower)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") || scp.MatchString(lower) ||
		slices.ContainsFunc([]string{"github.com/", "github.com:", "ssh://", "http:", "https:", "file://"},
			func(prefix string) bool { return strings.HasPrefix(lower, prefix) })
}

// checkPlugin looks through the configuration of kustomize's own plugins, in a file or inline,
// for what they would fetch.
func (t *kustomizationTree) checkPlugin(name, dir, config string) error {
	data, file := []byte(config), name
	if content, ok := t.files[path.Join(dir, config)]; ok {
		data, file = content, path.Join(dir, config)
	}
	err := checkPlugins(file, data)
	if problem := (*manifest.Error)(nil); file == name && errors.As(err, &problem) && problem.Hint == notFetched {
		problem.Line, problem.Column = 0, 0 // inline: these are of the text inside
	}
	return err
}

// checkPlugins refuses configuration of plugins with something to fetch.
func checkPlugins(file string, data []byte) error {
	parsed, err := manifest.Parse(file, data)
	if err != nil {
		return err
	}
	for _, doc := range parsed.Documents {
		doc, ok := manifest.ExpandAliases(doc)
		if !ok {
			return parsed.Errorf(doc, "has more than %d parts with its aliases expanded", manifest.MaxValues)
		}
		if found := findRemote(doc, false); found != nil {
			problem := parsed.Errorf(found, "%s is not in the source", found.Value)
			problem.Hint = notFetched
			return problem
		}
	}
	return nil
}

// checkGenerated looks through what a folder's kustomization makes, which is configuration of plugins, for
// what they would fetch.
func (t *kustomizationTree) checkGenerated(dir string) error {
	if t.seen["plugins of "+dir] {
		return nil
	}
	t.seen["plugins of "+dir] = true
	if err := t.checkFolder(dir); err != nil {
		return err
	}
	made, err := runKustomize(t.source, dir, krusty.ReorderOptionUnspecified)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	data, err := made.AsYaml()
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return checkPlugins(path.Join(dir, "(what its kustomization makes)"), data)
}

// pathFields are the fields of kustomize's plugins that hold paths.
var pathFields = []string{"path", "paths", "files", "envs", "env"}

// findRemote returns the first node below a field of paths that is remote, or nil.
func findRemote(node *yaml.Node, isPath bool) *yaml.Node {
	if node.Kind == yaml.ScalarNode {
		_, file, _ := strings.Cut(node.Value, "=")
		if isPath && (isRemote(node.Value) || isRemote(file)) {
			return node
		}
		return nil
	}
	for i, child := range node.Content {
		below := isPath
		if node.Kind == yaml.MappingNode && i%2 == 1 {
			below = isPath || slices.Contains(pathFields, strings.ToLower(node.Content[i-1].Value))
		}
		if found := findRemote(child, below); found != nil {
			return found
		}
	}
	return nil
}

// errorAt is an error at the place where a kustomization names something.
func (t *kustomizationTree) errorAt(name, text, problem, hint string) error {
	e := &manifest.Error{File: name, Problem: problem, Hint: hint}
	if parsed, err := manifest.Parse(name, t.files[name]); err == nil {
		for _, doc := range parsed.Documents {
			if node := findNamed(doc, text); node != nil {
				e.Line, e.Column = node.Line, node.Column
				break
			}
		}
	}
	return e
}

// findNamed returns the first scalar that is a text or ends in it behind a = sign, or nil.
func findNamed(node *yaml.Node, text string) *yaml.Node {
	if node.Kind == yaml.ScalarNode && (strings.EqualFold(node.Value, text) || strings.HasSuffix(node.Value, "="+text)) {
		return node
	}
	for _, child := range node.Content {
		if found := findNamed(child, text); found != nil {
			return found
		}
	}
	return nil
}
