package registry

import (
	"errors"
	"os"
	"path/filepath"
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
}
