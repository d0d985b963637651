package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/metadata"
)

// kappLabel says which kapp app a resource belongs to.
const kappLabel = "kapp.k14s.io/app"

// ForeignError says what a delete would take with it that is not the runtime's.
type ForeignError struct {
	Runtime string
	Foreign []Foreign
}

// Foreign is a resource that is not the runtime's, but would go with something that is.
type Foreign struct {
	ResourceID
	// With is the namespace or the CustomResourceDefinition that it goes with.
	With ResourceID
}

func (e *ForeignError) Error() string {
	var lines []string
	for _, f := range e.Foreign[:min(len(e.Foreign), 20)] {
		lines = append(lines, fmt.Sprintf("\n  %s, with %s %s", f.ResourceID, f.With.Kind, f.With.Name))
	}
	if more := len(e.Foreign) - 20; more > 0 {
		lines = append(lines, fmt.Sprintf("\n  and %d more", more))
	}
	return fmt.Sprintf("to delete %s would delete what is not of it:%s", e.Runtime, strings.Join(lines, ""))
}

// foreign finds what is in namespaces that would be deleted, and what is of kinds whose
// definition would be, without being of the runtime or made from something that is.
func (s *session) foreign(ctx context.Context, plan *Plan) ([]Foreign, error) {
	ours, err := s.labels(ctx)
	if err != nil {
		return nil, err
	}
	client, err := metadata.NewForConfig(s.cluster.config)
	if err != nil {
		return nil, err
	}
	served, err := s.servedKinds(ctx)
	if err != nil {
		return nil, err
	}
	namespaces, kinds := sets.New[string](), map[schema.GroupResource]ResourceID{}
	for _, b := range plan.Bundles {
		for _, r := range b.resources {
			switch {
			case r.Kind == "Namespace" && r.group() == "":
				namespaces.Insert(r.Name)
			case r.Kind == "CustomResourceDefinition":
				plural, group, _ := strings.Cut(r.Name, ".")
				kinds[schema.GroupResource{Group: group, Resource: plural}] = r
			}
		}
	}
	if len(namespaces) == 0 && len(kinds) == 0 {
		return nil, nil
	}
	found := make(chan []Foreign)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	var all []Foreign
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for some := range found {
			all = append(all, some...)
		}
	}()
	for gvk, r := range served {
		gvr := schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Name}
		crd, ofKind := kinds[gvr.GroupResource()]
		if !slices.Contains(r.Verbs, "list") || passing(gvr) || !ofKind && (!r.Namespaced || len(namespaces) == 0) {
			continue
		}
		group.Go(func() error {
			list, err := client.Resource(gvr).List(quiet(ctx), metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("look for what would be deleted along, %s: %w", gvr.GroupResource(), err)
			}
			var some []Foreign
			for _, item := range list.Items {
				if ours.Has(item.Labels[kappLabel]) || len(item.OwnerReferences) > 0 || inEveryNamespace(gvk, item.Name) {
					continue
				}
				f := Foreign{ResourceID: ResourceID{gvk.GroupVersion().String(), gvk.Kind, item.Namespace, item.Name}, With: crd}
				if namespaces.Has(item.Namespace) {
					f.With = ResourceID{APIVersion: "v1", Kind: "Namespace", Name: item.Namespace}
				} else if !ofKind {
					continue
				}
				some = append(some, f)
			}
			found <- some
			return nil
		})
	}
	err = group.Wait()
	close(found)
	<-collected
	slices.SortFunc(all, func(a, b Foreign) int { return compareIDs(a.ResourceID, b.ResourceID) })
	// One resource may be served in several versions, and groups.
	all = slices.CompactFunc(all, func(a, b Foreign) bool { return a.sameAs(b.ResourceID) })
	return all, err
}

// labels are those that kapp gives the resources of the runtime.
func (s *session) labels(ctx context.Context) (sets.Set[string], error) {
	ours := sets.New[string]()
	for _, i := range s.leaving {
		cm, err := s.cluster.configMaps().Get(quiet(ctx), i.configMap, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read kapp's record of %s: %w", i.App, err)
		}
		data, err := kapp.NewAppMetaFromData(cm.Data)
		if err != nil {
			return nil, fmt.Errorf("read kapp's record of %s: %w", i.App, err)
		}
		ours.Insert(data.LabelValue)
	}
	return ours, nil
}

// passing are kinds that come and go by themselves, and hold nothing of anybody's.
func passing(gvr schema.GroupVersionResource) bool {
	switch gvr.Resource {
	case "events", "leases", "endpoints", "endpointslices", "pods", "replicasets", "controllerrevisions", "componentstatuses":
		return true
	}
	return gvr.Group == "metrics.k8s.io"
}

// inEveryNamespace tells of what Kubernetes puts into each namespace.
func inEveryNamespace(gvk schema.GroupVersionKind, name string) bool {
	return gvk.Group == "" && (gvk.Kind == "ConfigMap" && name == "kube-root-ca.crt" || gvk.Kind == "ServiceAccount" && name == "default")
}
