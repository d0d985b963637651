package cli_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/sigstoretest"
)

// An air gap, rehearsed: the site is in a network namespace that has a loopback interface and
// nothing else. What goes in and out is a folder: a first version, the site's inventory back,
// and the next version without what the site has. There it is verified, imported and applied
// on a control plane whose workloads name the site's registry. The ready air-gapped runtime goes
// the same way, and is deleted in the end.
func TestAirGap(t *testing.T) {
	t.Parallel()
	// There is no network at the site to have them from.
	hack.PrepareForTest(t)
	hack.BuildForTest(t, "tools/registry")
	s := newSite(t)
	for _, reference := range []string{"ghcr.io/example/web:1.0", "ghcr.io/example/db:1.0"} {
		image, err := imagetest.NewSizedIndex(reference, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if err := imagetest.AddToLayout(s.path("img"), reference, image); err != nil {
			t.Fatal(err)
		}
	}
	vendor := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	fulcio := sigstoretest.StartSigstore(t)
	s.env = append(s.env, "SIGSTORE_ID_TOKEN="+fulcio.Token("https://ci.example", "release@krt.example"))
	s.write(
		"1.0.0/runtime.yaml", runtimeOf("1.0.0", "web"), "1.1.0/runtime.yaml", runtimeOf("1.1.0", "web", "db"),
		"web/bundle.yaml", bundleOf("web"), "web/web.yaml", deploymentOf("web"),
		"db/bundle.yaml", bundleOf("db"), "db/db.yaml", deploymentOf("db"),
	)
	published := func(version string) string {
		s.ok("build", "-f", version)
		reference := vendor.Host + "/krt/edge:" + version
		s.ok("push", "oci:dist:"+version, reference)
		s.ok("sign", "--key", "cosign.key", reference)
		s.ok("sign", "--keyless", "--fulcio-url", fulcio.URL, "--rekor-url", fulcio.URL, "--timestamp-server-url", fulcio.Timestamp, reference)
		return reference
	}
	media := s.path("media")
	if err := os.Mkdir(media, 0o755); err != nil {
		t.Fatal(err)
	}
	// The site holds the vendor to a key and to an identity, both of which must sign.
	s.write("trusted-root.json", string(fulcio.TrustedRoot(sigstoretest.Parts{})))
	s.ok("trust", "init", "--key", "cosign.pub", "--certificate-identity", "release@krt.example", "--certificate-oidc-issuer", "https://ci.example",
		"--trusted-root", "trusted-root.json", "--output", "media/trust.yaml")
	s.ok("export", published("1.0.0"), "media/edge-1.0.0.tar")
	whole := fileSize(t, s.path("media/edge-1.0.0.tar"))
	s.exportAirGapped(vendor.Host)

	site := exec.Command("krtpkg-site", media, s.path("cosign.pub"), vendor.Host, t.TempDir())
	site.Env = append(s.env, "KRTPKG_IMAGE_MIRROR=", "HOME="+os.Getenv("HOME"), "XDG_CACHE_HOME="+os.Getenv("XDG_CACHE_HOME"))
	site.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	var said strings.Builder
	site.Stdout, site.Stderr = &said, &said
	if err := site.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- site.Wait() }()

	// The connected side knows of the site what comes back on the media.
	for waiting := true; waiting; {
		select {
		case err := <-ended:
			t.Fatalf("the site ended: %v: %s\n%s", err, siteError(said.String()), &said)
		case <-time.After(100 * time.Millisecond):
			_, err := os.Stat(filepath.Join(media, "have.json"))
			waiting = errors.Is(err, fs.ErrNotExist)
		}
	}
	next := published("1.1.0")
	s.ok("export", next, "--base", "media/have.json", "media/edge-1.1.0.tar")
	if size := fileSize(t, s.path("media/edge-1.1.0.tar")); size > whole+(200<<10) {
		t.Errorf("the update has %d bytes, the first version %d: what the site has went along", size, whole)
	}
	if err := <-ended; err != nil {
		t.Errorf("the site: %v: %s\n%s", err, siteError(said.String()), &said)
	}
	for _, want := range []string{"no way to the vendor", "signed by", "logged", "1.0.0 runs from the site's registry: web", "1.1.0 runs from the site's registry: db web", "air-gapped is healthy", "air-gapped is gone"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %q in:\n%s", want, &said)
		}
	}
}

