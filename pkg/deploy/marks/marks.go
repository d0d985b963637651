// Package marks knows the labels and annotations by which krtpkg, kapp and other tools recognize the objects that they
// manage. Call [ManagerOf] to find out who manages an object, and [IsCopy] before a mark is believed.
package marks

import (
	"fmt"
	"slices"
	"strings"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FieldManager is the name under which the API server records who has set a field.
const FieldManager = "krtpkg"

// The marks of kapp and krtpkg.
const (
	// App is kapp's label with the app that an object belongs to.
	App = "kapp.k14s.io/app"
	// IsApp is kapp's label on the ConfigMap of an app.
	IsApp = "kapp.k14s.io/is-app"
	// Association is kapp's label with the object that a pod belongs to.
	Association = "kapp.k14s.io/association"
	// Identity is kapp's annotation on what it applies: "v1;NAMESPACE/GROUP/KIND/NAME;APIVERSION".
	Identity = "kapp.k14s.io/identity"
	// Original is kapp's annotation with the manifest that was applied, OriginalMD5 the one with the checksum of the
	// difference to the object, DisableOriginal the one that keeps kapp from writing them.
	Original        = "kapp.k14s.io/original"
	OriginalMD5     = "kapp.k14s.io/original-diff-md5"
	DisableOriginal = "kapp.k14s.io/disable-original"
	// Applied is krtpkg's annotation with the outline of the manifest that was applied, where Original has no room, or
	// would show the values of a Secret.
	Applied = "krtpkg.dev/applied"
	// Runtime and Bundle are krtpkg's labels on what it keeps of a runtime; a bundle that was applied without a runtime
	// has no Bundle.
	Runtime = "krtpkg.dev/runtime"
	Bundle  = "krtpkg.dev/bundle"
)

// The marks of other tools.
const (
	FluxKustomization = "kustomize.toolkit.fluxcd.io" // a prefix of labels
	FluxRelease       = "helm.toolkit.fluxcd.io"      // a prefix of labels
	ArgoTracking      = "argocd.argoproj.io/tracking-id"
	HelmRelease       = "meta.helm.sh/release-name"
	HelmNamespace     = "meta.helm.sh/release-namespace"
	ManagedBy         = "app.kubernetes.io/managed-by"
)

// IsCopy reports whether a user or a controller has copied an object from another one with its labels and annotations:
// kapp's mark on it is that of the other one.
func IsCopy(annotations map[string]string, namespace, name string) bool {
	fields := strings.Split(annotations[Identity], ";")
	if len(fields) != 3 {
		return false
	}
	key := strings.Split(fields[1], "/")
	return len(key) == 4 && (key[0] != namespace || key[3] != name)
}

// ManagerOf returns a description of what manages a resource that belongs to no kapp app; "" if nothing is known to.
func ManagerOf(r kappres.Resource) string {
	labels, annotations := r.Labels(), r.Annotations()
	if name := labels[FluxKustomization+"/name"]; name != "" {
		return fmt.Sprintf("Kustomization %s/%s of Flux", labels[FluxKustomization+"/namespace"], name)
	}
	if name := labels[FluxRelease+"/name"]; name != "" {
		return fmt.Sprintf("HelmRelease %s/%s of Flux", labels[FluxRelease+"/namespace"], name)
	}
	if id := annotations[ArgoTracking]; id != "" {
		application, _, _ := strings.Cut(id, ":")
		return fmt.Sprintf("application %s of Argo CD", application)
	}
	if release := annotations[HelmRelease]; release != "" && labels[ManagedBy] == "Helm" {
		return fmt.Sprintf("release %s/%s of Helm", annotations[HelmNamespace], release)
	}
	if i := slices.IndexFunc(r.OwnerRefs(), IsController); i >= 0 {
		controller := r.OwnerRefs()[i]
		return fmt.Sprintf("%s %s (%s), which controls it", controller.Kind, controller.Name, controller.APIVersion)
	}
	return ""
}

// IsController reports whether an owner controls the object, which is deleted with it.
func IsController(o metav1.OwnerReference) bool { return o.Controller != nil && *o.Controller }

// Originals lists what was applied, without the copies that others have made of it: to kapp these are resources of the
// app that are no longer wanted, and it deletes them.
type Originals struct{ kappres.Resources }

// All lists resources, as kapp does to see what an app has.
func (o Originals) All(types []kappres.ResourceType, opts kappres.AllOpts) ([]kappres.Resource, error) {
	all, err := o.Resources.All(types, opts)
	return slices.DeleteFunc(all, func(r kappres.Resource) bool {
		return IsCopy(r.Annotations(), r.Namespace(), r.Name())
	}), err
}
