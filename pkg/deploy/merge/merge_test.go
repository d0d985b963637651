package merge

import (
	"encoding/json"
	"reflect"
	"testing"

	"sigs.k8s.io/yaml"
)

func parseObject(t *testing.T, text string) map[string]any {
	t.Helper()
	if text == "" {
		return nil
	}
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(data, &object); err != nil {
		t.Fatal(err)
	}
	return object
}

// TestMergeObject: what is sent for an object that is there, by what was applied before. Each
// manifest is the spec of a Deployment unless it names a kind.
func TestMergeObject(t *testing.T) {
	const pod = "{template: {spec: "
	for _, test := range []struct{ name, kind, live, applied, desired, want string }{
		{"defaults stay", "", "{replicas: 1, revisionHistoryLimit: 10}", "{replicas: 1}", "{replicas: 1}", "{replicas: 1, revisionHistoryLimit: 10}"},
		{"an autoscaler's replicas stay", "", "{replicas: 3}", "{}", "{}", "{replicas: 3}"},
		{"replicas stay where the manifest drops them", "", "{replicas: 3}", "{replicas: 3}", "{}", "{replicas: 3}"},
		{"replicas are the manifest's where it names them", "", "{replicas: 3}", "{replicas: 2}", "{replicas: 2}", "{replicas: 2}"},
		{"a dropped field goes", "", "{paused: true, replicas: 1}", "{paused: true, replicas: 1}", "{replicas: 1}", "{replicas: 1}"},
		{"null drops a field", "", "{paused: true, replicas: 1}", "", "{paused: null, replicas: 1}", "{replicas: 1}"},
		{"another strategy has no options of the old one", "", "{strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%}}}", "", "{strategy: {type: Recreate}}", "{strategy: {type: Recreate}}"},
		{"another update strategy, too", "StatefulSet", "{updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 0}}}", "", "{updateStrategy: {type: OnDelete}}", "{updateStrategy: {type: OnDelete}}"},
		{"an injected container stays", "", pod + "{containers: [{name: a, image: x:1}, {name: proxy, image: p}]}}}", pod + "{containers: [{name: a, image: x:1}]}}}",
			pod + "{containers: [{name: a, image: x:2}]}}}", pod + "{containers: [{name: a, image: x:2}, {name: proxy, image: p}]}}}"},
		{"an injected first container stays first", "", pod + "{containers: [{name: proxy, image: p}, {name: a, image: x}]}}}", pod + "{containers: [{name: a, image: x}]}}}",
			pod + "{containers: [{name: a, image: x}, {name: b, image: y}]}}}", pod + "{containers: [{name: proxy, image: p}, {name: a, image: x}, {name: b, image: y}]}}}"},
		{"a dropped container goes", "", pod + "{containers: [{name: a, image: x}, {name: b, image: y}]}}}", pod + "{containers: [{name: a, image: x}, {name: b, image: y}]}}}",
			pod + "{containers: [{name: a, image: x}]}}}", pod + "{containers: [{name: a, image: x}]}}}"},
		{"the manifest's order counts", "", pod + "{containers: [{name: a}, {name: b}]}}}", pod + "{containers: [{name: a}, {name: b}]}}}", pod + "{containers: [{name: b}, {name: a}]}}}", pod + "{containers: [{name: b}, {name: a}]}}}"},
		{"another probe replaces the old one", "", pod + "{containers: [{name: a, livenessProbe: {httpGet: {path: /, port: 1, scheme: HTTP}, periodSeconds: 10}}]}}}", pod + "{containers: [{name: a, livenessProbe: {httpGet: {path: /, port: 1}}}]}}}",
			pod + "{containers: [{name: a, livenessProbe: {exec: {command: [x]}}}]}}}", pod + "{containers: [{name: a, livenessProbe: {exec: {command: [x]}, periodSeconds: 10}}]}}}"},
		{"a volume of another type", "", pod + "{volumes: [{name: v, configMap: {name: c, defaultMode: 420}}]}}}", "", pod + "{volumes: [{name: v, emptyDir: {}}]}}}", pod + "{volumes: [{name: v, emptyDir: {}}]}}}"},
		{"one port for two protocols", "", pod + "{containers: [{name: a, ports: [{containerPort: 53, protocol: TCP}, {containerPort: 53, protocol: UDP, hostPort: 5}]}]}}}", "",
			pod + "{containers: [{name: a, ports: [{containerPort: 53}, {containerPort: 53, protocol: UDP}]}]}}}",
			pod + "{containers: [{name: a, ports: [{containerPort: 53, protocol: TCP}, {containerPort: 53, protocol: UDP, hostPort: 5}]}]}}}"},
		{"variables named twice are the manifest's", "", pod + "{containers: [{name: a, env: [{name: X, value: '1'}]}]}}}", "", pod + "{containers: [{name: a, env: [{name: X, value: '1'}, {name: X, value: '2'}]}]}}}",
			pod + "{containers: [{name: a, env: [{name: X, value: '1'}, {name: X, value: '2'}]}]}}}"},
		{"node ports stay", "Service", "{clusterIP: 10.0.0.1, type: NodePort, ports: [{port: 80, protocol: TCP, targetPort: 80, nodePort: 30000}]}", "{type: NodePort, ports: [{port: 80}]}", "{type: NodePort, ports: [{port: 80}]}",
			"{clusterIP: 10.0.0.1, type: NodePort, ports: [{port: 80, protocol: TCP, targetPort: 80, nodePort: 30000}]}"},
		{"a service keeps its address with another type", "Service", "{clusterIP: 10.0.0.1, type: ClusterIP, ports: [{port: 80}]}", "{ports: [{port: 80}]}", "{type: LoadBalancer, ports: [{port: 80}]}", "{clusterIP: 10.0.0.1, type: LoadBalancer, ports: [{port: 80}]}"},
		{"defaults in a list without keys stay", "NetworkPolicy", "{ingress: [{ports: [{port: 80, protocol: TCP}]}]}", "{ingress: [{ports: [{port: 80}]}]}", "{ingress: [{ports: [{port: 80}]}]}", "{ingress: [{ports: [{port: 80, protocol: TCP}]}]}"},
		{"a changed item of such a list is the manifest's", "NetworkPolicy", "{ingress: [{ports: [{port: 80, protocol: UDP}]}]}", "{ingress: [{ports: [{port: 80}]}]}", "{ingress: [{ports: [{port: 81}]}]}", "{ingress: [{ports: [{port: 81}]}]}"},
		{"a custom resource's list is the manifest's", "Gadget", "{items: [{name: a}, {name: b}]}", "{items: [{name: a}]}", "{items: [{name: c}]}", "{items: [{name: c}]}"},
		{"a custom resource's fields are merged", "Gadget", "{a: 1, defaulted: x, gone: 1}", "{a: 1, gone: 1}", "{a: 2}", "{a: 2, defaulted: x}"},
		{"a map of nulls is none", "", "{replicas: 1}", "", "{replicas: 1, strategy: {rollingUpdate: null}}", "{replicas: 1}"},
		{"null in a custom resource is a value", "Gadget", "{a: 1}", "{a: 1}", "{a: null}", "{a: null}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			kind := map[string]string{
				"": "apps/v1, kind: Deployment", "StatefulSet": "apps/v1, kind: StatefulSet", "Service": "v1, kind: Service",
				"NetworkPolicy": "networking.k8s.io/v1, kind: NetworkPolicy", "Gadget": "example.com/v1, kind: Gadget",
			}[test.kind]
			object := func(spec string) map[string]any {
				if spec == "" {
					return nil
				}
				return parseObject(t, "{apiVersion: "+kind+", metadata: {name: x}, spec: "+spec+"}")
			}
			got, want := mergeObject(object(test.live), object(test.applied), object(test.desired)), object(test.want)
			if !reflect.DeepEqual(got["spec"], want["spec"]) {
				g, _ := json.Marshal(got["spec"])
				w, _ := json.Marshal(want["spec"])
				t.Errorf("got  %s\nwant %s", g, w)
			}
		})
	}
}

