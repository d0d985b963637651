package cli_test

import (
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// prompt is how soon an interrupted command must have ended.
const prompt = 5 * time.Second

// An interrupted push ends at once with 130, has moved no tag, and is completed by the next.
func TestInterruptedPush(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "ghcr.io/example/web:1.0")
			s.write(web...)
			s.ok("build", "-f", ".")
			uploading := make(chan struct{}, 1000)
			release := make(chan struct{})
			registry := registrytest.StartRegistry(t, registrytest.Options{
				Kind: registrytest.Distribution3,
				Middleware: func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						// The images' index comes late: much has arrived before it.
						if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
							uploading <- struct{}{}
							select {
							case <-release:
							case <-r.Context().Done():
								return
							}
						}
						next.ServeHTTP(w, r)
					})
				},
			})
			reference := registry.Host + "/krt/edge:1.0.0"
			cmd, _, stderr := s.command("push", "oci:dist:1.0.0", reference)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-uploading
			sent := time.Now()
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if took := time.Since(sent); took > prompt || cmd.ProcessState.ExitCode() != 130 {
				t.Errorf("ended after %s with exit code %d, want 130 at once\n%s", took, cmd.ProcessState.ExitCode(), stderr)
			}
			close(release)
			s.refused(1, "not found", "inspect", reference)
			s.ok("push", "oci:dist:1.0.0", reference)
			s.ok("inspect", reference)
		})
	}
}

// An interrupted apply ends at once with 130, and the next one completes it.
func TestInterruptedApply(t *testing.T) {
	t.Parallel()
	cluster := clustertest.Borrow(t)
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		name := map[os.Signal]string{os.Interrupt: "sigint", syscall.SIGTERM: "sigterm"}[signal]
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "ghcr.io/example/web:1.0")
			// No node has the label yet, so the second bundle is waited for.
			label := "krtpkg.dev/" + name
			for i := 0; i < len(web); i += 2 {
				s.write(web[i], strings.NewReplacer(
					"name: edge", "name: "+name, "namespace: web", "namespace: "+name, "metadata: {name: web}", "metadata: {name: "+name+"}",
					"      containers:", "      nodeSelector: {"+label+": here}\n      containers:",
				).Replace(web[i+1]))
			}
			s.env = append(s.env, "KUBECONFIG="+cluster.Kubeconfig)
			s.ok("build", "-f", ".")
			s.ok("sign", "--key", "cosign.key", "oci:dist:1.0.0")

			cmd, _, stderr := s.command("apply", "--key", "cosign.pub", "oci:dist:1.0.0", "--yes")
			said := &waiter{want: "web waits for deployment/web", seen: make(chan struct{})}
			cmd.Stderr = io.MultiWriter(stderr, said)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-said.seen:
			case <-time.After(time.Minute):
				cmd.Process.Kill()
				cmd.Wait()
				t.Fatalf("apply never waited for the deployment:\n%s", stderr)
			}
			sent := time.Now()
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if took := time.Since(sent); took > prompt || cmd.ProcessState.ExitCode() != 130 {
				t.Errorf("ended after %s with exit code %d, want 130 at once\n%s", took, cmd.ProcessState.ExitCode(), stderr)
			}
			if status := s.ok("status", name); !strings.Contains(status, "incomplete") {
				t.Errorf("status calls an interrupted apply complete:\n%s", status)
			}

			newWatcher(t, cluster).labelNodes(label, "here")
			s.ok("apply", "--key", "cosign.pub", "oci:dist:1.0.0", "--yes", "--wait-timeout", "1m")
			if status := s.ok("status", name); strings.Contains(status, "incomplete") {
				t.Errorf("not complete:\n%s", status)
			}
			s.ok("delete", name, "--yes")
		})
	}
}

// waiter sees when a text has been written.
type waiter struct {
	want string
	seen chan struct{}
	text strings.Builder
	done bool
}

func (w *waiter) Write(p []byte) (int, error) {
	w.text.Write(p)
	if !w.done && strings.Contains(w.text.String(), w.want) {
		w.done = true
		close(w.seen)
	}
	return len(p), nil
}

// Templates that run away end the command with an error that names the bundle, the cause and what to do.
func TestRunawayRendering(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for name, template := range map[string]string{
		"recursion": `{{ define "a" }}{{ include "a" . }}{{ end }}{{ include "a" . }}`,
		"repeat":    `a: {{ repeat 8000000 (repeat 1000 "x") }}`,
	} {
		s.write(name+"/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\nspec:\n  layer: 6\n  sources: [{dir: chart, template: helm}]\n",
			name+"/chart/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n", name+"/chart/templates/a.yaml", template)
		start := time.Now()
		r := s.run("build", "-f", name)
		if took := time.Since(start); r.code != 1 || took > time.Minute || !strings.Contains(r.stderr, name+"/bundle.yaml:6:") || len(r.stderr) > 2000 ||
			name == "repeat" && !strings.Contains(r.stderr, "rendering does not end") && !strings.Contains(r.stderr, "endless repetition in its templates") {
			t.Errorf("%s: after %s, exit code %d\n%.3000s", name, took, r.code, r.stderr)
		}
	}
	s.refused(1, "this is what krtpkg itself starts", "render-worker")
}
