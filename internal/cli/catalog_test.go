package cli_test

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// Pages are served next to the registry that they are of, and show only what was verified.
func TestServePages(t *testing.T) {
	t.Parallel()
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.write(web...)
	s.ok("build", "-f", ".")
	s.ok("sign", "--key", "cosign.key", "oci:dist:1.0.0")
	s.ok("export", "oci:dist:1.0.0", "edge.tar")
	name := bundleName(t, s)
	cmd, _, _ := s.command("serve", "--ui", "--key", "cosign.pub", "--listen", "127.0.0.1:0", "edge.tar")
	cmd.Stderr = nil
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() }) // if the test ends early
	var address string
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if _, rest, is := strings.Cut(lines.Text(), "pages for browsers: "); is {
			address = rest
			break
		}
	}
	if address == "" {
		t.Fatal("the server ended before it said where its pages are")
	}
	go io.Copy(io.Discard, stderr)
	get := func(path, want string) {
		t.Helper()
		response, err := http.Get(strings.TrimSuffix(address, "/") + path)
		for deadline := time.Now().Add(time.Minute); err == nil && response.StatusCode == http.StatusServiceUnavailable && time.Now().Before(deadline); {
			response.Body.Close() // the pages are being made
			time.Sleep(50 * time.Millisecond)
			response, err = http.Get(strings.TrimSuffix(address, "/") + path)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, %v\n%s", path, response.Status, err, body)
		}
		if policy := response.Header.Get("Content-Security-Policy"); strings.Contains(policy, "sandbox") != strings.HasPrefix(path, "/v2/") || !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("%s: policy %q", path, policy)
		}
	}
	get("/", name)
	get("/runtimes/"+name+"/1.0.0.html", "Accepted by the policy")
	get("/v2/"+name+"/tags/list", `"1.0.0"`)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
}

// After an interruption the next call deletes the pages that no longer are, and nothing by a line that was cut.
func TestInterruptedPages(t *testing.T) {
	t.Parallel()
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.write(web...)
	s.ok("build", "-f", ".")
	s.ok("catalog", "oci:dist", "-o", "pages")
	list := s.path("pages/.krtpkg-pages")
	whole := string(readFile(t, list))
	s.write("pages/runtimes/old/1.0.0.html", "a page of before", "pages/.krtpkg-pages", whole+"runtimes/old/1.0.0.html\nruntimes")
	s.ok("catalog", "oci:dist", "-o", "pages")
	if again := string(readFile(t, list)); again != whole {
		t.Errorf("the list is another one:\n%s\n%s", again, whole)
	}
	if _, err := os.Stat(s.path("pages/runtimes/old")); !os.IsNotExist(err) {
		t.Errorf("a page of before is still there: %v", err)
	}
}