// TestMergeKeepsWhatOthersChanged: a field that the manifest drops stays if someone else has
// given it another value since.
func TestMergeKeepsWhatOthersChanged(t *testing.T) {
	live := parseObject(t, `
apiVersion: example.com/v1
kind: Gadget
metadata:
  name: x
  managedFields:
  - {manager: krtpkg, operation: Update, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:mine": {}, "f:touched": {}}}}
  - {manager: injector, operation: Update, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:bundle": {}, "f:same": {}}}}
spec: {mine: 1, touched: 2, bundle: injected, same: 1}`)
	applied := parseObject(t, "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: x}, spec: {mine: 1, touched: 1, bundle: '', same: 1}}")
	desired := parseObject(t, "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: x}, spec: {}}")
	got := mergeObject(live, applied, desired)["spec"]
	if want := map[string]any{"bundle": "injected"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestMergeKeepsOthersMetadata: a manifest that drops its last annotation takes no other's along.
func TestMergeKeepsOthersMetadata(t *testing.T) {
	for _, annotations := range []string{"", ", annotations: null", ", annotations: {}"} {
		live := parseObject(t, "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: x, annotations: {mine: a, theirs: b}}}")
		applied := parseObject(t, "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: x, annotations: {mine: a}}}")
		desired := parseObject(t, "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: x"+annotations+"}}")
		got := mergeObject(live, applied, desired)["metadata"].(map[string]any)["annotations"]
		if want := map[string]any{"theirs": "b"}; !reflect.DeepEqual(got, want) {
			t.Errorf("with %q: got %v, want %v", annotations, got, want)
		}
	}
}
