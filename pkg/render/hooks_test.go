package render_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/render"
)

// hooked returns a chart with hooks of all kinds.
func hooked() []bundle.File {
	hook := func(kind, name, events, more string) string {
		spec := ""
		if kind == "Job" {
			spec = "spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: registry.example/job:1}]}}}\n"
		}
		return fmt.Sprintf("---\napiVersion: %s\nkind: %s\nmetadata:\n  name: %s\n  annotations:\n    helm.sh/hook: %s\n%s%s",
			map[string]string{"Job": "batch/v1", "ConfigMap": "v1"}[kind], kind, name, events, more, spec)
	}
	return chartInput(
		"crds/crd.yaml", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: cogs.hooked.example}\n"+
			"spec: {group: hooked.example, scope: Namespaced, names: {kind: Cog, plural: cogs}}\n",
		"templates/main.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: main}\n---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: kept\n  annotations: {helm.sh/resource-policy: keep}\n"+
			"---\napiVersion: hooked.example/v1\nkind: Cog\nmetadata: {name: one}\n---\napiVersion: other.example/v1\nkind: Wheel\nmetadata: {name: one}\n"+
			"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: hooked}\n",
		"templates/hooks.yaml", hook("Job", "late", `"post-install,post-upgrade"`, "    helm.sh/hook-weight: \"5\"\n")+
			hook("Job", "b", "pre-install, pre-upgrade", "")+hook("Job", "a", "pre-install,pre-upgrade", "")+
			hook("ConfigMap", "first", "pre-install,pre-upgrade,post-install", "    helm.sh/hook-weight: \"-5\"\n")+
			hook("Job", "once", "pre-install", "    helm.sh/hook-weight: \"1\"\n")+
			hook("Job", "uninstall", "pre-delete", "")+hook("Job", "both", "post-upgrade,post-rollback", "")+
			hook("Job", "tested", "test", ""),
	).Files
}

// all renders a chart as a bundle's one source.
func all(t *testing.T, files []bundle.File, options bundle.Source) *render.Manifests {
	t.Helper()
	options.Path, options.Template, options.Render = "chart", bundle.TemplateHelm, bundle.RenderTarget
	content := &bundle.Content{Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "hooked"}, Spec: bundle.BundleSpec{Sources: []bundle.Source{options}}}}
	for _, f := range files {
		content.Files = append(content.Files, bundle.File{Path: "config/chart/" + f.Path, Data: f.Data})
	}
	d, err := name.NewDigest("registry.example/job@" + zeros)
	if err != nil {
		t.Fatal(err)
	}
	content.Images = images.Lock{{Image: d, Reference: "registry.example/job:1"}}
	m, err := render.RenderDefaults(t.Context(), content)
	if err != nil {
		t.Fatal(err)
	}
	placed, err := render.RenderAll(t.Context(), content, nil, atSite)
	if err != nil {
		t.Fatal(err)
	}
	if got := text(slices.Concat(placed.Files, placed.Later)); strings.Count(got, atSite(d)) != 7 || strings.Contains(got, "registry.example") {
		t.Errorf("images are not where the site has them: %s", got)
	}
	return m
}

