package cli_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/nodetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// Real pods: a node with a kubelet, containerd and runc is in a network of its own, with the
// site's registry and nothing else. An archive is imported there and applied, the node pulls the
// images that the bundle locks, and the program in them runs. Then a bundle comes whose images no registry has there:
// containerd imports the archive that an export for nodes wrote.
func TestRealPods(t *testing.T) {
	t.Parallel()
	// There is no network at the site to have them from.
	hack.PrepareForTest(t)
	for _, tool := range append([]string{"tools/ctr"}, nodetest.Tools...) {
		hack.BuildForTest(t, tool)
	}
	s := newSite(t)
	for _, reference := range []string{"ghcr.io/example/web:1.0", "registry.example/pause:1.0", "ghcr.io/example/alone:1.0"} {
		if err := imagetest.AddToLayout(s.path("img"), reference, podImage(t, reference)); err != nil {
			t.Fatal(err)
		}
	}
	s.write("web/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\nspec:\n  layer: 6\n  sources: [{file: web.yaml}]\n"+
		"  images: [{image: 'registry.example/pause:1.0', reason: what nodes hold the namespaces of pods with}]\n",
		"web/web.yaml", strings.Replace(deploymentOf("web"), "image: 'ghcr.io/example/web:1.0'",
			"image: 'ghcr.io/example/web:1.0', args: [the bundle runs], readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}", 1))
	s.write("alone/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: alone, version: 1.0.0}\nspec:\n  layer: 6\n  sources: [{file: alone.yaml}]\n",
		"alone/alone.yaml", strings.Replace(deploymentOf("alone"), "image: 'ghcr.io/example/alone:1.0'",
			"image: 'ghcr.io/example/alone:1.0', args: [no registry], readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}", 1))
	vendor := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	reference := vendor.Host + "/krt/web:1.0.0"
	s.ok("build", "-f", "web")
	s.ok("push", "oci:dist:1.0.0", reference)
	s.ok("sign", "--key", "cosign.key", reference)
	s.ok("export", reference, "web-1.0.0.tar")
	alone := vendor.Host + "/krt/alone:1.0.0"
	s.ok("build", "-f", "alone", "--to", "oci:dist-alone")
	s.ok("push", "oci:dist-alone:1.0.0", alone)
	s.ok("sign", "--key", "cosign.key", alone)
	s.ok("export", alone, "alone-1.0.0.tar")
	s.ok("export", alone, "--key", "cosign.pub", "--for", "containerd", "--platform", "linux/"+runtime.GOARCH, "images")

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	site := exec.CommandContext(ctx, "krtpkg-node", s.path("web-1.0.0.tar"), s.path("cosign.pub"), vendor.Host, t.TempDir(), s.path("alone-1.0.0.tar"), s.path("images/alone-linux-"+runtime.GOARCH+".tar"))
	site.Env = append(s.env, "KRTPKG_IMAGE_MIRROR=", "HOME="+os.Getenv("HOME"), "XDG_CACHE_HOME="+os.Getenv("XDG_CACHE_HOME"))
	site.SysProcAttr = &syscall.SysProcAttr{Cloneflags: nodetest.Namespaces, Pdeathsig: syscall.SIGKILL}
	t.Cleanup(nodetest.RemoveGroups)
	out, err := site.CombinedOutput()
	if err != nil {
		t.Fatalf("the site, which takes root: %v\n%s", err, out)
	}
	for _, want := range []string{"no way to the vendor", "signed by", "the pod says: the bundle runs", "the pod says: no registry"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// podImage returns an image of the program hack/pod, another one for each reference.
func podImage(t *testing.T, reference string) v1.ImageIndex {
	t.Helper()
	root, err := hack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	index, err := imagetest.NewIndex(func(p v1.Platform) (v1.Image, error) {
		program := filepath.Join(dir, p.Architecture)
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./hack/pod")
		build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Architecture)
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, out)
		}
		data, err := os.ReadFile(program)
		if err != nil {
			return nil, err
		}
		// What is behind a program is not part of it, and makes a layer that no other image has.
		return imagetest.NewImage(p, "pod", 0o755, append(data, reference...), v1.Config{Entrypoint: []string{"/pod"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// runNode is the site's side, a process in namespaces of its own: krtpkg-node ARCHIVE KEY VENDOR DIR ALONE IMAGES.
func runNode() {
	if err := nodeSide(context.Background(), os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5:]); err != nil {
		fmt.Println("site:", err)
		os.Exit(1)
	}
}

func nodeSide(ctx context.Context, archive, key, vendor, dir string, alone []string) (err error) {
	if err := cutOff(vendor); err != nil {
		return err
	}
	registry, err := registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Olareg, Record: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	home := registry.Host + "/site/web"
	if err := krtpkg("import", "--key", key, archive, home); err != nil {
		return err
	}
	images, err := lockedImages(home + ":1.0.0")
	if err != nil {
		return err
	}
	cluster, err := clustertest.RunNodes(ctx, filepath.Join(dir, "cluster"), 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	gate, stop, err := startNodeGate(ctx, registry.Host, key, dir)
	if err != nil {
		return err
	}
	defer stop()
	imported := len(registry.Requests())
	node, err := nodetest.Start(ctx, nodetest.Options{
		Hosts: map[string]string{registry.Host: "[host.\"http://" + gate + "/v2\"]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n"},
		Dir:   filepath.Join(dir, "node"), Kubeconfig: cluster.Kubeconfig, CA: filepath.Join(cluster.Dir, "pki", "ca.crt"),
		Sandbox: home + "@" + images["registry.example/pause"],
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Stop()) }()
	if err := krtpkg("apply", "--yes", "--key", key, home+":1.0.0", "--kubeconfig", cluster.Kubeconfig, "--wait-timeout", "90s"); err != nil {
		return fmt.Errorf("%w\n%s", err, node.Logs())
	}
	image := images["ghcr.io/example/web"]
	if err := podRuns(ctx, cluster, home+"@"+image); err != nil {
		return err
	}
	// Whoever looks at images reads manifests. Only a node reads their layers.
	for name, digest := range images {
		layer, err := pulledLayer(home + "@" + digest)
		if err != nil {
			return err
		}
		asked := func(r registrytest.Request) bool {
			return r.Method == "GET" && strings.HasSuffix(r.Path, "/v2/site/web/blobs/"+layer)
		}
		if !slices.ContainsFunc(registry.Requests()[imported:], asked) {
			return fmt.Errorf("no node pulled %s (layer %s) from the site's registry", name, layer)
		}
	}
	answer, err := http.Get("http://" + gate + "/metrics")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	metrics, err := io.ReadAll(answer.Body)
	if err != nil || !strings.Contains(string(metrics), `krtpkg_gate_answers_total{kind="blobs",status="200"} 4`) {
		return fmt.Errorf("the node has not pulled two configs and two layers through the gate: %w\n%s", err, metrics)
	}
	if err := krtpkg("delete", "--yes", "web", "--kubeconfig", cluster.Kubeconfig); err != nil {
		return err
	}
	return runAlone(ctx, cluster, key, alone[0], alone[1], filepath.Join(dir, "node", "containerd.sock"))
}

// runAlone applies an archive whose images no registry has here: the node got them from a file. k3s, RKE2 and k0s
// import such files by the same code of containerd (k3s-io/k3s: pkg/agent/containerd, k0sproject/k0s:
// pkg/component/worker/ocibundle.go).
func runAlone(ctx context.Context, cluster *clustertest.Cluster, key, archive, images, socket string) error {
	ctr, err := hack.BuildProgram(ctx, "tools/ctr")
	if err != nil {
		return err
	}
	// The node has no overlayfs, to which ctr unpacks; the kubelet's own unpacking is what counts.
	if out, err := exec.Command(ctr, "-a", socket, "-n", "k8s.io", "images", "import", "--no-unpack", images).CombinedOutput(); err != nil {
		return fmt.Errorf("import %s: %w\n%s", images, err, out)
	}
	if err := krtpkg("apply", "--yes", "--key", key, "--skip-check", "images", archive, "--kubeconfig", cluster.Kubeconfig, "--wait-timeout", "90s"); err != nil {
		return err
	}
	locked, err := lockedImages(archive)
	if err != nil {
		return err
	}
	return podRuns(ctx, cluster, "ghcr.io/example/alone@"+locked["ghcr.io/example/alone"])
}

// startNodeGate starts a gate in front of the site's registry.
func startNodeGate(ctx context.Context, registry, key, dir string) (host string, stop func(), err error) {
	cmd := exec.CommandContext(ctx, "krtpkg", "serve", "--listen", "127.0.0.1:0", "--upstream", registry, "--key", key, "--state", filepath.Join(dir, "gate"))
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return "", nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	_, host, found := strings.Cut(strings.TrimSpace(line), "http://")
	if err != nil || !found {
		stop()
		return "", nil, fmt.Errorf("the gate says %q: %w", line, err)
	}
	go io.Copy(io.Discard, said)
	return host, stop, nil
}

// pulledLayer returns the digest of an image's one layer for this machine.
func pulledLayer(reference string) (string, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return "", err
	}
	image, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	if err != nil {
		return "", err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return "", err
	}
	return manifest.Layers[0].Digest.String(), nil
}

// lockedImages returns the digests that a reference locks, by the images' names.
func lockedImages(reference string) (map[string]string, error) {
	out, err := exec.Command("krtpkg", "inspect", reference, "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	var view struct {
		Bundles []struct {
			Images []struct{ Reference, Image string }
		}
	}
	if err := json.Unmarshal(out, &view); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, b := range view.Bundles {
		for _, image := range b.Images {
			name, _, _ := strings.Cut(image.Reference, ":")
			_, all[name], _ = strings.Cut(image.Image, "@")
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no images are locked:\n%s", out)
	}
	return all, nil
}

// podRuns checks the one pod: ready, of the image by its digest, from the site's registry, and
// answering.
func podRuns(ctx context.Context, cluster *clustertest.Cluster, image string) error {
	config, err := cluster.RESTConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err == nil { // deleted ones take a moment to end
		pods.Items = slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	}
	if err != nil || len(pods.Items) != 1 {
		return fmt.Errorf("%d pods: %w", len(pods.Items), err)
	}
	pod := pods.Items[0]
	status := pod.Status.ContainerStatuses[0]
	if pod.Status.Phase != corev1.PodRunning || !status.Ready || status.ContainerID == "" || pod.Spec.NodeName != "localhost" {
		return fmt.Errorf("pod %s does not run: %+v", pod.Name, pod.Status)
	}
	if pod.Spec.Containers[0].Image != image || status.ImageID != image {
		return fmt.Errorf("pod %s has image %s and runs %s, want %s", pod.Name, pod.Spec.Containers[0].Image, status.ImageID, image)
	}
	answer, err := http.Get("http://" + net.JoinHostPort(pod.Status.PodIP, "8080"))
	if err != nil {
		return fmt.Errorf("ask the pod: %w", err)
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	fmt.Printf("the pod says: %s", said)
	return err
}
