package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	nodefast "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	heartbeat "sigs.k8s.io/kwok/kustomize/stage/node/heartbeat-with-lease"
	podfast "sigs.k8s.io/kwok/kustomize/stage/pod/fast"
)

// startLimit is far above the 4 to 5 s that a start takes: machines that build at the
// same time are slow.
const startLimit = 2 * time.Minute

// up runs a cluster until ctx ends or one of its components does. It writes the path of
// the kubeconfig to ready when the cluster can be used.
func up(ctx context.Context, dir, programs string, nodes int, ready io.Writer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	c := &cluster{dir: dir, programs: programs, fail: fail}
	defer c.stop()

	if err := c.start(ctx, nodes); err != nil {
		// Whoever cancelled knows more than the call that was interrupted.
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("start: %w", err)
	}
	fmt.Fprintln(ready, c.path("kubeconfig"))

	<-ctx.Done()
	var ended *endedError
	if errors.As(context.Cause(ctx), &ended) {
		return ended
	}
	return nil
}

// cluster is the state of one run.
type cluster struct {
	dir      string
	programs string                  // the folder of components that are not in this binary
	fail     context.CancelCauseFunc // takes the reason why the run cannot go on

	answering func() error // ends the services

	mu      sync.Mutex
	running []*process // in the order of their start
	ending  bool
}

func (c *cluster) path(name ...string) string {
	return filepath.Join(append([]string{c.dir}, name...)...)
}

func (c *cluster) start(run context.Context, nodes int) error {
	ctx, cancel := context.WithTimeoutCause(run, startLimit, fmt.Errorf("not ready after %s", startLimit))
	defer cancel()

	if err := c.prepareDir(); err != nil {
		return err
	}
	etcdPort, peerPort, apiPort, err := reservePorts()
	if err != nil {
		return err
	}
	authority, err := writePKI(c.path("pki"), c.path("kubeconfig"), fmt.Sprintf("https://127.0.0.1:%d", apiPort))
	if err != nil {
		return err
	}
	if err := c.serveServices(authority); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.path("kubeconfig"))
	if err != nil {
		return err
	}
	config.QPS = -1 // polling is not to be slowed down
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}

	if err := c.run("etcd", c.etcdFlags(etcdPort, peerPort)); err != nil {
		return err
	}
	if err := waitPort(ctx, etcdPort); err != nil {
		return err
	}
	if err := c.run("kube-apiserver", c.apiServerFlags(apiPort, etcdPort)); err != nil {
		return err
	}
	// The others give up if the API server keeps them waiting.
	if err := waitAPIServer(ctx, client); err != nil {
		return err
	}
	if err := createNodes(ctx, client, nodes); err != nil {
		return err
	}
	if err := deleteNamespaces(run, config, client); err != nil {
		return err
	}
	if err := c.run("kwok", c.kwokFlags()); err != nil {
		return err
	}
	if err := c.run("kube-controller-manager", c.controllerManagerFlags()); err != nil {
		return err
	}
	if err := c.run("kube-scheduler", c.schedulerFlags()); err != nil {
		return err
	}
	return waitUsable(ctx, client, nodes)
}

// serveServices answers for the pods' services until the run ends.
func (c *cluster) serveServices(a *authority) error {
	// The path of a socket has some 100 bytes, and a folder of tests may have more.
	dir, err := os.MkdirTemp("", "krtpkg")
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "egress")
	answering, err := (&services{authority: a, certs: map[string]*tls.Certificate{}}).serve(socket)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	c.answering = func() error { return errors.Join(answering.Close(), os.RemoveAll(dir)) }
	return os.WriteFile(c.path("egress.yaml"), fmt.Appendf(nil, egressConfig, socket), 0o600)
}

// prepareDir refuses the folder of another run: its data belongs to other keys.
func (c *cluster) prepareDir() error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty: each run needs a new folder", c.dir)
	}
	for _, sub := range []string{"pki", "logs", "etcd", "pids"} {
		if err := os.Mkdir(c.path(sub), 0o700); err != nil {
			return err
		}
	}
	stages := []string{
		nodefast.DefaultNodeInit,
		heartbeat.DefaultNodeHeartbeatWithLease,
		podfast.DefaultPodReady,
		podfast.DefaultPodComplete,
		podfast.DefaultPodDelete,
	}
	return os.WriteFile(c.path("kwok.yaml"), []byte(strings.Join(stages, "\n---\n")), 0o600)
}

// command returns the program of a component and its first arguments.
func (c *cluster) command(component string) ([]string, error) {
	published := filepath.Join(c.programs, component)
	if info, err := os.Stat(published); err == nil && c.programs != "" && info.Mode().IsRegular() {
		return []string{published}, nil
	}
	exe, err := os.Executable()
	return []string{exe, component}, err
}

// run starts a component. If it ends before it is told to, the whole run does; but an API server
// that was killed is started again, as a kubelet would do. The process id is in the pids folder.
func (c *cluster) run(component string, flags []string) error {
	log := c.path("logs", component+".log")
	command, err := c.command(component)
	if err != nil {
		return err
	}
	p, err := startProcess(c.dir, log, component, append(command, flags...))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		p.stop()
		return nil
	}
	c.running = append(c.running, p)
	go func() {
		<-p.ended
		if component == "kube-apiserver" && p.killed() && c.forget(p) {
			p.err = c.run(component, flags)
			if p.err == nil {
				return
			}
		}
		c.fail(&endedError{component: component, err: p.err, tail: tail(log)})
	}()
	pid := fmt.Sprint(p.cmd.Process.Pid)
	return os.WriteFile(c.path("pids", component), []byte(pid), 0o600)
}

// forget takes out a process that has ended. It is false once all are to end.
func (c *cluster) forget(p *process) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = slices.DeleteFunc(c.running, func(o *process) bool { return o == p })
	return !c.ending
}

// next takes out the process to end next: the last that was started, but the API server, which
// may have been started again, after all its clients and before etcd, without which it ignores
// SIGTERM.
func (c *cluster) next() *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = true
	last := -1
	for i, p := range c.running {
		if last < 0 || c.running[last].rank() <= p.rank() {
			last = i
		}
	}
	if last < 0 {
		return nil
	}
	p := c.running[last]
	c.running = slices.Delete(c.running, last, last+1)
	return p
}

func (c *cluster) stop() {
	for p := c.next(); p != nil; p = c.next() {
		p.stop()
	}
	if c.answering != nil {
		_ = c.answering()
	}
}
