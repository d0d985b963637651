package deploy

import (
	"fmt"
	"slices"
	"strings"

	"carvel.dev/kapp/pkg/kapp/clusterapply"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The marks of other tools on what they manage.
const (
	fluxKustomization = "kustomize.toolkit.fluxcd.io"
	fluxRelease       = "helm.toolkit.fluxcd.io"
	argoTracking      = "argocd.argoproj.io/tracking-id"
)

// takenOver refuses to take what another tool or a controller manages, since two would change it
// then.
func (e *engine) takenOver(steps []*clusterapply.ClusterChange) error {
	if e.takeOver {
		return nil
	}
	var owned []string
	for _, s := range steps {
		was := s.ClusterOriginalResource()
		if was == nil || s.ApplyOp() != clusterapply.ClusterChangeApplyOpUpdate || was.Labels()[kappLabel] != "" {
			continue
		}
		if manager := managerOf(was); manager != "" {
			owned = append(owned, fmt.Sprintf("%s belongs to %s", idOf(was), manager))
		}
	}
	if len(owned) == 0 {
		return nil
	}
	slices.Sort(owned)
	return fmt.Errorf("%w: %s", ErrOwned, strings.Join(owned, "; "))
}

// managerOf names what manages a resource that no kapp app has; "" if nothing is known to.
func managerOf(r kappres.Resource) string {
	labels, annotations := r.Labels(), r.Annotations()
	if name := labels[fluxKustomization+"/name"]; name != "" {
		return fmt.Sprintf("Kustomization %s/%s of Flux", labels[fluxKustomization+"/namespace"], name)
	}
	if name := labels[fluxRelease+"/name"]; name != "" {
		return fmt.Sprintf("HelmRelease %s/%s of Flux", labels[fluxRelease+"/namespace"], name)
	}
	if id := annotations[argoTracking]; id != "" {
		application, _, _ := strings.Cut(id, ":")
		return fmt.Sprintf("application %s of Argo CD", application)
	}
	if release := annotations["meta.helm.sh/release-name"]; release != "" && labels["app.kubernetes.io/managed-by"] == "Helm" {
		return fmt.Sprintf("release %s/%s of Helm", annotations["meta.helm.sh/release-namespace"], release)
	}
	if i := slices.IndexFunc(r.OwnerRefs(), func(o metav1.OwnerReference) bool { return valueOrZero(o.Controller) }); i >= 0 {
		controller := r.OwnerRefs()[i]
		return fmt.Sprintf("%s %s (%s), which controls it", controller.Kind, controller.Name, controller.APIVersion)
	}
	return ""
}
