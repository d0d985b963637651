package deploy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

var (
	serviceAccounts = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
	clusterRoles    = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}
	budgets         = schema.GroupVersionResource{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"}
	apiServices     = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
)

// copyObject does what "kubectl get -o yaml | edit | kubectl create" does.
func (r *rig) copyObject(gvr schema.GroupVersionResource, namespace, name, toNamespace, toName string) types.UID {
	r.t.Helper()
	object := r.getObject(gvr, namespace, name)
	metadata := object.Object["metadata"].(map[string]any)
	for _, key := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields"} {
		delete(metadata, key)
	}
	object.SetNamespace(toNamespace)
	object.SetName(toName)
	created, err := r.dynamic.Resource(gvr).Namespace(toNamespace).Create(r.t.Context(), object, metav1.CreateOptions{FieldManager: "kubectl-create"})
	if err != nil {
		r.t.Fatal(err)
	}
	return created.GetUID()
}

func (r *rig) plan(rt Runtime) *Plan {
	r.t.Helper()
	plan, err := r.Plan(r.t.Context(), rt, CheckOptions{Options: quick()})
	if err != nil {
		r.t.Fatalf("plan: %v", err)
	}
	return plan
}

// findings is a line for each finding of a plan.
func (p *Plan) lines() string {
	var lines []string
	for _, f := range p.Findings {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// TestCopiedMarks: a copy that a user makes of a resource, with all of its labels and
// annotations, is the user's.
func TestCopiedMarks(t *testing.T) {
	r := newRig(t)
	space := r.namespace + "-space"
	inside := strings.Replace(configMap("inside", "1"), "name: inside", "name: inside, namespace: "+space, 1)
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", namespaceManifest(space), inside, configMap("settings", "1"), configMap("other", "1"))}}
	r.apply(rt)
	mine := r.copyObject(configMaps, r.namespace, "settings", r.namespace, "mine")
	r.copyObject(configMaps, space, "inside", space, "mine")
	elsewhere := r.copyObject(configMaps, space, "inside", "default", "inside")
	t.Cleanup(func() {
		_ = r.dynamic.Resource(configMaps).Namespace("default").Delete(context.Background(), "inside", metav1.DeleteOptions{})
	})
	r.wantNoChanges(rt)
	rt = Runtime{Name: "edge", Version: "2", Units: []Unit{unit(1, "app", "2", namespaceManifest(space), configMap("other", "2"))}}
	r.apply(rt)
	r.wantSameObject(configMaps, r.namespace, "mine", mine)
	r.wantSameObject(configMaps, "default", "inside", elsewhere)
	var foreign *ForeignError
	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: quick()}); !errors.As(err, &foreign) || !strings.Contains(err.Error(), "ConfigMap mine") {
		t.Errorf("delete of a namespace with a copy: %v", err)
	}
	if err := r.dynamic.Resource(configMaps).Namespace(space).Delete(t.Context(), "mine", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: quick()}); err != nil {
		t.Errorf("delete: %v", err)
	}
	r.wantSameObject(configMaps, r.namespace, "mine", mine)
	r.wantSameObject(configMaps, "default", "inside", elsewhere)
}

