package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// upstreamImages are the images of testdata/upstream, as its products name them.
var upstreamImages = []string{
	"docker.io/envoyproxy/envoy:distroless-v1.38.3", "fluent/fluent-bit:1.7.5",
	"ghcr.io/projectcontour/contour:v1.33.6", "openpolicyagent/gatekeeper:v3.23.0",
	"quay.io/jetstack/cert-manager-cainjector:v1.8.0", "quay.io/jetstack/cert-manager-controller:v1.8.0",
	"quay.io/jetstack/cert-manager-webhook:v1.8.0", "quay.io/metallb/controller:v0.16.1", "quay.io/metallb/speaker:v0.16.1",
}

// A runtime of real products, the whole way onto a real control plane: images stand in under
// the products' own names in a local registry, and KWOK plays the pods.
func TestUpstreamRuntimeOnCluster(t *testing.T) {
	t.Parallel()
	cluster := clustertest.Start(t)
	vendor := registrytest.Start(t, registrytest.Options{Kind: registrytest.Distribution3})
	edge := registrytest.Start(t, registrytest.Options{Kind: registrytest.Olareg})
	if err := imagetest.Registry(t.Context(), vendor.Host+"/mirror", upstreamImages...); err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.env = append(s.env, "KUBECONFIG="+cluster.Kubeconfig,
		"KRTPKG_IMAGE_MIRROR=*="+vendor.Host+"/mirror", "KRTPKG_SOURCE_MIRROR="+sourceMirrors(t))
	root, err := hack.Root()
	if err != nil {
		t.Fatal(err)
	}
	published, reference := vendor.Host+"/krt/upstream:1.0.0", edge.Host+"/site/upstream:1.0.0"
	s.ok("build", "-f", filepath.Join(root, "testdata/upstream"))
	s.ok("push", "oci:dist:1.0.0", published)
	s.ok("sign", "--key", "cosign.key", published)
	// A generic tool mirrors it to the site: the images come along by the closure. One after the
	// other: this registry loses one of two referrers that are added at the same moment.
	registrytest.Exec(t, edge.Env(t), registrytest.Tool(t, "oras"), "cp", "-r", "--concurrency", "1", "--from-plain-http", "--to-plain-http", published, reference)
	s.env = append(s.env, "KRTPKG_IMAGE_MIRROR=", "KRTPKG_SOURCE_MIRROR=")

	w := newWatcher(t, cluster)
	w.playLoadBalancer()
	before := w.everything()
	s.ok("apply", "--yes", "--key", "cosign.pub", reference, "--wait-timeout", "3m")

	t.Run("every bundle is a kapp app, in layer order", func(t *testing.T) {
		w.inOrder([]string{"upstream.metallb", "upstream.contour", "upstream.cert-manager", "upstream.fluent-bit", "upstream.gatekeeper"})
		listed := registrytest.Exec(t, []string{"KUBECONFIG=" + cluster.Kubeconfig}, registrytest.Tool(t, "kapp"), "ls", "--json")
		if !strings.Contains(listed, `"upstream.cert-manager"`) {
			t.Errorf("kapp's own CLI does not list the apps:\n%s", listed)
		}
	})
	t.Run("workloads are ready and run from the site's registry", func(t *testing.T) {
		w.workloadsReady(strings.TrimSuffix(reference, ":1.0.0") + "@sha256:")
	})
	t.Run("the same again writes nothing", func(t *testing.T) {
		versions := w.everything()
		out := s.ok("apply", "--yes", "--key", "cosign.pub", reference, "-o", "json")
		var view struct {
			Applied []struct{ Create, Update, Delete int }
		}
		if err := json.Unmarshal([]byte(out), &view); err != nil || len(view.Applied) != 5 {
			t.Fatalf("%v:\n%s", err, out)
		}
		for i, b := range view.Applied {
			if b.Create+b.Update+b.Delete != 0 {
				t.Errorf("bundle %d changed: %+v", i, b)
			}
		}
		if diff := written(versions, w.everything()); len(diff) > 0 {
			t.Errorf("resources were written:\n%s", strings.Join(diff, "\n"))
		}
	})
	t.Run("delete leaves nothing", func(t *testing.T) {
		s.ok("delete", "upstream", "--yes")
		if diff := leftovers(before, w.everything()); len(diff) > 0 {
			t.Errorf("left behind or lost:\n%s", strings.Join(diff, "\n"))
		}
		s.refused(1, "not installed", "delete", "upstream", "--yes")
	})
}

