package deploy

import (
	"slices"
	"strings"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
)

// annotationIdentity is kapp's mark on what it applies: "v1;NAMESPACE/GROUP/KIND/NAME;APIVERSION".
const annotationIdentity = "kapp.k14s.io/identity"

// isCopy reports whether an object was copied from another one with its labels and annotations, by
// a user or a controller: kapp's mark on it is that of the other one.
func isCopy(annotations map[string]string, namespace, name string) bool {
	fields := strings.Split(annotations[annotationIdentity], ";")
	if len(fields) != 3 {
		return false
	}
	key := strings.Split(fields[1], "/")
	return len(key) == 4 && (key[0] != namespace || key[3] != name)
}

// originalResources finds what was applied, without the copies that others have made of it: to kapp these
// are resources of the app that are no longer wanted, and it deletes them.
type originalResources struct{ kappres.Resources }

// All lists resources, as kapp does to see which an app has.
func (o originalResources) All(types []kappres.ResourceType, opts kappres.AllOpts) ([]kappres.Resource, error) {
	all, err := o.Resources.All(types, opts)
	return slices.DeleteFunc(all, func(r kappres.Resource) bool {
		return isCopy(r.Annotations(), r.Namespace(), r.Name())
	}), err
}
