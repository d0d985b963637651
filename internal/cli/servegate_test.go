package cli_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// gateProcess is krtpkg serve --upstream as it runs.
type gateProcess struct {
	host string
	// end interrupts it and returns its exit code.
	end func() int

	mu  sync.Mutex
	log bytes.Buffer
}

func (g *gateProcess) logged() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.String()
}

// startGate starts a gate, and returns when it serves.
func (s *site) startGate(args ...string) *gateProcess {
	s.t.Helper()
	cmd, _, _ := s.command(append([]string{"serve", "--listen", "127.0.0.1:0", "--state", "state"}, args...)...)
	cmd.Stderr = nil
	stderr, err := cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	g := &gateProcess{}
	lines := bufio.NewReader(stderr)
	for g.host == "" {
		line, err := lines.ReadString('\n')
		g.log.WriteString(line)
		if err != nil {
			s.t.Fatalf("it says %q: %v", g.logged(), err)
		}
		if _, address, found := strings.Cut(strings.TrimSpace(line), "http://"); found {
			g.host = address
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			line, err := lines.ReadString('\n')
			g.mu.Lock()
			g.log.WriteString(line)
			g.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	var once sync.Once
	g.end = func() int {
		once.Do(func() {
			cmd.Process.Signal(os.Interrupt)
			<-done
			cmd.Wait()
		})
		return cmd.ProcessState.ExitCode()
	}
	s.t.Cleanup(func() { g.end() })
	return g
}

// A gate lets through what the policy accepts, logs what it refuses, hears of a new policy, and ends when it is told to.
func TestServeUpstream(t *testing.T) {
	t.Parallel()
	registry := registrytest.StartRegistry(t, registrytest.Options{Auth: registrytest.Basic})
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.env = append(s.env, registry.Env(t)...)
	s.write(web...)
	s.ok("build", "-f", ".")
	published := registry.Host + "/krt/edge"
	s.ok("push", "oci:dist:1.0.0", published+":1.0.0")
	s.ok("trust", "init", "--key", "cosign.pub", "--output", "trust.yaml")
	gate := s.startGate("--upstream", "apps="+registry.Host+"/krt", "--policy", "trust.yaml", "--log-format", "json", "--refresh", "10ms", "--cache", "blobs", "--cache-size", "1GiB")
	through := gate.host + "/apps/edge:1.0.0"
	s.refused(1, "no signature found", "inspect", through)
	s.ok("sign", "--key", "cosign.key", published+":1.0.0")
	s.ok("verify", "--key", "cosign.pub", through)
	s.ok("copy", "--key", "cosign.pub", through, registry.Host+"/copied/edge:1.0.0")
	s.ok("list", gate.host+"/apps/edge")

	policy, err := os.ReadFile(s.path("trust.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.TrimSpace(registrytest.RunTool(t, registry.Env(t), registrytest.BuildTool(t, "crane"), "digest", "--insecure", published+":1.0.0"))
	s.write("trust.yaml", string(policy)+"revoked: {digests: ['"+digest+"']}\n")
	var body string
	for end := time.Now().Add(10 * time.Second); !strings.Contains(body, "is revoked by") && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		response, err := http.Get("http://" + gate.host + "/v2/apps/edge/manifests/1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		body = string(data)
	}
	if !strings.Contains(body, `"code":"DENIED"`) || !strings.Contains(body, digest+" is revoked by") {
		t.Error(body)
	}
	if code := gate.end(); code != 130 {
		t.Errorf("interrupted it ends with %d", code)
	}
	kinds := map[string]bool{}
	for line := range strings.Lines(gate.logged()) {
		var entry struct{ Msg, Level, Repository, Reference, Error string }
		if json.Unmarshal([]byte(line), &entry) != nil {
			continue
		}
		kinds[entry.Msg] = true
		if entry.Msg == "refused" && (entry.Level != "WARN" || entry.Repository != published || entry.Error == "") {
			t.Errorf("%s", line)
		}
	}
	for _, kind := range []string{"refused", "verified", "moved", "policy"} {
		if !kinds[kind] {
			t.Errorf("no %s in the log:\n%s", kind, gate.logged())
		}
	}

	s.refused(2, "verification required", "serve", "--upstream", registry.Host+"/krt")
	s.refused(2, "--writable cannot be used with --upstream", "serve", "--upstream", registry.Host, "--writable")
	s.refused(2, "--allow-unsigned cannot be used with --upstream", "serve", "--upstream", registry.Host, "--allow-unsigned")
	s.refused(2, "--cache requires --upstream", "serve", "--cache", "blobs", "oci:dist")
	s.refused(2, "serves registries, and no archives", "serve", "--upstream", registry.Host, "oci:dist")
	s.refused(2, "want [NAME=]REGISTRY[/PREFIX]", "serve", "--key", "cosign.pub", "--upstream", "https://registry.example")
	s.refused(2, "want [NAME=]REGISTRY[/PREFIX]", "serve", "--key", "cosign.pub", "--upstream", "krt/edge")
	s.refused(2, "want text or json", "serve", "--key", "cosign.pub", "--upstream", registry.Host, "--log-format", "xml")
	s.refused(2, "want a size", "serve", "--key", "cosign.pub", "--upstream", registry.Host, "--cache", "blobs", "--cache-size", "big")
	s.refused(1, "the name apps is taken", "serve", "--key", "cosign.pub", "--upstream", "apps="+registry.Host, "--upstream", "apps="+registry.Host+"/krt")
}