// Hooks of an install and an upgrade are ordered by kapp's rules, those of a deletion and of a
// rollback lie apart, and resources are where helm install puts them.
func TestHooks(t *testing.T) {
	t.Parallel()
	m := all(t, hooked(), bundle.Source{Helm: &bundle.Helm{Namespace: "ns"}})
	const group = "hooks.krtpkg.dev/r-chart-"
	want := []string{
		"CustomResourceDefinition cogs.hooked.example",
		"Secret kept in ns, argocd.argoproj.io/sync-options: Prune=false,Delete=false, kapp.k14s.io/change-group.hook: main, " +
			"kapp.k14s.io/change-rule.hook: after before, kapp.k14s.io/delete-strategy: orphan, kustomize.toolkit.fluxcd.io/prune: disabled",
		"ConfigMap main in ns, kapp.k14s.io/change-group.hook: main, kapp.k14s.io/change-rule.hook: after before",
		"ClusterRole hooked, kapp.k14s.io/change-group.hook: main, kapp.k14s.io/change-rule.hook: after before",
		"Cog one in ns, kapp.k14s.io/change-group.hook: main, kapp.k14s.io/change-rule.hook: after before",
		"Wheel one, kapp.k14s.io/change-group.hook: main, kapp.k14s.io/change-rule.hook: after before",
		"ConfigMap first in ns, kapp.k14s.io/change-group.hook: before, kapp.k14s.io/change-group.hook-order: before-0",
		"Job a in ns, kapp.k14s.io/change-group.hook: before, kapp.k14s.io/change-group.hook-order: before-1, " +
			"kapp.k14s.io/change-rule.hook-0: after before-0, kapp.k14s.io/update-strategy: always-replace",
		"Job b in ns, kapp.k14s.io/change-group.hook: before, kapp.k14s.io/change-group.hook-order: before-2, " +
			"kapp.k14s.io/change-rule.hook-0: after before-1, kapp.k14s.io/update-strategy: always-replace",
		"Job both in ns, kapp.k14s.io/change-group.hook: after, kapp.k14s.io/change-group.hook-order: after-0, " +
			"kapp.k14s.io/change-rule.hook-0: after before, kapp.k14s.io/change-rule.hook-1: after main, kapp.k14s.io/update-strategy: always-replace",
		"Job late in ns, kapp.k14s.io/change-group.hook: after, kapp.k14s.io/change-group.hook-order: after-1, " +
			"kapp.k14s.io/change-rule.hook-0: after before, kapp.k14s.io/change-rule.hook-1: after main, kapp.k14s.io/change-rule.hook-2: after after-0, kapp.k14s.io/update-strategy: always-replace",
		"Job once in ns, kapp.k14s.io/change-group.hook: before, kapp.k14s.io/change-group.hook-order: before-3, " +
			"kapp.k14s.io/change-rule.hook-0: after before-2, kapp.k14s.io/update-strategy: skip",
	}
	got := strings.NewReplacer(group, "", "upsert after upserting ", "after ").Replace(strings.Join(resources(t, m.Files), "\n"))
	if sorted(got) != sorted(strings.Join(want, "\n")) {
		t.Errorf("got\n%s\nwant\n%s", sorted(got), sorted(strings.Join(want, "\n")))
	}
	if got := strings.Join(resources(t, m.Later), "\n"); got != "Job uninstall in ns\nJob both in ns" {
		t.Errorf("hooks that run later:\n%s", got)
	}
	var hooks []string
	for _, h := range m.Hooks {
		hooks = append(hooks, h.String())
	}
	if got := strings.Join(hooks, "; "); got != "Job both (post-upgrade, post-rollback); Job uninstall (pre-delete)" {
		t.Errorf("hooks: %s", got)
	}
	if got := fmt.Sprint(m.Namespaces); got != "map[config/chart/manifests.yaml:ns]" {
		t.Errorf("namespaces that only the cluster knows: %s", got)
	}
}

func sorted(lines string) string {
	all := strings.Split(lines, "\n")
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// resources returns those of files, a line each, with annotations but for those of Helm, and for what
// depends on each byte.
func resources(t *testing.T, files []bundle.File) []string {
	t.Helper()
	var all []string
	for _, f := range files {
		decoder := yaml.NewDecoder(bytes.NewReader(f.Data))
		for {
			var r struct {
				Kind     string
				Metadata struct {
					Name, Namespace string
					Annotations     map[string]string
				}
			}
			if err := decoder.Decode(&r); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v\n%s", err, f.Data)
			}
			line := r.Kind + " " + r.Metadata.Name
			if r.Metadata.Namespace != "" {
				line += " in " + r.Metadata.Namespace
			}
			for _, key := range slices.Sorted(maps.Keys(r.Metadata.Annotations)) {
				if !strings.HasPrefix(key, "helm.sh/") && key != bundle.HookAnnotation {
					line += ", " + key + ": " + r.Metadata.Annotations[key]
				}
			}
			all = append(all, line)
		}
	}
	return all
}

