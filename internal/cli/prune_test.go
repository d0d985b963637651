package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
	results "krtpkg.dev/krtpkg/pkg/result"
)

// shopVersion writes the definition of a version of the bundle shop, with an image of its own.
func (s *site) shopVersion(version, image string, more ...string) {
	s.t.Helper()
	if err := imagetest.FillLayout(s.path("img"), image); err != nil {
		s.t.Fatal(err)
	}
	s.write("shop/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: shop, version: "+version+"}\nspec:\n  layer: 6\n  sources: [{file: all.yaml}]\n"+strings.Join(more, ""),
		"shop/all.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: default}\nspec:\n  selector: {matchLabels: {app: web}}\n"+
			"  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: main, image: "+image+"}]}\n")
}

// What operators of a site do every week, on one cluster.
func TestUpkeepOfSite(t *testing.T) {
	t.Parallel()
	cluster := clustertest.Borrow(t)
	edge := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	s := newSite(t)
	s.env = append(s.env, "KUBECONFIG="+cluster.Kubeconfig)
	repository := edge.Host + "/site/shop"
	for _, version := range []string{"0.9.0", "1.0.0", "2.0.0", "3.0.0"} {
		s.shopVersion(version, "ghcr.io/example/web:"+version)
		s.ok("build", "-f", "shop")
		s.ok("push", "oci:dist:"+version, repository)
		s.ok("sign", "--key", "cosign.key", repository+":"+version)
		if version == "1.0.0" || version == "2.0.0" {
			s.ok("apply", repository+":"+version, "--key", "cosign.pub", "--yes", "--wait-timeout", "1m")
		}
	}
	if status := s.ok("status", "--all-namespaces", "--no-registry"); !strings.Contains(status, "shop 2.0.0") || !strings.Contains(status, "healthy  (namespace default)\n") {
		t.Errorf("status of all namespaces:\n%s", status)
	}
	elsewhere := s.run("status", "--namespace", "kube-system")
	if elsewhere.code != 0 || !strings.Contains(elsewhere.stderr, "nothing is applied in namespace kube-system: there are runtimes in default (--namespace default, or -A for all)") {
		t.Errorf("status of another namespace: exit code %d\n%s", elsewhere.code, elsewhere.stderr)
	}
	s.refused(1, "shopping: not installed in any namespace", "status", "shopping", "-A")
	statusOfSeveral(t, s, newWatcher(t, cluster).client, edge.Host)
	t.Run("prune", func(t *testing.T) { pruneSite(t, s, edge, repository) })
	t.Run("images", func(t *testing.T) { auditImages(t, s, newWatcher(t, cluster), repository) })
}

