package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// A runtime of twenty real products, the whole way onto a real control plane: images stand in
// under the products' own names in a local registry, and KWOK plays the pods.
func TestUpstreamRuntimeOnCluster(t *testing.T) {
	t.Parallel()
	cluster := clustertest.Borrow(t)
	vendor := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	edge := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg})
	s := newSite(t)
	s.env = append(s.env, "KUBECONFIG="+cluster.Kubeconfig,
		"KRTPKG_IMAGE_MIRROR=*="+vendor.Host+"/mirror", bundletest.MirrorsVariable(t))
	root, err := hack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	reference := func(version string) string { return edge.Host + "/site/upstream:" + version }
	for _, version := range []string{"1.0.0", "1.1.0"} {
		definition := filepath.Join(root, "testdata/upstream", version)
		s.standIn(vendor.Host+"/mirror", definition)
		published := vendor.Host + "/krt/upstream:" + version
		s.ok("build", "-f", definition)
		s.ok("push", "oci:dist:"+version, published)
		s.ok("sign", "--key", "cosign.key", published)
		// A generic tool mirrors it to the site: the images come along by the closure. One after the
		// other: this registry loses one of two referrers that are added at the same moment.
		registrytest.RunTool(t, edge.Env(t), registrytest.BuildTool(t, "oras"), "cp", "-r", "--concurrency", "1", "--from-plain-http", "--to-plain-http", published, reference(version))
	}
	s.env = append(s.env, "KRTPKG_IMAGE_MIRROR=", "KRTPKG_SOURCE_MIRROR=")
	s.write("site.yaml", "hello: {replicas: 3, greeting: moin}\n")

	w := newWatcher(t, cluster)
	w.playLoadBalancer()
	before := w.everything()

	t.Run("a plan says all and writes nothing", func(t *testing.T) {
		var plan struct {
			Create   int
			Changes  bool
			Bundles  []struct{ Action string }
			Findings []struct{ Severity, Message string }
		}
		r := s.run("plan", "--key", "cosign.pub", reference("1.0.0"), "--values", "site.yaml", "--exit-code", "-o", "json")
		if err := json.Unmarshal([]byte(r.stdout), &plan); err != nil || r.code != 5 {
			t.Fatalf("exit code %d, %v:\n%s%s", r.code, err, r.stdout, r.stderr)
		}
		if plan.Create < 300 || !plan.Changes || len(plan.Bundles) != 23 || plan.Bundles[0].Action != "install" {
			t.Errorf("plan %+v", plan)
		}
		for _, f := range plan.Findings {
			if f.Severity != "warning" {
				t.Errorf("finding %+v", f)
			}
		}
		if diff := written(before, w.everything()); len(diff) > 0 {
			t.Errorf("the plan wrote:\n%s", strings.Join(diff, "\n"))
		}
	})
	s.ok("apply", "--yes", "--key", "cosign.pub", reference("1.0.0"), "--values", "site.yaml", "--wait-timeout", "1m")
	first := w.everything()

	t.Run("every bundle is a kapp app, in layer order", func(t *testing.T) {
		w.inOrder([]string{"openstack-cloud-controller-manager"}, []string{"etcd"}, []string{"pulumi-kubernetes-operator"},
			[]string{"flannel"}, []string{"multus"}, []string{"cert-manager", "fluent-bit"}, []string{"gatekeeper"}, []string{"guestbook", "hello"})
		w.inOrder([]string{"metallb"}, []string{"contour"})
		listed := registrytest.RunTool(t, []string{"KUBECONFIG=" + cluster.Kubeconfig}, registrytest.BuildTool(t, "kapp"), "ls", "--json")
		if !strings.Contains(listed, `"upstream.cert-manager"`) {
			t.Errorf("kapp's own CLI does not list the apps:\n%s", listed)
		}
	})
	t.Run("workloads are ready and run from the site's registry", func(t *testing.T) {
		w.workloadsReady(strings.TrimSuffix(reference("1.0.0"), ":1.0.0") + "@sha256:")
	})
	t.Run("status is healthy, and knows of the newer version", func(t *testing.T) {
		r := s.run("status", "upstream", "--exit-code")
		if r.code != 0 || !strings.Contains(r.stdout, "newer: 1.1.0") || strings.Count(r.stdout, "  healthy ") != 23 {
			t.Errorf("exit code %d:\n%s%s", r.code, r.stdout, r.stderr)
		}
		if values := s.ok("values", "upstream"); values != "hello:\n  replicas: 3\n  greeting: moin\n" {
			t.Errorf("values:\n%s", values)
		}
	})
	t.Run("the same again writes nothing, with the values of the last apply", func(t *testing.T) {
		out := s.ok("apply", "--yes", "--key", "cosign.pub", reference("1.0.0"), "-o", "json")
		var view struct {
			Applied []struct{ Create, Update, Delete int }
		}
		if err := json.Unmarshal([]byte(out), &view); err != nil || len(view.Applied) != 23 {
			t.Fatalf("%v:\n%s", err, out)
		}
		for i, b := range view.Applied {
			if b.Create+b.Update+b.Delete != 0 {
				t.Errorf("bundle %d changed: %+v\n%s", i, b, s.run("plan", "--key", "cosign.pub", reference("1.0.0")).stdout)
			}
		}
		if diff := written(first, w.everything()); len(diff) > 0 {
			t.Errorf("resources were written:\n%s", strings.Join(diff, "\n"))
		}
	})
	t.Run("drift is seen, and mended by the next apply", func(t *testing.T) {
		w.damage("hello")
		r := s.run("status", "upstream", "--exit-code", "--full", "--html", "status.html")
		if page := string(readFile(t, s.path("status.html"))); !strings.Contains(page, "differs from what was applied") || !strings.Contains(page, ">drifted</text>") || !strings.Contains(page, `class="net `) {
			t.Errorf("page of the status:\n%s", page)
		}
		if drawn := s.ok("graph", reference("1.1.0"), "--cluster"); !strings.Contains(drawn, "drifted") || strings.Count(drawn, "absent") != 1 {
			t.Errorf("graph of another version:\n%s", drawn)
		}
		for _, text := range []string{"hello: Deployment hello (apps/v1) in namespace applications differs", "was applied, but is missing"} {
			if r.code != 5 || !strings.Contains(r.stdout, text) {
				t.Errorf("exit code %d, want 5 and %q:\n%s", r.code, text, r.stdout)
			}
		}
		s.ok("apply", "--yes", "--key", "cosign.pub", reference("1.0.0"), "--wait-timeout", "1m")
		if diff := leftovers(w.stable(first), w.stable(w.everything())); len(diff) > 0 {
			t.Errorf("not as before:\n%s", strings.Join(diff, "\n"))
		}
	})
	t.Run("an upgrade adds, changes and removes bundles", func(t *testing.T) {
		out := s.ok("apply", "--yes", "--key", "cosign.pub", reference("1.1.0"), "--wait-timeout", "1m")
		for _, text := range []string{"csi-driver-nfs", "1.1.0 ", "deleted: delete"} {
			if !strings.Contains(out, text) {
				t.Errorf("lacks %q:\n%s", text, out)
			}
		}
		if all := w.everything(); all["Job default/kube-bench"] != "" || all["Deployment kube-system/csi-nfs-controller"] == "" {
			t.Errorf("kube-bench is still there, or the NFS driver is not")
		}
	})
	t.Run("an older version is refused", func(t *testing.T) {
		s.refused(3, "--allow-downgrade", "plan", "--key", "cosign.pub", reference("1.0.0"))
		s.refused(3, "--allow-downgrade", "apply", "--yes", "--key", "cosign.pub", reference("1.0.0"))
	})
	t.Run("a rollback goes back to all of it", func(t *testing.T) {
		s.refused(3, "", "rollback", "upstream", "--yes", "--key", s.otherKey())
		s.ok("rollback", "upstream", "--yes", "--key", "cosign.pub", "--wait-timeout", "1m")
		if diff := leftovers(w.stable(first), w.stable(w.everything())); len(diff) > 0 {
			t.Errorf("not as before the upgrade:\n%s", strings.Join(diff, "\n"))
		}
		history := s.ok("history", "upstream")
		if strings.Count(history, "complete") != 3 || !strings.Contains(history, "3         1.0.0") {
			t.Errorf("history:\n%s", history)
		}
		if values := s.ok("values", "upstream"); !strings.Contains(values, "greeting: moin") {
			t.Errorf("values after the rollback:\n%s", values)
		}
	})
	t.Run("delete leaves nothing", func(t *testing.T) {
		w.foreign("velero")
		s.refused(1, "ConfigMap someone-elses (v1) in namespace velero, with Namespace velero", "delete", "upstream", "--yes")
		s.ok("delete", "upstream", "--yes", "--delete-foreign")
		if diff := w.leftovers(before); len(diff) > 0 {
			t.Errorf("left behind or lost:\n%s", strings.Join(diff, "\n"))
		}
		s.refused(1, "not installed", "delete", "upstream", "--yes")
	})
}

