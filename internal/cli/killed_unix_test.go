//go:build unix

package cli_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/internal/clustertest"
)

// Whatever kills an apply, the next one ends where a clean one does.
func TestKilledApply(t *testing.T) {
	t.Parallel()
	cluster := clustertest.Start(t)
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.env = append(s.env, "KUBECONFIG="+cluster.Kubeconfig)
	s.stack("1.0.0")
	w := newWatcher(t, cluster)
	apply := []string{"apply", "--key", "cosign.pub", "oci:dist:1.0.0", "--yes", "--wait-timeout", "30s", "--lock-timeout", "3s", "--skip-check", "images"}
	took := s.timeCommand(apply...)
	clean := w.stable(w.everything())
	s.ok("delete", "stack", "--yes", "--lock-timeout", "3s")

	again := func(what string) {
		t.Helper()
		var r result
		for range 20 { // an API server that starts again says no to some
			if r = s.run(apply...); r.code == 0 {
				break
			}
			time.Sleep(500 * time.Millisecond)
		}
		if diff := leftovers(clean, w.stable(w.everything())); r.code != 0 || len(diff) > 0 {
			t.Errorf("%s: exit code %d, not as after a clean apply:\n%s\n%s", what, r.code, strings.Join(diff, "\n"), r.stderr)
		}
		if r := s.run("status", "stack", "--exit-code"); r.code != 0 {
			t.Errorf("%s: status\n%s%s", what, r.stdout, r.stderr)
		}
		s.ok("delete", "stack", "--yes", "--lock-timeout", "3s")
	}
	const moments = 10
	inside := 0
	for i := range moments {
		cmd, _, stderr := s.command(apply...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(took * time.Duration(i+1) / (moments + 1))
		cmd.Process.Kill()
		cmd.Wait()
		if _, err := w.client.CoreV1().Namespaces().Get(t.Context(), "stack", metav1.GetOptions{}); err == nil && cmd.ProcessState.ExitCode() < 0 {
			inside++
		}
		if history := s.run("history", "stack"); history.code != 0 && !strings.Contains(history.stderr, "not installed") {
			t.Errorf("history is not readable:\n%s", history.stderr)
		}
		again(fmt.Sprintf("killed at moment %d, having said:\n%s", i+1, stderr))
	}
	t.Logf("%d of %d kills were after the first object came and before the end", inside, moments)
	if inside == 0 {
		t.Error("no apply was killed that had changed anything")
	}

	during := func(what string, fault func()) {
		t.Helper()
		cmd, _, stderr := s.command(apply...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(took / 2)
		fault()
		cmd.Wait()
		w.reachable()
		again(what + ", with which the apply said:\n" + stderr.String())
	}
	during("the API server was killed", func() {
		if err := cluster.Signal("kube-apiserver", syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	})
	during("etcd was slow", func() {
		for range 5 {
			if err := cluster.Signal("etcd", syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			time.Sleep(700 * time.Millisecond)
			if err := cluster.Signal("etcd", syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}
