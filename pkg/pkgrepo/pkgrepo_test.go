package pkgrepo_test

import (
	"errors"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
)

var update = flag.Bool("update", false, "write the golden files")

const digest = "@sha256:f91f2ba0eb19898e7d0b59637d505a1ab9362b1416ca6ed017c8630294beb046"

// one returns a bundle of a source and files.
func one(t *testing.T, spec string, files ...bundle.File) pkgrepo.Bundle {
	t.Helper()
	d, err := bundle.Parse("bundle.yaml", []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\n"+
		"metadata: {name: web, version: 1.2.3, description: Shows things, licenses: MIT, source: \"https://git.example/web\", revision: abc}\nspec:\n"+spec))
	if err != nil {
		t.Fatal(err)
	}
	image, err := name.NewDigest("ghcr.io/example/web" + digest)
	if err != nil {
		t.Fatal(err)
	}
	at, err := name.NewDigest("krtpkg.invalid/bundles/web" + digest)
	if err != nil {
		t.Fatal(err)
	}
	content := &bundle.Content{Bundle: d.Bundle, Files: files, Images: images.Lock{{Image: image, Reference: "ghcr.io/example/web:1.0"}}}
	return pkgrepo.Bundle{Content: content, Image: at}
}

func file(path, data string) bundle.File { return bundle.File{Path: path, Data: []byte(data)} }

const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web, image: ghcr.io/example/web:1.0}]}\n"

// hook returns a Pod as a build leaves one that is a hook of Helm.
func hook(events, spec string) string {
	return strings.Replace(strings.Replace(pod, "metadata: {", "metadata: {annotations: {krtpkg.dev/hook: \"m@1\", helm.sh/hook: \""+events+"\"}, ", 1), "spec: {", "spec: {"+spec, 1)
}

func TestGolden(t *testing.T) {
	b := one(t, `  layer: 4
  category: metrics
  kubernetes: ">=1.29, <2"
  maintainers: [{name: The web team}, {name: Ada}]
  icon: <svg xmlns="http://www.w3.org/2000/svg"/>
  sources:
    - {dir: config, template: ytt, values: {greeting: hi}}
    - {dir: plain}
`, file("config/config/pod.yaml", "#@ load(\"@ytt:data\", \"data\")\n"+strings.Replace(pod, "metadata: {name: web}", "metadata:\n  name: #@ data.values.greeting", 1)),
		file("config/config/schema.yaml", "#@data/values-schema\n---\n#@schema/desc \"what it says\"\ngreeting: hello\n"),
		file("config/plain/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"))
	files, left, err := pkgrepo.PackageFiles(t.Context(), "edge", []pkgrepo.Bundle{b}, time.Unix(1700000000, 0))
	if err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	golden(t, "packages.txt", files)
}

