package hack_test

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
)

// A control plane of published programs runs as any other, and is downloaded once. The programs are those of this
// machine's tests, in archives.
func TestPublishedControlPlane(t *testing.T) {
	real := hack.PrepareForTest(t)
	p := publish(t, "", map[string][]byte{
		serverArchive: packPrograms(t, real.Command, inServerArchive), etcdArchive: packPrograms(t, real.Command, inEtcdArchive),
	}, nil)
	cache := t.TempDir()
	var reports []string
	prepare := func() *hack.ControlPlane {
		plane, err := hack.PrepareFrom(t.Context(), p.index, "linux-amd64", cache, "download", func(what string) { reports = append(reports, what) })
		if err != nil {
			t.Fatal(err)
		}
		return plane
	}
	plane := prepare()
	if command := plane.Command("kubelet"); len(command) != 1 || path.Dir(command[0]) != plane.Components {
		t.Errorf("the kubelet is %q", command)
	}
	c, err := clustertest.RunControlPlane(t.Context(), plane, filepath.Join(t.TempDir(), "run"), 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	running, err := os.ReadFile(filepath.Join(c.Dir, "pids", "kube-apiserver"))
	if err != nil {
		t.Fatal(err)
	}
	command, err := os.ReadFile(filepath.Join("/proc", string(running), "cmdline"))
	want := strings.Join(real.Command("kube-apiserver"), "\x00") + "\x00"
	if err != nil || !bytes.HasPrefix(command, []byte(want)) {
		t.Errorf("the API server is %q, %v; want %q", command, err, want)
	}
	if prepare(); len(reports) != 2 || len(p.asked) != 2 {
		t.Errorf("reports %q, requests %q; want two of each", reports, p.asked)
	}
}
