// Command demo shows the main job from end to end on defaults that it brings along: two
// registries in this process, a key pair that lives as long as it does, and a real control
// plane. It types what a user would type, and leaves nothing behind. The control plane is
// prepared during the steps that need none.
//
// With KUBECONFIG set it goes to that cluster instead; KRTPKG_DEMO_SITE then names the
// repository of a registry that the cluster's nodes can pull from.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"krtpkg.dev/krtpkg/internal/clustertest"
)

func main() {
	krtpkg := flag.String("krtpkg", "bin/krtpkg", "the program to show")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := time.Now()
	if err := runDemo(ctx, *krtpkg); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
	fmt.Printf("\nDone in %s. Registries, cluster, keys and files of the demo are gone.\n", time.Since(start).Round(time.Second))
}

// demo is the stage: where things are, and how commands are typed.
type demo struct {
	krtpkg     string
	dir        string
	cluster    *preparedCluster
	kubeconfig string // "" while no step needs the cluster
	vendor     string // repository where the runtime is published
	site       string // repository where the cluster pulls from
	steps      int
}

func runDemo(ctx context.Context, krtpkg string) (err error) {
	d := &demo{}
	if d.krtpkg, err = filepath.Abs(krtpkg); err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "krtpkg-demo-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()

	d.printStep("Set the stage: a vendor's registry, a site's registry")
	closeRegistries, err := d.startRegistries()
	if err != nil {
		return err
	}
	defer closeRegistries()
	fmt.Printf("   vendor   %s\n   site     %s\n", d.vendor, d.site)
	if d.cluster, err = d.prepareCluster(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cluster.stop()) }()
	return d.playDemo(ctx)
}