// A bundle whose chart was rendered at the build comes to the same manifests, and so does one of before
// hooks were kept apart.
func TestHooksOfABuild(t *testing.T) {
	t.Parallel()
	source := bundle.Source{Path: "chart", Template: bundle.TemplateHelm, Helm: &bundle.Helm{Namespace: "ns"}}
	want := all(t, hooked(), source)
	in := render.Input{Source: &source, Name: "hooked", Files: hooked()}
	rendered, err := render.RenderStable(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range []bool{false, true} {
		content := &bundle.Content{Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "hooked"}, Spec: bundle.BundleSpec{Sources: []bundle.Source{source}}}}
		content.Files = []bundle.File{{Path: "config/chart/manifests.yaml", Data: rendered[0].Data}}
		if !old {
			if _, err := render.FinishBuilt(content); err != nil {
				t.Fatal(err)
			}
			if got := paths(content.Files); got != "config/chart/manifests.yaml hooks/chart/manifests.yaml" {
				t.Errorf("files of the bundle: %s", got)
			}
		}
		got, err := render.RenderDefaults(t.Context(), content)
		if err != nil {
			t.Fatal(err)
		}
		if text(got.Files) != text(want.Files) || text(got.Later) != text(want.Later) {
			t.Errorf("old %v: got\n%s\n%s\nwant\n%s\n%s", old, text(got.Files), text(got.Later), text(want.Files), text(want.Later))
		}
	}
}

func paths(files []bundle.File) string {
	var all []string
	for _, f := range files {
		all = append(all, f.Path)
	}
	return strings.Join(all, " ")
}

// Helm drops what it knows no event for; that is told.
func TestUnknownHooks(t *testing.T) {
	t.Parallel()
	got := render.UnknownHooks(files("templates/a.yaml", "helm.sh/hook: \"crd-install, pre-install\"\nhelm.sh/hook-weight: x\nhelm.sh/hook: {{ .x }}\n",
		"charts/b/templates/b.yaml", "'helm.sh/hook': test-failure", "README.md", "helm.sh/hook: never", "values.yaml", "helm.sh/hook: never"))
	want := `templates/a.yaml: Helm knows no hook "crd-install" and leaves the resource out
charts/b/templates/b.yaml: Helm knows no hook "test-failure" and leaves the resource out`
	if strings.Join(got, "\n") != want {
		t.Errorf("got %s", strings.Join(got, "\n"))
	}
}

// Manifests without a word of Helm's stay as they are, byte for byte; those of a file that is all hooks
// leave none behind; tests are left out; what kapp cannot do is refused by its place.
func TestHooksOfPlainManifests(t *testing.T) {
	t.Parallel()
	const job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j, annotations: {helm.sh/hook: %q}}\n"
	content := &bundle.Content{Bundle: &bundle.Bundle{Spec: bundle.BundleSpec{Sources: []bundle.Source{{Path: "p"}}}}}
	plain := "kind:   Pod # kept\nmetadata: {name: helm.sh}\n"
	content.Files = files("config/p/a.yaml", plain, "config/p/b.yaml", fmt.Sprintf(job, "post-delete"), "config/p/c.yaml", fmt.Sprintf(job, "test")+"---\n"+plain,
		"config/p/d.yaml", fmt.Sprintf(job, "crd-install"))
	m, err := render.RenderDefaults(t.Context(), content)
	if err != nil {
		t.Fatal(err)
	}
	want := "config/p/a.yaml\n" + plain + "config/p/c.yaml\n---\n" + plain + "config/p/d.yaml\n" + fmt.Sprintf(job, "crd-install")
	if text(m.Files) != want || text(m.Later) != "hooks/p/b.yaml\n---\n"+fmt.Sprintf(job, "post-delete") || len(m.Tests) != 1 {
		t.Errorf("got %s, later %s, tests %v", text(m.Files), text(m.Later), m.Tests)
	}
	content.Files = files("config/p/a.yaml", fmt.Sprintf(job, "pre-install,post-install"))
	const refused = "config/p/a.yaml:1:1: hook Job j (pre-install, post-install) runs before and after the chart's other resources, but kapp cannot run it twice"
	if _, err := render.RenderDefaults(t.Context(), content); err == nil || err.Error() != refused {
		t.Errorf("got %v, want %s", err, refused)
	}
}