// sourceMirrors sends the URLs of testdata/upstream to where the corpus lies beside the
// checkout. Without a corpus there is no mirror, and the build fetches from upstream.
func sourceMirrors(t *testing.T) string {
	t.Helper()
	root, err := hack.Root()
	if err != nil {
		t.Fatal(err)
	}
	corpus := filepath.Join(root, "../shared/upstream")
	if dir := os.Getenv("KRTPKG_TEST_UPSTREAM"); dir != "" {
		corpus = dir
	}
	if _, err := os.Stat(corpus); err != nil {
		return ""
	}
	list, err := os.ReadFile(filepath.Join(root, "testdata/upstream/mirrors.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var mirrors []string
	for line := range strings.Lines(string(list)) {
		prefix, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		mirrors = append(mirrors, prefix+"="+filepath.Join(corpus, dir)+"/")
	}
	return strings.Join(mirrors, ",")
}

// watcher looks at the API server itself.
type watcher struct {
	t         *testing.T
	client    *kubernetes.Clientset
	dynamic   dynamic.Interface
	discovery discovery.DiscoveryInterface
}

func newWatcher(t *testing.T, c *clustertest.Cluster) *watcher {
	t.Helper()
	config, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &watcher{t, client, objects, client.Discovery()}
}

// playLoadBalancer gives an address to each Service that wants one, as the platform under a
// real cluster does: MetalLB's pods are played by KWOK and give none.
func (w *watcher) playLoadBalancer() {
	services, err := w.client.CoreV1().Services("").Watch(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		for event := range services.ResultChan() {
			service, ok := event.Object.(*corev1.Service)
			if !ok || service.Spec.Type != corev1.ServiceTypeLoadBalancer || len(service.Status.LoadBalancer.Ingress) > 0 {
				continue
			}
			service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.10"}}
			// A conflict brings another event, and with it another try.
			_, _ = w.client.CoreV1().Services(service.Namespace).UpdateStatus(w.t.Context(), service, metav1.UpdateOptions{})
		}
	}()
}

// labelNodes gives every node a label.
func (w *watcher) labelNodes(key, value string) {
	w.t.Helper()
	nodes, err := w.client.CoreV1().Nodes().List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	patch := fmt.Appendf(nil, `{"metadata": {"labels": {%q: %q}}}`, key, value)
	for _, node := range nodes.Items {
		if _, err := w.client.CoreV1().Nodes().Patch(w.t.Context(), node.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// everything is each object on the cluster with its resource version, but for those that
// move or come and go by themselves.
func (w *watcher) everything() map[string]string {
	w.t.Helper()
	lists, err := w.discovery.ServerPreferredResources()
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]string{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") || volatile(gv.Group, r.Kind) {
				continue
			}
			objects, err := w.dynamic.Resource(gv.WithResource(r.Name)).List(w.t.Context(), metav1.ListOptions{})
			if err != nil {
				w.t.Fatalf("list %s: %v", r.Name, err)
			}
			for _, o := range objects.Items {
				found[fmt.Sprintf("%s %s/%s", r.Kind, o.GetNamespace(), o.GetName())] = o.GetResourceVersion()
			}
		}
	}
	return found
}

func volatile(group, kind string) bool {
	return group == "events.k8s.io" || slices.Contains([]string{"Event", "Lease", "Node", "EndpointSlice", "Endpoints", "ComponentStatus"}, kind)
}

// leftovers lists what there is of one and not of the other.
func leftovers(before, after map[string]string) []string {
	var list []string
	for name := range before {
		if after[name] == "" {
			list = append(list, "- "+name)
		}
	}
	for name := range after {
		if before[name] == "" {
			list = append(list, "+ "+name)
		}
	}
	slices.Sort(list)
	return list
}

// written lists what has another resource version, besides leftovers.
func written(before, after map[string]string) []string {
	list := leftovers(before, after)
	for name, version := range after {
		if was := before[name]; was != "" && was != version {
			list = append(list, fmt.Sprintf("~ %s: resource version %s, was %s", name, version, was))
		}
	}
	slices.Sort(list)
	return list
}

// inOrder checks that each app was finished before the next began, as kapp recorded it.
func (w *watcher) inOrder(apps []string) {
	w.t.Helper()
	var last time.Time
	for _, app := range apps {
		record, err := w.client.CoreV1().ConfigMaps("default").Get(w.t.Context(), app, metav1.GetOptions{})
		if err != nil {
			w.t.Errorf("app %s: %v", app, err)
			continue
		}
		var spec struct {
			LastChange struct {
				StartedAt, FinishedAt time.Time
				Successful            bool
			}
		}
		if err := json.Unmarshal([]byte(record.Data["spec"]), &spec); err != nil {
			w.t.Fatal(err)
		}
		change := spec.LastChange
		if !change.Successful || change.StartedAt.Before(last) {
			w.t.Errorf("app %s: successful %t, began %s, the one before was finished %s", app, change.Successful, change.StartedAt, last)
		}
		last = change.FinishedAt
	}
}

// workloadsReady checks every Deployment and DaemonSet of the cluster, and its images.
func (w *watcher) workloadsReady(image string) {
	w.t.Helper()
	count := 0
	for _, resource := range []string{"deployments", "daemonsets"} {
		objects, err := w.dynamic.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: resource}).List(w.t.Context(), metav1.ListOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, o := range objects.Items {
			count++
			name := resource + " " + o.GetNamespace() + "/" + o.GetName()
			ready, wanted := number(o, "readyReplicas"), number(o, "replicas")
			if resource == "daemonsets" {
				ready, wanted = number(o, "numberReady"), number(o, "desiredNumberScheduled")
			}
			if ready != wanted || wanted == 0 {
				w.t.Errorf("%s: %d of %d ready", name, ready, wanted)
			}
			containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
			for _, c := range containers {
				if got := c.(map[string]any)["image"].(string); !strings.HasPrefix(got, image) {
					w.t.Errorf("%s runs %s, want %s…", name, got, image)
				}
			}
		}
	}
	if count < 8 {
		w.t.Errorf("only %d workloads", count)
	}
}

func number(o unstructured.Unstructured, field string) int64 {
	n, _, _ := unstructured.NestedInt64(o.Object, "status", field)
	return n
}