// playDemo is the main job, as a user would type it.
func (d *demo) playDemo(ctx context.Context) error {
	d.printStep("Compile the workload's image, a static program of this repository")
	images := filepath.Join(d.dir, "images")
	for _, version := range []string{"1.0.0", "1.1.0"} {
		if err := addHello(ctx, images, version); err != nil {
			return err
		}
	}
	first, second := d.site+":1.0.0", d.site+":1.1.0"
	values := filepath.Join(d.dir, "site.yaml")
	if err := os.WriteFile(values, []byte("hello:\n  replicas: 3\n  greeting: moin\n"), 0o644); err != nil {
		return err
	}
	for _, step := range []struct {
		what     string
		commands [][]string
		then     func(context.Context) error
	}{
		{"Make a key pair", [][]string{{"keygen"}}, nil},
		{"Build the runtime and publish it with its images", [][]string{
			{"build", "-f", "bundles/runtimes/demo/1.0.0", "--to", "oci:" + d.filePath("dist"), "--image-mirror", "registry.krtpkg.dev=oci:" + images},
			{"push", "oci:" + d.filePath("dist") + ":1.0.0", d.vendor + ":1.0.0", "--image-mirror", "registry.krtpkg.dev=oci:" + images},
		}, nil},
		{"Sign it: one signature covers every manifest and every image", [][]string{
			{"sign", "--key", d.filePath("cosign.key"), d.vendor + ":1.0.0"},
		}, nil},
		{"Carry it to the site's registry: images and signatures come along", [][]string{
			{"copy", d.vendor + ":1.0.0", first},
			{"tree", first},
		}, nil},
		{"Verify it there", [][]string{{"verify", "--key", d.filePath("cosign.pub"), first}}, d.awaitCluster},
		{"Apply it layer by layer with the site's values", [][]string{
			{"apply", "--key", d.filePath("cosign.pub"), first, "--values", values, "--yes", "--quiet"},
		}, d.showWorkloads},
		{"Again: nothing differs, so nothing is written", [][]string{
			{"apply", "--key", d.filePath("cosign.pub"), first, "--values", values, "--yes", "--quiet"},
		}, nil},
		{"The next version: built, published, signed, carried over, applied", [][]string{
			{"build", "-f", "bundles/runtimes/demo/1.1.0", "--to", "oci:" + d.filePath("dist"), "--image-mirror", "registry.krtpkg.dev=oci:" + images, "--quiet"},
			{"push", "oci:" + d.filePath("dist") + ":1.1.0", d.vendor + ":1.1.0", "--image-mirror", "registry.krtpkg.dev=oci:" + images, "--quiet"},
			{"sign", "--key", d.filePath("cosign.key"), d.vendor + ":1.1.0", "--quiet"},
			{"copy", d.vendor + ":1.1.0", second, "--quiet"},
			{"apply", "--key", d.filePath("cosign.pub"), second, "--values", values, "--yes", "--quiet"},
			{"status", "demo"},
		}, d.showWorkloads},
		{"What nobody signed is refused", nil, d.expectRefusal},
		{"Clean up", [][]string{{"delete", "demo", "--yes", "--quiet"}}, nil},
	} {
		d.printStep(step.what)
		for _, args := range step.commands {
			if err := d.runTyped(ctx, args...); err != nil {
				return err
			}
		}
		if step.then != nil {
			if err := step.then(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *demo) filePath(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) printStep(what string) {
	d.steps++
	fmt.Printf("\n%d. %s\n", d.steps, what)
}

// runTyped runs krtpkg as a user would and shows both.
func (d *demo) runTyped(ctx context.Context, args ...string) error {
	if args[0] == "keygen" {
		args = append(args, "--output-key-prefix", d.filePath("cosign"))
	}
	fmt.Printf("\n   $ krtpkg %s\n", strings.ReplaceAll(strings.Join(args, " "), d.dir+"/", ""))
	cmd := exec.CommandContext(ctx, d.krtpkg, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Env = append(os.Environ(), "KUBECONFIG="+d.kubeconfig, "COSIGN_PASSWORD=demo", "KRTPKG_CONFIG="+os.DevNull)
	out := &indent{to: os.Stdout}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("krtpkg %s: %w", args[0], err)
	}
	return nil
}

// expectRefusal applies what has no signature, which must end with exit code 3.
func (d *demo) expectRefusal(ctx context.Context) error {
	dist := "oci:" + d.filePath("dist") + ":1.1.0"
	err := d.runTyped(ctx, "apply", "--key", d.filePath("cosign.pub"), dist, "--yes")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		return fmt.Errorf("an unsigned runtime was not refused: %w", err)
	}
	return nil
}

// indent sets lines off from the demo's own words.
type indent struct {
	to   io.Writer
	rest string
}

func (i *indent) Write(p []byte) (int, error) {
	lines := strings.Split(i.rest+string(p), "\n")
	i.rest = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		fmt.Fprintf(i.to, "     %s\n", line)
	}
	return len(p), nil
}

// startRegistries starts two registries on loopback, unless the site's is given.
func (d *demo) startRegistries() (func(), error) {
	vendor, closeVendor, err := serveRegistry()
	if err != nil {
		return nil, err
	}
	d.vendor = vendor + "/vendor/demo"
	if d.site = os.Getenv("KRTPKG_DEMO_SITE"); d.site != "" {
		return closeVendor, nil
	}
	site, closeSite, err := serveRegistry()
	if err != nil {
		closeVendor()
		return nil, err
	}
	d.site = site + "/krt/demo"
	return func() { closeVendor(); closeSite() }, nil
}

func serveRegistry() (address string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	registry := olareg.New(config.Config{
		Storage: config.ConfigStorage{StoreType: config.StoreMem},
		Log:     slog.New(slog.DiscardHandler),
	})
	server := &http.Server{Handler: registry, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener)
	return listener.Addr().String(), func() { server.Close(); registry.Close() }, nil
}

// preparedCluster is a control plane that is downloaded or compiled, and starts, while the demo goes on.
type preparedCluster struct {
	ready      chan struct{} // closed when the fields below are set
	kubeconfig string
	err        error
	// stop gives the start up, or ends the cluster.
	stop func() error
}

// prepareCluster returns the user's own cluster, or a control plane that ends with the demo.
func (d *demo) prepareCluster(ctx context.Context) (*preparedCluster, error) {
	p := &preparedCluster{ready: make(chan struct{}), kubeconfig: os.Getenv("KUBECONFIG"), stop: func() error { return nil }}
	if p.kubeconfig != "" {
		if os.Getenv("KRTPKG_DEMO_SITE") == "" {
			return nil, errors.New("your cluster (KUBECONFIG) cannot pull from a registry on this machine's loopback: " +
				"set KRTPKG_DEMO_SITE to a repository that it can pull from, or unset KUBECONFIG")
		}
		close(p.ready)
		return p, nil
	}
	fmt.Println("   cluster  starts during the next steps (the first run on a machine downloads Kubernetes, or compiles it where there is no network)")
	ctx, cancel := context.WithCancel(ctx)
	var cluster *clustertest.Cluster
	go func() {
		defer close(p.ready)
		if cluster, p.err = clustertest.Run(ctx, d.filePath("cluster")); p.err == nil {
			p.kubeconfig = cluster.Kubeconfig
		}
	}()
	p.stop = func() error {
		cancel()
		<-p.ready
		if cluster == nil {
			return nil
		}
		return cluster.Stop()
	}
	return p, nil
}

// awaitCluster returns when there is a cluster for the steps that follow.
func (d *demo) awaitCluster(ctx context.Context) error {
	select {
	case <-d.cluster.ready:
	default:
		fmt.Printf("\n   The next step needs the cluster, which is not ready yet.\n")
		select {
		case <-d.cluster.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	d.kubeconfig = d.cluster.kubeconfig
	return d.cluster.err
}

// showWorkloads lists what runs, as the API server has it.
func (d *demo) showWorkloads(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", d.kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	apps := client.AppsV1()
	deployments, err := apps.Deployments("applications").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	daemonSets, err := apps.DaemonSets("applications").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	fmt.Printf("\n   What runs now:\n")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, o := range deployments.Items {
		fmt.Fprintf(w, "     Deployment %s\t%d of %d ready\t%s\n", o.Name, o.Status.ReadyReplicas, o.Status.Replicas, o.Spec.Template.Spec.Containers[0].Image)
	}
	for _, o := range daemonSets.Items {
		fmt.Fprintf(w, "     DaemonSet %s\t%d of %d ready\t%s\n", o.Name, o.Status.NumberReady, o.Status.DesiredNumberScheduled, o.Spec.Template.Spec.Containers[0].Image)
	}
	return w.Flush()
}
