package render_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

const pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n"

func kustomization(root string, list ...string) render.Input {
	return render.Input{Source: &bundle.Source{Template: bundle.TemplateKustomize, Root: root}, Files: files(list...)}
}

func TestKustomizeTakesBasesOfTheSource(t *testing.T) {
	t.Parallel()
	got, err := render.RenderStable(t.Context(), kustomization("overlays/east",
		"overlays/east/kustomization.yaml", "resources: [../../base]\nnamePrefix: east-\n",
		"base/kustomization.yml", "resources: [pod.yaml]\nconfigMapGenerator:\n- {name: c, files: [key=dir/data.txt], options: {disableNameSuffixHash: true}}\n",
		"base/pod.yaml", pod, "base/dir/data.txt", "x", "elsewhere/kustomization.yaml", "resources: ['https://example.com']\n"))
	const want = "manifests.yaml\napiVersion: v1\ndata:\n  key: x\nkind: ConfigMap\nmetadata:\n  name: east-c\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: east-a\n"
	if err != nil || text(got) != want {
		t.Errorf("%v\n%s", err, text(got))
	}
}

// Whatever kustomize would fetch is an error before it runs, wherever it is named.
func TestKustomizeFetchesNothing(t *testing.T) {
	t.Parallel()
	for text, place := range map[string]string{
		"resources: [pod.yaml, https://127.0.0.1:1/x.yaml]\n":                                           "1:23",
		"resources:\n- HTTP://127.0.0.1:1/x.yaml\n":                                                     "2:3",
		"Resources:\n- http://127.0.0.1:1/x.yaml\n":                                                     "2:3",
		"bases: ['github.com/example/base?ref=v1']\n":                                                   "1:9",
		"resources: ['git@127.0.0.1:example/base']\n":                                                   "1:13",
		"resources: ['git::https://127.0.0.1:1/x.git']\n":                                               "1:13",
		"resources: [ssh://127.0.0.1:1/x.git]\n":                                                        "1:13",
		"resources: [file:///etc]\n":                                                                    "1:13",
		"components: [https://127.0.0.1:1/x.git]\n":                                                     "1:14",
		"crds: [https://127.0.0.1:1/x]\n":                                                               "1:8",
		"configurations: [https://127.0.0.1:1/x]\n":                                                     "1:18",
		"generators: [https://127.0.0.1:1/x]\n":                                                         "1:14",
		"transformers: [https://127.0.0.1:1/x]\n":                                                       "1:16",
		"validators: [https://127.0.0.1:1/x]\n":                                                         "1:14",
		"openapi: {path: https://127.0.0.1:1/x}\n":                                                      "1:17",
		"patches: [{path: https://127.0.0.1:1/x}]\n":                                                    "1:18",
		"patchesStrategicMerge: [https://127.0.0.1:1/x]\n":                                              "1:25",
		"patchesJson6902: [{path: https://127.0.0.1:1/x, target: {version: v1, kind: Pod, name: a}}]\n": "1:26",
		"replacements: [{path: https://127.0.0.1:1/x}]\n":                                               "1:23",
		"configMapGenerator: [{name: a, files: ['k=https://127.0.0.1:1/x']}]\n":                         "1:40",
		"configMapGenerator: [{name: a, envs: [https://127.0.0.1:1/x]}]\n":                              "1:39",
		"configMapGenerator: [{name: a, env: https://127.0.0.1:1/x}]\n":                                 "1:37",
		"secretGenerator: [{name: a, files: [https://127.0.0.1:1/x]}]\n":                                "1:37",
		"x: &x {resources: [https://127.0.0.1:1/x]}\n<<: *x\n":                                          "",
		"transformers: [plugin.yaml]\nresources: [pod.yaml]\n":                                          "plugin.yaml:4:9: https",
		"transformers:\n- |\n  apiVersion: builtin\n  kind: PatchTransformer\n  metadata: {name: x}\n  Path: https://127.0.0.1:1/x\n": "kustomization.yaml: https",
	} {
		_, err := render.RenderSource(t.Context(), kustomization("", "kustomization.yaml", text, "pod.yaml", pod,
			"plugin.yaml", "apiVersion: builtin\nkind: PatchStrategicMergeTransformer\nmetadata: {name: x}\npaths: [https://127.0.0.1:1/x]\n"))
		if err == nil || strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), place) ||
			!strings.Contains(err.Error(), "remote resources are not fetched") && !strings.Contains(err.Error(), "unknown field") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func TestKustomizeRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"resources: [other.yaml]\n":                              "kustomization.yaml:1:13: other.yaml is not in the source",
		"resources: [../above.yaml]\n":                           "kustomization.yaml:1:13: ../above.yaml is not in the source",
		"resources: [/etc/hostname]\n":                           "kustomization.yaml:1:13: /etc/hostname is not in the source",
		"resource: [pod.yaml]\n":                                 `kustomization.yaml: invalid Kustomization: json: unknown field "resource"`,
		"resources: [pod.yaml, pod.yaml]\n":                      "kustomization.yaml: merging resources from 'pod.yaml': may not add resource with an already registered id: Pod.v1.[noGrp]/a.[noNs]",
		"helmCharts: [{name: x, repo: 'https://example.com'}]\n": "kustomization.yaml:1:1: helm charts of a kustomization are not rendered (add each as a separate source)",
		"transformers: [fn.yaml]\nresources: [pod.yaml]\n":       "kustomization.yaml: ",
	} {
		_, err := render.RenderSource(t.Context(), kustomization("", "kustomization.yaml", text, "pod.yaml", pod, "dir/kustomization.yaml", "",
			"fn.yaml", "apiVersion: example.com/v1\nkind: F\nmetadata: {name: f, annotations: {config.kubernetes.io/function: 'exec: {path: /bin/true}'}}\n"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v\nwant %s", text, err, want)
		}
	}
	in := kustomization("", "kustomization.yaml", "resources: [base]\n", "base/kustomization.yaml", "resources: [pod.yaml]\npatches: [{path: patch.yaml}]\n",
		"base/pod.yaml", pod, "base/patch.yaml", strings.ReplaceAll(pod, ": a", ": z"))
	if _, err := render.RenderSource(t.Context(), in); err == nil || !strings.HasPrefix(err.Error(), "kustomization.yaml: base: no resource matches strategic merge patch") {
		t.Errorf("got %v", err)
	}
	if _, err := render.RenderSource(t.Context(), kustomization("x", "kustomization.yaml", "")); err == nil || err.Error() != "folder x has no kustomization.yaml: set root to the folder that has one" {
		t.Errorf("got %v", err)
	}
	in = kustomization("", "kustomization.yaml", "resources: [pod.yaml]\n", "pod.yaml", pod)
	in.Values = [][]byte{[]byte("a: 1\n")}
	if _, err := render.RenderSource(t.Context(), in); err == nil || !strings.Contains(err.Error(), "accepts no values") {
		t.Errorf("got %v", err)
	}
}

