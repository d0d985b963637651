package preflight

import (
	"cmp"
	"context"
	"fmt"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"krtpkg.dev/krtpkg/pkg/resources"
)

// checkWorkloads warns of what fits together in no apply, but does harm later: replicas that two
// set, and budgets that keep nodes from being drained. It looks at the runtime alone.
func (in *inspection) checkWorkloads(context.Context) ([]Finding, error) {
	var (
		workloads []*workload
		scalers   []scaler
		budgets   []budget
	)
	for _, b := range in.bundles {
		workloads, scalers, budgets = append(workloads, b.workloads...), append(scalers, b.scalers...), append(budgets, b.budgets...)
	}
	var found []Finding
	for _, c := range scalers {
		for _, w := range workloads {
			if !c.scales(w) {
				continue
			}
			w.isScaled = true
			if w.setsReplicas {
				found = append(found, Finding{Severity: SeverityWarning, Bundle: w.bundle, Resource: w.id.String(), Message: fmt.Sprintf(
					"sets spec.replicas, but %s scales it: each apply undoes the scaling; remove spec.replicas", c.id)})
			}
		}
	}
	return append(found, judgeBudgets(budgets, workloads)...), nil
}

// addWorkload adds what a resource says of pods, if it says any.
func (b *inspectedBundle) addWorkload(r kappres.Resource, namespace string) {
	p := placed{bundle: b.Name, namespace: cmp.Or(r.Namespace(), namespace), id: resources.IDOf(r)}
	object := r.UnstructuredObject() // a view: it is not changed
	if w := workloadOf(p, object); w != nil {
		b.workloads = append(b.workloads, w)
	}
	if c := scalerOf(p, object); c != nil {
		b.scalers = append(b.scalers, *c)
	}
	if one := budgetOf(p, r, object); one != nil {
		b.budgets = append(b.budgets, *one)
	}
}

// placed is a resource of a bundle.
type placed struct {
	bundle, namespace string
	id                resources.ResourceID
}

// workload is a resource that makes pods.
type workload struct {
	placed
	podLabels    labels.Set
	replicas     int
	setsReplicas bool
	isScaled     bool
}

// workloadOf returns nil for what makes no number of pods.
func workloadOf(p placed, object map[string]any) *workload {
	switch p.id.Kind {
	case "Deployment", "StatefulSet", "ReplicaSet":
	default:
		return nil
	}
	if p.id.APIGroup() != "apps" {
		return nil
	}
	w := &workload{placed: p, replicas: 1}
	w.podLabels, _, _ = unstructured.NestedStringMap(object, "spec", "template", "metadata", "labels")
	switch replicas, _, _ := unstructured.NestedFieldNoCopy(object, "spec", "replicas"); n := replicas.(type) {
	case int64:
		w.replicas, w.setsReplicas = int(n), true
	case float64: // as YAML is read
		w.replicas, w.setsReplicas = int(n), true
	}
	return w
}

// scaler is a resource that sets the number of replicas of a workload.
type scaler struct {
	placed
	target schema.GroupKind
	name   string
}

func scalerOf(p placed, object map[string]any) *scaler {
	switch (schema.GroupKind{Group: p.id.APIGroup(), Kind: p.id.Kind}) {
	case schema.GroupKind{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}, schema.GroupKind{Group: "keda.sh", Kind: "ScaledObject"}:
	default:
		return nil
	}
	target, _, _ := unstructured.NestedMap(object, "spec", "scaleTargetRef")
	text := func(key, usual string) string {
		value, _ := target[key].(string)
		return cmp.Or(value, usual)
	}
	// What is left out is KEDA's default; the API server takes no autoscaler without.
	return &scaler{placed: p, name: text("name", ""), target: schema.FromAPIVersionAndKind(text("apiVersion", "apps/v1"), text("kind", "Deployment")).GroupKind()}
}

func (c *scaler) scales(w *workload) bool {
	return c.namespace == w.namespace && c.name == w.id.Name && c.target == schema.GroupKind{Group: w.id.APIGroup(), Kind: w.id.Kind}
}

// budget is a PodDisruptionBudget.
type budget struct {
	placed
	policyv1.PodDisruptionBudgetSpec
	selector labels.Selector
}

// budgetOf returns nil for what is not a budget, or not a valid one, which the dry run finds.
func budgetOf(p placed, r kappres.Resource, object map[string]any) *budget {
	if p.id.Kind != "PodDisruptionBudget" || r.APIVersion() != "policy/v1" {
		return nil
	}
	var typed policyv1.PodDisruptionBudget
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, &typed); err != nil {
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(typed.Spec.Selector)
	if err != nil {
		return nil
	}
	return &budget{placed: p, PodDisruptionBudgetSpec: typed.Spec, selector: selector}
}

// judgeBudgets warns of budgets that never allow an eviction: nobody can drain a node then.
func judgeBudgets(budgets []budget, workloads []*workload) []Finding {
	var found []Finding
	first := map[*workload]budget{} // of those that are for a workload's pods
	for _, b := range budgets {
		pods, isScaled := 0, false
		warn := func(format string, args ...any) {
			found = append(found, Finding{Severity: SeverityWarning, Bundle: b.bundle, Resource: b.id.String(), Message: fmt.Sprintf(format, args...)})
		}
		said := false
		for _, w := range workloads {
			if w.namespace != b.namespace || !b.selector.Matches(w.podLabels) {
				continue
			}
			pods, isScaled = pods+w.replicas, isScaled || w.isScaled
			if other, twice := first[w]; twice && !said {
				said = true
				warn("selects the pods of %s, and so does %s: the API server evicts no pod with two budgets", w.id, other.id)
			} else if !twice {
				first[w] = b
			}
		}
		if b.allowsNone(pods, isScaled) {
			warn("never allows an eviction: nodes with its pods cannot be drained")
		}
	}
	return found
}

// allowsNone reports whether a budget keeps all of so many pods; of pods whose number changes it
// is not known, nor of those that the runtime does not have.
func (b *budget) allowsNone(pods int, isScaled bool) bool {
	if isScaled || pods == 0 {
		pods = 1000 // so that only 0 and 100% count
	}
	if limit := b.MaxUnavailable; limit != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(limit, pods, true)
		return err == nil && n == 0
	}
	limit := cmp.Or(b.MinAvailable, &intstr.IntOrString{IntVal: 1})
	n, err := intstr.GetScaledValueFromIntOrPercent(limit, pods, true)
	return err == nil && n >= pods
}
