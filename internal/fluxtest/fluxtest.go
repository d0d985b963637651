// Package fluxtest runs the real source-controller and kustomize-controller of Flux beside the
// control plane of internal/clustertest: their own resource definitions, and their programs as
// processes here instead of in pods.
//
// A test calls [Start]. The first use on a machine builds them, which takes minutes.
package fluxtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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
		for _, p := range f.processes {
			if t.Failed() {
				t.Logf("%s wrote:\n%s", p.Name, p.Tail())
			}
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
		}
	})
	if err := f.start(t.Context(), cluster); err != nil {
		t.Fatalf("flux: %v", err)
	}
}

type flux struct {
	dir       string
	processes []*hack.Process
}

func (f *flux) path(name ...string) string { return filepath.Join(append([]string{f.dir}, name...)...) }

func (f *flux) start(ctx context.Context, cluster *clustertest.Cluster) error {
	if err := f.install(ctx, cluster); err != nil {
		return err
	}
	ports := make([]string, 3)
	for i := range ports {
		port, err := hack.FreePort()
		if err != nil {
			return err
		}
		ports[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
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
	return f.await(ctx, ports)
}

// install applies the resource definitions of the modules that the controllers are built from.
func (f *flux) install(ctx context.Context, cluster *clustertest.Cluster) error {
	kapp, err := hack.Build(ctx, "tools/kapp")
	if err != nil {
		return err
	}
	args := []string{"deploy", "-a", "flux", "-f", "-", "--yes", "--kubeconfig", cluster.Kubeconfig}
	for _, name := range []string{source, kustomize} {
		at, err := hack.ModuleDir(ctx, "tools/"+name, "github.com/fluxcd/"+name)
		if err != nil {
			return err
		}
		args = append(args, "-f", filepath.Join(at, "config", "crd", "bases"))
	}
	cmd := exec.CommandContext(ctx, kapp, args...)
	cmd.Stdin = strings.NewReader("apiVersion: v1\nkind: Namespace\nmetadata: {name: " + Namespace + "}\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kapp: %w\n%s", err, out)
	}
	return nil
}

// await waits until something listens on all ports.
func (f *flux) await(ctx context.Context, addresses []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not ready after a minute"))
	defer cancel()
	for _, address := range addresses {
		for {
			connection, err := net.Dial("tcp", address)
			if err == nil {
				connection.Close()
				break
			}
			for _, p := range f.processes {
				if p.HasEnded() {
					return fmt.Errorf("%s has ended", p.Name)
				}
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", context.Cause(ctx), err)
			}
		}
	}
	return nil
}
