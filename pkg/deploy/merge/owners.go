package merge

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

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

// laterOwners returns the owners of fields that were written after krtpkg's last write.
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
func isOwnManager(manager string) bool { return manager == marks.FieldManager || manager == "kapp" }

func (o ownedFields) hasField(key string) bool {
	return slices.ContainsFunc(o, func(fields map[string]any) bool { _, found := fields["f:"+key]; return found })
}

func (o ownedFields) fieldsBelow(key string) ownedFields {
	return o.selectChildren(func(name string) bool { return name == "f:"+key })
}

func (o ownedFields) itemFields(item map[string]any) ownedFields {
	return o.selectChildren(func(name string) bool {
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

func (o ownedFields) selectChildren(is func(name string) bool) ownedFields {
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
