package pkgrepo

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// helmHook is a hook of Helm among the resources of a bundle that does something when it is applied.
type helmHook struct {
	node   *yaml.Node
	events []string
}

func (h helmHook) String() string {
	return fmt.Sprintf("%s %s (%s)", manifest.GetText(h.node, "kind"), manifest.GetText(manifest.GetValue(h.node, "metadata"), "name"), strings.Join(h.events, ", "))
}

func (h helmHook) runsAt(events ...string) bool {
	return slices.ContainsFunc(h.events, func(e string) bool { return slices.Contains(events, e) })
}

// runningHooks returns the Jobs and Pods among resources that are hooks of an install or an upgrade.
func runningHooks(files []*manifest.File) (all []helmHook) {
	for r := range allResources(files) {
		annotations := manifest.GetValue(manifest.GetValue(r, "metadata"), "annotations")
		kind := manifest.GetText(r, "kind")
		if manifest.GetText(annotations, bundle.HookAnnotation) == "" || kind != "Job" && kind != "Pod" {
			continue
		}
		h := helmHook{node: r}
		for e := range strings.SplitSeq(manifest.GetText(annotations, "helm.sh/hook"), ",") {
			h.events = append(h.events, strings.ToLower(strings.TrimSpace(e)))
		}
		all = append(all, h)
	}
	return all
}

// earlyHooks returns the reason why a controller that has hooks before everything cannot apply a bundle.
func earlyHooks(files []*manifest.File) string {
	before := map[string]bool{}
	for r := range allResources(files) {
		if s := placeOf(r); s.isBefore {
			before[manifest.GetText(manifest.GetValue(r, "metadata"), "namespace")] = true
		}
	}
	for r := range allResources(files) {
		if name := manifest.GetText(manifest.GetValue(r, "metadata"), "name"); manifest.GetText(r, "kind") == "Namespace" && before[name] {
			return fmt.Sprintf("hooks run before all resources in namespace %s, which the bundle creates itself", name)
		}
	}
	return ""
}

// fluxHooks returns the reason why Flux cannot apply a bundle with hooks.
func fluxHooks(files []*manifest.File) string {
	for _, h := range runningHooks(files) {
		switch {
		case !h.runsAt("pre-install", "post-install"):
			return fmt.Sprintf("hook %s is for upgrades only, and Flux would run it at the install", h)
		case manifest.GetText(h.node, "kind") == "Pod":
			return fmt.Sprintf("hook %s is a Pod, which Flux cannot run again", h)
		case manifest.GetValue(manifest.GetValue(h.node, "spec"), "ttlSecondsAfterFinished") != nil:
			return fmt.Sprintf("hook %s deletes itself when done, so Flux would run it again and again", h)
		}
	}
	return ""
}

// hookPlace is that of a hook in the order of its bundle: before all else, or after.
type hookPlace struct {
	isHook, isBefore bool
	place            int
	release          string
}

// placeOf reads what a build has written for kapp.
func placeOf(resource *yaml.Node) hookPlace {
	annotations := manifest.GetValue(manifest.GetValue(resource, "metadata"), "annotations")
	release, _, isHook := strings.Cut(manifest.GetText(annotations, bundle.HookAnnotation), "@")
	group := manifest.GetText(annotations, changeGroup+".hook-order")
	i := strings.LastIndexByte(group, '-')
	if !isHook || i < 0 {
		return hookPlace{}
	}
	place, err := strconv.Atoi(group[i+1:])
	return hookPlace{isHook: err == nil, isBefore: strings.HasSuffix(group[:i], "-before"), place: place, release: release}
}

// fluxStage is a part of a bundle that Flux applies and waits for before it goes on.
type fluxStage struct {
	// suffix is behind the name of the bundle.
	suffix string
	// hooks are those of the stage; none in the one of all else.
	hooks []*yaml.Node
	// namespaces are those of the bundle that hooks need before all else.
	namespaces []*yaml.Node
}

// fluxStages returns the parts of a bundle in order. Each hook that runs ends one.
func fluxStages(files []*manifest.File) []fluxStage {
	var before, after []*yaml.Node
	for r := range allResources(files) {
		switch s := placeOf(r); {
		case s.isBefore:
			before = append(before, r)
		case s.isHook:
			after = append(after, r)
		}
	}
	cut := func(hooks []*yaml.Node, name string) (stages []fluxStage) {
		slices.SortStableFunc(hooks, func(a, b *yaml.Node) int {
			x, y := placeOf(a), placeOf(b)
			return cmp.Or(cmp.Compare(x.place, y.place), cmp.Compare(x.release, y.release))
		})
		var some []*yaml.Node
		for i, h := range hooks {
			some = append(some, h)
			if manifest.GetText(h, "kind") == "Job" || i == len(hooks)-1 {
				stages = append(stages, fluxStage{suffix: fmt.Sprintf("-%s-%d", name, len(stages)+1), hooks: some})
				some = nil
			}
		}
		return stages
	}
	first := cut(before, "before")
	needed := map[string]bool{}
	for _, h := range before {
		needed[manifest.GetText(manifest.GetValue(h, "metadata"), "namespace")] = true
	}
	for r := range allResources(files) {
		if manifest.GetText(r, "kind") == "Namespace" && needed[manifest.GetText(manifest.GetValue(r, "metadata"), "name")] {
			first[0].namespaces = append(first[0].namespaces, r)
		}
	}
	return slices.Concat(first, []fluxStage{{}}, cut(after, "after"))
}