// siteError returns what the site's process said last, for the first line of a failure: long logs are cut.
func siteError(said string) string {
	return strings.TrimSpace(said[max(0, strings.LastIndex(said, "\nsite: ")):])
}

// exportAirGapped builds the ready air-gapped runtime and puts it on the media, with what a site has to say.
func (s *site) exportAirGapped(vendor string) {
	s.t.Helper()
	connected := *s
	connected.env = append(slices.Clone(s.env), "KRTPKG_IMAGE_MIRROR=*="+vendor+"/mirror", bundletest.MirrorsVariable(s.t))
	definition := filepath.Join(bundletest.CopyDefinitions(s.t), "runtimes/air-gapped")
	connected.standIn(vendor+"/mirror", definition)
	reference := vendor + "/krt/air-gapped:1.0.0"
	for _, args := range [][]string{
		{"build", "-f", definition, "--to", "oci:dist:air-gapped"},
		{"push", "oci:dist:air-gapped", reference},
		{"sign", "--key", "cosign.key", reference},
		{"export", reference, "media/air-gapped-1.0.0.tar"},
	} {
		connected.ok(args...)
	}
	s.write("media/site.yaml", bundletest.SiteValues(airGappedBundles(s.t)...))
}

// airGappedBundles returns the names of the runtime's bundles.
func airGappedBundles(t testing.TB) (names []string) {
	t.Helper()
	all, err := bundles.All()
	if err != nil {
		t.Fatal(err)
	}
	uses, err := bundles.Runtime("air-gapped", all)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range uses {
		names = append(names, u.Name)
	}
	return names
}

func runtimeOf(version string, bundles ...string) string {
	text := "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: edge, version: " + version + "}\nspec:\n  bundles:\n"
	for _, name := range bundles {
		text += "    - path: ../" + name + "\n"
	}
	return text
}

func bundleOf(name string) string {
	return fmt.Sprintf("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: %[1]s, version: 1.0.0}\nspec: {layer: 6, sources: [{file: %[1]s.yaml}]}\n", name)
}