// statusOfSeveral looks at namespaces of which one has the same runtime from another repository, and one cannot be read.
func statusOfSeveral(t *testing.T, s *site, client kubernetes.Interface, host string) {
	ctx := t.Context()
	record, err := client.CoreV1().ConfigMaps("default").Get(ctx, records.ObjectName("shop"), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	revisions := strings.ReplaceAll(record.Data["revisions.yaml"], host+"/site/shop@", host+"/site/copied@")
	if revisions == record.Data["revisions.yaml"] {
		t.Fatalf("the record does not have the reference:\n%s", revisions)
	}
	for name, text := range map[string]string{"copied": revisions, "unreadable": "{"} {
		if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		other := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: record.Name, Labels: record.Labels}, Data: map[string]string{"revisions.yaml": text}}
		if _, err := client.CoreV1().ConfigMaps(name).Create(ctx, other, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		defer func() { // the records of all namespaces are read before a prune
			_ = client.CoreV1().ConfigMaps(name).Delete(ctx, record.Name, metav1.DeleteOptions{})
		}()
	}
	r := s.run("status", "-A", "-o", "json")
	var got results.Status
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatalf("%v\n%s%s", err, r.stdout, r.stderr)
	}
	var lines []string
	for _, v := range got.Runtimes {
		lines = append(lines, fmt.Sprint(v.Namespace, " ", v.Name, " ", v.Newer))
	}
	slices.Sort(lines)
	if want := []string{"copied shop []", "default shop [3.0.0]"}; !slices.Equal(lines, want) {
		t.Errorf("status %q, want %q", lines, want)
	}
	if want := "show the status in namespace unreadable: configmap unreadable/shop.krtpkg.dev"; r.code != 1 || got.Error == nil || !strings.Contains(got.Error.Message, want) || !strings.Contains(r.stderr, want) {
		t.Errorf("exit code %d, error %+v, want %q\n%s", r.code, got.Error, want, r.stderr)
	}
	if r := s.run("status", "shop", "-A", "--no-registry"); r.code != 1 || !strings.Contains(r.stdout, "healthy  (namespace default)\n") || !strings.Contains(r.stderr, "unreadable") {
		t.Errorf("status as text: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// pruneSite deletes what neither the cluster nor anybody else needs: what stays works with every tool.
func pruneSite(t *testing.T, s *site, edge *registrytest.Registry, repository string) {
	before, err := edge.DiskBytes()
	if err != nil {
		t.Fatal(err)
	}
	s.refused(2, "pass --keep, --keep-versions or --cluster", "prune", repository, "--yes")
	s.refused(2, "--yes", "prune", repository, "--keep-versions", "1")
	s.refused(1, "stabel", "prune", repository, "--keep", "stabel", "--yes")
	s.refused(1, "no tag matches", "prune", repository, "--keep", "9.*", "--keep-versions", "1", "--yes")
	s.refused(2, "--context requires --cluster", "prune", repository, "--keep-versions", "1", "--context", "edge", "--yes")
	s.refused(2, "require --cluster or --contexts", "prune", repository, "--keep-versions", "1", "-n", "edge", "--yes")
	s.refused(1, "--allow-no-revisions", "prune", repository, "--keep-versions", "1", "--cluster", "-n", "elsewhere", "--yes")
	var plan results.Prune
	dry := s.ok("prune", repository, "--keep-versions", "1", "--cluster", "--dry-run", "-o", "json")
	if err := json.Unmarshal([]byte(dry), &plan); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, v := range plan.Versions {
		reason := strings.Join(v.Reasons, ", ")
		if i := strings.Index(reason, " on http"); i >= 0 {
			reason = reason[:i]
		}
		lines = append(lines, v.Version+": "+reason)
	}
	if got, want := strings.Join(lines, "; "), "3.0.0: newest version; 2.0.0: revision 2 of shop; 1.0.0: revision 1 of shop; 0.9.0: "; got != want {
		t.Errorf("plan %s, want %s", got, want)
	}
	text := s.ok("prune", repository, "--keep-versions", "1", "--cluster", "--yes")
	if !strings.Contains(text, "delete") || !strings.Contains(text, "0.9.0") {
		t.Errorf("it printed:\n%s", text)
	}
	if left, _ := filepath.Glob(s.path("cache/krtpkg/prunes/*")); len(left) > 0 {
		t.Errorf("records are left: %q", left)
	}
	if err := edge.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := edge.DiskBytes()
	if err != nil {
		t.Fatal(err)
	}
	if before-after < plan.Bytes || plan.Bytes == 0 {
		t.Errorf("%d bytes before, %d after, the plan has %d", before, after, plan.Bytes)
	}
	s.refused(1, "", "verify", "--key", "cosign.pub", repository+":0.9.0")
	for _, version := range []string{"1.0.0", "2.0.0", "3.0.0"} {
		s.ok("check", repository+":"+version)
		s.ok("verify", "--key", "cosign.pub", repository+":"+version)
	}
	registrytest.RunTool(t, nil, registrytest.BuildTool(t, "imgpkg"), "copy", "-b", repository+":3.0.0", "--to-tar", s.path("shop.tar"), "--registry-insecure")
	registrytest.RunTool(t, edge.Env(t), registrytest.BuildTool(t, "cosign3"), "verify", "--key", s.path("cosign.pub"), "--insecure-ignore-tlog", "--allow-http-registry", repository+":1.0.0")
	s.ok("rollback", "shop", "--key", "cosign.pub", "--to", "1.0.0", "--yes", "--wait-timeout", "1m")
	if out := s.ok("prune", repository, "--keep-versions", "1", "--cluster", "--yes", "-o", "json"); !strings.Contains(out, `"tags": []`) {
		t.Errorf("there is more to delete:\n%s", out)
	}
	// A folder frees its disk space at once.
	s.ok("copy", repository+":1.0.0", repository+":2.0.0", "oci:media", "--key", "cosign.pub")
	all, err := filepath.Glob(s.path("media/blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	s.ok("prune", "oci:media", "--keep", "2.0.0", "--yes")
	s.ok("check", "oci:media:2.0.0")
	if left, err := filepath.Glob(s.path("media/blobs/sha256/*")); err != nil || len(left) > len(all)*2/3 {
		t.Errorf("%d of %d files are left, %v", len(left), len(all), err)
	}
}

// shopDefinition is the kind of an operator in the bundle, and a resource of it that names an image in a field.
const shopDefinition = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: shops.shop.example.com}
spec:
  group: shop.example.com
  scope: Namespaced
  names: {plural: shops, singular: shop, kind: Shop}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: shop.example.com/v1
kind: Shop
metadata: {name: demo, namespace: default}
spec: {engine: {sidecar: "ghcr.io/example/sidecar:1.0"}}
`

// auditImages finds what pods run that no lock has: an image that only an operator's program knows, one that its resource
// names, another digest, and one of Docker Hub. What it proposes makes the next build lock it.
func auditImages(t *testing.T, s *site, w *watcher, repository string) {
	ctx := t.Context()
	apply := func(version string, spec string) {
		s.shopVersion(version, "ghcr.io/example/web:1.0.0", spec)
		manifests, err := os.ReadFile(s.path("shop/all.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		s.write("shop/all.yaml", string(manifests)+shopDefinition)
		s.ok("build", "-f", "shop")
	}
	apply("4.0.0", "  notImages: [{value: \"ghcr.io/example/sidecar:*\", reason: nobody runs it}]\n")
	s.ok("push", "oci:dist:4.0.0", repository)
	s.ok("sign", "--key", "cosign.key", repository+":4.0.0")
	s.ok("apply", repository+":4.0.0", "--key", "cosign.pub", "--yes", "--wait-timeout", "1m")
	if out := s.ok("images", "--cluster", "--exit-code"); !strings.Contains(out, "all images run as they were locked") {
		t.Errorf("before anything is wrong:\n%s", out)
	}
	shop, err := w.dynamic.Resource(gvr("shop.example.com", "v1", "shops")).Namespace("default").Get(ctx, "demo", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	web, err := w.client.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	locked := web.Spec.Template.Spec.Containers[0].Image
	owner := []metav1.OwnerReference{{APIVersion: "shop.example.com/v1", Kind: "Shop", Name: "demo", UID: shop.GetUID()}}
	other := "sha256:" + strings.Repeat("ab", 32)
	w.pod("engine", owner, "ghcr.io/example/engine:1.0", "ghcr.io/example/engine@"+other)
	w.pod("sidecar", owner, "ghcr.io/example/sidecar:1.0", "ghcr.io/example/sidecar@"+other)
	w.pod("mutated", nil, locked, repository+"@"+other)
	w.pod("hub", nil, "nginx:1.27", "docker.io/library/nginx@"+other)
	w.podOfEveryKind("every", locked, other)
	r := s.run("images", "--cluster", "--exit-code", "-o", "json")
	if r.code != 5 {
		t.Fatalf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	var list results.Images
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil {
		t.Fatal(err)
	}
	got := map[string]results.RunningImage{}
	for _, one := range list.Running {
		if len(one.Findings) == 0 {
			continue
		}
		first := one.Containers[0]
		row := first.Pod
		if row == "every" {
			row = first.Kind
		}
		if got[row].Image != "" || len(one.Containers) > 1 {
			t.Errorf("more than one row: %+v and %+v", one, got[row])
		}
		got[row] = one
	}
	const every = "Pod default/every"
	for row, want := range map[string]struct{ findings, owner, bundle, settle string }{
		"engine":              {"notLocked elsewhere", "Shop default/demo", "shop", `images: [{image: "ghcr.io/example/engine:1.0", reason: "Shop default/demo runs it"}]`},
		"sidecar":             {"notLocked elsewhere", "Shop default/demo", "shop", "searchRules: [{keyMatcher: {path: [spec, engine, sidecar]}}]"},
		"mutated":             {"otherDigest", "Pod default/mutated", "shop", ""},
		"hub":                 {"notLocked elsewhere", "Pod default/hub", "", `images: [{image: "docker.io/library/nginx:1.27", reason: "container main of pod default/hub runs it"}]`},
		"init container":      {"notLocked elsewhere", every, "", `images: [{image: "ghcr.io/example/first:1.0", reason: "init container first of pod default/every runs it"}]`},
		"ephemeral container": {"notLocked elsewhere", every, "", `images: [{image: "ghcr.io/example/debug:1.0", reason: "ephemeral container debug of pod default/every runs it"}]`},
		"image volume":        {"notLocked elsewhere", every, "", `images: [{image: "ghcr.io/example/model:1.0", reason: "image volume model of pod default/every runs it"}]`},
	} {
		one := got[row]
		if strings.Join(one.Findings, " ") != want.findings || one.Owner != want.owner || one.Bundle != want.bundle || one.Settle != want.settle {
			t.Errorf("%s: %+v, want %+v", row, one, want)
		}
	}
	if _, digest, _ := strings.Cut(locked, "@"); len(got) != 7 || got["mutated"].Locked != digest || got["mutated"].Digest != other {
		t.Errorf("%d findings, %+v", len(got), got["mutated"])
	}
	// Nodes report the digests of containers, also of those that were added later.
	if got["init container"].Digest != other || got["ephemeral container"].Digest != other || got["image volume"].Digest != "" {
		t.Errorf("digests of %+v", got)
	}
	if out := s.ok("images", "--cluster", "--allow-registry", "docker.io/library", "--allow-registry", "ghcr.io", "-o", "json"); strings.Contains(out, "elsewhere") {
		t.Errorf("allowed registries are reported:\n%s", out)
	}
	if out := s.ok("images", "--from-cluster"); !strings.Contains(out, "nginx:1.27") || !strings.Contains(out, "Deployment default/web > ReplicaSet default/web-") ||
		!strings.Contains(out, "image volume model of pod default/every") || !strings.Contains(out, "ephemeral container debug of pod default/every") {
		t.Errorf("what the cluster runs:\n%s", out)
	}
	// What was proposed, pasted.
	if err := imagetest.FillLayout(s.path("img"), "ghcr.io/example/engine:1.0", "ghcr.io/example/sidecar:1.0", "nginx:1.27"); err != nil {
		t.Fatal(err)
	}
	hub := strings.TrimSuffix(strings.TrimPrefix(got["hub"].Settle, "images: ["), "]")
	apply("5.0.0", "  "+strings.TrimSuffix(got["engine"].Settle, "]")+", "+hub+"]\n  "+got["sidecar"].Settle+"\n")
	tree := s.ok("inspect", "oci:dist:5.0.0", "-o", "json")
	for _, image := range []string{"ghcr.io/example/engine:1.0", "ghcr.io/example/sidecar:1.0", "docker.io/library/nginx:1.27"} {
		if !strings.Contains(tree, `"reference": "`+image+`"`) {
			t.Errorf("%s is not locked:\n%s", image, tree)
		}
	}
}

// pod makes a pod that no node runs, and says what one would report of it.
func (w *watcher) pod(name string, owners []metav1.OwnerReference, image, imageID string) {
	w.t.Helper()
	pods := w.client.CoreV1().Pods("default")
	made, err := pods.Create(w.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners},
		Spec:       corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "main", Image: image}}},
	}, metav1.CreateOptions{})
	if err == nil {
		made.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Image: image, ImageID: imageID}}
		_, err = pods.UpdateStatus(w.t.Context(), made, metav1.UpdateOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// podOfEveryKind makes a pod that has an image in each way that a pod can have one: main is that of its container.
func (w *watcher) podOfEveryKind(name, main, digest string) {
	w.t.Helper()
	pods := w.client.CoreV1().Pods("default")
	reported := func(name string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: name, Image: name, ImageID: "ghcr.io/example/" + name + "@" + digest}}
	}
	made, err := pods.Create(w.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			SchedulerName:  "nobody",
			InitContainers: []corev1.Container{{Name: "first", Image: "ghcr.io/example/first:1.0"}},
			Containers:     []corev1.Container{{Name: "main", Image: main, VolumeMounts: []corev1.VolumeMount{{Name: "model", MountPath: "/model"}}}},
			Volumes: []corev1.Volume{{Name: "model", VolumeSource: corev1.VolumeSource{
				Image: &corev1.ImageVolumeSource{Reference: "ghcr.io/example/model:1.0"},
			}}},
		},
	}, metav1.CreateOptions{})
	if err == nil {
		made.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "ghcr.io/example/debug:1.0", TerminationMessagePolicy: corev1.TerminationMessageReadFile},
		}}
		made, err = pods.UpdateEphemeralContainers(w.t.Context(), name, made, metav1.UpdateOptions{})
	}
	if err == nil {
		made.Status.InitContainerStatuses, made.Status.EphemeralContainerStatuses = reported("first"), reported("debug")
		_, err = pods.UpdateStatus(w.t.Context(), made, metav1.UpdateOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}
