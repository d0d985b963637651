package deploy

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"
)

// fieldMerge makes of a manifest and the object on the cluster what is sent to the API server,
// by the rules of kubectl apply: fields that the manifest sets are the manifest's, fields that
// it set before and no longer sets go, and all others stay as the API server, a controller or
// a user has set them. kapp by itself replaces the whole object.
//
// Lists of Kubernetes' own kinds are merged by the keys that their types name; other lists are
// taken whole from the manifest. It is one of kapp's rebase rules, after kapp's own and before
// those of the bundle.
type fieldMerge struct {
	// unrecorded are UIDs of objects of this runtime for which nothing is recorded of what was
	// applied: kapp's rules alone hold for these.
	unrecorded sets.Set[string]
}

var _ kappres.ResourceModWithMultiple = fieldMerge{}

// IsResourceMatching reports true: the rule is for every kind.
func (fieldMerge) IsResourceMatching(kappres.Resource) bool { return true }

// ApplyFromMultiple changes result, which kapp's own rules have made of the manifest.
func (m fieldMerge) ApplyFromMultiple(result kappres.Resource, sources map[kappres.FieldCopyModSource]kappres.Resource) error {
	existing := sources[kappres.FieldCopyModSourceExisting]
	if existing == nil {
		return nil
	}
	live, desired := existing.DeepCopyRaw(), result.DeepCopyRaw()
	delete(desired, "status")
	keepImmutableLabels(live, desired, existing.GroupKind())
	merged := desired
	if !m.unrecorded.Has(existing.UID()) {
		applied := appliedManifest(live)
		if existing.Labels()[kappLabel] == "" {
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
	others := slices.DeleteFunc(u.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return deref(o.Controller) })
	if len(others) == 0 {
		others = nil // which removes the field
	}
	u.SetOwnerReferences(others)
}

// Annotations and labels that belong to a tool that manages the object, not to its content.
var (
	ownAnnotations = []string{
		"kapp.k14s.io/original", "kapp.k14s.io/original-diff-md5", "kapp.k14s.io/original-diff", "kapp.k14s.io/original-diff-full",
		annotationDisableOriginal, annotationApplied, "meta.helm.sh/release-name", "meta.helm.sh/release-namespace",
		argoTracking, "argocd.argoproj.io/installation-id",
	}
	ownLabels = map[string]string{
		"kapp.k14s.io/orphaned": "", "app.kubernetes.io/managed-by": "Helm",
		fluxKustomization + "/name": "*", fluxKustomization + "/namespace": "*", fluxRelease + "/name": "*", fluxRelease + "/namespace": "*",
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
		if now, found := live[key]; found && isScalar(now) && was != nil && !equalRecorded(now, was) && others.has(key) {
			continue // set by somebody else since
		}
		delete(merged, key)
	}
	for key, value := range desired {
		if value == nil && t != nil {
			delete(merged, key) // as kubectl apply does
			continue
		}
		_, there := live[key]
		merged[key] = m.mergeValue(key, live[key], applied[key], value, t, others.field(key))
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
			if merged, ok := list.merge(live, applied, desired); ok {
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
		if unchanged && covers(live[i], item) {
			merged[i] = live[i]
		}
	}
	return merged
}

// covers reports whether all that part sets is in whole.
func covers(whole, part any) bool {
	switch part := part.(type) {
	case map[string]any:
		whole, isMap := whole.(map[string]any)
		if !isMap {
			return false
		}
		for key, value := range part {
			if now, found := whole[key]; !found && value != nil || !covers(now, value) {
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
			if !covers(whole[i], part[i]) {
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

// listMerge merges a list whose items have keys, or, without a merge key, a set of scalars.
type listMerge struct {
	merger
	mergeKey   string
	of         fieldType
	others     ownedFields
	retainKeys bool
}

// merge returns false for a list whose items can't be told apart.
func (l listMerge) merge(live, applied, desired []any) ([]any, bool) {
	liveByKey, ok1 := l.byKey(live)
	desiredByKey, ok2 := l.byKey(desired)
	appliedByKey, ok3 := l.byKey(applied)
	if !ok1 || !ok2 {
		return nil, false
	}
	if !ok3 {
		appliedByKey = nil
	}
	var merged []any
	for _, item := range desired {
		key, _ := l.keyOf(item)
		merged = append(merged, l.mergeItem(liveByKey[key], appliedByKey[key], item))
	}
	return l.inLiveOrder(live, merged, func(key string) bool {
		_, wanted := desiredByKey[key]
		_, was := appliedByKey[key]
		return !wanted && !was
	}), true
}

func (l listMerge) mergeItem(live, applied, desired any) any {
	item, isMap := desired.(map[string]any)
	there, found := live.(map[string]any)
	if !isMap || !found {
		return desired
	}
	if l.retainKeys {
		there = onlyKeysOf(there, item)
	}
	was, _ := applied.(map[string]any)
	return l.mergeMap(there, was, item, l.of, l.others.item(item))
}

// inLiveOrder adds the items that only the cluster has. If the manifest has not changed the
// order of those that both have, they stay where they are.
func (l listMerge) inLiveOrder(live, merged []any, isExtra func(key string) bool) []any {
	place := map[string]int{}
	for i, item := range merged {
		key, _ := l.keyOf(item)
		place[key] = i
	}
	var ordered []any
	next := 0 // of merged
	for _, item := range live {
		key, _ := l.keyOf(item)
		if isExtra(key) {
			ordered = append(ordered, item)
			continue
		}
		i, stays := place[key]
		if !stays {
			continue
		}
		if i < next { // the manifest has another order
			return append(slices.Clone(merged), l.extras(live, isExtra)...)
		}
		ordered = append(ordered, merged[next:i+1]...)
		next = i + 1
	}
	return append(ordered, merged[next:]...)
}

func (l listMerge) extras(live []any, isExtra func(key string) bool) []any {
	var extras []any
	for _, item := range live {
		if key, _ := l.keyOf(item); isExtra(key) {
			extras = append(extras, item)
		}
	}
	return extras
}

func (l listMerge) byKey(list []any) (map[string]any, bool) {
	items := map[string]any{}
	for _, item := range list {
		key, ok := l.keyOf(item)
		if _, twice := items[key]; !ok || twice {
			return nil, false
		}
		items[key] = item
	}
	return items, true
}

// moreKeys are fields that belong to the key of an item as server-side apply sees it, where the
// merge key of the type alone is ambiguous, with their defaults.
var moreKeys = map[string][2]string{
	"port": {"protocol", "TCP"}, "containerPort": {"protocol", "TCP"}, "topologyKey": {"whenUnsatisfiable", ""},
}

func (l listMerge) keyOf(item any) (string, bool) {
	fields, isMap := item.(map[string]any)
	if l.mergeKey == "" {
		return fmt.Sprint(item), !isMap && isScalar(item)
	}
	value, found := fields[l.mergeKey]
	if !isMap || !found || !isScalar(value) {
		return "", false
	}
	key := fmt.Sprint(value)
	if more, has := moreKeys[l.mergeKey]; has {
		second := more[1]
		if value, found := fields[more[0]]; found {
			second = fmt.Sprint(value)
		}
		key += "/" + second
	}
	return key, true
}

// ownedFields are the fields that managers other than krtpkg own, as trees in the form of
// managedFields (Kubernetes' FieldsV1).
type ownedFields []map[string]any

// otherOwners reads metadata.managedFields.
func otherOwners(object map[string]any) ownedFields {
	var owned ownedFields
	u := unstructured.Unstructured{Object: object}
	for _, entry := range u.GetManagedFields() {
		if isOwnManager(entry.Manager) && entry.Subresource == "" || entry.FieldsV1 == nil {
			continue
		}
		var fields map[string]any
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err == nil {
			owned = append(owned, fields)
		}
	}
	return owned
}

// laterOwners are the owners of fields that were written after krtpkg's last write.
func laterOwners(object map[string]any) ownedFields {
	u := unstructured.Unstructured{Object: object}
	entries := u.GetManagedFields()
	var last time.Time
	for _, entry := range entries {
		if isOwnManager(entry.Manager) && entry.Time != nil && entry.Time.After(last) {
			last = entry.Time.Time
		}
	}
	later := slices.DeleteFunc(slices.Clone(entries), func(e metav1.ManagedFieldsEntry) bool { return e.Time == nil || e.Time.Time.Before(last) })
	copied := unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{}}}
	copied.SetManagedFields(later)
	return otherOwners(copied.Object)
}

// isOwnManager reports whether writes under this name are krtpkg's, or kapp's.
func isOwnManager(manager string) bool { return manager == fieldManager || manager == "kapp" }

func (o ownedFields) has(key string) bool {
	return slices.ContainsFunc(o, func(fields map[string]any) bool { _, found := fields["f:"+key]; return found })
}

func (o ownedFields) field(key string) ownedFields {
	return o.children(func(name string) bool { return name == "f:"+key })
}

func (o ownedFields) item(item map[string]any) ownedFields {
	return o.children(func(name string) bool {
		encoded, isKey := strings.CutPrefix(name, "k:")
		var key map[string]any
		if !isKey || json.Unmarshal([]byte(encoded), &key) != nil {
			return false
		}
		for field, value := range key {
			if now, found := item[field]; found && !equalScalars(now, value) {
				return false
			}
		}
		return true
	})
}

func (o ownedFields) children(is func(name string) bool) ownedFields {
	var below ownedFields
	for _, fields := range o {
		for name, child := range fields {
			if tree, isMap := child.(map[string]any); isMap && is(name) {
				below = append(below, tree)
			}
		}
	}
	return below
}

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
var templateLabels = []string{kappLabel, "kapp.k14s.io/association"}

// keepImmutableLabels leaves kapp's label in a selector that has it, and with it in the pod
// template: versions of krtpkg before 0.2 had kapp scope selectors, and they are immutable. The
// same holds for the templates of a StatefulSet's claims.
func keepImmutableLabels(live, desired map[string]any, kind schema.GroupKind) {
	if place, isWorkload := podTemplates[kind]; isWorkload && kind.Kind != "CronJob" {
		value, scoped, _ := unstructured.NestedString(live, "spec", "selector", "matchLabels", kappLabel)
		selector, set, _ := unstructured.NestedStringMap(desired, "spec", "selector", "matchLabels")
		if scoped && (set || kind.Kind != "Job") {
			if selector == nil {
				selector = map[string]string{}
			}
			selector[kappLabel] = value
			_ = unstructured.SetNestedStringMap(desired, selector, "spec", "selector", "matchLabels")
			_ = unstructured.SetNestedField(desired, value, append(slices.Clone(place), "metadata", "labels", kappLabel)...)
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