func deploymentOf(name string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: default}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers: [{name: %[1]s, image: 'ghcr.io/example/%[1]s:1.0'}]
`, name)
}

func fileSize(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// runSite is the site's side, a process in a namespace of its own: krtpkg-site MEDIA KEY VENDOR DIR.
func runSite() {
	if err := siteSide(context.Background(), os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Println("site:", err)
		os.Exit(1)
	}
}

func siteSide(ctx context.Context, media, key, vendor, dir string) (err error) {
	if err := cutOff(vendor); err != nil {
		return err
	}
	registry, err := registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Distribution3})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	cluster, err := clustertest.Run(ctx, filepath.Join(dir, "cluster"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	home := registry.Host + "/site/edge"
	for _, version := range []string{"1.0.0", "1.1.0"} {
		name := filepath.Join(media, "edge-"+version+".tar")
		for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
			if _, err := os.Stat(name); err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s does not come", name)
			}
		}
		for _, args := range [][]string{
			{"check", name},
			{"verify", "--key", key, name},
			{"verify", "--policy", filepath.Join(media, "trust.yaml"), name},
			{"import", "--key", key, name, home},
			{"verify", "--key", key, home + ":" + version},
			{"apply", "--yes", "--key", key, home + ":" + version, "--kubeconfig", cluster.Kubeconfig, "--wait-timeout", "2m"},
		} {
			if err := krtpkg(args...); err != nil {
				return err
			}
		}
		names, err := workloads(ctx, cluster, home+"@sha256:")
		if err != nil {
			return err
		}
		fmt.Printf("%s runs from the site's registry: %s\n", version, names)
		inventory, err := exec.Command("krtpkg", "have", "-q", home).Output()
		if err != nil {
			return err
		}
		temp := filepath.Join(media, "have.tmp")
		if err := errors.Join(os.WriteFile(temp, inventory, 0o644), os.Rename(temp, filepath.Join(media, "have.json"))); err != nil {
			return err
		}
	}
	return airGappedSide(ctx, cluster, registry.Host+"/site/air-gapped", media, key)
}

// outside lets watchers watch where no test runs: in the site's process. What fails a test panics there.
type outside struct {
	testing.TB
	ctx context.Context
}

func (outside) Helper()                           {}
func (o outside) Context() context.Context        { return o.ctx }
func (outside) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (outside) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (outside) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// airGappedSide takes the ready air-gapped runtime from the media to healthy workloads, and away again.
func airGappedSide(ctx context.Context, cluster *clustertest.Cluster, home, media, key string) (err error) {
	defer func() {
		if failed := recover(); failed != nil {
			err = fmt.Errorf("air-gapped: %v", failed)
		}
	}()
	w := newWatcher(outside{ctx: ctx}, cluster)
	w.playLoadBalancer()
	w.playStorage()
	w.playOperators()
	before := w.everything()
	name, reference, kubeconfig := filepath.Join(media, "air-gapped-1.0.0.tar"), home+":1.0.0", "--kubeconfig="+cluster.Kubeconfig
	for _, args := range [][]string{
		{"verify", "--key", key, name},
		{"import", "--key", key, name, home},
		{"apply", "--yes", "--key", key, reference, kubeconfig, "--values", filepath.Join(media, "site.yaml"), "--wait-timeout", "2m"},
	} {
		if err := krtpkg(args...); err != nil {
			return err
		}
	}
	w.workloadsReady(strings.TrimSuffix(home, "air-gapped"))
	status, err := exec.Command("krtpkg", "status", "air-gapped", kubeconfig, "--exit-code", "--no-registry").CombinedOutput()
	if n, want := strings.Count(string(status), "  healthy "), len(airGappedBundles(w.t)); err != nil || n != want {
		return fmt.Errorf("%d of %d bundles are healthy: %w\n%s", n, want, err, status)
	}
	fmt.Println("air-gapped is healthy")
	if err := krtpkg("delete", "air-gapped", "--yes", "--delete-foreign", kubeconfig); err != nil {
		return err
	}
	if diff := w.leftovers(before); len(diff) > 0 {
		return fmt.Errorf("left behind or lost:\n%s", strings.Join(diff, "\n"))
	}
	fmt.Println("air-gapped is gone")
	return nil
}

// cutOff brings up loopback, and makes sure that there is no way to the vendor.
func cutOff(vendor string) error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if conn, err := net.DialTimeout("tcp", vendor, time.Second); err == nil {
		conn.Close()
		return fmt.Errorf("the vendor's registry %s can be reached", vendor)
	}
	fmt.Println("no way to the vendor")
	return nil
}

func krtpkg(args ...string) error {
	out, err := exec.Command("krtpkg", args...).CombinedOutput()
	fmt.Printf("$ krtpkg %s\n%s", strings.Join(args, " "), out)
	if err != nil {
		return fmt.Errorf("krtpkg %s: %w", args[0], err)
	}
	return nil
}

// workloads returns the deployments that are ready, whose pods all name images of the site.
func workloads(ctx context.Context, cluster *clustertest.Cluster, prefix string) (string, error) {
	config, err := cluster.RESTConfig()
	if err != nil {
		return "", err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", err
	}
	list, err := client.AppsV1().Deployments("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	var names []string
	for _, d := range list.Items {
		if d.Status.ReadyReplicas != 1 {
			return "", fmt.Errorf("deployment %s has %d pods ready", d.Name, d.Status.ReadyReplicas)
		}
		names = append(names, d.Name)
	}
	pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, pod := range pods.Items {
		for _, c := range pod.Spec.Containers {
			if !strings.HasPrefix(c.Image, prefix) {
				return "", fmt.Errorf("pod %s runs %s", pod.Name, c.Image)
			}
		}
	}
	return strings.Join(names, " "), nil
}

// loopbackUp is "ip link set lo up" (netdevice(7)).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}
