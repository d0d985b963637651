package cli_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

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
	s.refused(3, "no signature found", "inspect", through)
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
	if !strings.Contains(body, `"code":"DENIED","detail":"refused by the trust policy of a gate"`) || !strings.Contains(body, digest+" is revoked by") {
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
	s.refused(2, "--upstream takes no arguments", "serve", "--upstream", registry.Host, "oci:dist")
	s.refused(2, "want [NAME=]REGISTRY[/PREFIX]", "serve", "--key", "cosign.pub", "--upstream", "https://registry.example")
	s.refused(2, "want [NAME=]REGISTRY[/PREFIX]", "serve", "--key", "cosign.pub", "--upstream", "krt/edge")
	s.refused(2, "want text or json", "serve", "--key", "cosign.pub", "--upstream", registry.Host, "--log-format", "xml")
	s.refused(2, "want a size", "serve", "--key", "cosign.pub", "--upstream", registry.Host, "--cache", "blobs", "--cache-size", "big")
	s.refused(1, "the name apps is taken", "serve", "--key", "cosign.pub", "--upstream", "apps="+registry.Host, "--upstream", "apps="+registry.Host+"/krt")
}

// followsThroughGate has kapp-controller follow a tag through a gate: to what nobody signed it does not come, and says why;
// to what was signed it does, and stays there when the tag moves back or on to what nobody signed.
func (c *carvel) followsThroughGate(s *site, registry string, reference func(string) string) {
	c.t.Helper()
	s.ok("trust", "init", "--key", "cosign.pub", "--output", "gate.yaml")
	gate := s.startGate("--upstream", registry+"/krt", "--policy", "gate.yaml", "--refresh", "100ms", "--cache", "gate-blobs")
	defer gate.end()
	c.apply("{apiVersion: v1, kind: Namespace, metadata: {name: by-gate}}")
	period := 30
	sync := func(succeeded bool) *unstructured.Unstructured {
		c.t.Helper()
		period++
		c.apply(fmt.Sprintf("{apiVersion: packaging.carvel.dev/v1alpha1, kind: PackageRepository, metadata: {name: shop, namespace: by-gate}, spec: {syncPeriod: %ds, fetch: {imgpkgBundle: {image: %q}}}}",
			period, gate.host+"/shop:gated"))
		return c.reconciled(kindRepository, "by-gate", "shop", succeeded)
	}
	has := func(version string) {
		c.t.Helper()
		c.eventually("packages of "+version+" through the gate", func() error {
			_, err := c.get(kindPackage, "by-gate", "web.shop.krtpkg.dev."+version)
			return err
		})
	}
	s.ok("copy", reference("1.2.0"), reference("gated"))
	failed := sync(false)
	if message, _, _ := unstructured.NestedString(failed.Object, "status", "usefulErrorMessage"); !strings.Contains(message, "DENIED") || !strings.Contains(message, "no signature found") {
		c.t.Errorf("of what nobody signed it says %q", message)
	}
	s.ok("copy", "--move-tags", reference("1.3.0"), reference("gated"))
	sync(true)
	has("1.3.0")
	for _, moved := range []string{"1.0.0", "1.2.0"} { // older, and unsigned
		s.ok("copy", "--move-tags", reference(moved), reference("gated"))
		sync(true)
		has("1.3.0")
		if _, err := c.get(kindPackage, "by-gate", "web.shop.krtpkg.dev."+moved); !apierrors.IsNotFound(err) {
			c.t.Errorf("%s came through the gate: %v", moved, err)
		}
	}
	before := gate.countUpstream(c.t)
	sync(true)
	// A plain pull-through cache passes 33 of the 65 requests of a sync.
	if n := gate.countUpstream(c.t) - before; n > 6 {
		c.t.Errorf("%d requests of a sync reach upstream", n)
	} else {
		c.t.Logf("%d requests of a sync reach upstream", n)
	}
	if err := c.at(kindRepository, "by-gate").Delete(c.t.Context(), "shop", metav1.DeleteOptions{}); err != nil {
		c.t.Error(err)
	}
}

// countUpstream returns how many requests have reached upstream.
func (g *gateProcess) countUpstream(t testing.TB) (n int) {
	t.Helper()
	response, err := http.Get("http://" + g.host + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, is := strings.CutPrefix(line, "krtpkg_gate_upstream_requests_total{"); is {
			_, value, _ := strings.Cut(strings.TrimSpace(rest), " ")
			one, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			n += one
		}
	}
	return n
}