// TestTerminatingObjects: what is about to go does not count as being there.
func TestTerminatingObjects(t *testing.T) {
	r := newRig(t)
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", configMap("held", "1"), configMap("other", "1"))}}
	r.apply(rt)
	first := r.uidOf(configMaps, r.namespace, "held")
	r.patchObject(configMaps, "held", `{"metadata": {"finalizers": ["reports.example/held"]}}`)
	if err := r.dynamic.Resource(configMaps).Namespace(r.namespace).Delete(t.Context(), "held", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	plan := r.plan(rt)
	if plan.CountChanges().Create != 1 || !strings.Contains(plan.lines(), "reports.example/held") {
		t.Errorf("plan: %s, findings:\n%s", planned(plan), plan.lines())
	}
	options := quick()
	options.WaitTimeout = 2 * time.Second
	_, err := r.Apply(t.Context(), rt, ApplyOptions{Options: options})
	if err == nil || !strings.Contains(err.Error(), "reports.example/held") {
		t.Errorf("apply while it is being deleted: %v", err)
	}
	time.AfterFunc(time.Second, func() {
		_, _ = r.dynamic.Resource(configMaps).Namespace(r.namespace).Patch(context.Background(), "held", types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{})
	})
	r.apply(rt)
	if r.uidOf(configMaps, r.namespace, "held") == first {
		t.Error("it is the object that was deleted")
	}
}

// TestWriteConflicts: controllers write to the same objects all the time.
func TestWriteConflicts(t *testing.T) {
	r := newRig(t)
	docs := func(value string) []string {
		all := []string{strings.Replace(deployment("web", ""), "app:1", "app:"+value, 1)}
		for i := range 6 {
			all = append(all, configMap(fmt.Sprint("c", i), value))
		}
		return all
	}
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", docs("1")...)}}
	r.apply(rt)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			for k := range 7 {
				select {
				case <-stop:
					return
				default:
				}
				gvr, name := configMaps, fmt.Sprint("c", k)
				body := fmt.Sprintf(`{"metadata": {"annotations": {"beat": "%d"}}, "data": {"leader": "%d"}}`, i, i)
				if k == 6 {
					gvr, name, body = deployments, "web", fmt.Sprintf(`{"metadata": {"annotations": {"beat": "%d"}}, "spec": {"revisionHistoryLimit": %d}}`, i, i%20)
				}
				_, _ = r.dynamic.Resource(gvr).Namespace(r.namespace).Patch(context.Background(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "controller"})
			}
		}
	}()
	for i := range 2 {
		rt = Runtime{Name: "edge", Version: fmt.Sprint(i + 2), Units: []Unit{unit(1, "app", fmt.Sprint(i+2), docs(fmt.Sprint(i+2))...)}}
		if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick()}); err != nil {
			t.Errorf("apply %d: %v", i, err)
		}
	}
	close(stop)
	<-ended
	r.eventually("the last version is rolled out", func() error {
		if plan := r.plan(rt); plan.HasChanges() || plan.CountChanges().Wait > 0 {
			return errors.New(planned(plan))
		}
		return nil
	})
	if data := fmt.Sprint(r.getObject(configMaps, r.namespace, "c0").Object["data"]); !strings.Contains(data, "leader") {
		t.Errorf("what the controller set is gone: %s", data)
	}
}

// TestConflictsInARow: somebody writes to an object between each look at it and the write.
func TestConflictsInARow(t *testing.T) {
	r := newRig(t)
	first := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", deployment("web", ""))}}
	r.apply(first)
	var conflicts atomic.Int64
	proxy := newFaultyProxy(r, true, func(req *http.Request) fault {
		if req.Method != http.MethodPut || !strings.HasSuffix(req.URL.Path, "/deployments/web") || req.URL.Query().Has("dryRun") {
			return passes
		}
		if n := conflicts.Add(1); n <= 25 {
			body := fmt.Sprintf(`{"metadata": {"annotations": {"beat": "%d"}}}`, n)
			_, err := r.dynamic.Resource(deployments).Namespace(r.namespace).Patch(req.Context(), "web", types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "controller"})
			if err != nil {
				t.Error(err)
			}
		}
		return passes
	})
	second := Runtime{Name: "edge", Version: "2", Units: []Unit{unit(1, "app", "2", strings.Replace(deployment("web", ""), "app:1", "app:2", 1))}}
	if _, err := proxy.connect(Config{Namespace: r.namespace}, &clientcmdapi.AuthInfo{}).Apply(t.Context(), second, ApplyOptions{Options: quick()}); err != nil {
		t.Fatal(err)
	}
	if conflicts.Load() <= 25 {
		t.Errorf("%d writes", conflicts.Load())
	}
	web := r.getObject(deployments, r.namespace, "web")
	if beat := web.GetAnnotations()["beat"]; beat != "25" {
		t.Errorf("what the controller set is gone: %q", beat)
	}
	if text := fmt.Sprint(web.Object["spec"]); !strings.Contains(text, "app:2") {
		t.Errorf("not rolled out: %s", text)
	}
}