// standIn puts images under the names that a definition's manifests have into a registry.
func (s *site) standIn(prefix, definition string) {
	s.t.Helper()
	var found struct{ Images []struct{ Image string } }
	out := s.ok("images", "-f", definition, "--offline", "-o", "json")
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		s.t.Fatalf("%v:\n%s", err, out)
	}
	var images []string
	for _, f := range found.Images {
		if !slices.Contains(images, f.Image) {
			images = append(images, f.Image)
		}
	}
	if err := imagetest.FillRegistry(s.t.Context(), prefix, images...); err != nil {
		s.t.Fatal(err)
	}
}

// otherKey returns the public part of a key that signed nothing.
func (s *site) otherKey() string {
	s.t.Helper()
	s.makeKeyPair("other")
	return "other.pub"
}

// watcher looks at the API server itself.
type watcher struct {
	t         testing.TB
	client    *kubernetes.Clientset
	dynamic   dynamic.Interface
	metadata  metadata.Interface
	discovery discovery.DiscoveryInterface
}

func newWatcher(t testing.TB, c *clustertest.Cluster) *watcher {
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
	names, err := metadata.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &watcher{t, client, objects, names, client.Discovery()}
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

// playStorage gives each claim a volume, as the provisioner of a real cluster does, and takes it
// away with the claim.
func (w *watcher) playStorage() {
	claims, err := w.client.CoreV1().PersistentVolumeClaims("").Watch(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		volumes := w.client.CoreV1().PersistentVolumes()
		for event := range claims.ResultChan() {
			claim, ok := event.Object.(*corev1.PersistentVolumeClaim)
			if !ok {
				continue
			}
			name := "of-" + string(claim.UID)
			if event.Type == watch.Deleted {
				_ = volumes.Delete(w.t.Context(), name, metav1.DeleteOptions{})
				continue
			}
			if claim.Spec.VolumeName != "" {
				continue
			}
			class := ""
			if claim.Spec.StorageClassName != nil {
				class = *claim.Spec.StorageClassName
			}
			// That it already exists is as well.
			_, _ = volumes.Create(w.t.Context(), &corev1.PersistentVolume{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: corev1.PersistentVolumeSpec{
					StorageClassName: class, AccessModes: claim.Spec.AccessModes, Capacity: corev1.ResourceList(claim.Spec.Resources.Requests),
					ClaimRef:               &corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
					PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere"}},
				},
			}, metav1.CreateOptions{})
		}
	}()
}

// playOperators says of what operators would have made that it is there: their pods are played
// by KWOK and do nothing.
func (w *watcher) playOperators() {
	available := `{"status": {"paused": false, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, "unavailableReplicas": 0,
		"conditions": [{"type": "Available", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}`
	done := map[schema.GroupVersionResource]string{
		{Group: "cert-manager.io", Version: "v1", Resource: "clusterissuers"}:             `{"status": {"conditions": [{"type": "Ready", "status": "True"}]}}`,
		{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}:               `{"status": {"conditions": [{"type": "Ready", "status": "True"}]}}`,
		{Group: "monitoring.coreos.com", Version: "v1", Resource: "prometheuses"}:         available,
		{Group: "monitoring.coreos.com", Version: "v1", Resource: "alertmanagers"}:        available,
		{Group: "velero.io", Version: "v1", Resource: "backupstoragelocations"}:           `{"status": {"phase": "Available"}}`,
		{Group: "ceph.rook.io", Version: "v1", Resource: "cephclusters"}:                  `{"status": {"phase": "Ready"}}`,
		{Group: "ceph.rook.io", Version: "v1", Resource: "cephblockpools"}:                `{"status": {"phase": "Ready"}}`,
		{Group: "ceph.rook.io", Version: "v1", Resource: "cephobjectstores"}:              `{"status": {"phase": "Ready"}}`,
		{Group: "ceph.rook.io", Version: "v1", Resource: "cephfilesystems"}:               `{"status": {"phase": "Ready"}}`,
		{Group: "ceph.rook.io", Version: "v1", Resource: "cephfilesystemsubvolumegroups"}: `{"status": {"phase": "Ready"}}`,

		{Group: "opentelemetry.io", Version: "v1beta1", Resource: "opentelemetrycollectors"}:     `{"status": {"version": "0.158.0"}}`,
		{Group: "core.libopenstorage.org", Version: "v1", Resource: "storageclusters"}:           `{"status": {"phase": "Running"}}`,
		{Group: "operators.coreos.com", Version: "v1alpha1", Resource: "clusterserviceversions"}: `{"status": {"phase": "Succeeded"}}`,
	}
	ctx := w.t.Context()
	go func() {
		for ctx.Err() == nil {
			for resource, status := range done {
				// What is not served yet, or was changed meanwhile, is seen to the next time.
				list, err := w.dynamic.Resource(resource).List(ctx, metav1.ListOptions{})
				if err != nil {
					continue
				}
				for _, o := range list.Items {
					if o.Object["status"] != nil {
						continue
					}
					at := w.dynamic.Resource(resource).Namespace(o.GetNamespace())
					if _, err := at.Patch(ctx, o.GetName(), types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
						_, _ = at.Patch(ctx, o.GetName(), types.MergePatchType, []byte(status), metav1.PatchOptions{})
					}
				}
			}
			time.Sleep(500 * time.Millisecond)
		}
	}()
}

// labelNodes gives every node a label until the test ends.
func (w *watcher) labelNodes(key, value string) {
	w.t.Helper()
	if err := w.patchNodes(w.t.Context(), fmt.Appendf(nil, `{"metadata": {"labels": {%q: %q}}}`, key, value)); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := w.patchNodes(context.Background(), fmt.Appendf(nil, `{"metadata": {"labels": {%q: null}}}`, key)); err != nil {
			w.t.Error(err)
		}
	})
}

