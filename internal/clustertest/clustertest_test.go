package clustertest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/render"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// Control planes run in parallel as far as memory goes.
func TestCountParallel(t *testing.T) {
	for meminfo, want := range map[string]int{
		"MemTotal:       24684084 kB\nMemFree:          500000 kB\nMemAvailable:   23581696 kB\n": 5,
		"MemTotal:        8000000 kB\nMemAvailable:    7500000 kB\nBuffers: 1 kB\n":               3,
		"MemAvailable:     900000 kB\n":             2,
		"MemTotal:        8000000 kB\n":             waiting, // an old kernel
		"MemAvailable:   99999999999999999999 kB\n": waiting,
	} {
		if got := countParallel(parseMemory(meminfo)); got != want {
			t.Errorf("%d tests run in parallel, want %d, with %q", got, want, meminfo)
		}
	}
}

func TestNodesAreReady(t *testing.T) {
	client := newClient(t, Borrow(t))
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != 2 {
		t.Errorf("%d nodes, want 2", len(nodes.Items))
	}
	for _, node := range nodes.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
				t.Errorf("node %s is not ready: %s", node.Name, condition.Message)
			}
		}
	}
}

// krtpkg knows of each kind that a cluster serves and keeps whether it is in namespaces, without a cluster.
func TestScopesAreKnown(t *testing.T) {
	_, lists, err := newClient(t, Borrow(t)).Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	for _, list := range lists {
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "get") {
				continue
			}
			kinds++
			var resource yaml.Node
			if err := resource.Encode(map[string]string{"apiVersion": list.GroupVersion, "kind": r.Kind}); err != nil {
				t.Fatal(err)
			}
			if namespaced, known := (render.Scopes{}).ScopeOf(&resource); !known || namespaced != r.Namespaced {
				t.Errorf("%s %s: namespaced %v, known %v; want %v", list.GroupVersion, r.Kind, namespaced, known, r.Namespaced)
			}
		}
	}
	if kinds < 50 {
		t.Errorf("only %d kinds", kinds)
	}
}

func TestVersionIsStamped(t *testing.T) {
	version, err := newClient(t, Borrow(t)).Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if version.Major != "1" || !strings.HasPrefix(version.GitVersion, "v1."+version.Minor+".") {
		t.Errorf("server version %+v; hack/cluster/ldflags sets it", version)
	}
}

// TestWorkloads takes a namespace with a Deployment, its Service and a Job from creation
// to the end.
func TestWorkloads(t *testing.T) {
	ctx := t.Context()
	client := newClient(t, Borrow(t))
	const ns = "workloads"
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AppsV1().Deployments(ns).Create(ctx, deployment("web", 2), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.BatchV1().Jobs(ns).Create(ctx, job("once"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	service, err := client.CoreV1().Services(ns).Create(ctx, service("web"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(service.Spec.ClusterIP, "127.96.") {
		t.Errorf("service has cluster IP %q", service.Spec.ClusterIP)
	}

	eventually(t, "the Deployment is Available", func() error {
		d, err := client.AppsV1().Deployments(ns).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.AvailableReplicas != 2 {
			return fmt.Errorf("%d of 2 replicas", d.Status.AvailableReplicas)
		}
		for _, condition := range d.Status.Conditions {
			if condition.Type == appsv1.DeploymentAvailable && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("no condition Available")
	})
	eventually(t, "the Job is complete", func() error {
		j, err := client.BatchV1().Jobs(ns).Get(ctx, "once", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range j.Status.Conditions {
			if condition.Type == batchv1.JobComplete && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("status %+v", j.Status)
	})
	eventually(t, "the Service has the pods", func() error {
		slices, err := client.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{
			LabelSelector: discoveryv1.LabelServiceName + "=web",
		})
		if err != nil {
			return err
		}
		addresses := 0
		for _, slice := range slices.Items {
			addresses += len(slice.Endpoints)
		}
		if addresses != 2 {
			return fmt.Errorf("%d endpoints", addresses)
		}
		return nil
	})

	if err := client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace is gone", func() error {
		_, err := client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return cmp.Or(err, errors.New("it is there"))
	})
	pods, err := client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) > 0 {
		t.Errorf("pods left: %v, error %v", pods.Items, err)
	}
}

// A borrowed cluster has nothing of the test that borrowed it before.
func TestBorrowAgain(t *testing.T) {
	var first *Cluster
	t.Run("leave something everywhere", func(t *testing.T) {
		first = Borrow(t)
		client, ctx := newClient(t, first), t.Context()
		_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "left"}}, metav1.CreateOptions{})
		for _, namespace := range []string{"left", "default"} {
			_, created := client.AppsV1().Deployments(namespace).Create(ctx, deployment("left", 1), metav1.CreateOptions{})
			err = errors.Join(err, created)
		}
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "left"}}
		_, created := client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{})
		// It refuses that the rest is deleted.
		url, none := "https://127.0.0.1:1/", admissionv1.SideEffectClassNone
		_, refused := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &admissionv1.ValidatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "left"},
			Webhooks: []admissionv1.ValidatingWebhook{{
				Name: "left.krtpkg.dev", ClientConfig: admissionv1.WebhookClientConfig{URL: &url}, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
				Rules: []admissionv1.RuleWithOperations{{
					Operations: []admissionv1.OperationType{admissionv1.Delete}, Rule: admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
				}},
			}},
		}, metav1.CreateOptions{})
		if err := errors.Join(err, created, refused); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the webhook refuses", func() error {
			err := client.AppsV1().Deployments("default").Delete(ctx, "left", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
			if err == nil {
				return errors.New("it does not")
			}
			return nil
		})
	})
	again := Borrow(t)
	if again != first {
		t.Errorf("another cluster was started, in %s", again.Dir)
	}
	client, ctx := newClient(t, again), t.Context()
	_, namespace := client.CoreV1().Namespaces().Get(ctx, "left", metav1.GetOptions{})
	_, workload := client.AppsV1().Deployments("default").Get(ctx, "left", metav1.GetOptions{})
	_, role := client.RbacV1().ClusterRoles().Get(ctx, "left", metav1.GetOptions{})
	for what, err := range map[string]error{"namespace": namespace, "workload": workload, "role": role} {
		if !apierrors.IsNotFound(err) {
			t.Errorf("%s: error %v, want that it is not found", what, err)
		}
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) > 0 {
		t.Errorf("%d pods are left, error %v", len(pods.Items), err)
	}
}

