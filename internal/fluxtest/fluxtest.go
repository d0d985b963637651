// Package fluxtest runs the real source-controller and kustomize-controller of Flux next to the
// control plane of internal/clustertest: their own resource definitions, and their programs as
// processes here instead of in pods.
//
// A test calls [Start], a program [Run]. The first use on a machine builds them, which takes minutes.
package fluxtest

import (
	"context"
	"errors"
	"fmt"
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

// Flux are the running controllers.
type Flux struct {
	dir       string
	processes hack.Processes
}

// Run starts both controllers, with files in dir, and returns when they are ready. The caller must call
// Stop.
func Run(ctx context.Context, cluster *clustertest.Cluster, dir string) (*Flux, error) {
	f := &Flux{dir: dir}
	if err := f.startControllers(ctx, cluster); err != nil {
		return nil, errors.Join(fmt.Errorf("flux: %w\n%s", err, f.processes.Tail()), f.Stop())
	}
	return f, nil
}

// Stop ends them. It fails if one had ended before.
func (f *Flux) Stop() error { return f.processes.Kill() }

// Start is [Run] for the time of a test, which fails if they do not start. What they wrote is shown if
// the test fails.
func Start(t testing.TB, cluster *clustertest.Cluster) {
	t.Helper()
	f, err := Run(t.Context(), cluster, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.processes.Tail())
		}
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func (f *Flux) filePath(name ...string) string {
	return filepath.Join(append([]string{f.dir}, name...)...)
}

func (f *Flux) startControllers(ctx context.Context, cluster *clustertest.Cluster) error {
	if err := f.applyDefinitions(ctx, cluster); err != nil {
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
		{source, []string{"--storage-path", f.filePath("data"), "--storage-addr", ports[0], "--storage-adv-addr", ports[0], "--health-addr", ports[1]}},
		{kustomize, []string{"--health-addr", ports[2], "--requeue-dependency=1s"}},
	} {
		bin, err := hack.BuildProgram(ctx, "tools/"+c.name)
		if err != nil {
			return err
		}
		home := f.filePath(c.name)
		if err := errors.Join(os.Mkdir(home, 0o700), os.MkdirAll(f.filePath("data"), 0o700)); err != nil {
			return err
		}
		env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "TUF_ROOT=" + filepath.Join(home, "sigstore"),
			"KUBECONFIG=" + cluster.Kubeconfig, "RUNTIME_NAMESPACE=" + Namespace}
		args := append(c.args, "--watch-all-namespaces", "--enable-leader-election=false", "--metrics-addr=0", "--events-addr=")
		p, err := hack.StartProcess(c.name, f.filePath(c.name+".log"), env, bin, args...)
		if err != nil {
			return err
		}
		f.processes = append(f.processes, p)
	}
	return hack.AwaitListeners(ctx, ports, f.processes)
}

// applyDefinitions applies the resource definitions of the modules that the controllers are built from.
func (f *Flux) applyDefinitions(ctx context.Context, cluster *clustertest.Cluster) error {
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