func (w *watcher) patchNodes(ctx context.Context, patch []byte) error {
	nodes, err := w.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		if _, err := w.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// everything returns each object on the cluster with its resource version, but for those that
// move or come and go by themselves.
func (w *watcher) everything() map[string]string {
	w.t.Helper()
	leaveOut := func(group string, r metav1.APIResource) bool { return volatile(group, r.Kind) }
	all, err := clustertest.ListObjects(w.t.Context(), w.discovery, w.metadata, leaveOut)
	for deadline := time.Now().Add(settleTime); err != nil && time.Now().Before(deadline); { // an API that goes away
		time.Sleep(200 * time.Millisecond)
		all, err = clustertest.ListObjects(w.t.Context(), w.discovery, w.metadata, leaveOut)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]string{}
	for o, m := range all {
		found[o.String()] = m.ResourceVersion
	}
	return found
}

// objects returns all that the cluster has but what comes and goes, by kind, namespace and name.
func (w *watcher) objects() map[string]unstructured.Unstructured {
	w.t.Helper()
	lists, err := w.discovery.ServerPreferredResources()
	for deadline := time.Now().Add(settleTime); err != nil && time.Now().Before(deadline); { // an API that goes away
		time.Sleep(200 * time.Millisecond)
		lists, err = w.discovery.ServerPreferredResources()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]unstructured.Unstructured{}
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
			if apierrors.IsNotFound(err) {
				continue // its definition has just gone
			}
			if err != nil {
				w.t.Fatalf("list %s: %v", r.Name, err)
			}
			for _, o := range objects.Items {
				found[fmt.Sprintf("%s %s/%s", r.Kind, o.GetNamespace(), o.GetName())] = o
			}
		}
	}
	return found
}