// golden holds files against what they were in testdata/golden.
func golden(t *testing.T, name string, files []bundle.File) {
	t.Helper()
	var got strings.Builder
	for _, f := range files {
		got.WriteString("-- " + f.Path + " --\n" + string(f.Data))
	}
	at := "../../testdata/golden/" + name
	if *update {
		if err := os.WriteFile(at, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("go test ./pkg/pkgrepo -update, if it was meant to change. Got:\n%s", got.String())
	}
}

// What kapp-controller would make something else of is not a package.
func TestLeft(t *testing.T) {
	for _, test := range []struct {
		name, reason, spec string
		files              []bundle.File
	}{
		{"an argument", "kbld does not find image", "  layer: 6\n  sources: [{dir: m}]\n", []bundle.File{
			file("config/m/a.yaml", strings.Replace(pod, "image: ghcr", "args: [--image=ghcr.io/example/web:1.0], image: ghcr", 1))}},
		{"a document in a string", "kbld does not find image", "  layer: 6\n  sources: [{dir: m}]\n", []bundle.File{
			file("config/m/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  pod.yaml: |\n    "+strings.ReplaceAll(pod, "\n", "\n    "))}},
		{"what is not an image", `kbld would take "none" for an image`, "  layer: 6\n  notImages: [{value: none, reason: a word}]\n  sources: [{dir: m}]\n", []bundle.File{
			file("config/m/a.yaml", "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: a}\nspec: {image: none}\n")}},
		{"two templates", "the target renders several of its sources", "  layer: 6\n  sources: [{dir: a, template: ytt}, {dir: b, template: ytt}]\n", []bundle.File{
			file("config/a/a.yaml", pod), file("config/b/b.yaml", pod)}},
		{"a chart with tests", "has hooks or tests, which kapp-controller would install like resources: templates/a.yaml", "  layer: 6\n  sources: [{dir: c, template: helm, render: target}]\n", []bundle.File{
			file("config/c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n"),
			file("config/c/templates/a.yaml", strings.Replace(pod, "metadata: {", "metadata: {annotations: {\"helm.sh/hook\": test}, ", 1))}},
		{"a chart that keeps", "has resources to keep, which kapp-controller would delete: templates/a.yaml", "  layer: 6\n  sources: [{dir: c, template: helm, render: target}]\n", []bundle.File{
			file("config/c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n"),
			file("config/c/templates/a.yaml", strings.Replace(pod, "metadata: {", "metadata: {annotations: {helm.sh/resource-policy: keep}, ", 1))}},
		{"a hook of upgrades", "hook Pod web (post-upgrade) is for upgrades only", "  layer: 6\n  sources: [{dir: m}]\n", []bundle.File{
			file("config/m/a.yaml", hook("post-upgrade", ""))}},
		{"a hook that deletes itself", "hook Pod web (pre-install, pre-upgrade) deletes itself", "  layer: 6\n  sources: [{dir: m}]\n", []bundle.File{
			file("config/m/a.yaml", hook("pre-install,pre-upgrade", "ttlSecondsAfterFinished: 5, "))}},
		{"two namespaces", "resources without a namespace belong to its own and to ns", "  layer: 6\n  sources: [{dir: c, template: helm, render: target, helm: {namespace: ns}}, {dir: m}]\n", []bundle.File{
			file("config/c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n"), file("config/c/templates/a.yaml", pod), file("config/m/a.yaml", strings.Replace(pod, "{name: web}", "{name: other}", 1))}},
		{"an image in the schema", "its values schema has the image", "  layer: 6\n  sources: [{dir: a, template: ytt}]\n", []bundle.File{
			file("config/a/schema.yaml", "#@data/values-schema\n---\n#@schema/default [{\"image\": \"nginx\"}]\nall:\n- image: \"\"\n"), file("config/a/a.yaml", pod)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			files, left, err := pkgrepo.PackageFiles(t.Context(), "edge", []pkgrepo.Bundle{one(t, test.spec, test.files...)}, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if len(files) > 0 || len(left) != 1 || !strings.Contains(left[0].Reason, test.reason) {
				t.Errorf("%d files, left %+v, want the reason %q", len(files), left, test.reason)
			}
		})
	}
}

func TestChartAtTarget(t *testing.T) {
	b := one(t, "  layer: 6\n  sources: [{dir: c, template: helm, render: target, values: {a: 1}, helm: {release: shop, namespace: web, kubernetes: \"1.34.0\"}}]\n",
		file("config/c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n"), file("config/c/templates/a.yaml", pod))
	files, left, err := pkgrepo.PackageFiles(t.Context(), "edge", []pkgrepo.Bundle{b}, time.Time{})
	if err != nil || len(left) > 0 || len(files) != 2 {
		t.Fatal(files, left, err)
	}
	var p struct {
		Spec struct {
			Template struct {
				Spec struct{ Template []map[string]any }
			}
		}
	}
	if err := yaml.Unmarshal(files[0].Data, &p); err != nil {
		t.Fatal(err)
	}
	helm, _ := p.Spec.Template.Spec.Template[0]["helmTemplate"].(map[string]any)
	namespace, reason, err := pkgrepo.DefaultNamespace(t.Context(), b.Content, nil)
	if namespace != "web" || reason != "" || err != nil {
		t.Errorf("its resources go to %q, %s, error %v", namespace, reason, err)
	}
	if helm["name"] != "shop" || helm["namespace"] != "web" || helm["path"] != "bundle/config/c" {
		t.Errorf("helmTemplate %v", helm)
	}
}

// Versions of Kubernetes are said to kapp-controller in whole versions.
func TestConstraints(t *testing.T) {
	for from, want := range map[string]string{
		">=1.29":          ">=1.29.0",
		">= 1.29, < 2":    ">=1.29.0 <2.0.0",
		">1.29":           ">=1.30.0",
		"<=1.34":          "<1.35.0",
		"~1.30":           ">=1.30.0 <1.31.0",
		"^1.29.2":         ">=1.29.2 <2.0.0",
		"1.30":            ">=1.30.0 <1.31.0",
		"1.30.x":          ">=1.30.0 <1.31.0",
		"=1.30.4":         "=1.30.4",
		"~1.29 || >=1.31": ">=1.29.0 <1.30.0 || >=1.31.0",
		"!=1.30":          "",
		"1.29 - 1.31":     "",
		">=1.29.0-0":      "",
	} {
		b := one(t, "  layer: 6\n  kubernetes: \""+from+"\"\n  sources: [{dir: m}]\n", file("config/m/a.yaml", pod))
		files, left, err := pkgrepo.PackageFiles(t.Context(), "edge", []pkgrepo.Bundle{b}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			if len(left) != 1 || !strings.Contains(left[0].Reason, "range of Kubernetes versions") {
				t.Errorf("%s: left %v", from, left)
			}
			continue
		}
		var p struct {
			Spec struct {
				Selection struct{ Constraints string } `yaml:"kubernetesVersionSelection"`
			}
		}
		if len(files) != 2 {
			t.Fatalf("%s: %v", from, left)
		}
		if err := yaml.Unmarshal(files[0].Data, &p); err != nil {
			t.Fatal(err)
		}
		if p.Spec.Selection.Constraints != want {
			t.Errorf("%s: %q, want %q", from, p.Spec.Selection.Constraints, want)
		}
	}
}

// What lies in a runtime for a controller is what its bundles give, to the byte.
func TestCheckFiles(t *testing.T) {
	lock := &bundle.RuntimeLock{
		APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock, Metadata: bundle.Metadata{Name: "edge", Version: "1.0.0"},
		Bundles: []bundle.LockedBundle{{Name: "web", Version: "1.2.3", Layer: 4, Digest: strings.TrimPrefix(digest, "@")}},
	}
	b := plain(t)
	packages, _, err := pkgrepo.PackageFiles(t.Context(), "edge", []pkgrepo.Bundle{one(t, "  layer: 4\n  sources: [{dir: m}]\n", file("config/m/a.yaml", pod))}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	flux, _, err := pkgrepo.FluxFiles(lock, []pkgrepo.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	argoCD, _, err := pkgrepo.ArgoCDFiles(lock, []pkgrepo.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	made := map[string][]bundle.File{"packages": packages, "flux": flux, "argocd": argoCD}
	all := slices.Concat(packages, flux, argoCD)
	for name, c := range map[string]struct {
		folder string
		change func([]bundle.File) []bundle.File
		want   string
	}{
		"packages as built":    {"packages", nil, ""},
		"flux as built":        {"flux", nil, ""},
		"argocd as built":      {"argocd", nil, ""},
		"a Kustomization more": {"flux", addTo("flux/web.yaml", "---\napiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: evil}\n"), "flux/web.yaml"},
		"an Application more":  {"argocd", addTo("argocd/templates/applications.yaml", "---\nkind: Application\n"), "argocd/templates/applications.yaml"},
		"another fetch":        {"packages", addTo("packages/web.edge.krtpkg.dev/1.2.3.yml", "# inline\n"), "packages/web.edge.krtpkg.dev/1.2.3.yml"},
		"a file more":          {"flux", func(files []bundle.File) []bundle.File { return append(files, file("flux/evil.yaml", pod)) }, "flux/evil.yaml"},
		"a file less": {"flux", func(files []bundle.File) []bundle.File {
			return slices.DeleteFunc(files, func(f bundle.File) bool { return f.Path == "flux/web.yaml" })
		}, "flux/web.yaml"},
		"another controller's": {"argocd", addTo("flux/web.yaml", "# x\n"), ""},
	} {
		content := &bundle.Content{Runtime: lock, Images: images.Lock{{Image: b.Image, Reference: b.Image.Name()}}, Files: slices.Clone(all)}
		if c.change != nil {
			content.Files = c.change(content.Files)
		}
		store := memory.New()
		desc, err := content.Pack(t.Context(), store, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		root, err := bundle.Open(t.Context(), store, desc)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		var altered *bundle.AlteredError
		if err := pkgrepo.CheckFiles(root, c.folder, made[c.folder]); errors.As(err, &altered) {
			got = altered.File
		} else if err != nil {
			t.Fatal(err)
		}
		if got != c.want {
			t.Errorf("%s: altered is %q, want %q", name, got, c.want)
		}
	}
}

// addTo adds text to a file.
func addTo(path, text string) func([]bundle.File) []bundle.File {
	return func(files []bundle.File) []bundle.File {
		for i, f := range files {
			if f.Path == path {
				files[i].Data = append(slices.Clone(f.Data), text...)
			}
		}
		return files
	}
}
