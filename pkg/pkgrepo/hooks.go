package pkgrepo

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
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
	return fmt.Sprintf("%s %s (%s)", manifest.Text(h.node, "kind"), manifest.Text(manifest.Get(h.node, "metadata"), "name"), strings.Join(h.events, ", "))
}

func (h helmHook) at(events ...string) bool {
	return slices.ContainsFunc(h.events, func(e string) bool { return slices.Contains(events, e) })
}

// runningHooks are the Jobs and Pods among resources that are hooks of an install or an upgrade.
func runningHooks(files []*manifest.File) (all []helmHook) {
	for r := range resources(files) {
		annotations := manifest.Get(manifest.Get(r, "metadata"), "annotations")
		kind := manifest.Text(r, "kind")
		if manifest.Text(annotations, bundle.HookAnnotation) == "" || kind != "Job" && kind != "Pod" {
			continue
		}
		h := helmHook{node: r}
		for e := range strings.SplitSeq(manifest.Text(annotations, "helm.sh/hook"), ",") {
			h.events = append(h.events, strings.ToLower(strings.TrimSpace(e)))
		}
		all = append(all, h)
	}
	return all
}

// fluxHooks gives the reason why Flux can't apply a bundle with hooks.
func fluxHooks(files []*manifest.File) string {
	if hooks := runningHooks(files); len(hooks) > 0 {
		return fmt.Sprintf("hook %s runs before or after the rest, at each upgrade, and Flux applies all at once", hooks[0])
	}
	return ""
}

// argoHooks gives the reason why Argo CD can't apply a bundle with hooks: it runs those of Helm at each
// sync (argo-cd.readthedocs.io/en/stable/user-guide/helm/#helm-hooks).
func argoHooks(files []*manifest.File) string {
	for _, h := range runningHooks(files) {
		if h.at("pre-install", "post-install") != h.at("pre-upgrade", "post-upgrade") {
			return fmt.Sprintf("hook %s is not for installs and upgrades alike, and Argo CD runs it at each sync", h)
		}
	}
	return ""
}

// packageHooks gives the reason why kapp-controller can't run the hooks of a bundle.
func packageHooks(files []*manifest.File) string {
	for _, h := range runningHooks(files) {
		switch {
		case !h.at("pre-install", "post-install"):
			return fmt.Sprintf("hook %s is for upgrades only, and kapp-controller would run it at the install", h)
		case manifest.Get(manifest.Get(h.node, "spec"), "ttlSecondsAfterFinished") != nil:
			return fmt.Sprintf("hook %s deletes itself when it is done, and kapp-controller would run it again and again", h)
		}
	}
	return ""
}

// DefaultNamespace is where a PackageInstall of a bundle puts resources that name no namespace; "" for
// its own. The reason says why it can't be one for all.
func DefaultNamespace(b *bundle.Content, defined render.Scopes) (namespace, reason string, err error) {
	m, err := render.Defaults(b)
	if err != nil {
		return "", "", err
	}
	places := map[string]bool{}
	for i := range b.Bundle.Spec.Sources {
		if s := &b.Bundle.Spec.Sources[i]; s.AtTarget() && s.Helm != nil && s.Helm.Namespace != "" {
			places[s.Helm.Namespace] = true
		}
	}
	for _, f := range m.Files {
		parsed, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			return "", "", err
		}
		for _, doc := range parsed.Documents {
			for _, r := range manifest.Items(doc) {
				if namespaced, known := defined.Of(r); manifest.Text(manifest.Get(r, "metadata"), "namespace") == "" && (namespaced || !known) {
					places[m.Namespaces[f.Path]] = true
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
	return "", fmt.Sprintf("resources that name no namespace belong in %s and in %s, and a PackageInstall has one for all",
		cmp.Or(all[0], "its own"), all[1]), nil
}
