package preflight

import (
	"context"
	"fmt"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// defaultMarks are the annotations that make a class the default of its kind.
var defaultMarks = map[string]string{
	"StorageClass": "storageclass.kubernetes.io/is-default-class",
	"IngressClass": "ingressclass.kubernetes.io/is-default-class",
}

// isDefault reports whether a resource is the default class of its kind.
func isDefault(r kappres.Resource) bool {
	mark, is := defaultMarks[r.Kind()]
	return is && r.Annotations()[mark] == "true"
}

// defaultClass is a default class of the runtime.
type defaultClass struct {
	bundle string
	id     resources.ResourceID
}

// checkDefaults refuses two default classes of a kind in a runtime: which one holds would depend
// on which is newer. One that the cluster has besides may be what the runtime is to replace.
func (in *inspection) checkDefaults(ctx context.Context) ([]Finding, error) {
	first, found := firstDefaults(in.bundles)
	if len(first) == 0 {
		return found, nil
	}
	there, err := in.cluster.listDefaults(ctx)
	if err != nil {
		return nil, err
	}
	for _, kind := range []string{"StorageClass", "IngressClass"} {
		ours, is := first[kind]
		for _, name := range there[kind] {
			if is && name != ours.id.Name {
				found = append(found, Finding{Severity: SeverityWarning, Bundle: ours.bundle, Resource: ours.id.String(), Message: fmt.Sprintf(
					"is a default class, and so is %s %s of the cluster", kind, name)})
			}
		}
	}
	return found, nil
}

// firstDefaults returns the first default class of each kind, and findings of the others.
func firstDefaults(bundles []inspectedBundle) (first map[string]defaultClass, found []Finding) {
	first = map[string]defaultClass{}
	for _, b := range bundles {
		for _, r := range b.defaults {
			if other, there := first[r.Kind]; there && other.id.Name != r.Name {
				found = append(found, Finding{Severity: SeverityError, Bundle: b.Name, Resource: r.String(), Message: fmt.Sprintf(
					"is a default class, and so is %s of bundle %s", other.id, other.bundle)})
				continue
			}
			first[r.Kind] = defaultClass{bundle: b.Name, id: r}
		}
	}
	return first, found
}

// listDefaults returns the names of the cluster's default classes, by kind; none of those that
// this user may not list.
func (c Cluster) listDefaults(ctx context.Context) (map[string][]string, error) {
	all := map[string][]string{}
	add := func(kind string, o metav1.Object) {
		if o.GetAnnotations()[defaultMarks[kind]] == "true" {
			all[kind] = append(all[kind], o.GetName())
		}
	}
	storage, err := c.Client.StorageV1().StorageClasses().List(apiserver.WithoutLogs(ctx), metav1.ListOptions{})
	if err != nil && !apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("list the storage classes: %w", err)
	}
	if err == nil {
		for i := range storage.Items {
			add("StorageClass", &storage.Items[i])
		}
	}
	ingress, err := c.Client.NetworkingV1().IngressClasses().List(apiserver.WithoutLogs(ctx), metav1.ListOptions{})
	if err != nil && !apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("list the ingress classes: %w", err)
	}
	if err == nil {
		for i := range ingress.Items {
			add("IngressClass", &ingress.Items[i])
		}
	}
	return all, nil
}