func TestStopLeavesNoProcess(t *testing.T) {
	c := Start(t)
	if got := processes(t, c.Dir); len(got) != 6 {
		t.Fatalf("processes of a running cluster: %q, want its parent and 5 components", got)
	}
	began := time.Now()
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopping took %s", took)
	}
	if left := processes(t, c.Dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestKillLeavesNoProcess kills the parent of the components, which then has no chance to
// end them.
func TestKillLeavesNoProcess(t *testing.T) {
	c, err := RunControlPlane(t.Context(), hack.PrepareForTest(t), t.TempDir(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err == nil {
		t.Error("Stop reports no error for a cluster that was killed")
	}
	eventually(t, "no process is left", func() error {
		if left := processes(t, c.Dir); len(left) > 0 {
			return fmt.Errorf("left behind: %q", left)
		}
		return nil
	})
}

func TestRunWantsItsOwnFolder(t *testing.T) {
	plane := hack.PrepareForTest(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kubeconfig"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := RunControlPlane(t.Context(), plane, dir, 2); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("Run in a used folder: error %v", err)
	}
}

func TestRunCanBeCanceled(t *testing.T) {
	plane := hack.PrepareForTest(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	dir := t.TempDir()
	if _, err := RunControlPlane(ctx, plane, dir, 2); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run with a second to start: error %v", err)
	}
	if left := processes(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func newClient(t *testing.T, c *Cluster) *kubernetes.Clientset {
	t.Helper()
	config, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// eventually waits for done to return nil.
func eventually(t *testing.T, what string, done func() error) {
	t.Helper()
	began := time.Now()
	for {
		err := done()
		if err == nil {
			t.Logf("%s after %s", what, time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("waited for this: %s; but: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// processes returns the command lines that mention dir.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("needs /proc to see processes")
	}
	var found []string
	for _, file := range files {
		args, err := os.ReadFile(file)
		if err == nil && bytes.Contains(args, []byte(dir)) {
			found = append(found, string(bytes.ReplaceAll(args, []byte{0}, []byte(" "))))
		}
	}
	return found
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       podSpec(),
			},
		},
	}
}

func job(name string) *batchv1.Job {
	spec := podSpec()
	spec.RestartPolicy = corev1.RestartPolicyNever
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: spec}},
	}
}

func service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Port: 80}},
		},
	}
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example/app:1"}}}
}