// TestNormalizedValues: the API server writes some values in another way than the manifest.
func TestNormalizedValues(t *testing.T) {
	r := newRig(t)
	docs := []string{
		`apiVersion: apps/v1
kind: Deployment
metadata: {name: web, creationTimestamp: null, labels: null}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  strategy: {}
  template:
    metadata: {creationTimestamp: null, labels: {app: web}}
    spec:
      nodeSelector: {}
      volumes: [{name: tmp, emptyDir: {sizeLimit: 1024Mi}}]
      containers:
      - name: main
        image: registry.example/app:1
        args: []
        env: [{name: EMPTY, value: ""}]
        resources: {limits: {cpu: 1000m, memory: 1024Mi}, requests: {cpu: 0.1, memory: 0.5Gi}}`,
		"apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q}\nspec: {hard: {requests.cpu: 20000m, limits.memory: 102400Mi}}",
		"apiVersion: v1\nkind: LimitRange\nmetadata: {name: l}\nspec: {limits: [{type: Container, max: {cpu: 5000m}}]}",
		"apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: all, creationTimestamp: null}\nspec: {maxUnavailable: 1, selector: {}}",
		"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: inward}\nspec: {podSelector: {}, ingress: [{}], policyTypes: []}",
		"apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: web}\nspec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1024Mi}}}]}",
		claimManifest("data", r.namespace),
		crd("things", "Thing", "normal.example"),
		"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\nstatus: {loadBalancer: {}}",
	}
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", docs...), unit(2, "things", "1", "apiVersion: normal.example/v1\nkind: Thing\nmetadata: {name: one, creationTimestamp: null}\nspec: {at: 2024-01-02T03:04:05Z, n: 1.0}")}}
	r.apply(rt)
	r.wantNoChanges(rt)
	if drift := r.drift(); len(drift) > 0 {
		t.Errorf("drift of what was just applied: %+v", drift)
	}
	t.Log("once others have changed something, kapp's record does not decide any more")
	quotas := schema.GroupVersionResource{Version: "v1", Resource: "resourcequotas"}
	ranges := schema.GroupVersionResource{Version: "v1", Resource: "limitranges"}
	scalers := schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}
	for name, gvr := range map[string]schema.GroupVersionResource{"web": deployments, "q": quotas, "l": ranges, "all": budgets, "data": claimsGVR} {
		r.patchObject(gvr, name, `{"metadata": {"annotations": {"team.example/seen": "yes"}}}`)
	}
	r.patchObject(scalers, "web", `{"spec": {"minReplicas": 2}}`)
	r.patchObject(deployments, "web", `{"spec": {"progressDeadlineSeconds": 601}}`)
	r.wantNoChanges(rt)
	if drift := r.drift(); len(drift) > 0 {
		t.Errorf("drift where no field of the manifest was changed: %+v", drift)
	}
}

