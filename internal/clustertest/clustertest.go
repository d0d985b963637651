// Package clustertest runs a real Kubernetes control plane for tests, benchmarks and the
// demo: etcd, the API server, the controller manager, the scheduler, and KWOK, which plays
// two nodes and the pods on them. Whatever needs containers that run is out of its reach;
// pods become ready and complete without.
//
// A test calls [Borrow], [Reserve] if its package has many tests that can do with what others
// leave on a cluster, or [Start] for one of its own; a program calls [Run].
//
// The cluster is hack/cluster. The first use on a machine downloads what Kubernetes publishes, or compiles it where that
// is not possible, which takes minutes; after that, a start takes seconds. See [hack.ControlPlaneVariable].
package clustertest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"krtpkg.dev/krtpkg/internal/hack"
)

// stopLimit is longer than hack/cluster gives all of its components to end.
const stopLimit = 30 * time.Second

// Cluster is a running control plane.
type Cluster struct {
	// Kubeconfig is the path of a kubeconfig file whose user may do everything.
	Kubeconfig string
	// Dir is the folder of this run. Its logs folder has one file for each component.
	Dir string

	cmd    *exec.Cmd
	stdin  io.Closer // the cluster ends when it is closed
	stderr *bytes.Buffer
	stop   func() error
}

// Run starts a cluster that keeps its files in dir, which must be empty or missing, and
// returns when it is ready for pods. Canceling ctx gives up the start; it has no effect on
// a cluster that runs. The caller must call Stop. If the process ends without, the cluster
// does too, soon after.
func Run(ctx context.Context, dir string) (*Cluster, error) { return RunNodes(ctx, dir, 2) }

// RunNodes is [Run] with a number of nodes that KWOK plays; real ones can join.
func RunNodes(ctx context.Context, dir string, nodes int) (*Cluster, error) {
	plane, err := hack.PrepareControlPlane(ctx, hack.ReportPreparation)
	if err != nil {
		return nil, err
	}
	return RunControlPlane(ctx, plane, dir, nodes)
}

// RunControlPlane is [RunNodes] with given programs.
func RunControlPlane(ctx context.Context, plane *hack.ControlPlane, dir string, nodes int) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Dir: dir, cmd: exec.Command(plane.Program, "up", "--dir", dir, "--nodes", strconv.Itoa(nodes), "--components", plane.Components), stderr: new(bytes.Buffer)}
	c.stop = sync.OnceValue(c.endProcesses)
	c.cmd.Stderr = c.stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	giveUp := context.AfterFunc(ctx, func() { c.Stop() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if !giveUp() {
		return nil, errors.Join(context.Cause(ctx), c.Stop())
	}
	if err != nil {
		// It has ended already, and Stop returns why.
		return nil, cmp.Or(c.Stop(), err)
	}
	c.Kubeconfig = strings.TrimSuffix(line, "\n")
	return c, nil
}

// Stop ends the cluster and all of its processes, and returns when they are gone. It fails
// if the cluster had ended before, or not in order. The files stay. Further calls return
// the result of the first.
func (c *Cluster) Stop() error { return c.stop() }

func (c *Cluster) endProcesses() error {
	kill := time.AfterFunc(stopLimit, func() { c.cmd.Process.Kill() })
	defer kill.Stop()
	c.stdin.Close()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("cluster in %s: %w\n%s", c.Dir, err, c.stderr)
	}
	return nil
}

// Signal sends a signal to a component: etcd, kube-apiserver, kube-controller-manager,
// kube-scheduler or kwok. An API server that is killed is started again.
func (c *Cluster) Signal(component string, signal os.Signal) error {
	text, err := os.ReadFile(filepath.Join(c.Dir, "pids", component))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return err
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return process.Signal(signal)
}

// RESTConfig returns the configuration of a client that may do everything, as often as it
// wants.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}
