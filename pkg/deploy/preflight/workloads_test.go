package preflight

import (
	"fmt"
	"strings"
	"testing"
)

func deployment(name string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 2
  selector: {matchLabels: {app: %[1]s}}
  template: {metadata: {labels: {app: %[1]s}}}`, name)
}

// A number of replicas in a manifest and an autoscaler exclude each other.
func TestScaledTwice(t *testing.T) {
	t.Parallel()
	scaler := func(name, namespace string) string {
		return fmt.Sprintf("apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: %[1]s, namespace: %[2]s}\nspec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %[1]s}}", name, namespace)
	}
	in := &inspection{bundles: []inspectedBundle{
		bundleOf(t, "app", deployment("web"), deployment("queue"), deployment("far"), strings.Replace(deployment("free"), "  replicas: 2\n", "", 1)),
		bundleOf(t, "scale", scaler("web", "home"), scaler("free", "home"), scaler("far", "away"),
			"apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: q}\nspec: {scaleTargetRef: {name: queue}}"),
	}}
	found, err := in.checkWorkloads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantFindings(t, "scaled twice", found,
		"warning (): app, Deployment web (apps/v1): sets spec.replicas, but HorizontalPodAutoscaler web (autoscaling/v2) in namespace home scales it: each apply undoes the scaling; remove spec.replicas",
		"warning (): app, Deployment queue (apps/v1): sets spec.replicas, but ScaledObject q (keda.sh/v1alpha1) scales it: each apply undoes the scaling; remove spec.replicas")
}

// Of budgets for evictions those are told that keep nodes from being drained.
func TestBudgets(t *testing.T) {
	t.Parallel()
	budget := func(name, spec string) string {
		return fmt.Sprintf("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: %s}\nspec: {%s}", name, spec)
	}
	in := &inspection{bundles: []inspectedBundle{
		bundleOf(t, "app", deployment("web"), budget("web", "maxUnavailable: 0, selector: {matchLabels: {app: web}}"),
			deployment("two"), budget("half", "minAvailable: 50%, selector: {matchLabels: {app: two}}"),
			deployment("other"), budget("other", "minAvailable: 2, selector: {matchLabels: {app: other}}"),
			budget("twice", "maxUnavailable: 1, selector: {matchLabels: {app: other}}"),
			budget("fine", "maxUnavailable: 1, selector: {matchLabels: {app: none}}"), budget("elsewhere", "minAvailable: 2, selector: {matchLabels: {app: none}}")),
		bundleOf(t, "more", strings.Replace(budget("all", "minAvailable: 100%, selector: {}"), "name: all", "name: all, namespace: away", 1)),
	}}
	found, err := in.checkWorkloads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const never = "never allows an eviction: nodes with its pods cannot be drained"
	wantFindings(t, "budgets", found,
		"warning (): app, PodDisruptionBudget web (policy/v1): "+never,
		"warning (): app, PodDisruptionBudget other (policy/v1): "+never,
		"warning (): app, PodDisruptionBudget twice (policy/v1): selects the pods of Deployment other (apps/v1), and so does PodDisruptionBudget other (policy/v1): the API server evicts no pod with two budgets",
		"warning (): more, PodDisruptionBudget all (policy/v1) in namespace away: "+never)
}