func twoVersions(plural, kind, group, alpha, stable string) string {
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.%[3]s}
spec:
  group: %[3]s
  scope: Namespaced
  names: {plural: %[1]s, kind: %[2]s}
  versions:
  - {name: v1alpha1, %[4]s, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
  - {name: v1, %[5]s, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}`, plural, kind, group, alpha, stable)
}

// TestRemovedVersions: a version of a kind is no longer served, although objects were applied,
// and are stored, in it.
func TestRemovedVersions(t *testing.T) {
	r := newRig(t)
	group := "versions.example"
	stable := schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gadgets"}
	object := func(version string) string {
		return fmt.Sprintf("apiVersion: %s/%s\nkind: Gadget\nmetadata: {name: one}\nspec: {size: 1}", group, version)
	}
	v1 := Runtime{Name: "edge", Version: "1", Units: []Unit{
		unit(1, "kinds", "1", twoVersions("gadgets", "Gadget", group, "served: true, storage: true", "served: true, storage: false")), unit(2, "app", "1", object("v1alpha1"))}}
	r.apply(v1)
	user := r.createObject(stable, r.namespace, "apiVersion: versions.example/v1\nkind: Gadget\nmetadata: {name: mine}")
	own := r.uidOf(stable, r.namespace, "one")
	v2 := Runtime{Name: "edge", Version: "2", Units: []Unit{
		unit(1, "kinds", "2", twoVersions("gadgets", "Gadget", group, "served: false, storage: false", "served: true, storage: true")), unit(2, "app", "2", object("v1"))}}
	for _, rt := range []Runtime{v2, v1, v2} {
		plan := r.plan(rt)
		if plan.CountChanges().Delete+plan.CountChanges().Create > 0 || preflight.RefuseFindings(plan.Findings) != nil {
			t.Errorf("plan of version %s: %s\n%s", rt.Version, planned(plan), plan.lines())
		}
		if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick()}); err != nil {
			t.Errorf("apply of version %s: %v", rt.Version, err)
		}
		r.wantSameObject(stable, r.namespace, "one", own)
		r.wantSameObject(stable, r.namespace, "mine", user.GetUID())
		r.wantNoChanges(rt)
		if drift := r.drift(); len(drift) > 0 {
			t.Errorf("drift: %+v", drift)
		}
	}
	t.Log("objects are still stored in the old version")
	v3 := Runtime{Name: "edge", Version: "3", Units: []Unit{unit(1, "kinds", "3", crd("gadgets", "Gadget", group)), v2.Units[1]}}
	plan := r.plan(v3)
	if err := preflight.RefuseFindings(plan.Findings); err == nil || !strings.Contains(err.Error(), "v1alpha1") {
		t.Errorf("plan of a version that drops a stored version: %v", err)
	}
	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: quick(), DeleteForeign: true}); err != nil {
		t.Error(err)
	}
}

// TestServiceTypes: the type of a Service changes, with what hangs on it.
func TestServiceTypes(t *testing.T) {
	r := newRig(t)
	const wait = "annotations: {kapp.k14s.io/disable-wait: ''}"
	service := func(spec string) Runtime {
		return Runtime{Name: "edge", Version: spec, Units: []Unit{unit(1, "app", "1", "apiVersion: v1\nkind: Service\nmetadata: {name: web, "+wait+"}\nspec: {selector: {app: web}, ports: [{port: 80, name: http}], "+spec+"}")}}
	}
	var address string
	for _, spec := range []string{
		"type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerClass: a.example/lb, allocateLoadBalancerNodePorts: true, loadBalancerSourceRanges: [10.0.0.0/8]", "type: ClusterIP", "type: LoadBalancer", "type: NodePort",
		"internalTrafficPolicy: Local", "type: LoadBalancer, loadBalancerClass: b.example/lb", "sessionAffinity: ClientIP", "type: ClusterIP",
	} {
		rt := service(spec)
		if err := preflight.RefuseFindings(r.plan(rt).Findings); err != nil {
			t.Errorf("plan of %s: %v", spec, err)
		}
		if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick()}); err != nil {
			t.Errorf("apply of %s: %v", spec, err)
		}
		r.wantNoChanges(rt)
		if drift := r.drift(); len(drift) > 0 {
			t.Errorf("drift of %s: %+v", spec, drift)
		}
		object := r.getObject(services, r.namespace, "web").Object["spec"].(map[string]any)
		if address == "" {
			address = fmt.Sprint(object["clusterIP"])
		}
		if object["clusterIP"] != address {
			t.Errorf("%s: the address was %s and is %v", spec, address, object["clusterIP"])
		}
		if _, set := object["externalTrafficPolicy"]; set && object["type"] == "ClusterIP" {
			t.Errorf("%s: %v", spec, object)
		}
	}
	outside := Runtime{Name: "edge", Version: "x", Units: []Unit{unit(1, "app", "1", "apiVersion: v1\nkind: Service\nmetadata: {name: web, "+wait+"}\nspec: {type: ExternalName, externalName: web.example}")}}
	for _, rt := range []Runtime{outside, service("type: ClusterIP"), service("clusterIP: None")} {
		_, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick()})
		if rt.Version == "clusterIP: None" {
			if err == nil || !strings.Contains(err.Error(), updateStrategy) {
				t.Errorf("a Service that becomes headless: %v", err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
		} else {
			r.wantNoChanges(rt)
		}
	}
}

// TestFixedFields: plan says of each kind what cannot be changed, and the way out.
func TestFixedFields(t *testing.T) {
	r := newRig(t)
	const set = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, annotations: {kapp.k14s.io/disable-wait: ""}}
spec:
  replicas: 0
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: registry.example/db:1}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: VALUEGi}}}`
	docs := []string{
		set,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fixed}\nimmutable: true\ndata: {key: 'VALUE'}",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: fixed}\nimmutable: true\nstringData: {key: 'VALUE'}",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: typed}\ntype: reports.example/tVALUE\nstringData: {key: a}",
		"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: bound}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: viewVALUE}\nsubjects: []",
		"apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: " + r.namespace + "}\nprovisioner: vVALUE.example/disk",
		"apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: " + r.namespace + ", annotations: {kapp.k14s.io/disable-wait: ''}}\nspec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Delete, hostPath: {path: /data/VALUE}}",
		"apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: " + r.namespace + "}\nvalue: VALUE",
		strings.Replace(claimManifest("claim", r.namespace), "[ReadWriteOnce]", "[ReadWriteOnceVALUE]", 1),
		"apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: cron}\nspec: {schedule: '* * * * VALUE', suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}}",
		"apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: " + r.namespace + "}\nhandler: hVALUE",
	}
	version := func(value string) Runtime {
		all := make([]string, len(docs))
		for i, d := range docs {
			all[i] = strings.ReplaceAll(strings.Replace(d, "ReadWriteOnceVALUE", map[string]string{"1": "ReadWriteOnce", "2": "ReadWriteMany"}[value], 1), "VALUE", value)
		}
		return Runtime{Name: "edge", Version: value, Units: []Unit{unit(1, "app", value, all...)}}
	}
	r.apply(version("1"))
	r.wantNoChanges(version("1"))
	plan := r.plan(version("2"))
	for _, what := range []string{"StatefulSet db", "ConfigMap fixed", "Secret fixed", "Secret typed", "RoleBinding bound", "StorageClass", "PersistentVolume ", "PriorityClass", "PersistentVolumeClaim claim", "RuntimeClass"} {
		found := false
		for _, f := range plan.Findings {
			if strings.HasPrefix(f.Resource, what) {
				found = true
				if f.Severity != preflight.SeverityError || !strings.Contains(f.Message, updateStrategy) || strings.Contains(f.Message, "opensesame") {
					t.Errorf("finding: %s", f)
				}
			}
		}
		if !found {
			t.Errorf("no finding of %s", what)
		}
	}
	r.deleted("edge")
}

