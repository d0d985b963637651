package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/metadata"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// ForeignError lists what a change would delete that is not the runtime's.
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
	return fmt.Sprintf("delete from runtime %s: resources of others would be deleted too:%s", e.Runtime, strings.Join(lines, ""))
}

// foreignFindings says of each what would be lost.
func foreignFindings(foreign []Foreign, allowed bool) []preflight.Finding {
	var findings []preflight.Finding
	for _, f := range foreign {
		one := preflight.Finding{Severity: preflight.SeverityError, Check: preflight.CheckForeign, Resource: f.ResourceID.String(),
			Message: fmt.Sprintf("is not part of the runtime, but would be deleted with %s %s", f.With.Kind, f.With.Name)}
		if allowed {
			one.Severity = preflight.SeverityWarning
		}
		findings = append(findings, one)
	}
	return findings
}

// plannedDeletions are what a plan deletes, and what goes with it.
type plannedDeletions struct {
	resources  sets.Set[ResourceID] // by claimKey
	namespaces sets.Set[string]
	kinds      map[schema.GroupResource]ResourceID // with their definitions
	// replaced are those that are created again.
	replaced sets.Set[ResourceID] // by claimKey
	// isClaimed reports whether the runtime is to have a resource: if it goes with what is replaced,
	// it is created again, too.
	isClaimed func(ResourceID) bool
}

func deletionsOf(plan *Plan) plannedDeletions {
	d := plannedDeletions{resources: sets.New[ResourceID](), replaced: sets.New[ResourceID](), namespaces: sets.New[string](), kinds: map[schema.GroupResource]ResourceID{}}
	for _, b := range plan.Bundles {
		for _, c := range b.Changes {
			if c.Op != OpDelete && !c.Replace {
				continue
			}
			d.resources.Insert(claimKey(c.ResourceID))
			if c.Replace {
				d.replaced.Insert(claimKey(c.ResourceID))
			}
			switch {
			case c.Kind == "Namespace" && c.APIGroup() == "":
				d.namespaces.Insert(c.Name)
			case c.Kind == "CustomResourceDefinition":
				plural, group, _ := strings.Cut(c.Name, ".")
				d.kinds[schema.GroupResource{Group: group, Resource: plural}] = c.ResourceID
			}
		}
	}
	return d
}

// findForeign returns what is in namespaces that a plan deletes, and what is of kinds whose
// definitions it deletes, unless the plan deletes it itself or it was made from something else.
//
// Who is not allowed to list a kind cannot know: that is an error unless tolerant.
func (s *session) findForeign(ctx context.Context, plan *Plan, tolerant bool) ([]Foreign, error) {
	deleted := deletionsOf(plan)
	deleted.isClaimed = func(id ResourceID) bool { return s.engine.claims.hasClaim(id) }
	if len(deleted.namespaces) == 0 && len(deleted.kinds) == 0 {
		return nil, nil
	}
	client, err := metadata.NewForConfig(s.cluster.config)
	if err != nil {
		return nil, err
	}
	served, err := s.servedKinds(ctx)
	if err != nil {
		return nil, err
	}
	var (
		mu  sync.Mutex
		all []Foreign
	)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for gvk, r := range servedOnce(served) {
		gvr := schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Name}
		_, ofKind := deleted.kinds[gvr.GroupResource()]
		if !slices.Contains(r.Verbs, "list") || isTransientKind(gvr) || !ofKind && (!r.Namespaced || len(deleted.namespaces) == 0) {
			continue
		}
		group.Go(func() error {
			found, err := deleted.foreignOfKind(ctx, client, gvk, gvr)
			if apierrors.IsForbidden(err) && tolerant {
				err = nil
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, found...)
			return err
		})
	}
	err = group.Wait()
	slices.SortFunc(all, func(a, b Foreign) int { return compareIDs(a.ResourceID, b.ResourceID) })
	// One resource may be served in several groups.
	all = slices.CompactFunc(all, func(a, b Foreign) bool { return a.IsSame(b.ResourceID) })
	return all, err
}

