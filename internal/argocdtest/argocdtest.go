// Package argocdtest runs the real repo-server and application controller of Argo CD, the parts that
// need no user, next to the control plane of internal/clustertest: their own resource definitions,
// and their programs as processes here instead of in pods.
//
// A test calls [Start], a program [Run]. The first use on a machine builds them, which takes minutes.
package argocdtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
)

// Namespace is that of Argo CD.
const Namespace = "argocd"

// tools are what the repo-server starts.
var tools = []string{"tools/helm", "tools/kustomize"}

// installation is what Argo CD finds at its start, next to its resource definitions.
const installation = `apiVersion: v1
kind: Namespace
metadata: {name: argocd}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: argocd-cm, namespace: argocd, labels: {app.kubernetes.io/part-of: argocd}}
---
apiVersion: v1
kind: Secret
metadata: {name: argocd-secret, namespace: argocd, labels: {app.kubernetes.io/part-of: argocd}}
stringData: {server.secretkey: for-tests}
---
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: default, namespace: argocd}
spec:
  sourceRepos: ["*"]
  destinations: [{namespace: "*", server: "*"}]
  clusterResourceWhitelist: [{group: "*", kind: "*"}]
`

// ArgoCD is a running one.
type ArgoCD struct {
	dir       string
	processes hack.Processes
}

// Run starts Argo CD, which looks for changes in each period, with files in dir, and returns when it is
// ready. The caller must call Stop.
func Run(ctx context.Context, cluster *clustertest.Cluster, dir string, period time.Duration) (*ArgoCD, error) {
	a := &ArgoCD{dir: dir}
	if err := a.startPrograms(ctx, cluster, period); err != nil {
		return nil, errors.Join(fmt.Errorf("argocd: %w\n%s", err, a.processes.Tail()), a.Stop())
	}
	return a, nil
}

// Stop ends it. It fails if one of its programs had ended before.
func (a *ArgoCD) Stop() error { return a.processes.Kill() }

// Start is [Run] for the time of a test, which fails if it does not start. It looks for changes every few
// seconds. What its programs wrote is shown if the test fails.
func Start(t testing.TB, cluster *clustertest.Cluster) *ArgoCD {
	t.Helper()
	a, err := Run(t.Context(), cluster, t.TempDir(), 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(a.processes.Tail())
		}
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// Authorities gives the repo-server the files of its ConfigMap argocd-tls-certs-cm, which in a pod are
// a volume.
func (a *ArgoCD) Authorities(t testing.TB, data map[string]any) {
	t.Helper()
	for name, text := range data {
		if err := os.WriteFile(filepath.Join(a.dir, "tls", name), []byte(text.(string)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (a *ArgoCD) startPrograms(ctx context.Context, cluster *clustertest.Cluster, period time.Duration) error {
	module, err := hack.ModuleDir(ctx, "argocd", "github.com/argoproj/argo-cd/v3")
	if err != nil {
		return err
	}
	crds := filepath.Join(module, "manifests", "crds")
	if err := cluster.Deploy(ctx, "argocd", installation, filepath.Join(crds, "application-crd.yaml"), filepath.Join(crds, "appproject-crd.yaml")); err != nil {
		return err
	}
	bin, err := hack.BuildProgram(ctx, "argocd")
	if err != nil {
		return err
	}
	search := []string{os.Getenv("PATH")}
	for _, name := range tools {
		tool, err := hack.BuildProgram(ctx, name)
		if err != nil {
			return err
		}
		search = append([]string{filepath.Dir(tool)}, search...)
	}
	addresses := make([]string, 4)
	ports := make([]string, len(addresses))
	for i := range addresses {
		if addresses[i], err = hack.FreeAddress(); err != nil {
			return err
		}
		_, ports[i], _ = net.SplitHostPort(addresses[i])
	}
	redis := addresses[0]
	env := []string{
		"PATH=" + strings.Join(search, string(os.PathListSeparator)), "HOME=" + a.dir, "TMPDIR=" + a.dir,
		"KUBECONFIG=" + cluster.Kubeconfig, "ARGOCD_GPG_ENABLED=false", "ARGOCD_FAKE_IN_CLUSTER=true", "POD_NAMESPACE=" + Namespace,
		"ARGOCD_RECONCILIATION_TIMEOUT=" + period.String(), "ARGOCD_RECONCILIATION_JITTER=0s", "ARGOCD_REPO_ERROR_GRACE_PERIOD_SECONDS=0",
		"ARGOCD_TLS_DATA_PATH=" + filepath.Join(a.dir, "tls"),
	}
	if err := os.Mkdir(filepath.Join(a.dir, "tls"), 0o700); err != nil {
		return err
	}
	for _, p := range []struct {
		name string
		args []string
	}{
		{"redis", []string{redis}},
		{"repo-server", []string{"--redis", redis, "--disable-tls", "--address", "127.0.0.1", "--port", ports[1], "--metrics-address", "127.0.0.1", "--metrics-port", ports[2]}},
		{"application-controller", []string{"--redis", redis, "--repo-server", addresses[1], "--repo-server-plaintext", "--metrics-port", ports[3], "--namespace", Namespace}},
	} {
		started, err := hack.StartProcess(p.name, filepath.Join(a.dir, p.name+".log"), env, bin, append([]string{p.name}, p.args...)...)
		if err != nil {
			return err
		}
		a.processes = append(a.processes, started)
		if p.name == "redis" { // the others end without
			if err := hack.AwaitListeners(ctx, addresses[:1], a.processes); err != nil {
				return err
			}
		}
	}
	return hack.AwaitListeners(ctx, addresses, a.processes)
}