// TestOwnWebhook: a bundle brings an admission webhook, with its server, and what it guards.
func TestOwnWebhook(t *testing.T) {
	r := newRig(t)
	guard := fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: %[1]s}
webhooks:
- name: guard.reports.example
  failurePolicy: Fail
  sideEffects: None
  timeoutSeconds: 1
  admissionReviewVersions: [v1]
  clientConfig: {service: {name: guard, namespace: %[1]s}}
  objectSelector: {matchLabels: {guarded: %[1]s}}
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE, UPDATE, DELETE]}]`, r.namespace)
	guarded := func(value string) string {
		return strings.Replace(configMap("guarded", value), "name: guarded", "name: guarded, labels: {guarded: "+r.namespace+"}", 1)
	}
	service := "apiVersion: v1\nkind: Service\nmetadata: {name: guard}\nspec: {selector: {app: guard}, ports: [{port: 443}]}"
	runtime := func(version string) Runtime {
		return Runtime{Name: "edge", Version: version, Units: []Unit{unit(1, "app", version, guard, service, deployment("guard", ""), guarded(version))}}
	}
	r.apply(runtime("1"))
	r.wantNoChanges(runtime("1"))
	r.deleted("edge")
}

// TestUnavailableAPI: what serves an API group is down, which is not a concern of the runtime's; and
// one that is its own never comes up.
func TestUnavailableAPI(t *testing.T) {
	r := newRig(t)
	apiService := func(name string) string {
		version, group, _ := strings.Cut(name, ".")
		return fmt.Sprintf("apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: %s}\nspec: {group: %s, version: %s, groupPriorityMinimum: 1000, versionPriority: 15, insecureSkipTLSVerify: true, service: {name: nobody, namespace: %s}}", name, group, version, r.namespace)
	}
	r.createObject(apiServices, "", apiService("v1.down.example"))
	removeForeign := func() {
		_ = r.dynamic.Resource(apiServices).Delete(context.Background(), "v1.down.example", metav1.DeleteOptions{})
	}
	t.Cleanup(removeForeign)
	r.eventually("the group is unavailable", func() error {
		if err := r.client.Discovery().RESTClient().Get().AbsPath("/apis/down.example/v1/things").Do(t.Context()).Error(); !apierrors.IsServiceUnavailable(err) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	space := r.namespace + "-space"
	options := quick()
	options.WaitTimeout = 2 * time.Second
	v1 := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", namespaceManifest(space), crd("things", "Thing", "api.example"), configMap("a", "1"))}}
	if _, err := r.Apply(t.Context(), v1, ApplyOptions{Options: options}); err != nil {
		t.Error(err)
	}
	r.wantNoChanges(v1)
	began := time.Now()
	if status, err := r.Status(t.Context(), "edge", quick()); err != nil || status[0].Health() != Healthy || time.Since(began) > 10*time.Second {
		t.Errorf("status, after %s: %+v, error %v", time.Since(began), status, err)
	}
	v2 := Runtime{Name: "edge", Version: "2", Units: []Unit{unit(1, "app", "2", namespaceManifest(space), configMap("a", "1"), apiService("v1.own.example"))}}
	_, err := r.Apply(t.Context(), v2, ApplyOptions{Options: options})
	if err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("apply of an APIService without a server: %v", err)
	}
	_, err = r.Delete(t.Context(), "edge", DeleteOptions{Options: options})
	if err == nil || !strings.Contains(err.Error(), "down.example/v1") {
		t.Errorf("delete of a namespace while an API group is unavailable: %v", err)
	}
	removeForeign()
	options.WaitTimeout = time.Minute
	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: options}); err != nil {
		t.Error(err)
	}
}

// TestDisruptionBudgets: of budgets for evictions plan says what will keep nodes from being
// drained; the API server is asked for an eviction to see that it is so.
func TestDisruptionBudgets(t *testing.T) {
	r := newRig(t)
	budget := func(name, spec string) string {
		return fmt.Sprintf("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: %s}\nspec: {%s}", name, spec)
	}
	other := strings.Replace(deployment("other", ""), "replicas: 2", "replicas: 1", 1)
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{
		unit(1, "app", "1", deployment("web", ""), budget("web", "maxUnavailable: 0, selector: {matchLabels: {app: web}}"),
			other, budget("other", "minAvailable: 1, selector: {matchLabels: {app: other}}"),
			budget("twice", "maxUnavailable: 1, selector: {matchLabels: {app: other}}"), budget("fine", "maxUnavailable: 1, selector: {matchLabels: {app: none}}")),
		unit(2, "more", "1", budget("all", "minAvailable: 100%, selector: {}")),
	}}
	plan := r.plan(rt)
	for _, want := range []string{
		"PodDisruptionBudget web (policy/v1)", "PodDisruptionBudget other (policy/v1)", "PodDisruptionBudget all (policy/v1)", "PodDisruptionBudget twice (policy/v1)",
	} {
		if !strings.Contains(plan.lines(), want) {
			t.Errorf("no finding of %s", want)
		}
	}
	if strings.Contains(plan.lines(), "Budget fine") || preflight.RefuseFindings(plan.Findings) != nil {
		t.Errorf("findings:\n%s", plan.lines())
	}
	r.apply(rt)
	r.wantNoChanges(rt)
	evict := func(app string) error {
		pods, err := r.client.CoreV1().Pods(r.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil || len(pods.Items) == 0 {
			t.Fatalf("pods: %v", err)
		}
		return r.client.PolicyV1().Evictions(r.namespace).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pods.Items[0].Name, Namespace: r.namespace}})
	}
	for _, app := range []string{"web", "other"} {
		if err := evict(app); err == nil || !strings.Contains(err.Error(), "more than one PodDisruptionBudget") {
			t.Errorf("eviction of a pod of %s: %v", app, err)
		}
	}
	if status, err := r.Status(t.Context(), "edge", quick()); err != nil || status[0].Health() != Healthy {
		t.Errorf("status %+v, %v", status, err)
	}
	t.Log("an upgrade and its end are not held up by a budget")
	rt.Units[0] = unit(1, "app", "2", strings.Replace(deployment("web", ""), "app:1", "app:2", 1), budget("web", "maxUnavailable: 0, selector: {matchLabels: {tier: web}}"), other)
	rt.Version = "2"
	r.apply(rt)
	selector := fmt.Sprint(r.getObject(budgets, r.namespace, "web").Object["spec"].(map[string]any)["selector"])
	if selector != "map[matchLabels:map[tier:web]]" {
		t.Errorf("selector of the budget: %s", selector)
	}
	t.Log("a selector that others have narrowed is the manifest's again: it is replaced as a whole")
	r.patchObject(budgets, "all", `{"spec": {"selector": {"matchLabels": {"app": "web"}}}}`)
	if status, _ := r.Status(t.Context(), "edge", quick()); !status[0].HasDrifted() {
		t.Error("no drift of a selector that was narrowed")
	}
	r.deleted("edge")
}

// TestOtherManagers: what Flux, Argo CD or a controller manages is not adopted by the way.
func TestOtherManagers(t *testing.T) {
	r := newRig(t)
	owner := r.createObject(configMaps, r.namespace, configMap("owner", "1"))
	marks := map[string]string{
		"flux":    "labels: {kustomize.toolkit.fluxcd.io/name: apps, kustomize.toolkit.fluxcd.io/namespace: flux-system}",
		"release": "labels: {helm.toolkit.fluxcd.io/name: shop, helm.toolkit.fluxcd.io/namespace: flux-system}",
		"argo":    "annotations: {argocd.argoproj.io/tracking-id: 'shop:/ConfigMap:x/argo'}",
		"made":    fmt.Sprintf("ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: %s, controller: true}]", owner.GetUID()),
	}
	var docs []string
	for name, mark := range marks {
		r.createObject(configMaps, r.namespace, strings.Replace(configMap(name, "theirs"), "name: "+name, "name: "+name+", "+mark, 1))
		docs = append(docs, configMap(name, "ours"))
	}
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", docs...)}}
	plan := r.plan(rt)
	err := preflight.RefuseFindings(plan.Findings)
	for _, want := range []string{"Kustomization flux-system/apps of Flux", "HelmRelease flux-system/shop of Flux", "application shop of Argo CD", "ConfigMap owner"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("plan does not say %q: %v", want, err)
		}
	}
	if !errors.Is(err, ErrOwned) {
		t.Errorf("not ErrOwned: %v", err)
	}
	if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick(), TakeOver: true}); err != nil {
		t.Fatal(err)
	}
	for name := range marks {
		object := r.getObject(configMaps, r.namespace, name)
		if text := fmt.Sprint(object.GetLabels(), object.GetAnnotations(), object.GetOwnerReferences()); strings.Contains(text, "toolkit.fluxcd") || strings.Contains(text, "tracking-id") || len(object.GetOwnerReferences()) > 0 {
			t.Errorf("marks of another manager are still on %s: %s", name, text)
		}
	}
	r.wantNoChanges(rt)
}

// TestSharedAccounts: others add to lists of a ServiceAccount.
func TestSharedAccounts(t *testing.T) {
	r := newRig(t)
	account := func(secret string) string {
		return "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app}\nimagePullSecrets: [{name: " + secret + "}]"
	}
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", account("one"))}}
	r.apply(rt)
	r.patchObject(serviceAccounts, "app", `{"metadata": {"annotations": {"cloud.example/role": "x"}}, "secrets": [{"name": "token"}]}`)
	r.wantNoChanges(rt)
	r.apply(Runtime{Name: "edge", Version: "2", Units: []Unit{unit(1, "app", "2", account("two"))}})
	object := r.getObject(serviceAccounts, r.namespace, "app").Object
	if got := fmt.Sprint(object["imagePullSecrets"], object["secrets"]); strings.Contains(got, "one") || !strings.Contains(got, "two") || !strings.Contains(got, "token") {
		t.Errorf("after an upgrade: %s", got)
	}
}

// TestSameNames: resources that differ by nothing but their API group; and one of the whole
// cluster in two runtimes.
func TestSameNames(t *testing.T) {
	r := newRig(t)
	object := func(group, value string) string {
		return fmt.Sprintf("apiVersion: %s/v1\nkind: Gadget\nmetadata: {name: one}\nspec: {value: %q}", group, value)
	}
	kinds := unit(1, "kinds", "1", crd("gadgets", "Gadget", "a.same.example"), crd("gadgets", "Gadget", "b.same.example"))
	gvr := func(group string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gadgets"}
	}
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{kinds, unit(2, "a", "1", object("a.same.example", "1")), unit(3, "b", "1", object("b.same.example", "1"))}}
	r.apply(rt)
	r.wantNoChanges(rt)
	uid := r.uidOf(gvr("a.same.example"), r.namespace, "one")
	rt = Runtime{Name: "edge", Version: "2", Units: []Unit{kinds, unit(2, "a", "2", object("a.same.example", "2"))}}
	r.apply(rt)
	r.wantSameObject(gvr("a.same.example"), r.namespace, "one", uid)
	if r.getObject(gvr("b.same.example"), r.namespace, "one") != nil {
		t.Error("the one of the other group was not deleted")
	}
	r.deleted("edge")

	role := "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: " + r.namespace + "}\nrules: []"
	r.apply(Runtime{Name: "first", Version: "1", Units: []Unit{unit(1, "app", "1", role)}})
	second, err := Connect(Config{Kubeconfig: r.kubeconfig, Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	other := Runtime{Name: "second", Version: "1", Units: []Unit{unit(1, "app", "1", role)}}
	plan, err := second.Plan(t.Context(), other, CheckOptions{Options: quick()})
	if err != nil {
		t.Fatal(err)
	}
	if err := preflight.RefuseFindings(plan.Findings); err == nil || !strings.Contains(err.Error(), "first.app") || !strings.Contains(err.Error(), "namespace: "+r.namespace) {
		t.Errorf("a role of a runtime that is recorded in another namespace: %v", err)
	}
	r.uidOf(clusterRoles, "", r.namespace)
	r.deleted("first")
}

// TestControllerGoesFirst: a finalizer of an object is its controller's, which the same bundle
// has: kapp deletes both at the same time.
func TestControllerGoesFirst(t *testing.T) {
	r := newRig(t)
	gadgets := schema.GroupVersionResource{Group: "controller.example", Version: "v1", Resource: "gadgets"}
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{
		unit(1, "app", "1", crd("gadgets", "Gadget", gadgets.Group), deployment("operator", "")),
		unit(2, "objects", "1", "apiVersion: controller.example/v1\nkind: Gadget\nmetadata: {name: one, finalizers: [controller.example/clean]}"),
	}}
	r.apply(rt)
	options := quick()
	options.WaitTimeout = 2 * time.Second
	_, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: options})
	if err == nil || !strings.Contains(err.Error(), "controller.example/clean") || !r.exists(deployments, "operator") {
		t.Errorf("delete of what a finalizer holds: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // a controller that makes what was deleted again
		for ctx.Err() == nil {
			object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "controller.example/v1", "kind": "Gadget", "metadata": map[string]any{"name": "one"}}}
			_, _ = r.dynamic.Resource(gadgets).Namespace(r.namespace).Create(ctx, object, metav1.CreateOptions{})
			time.Sleep(20 * time.Millisecond)
		}
	}()
	r.patchObject(gadgets, "one", `{"metadata": {"finalizers": null}}`)
	_, err = r.Delete(t.Context(), "edge", DeleteOptions{Options: options})
	var foreign *ForeignError
	if err != nil && !errors.As(err, &foreign) {
		t.Errorf("delete while something makes it again: %v", err)
	}
	cancel()
	options.WaitTimeout = 20 * time.Second
	if _, err := r.Delete(context.Background(), "edge", DeleteOptions{Options: options, DeleteForeign: true}); err != nil && !errors.Is(err, ErrNotInstalled) {
		t.Errorf("delete: %v", err)
	}
}

// TestReplacedDefinition: a definition that is deleted and created again takes along what users have
// made of its kind.
func TestReplacedDefinition(t *testing.T) {
	r := newRig(t)
	gadgets := schema.GroupVersionResource{Group: "replaced.example", Version: "v1", Resource: "gadgets"}
	definition := func(label string) string {
		return strings.Replace(crd("gadgets", "Gadget", gadgets.Group), "metadata: {", "metadata: {annotations: {"+updateStrategy+": always-replace}, labels: {v: "+label+"}, ", 1)
	}
	own := unit(2, "own", "1", "apiVersion: replaced.example/v1\nkind: Gadget\nmetadata: {name: own}")
	r.apply(Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "kinds", "1", definition("a")), own}})
	mine := r.createObject(gadgets, r.namespace, "apiVersion: replaced.example/v1\nkind: Gadget\nmetadata: {name: mine}")
	rt := Runtime{Name: "edge", Version: "2", Units: []Unit{unit(1, "kinds", "2", definition("b")), own}}
	plan := r.plan(rt)
	if !plan.Bundles[0].Changes[0].Replace || strings.Contains(plan.lines(), "Gadget own") {
		t.Errorf("plan %+v, findings %s", plan.Bundles[0].Changes, plan.lines())
	}
	_, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick()})
	var foreign *ForeignError
	if !errors.As(err, &foreign) || !strings.Contains(err.Error(), "Gadget mine") {
		t.Errorf("apply: %v", err)
	}
	r.wantSameObject(gadgets, r.namespace, "mine", mine.GetUID())
	if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick(), DeleteForeign: true}); err != nil {
		t.Error(err)
	}
	r.uidOf(gadgets, r.namespace, "own")
	r.deleted("edge")
}

// TestWaitsAgain: what an apply that broke off was waiting for is waited for again before what comes after it
// (carvel-dev/kapp issue 729).
func TestWaitsAgain(t *testing.T) {
	r := newRig(t)
	first := strings.Replace(deployment("stuck", "no-such-label: here"), "metadata: {name: stuck}", "metadata: {name: stuck, annotations: {kapp.k14s.io/change-group: first}}", 1)
	after := strings.Replace(configMap("after", "1"), "name: after", "name: after, annotations: {kapp.k14s.io/change-rule: upsert after upserting first}", 1)
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", first, after)}}
	for attempt := range 2 {
		options := quick()
		options.WaitTimeout = 2 * time.Second
		if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: options}); err == nil || !strings.Contains(err.Error(), "stuck") {
			t.Errorf("attempt %d: %v", attempt+1, err)
		}
		if r.exists(configMaps, "after") {
			t.Fatalf("attempt %d: what comes after was applied before", attempt+1)
		}
	}
}
