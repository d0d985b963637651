// Package kappctrltest runs the real kapp-controller next to the control plane of
// internal/clustertest: its own manifests, but for the Deployment, whose two containers are
// processes here, each in a mount namespace of its own that looks as its image does.
//
// A test calls [Start], a program [Run]. Making the namespaces takes Linux, and root or user
// namespaces. The controller and its tools are those of hack/tools; the first use on a machine
// builds them, which takes minutes.
package kappctrltest

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
)

// The namespaces of the controller, and of repositories whose packages all namespaces see.
const (
	Namespace       = "kapp-controller"
	GlobalNamespace = "kapp-controller-packaging-global"
)

const (
	account    = "kapp-controller-sa"
	controller = "tools/kapp-controller"
	module     = "github.com/vmware-tanzu/carvel-kapp-controller"
)

// tools are what the controller starts.
var tools = []string{"tools/vendir", "tools/imgpkg", "tools/ytt", "tools/helm", "tools/kbld", "tools/kapp"}

// overlay takes the Deployment out and leads the API server to the process.
//
//go:embed overlay.yaml
var overlay []byte

// container makes the file system that a container of the image would see.
//
//go:embed container.sh
var container string

// Controller is a running kapp-controller.
type Controller struct {
	// Dir is the folder of this run. Its logs folder has one file for each process.
	Dir string

	processes hack.Processes
	stop      func() error
}

// Run starts kapp-controller for a cluster, with files in dir, and returns when its API is
// served. The caller must call Stop, before it stops the cluster.
func Run(ctx context.Context, cluster *clustertest.Cluster, dir string) (*Controller, error) {
	c := &Controller{Dir: dir}
	c.stop = sync.OnceValue(func() error { return c.processes.Kill() })
	if err := c.startProcesses(ctx, cluster); err != nil {
		return nil, errors.Join(fmt.Errorf("kapp-controller: %w\n%s", err, c.processes.Tail()), c.Stop())
	}
	return c, nil
}

// Start is [Run] for the time of a test, which fails if the controller does not start. What its
// processes wrote is shown if the test fails.
func Start(t testing.TB, cluster *clustertest.Cluster) *Controller {
	t.Helper()
	c, err := Run(t.Context(), cluster, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.processes.Tail())
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Stop ends both processes. It fails if one had ended before.
func (c *Controller) Stop() error { return c.stop() }

func (c *Controller) filePath(name ...string) string {
	return filepath.Join(append([]string{c.Dir}, name...)...)
}

func (c *Controller) startProcesses(ctx context.Context, cluster *clustertest.Cluster) error {
	bin, err := hack.BuildProgram(ctx, controller)
	if err != nil {
		return err
	}
	var search []string
	for _, name := range tools {
		tool, err := hack.BuildProgram(ctx, name)
		if err != nil {
			return err
		}
		search = append(search, filepath.Dir(tool))
	}
	for _, sub := range []string{"logs", "account", "room", "sock"} {
		if err := os.Mkdir(c.filePath(sub), 0o700); err != nil {
			return err
		}
	}
	port, err := hack.FreePort()
	if err != nil {
		return err
	}
	config, err := cluster.RESTConfig()
	if err != nil {
		return err
	}
	if err := c.applyManifests(ctx, cluster, port); err != nil {
		return err
	}
	if err := c.writeAccount(ctx, config); err != nil {
		return err
	}
	server, err := url.Parse(config.Host)
	if err != nil {
		return err
	}
	env := []string{
		"PATH=" + strings.Join(append(search, os.Getenv("PATH")), string(os.PathListSeparator)),
		"HOME=/home/kapp-controller",
		"KAPPCTRL_MEM_TMP_DIR=/run/kappctrl",
		"KAPPCTRL_SIDECAREXEC_SOCK=/run/kappctrl/sidecarexec.sock",
		"KAPPCTRL_SYSTEM_NAMESPACE=" + Namespace,
		"KAPPCTRL_API_PORT=" + strconv.Itoa(port),
		"KUBERNETES_SERVICE_HOST=" + server.Hostname(),
		"KUBERNETES_SERVICE_PORT=" + server.Port(),
		// Where the controller writes the authorities of its configuration, as in its image.
		"SSL_CERT_FILE=/etc/pki/tls/certs/ca-bundle.crt",
		"SSL_CERT_DIR=/nowhere",
	}
	for _, p := range []struct {
		name string
		args []string
	}{
		{"sidecarexec", []string{"--sidecarexec"}},
		{"controller", []string{"-packaging-global-namespace=" + GlobalNamespace, "-enable-api-priority-and-fairness=false", "-metrics-bind-address=0"}},
	} {
		args := append([]string{"-m"}, namespaceFlags()...)
		args = append(args, "sh", "-ec", container, "container", c.Dir, bin)
		started, err := hack.StartProcess(p.name, c.filePath("logs", p.name+".log"), env, "unshare", append(args, p.args...)...)
		if err != nil {
			return err
		}
		c.processes = append(c.processes, started)
	}
	return c.awaitAPI(ctx, config)
}

// namespaceFlags returns the flags for who is not root.
func namespaceFlags() []string {
	if os.Getuid() == 0 {
		return nil
	}
	return []string{"--map-root-user"}
}

// applyManifests applies the manifests of the module that the controller is built from.
func (c *Controller) applyManifests(ctx context.Context, cluster *clustertest.Cluster, port int) error {
	at, err := hack.ModuleDir(ctx, controller, module)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.filePath("overlay.yaml"), overlay, 0o600); err != nil {
		return err
	}
	ytt, err := hack.BuildProgram(ctx, "tools/ytt")
	if err != nil {
		return err
	}
	var said bytes.Buffer
	render := exec.CommandContext(ctx, ytt, "-f", filepath.Join(at, "config"), "-f", c.filePath("overlay.yaml"), "--data-value-yaml", "apiPort="+strconv.Itoa(port))
	render.Stderr = &said
	manifests, err := render.Output()
	if err != nil {
		return fmt.Errorf("ytt: %w\n%s", err, said.Bytes())
	}
	return cluster.Deploy(ctx, "kapp-controller", string(manifests))
}

// writeAccount writes what a pod finds of its service account.
func (c *Controller) writeAccount(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	hours := int64(24 * 3600)
	token, err := client.CoreV1().ServiceAccounts(Namespace).CreateToken(ctx, account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	ca := config.CAData
	if len(ca) == 0 {
		if ca, err = os.ReadFile(config.CAFile); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(c.filePath("account", "token"), []byte(token.Status.Token), 0o600),
		os.WriteFile(c.filePath("account", "ca.crt"), ca, 0o600),
		os.WriteFile(c.filePath("account", "namespace"), []byte(Namespace), 0o600),
	)
}

// awaitAPI waits until the API server passes requests for packages on.
func (c *Controller) awaitAPI(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("its API is not served after 2 minutes"))
	defer cancel()
	for {
		_, err := client.RESTClient().Get().AbsPath("/apis/data.packaging.carvel.dev/v1alpha1/packages").DoRaw(ctx)
		if err == nil {
			return nil
		}
		if err := c.processes.CheckEnded(); err != nil {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}
