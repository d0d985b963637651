package registrytest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/hack"
)

// StartRegistry is [RunRegistry] for the time of a test, which fails if the registry does not start. What a
// registry's process wrote is shown if the test fails.
func StartRegistry(t testing.TB, o Options) *Registry {
	t.Helper()
	if programs[o.Kind] != "" {
		hack.SkipIfShort(t)
	}
	r, err := RunRegistry(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if out := r.Output(); t.Failed() && out != "" {
			t.Logf("registry %v wrote:\n%s", o, out)
		}
	})
	return r
}

// DockerConfig writes the credentials to a config.json as docker login does and returns its
// folder, for DOCKER_CONFIG.
func (r *Registry) DockerConfig(t testing.TB) string {
	t.Helper()
	auths := object{}
	if r.Options.Auth != None {
		auths[r.Host] = object{"auth": []byte(r.Username + ":" + r.Password)}
	}
	dir := t.TempDir()
	writeJSON(t, filepath.Join(dir, "config.json"), object{"auths": auths})
	return dir
}

// Env returns the environment that makes a real client written in Go trust the registry and log in
// to it. That it speaks plain HTTP must be said by the client's own flag, but for regctl, which
// has none and is told here.
func (r *Registry) Env(t testing.TB) []string {
	t.Helper()
	tls := "enabled"
	if !r.Options.TLS {
		tls = "disabled"
	}
	regctl := filepath.Join(t.TempDir(), "regctl.json")
	writeJSON(t, regctl, object{"hosts": object{r.Host: object{"tls": tls}}})
	env := []string{"DOCKER_CONFIG=" + r.DockerConfig(t), "REGCTL_CONFIG=" + regctl}
	if r.CAFile != "" {
		env = append(env, "SSL_CERT_FILE="+r.CAFile)
	}
	return env
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// BuildTool returns the path of a real client, the program of hack/tools/<name>. The first use on a
// machine builds it.
func BuildTool(t testing.TB, name string) string {
	t.Helper()
	return hack.BuildForTest(t, "tools/"+name)
}

// RunTool runs a program, with env added to this process's environment and a home folder of its
// own so that no setting of the developer's counts. It returns what the program wrote to
// standard output, and fails the test with all that it wrote if it does not succeed.
func RunTool(t testing.TB, env []string, bin string, args ...string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Env = append(append(os.Environ(), "HOME="+t.TempDir()), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(bin), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}
