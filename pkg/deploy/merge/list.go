package merge

import (
	"fmt"
	"slices"
)

// listMerge merges a list whose items have keys, or, without a merge key, a set of scalars.
type listMerge struct {
	merger
	mergeKey   string
	of         fieldType
	others     ownedFields
	retainKeys bool
}

// mergeItems returns false for a list whose items cannot be told apart.
func (l listMerge) mergeItems(live, applied, desired []any) ([]any, bool) {
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
	return l.mergeMap(there, was, item, l.of, l.others.itemFields(item))
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
			return append(slices.Clone(merged), l.extraItems(live, isExtra)...)
		}
		ordered = append(ordered, merged[next:i+1]...)
		next = i + 1
	}
	return append(ordered, merged[next:]...)
}

func (l listMerge) extraItems(live []any, isExtra func(key string) bool) []any {
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
