package gate_test

import (
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/gate"
	"krtpkg.dev/krtpkg/pkg/serve"
)

// Real clients get in with the authority and the right password, and not without. What they log in with never goes
// upstream, where the gate has a login of its own.
func TestClientsWithLogins(t *testing.T) {
	t.Parallel()
	hack.SkipIfShort(t)
	w := newWorld(t, registrytest.Options{Auth: registrytest.Basic})
	repo := w.repository("krt/edge")
	r := w.pushRuntime(repo, "edge", "1.0.0", "first", "1.0.0")
	w.sign(repo, r.root)
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	o := w.quick()
	o.CacheDir = "" // all of it is asked for upstream
	if o.Login, err = serve.LoadPasswords(strings.NewReader("alice:" + string(hash) + "\n")); err != nil {
		t.Fatal(err)
	}
	g, err := gate.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(g)
	t.Cleanup(func() { s.Close(); g.Close() })
	host := strings.TrimPrefix(s.URL, "https://")
	ca := filepath.Join(w.dir, "gate.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	login := func(password string) string {
		dir := t.TempDir()
		text := "{}"
		if password != "" {
			text = `{"auths":{"` + host + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("alice:"+password)) + `"}}}`
		}
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, c := range []struct {
		what, password string
		known          bool
		says           string // empty for what works
	}{
		{"right password", "right", true, ""},
		{"wrong password", "wrong", true, "401"},
		{"no password", "", true, "401"},
		{"unknown authority", "right", false, "certificate"},
	} {
		t.Run(c.what, func(t *testing.T) {
			env := []string{"DOCKER_CONFIG=" + login(c.password)}
			oras := []string{"cp", "--to-oci-layout", host + "/edge:1.0.0", filepath.Join(t.TempDir(), "layout") + ":1.0.0"}
			if c.known {
				env = append(env, "SSL_CERT_FILE="+ca)
				oras = append(oras, "--from-ca-file", ca)
			}
			for tool, args := range map[string][]string{"oras": oras, "crane": {"pull", "--format=oci", host + "/edge:1.0.0", filepath.Join(t.TempDir(), "pulled")}} {
				said, err := runFailing(t, env, registrytest.BuildTool(t, tool), args...)
				said = strings.NewReplacer("unauthorized", "401", "basic credential not found", "401").Replace(strings.ToLower(said))
				if (err == nil) != (c.says == "") || !strings.Contains(said, c.says) {
					t.Errorf("%s: %v\n%s", tool, err, said)
				}
			}
		})
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if answer, err := s.Client().Get(s.URL + path); err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %v, %v", path, answer, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	own := "Basic " + base64.StdEncoding.EncodeToString([]byte(w.upstream.Username+":"+w.upstream.Password))
	if !w.headers[own] {
		t.Error("the gate has not logged in itself")
	}
	for value := range w.headers {
		if value != own && strings.HasPrefix(value, "Basic ") || strings.Contains(value, base64.StdEncoding.EncodeToString([]byte("alice:"))) {
			t.Errorf("upstream was sent %q", value)
		}
	}
}