func patches(list ...bundle.Patch) render.Input {
	return render.Input{Source: &bundle.Source{Patches: list}, Files: files(
		"b.yaml", "# kept in order\n"+pod+"---\napiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\n",
		"a.json", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "j"}}`, "README", "text\n")}
}

func TestPatches(t *testing.T) {
	t.Parallel()
	label := bundle.Patch{Patch: "- {op: add, path: /metadata/labels, value: {new: '1'}}", Target: &bundle.PatchTarget{Kind: "Pod"}}
	for name, c := range map[string]struct {
		patches []bundle.Patch
		want    string
	}{
		"JSON 6902, to all":          {[]bundle.Patch{label}, "  labels:\n    new: \"1\"\n  name: a\n"},
		"strategic merge":            {[]bundle.Patch{{Patch: pod + "spec: {hostNetwork: true}\n"}}, "spec:\n  hostNetwork: true\n"},
		"strategic merge, to target": {[]bundle.Patch{{Patch: "apiVersion: v1\nkind: X\nmetadata: {name: x}\nspec: {type: NodePort}\n", Target: &bundle.PatchTarget{Kind: "Ser.*", Namespace: "n"}}}, "spec:\n  type: NodePort\n"},
		"what one before it made":    {[]bundle.Patch{label, {Patch: `[{"op": "replace", "path": "/metadata/labels/new", "value": "2"}]`, Target: &bundle.PatchTarget{LabelSelector: "new=1"}}}, "new: \"2\"\n  name: j\n"},
	} {
		got, err := render.RenderStable(t.Context(), patches(c.patches...))
		if err != nil || len(got) != 2 || got[0].Path != "manifests.yaml" || !strings.Contains(text(got), c.want) || got[1].Path != "README" {
			t.Errorf("%s: %v\n%s", name, err, text(got))
			continue
		}
		if data := string(got[0].Data); strings.Index(data, "name: a") > strings.Index(data, "name: s") || strings.Index(data, "name: s") > strings.Index(data, "name: j") {
			t.Errorf("%s: another order:\n%s", name, data)
		}
	}
}

func TestPatchesRefuse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		patch bundle.Patch
		want  string
	}{
		"a target of nothing":   {bundle.Patch{Patch: "- {op: remove, path: /metadata}", Target: &bundle.PatchTarget{Kind: "Pod", Name: "z"}}, "patches[0] changes nothing: no resource is kind Pod, name z"},
		"a resource of nothing": {bundle.Patch{Patch: strings.ReplaceAll(pod, ": a", ": z")}, "patches[0] changes nothing: no resource is Pod z"},
		"JSON without a target": {bundle.Patch{Patch: "- {op: remove, path: /metadata}"}, "patches[0]: is not a resource: a JSON patch needs a target"},
		"a path that is not":    {bundle.Patch{Patch: "- {op: remove, path: /spec/x}", Target: &bundle.PatchTarget{Kind: "Pod"}}, "patches: "},
		"no regular expression": {bundle.Patch{Patch: pod, Target: &bundle.PatchTarget{Kind: "("}}, "patches[0]: error parsing regexp"},
		"no patch":              {bundle.Patch{Patch: "text", Target: &bundle.PatchTarget{Kind: "Pod"}}, "patches: "},
	} {
		_, err := render.RenderStable(t.Context(), patches(c.patch))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v\nwant %s", name, err, c.want)
		}
	}
}

// The namespace of a kustomization is where its resources go that name none, and those of unknown kinds;
// what Kubernetes has outside of namespaces stays there.
func TestKustomizeNamespace(t *testing.T) {
	t.Parallel()
	got, err := render.RenderStable(t.Context(), kustomization("", "kustomization.yaml", "namespace: east\nresources: [all.yaml]\n", "all.yaml",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: example.com/v1\nkind: Thing\nmetadata: {name: b}\n---\n"+
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: c}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := sorted(strings.Join(resources(t, got), "\n")); lines != "ClusterRole c\nPod a in east\nThing b in east" {
		t.Errorf("got %s", lines)
	}
}

// A source is read as kustomize reads a disk: by any name, and nothing that is not used.
func TestKustomizeReadsWhatItUses(t *testing.T) {
	t.Parallel()
	in := kustomization("a folder", "a folder/kustomization.yaml", "resources: [the pod.yaml]\nconfigMapGenerator:\n- {name: c, files: ['Bild ä.txt'], options: {disableNameSuffixHash: true}}\n",
		"a folder/the pod.yaml", pod, "a folder/Bild ä.txt", "x", "other/bad.yaml", "a: &a [*a]\n", "other/…/x", "", "other/a\tb", "")
	got, err := render.RenderStable(t.Context(), in)
	if err != nil || !strings.Contains(text(got), "Bild ä.txt: x") || !strings.Contains(text(got), "kind: Pod") {
		t.Errorf("%v\n%s", err, text(got))
	}
	in = kustomization("", "kustomization.yaml", "resources: [pod.yaml, big.yaml]\n", "pod.yaml", pod)
	in.Absent = map[string]string{"big.yaml": "it is a link that leads to what is not there"}
	const want = "kustomization.yaml:1:23: big.yaml cannot be read from the source: it is a link that leads to what is not there"
	if _, err := render.RenderStable(t.Context(), in); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Generators, transformers, validators and components may be folders; what their kustomizations
// make is looked through for what would be fetched.
// What is found to be used of a source is enough to render it, and for what kustomize says of it.
func TestUsedFilesAreEnough(t *testing.T) {
	t.Parallel()
	label := "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: l}\npath: patches/label.yaml\ntarget: {kind: Pod}\n"
	all := []string{
		"over/east/kustomization.yaml", "resources: [../../base, own.yaml]\ncomponents: [../parts]\ntransformers: [plugins]\nconfigMapGenerator:\n- {name: c, files: ['key=data file.txt'], envs: [settings.env], options: {disableNameSuffixHash: true}}\n" +
			"patches:\n- {path: patch.yaml}\nreplacements: [{path: replace.yaml}]\ncrds: [kind.json]\nconfigurations: [fields.yaml]\n",
		"over/east/own.yaml", strings.ReplaceAll(pod, ": a", ": own"), "over/east/data file.txt", "text", "over/east/settings.env", "a=b\n",
		"over/east/patch.yaml", pod + "spec: {hostNetwork: true}\n", "over/east/kind.json", "{}", "over/east/fields.yaml", "commonLabels: []\n",
		"over/east/replace.yaml", "[{source: {kind: Pod, name: a, fieldPath: metadata.name}, targets: [{select: {kind: Pod, name: own}, fieldPaths: [metadata.annotations.of], options: {create: true}}]}]\n",
		"over/east/plugins/kustomization.yaml", "resources: [label.yaml]\n", "over/east/plugins/label.yaml", label,
		"over/east/patches/label.yaml", "- {op: add, path: /metadata/labels, value: {patched: here}}\n",
		"over/parts/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnamePrefix: p-\n",
		"base/kustomization.yml", "resources: [pods/pod.yaml]\n", "base/pods/pod.yaml", pod,
		"other/kustomization.yaml", "resources: [pod.yaml]\n", "other/pod.yaml", pod, "over/east/unused.txt", "", "README.md", "over/east",
	}
	in := kustomization("over/east", all...)
	want, err := render.RenderStable(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	narrow := func(in render.Input) (kept []bundle.File) {
		t.Helper()
		content := map[string][]byte{}
		for _, f := range in.Files {
			content[f.Path] = f.Data
		}
		names, read := slices.Sorted(maps.Keys(content)), map[string][]byte{}
		used := render.NewUsedFiles(in.Source.Root)
		for {
			found, err := used.Find(names, read)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) == len(read) {
				break
			}
			for _, name := range found {
				read[name] = content[name]
			}
		}
		for _, name := range slices.Sorted(maps.Keys(read)) {
			kept = append(kept, bundle.File{Path: name, Data: read[name]})
		}
		return kept
	}
	kept := narrow(in)
	if len(kept) != len(all)/2-4 {
		t.Errorf("of %d files, these are used: %q", len(all)/2, kept)
	}
	in.Files = kept
	if got, err := render.RenderStable(t.Context(), in); err != nil || text(got) != text(want) {
		t.Errorf("%v\n%s\nwant\n%s", err, text(got), text(want))
	}
	for _, resources := range []string{"[missing.yaml]", "[../base]", "[../empty]", "[/etc/hostname]", "['https://127.0.0.1:1/x.yaml']", "[a", "[../../..]", "['.']"} {
		in := kustomization("over", "over/kustomization.yaml", "resources: "+resources+"\n", "base/kustomization.yaml", "resources: [none.yaml]\n", "empty/a.txt", "", "z.yaml", pod)
		_, want := render.RenderStable(t.Context(), in)
		in.Files = narrow(in)
		if _, err := render.RenderStable(t.Context(), in); err == nil || err.Error() != want.Error() {
			t.Errorf("%s: got %v, want %v", resources, err, want)
		}
	}
}

func TestKustomizeTakesFoldersOfPlugins(t *testing.T) {
	t.Parallel()
	label := "apiVersion: builtin\nkind: LabelTransformer\nmetadata: {name: l}\nlabels: {from: folder}\nfieldSpecs: [{path: metadata/labels, create: true}]\n"
	generator := "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: made}\nliterals: [a=b]\noptions: {disableNameSuffixHash: true}\n"
	got, err := render.RenderStable(t.Context(), kustomization("", "kustomization.yaml", "resources: [pod.yaml]\ntransformers: [t]\ngenerators: [g]\ncomponents: [c]\n", "pod.yaml", pod,
		"t/kustomization.yaml", "resources: [label.yaml]\n", "t/label.yaml", label,
		"g/kustomization.yaml", "resources: [made.yaml]\n", "g/made.yaml", generator,
		"c/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnamePrefix: c-\n"))
	if err != nil || !strings.Contains(text(got), "from: folder") || !strings.Contains(text(got), "name: c-made") {
		t.Errorf("%v\n%s", err, text(got))
	}
	for _, files := range [][]string{
		{"t/kustomization.yaml", "resources: [x.yaml]\n", "t/x.yaml", "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: x}\npath: https://127.0.0.1:1/x\n"},
		{"t/kustomization.yaml", "resources: [x.yaml]\npatches:\n- target: {kind: PatchTransformer}\n  patch: |-\n    - {op: replace, path: /path, value: 'https://127.0.0.1:1/x'}\n",
			"t/x.yaml", "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: x}\npath: y.yaml\n"},
		{"t/kustomization.yaml", "resources: [https://127.0.0.1:1/x]\n"},
		{"t/kustomization.yaml", "transformers: [u]\n", "u/kustomization.yaml", "", "t/u/kustomization.yaml", "resources: [https://127.0.0.1:1/x]\n"},
	} {
		_, err := render.RenderStable(t.Context(), kustomization("", append([]string{"kustomization.yaml", "resources: [pod.yaml]\ntransformers: [t]\n", "pod.yaml", pod}, files...)...))
		if err == nil || !strings.Contains(err.Error(), "is not in the source (remote resources are not fetched") {
			t.Errorf("%q: %v", files, err)
		}
	}
}

// What kustomize warns of is a note, and nothing of it goes to standard error.
func TestKustomizeWarnsByNotes(t *testing.T) {
	t.Parallel()
	in := kustomization("", "kustomization.yaml", "bases: [base]\n", "base/kustomization.yaml", "resources: [pod.yaml]\ncommonLabels: {a: b}\n", "base/pod.yaml", pod)
	var notes []string
	in.Note = func(note string) { notes = append(notes, note) }
	if _, err := render.RenderStable(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"kustomization.yaml: 'bases' is deprecated. Please use 'resources' instead. Run 'kustomize edit fix' to update your Kustomization automatically.",
		"base/kustomization.yaml: 'commonLabels' is deprecated. Please use 'labels' instead. Run 'kustomize edit fix' to update your Kustomization automatically.",
	}
	if !slices.Equal(notes, want) {
		t.Errorf("got %q, want %q", notes, want)
	}
}

// Labels with kustomize's version are the tool's, whichever program the library is linked into.
func TestKustomizeNamesItsVersion(t *testing.T) {
	t.Parallel()
	kustomize := tool(t, "kustomize")
	in := kustomization("over", "over/kustomization.yaml", "resources: [../base]\nbuildMetadata: [managedByLabel]\n",
		"base/kustomization.yaml", "resources: [pod.yaml]\nlabels: [{pairs: {z: a, a: z}}]\n", "base/pod.yaml", pod)
	dir := t.TempDir()
	write(t, dir, in.Files)
	want, err := run(t, kustomize, "build", dir+"/over")
	if err != nil {
		t.Fatal(err)
	}
	got, err := render.RenderStable(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got[0].Data, want)
	if !strings.Contains(string(want), "managed-by: kustomize-v5.") {
		t.Errorf("the tool prints\n%s", want)
	}
}

// kustomize takes a patch whose target is nowhere for done.
func TestIdlePatchesAreNoted(t *testing.T) {
	t.Parallel()
	in := kustomization("over", "over/kustomization.yaml", `resources: [../base]
patches:
- {target: {kind: Pod}, patch: '[{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]'}
- {target: {kind: Job}, patch: '[{"op": "remove", "path": "/spec"}]'}
- patch: '{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {c: d}}}'
- {target: {name: nobody}, path: p.yaml}
`, "over/p.yaml", "- {op: remove, path: /spec}\n", "base/kustomization.yaml", "resources: [pod.yaml]\npatchesJson6902:\n- {target: {version: v1, kind: Pod, name: b}, path: p.yaml}\n", "base/p.yaml", "- {op: remove, path: /spec}\n", "base/pod.yaml", pod)
	var notes []string
	in.Note = func(note string) {
		if !strings.Contains(note, "deprecated") {
			notes = append(notes, note)
		}
	}
	if _, err := render.RenderStable(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"over/kustomization.yaml:4: patches[1] changes nothing", "over/kustomization.yaml:6: patches[3] changes nothing",
		"base/kustomization.yaml:3: patchesJson6902[0] changes nothing",
	}
	if !slices.Equal(notes, want) {
		t.Errorf("got %q, want %q", notes, want)
	}
}
