// Package nodetest runs a real node of a Kubernetes cluster: a kubelet, containerd and runc, built
// from their modules. It needs root, and is for a process in namespaces of its own (mounts,
// processes, network; see [Namespaces]), where nothing that it leaves outlives it.
package nodetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"krtpkg.dev/krtpkg/internal/hack"
)

// Tools are the programs that a node is made of besides the kubelet, by their names in hack/.
var Tools = []string{"tools/containerd", "tools/containerd-shim-runc-v2", "runc", "tools/runc", "tools/ptp", "tools/host-local"}

// Namespaces are those that a process runs a node in.
const Namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET

// Options are what a node must know.
type Options struct {
	// Dir is an empty folder for everything that belongs to it.
	Dir string
	// Kubeconfig is how it reaches the cluster, CA the file of the authority whose clients it obeys.
	Kubeconfig, CA string
	// Hosts are the hosts.toml of registries, by their addresses.
	Hosts map[string]string
	// Sandbox is the image whose container holds a pod's namespaces.
	Sandbox string
}

// Node is a node that runs until it is stopped.
type Node struct {
	dir     string
	running []*exec.Cmd
}

// Start starts a node called localhost. It becomes ready in the seconds after that.
func Start(ctx context.Context, o Options) (*Node, error) {
	n := &Node{dir: o.Dir}
	plane, err := hack.PrepareControlPlane(ctx, hack.ReportPreparation)
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	kubelet := plane.Command("kubelet")
	if err := n.writeFiles(ctx, o); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if err := errors.Join(
		n.startProgram("containerd", n.filePath("bin/containerd"), "--config", n.filePath("containerd.toml")),
		n.waitForSocket(ctx, n.filePath("containerd.sock")),
		n.startProgram("kubelet", append(kubelet, "--config="+n.filePath("kubelet.yaml"), "--kubeconfig="+o.Kubeconfig, "--root-dir="+n.filePath("kubelet"),
			"--cert-dir="+n.filePath("kubelet-pki"), "--hostname-override=localhost")...),
	); err != nil {
		return nil, errors.Join(fmt.Errorf("node: %w", err), n.Stop())
	}
	return n, nil
}

func (n *Node) filePath(name string) string { return filepath.Join(n.dir, name) }

// writeFiles makes what the programs read: their own proc, settings of the kernel that the kubelet
// may write to, their configuration, and a folder with all of them.
func (n *Node) writeFiles(ctx context.Context, o Options) error {
	// What is mounted from now on stays in here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("it takes root, in a namespace for mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := os.MkdirAll(n.filePath("bin"), 0o755); err != nil {
		return err
	}
	for _, tool := range Tools {
		program, err := hack.BuildProgram(ctx, tool)
		name := filepath.Base(tool)
		if tool == "tools/runc" {
			name = "runc-itself"
		}
		if err == nil {
			err = os.Symlink(program, filepath.Join(n.filePath("bin"), name))
		}
		if err != nil {
			return err
		}
	}
	for _, setting := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"} {
		if err := n.shadowFile(filepath.Join("/proc/sys", setting)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(n.filePath("cni"), 0o755); err != nil {
		return err
	}
	for registry, hosts := range o.Hosts {
		dir := filepath.Join(n.filePath("certs.d"), registry)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o600)); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(n.filePath("containerd.toml"), []byte(strings.NewReplacer("DIR", n.dir, "SANDBOX", o.Sandbox).Replace(containerdConfig)), 0o600),
		os.WriteFile(n.filePath("kubelet.yaml"), []byte(strings.NewReplacer("DIR", n.dir, "CLIENTS", o.CA).Replace(kubeletConfig)), 0o600),
		os.WriteFile(n.filePath("cni/10-pods.conflist"), []byte(podNetwork), 0o600),
	)
}

// shadowFile puts a copy over a file of the kernel's, so that writes to it change nothing.
func (n *Node) shadowFile(file string) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	copied := n.filePath(strings.ReplaceAll(file[1:], "/", "-"))
	if err := os.WriteFile(copied, data, 0o600); err != nil {
		return err
	}
	if err := unix.Mount(copied, file, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over %s: %w", file, err)
	}
	return nil
}

const containerdConfig = `version = 3
root = "DIR/containerd"
state = "DIR/containerd-state"
[grpc]
  address = "DIR/containerd.sock"
[ttrpc]
  address = "DIR/containerd.sock.ttrpc"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "native"
  use_local_image_pull = true
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "DIR/certs.d"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "SANDBOX"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    snapshotter = "native"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "DIR/bin/runc"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["DIR/bin"]
    conf_dir = "DIR/cni"
    use_internal_loopback = true
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: 10250
healthzPort: 0
containerRuntimeEndpoint: unix://DIR/containerd.sock
podLogsDir: DIR/logs
volumePluginDir: DIR/volumes
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: CLIENTS}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
resolvConf: ""
clusterDNS: [127.96.0.10]
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
`

// podNetwork gives each pod an address and a line to the node, and nothing else.
const podNetwork = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{
    "type": "ptp",
    "ipam": {"type": "host-local", "dataDir": "/run/krtpkg-pods", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
  }]
}
`

func (n *Node) startProgram(name string, command ...string) error {
	log, err := os.Create(n.filePath(name + ".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = []string{"PATH=" + n.filePath("bin") + ":" + os.Getenv("PATH"), "HOME=" + n.dir, "TMPDIR=" + n.dir}
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.dir, log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	n.running = append(n.running, cmd)
	return nil
}

// waitForSocket waits until something listens at a socket.
func (n *Node) waitForSocket(ctx context.Context, socket string) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", filepath.Base(socket), err)
		}
	}
}

// Logs returns the ends of what the programs wrote.
func (n *Node) Logs() string {
	var all strings.Builder
	for _, name := range []string{"containerd", "kubelet"} {
		data, _ := os.ReadFile(n.filePath(name + ".log"))
		lines := bytes.Split(data, []byte("\n"))
		fmt.Fprintf(&all, "%s:\n%s\n", name, bytes.Join(lines[max(0, len(lines)-40):], []byte("\n")))
	}
	return all.String()
}

// RemoveGroups takes away the empty control groups that nodes have left, which belong to no
// namespace.
func RemoveGroups() {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/k8s.io")
	for _, root := range append(roots, "/sys/fs/cgroup/k8s.io") {
		var dirs []string
		// The function returns no error: what cannot be read is passed over, since groups end while this looks.
		_ = filepath.WalkDir(root, func(name string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, name)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			_ = syscall.Rmdir(dir) // refused where it is in use
		}
	}
}

// Stop kills the programs. Containers end with the namespace that they are in.
func (n *Node) Stop() error {
	var problems []error
	for _, cmd := range n.running {
		problems = append(problems, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	}
	return errors.Join(problems...)
}
