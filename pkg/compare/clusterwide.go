package compare

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// mappingAt returns the mapping at a path of an object, or nil if the path has no mapping.
func mappingAt(object map[string]any, path ...string) map[string]any {
	for _, key := range path {
		object, _ = object[key].(map[string]any)
	}
	return object
}

// lookAtVolume finds a volume that gives pods files of a node.
func (f *riskFinder) lookAtVolume() {
	for _, source := range []string{"hostPath", "local"} {
		now, was := mappingAt(f.change.After, "spec", source), mappingAt(f.change.Before, "spec", source)
		if now != nil && (was == nil || now["path"] != was["path"]) {
			f.addRisk(Critical, AreaWorkload, "gives pods %v of a node (%s)", now["path"], source)
		}
	}
}

// seenFields are the fields of a webhook that decide which requests go where.
var seenFields = []string{"rules", "clientConfig", "namespaceSelector", "objectSelector", "matchPolicy", "matchConditions", "reinvocationPolicy"}

// lookAtWebhooks finds webhooks that are new, or may see other requests than before.
func (f *riskFinder) lookAtWebhooks() {
	does := "sees and refuses"
	if strings.HasPrefix(f.change.Kind, "Mutating") {
		does = "sees and changes"
	}
	was, now := webhooksOf(f.change.Before), webhooksOf(f.change.After)
	var added []string
	for _, name := range slices.Sorted(maps.Keys(now)) {
		before, isKnown := was[name]
		if !isKnown {
			added = append(added, name)
			continue
		}
		var changed []string
		for _, field := range seenFields {
			if !reflect.DeepEqual(before[field], now[name][field]) {
				changed = append(changed, field)
			}
		}
		if len(changed) > 0 {
			f.addRisk(Notable, AreaAccess, "%s other requests by webhook %s: changed %s", does, name, strings.Join(changed, ", "))
		}
	}
	if len(added) > 0 {
		f.addRisk(Notable, AreaAccess, "%s requests by new webhooks: %s", does, strings.Join(shortenList(added), ", "))
	}
}

// webhooksOf returns the webhooks of a configuration by name, without the certificates that their servers show.
func webhooksOf(object map[string]any) map[string]map[string]any {
	all := map[string]map[string]any{}
	list, _ := object["webhooks"].([]any)
	for _, item := range list {
		webhook, is := item.(map[string]any)
		if !is {
			continue
		}
		name, _ := webhook["name"].(string)
		webhook = maps.Clone(webhook)
		if client, is := webhook["clientConfig"].(map[string]any); is {
			client = maps.Clone(client)
			delete(client, "caBundle")
			webhook["clientConfig"] = client
		}
		all[name] = webhook
	}
	return all
}

// lookAtService finds an API that a server in the cluster gets to serve.
func (f *riskFinder) lookAtService() {
	now, was := mappingAt(f.change.After, "spec"), mappingAt(f.change.Before, "spec")
	server, _ := now["service"].(map[string]any)
	if server == nil {
		return // the API server's own
	}
	if before, _ := was["service"].(map[string]any); !reflect.DeepEqual(before, server) {
		f.addRisk(Notable, AreaAccess, "has Service %v/%v answer all requests for %v of API group %v", server["namespace"], server["name"], now["version"], now["group"])
	}
	if now["insecureSkipTLSVerify"] == true && was["insecureSkipTLSVerify"] != true {
		f.addRisk(Notable, AreaAccess, "does not verify who serves its API (insecureSkipTLSVerify)")
	}
}
