// Package fluxtest runs the real source-controller and kustomize-controller of Flux beside the
// control plane of internal/clustertest: their own resource definitions, and their programs as
// processes here instead of in pods.
//
// A test calls [Start]. The first use on a machine builds them, which takes minutes.
package fluxtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
)

// Namespace is that of the controllers, and the usual one for Flux's resources.
const Namespace = "flux-system"

const (
	source    = "source-controller"
	kustomize = "kustomize-controller"
)

// Start runs both controllers for the time of a test, which fails if they do not start. What they
// wrote is shown if the test fails.
func Start(t testing.TB, cluster *clustertest.Cluster) {
	t.Helper()
	f := &flux{dir: t.TempDir()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.processes.Tail())
		}
		if err := f.processes.Kill(); err != nil {
			t.Error(err)
		}
	})
	if err := f.start(t.Context(), cluster); err != nil {
		t.Fatalf("flux: %v", err)
	}
}

type flux struct {
	dir       string
	processes hack.Processes
}

func (f *flux) path(name ...string) string { return filepath.Join(append([]string{f.dir}, name...)...) }

func (f *flux) start(ctx context.Context, cluster *clustertest.Cluster) error {
	if err := f.install(ctx, cluster); err != nil {
		return err
	}
	ports := make([]string, 3)
	for i := range ports {
		var err error
		if ports[i], err = hack.FreeAddress(); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		name string
		args []string
	}{
		{source, []string{"--storage-path", f.path("data"), "--storage-addr", ports[0], "--storage-adv-addr", ports[0], "--health-addr", ports[1]}},
		{kustomize, []string{"--health-addr", ports[2], "--requeue-dependency=1s"}},
	} {
		bin, err := hack.Build(ctx, "tools/"+c.name)
		if err != nil {
			return err
		}
		home := f.path(c.name)
		if err := errors.Join(os.Mkdir(home, 0o700), os.MkdirAll(f.path("data"), 0o700)); err != nil {
			return err
		}
		env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "TUF_ROOT=" + filepath.Join(home, "sigstore"),
			"KUBECONFIG=" + cluster.Kubeconfig, "RUNTIME_NAMESPACE=" + Namespace}
		args := append(c.args, "--watch-all-namespaces", "--enable-leader-election=false", "--metrics-addr=0", "--events-addr=")
		p, err := hack.StartProcess(c.name, f.path(c.name+".log"), env, bin, args...)
		if err != nil {
			return err
		}
		f.processes = append(f.processes, p)
	}
	return hack.Await(ctx, ports, f.processes)
}

// install applies the resource definitions of the modules that the controllers are built from.
func (f *flux) install(ctx context.Context, cluster *clustertest.Cluster) error {
	var files []string
	for _, name := range []string{source, kustomize} {
		at, err := hack.ModuleDir(ctx, "tools/"+name, "github.com/fluxcd/"+name)
		if err != nil {
			return err
		}
		files = append(files, filepath.Join(at, "config", "crd", "bases"))
	}
	return cluster.Deploy(ctx, "flux", "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+Namespace+"}\n", files...)
}
