// Package merge computes what is sent to the API server for an object that exists, by the rules of kubectl apply: [Rule]
// is a rebase rule of kapp. [RecordApplied] records the manifest on the object for the next merge, and [AppliedManifest]
// reads it.
package merge

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// Rule merges a manifest with the object on the cluster. Fields that the manifest sets get the manifest's values, fields
// that it set before and no longer sets are removed, and all others stay as the API server, a controller or a user has
// set them. kapp by itself replaces the whole object.
//
// Lists of Kubernetes' own kinds are merged by the keys that their types name; other lists are
// taken whole from the manifest. It is one of kapp's rebase rules, after kapp's own and before
// those of the bundle.
type Rule struct {
	// Unrecorded are the UIDs of objects that belong to the runtime and have no record of what was applied: only kapp's
	// own rules apply to these.
	Unrecorded sets.Set[string]
}

var _ kappres.ResourceModWithMultiple = Rule{}

// IsResourceMatching reports true: the rule is for every kind.
func (Rule) IsResourceMatching(kappres.Resource) bool { return true }

// ApplyFromMultiple changes result, which kapp's own rules have made of the manifest.
func (m Rule) ApplyFromMultiple(result kappres.Resource, sources map[kappres.FieldCopyModSource]kappres.Resource) error {
	existing := sources[kappres.FieldCopyModSourceExisting]
	if existing == nil {
		return nil
	}
	live, desired := existing.DeepCopyRaw(), result.DeepCopyRaw()
	delete(desired, "status")
	keepImmutableLabels(live, desired, existing.GroupKind())
	merged := desired
	if !m.Unrecorded.Has(existing.UID()) {
		applied := AppliedManifest(live)
		if existing.Labels()[marks.App] == "" {
			if applied == nil {
				applied = kubectlManifest(live)
			}
			dropController(live)
			dropController(desired) // kapp's rules have copied it
		}
		merged = mergeObject(live, applied, desired)
	}
	keepTemplateLabels(live, merged)
	keepEqualRecord(live, merged)
	if status, found := live["status"]; found {
		merged["status"] = status // of no concern to a manifest; it must not be wiped either
	}
	object := result.UnstructuredObject()
	clear(object)
	maps.Copy(object, merged)
	return nil
}

// dropController makes an object that is adopted independent of what controls it, with which it
// would be deleted.
func dropController(object map[string]any) {
	u := unstructured.Unstructured{Object: object}
	others := slices.DeleteFunc(u.GetOwnerReferences(), marks.IsController)
	if len(others) == 0 {
		others = nil // which removes the field
	}
	u.SetOwnerReferences(others)
}

// Annotations and labels that belong to a tool that manages the object, not to its content.
var (
	ownAnnotations = []string{
		marks.Original, marks.OriginalMD5, "kapp.k14s.io/original-diff", "kapp.k14s.io/original-diff-full",
		marks.DisableOriginal, marks.Applied, marks.HelmRelease, marks.HelmNamespace,
		marks.ArgoTracking, "argocd.argoproj.io/installation-id",
	}
	ownLabels = map[string]string{
		"kapp.k14s.io/orphaned": "", marks.ManagedBy: "Helm",
		marks.FluxKustomization + "/name": "*", marks.FluxKustomization + "/namespace": "*", marks.FluxRelease + "/name": "*", marks.FluxRelease + "/namespace": "*",
	}
)

// mergeObject merges a whole object. The result shares values with its arguments.
func mergeObject(live, applied, desired map[string]any) map[string]any {
	keepMetadataMaps(live, desired)
	live = withoutToolMetadata(live, desired)
	m := merger{owners: otherOwners(live)}
	merged := m.mergeMap(live, applied, desired, typeOf(desired), m.owners)
	keepReplicas(live, merged, desired)
	return merged
}

