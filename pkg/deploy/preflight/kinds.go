package preflight

import (
	"cmp"
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"

	"krtpkg.dev/krtpkg/pkg/resources"
)

// lifecycle is what Kubernetes' own types know of their end.
type (
	deprecated interface{ APILifecycleDeprecated() (major, minor int) }
	removed    interface{ APILifecycleRemoved() (major, minor int) }
	replaced   interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}
)

// checkAPI finds kinds that neither the cluster serves nor an earlier bundle defines, and those that are deprecated.
func (in *inspection) checkAPI(context.Context) ([]Finding, error) {
	var found []Finding
	brought := map[schema.GroupVersionKind]string{}
	groups := map[schema.GroupVersion]bool{}
	for i, b := range in.bundles {
		for _, d := range b.defined {
			for _, v := range d.Versions {
				brought[d.WithVersion(v)] = b.Name
			}
		}
		for gv := range b.aggregate {
			groups[gv] = true
		}
		said := map[schema.GroupVersionKind]bool{}
		for _, r := range b.resources {
			gvk := schema.FromAPIVersionAndKind(r.APIVersion, r.Kind)
			if said[gvk] {
				continue
			}
			_, served := in.cluster.Served[gvk]
			served = served || brought[gvk] != "" || groups[gvk.GroupVersion()]
			if f, is := judgeKind(gvk, served); is {
				f.Bundle, f.Resource = b.Name, r.String()
				if later := definedLater(in.bundles[i+1:], gvk.GroupKind()); later != "" && !served {
					f.Message += fmt.Sprintf("; bundle %s defines it, but later: require it", later)
				}
				found, said[gvk] = append(found, f), true
			}
		}
	}
	return found, nil
}

// definedLater returns the first of the later bundles that defines a kind, "" for none.
func definedLater(later []inspectedBundle, kind schema.GroupKind) string {
	for _, b := range later {
		for _, d := range b.defined {
			if d.GroupKind == kind {
				return b.Name
			}
		}
	}
	return ""
}

// judgeKind returns what is wrong with a kind, by whether it is served and what its type knows.
func judgeKind(gvk schema.GroupVersionKind, served bool) (Finding, bool) {
	var hint string
	typed, err := scheme.Scheme.New(gvk)
	if err == nil {
		if r, is := typed.(replaced); is && r.APILifecycleReplacement().Kind != "" {
			hint = "; use " + r.APILifecycleReplacement().GroupVersion().String()
		}
	}
	if !served {
		if r, is := typed.(removed); err == nil && is {
			major, minor := r.APILifecycleRemoved()
			return Finding{Severity: SeverityError, fixed: true, Message: fmt.Sprintf("%s %s was removed in Kubernetes %d.%d%s", gvk.GroupVersion(), gvk.Kind, major, minor, hint)}, true
		}
		return Finding{Severity: SeverityError, Message: fmt.Sprintf("the cluster does not serve %s %s, and no earlier bundle defines it%s", gvk.GroupVersion(), gvk.Kind, hint)}, true
	}
	if d, is := typed.(deprecated); err == nil && is {
		major, minor := d.APILifecycleDeprecated()
		text := fmt.Sprintf("%s %s is deprecated since Kubernetes %d.%d", gvk.GroupVersion(), gvk.Kind, major, minor)
		if r, is := typed.(removed); is {
			major, minor := r.APILifecycleRemoved()
			text += fmt.Sprintf(" and removed in %d.%d", major, minor)
		}
		// Versions that still are the newest are generated with dates, too.
		if hint != "" {
			return Finding{Severity: SeverityWarning, Message: text + hint}, true
		}
	}
	return Finding{}, false
}

// checkTwice finds resources that are in two bundles, each of which would undo what the other does.
func (in *inspection) checkTwice(context.Context) ([]Finding, error) {
	var found []Finding
	owners := map[resources.ResourceID]string{}
	kinds := in.knownKinds()
	for _, b := range in.bundles {
		for _, r := range b.resources {
			key := r
			key.APIVersion = r.APIGroup()
			// What is in no namespace is one thing, whatever namespace is written there.
			if kind, known := kinds[schema.GroupKind{Group: r.APIGroup(), Kind: r.Kind}]; known && !kind.Namespaced {
				key.Namespace = ""
			}
			if owner, twice := owners[key]; twice && owner != b.Name {
				found = append(found, Finding{Severity: SeverityError, Bundle: b.Name, Resource: r.String(), Message: "bundle " + owner + " has it, too"})
			}
			owners[key] = cmp.Or(owners[key], b.Name)
		}
	}
	return found, nil
}

// knownKinds returns the kinds that are served, or brought by the runtime.
func (in *inspection) knownKinds() map[schema.GroupKind]resources.Definition {
	all := map[schema.GroupKind]resources.Definition{}
	for gvk, r := range in.cluster.Served {
		all[gvk.GroupKind()] = resources.Definition{GroupKind: gvk.GroupKind(), Plural: r.Name, Namespaced: r.Namespaced}
	}
	for _, b := range in.bundles {
		for _, d := range b.defined {
			all[d.GroupKind] = d
		}
	}
	return all
}
