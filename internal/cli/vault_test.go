package cli_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// vault is a Vault server with the transit engine, and a root token.
type vault struct{ address, token string }

func startVault(t *testing.T) *vault {
	t.Helper()
	program := hack.BuildForTest(t, "vault")
	v := &vault{token: "test-token"}
	cmd := exec.Command(program, "-listen", "127.0.0.1:0", "-token", v.token)
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("vault: %v", err)
		}
	})
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		t.Fatalf("vault ended: %v", lines.Err())
	}
	var found bool
	if _, v.address, found = strings.Cut(lines.Text(), "listening on "); !found {
		t.Fatalf("vault said %q", lines.Text())
	}
	go io.Copy(io.Discard, stdout)
	return v
}

// call asks Vault's API and gives the data of its answer.
func (v *vault) call(t *testing.T, method, path, body string) map[string]any {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, v.address+"/v1/"+path, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Vault-Token", v.token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ Data map[string]any }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if response.StatusCode >= 300 {
		t.Fatalf("vault: %s %s: %s", method, path, response.Status)
	}
	return answer.Data
}

// The key never leaves the key management service: a real Vault signs, krtpkg and cosign verify,
// by Vault and by the public key alone.
func TestVault(t *testing.T) {
	t.Parallel()
	v := startVault(t)
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.write(web...)
	s.env = append(s.env, "VAULT_ADDR="+v.address, "VAULT_TOKEN="+v.token)
	registry := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg})
	reference := registry.Host + "/krt/edge:1.0.0"
	s.ok("build", "-f", ".")
	s.ok("push", "oci:dist:1.0.0", reference)

	s.refused(1, "key hashivault://release: ", "sign", "--key", "hashivault://release", reference)
	for _, kind := range []string{"ecdsa-p256", "rsa-4096"} {
		name := "release-" + kind
		v.call(t, "POST", "transit/keys/"+name, fmt.Sprintf(`{"type":%q}`, kind))
		s.ok("sign", "--key", "hashivault://"+name, reference)
		out := s.ok("verify", "--key", "hashivault://"+name, reference)
		if !strings.Contains(out, "attested") {
			t.Errorf("nothing was attested by %s:\n%s", name, out)
		}
		versions := v.call(t, "GET", "transit/keys/"+name, "")["keys"].(map[string]any)
		s.write(name+".pub", versions["1"].(map[string]any)["public_key"].(string))
		s.ok("verify", "--key", name+".pub", reference)
		for _, tool := range []string{"cosign2", "cosign3"} {
			args := []string{"verify", "--insecure-ignore-tlog", "--allow-http-registry", "--key", s.path(name + ".pub"), reference}
			if tool == "cosign2" {
				s.write("root.json", `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`)
				args = append(args, "--trusted-root", s.path("root.json"))
			}
			registrytest.RunTool(t, append(s.env, registry.Env(t)...), registrytest.BuildTool(t, tool), args...)
		}
	}
	// A key that Vault has rotated signs with its new version; the old one is another key.
	v.call(t, "POST", "transit/keys/release-ecdsa-p256/rotate", "")
	s.ok("build", "-f", "web", "--to", "oci:other")
	s.ok("sign", "--key", "hashivault://release-ecdsa-p256", "oci:other:1.0.0")
	s.ok("verify", "--key", "hashivault://release-ecdsa-p256", "oci:other:1.0.0")
	s.refused(3, "which is not trusted", "verify", "--key", "release-ecdsa-p256.pub", "oci:other:1.0.0")
}
