package merge

import (
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// podTemplates are the places of pod templates by group and kind.
var podTemplates = map[schema.GroupKind][]string{
	{Group: "apps", Kind: "Deployment"}:  {"spec", "template"},
	{Group: "apps", Kind: "ReplicaSet"}:  {"spec", "template"},
	{Group: "apps", Kind: "StatefulSet"}: {"spec", "template"},
	{Group: "apps", Kind: "DaemonSet"}:   {"spec", "template"},
	{Group: "batch", Kind: "Job"}:        {"spec", "template"},
	{Group: "batch", Kind: "CronJob"}:    {"spec", "jobTemplate", "spec", "template"},
}

// templateLabels are those that kapp puts onto pods.
var templateLabels = []string{marks.App, marks.Association}

// keepImmutableLabels leaves kapp's label in a selector that has it, and with it in the pod
// template: versions of krtpkg before 0.2 had kapp scope selectors, and they are immutable. The
// same holds for the templates of a StatefulSet's claims.
func keepImmutableLabels(live, desired map[string]any, kind schema.GroupKind) {
	if place, isWorkload := podTemplates[kind]; isWorkload && kind.Kind != "CronJob" {
		value, scoped, _ := unstructured.NestedString(live, "spec", "selector", "matchLabels", marks.App)
		selector, set, _ := unstructured.NestedStringMap(desired, "spec", "selector", "matchLabels")
		if scoped && (set || kind.Kind != "Job") {
			if selector == nil {
				selector = map[string]string{}
			}
			selector[marks.App] = value
			_ = unstructured.SetNestedStringMap(desired, selector, "spec", "selector", "matchLabels")
			_ = unstructured.SetNestedField(desired, value, append(slices.Clone(place), "metadata", "labels", marks.App)...)
		}
	}
	if kind.Kind != "StatefulSet" {
		return
	}
	was, _, _ := unstructured.NestedSlice(live, "spec", "volumeClaimTemplates")
	now, _, _ := unstructured.NestedSlice(desired, "spec", "volumeClaimTemplates")
	if len(was) != len(now) || len(now) == 0 {
		return
	}
	for i := range now {
		from, isMap1 := was[i].(map[string]any)
		to, isMap2 := now[i].(map[string]any)
		if isMap1 && isMap2 {
			copyTemplateLabels(from, to)
		}
	}
	_ = unstructured.SetNestedSlice(desired, now, "spec", "volumeClaimTemplates")
}

// keepTemplateLabels leaves kapp's labels on a pod template as they are if nothing else of the
// template changes: another bundle, or kapp after kubectl, is no reason to restart pods.
func keepTemplateLabels(live, merged map[string]any) {
	u := unstructured.Unstructured{Object: merged}
	place, isWorkload := podTemplates[u.GroupVersionKind().GroupKind()]
	if !isWorkload {
		return
	}
	was, found1, _ := unstructured.NestedMap(live, place...)
	now, found2, _ := unstructured.NestedMap(merged, place...)
	if !found1 || !found2 {
		return
	}
	copyTemplateLabels(was, now)
	dropEmpty(now, was)
	if reflect.DeepEqual(was, now) {
		_ = unstructured.SetNestedMap(merged, now, place...)
	}
}

// dropEmpty removes empty maps and lists that the live object does not have: the API server
// has left them out. An empty selector means something.
func dropEmpty(object, live map[string]any) {
	for key, value := range object {
		now, found := live[key]
		switch value := value.(type) {
		case map[string]any:
			if below, isMap := now.(map[string]any); isMap {
				dropEmpty(value, below)
			} else if !found && len(value) == 0 && (key == "nodeSelector" || !strings.HasSuffix(key, "Selector")) {
				delete(object, key)
			}
		case []any:
			below, isList := now.([]any)
			if !found && len(value) == 0 {
				delete(object, key)
			}
			for i := 0; isList && i < min(len(value), len(below)); i++ {
				item, isMap1 := value[i].(map[string]any)
				was, isMap2 := below[i].(map[string]any)
				if isMap1 && isMap2 {
					dropEmpty(item, was)
				}
			}
		}
	}
}

// copyTemplateLabels gives kapp's labels in the metadata of one template to another.
func copyTemplateLabels(from, to map[string]any) {
	for _, label := range templateLabels {
		if value, found, _ := unstructured.NestedString(from, "metadata", "labels", label); found {
			_ = unstructured.SetNestedField(to, value, "metadata", "labels", label)
		} else {
			unstructured.RemoveNestedField(to, "metadata", "labels", label)
		}
	}
	if _, had, _ := unstructured.NestedMap(from, "metadata", "labels"); had {
		return
	}
	if labels, _, _ := unstructured.NestedMap(to, "metadata", "labels"); len(labels) == 0 {
		unstructured.RemoveNestedField(to, "metadata", "labels")
	}
}