// keepMetadataMaps has annotations and labels merged key by key also where the manifest has none,
// or null: others' stay.
func keepMetadataMaps(live, desired map[string]any) {
	was, _ := live["metadata"].(map[string]any)
	now, _ := desired["metadata"].(map[string]any)
	for _, key := range []string{"annotations", "labels"} {
		_, had := was[key].(map[string]any)
		if _, has := now[key].(map[string]any); had && !has && now != nil {
			now[key] = map[string]any{}
		}
	}
}

// withoutToolMetadata returns the object without what a tool has left on it to remember it by,
// unless the manifest has it too.
func withoutToolMetadata(live, desired map[string]any) map[string]any {
	object := unstructured.Unstructured{Object: maps.Clone(live)}
	wanted := unstructured.Unstructured{Object: desired}
	metadata, _ := live["metadata"].(map[string]any)
	object.Object["metadata"] = maps.Clone(metadata)
	if annotations := object.GetAnnotations(); len(annotations) > 0 {
		for _, key := range ownAnnotations {
			if _, stays := wanted.GetAnnotations()[key]; !stays {
				delete(annotations, key)
			}
		}
		object.SetAnnotations(annotations)
	}
	if labels := object.GetLabels(); len(labels) > 0 {
		for key, value := range ownLabels {
			if value == "*" {
				value = labels[key]
			}
			if labels[key] == value && wanted.GetLabels()[key] != value {
				delete(labels, key)
			}
		}
		object.SetLabels(labels)
	}
	return object.Object
}

// keepReplicas keeps the number of replicas that a manifest leaves open, also where it named
// one before: an autoscaler may have set it, or may be about to.
func keepReplicas(live, merged, desired map[string]any) {
	if _, set, _ := unstructured.NestedFieldNoCopy(desired, "spec", "replicas"); set {
		return
	}
	replicas, found, _ := unstructured.NestedFieldNoCopy(live, "spec", "replicas")
	spec, isMap := merged["spec"].(map[string]any)
	if found && isMap {
		spec["replicas"] = replicas
	}
}

// merger merges one object.
type merger struct{ owners ownedFields }

// fieldType is what is known of a type's lists; nil where nothing is.
type fieldType = strategicpatch.LookupPatchMeta

// typeOf returns the type of an object if it is one of Kubernetes' own.
func typeOf(object map[string]any) fieldType {
	u := unstructured.Unstructured{Object: object}
	typed, err := scheme.Scheme.New(u.GroupVersionKind())
	if err != nil {
		return nil
	}
	t, err := strategicpatch.NewPatchMetaFromStruct(typed)
	if err != nil {
		return nil
	}
	return t
}

func (m merger) mergeMap(live, applied, desired map[string]any, t fieldType, others ownedFields) map[string]any {
	merged := maps.Clone(live)
	if merged == nil {
		merged = map[string]any{}
	}
	if changesType(live, desired) {
		merged = map[string]any{}
	}
	for key, was := range applied {
		if _, stays := desired[key]; stays {
			continue
		}
		if now, found := live[key]; found && isScalar(now) && was != nil && !equalRecorded(now, was) && others.hasField(key) {
			continue // set by someone else since
		}
		delete(merged, key)
	}
	for key, value := range desired {
		if value == nil && t != nil {
			delete(merged, key) // as kubectl apply does
			continue
		}
		_, there := live[key]
		merged[key] = m.mergeValue(key, live[key], applied[key], value, t, others.fieldsBelow(key))
		if given, isMap := value.(map[string]any); isMap && t != nil && !there && len(given) > 0 && len(merged[key].(map[string]any)) == 0 {
			delete(merged, key) // there was nothing but null in it
		}
	}
	return merged
}

// withoutNulls returns a map without keys that are null, which Kubernetes' own kinds drop.
func withoutNulls(object map[string]any) map[string]any {
	kept := maps.Clone(object)
	for key, value := range kept {
		if value == nil {
			delete(kept, key)
		}
		if below, isMap := value.(map[string]any); isMap {
			kept[key] = withoutNulls(below)
		}
	}
	return kept
}

