package bundles_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/render"
)

// unkustomized is why kustomize cannot build a bundle, other than that it takes values.
var unkustomized = map[string]string{
	"knative-serving": "is both in",        // a definition is in two files
	"kyverno":         "for upgrades only", // a hook
}

// takesValues is the reason that all bundles with values share.
const takesValues = "is a template, which the target renders with its values"

// kustomizes holds what the real kustomize makes of a bundle, with the patches that Flux is given,
// against what krtpkg renders. It returns why kustomize cannot have the bundle; nothing if it can.
func kustomizes(t *testing.T, built *assemble.Built, rendered []bundle.File) string {
	t.Helper()
	m := built.Metadata()
	image, err := name.NewDigest(place + "@" + built.Descriptor.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	lock := &bundle.RuntimeLock{Metadata: bundle.Metadata{Name: "all", Version: "1.0.0"}, Provided: built.Bundle.Spec.Requires}
	files, left, err := pkgrepo.FluxFiles(lock, []pkgrepo.Bundle{{Content: built.Content, Image: image}})
	if err != nil {
		t.Fatal(err)
	}
	reason, known := unkustomized[m.Name]
	if slices.ContainsFunc(built.Bundle.Spec.Sources, func(s bundle.Source) bool { return s.AtTarget() }) {
		reason, known = takesValues, true
	}
	if !built.Bundle.HasManifests() {
		return ""
	}
	if len(left) > 0 {
		if !known || !strings.Contains(left[0].Reason, reason) {
			t.Errorf("kustomize and Flux can't have it: %s", left[0].Reason)
		}
		return left[0].Reason
	}
	if known {
		t.Error("kustomize can have it after all")
	}
	store := memory.New()
	desc, err := built.Pack(t.Context(), store, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := bundle.Open(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range artifact.AllFiles() {
		write(t, filepath.Join(dir, "base", f.Path), f.Data)
	}
	tool := hack.BuildForTest(t, "tools/kustomize")
	got, want := map[string]map[string]any{}, map[string]map[string]any{}
	for _, overlay := range overlays(t, files[0].Data, place) {
		write(t, filepath.Join(dir, "kustomization.yaml"), overlay)
		var said bytes.Buffer
		cmd := exec.Command(tool, "build", dir)
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("kustomize: %v\n%s", err, said.Bytes())
		}
		before := len(got)
		some := map[string]map[string]any{}
		add(t, some, "kustomize", out)
		maps.DeleteFunc(some, func(_ string, r map[string]any) bool { // made for hooks, before all else
			metadata, _ := r["metadata"].(map[string]any)
			annotations, _ := metadata["annotations"].(map[string]any)
			return annotations[bundle.HookAnnotation] == "namespace"
		})
		maps.Copy(got, some)
		if len(some) == 0 || len(got) != before+len(some) {
			t.Errorf("%d resources of a part of the bundle, %d of them of other parts as well", len(some), before+len(some)-len(got))
		}
	}
	for _, f := range rendered {
		if strings.HasPrefix(f.Path, bundle.ConfigDir+"/") {
			add(t, want, f.Path, f.Data)
		}
	}
	for id, resource := range want {
		if namespaced, known := render.ScopeOfKind(resource["apiVersion"].(string), resource["kind"].(string)); !known {
			withoutNulls(resource)
		} else if metadata := resource["metadata"].(map[string]any); namespaced && metadata["namespace"] == nil {
			metadata["namespace"] = "default" // as kapp has it
			if subjects, _ := resource["subjects"].([]any); resource["kind"] == "RoleBinding" {
				for _, subject := range subjects { // which kustomize puts there
					subject.(map[string]any)["namespace"] = "default"
				}
			}
		}
		withoutFlux(got[id])
		if !reflect.DeepEqual(got[id], resource) {
			t.Errorf("%s: kustomize makes\n%v\nkrtpkg\n%v", id, got[id], resource)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d resources by kustomize, %d by krtpkg", len(got), len(want))
	}
	return ""
}

// overlays returns the kustomizations that Flux makes of its Kustomizations, once its variables are put in.
func overlays(t *testing.T, files []byte, place string) (all [][]byte) {
	t.Helper()
	for _, text := range strings.Split(string(files), "\n---\n")[1:] {
		var kustomization struct {
			Spec struct {
				Patches []any
			}
		}
		text = strings.ReplaceAll(strings.ReplaceAll(text, "${repository}", place), "$$", "$")
		if err := yaml.Unmarshal([]byte(text), &kustomization); err != nil {
			t.Fatal(err)
		}
		data, err := yaml.Marshal(map[string]any{"resources": []string{"base"}, "patches": kustomization.Spec.Patches})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}

// withoutFlux takes out what tells Flux to create a hook once, or to run a Job again.
func withoutFlux(resource map[string]any) {
	metadata, _ := resource["metadata"].(map[string]any)
	if annotations, is := metadata["annotations"].(map[string]any); is {
		delete(annotations, "kustomize.toolkit.fluxcd.io/ssa")
	}
	spec, _ := resource["spec"].(map[string]any)
	template, _ := spec["template"].(map[string]any)
	pods, _ := template["metadata"].(map[string]any)
	if annotations, is := pods["annotations"].(map[string]any); is {
		if delete(annotations, bundle.HookAnnotation); len(annotations) == 0 {
			delete(pods, "annotations")
		}
	}
}

// add puts the resources of a file into a map, by what they are; rules for kapp are none.
func add(t *testing.T, to map[string]map[string]any, file string, data []byte) {
	t.Helper()
	parsed, err := manifest.Parse(file, data)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range parsed.Documents {
		for _, item := range manifest.ListItems(doc) {
			var r map[string]any
			if err := item.Decode(&r); err != nil {
				t.Fatal(err)
			}
			metadata, _ := r["metadata"].(map[string]any)
			if annotations, _ := metadata["annotations"].(map[string]any); len(annotations) == 0 {
				delete(metadata, "annotations") // kustomize drops what is empty
			}
			if r["apiVersion"] == "kapp.k14s.io/v1alpha1" {
				continue
			}
			namespace := metadata["namespace"]
			if namespace == nil {
				namespace = "default"
			}
			to[fmt.Sprint(r["apiVersion"], " ", r["kind"], " ", namespace, "/", metadata["name"])] = r
		}
	}
}

// withoutNulls takes out what is null.
func withoutNulls(in any) {
	switch in := in.(type) {
	case map[string]any:
		for key, value := range in {
			if value == nil {
				delete(in, key)
			}
			withoutNulls(value)
		}
	case []any:
		for _, value := range in {
			withoutNulls(value)
		}
	}
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
