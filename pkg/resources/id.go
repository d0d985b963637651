package resources

import (
	"fmt"
	"strings"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
)

// ResourceID says which resource of a cluster is meant.
type ResourceID struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

// IDOf returns the ID of a resource.
func IDOf(r kappres.Resource) ResourceID {
	return ResourceID{APIVersion: r.APIVersion(), Kind: r.Kind(), Namespace: r.Namespace(), Name: r.Name()}
}

// String is like "Deployment web (apps/v1) in namespace shop".
func (r ResourceID) String() string {
	text := fmt.Sprintf("%s %s (%s)", r.Kind, r.Name, r.APIVersion)
	if r.Namespace != "" {
		text += " in namespace " + r.Namespace
	}
	return text
}

// APIGroup returns the API group, "" for the core one.
func (r ResourceID) APIGroup() string {
	group, _, found := strings.Cut(r.APIVersion, "/")
	if !found {
		return ""
	}
	return group
}

// IsSame reports whether both are the same resource, in whichever version of its API they were written.
func (r ResourceID) IsSame(o ResourceID) bool {
	return r.APIGroup() == o.APIGroup() && r.Kind == o.Kind && r.Namespace == o.Namespace && r.Name == o.Name
}