// changesType reports whether the field "type" gets another value: what hangs on the old type is
// invalid with the new one, such as "rollingUpdate" of a strategy. A Service is an exception,
// since the API server cleans up after it.
func changesType(live, desired map[string]any) bool {
	was, found := live["type"].(string)
	now, set := desired["type"].(string)
	_, isService := live["clusterIP"]
	return found && set && was != now && !isService
}

func isScalar(value any) bool {
	switch value.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

func (m merger) mergeValue(key string, live, applied, desired any, t fieldType, others ownedFields) any {
	switch desired := desired.(type) {
	case map[string]any:
		live, isMap := live.(map[string]any)
		if !isMap && t != nil {
			return withoutNulls(desired)
		}
		if !isMap {
			return desired
		}
		applied, _ := applied.(map[string]any)
		of, strategies, _ := lookUpStruct(t, key)
		if slices.Contains(strategies, "replace") {
			return desired
		}
		if slices.Contains(strategies, "retainKeys") {
			live = onlyKeysOf(live, desired)
		}
		return m.mergeMap(live, applied, desired, of, others)
	case []any:
		live, isList := live.([]any)
		if !isList {
			return desired
		}
		applied, _ := applied.([]any)
		of, strategies, mergeKey := lookUpSlice(t, key)
		if slices.Contains(strategies, "merge") {
			list := listMerge{merger: m, mergeKey: mergeKey, of: of, others: others, retainKeys: slices.Contains(strategies, "retainKeys")}
			if merged, ok := list.mergeItems(live, applied, desired); ok {
				return merged
			}
		}
		return m.mergeAtomic(live, applied, desired)
	}
	if live != nil && equalScalars(live, desired) {
		return live // 1 and 1.0
	}
	return desired
}

func lookUpStruct(t fieldType, key string) (fieldType, []string, string) {
	if t == nil {
		return nil, nil, ""
	}
	of, meta, err := t.LookupPatchMetadataForStruct(key)
	if err != nil {
		return nil, nil, ""
	}
	return of, meta.GetPatchStrategies(), meta.GetPatchMergeKey()
}

func lookUpSlice(t fieldType, key string) (fieldType, []string, string) {
	if t == nil {
		return nil, nil, ""
	}
	of, meta, err := t.LookupPatchMetadataForSlice(key)
	if err != nil {
		return nil, nil, ""
	}
	return of, meta.GetPatchStrategies(), meta.GetPatchMergeKey()
}

func onlyKeysOf(object, keys map[string]any) map[string]any {
	only := map[string]any{}
	for key, value := range object {
		if _, found := keys[key]; found {
			only[key] = value
		}
	}
	return only
}

// mergeAtomic takes the manifest's list, but leaves items that it has not changed as they are:
// the API server fills in defaults in these.
func (m merger) mergeAtomic(live, applied, desired []any) []any {
	if len(live) != len(desired) {
		return desired
	}
	merged := slices.Clone(desired)
	for i, item := range desired {
		unchanged := applied == nil || len(applied) == len(desired) && equalRecorded(item, applied[i])
		if unchanged && includesAll(live[i], item) {
			merged[i] = live[i]
		}
	}
	return merged
}

// includesAll reports whether all that part sets is in whole.
func includesAll(whole, part any) bool {
	switch part := part.(type) {
	case map[string]any:
		whole, isMap := whole.(map[string]any)
		if !isMap {
			return false
		}
		for key, value := range part {
			if now, found := whole[key]; !found && value != nil || !includesAll(now, value) {
				return false
			}
		}
		return true
	case []any:
		whole, isList := whole.([]any)
		if !isList || len(whole) != len(part) {
			return false
		}
		for i := range part {
			if !includesAll(whole[i], part[i]) {
				return false
			}
		}
		return true
	}
	return equalScalars(whole, part)
}

func equalScalars(a, b any) bool {
	return reflect.DeepEqual(a, b) || isNumber(a) && isNumber(b) && fmt.Sprint(a) == fmt.Sprint(b)
}

func isNumber(value any) bool {
	switch value.(type) {
	case int64, float64, int:
		return true
	}
	return false
}