// stagePatches leave of a bundle what is of the stage, and have its Jobs run once for each content of
// their release.
func (s fluxStage) stagePatches(all []fluxStage) (patches []patch, err error) {
	for _, n := range s.namespaces {
		// It is created if it is not there, and left to the Kustomization of all else, which
		// takes these annotations off again.
		own := map[string]any{bundle.HookAnnotation: "namespace", fluxApply: "IfNotPresent", fluxPrune: "disabled"}
		add := []patchOperation{{"add", "/metadata/annotations", own}}
		if there := manifest.GetValue(manifest.GetValue(n, "metadata"), "annotations"); there != nil && len(there.Content) > 0 {
			add = nil
			for _, key := range slices.Sorted(maps.Keys(own)) {
				add = append(add, patchOperation{"add", "/metadata/annotations/" + escape.Replace(key), own[key]})
			}
		}
		text, err := encodeCompact(add)
		if err != nil {
			return nil, err
		}
		patches = append(patches, patch{targetOf(n), text})
	}
	for _, other := range all {
		if len(all) == 1 || other.suffix == s.suffix {
			continue
		}
		if len(other.hooks) == 0 {
			patches = append(patches, patch{patchTarget{Annotations: "!" + bundle.HookAnnotation}, leaveOut})
		}
		for _, h := range other.hooks {
			patches = append(patches, patch{targetOf(h), leaveOut})
		}
	}
	for _, h := range s.hooks {
		if manifest.GetText(h, "kind") != "Job" {
			continue
		}
		annotations := manifest.GetValue(manifest.GetValue(h, "metadata"), "annotations")
		var add []patchOperation
		if events := manifest.GetText(annotations, "helm.sh/hook"); !strings.Contains(events, "-upgrade") {
			add = append(add, patchOperation{"add", "/metadata/annotations/" + escape.Replace(fluxApply), "IfNotPresent"})
		} else {
			// A pod template cannot be changed, so Flux deletes the Job and creates it.
			digest := map[string]any{bundle.HookAnnotation: manifest.GetText(annotations, bundle.HookAnnotation)}
			metadata := manifest.GetValue(manifest.GetValue(manifest.GetValue(h, "spec"), "template"), "metadata")
			switch there := manifest.GetValue(metadata, "annotations"); {
			case metadata == nil:
				add = append(add, patchOperation{"add", "/spec/template/metadata", map[string]any{"annotations": digest}})
			case there == nil || len(there.Content) == 0:
				add = append(add, patchOperation{"add", "/spec/template/metadata/annotations", digest})
			default:
				add = append(add, patchOperation{"add", "/spec/template/metadata/annotations/" + escape.Replace(bundle.HookAnnotation), digest[bundle.HookAnnotation]})
			}
		}
		text, err := encodeCompact(add)
		if err != nil {
			return nil, err
		}
		patches = append(patches, patch{targetOf(h), text})
	}
	return patches, nil
}

// Annotations of Flux: how a resource is applied, and whether it is deleted when it goes from the
// manifests (fluxcd.io/flux/components/kustomize/kustomizations/#controlling-the-apply-behavior-of-resources).
const (
	fluxApply = "kustomize.toolkit.fluxcd.io/ssa"
	fluxPrune = "kustomize.toolkit.fluxcd.io/prune"
)

// leaveOut is a patch that takes out what its target selects; its own name does not matter.
const leaveOut = "$patch: delete\napiVersion: v1\nkind: any\nmetadata:\n  name: any\n"

// packageHooks returns the reason why kapp-controller cannot run the hooks of a bundle.
func packageHooks(files []*manifest.File) string {
	for _, h := range runningHooks(files) {
		switch {
		case !h.runsAt("pre-install", "post-install"):
			return fmt.Sprintf("hook %s is for upgrades only, and kapp-controller would run it at the install", h)
		case manifest.GetValue(manifest.GetValue(h.node, "spec"), "ttlSecondsAfterFinished") != nil:
			return fmt.Sprintf("hook %s deletes itself when done, so kapp-controller would run it again and again", h)
		}
	}
	return ""
}

// DefaultNamespace returns where a PackageInstall of a bundle puts resources that name no namespace; "" for
// its own. The reason says why it cannot be one for all.
func DefaultNamespace(ctx context.Context, b *bundle.Content, defined render.Scopes) (namespace, reason string, err error) {
	rendered, err := renderDefaults(ctx, b)
	if err != nil {
		return "", "", err
	}
	return rendered.findNamespace(defined)
}

// findNamespace is [DefaultNamespace] of a bundle that is rendered.
func (r *renderedBundle) findNamespace(defined render.Scopes) (namespace, reason string, err error) {
	places := map[string]bool{}
	for i := range r.content.Bundle.Spec.Sources {
		if s := &r.content.Bundle.Spec.Sources[i]; s.AtTarget() && s.Helm != nil && s.Helm.Namespace != "" {
			places[s.Helm.Namespace] = true
		}
	}
	for i, f := range r.Files {
		parsed, err := r.parseFile(i)
		if err != nil {
			return "", "", err
		}
		for _, doc := range parsed.Documents {
			for _, item := range manifest.ListItems(doc) {
				if namespaced, known := defined.ScopeOf(item); manifest.GetText(manifest.GetValue(item, "metadata"), "namespace") == "" && (namespaced || !known) {
					places[r.Namespaces[f.Path]] = true
				}
			}
		}
	}
	all := slices.Sorted(maps.Keys(places))
	switch len(all) {
	case 0:
		return "", "", nil
	case 1:
		return all[0], "", nil
	}
	return "", fmt.Sprintf("resources without a namespace belong to %s and to %s, but a PackageInstall has only one",
		cmp.Or(all[0], "its own"), all[1]), nil
}