func volatile(group, kind string) bool {
	return group == "events.k8s.io" || slices.Contains([]string{"Event", "Lease", "Node", "EndpointSlice", "Endpoints", "ComponentStatus"}, kind)
}

// settleTime is what controllers get to finish what a command has set off.
const settleTime = 30 * time.Second

// leftovers waits until the cluster differs from before by want alone, as [leftovers] lists it, and returns the
// last differences.
func (w *watcher) leftovers(before map[string]string, want ...string) []string {
	w.t.Helper()
	for deadline := time.Now().Add(settleTime); ; time.Sleep(200 * time.Millisecond) {
		if diff := leftovers(before, w.everything()); slices.Equal(diff, want) || time.Now().After(deadline) {
			return diff
		}
	}
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

// inOrder checks that all bundles of a step were finished before those of the next began, as
// kapp recorded it.
func (w *watcher) inOrder(steps ...[]string) {
	w.t.Helper()
	var last time.Time
	for _, step := range steps {
		var ended time.Time
		for _, bundle := range step {
			record, err := w.client.CoreV1().ConfigMaps("default").Get(w.t.Context(), "upstream."+bundle, metav1.GetOptions{})
			if err != nil {
				w.t.Errorf("app %s: %v", bundle, err)
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
				w.t.Errorf("app %s: successful %t, began %s, the one before was finished %s", bundle, change.Successful, change.StartedAt, last)
			}
			if change.FinishedAt.After(ended) {
				ended = change.FinishedAt
			}
		}
		last = ended
	}
}

// stable leaves out what has another name each time, such as pods, and records.
func (w *watcher) stable(objects map[string]string) map[string]string {
	kept := map[string]string{}
	for name, version := range objects {
		kind, rest, _ := strings.Cut(name, " ")
		record := strings.HasPrefix(rest, "default/upstream.") || strings.HasPrefix(rest, "default/stack.")
		if !record && !slices.Contains([]string{"Pod", "ReplicaSet", "ControllerRevision", "IPAddress"}, kind) {
			kept[name] = version
		}
	}
	return kept
}

// damage changes a Deployment by hand, and deletes a Service.
func (w *watcher) damage(name string) {
	w.t.Helper()
	deployments := w.client.AppsV1().Deployments("applications")
	if _, err := deployments.Patch(w.t.Context(), name, types.MergePatchType, []byte(`{"spec": {"replicas": 1}}`), metav1.PatchOptions{}); err != nil {
		w.t.Fatal(err)
	}
	if err := w.client.CoreV1().Services("applications").Delete(w.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// foreign puts something of someone else into a namespace.
func (w *watcher) foreign(namespace string) {
	w.t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "someone-elses"}}
	if _, err := w.client.CoreV1().ConfigMaps(namespace).Create(w.t.Context(), cm, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
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
			nowhere := o.GetName() == "openstack-cloud-controller-manager" // it wants nodes of the control plane
			if ready != wanted || (wanted == 0) != nowhere {
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
