package deploy

import (
	"encoding/json"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// A runtime with what makes permissions hard: roles, bindings, kinds of its own, cluster-scoped
// resources, a second namespace.
var rbacDocs = []string{
	"apiVersion: v1\nkind: Namespace\nmetadata: {name: rbac-other}",
	"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app, namespace: rbac-other}",
	"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: rbac-app}\nrules: [{apiGroups: [apps], resources: [deployments/scale], verbs: [update]}]",
	"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: rbac-all}\naggregationRule: {clusterRoleSelectors: [{matchLabels: {rbac-test: here}}]}\nrules: []",
	"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: rbac-app}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: rbac-app}\nsubjects: [{kind: ServiceAccount, name: app, namespace: rbac-other}]",
	"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: view, namespace: rbac-other}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\nsubjects: [{kind: ServiceAccount, name: app, namespace: rbac-other}]",
	"apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: own, namespace: rbac-other}\nrules: [{apiGroups: [''], resources: [secrets], resourceNames: [one], verbs: [get]}]",
}

func TestLeastAccess(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	version := func(value string) Runtime {
		return Runtime{Name: "least", Version: value, Values: []byte("v: " + value), Units: []Unit{
			unit(1, "roles", "1", rbacDocs...), unit(1, "kinds", "1", crd("gizmos", "Gizmo", "rbac.example")),
			unit(3, "app", value, "apiVersion: rbac.example/v1\nkind: Gizmo\nmetadata: {name: one, namespace: rbac-other}",
				configMap("settings", value), deployment("web", "")),
		}}
	}
	access, err := LeastAccess(version("1"), r.namespace, "deployer")
	if err != nil {
		t.Fatal(err)
	}
	if len(access.Unknown) > 0 {
		t.Errorf("unknown %v", access.Unknown)
	}
	if len(access.Namespaces) != 2 {
		t.Errorf("namespaces %v", access.Namespaces)
	}
	for _, rule := range access.ClusterRole.Rules {
		if text, _ := json.Marshal(rule); strings.Contains(string(text), `"*"`) {
			t.Errorf("a rule for everything: %s", text)
		}
	}
	r.create(access)
	least := r.as("deployer")
	for _, value := range []string{"1", "2"} {
		findings, err := least.Check(t.Context(), version(value), CheckOptions{})
		if err != nil || len(findings) > 0 {
			t.Errorf("check: %v, %v", err, findings)
		}
		if _, err := least.Apply(t.Context(), version(value), ApplyOptions{Options: quick()}); err != nil {
			t.Fatalf("apply of %s: %v", value, err)
		}
	}
	status, err := least.Status(t.Context(), "least", Options{})
	if err != nil || status[0].Health() != Healthy || status[0].HasDrifted() {
		t.Errorf("status %+v, %v", status, err)
	}
	more := version("3")
	more.Units = append(more.Units, unit(4, "secret", "1", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: more}"))
	findings, err := least.Check(t.Context(), more, CheckOptions{})
	if err != nil || len(findings) == 0 || !strings.Contains(findings[len(findings)-1].Message, "cronjobs.batch in namespace testleastaccess") {
		t.Errorf("check of more than is allowed: %v, %v", findings, err)
	}
	if _, err := least.Apply(t.Context(), more, ApplyOptions{Options: quick()}); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("apply of more than is allowed: %v", err)
	}
	if _, err := least.Delete(t.Context(), "least", DeleteOptions{Options: quick(), DeleteForeign: true}); err != nil {
		t.Errorf("delete: %v", err)
	}
	r.remove(access)
	r.wantBack(before)
}

func gvrOf(object any) (schema.GroupVersionResource, *unstructured.Unstructured, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return schema.GroupVersionResource{}, nil, err
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(data); err != nil {
		return schema.GroupVersionResource{}, nil, err
	}
	gvk := u.GroupVersionKind()
	return gvk.GroupVersion().WithResource(strings.ToLower(gvk.Kind) + "s"), u, nil
}

func (r *rig) create(access *Access) {
	r.t.Helper()
	for _, object := range access.ListObjects() {
		gvr, u, err := gvrOf(object)
		if err == nil {
			_, err = r.dynamic.Resource(gvr).Namespace(u.GetNamespace()).Create(r.t.Context(), u, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) remove(access *Access) {
	r.t.Helper()
	for _, object := range access.ListObjects() {
		gvr, u, err := gvrOf(object)
		if err == nil && u.GetName() != r.namespace {
			err = r.dynamic.Resource(gvr).Namespace(u.GetNamespace()).Delete(r.t.Context(), u.GetName(), metav1.DeleteOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			r.t.Error(err)
		}
	}
}

// as returns the cluster for a service account of the rig's namespace.
func (r *rig) as(account string) *Cluster {
	r.t.Helper()
	token, err := r.client.CoreV1().ServiceAccounts(r.namespace).CreateToken(r.t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	admin, err := clientcmd.BuildConfigFromFlags("", r.kubeconfig)
	if err != nil {
		r.t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(admin)
	config.BearerToken, config.QPS, config.WarningHandler = token.Status.Token, -1, rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		r.t.Fatal(err)
	}
	return &Cluster{config: config, client: client, namespace: r.namespace}
}

// The scopes that are known without a cluster are those of a real one.
func TestScopes(t *testing.T) {
	r := newRig(t)
	s := &session{cluster: r.Cluster, engine: &engine{cluster: r.Cluster, served: &servedKinds{}}}
	served, err := s.servedKinds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for gvk, resource := range served {
		if strings.Contains(gvk.Group, ".example") {
			continue // other tests'
		}
		checked++
		if clusterScoped[gvk.GroupKind()] == resource.Namespaced {
			t.Errorf("%s: namespaced is %t", gvk.GroupKind(), resource.Namespaced)
		}
	}
	if checked < 50 {
		t.Errorf("only %d kinds", checked)
	}
}
