package cli_test

import (
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// prompt is how soon an interrupted command has to have ended.
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
			registry := registrytest.Start(t, registrytest.Options{
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
