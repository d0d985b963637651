package cli_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// A machine without any network has of a stick what it needs: an archive is verified and imported, and its files are
// fetched.
func TestFilesWithoutNetwork(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.write("bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: node, version: 1.0.0}\n"+
		"spec: {layer: 1, files: [{path: tool, mode: '0755', platform: linux/arm64}]}\n", "tool", "a tool\n")
	s.ok("build", "-f", ".")
	s.ok("sign", "--key", "cosign.key", "oci:dist:1.0.0")
	s.ok("export", "oci:dist:1.0.0", "node.tar")
	if err := os.RemoveAll(s.path("dist")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"import", "--key", "cosign.pub", "node.tar", "oci:site"},
		{"files", "get", "--key", "cosign.pub", "oci:site:1.0.0", "tool", "--platform", "linux/arm64", "-d", "from-folder"},
		{"files", "get", "--key", "cosign.pub", "node.tar", "tool", "--platform", "linux/arm64", "-d", "from-archive"},
	} {
		cmd := exec.CommandContext(t.Context(), "krtpkg", args...)
		cmd.Dir, cmd.Env = s.path(""), s.env
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("krtpkg %v: %v\n%s", args, err, out)
		}
	}
	for _, file := range []string{"from-folder/tool", "from-archive/tool"} {
		data, err := os.ReadFile(s.path(file))
		if err != nil || string(data) != "a tool\n" {
			t.Errorf("%s: %q, %v", file, data, err)
		}
		if info, err := os.Stat(s.path(file)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
}
