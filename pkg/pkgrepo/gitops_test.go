package pkgrepo_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
)

// plain returns a bundle that has all that a site's patches are for.
func plain(t *testing.T) pkgrepo.Bundle {
	t.Helper()
	b := one(t, "  layer: 4\n  sources: [{dir: m}]\n",
		file("config/m/crd.yaml", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.example.com}\n"+
			"spec: {group: example.com, scope: Namespaced, names: {kind: Thing, plural: things}}\n"),
		file("config/m/pods.yaml", `apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Pod
    metadata: {name: web.1}
    spec:
      containers:
        - &main {name: main, image: "ghcr.io/example/web:1.0", args: ["--with=ghcr.io/example/web:1.0", "${HOME} $(NAME)"]}
---
apiVersion: example.com/v1
kind: Thing
metadata: {name: thing, annotations: {a/b: c}}
spec: {none: null, some: [{also: null}, null], "x/~y": {}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: web, annotations: {a: b}}
spec: {ttlSecondsAfterFinished: 0, template: {spec: {restartPolicy: Never, containers: [{name: main, image: "ghcr.io/example/web:1.0"}]}}}
`),
		file("config/m/rules.yaml", "apiVersion: kapp.k14s.io/v1alpha1\nkind: Config\n"))
	b.Manifest = &ocispec.Manifest{Layers: []ocispec.Descriptor{{MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", Digest: "sha256:1", Size: 1}}}
	return b
}

// hookOf returns a hook as a build leaves it, at a place in the order.
func hookOf(kind, name, namespace, place, events, spec string) string {
	return fmt.Sprintf("apiVersion: batch/v1\nkind: %s\nmetadata: {name: %s, namespace: %s, annotations: {krtpkg.dev/hook: m@1, kapp.k14s.io/change-group.hook-order: hooks.krtpkg.dev/r-m-%s, helm.sh/hook: %q}}\nspec: {%s}\n",
		kind, name, namespace, place, events, spec)
}

func TestGitOpsGolden(t *testing.T) {
	lock := &bundle.RuntimeLock{Metadata: bundle.Metadata{Name: "edge", Version: "1.0.0"}}
	hooked := one(t, "  layer: 5\n  sources: [{dir: m}]\n",
		file("config/m/hooks.yaml", hookOf("ConfigMap", "settings", "web", "before-0", "pre-install,pre-upgrade", "")+"---\n"+
			hookOf("Job", "migrate", "web", "before-1", "pre-install,pre-upgrade", "template: {metadata: {labels: {a: b}}}")+"---\n"+
			hookOf("Job", "second", "web", "before-2", "pre-install,pre-upgrade", "template: {}")+"---\n"+
			"apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n---\n"+hookOf("Job", "once", "web", "after-0", "post-install", "template: {}")),
		file("config/m/pod.yaml", pod))
	hooked.Bundle.Metadata.Name, hooked.Manifest = "hooked", plain(t).Manifest
	var all []bundle.File
	for _, files := range []func(*bundle.RuntimeLock, []pkgrepo.Bundle) ([]bundle.File, []pkgrepo.LeftOut, error){pkgrepo.FluxFiles, pkgrepo.ArgoCDFiles} {
		made, left, err := files(lock, []pkgrepo.Bundle{plain(t)})
		if err != nil || len(left) > 0 {
			t.Fatal(left, err)
		}
		all = append(all, made...)
	}
	made, left, err := pkgrepo.FluxFiles(lock, []pkgrepo.Bundle{hooked})
	if err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	all = append(all, made...)
	golden(t, "gitops.txt", all)
}

// Hooks of Helm that Flux cannot run as Helm does are left out; resources of a
// source with a namespace are in it where a kind of the runtime is.
func TestGitOpsOfCharts(t *testing.T) {
	lock := &bundle.RuntimeLock{Metadata: bundle.Metadata{Name: "edge", Version: "1.0.0"}}
	for name, c := range map[string]struct{ file, flux, argo string }{
		"both":    {hook("pre-install,pre-upgrade", ""), "hook Pod web (pre-install, pre-upgrade) is a Pod, which Flux cannot run again", ""},
		"upgrade": {hook("post-upgrade", ""), "hook Pod web (post-upgrade) is for upgrades only, and Flux would run it at the install", ""},
		"install": {hook("post-install", ""), "hook Pod web (post-install) is a Pod, which Flux cannot run again", ""},
		"none":    {pod, "", ""},
		"its own namespace": {"apiVersion: v1\nkind: Namespace\nmetadata: {name: ns}\n---\n" + hookOf("ConfigMap", "one", "ns", "before-0", "pre-install,pre-upgrade", ""),
			"", "hooks run before all resources in namespace ns, which the bundle creates itself"},
		"for a while": {hookOf("Job", "one", "ns", "after-0", "post-install,post-upgrade", "ttlSecondsAfterFinished: 1"),
			"hook Job one (post-install, post-upgrade) deletes itself when done, so Flux would run it again and again", ""},
		"unknown": {pod + "---\napiVersion: other.example/v1\nkind: Wheel\nmetadata: {name: one}\n", "Wheel one without a namespace belongs to namespace ns if it is namespaced, but no bundle of the runtime defines its kind", "Wheel one without a namespace belongs to namespace ns if it is namespaced, but no bundle of the runtime defines its kind"},
	} {
		b := one(t, "  layer: 6\n  sources: [{dir: m, template: helm, helm: {namespace: ns}}]\n", file("config/m/a.yaml", c.file))
		b.Manifest = plain(t).Manifest
		for tool, files := range map[string]func(*bundle.RuntimeLock, []pkgrepo.Bundle) ([]bundle.File, []pkgrepo.LeftOut, error){c.flux: pkgrepo.FluxFiles, c.argo + " ": pkgrepo.ArgoCDFiles} {
			_, left, err := files(lock, []pkgrepo.Bundle{b})
			if err != nil {
				t.Fatal(err)
			}
			reason := ""
			if len(left) > 0 {
				reason = left[0].Reason
			}
			if want := strings.TrimSuffix(tool, " "); reason != want {
				t.Errorf("%s: left out since %q, want %q", name, reason, want)
			}
		}
	}
	kinds := plain(t)
	kinds.Bundle.Metadata.Name = "kinds"
	b := one(t, "  layer: 6\n  sources: [{dir: m, template: helm, helm: {namespace: ns}}]\n", file("config/m/a.yaml", "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: thing}\n"))
	files, left, err := pkgrepo.FluxFiles(lock, []pkgrepo.Bundle{kinds, b})
	if err != nil || len(left) > 0 || !strings.Contains(string(files[1].Data), `{"op":"add","path":"/metadata/namespace","value":"ns"}`) {
		t.Errorf("a resource of a kind of another bundle: left %v, error %v, %s", left, err, files[len(files)-1].Data)
	}
}

// What cannot be taken as it is is left out, with the reason.
func TestNotPlain(t *testing.T) {
	for _, test := range []struct {
		reason string
		bundle pkgrepo.Bundle
	}{
		{"its source m is a template, which the target renders with its values", one(t, "  layer: 6\n  sources: [{dir: m, template: ytt}]\n", file("config/m/a.yaml", pod))},
		{"config/m/a.yaml has rules for kapp next to resources", one(t, "  layer: 6\n  sources: [{dir: m}]\n",
			file("config/m/a.yaml", pod+"---\napiVersion: kapp.k14s.io/v1alpha1\nkind: Config\n"))},
		{"Pod web is both in config/m/a.yaml and in config/m/b.yaml", one(t, "  layer: 6\n  sources: [{dir: m}]\n", file("config/m/a.yaml", pod), file("config/m/b.yaml", pod))},
		{"a patch of Pod web without a namespace also matches Pod web in other", one(t, "  layer: 6\n  sources: [{dir: m}]\n",
			file("config/m/a.yaml", strings.Replace(pod, "{name: web}", "{name: web, namespace: other}", 1)), file("config/m/b.yaml", pod))},
		{"Pod web in config/m/a.yaml has the annotation config.kubernetes.io/local-config, and kustomize would leave it out", one(t, "  layer: 6\n  sources: [{dir: m}]\n",
			file("config/m/a.yaml", strings.Replace(pod, "{name: web}", "{name: web, annotations: {config.kubernetes.io/local-config: \"true\"}}", 1)))},
		{"has no resources", one(t, "  layer: 6\n  sources: [{dir: m}]\n", file("config/m/a.yaml", "# nothing\n"))},
		{"config/m/a.yaml:9: an image in merged YAML cannot be patched", one(t, "  layer: 6\n  sources: [{dir: m}]\n",
			file("config/m/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nx: &x {image: \"ghcr.io/example/web:1.0\"}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{<<: {image: \"ghcr.io/example/web:1.0\"}, name: p}]}\n"))},
	} {
		lock := &bundle.RuntimeLock{Metadata: bundle.Metadata{Name: "edge", Version: "1.0.0"}}
		_, left, err := pkgrepo.FluxFiles(lock, []pkgrepo.Bundle{test.bundle})
		if err != nil || len(left) != 1 || left[0].Reason != test.reason {
			t.Errorf("left %+v, %v; want %s", left, err, test.reason)
		}
	}
}

// What is made for all controllers at once is what is made for each of them.
func TestRuntimeFiles(t *testing.T) {
	lock := &bundle.RuntimeLock{Metadata: bundle.Metadata{Name: "edge", Version: "1.0.0"}}
	var bundles []pkgrepo.Bundle
	for name, b := range map[string]pkgrepo.Bundle{
		"plain":  plain(t),
		"chart":  one(t, "  layer: 6\n  sources: [{dir: c, template: helm, render: target}]\n", file("config/c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n"), file("config/c/templates/a.yaml", pod)),
		"placed": one(t, "  layer: 6\n  sources: [{dir: m, template: helm, helm: {namespace: ns}}]\n", file("config/m/a.yaml", "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: thing}\n---\n"+pod)),
		"hooked": one(t, "  layer: 6\n  sources: [{dir: m}]\n", file("config/m/a.yaml", hook("post-upgrade", "")), file("config/m/b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n")),
		"other":  one(t, "  layer: 6\n  sources: [{dir: a}, {dir: m}]\n", file("config/a/a.yaml", "apiVersion: other.example/v1\nkind: Wheel\nmetadata: {name: one}\nspec: {image: \"ghcr.io/example/web:1.0\"}\n"), file("config/m/b.yaml", pod)),
	} {
		b.Bundle.Metadata.Name, b.Manifest = name, plain(t).Manifest
		bundles = append(bundles, b)
	}
	slices.SortFunc(bundles, func(a, b pkgrepo.Bundle) int { return strings.Compare(a.Metadata().Name, b.Metadata().Name) })
	got, left, err := pkgrepo.RuntimeFiles(t.Context(), lock, bundles, time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	packages, leftByPackages, err := pkgrepo.PackageFiles(t.Context(), "edge", bundles, time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	flux, leftByFlux, err := pkgrepo.FluxFiles(lock, bundles)
	if err != nil {
		t.Fatal(err)
	}
	argoCD, leftByArgoCD, err := pkgrepo.ArgoCDFiles(lock, bundles)
	if err != nil {
		t.Fatal(err)
	}
	if want := slices.Concat(packages, flux, argoCD); !reflect.DeepEqual(got, want) || !reflect.DeepEqual(left, leftByPackages) {
		t.Errorf("got\n%s\nleft %v, want\n%s\nleft %v", got, left, want, leftByPackages)
	}
	if len(packages) == 0 || len(flux) < 2 || len(leftByPackages) == 0 || len(leftByFlux) == 0 || len(leftByArgoCD) == 0 {
		t.Errorf("the bundles show too little: %d files of packages, %d of Flux, left out %v, %v, %v", len(packages), len(flux), leftByPackages, leftByFlux, leftByArgoCD)
	}
}
