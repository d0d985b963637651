package deploy

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

// hintAfter is after which time of waiting it is looked for what would never end by itself.
const hintAfter = 3 * time.Second

// hintFor returns what keeps an object from ever becoming ready, if that is known, and what helps.
func (c *Cluster) hintFor(ctx context.Context, object *unstructured.Unstructured) string {
	is := func(fields ...string) bool {
		value, _, _ := unstructured.NestedBool(object.Object, fields...)
		return value
	}
	text := func(fields ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, fields...)
		return value
	}
	name, namespace := object.GetName(), object.GetNamespace()
	switch object.GetKind() {
	case "Deployment":
		if is("spec", "paused") {
			return "is paused (spec.paused): kubectl -n " + namespace + " rollout resume deployment/" + name
		}
	case "Job":
		if is("spec", "suspend") {
			return "is suspended (spec.suspend) until something resumes it; the annotation kapp.k14s.io/disable-wait skips the wait"
		}
	case "Service":
		ingress, _, _ := unstructured.NestedSlice(object.Object, "status", "loadBalancer", "ingress")
		if text("spec", "type") == "LoadBalancer" && len(ingress) == 0 {
			return "has no address: is there a load balancer provider on this cluster? the annotation kapp.k14s.io/disable-wait skips the wait"
		}
	case "PersistentVolumeClaim":
		if text("status", "phase") == string(corev1.ClaimPending) && text("spec", "storageClassName") == "" {
			return "names no storage class, and the cluster had no default one"
		}
	case "StatefulSet", "DaemonSet":
		if text("spec", "updateStrategy", "type") == "OnDelete" {
			return "updates its pods only when somebody deletes them (spec.updateStrategy: OnDelete)"
		}
	}
	if object.GetDeletionTimestamp() != nil && len(object.GetFinalizers()) > 0 {
		return "is being deleted and waits for its finalizers: " + strings.Join(object.GetFinalizers(), ", ")
	}
	return ""
}

// liveObject finds what kapp describes as "kind/name (apiVersion) namespace: NAMESPACE"; nil if it
// cannot be read.
func (s *session) liveObject(ctx context.Context, resource string) *unstructured.Unstructured {
	what, namespace, _ := strings.Cut(strings.TrimSuffix(resource, " cluster"), " namespace: ")
	kind, name, _ := strings.Cut(strings.Fields(what + " ")[0], "/")
	served, err := s.servedKinds(ctx)
	if err != nil {
		return nil
	}
	objects, err := dynamic.NewForConfig(s.cluster.config)
	if err != nil {
		return nil
	}
	for gvk, r := range served {
		if strings.ToLower(gvk.Kind) != kind || !strings.Contains(what, "("+gvk.GroupVersion().String()+")") {
			continue
		}
		object, err := objects.Resource(gvk.GroupVersion().WithResource(r.Name)).Namespace(namespace).Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return object
	}
	return nil
}

// hint returns what is known of a resource that is waited for.
func (s *session) hint(ctx context.Context, resource string) string {
	ctx, cancel := context.WithTimeout(ctx, symptomTime)
	defer cancel()
	object := s.liveObject(ctx, resource)
	if object == nil {
		return ""
	}
	return s.cluster.hintFor(ctx, object)
}
