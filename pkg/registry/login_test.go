package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// A login is checked before it is stored where docker and this package read it, and goes with a logout.
func TestLoginAndLogout(t *testing.T) {
	var registries []*registrytest.Registry // before the home is another one, which has no programs
	for _, auth := range []registrytest.Auth{registrytest.Basic, registrytest.Token} {
		registries = append(registries, registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3, Auth: auth}))
	}
	home := t.TempDir()
	for name, value := range map[string]string{"HOME": home, "DOCKER_CONFIG": filepath.Join(home, "docker"), "REGISTRY_AUTH_FILE": "", "XDG_RUNTIME_DIR": home, "XDG_CONFIG_HOME": home} {
		t.Setenv(name, value)
	}
	os.Unsetenv("REGISTRY_AUTH_FILE")
	t.Setenv("DOCKER_AUTH_CONFIG", "")
	for i, r := range registries {
		client := func() *Client { return newClient(t, Options{CAFile: r.CAFile}) }
		listed := func() error {
			repo, err := client().Repository(t.Context(), r.Host+"/krt/edge")
			if err != nil {
				t.Fatal(err)
			}
			_, err = repo.Resolve(t.Context(), "1.0.0")
			return err
		}
		if err := client().Login(t.Context(), r.Host, r.Username, "wrong"); err == nil {
			t.Error("a wrong password was taken")
		}
		if _, err := os.Stat(filepath.Join(home, "docker/config.json")); err == nil && i == 0 {
			t.Error("a wrong password was stored")
		}
		if err := client().Login(t.Context(), r.Host, r.Username, r.Password); err != nil {
			t.Fatal(err)
		}
		if err := listed(); !errors.Is(err, errdef.ErrNotFound) {
			t.Errorf("with the login: %v", err)
		}
		if err := Logout(t.Context(), r.Host); err != nil {
			t.Error(err)
		}
		if err := listed(); err == nil || errors.Is(err, errdef.ErrNotFound) {
			t.Errorf("after the logout: %v", err)
		}
		if err := Logout(t.Context(), r.Host); !errors.Is(err, ErrNoLogin) {
			t.Errorf("a second logout: %v", err)
		}
	}

	// Where podman's variable names a file the login goes there, since that is read first.
	r := registries[0]
	podmans := filepath.Join(home, "podman", "auth.json")
	t.Setenv("REGISTRY_AUTH_FILE", podmans)
	client := newClient(t, Options{CAFile: r.CAFile})
	if err := client.Login(t.Context(), "https://"+r.Host+"/v2/", r.Username, r.Password); err != nil {
		t.Fatal(err)
	}
	if name, found := findLogin(t.Context(), r.Host); !found || name != podmans {
		t.Errorf("the login is in %q", name)
	}
	// Another login that takes precedence, or stays behind, is named.
	t.Setenv("REGISTRY_AUTH_FILE", "")
	os.Unsetenv("REGISTRY_AUTH_FILE")
	t.Setenv("DOCKER_AUTH_CONFIG", fmt.Sprintf(`{"auths":{%q:{"auth":"bWU6eA=="}}}`, r.Host))
	if err := client.Login(t.Context(), r.Host, r.Username, r.Password); err == nil || !strings.Contains(err.Error(), "but $DOCKER_AUTH_CONFIG takes precedence") {
		t.Errorf("behind another login: %v", err)
	}
	if err := Logout(t.Context(), r.Host+"/"); err == nil || !strings.Contains(err.Error(), "but $DOCKER_AUTH_CONFIG has one, too") {
		t.Errorf("logout with another login: %v", err)
	}
	if err := Logout(t.Context(), r.Host); err == nil || !strings.Contains(err.Error(), "has no login, but $DOCKER_AUTH_CONFIG has one") {
		t.Errorf("second logout with another login: %v", err)
	}
	// Nobody names the home: it is the user's.
	t.Setenv("DOCKER_AUTH_CONFIG", "")
	t.Setenv("DOCKER_CONFIG", "")
	t.Setenv("HOME", "")
	if name, _, err := openLoginStore(); err != nil || !filepath.IsAbs(name) || !strings.HasSuffix(name, ".docker/config.json") {
		t.Errorf("without a home: %s, %v", name, err)
	}
}

// A logout finds Docker Hub's login under each of its keys.
func TestLogoutOfDockerHub(t *testing.T) {
	home := t.TempDir()
	for name, value := range map[string]string{"HOME": home, "DOCKER_CONFIG": home, "DOCKER_AUTH_CONFIG": "", "REGISTRY_AUTH_FILE": "", "XDG_RUNTIME_DIR": home, "XDG_CONFIG_HOME": home} {
		t.Setenv(name, value)
	}
	os.Unsetenv("REGISTRY_AUTH_FILE")
	config := filepath.Join(home, "config.json")
	if err := os.WriteFile(config, []byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6eA=="},"docker.io":{"auth":"bWU6eA=="},"ghcr.io":{"auth":"bWU6eA=="}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Logout(t.Context(), "docker.io"); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(config)
	if err != nil || strings.Contains(string(data), "docker.io") || !strings.Contains(string(data), "ghcr.io") {
		t.Errorf("left: %s, %v", data, err)
	}
}

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"registry.example": "registry.example", "registry.example:5000": "registry.example:5000", "registry.example/": "registry.example",
		"https://registry.example/v2/": "registry.example", "https://index.docker.io/v1/": "index.docker.io", "http://[::1]:5000": "[::1]:5000",
		"a/b": "", "https://registry.example/org": "", "": "", "https://": "", "https://user@registry.example": "",
	} {
		if got, err := ParseAddress(text); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}
