package deploy

import (
	"strings"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"
)

// resourceClaims are the resources that the runtime is to have after an apply, with the app that has
// each. What another app claims is never deleted by the app that had it: the other one takes it
// when its turn comes, in whatever layer.
type resourceClaims struct {
	apps map[ResourceID]string
	// namespaces are those that the runtime brings.
	namespaces sets.Set[string]
}

// claimKey identifies a resource whatever the version it is written in.
func claimKey(id ResourceID) ResourceID {
	id.APIVersion = id.APIGroup()
	return id
}

func (s *session) claimResources() (*resourceClaims, error) {
	c := &resourceClaims{apps: map[ResourceID]string{}, namespaces: sets.New[string]()}
	for _, j := range s.jobs {
		resources, err := readResources(j.unit.Manifests)
		if err != nil {
			return nil, &Error{Op: "read", Bundle: j.newOutcome().Bundle, Layer: j.unit.Layer, Err: err}
		}
		for _, r := range resources {
			id := claimKey(idOf(r))
			c.apps[id] = j.newOutcome().App
			if id.Kind == "Namespace" && id.APIVersion == "" {
				c.namespaces.Insert(id.Name)
			}
			if id.Namespace == "" { // which is the default namespace, or no namespace at all
				id.Namespace = s.cluster.namespace
				c.apps[id] = j.newOutcome().App
			}
		}
	}
	return c, nil
}

// hasClaim reports whether an app claims a resource.
func (c *resourceClaims) hasClaim(id ResourceID) bool { return c != nil && c.apps[claimKey(id)] != "" }

// newNamespaces returns the namespaces that the runtime brings.
func (c *resourceClaims) newNamespaces() sets.Set[string] {
	if c == nil {
		return nil
	}
	return c.namespaces
}

// ownerOf returns the app that claims a resource on the cluster, "" if none does.
func (c *resourceClaims) ownerOf(r kappres.Resource) string {
	if c == nil {
		return ""
	}
	return c.apps[claimKey(idOf(r))]
}

// splitHandedOver separates the resources that another app claims.
func (e *engine) splitHandedOver(app string, existing []kappres.Resource) (own, handedOver []kappres.Resource) {
	for _, r := range existing {
		if owner := e.claims.ownerOf(r); owner != "" && owner != app && !r.Transient() {
			handedOver = append(handedOver, r)
			continue
		}
		own = append(own, r)
	}
	return own, handedOver
}

// deleteStrategy is how kapp is told what to do with a resource that is no longer wanted.
const (
	deleteStrategy = "kapp.k14s.io/delete-strategy"
	orphan         = "orphan"
	// helmPolicy with the value "keep" is Helm's way to say the same.
	helmPolicy = "helm.sh/resource-policy"
)

// isKept reports whether a resource says that it stays when it is no longer wanted.
func isKept(r kappres.Resource) bool {
	a := r.Annotations()
	return a[deleteStrategy] == orphan || strings.EqualFold(strings.TrimSpace(a[helmPolicy]), "keep")
}

// keepOnDelete has kapp release, not delete, what says so in Helm's way, and what isKept adds.
func keepOnDelete(existing, wanted []kappres.Resource, alsoKept func(kappres.Resource) bool) {
	stays := sets.New[string]()
	for _, r := range wanted {
		stays.Insert(kappres.NewUniqueResourceKey(r).String())
	}
	for _, r := range existing {
		if stays.Has(kappres.NewUniqueResourceKey(r).String()) || !isKept(r) && !alsoKept(r) {
			continue
		}
		u := unstructured.Unstructured{Object: r.UnstructuredObject()}
		annotations := u.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[deleteStrategy] = orphan
		u.SetAnnotations(annotations)
	}
}
