package clustertest

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
)

// Object is one of a cluster.
type Object struct {
	Resource              schema.GroupVersionResource
	Kind, Namespace, Name string
}

func (o Object) String() string { return fmt.Sprintf("%s %s/%s", o.Kind, o.Namespace, o.Name) }

// ListObjects returns the metadata of all objects of a cluster but those of kinds to leave out, each in one version of its
// API. What is in them would be most of the work: a cluster has megabytes of definitions.
func ListObjects(ctx context.Context, kinds discovery.DiscoveryInterface, objects metadata.Interface, leaveOut func(group string, r metav1.APIResource) bool) (map[Object]metav1.PartialObjectMetadata, error) {
	lists, err := kinds.ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	found := map[Object]metav1.PartialObjectMetadata{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") || leaveOut(gv.Group, r) {
				continue
			}
			if err := listKind(ctx, objects, gv.WithResource(r.Name), r.Kind, found); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// listKind adds the objects of a kind to those that were found.
func listKind(ctx context.Context, objects metadata.Interface, resource schema.GroupVersionResource, kind string, found map[Object]metav1.PartialObjectMetadata) error {
	some, err := objects.Resource(resource).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil // its definition has just gone
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", resource.Resource, err)
	}
	for _, m := range some.Items {
		found[Object{resource, kind, m.Namespace, m.Name}] = m
	}
	return nil
}