// foreignOfKind lists a kind: everywhere if its definition is deleted, else in the namespaces
// that are.
func (d plannedDeletions) foreignOfKind(ctx context.Context, client metadata.Interface, gvk schema.GroupVersionKind, gvr schema.GroupVersionResource) ([]Foreign, error) {
	var (
		items []metav1.PartialObjectMetadata
		err   error
	)
	definition, ofKind := d.kinds[gvr.GroupResource()]
	if ofKind {
		items, err = listMetadata(ctx, client.Resource(gvr), metav1.ListOptions{})
	} else {
		items, err = listNamespaces(ctx, client.Resource(gvr), d.namespaces)
	}
	if err != nil {
		return nil, fmt.Errorf("look for resources that would also be deleted, %s: %w", gvr.GroupResource(), err)
	}
	var found []Foreign
	for _, item := range items {
		id := ResourceID{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: item.Namespace, Name: item.Name}
		if d.resources.Has(claimKey(id)) || len(item.OwnerReferences) > 0 || inEveryNamespace(gvk, item.Name) {
			continue
		}
		f := Foreign{ResourceID: id, With: definition}
		if d.namespaces.Has(item.Namespace) {
			f.With = ResourceID{APIVersion: "v1", Kind: "Namespace", Name: item.Namespace}
		}
		if !d.replaced.Has(claimKey(f.With)) || !d.isClaimed(id) {
			found = append(found, f)
		}
	}
	return found, nil
}

// checkNothingLeft looks once, at every kind, for resources that belong to apps that are
// deleted. What it is not allowed to list it passes over.
func (s *session) checkNothingLeft(ctx context.Context, apps []Installed) error {
	var values []string
	for _, a := range apps {
		values = append(values, a.label)
	}
	client, err := metadata.NewForConfig(s.cluster.config)
	if err != nil {
		return err
	}
	s.engine.served.forgetKinds() // kinds may have gone
	served, err := s.servedKinds(ctx)
	if err != nil {
		return err
	}
	var (
		mu   sync.Mutex
		left []string
	)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	options := metav1.ListOptions{LabelSelector: marks.App + " in (" + strings.Join(values, ",") + ")"}
	for gvk, r := range servedOnce(served) {
		gvr := schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Name}
		if !slices.Contains(r.Verbs, "list") || isTransientKind(gvr) {
			continue
		}
		group.Go(func() error {
			items, err := listMetadata(ctx, client.Resource(gvr), options)
			if err != nil {
				return ctx.Err() // a kind whose server is down keeps nothing of ours from going
			}
			mu.Lock()
			defer mu.Unlock()
			for _, item := range items {
				// Without kapp's mark it was made from a resource by a controller.
				if item.Annotations[marks.Identity] != "" && !marks.IsCopy(item.Annotations, item.Namespace, item.Name) && item.DeletionTimestamp == nil {
					left = append(left, "\n  "+ResourceID{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: item.Namespace, Name: item.Name}.String())
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil || len(left) == 0 {
		return err
	}
	slices.Sort(left)
	return fmt.Errorf("delete %s: resources left:%s", s.runtime.Name, strings.Join(left, ""))
}

// servedOnce leaves one version of each kind.
func servedOnce(served map[schema.GroupVersionKind]metav1.APIResource) map[schema.GroupVersionKind]metav1.APIResource {
	once, seen := map[schema.GroupVersionKind]metav1.APIResource{}, sets.New[schema.GroupKind]()
	for gvk, r := range served {
		if !seen.Has(gvk.GroupKind()) {
			seen.Insert(gvk.GroupKind())
			once[gvk] = r
		}
	}
	return once
}

// isTransientKind are kinds that come and go by themselves, and hold nothing of anyone's.
func isTransientKind(gvr schema.GroupVersionResource) bool {
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
