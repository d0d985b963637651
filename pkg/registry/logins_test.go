package registry

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"oras.land/oras-go/v2/registry/remote/auth"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

func basic(user string) string {
	return `{"auth":"` + base64.StdEncoding.EncodeToString([]byte(user+":secret of "+user)) + `"}`
}

// auths returns a docker config: key, entry, key, entry…
func auths(entries ...string) string {
	var parts []string
	for i := 0; i < len(entries); i += 2 {
		parts = append(parts, `"`+entries[i]+`":`+entries[i+1])
	}
	return `{"auths":{` + strings.Join(parts, ",") + `}}`
}

// loginFiles puts login files where docker and Podman have them, and a helper in the path that
// is someone for some servers.
func loginFiles(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, where := range map[string]string{
		"HOME": "home", "DOCKER_CONFIG": "docker", "XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config", "PATH": "bin",
	} {
		if err := os.MkdirAll(filepath.Join(dir, where), 0o755); err != nil {
			t.Fatal(err)
		}
		value := filepath.Join(dir, where)
		if name == "PATH" {
			value += string(filepath.ListSeparator) + os.Getenv("PATH")
		}
		t.Setenv(name, value)
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("DOCKER_AUTH_CONFIG", files["$DOCKER_AUTH_CONFIG"])
	if _, ok := files["explicit.json"]; ok {
		t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "explicit.json"))
	}
	helper := `#!/bin/sh
read -r server
case "$server" in
registry.example) echo '{"Username":"helped","Secret":"secret of helped"}' ;;
token.example) echo '{"Username":"<token>","Secret":"a token"}' ;;
https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"secret of hub"}' ;;
broken.example) echo "the keychain is locked" ; exit 1 ;;
*) echo "credentials not found in native keychain" ; exit 1 ;;
esac
`
	files["bin/docker-credential-desk"] = helper
	for name, content := range files {
		if strings.HasPrefix(name, "$") {
			continue
		}
		name = filepath.Join(dir, name)
		mode := os.FileMode(0o600)
		if strings.Contains(name, "docker-credential-") {
			mode = 0o755
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), mode)); err != nil {
			t.Fatal(err)
		}
	}
}

// Who one is at a repository is who docker, or skopeo and Podman, would be: the programs are
// asked too.
func TestLogins(t *testing.T) {
	const (
		config    = "docker/config.json"
		runtime   = "run/containers/auth.json"
		persisted = "config/containers/auth.json"
		explicit  = "explicit.json"
		variable  = "$DOCKER_AUTH_CONFIG"
	)
	// who does the same with the same files.
	const (
		both   = "docker podman"
		docker = "docker"
		podman = "podman"
		nobody = ""
	)
	tool := registrytest.BuildTool(t, "logins")
	for _, c := range []struct {
		name       string
		files      map[string]string
		repository string
		want       auth.Credential
		as         string
	}{
		{"nothing at all", map[string]string{}, "registry.example/edge", auth.EmptyCredential, both},
		{"docker's file", map[string]string{config: auths("registry.example", basic("ann"))}, "registry.example/krt/edge", login("ann"), both},
		{"another registry's", map[string]string{config: auths("registry.example", basic("ann"))}, "other.example/krt/edge", auth.EmptyCredential, both},
		{"the end of a name", map[string]string{config: auths("registry.example", basic("ann"))}, "evil-registry.example/edge", auth.EmptyCredential, both},
		{"a longer name", map[string]string{config: auths("registry.example", basic("ann"))}, "registry.example.evil/edge", auth.EmptyCredential, both},
		{"Podman's file", map[string]string{runtime: auths("registry.example", basic("pod"))}, "registry.example/edge", login("pod"), podman},
		{"Podman's file next to an empty docker config", map[string]string{config: `{}`, runtime: auths("registry.example", basic("pod"))}, "registry.example/edge", login("pod"), podman},
		{"Podman's file next to docker's of another registry", map[string]string{config: auths("other.example", basic("ann")), runtime: auths("registry.example", basic("pod"))}, "registry.example/edge", login("pod"), podman},
		{"Podman's file that stays", map[string]string{persisted: auths("registry.example", basic("pod"))}, "registry.example/edge", login("pod"), podman},
		{"$REGISTRY_AUTH_FILE", map[string]string{explicit: auths("registry.example", basic("pod"))}, "registry.example/edge", login("pod"), podman},
		{"$REGISTRY_AUTH_FILE before docker's", map[string]string{explicit: auths("registry.example", basic("pod")), config: auths("registry.example", basic("ann"))}, "registry.example/edge", login("pod"), podman},
		{"docker's before Podman's, as ever", map[string]string{runtime: auths("registry.example", basic("pod")), config: auths("registry.example", basic("ann"))}, "registry.example/edge", login("ann"), docker},
		{"an empty entry, and Podman's", map[string]string{config: auths("registry.example", `{}`), runtime: auths("registry.example", basic("pod"))}, "registry.example/edge", login("pod"), podman},

		{"an empty file of docker's", map[string]string{config: ""}, "registry.example/edge", auth.EmptyCredential, docker},
		{"an empty file of docker's, and Podman's", map[string]string{config: "\n", runtime: auths("registry.example", basic("pod"))}, "registry.example/edge", login("pod"), nobody},
		{"$DOCKER_AUTH_CONFIG", map[string]string{variable: auths("registry.example", basic("env"))}, "registry.example/edge", login("env"), docker},
		{"$DOCKER_AUTH_CONFIG before docker's file", map[string]string{variable: auths("registry.example", basic("env")), config: auths("registry.example", basic("ann"))}, "registry.example/edge", login("env"), docker},
		{"$DOCKER_AUTH_CONFIG before docker's helper", map[string]string{variable: auths("registry.example", basic("env")), config: `{"credsStore":"desk"}`}, "registry.example/edge", login("env"), docker},
		{"$DOCKER_AUTH_CONFIG of another registry", map[string]string{variable: auths("other.example", basic("env")), config: auths("registry.example", basic("ann"))}, "registry.example/edge", login("ann"), docker},
		{"empty fields, of secretgen-controller", map[string]string{config: auths("registry.example", `{"username":"","password":"","auth":""}`)}, "registry.example/edge", auth.EmptyCredential, both},
		{"null for an entry", map[string]string{config: auths("registry.example", "null")}, "registry.example/edge", auth.EmptyCredential, both},

		{"a path", map[string]string{runtime: auths("registry.example/org1", basic("one"), "registry.example/org2", basic("two"))}, "registry.example/org1/edge", login("one"), podman},
		{"another path", map[string]string{runtime: auths("registry.example/org1", basic("one"), "registry.example/org2", basic("two"))}, "registry.example/org2/edge", login("two"), podman},
		{"a path that nobody has", map[string]string{runtime: auths("registry.example/org1", basic("one"), "registry.example/org2", basic("two"))}, "registry.example/org3/edge", auth.EmptyCredential, podman},
		{"a path that begins alike", map[string]string{runtime: auths("registry.example/org", basic("one"))}, "registry.example/org2/edge", auth.EmptyCredential, podman},
		{"the longest path", map[string]string{runtime: auths("registry.example", basic("all"), "registry.example/org", basic("org"), "registry.example/org/team", basic("team"))}, "registry.example/org/team/edge", login("team"), podman},
		{"a path between", map[string]string{runtime: auths("registry.example", basic("all"), "registry.example/org", basic("org"), "registry.example/org/team", basic("team"))}, "registry.example/org/other/edge", login("org"), podman},
		{"the registry", map[string]string{runtime: auths("registry.example", basic("all"), "registry.example/org", basic("org"))}, "registry.example/other/edge", login("all"), podman},
		{"the repository itself", map[string]string{runtime: auths("registry.example/org/edge", basic("edge"))}, "registry.example/org/edge", login("edge"), podman},
		{"paths in docker's file", map[string]string{config: auths("registry.example/org1", basic("one"), "registry.example/org2", basic("two"))}, "registry.example/org2/edge", login("two"), podman},
		{"an empty path before the registry", map[string]string{runtime: auths("registry.example", basic("all"), "registry.example/org", `{}`)}, "registry.example/org/edge", auth.EmptyCredential, podman},

		{"a port", map[string]string{config: auths("registry.example:5000", basic("port"), "registry.example", basic("none"))}, "registry.example:5000/edge", login("port"), both},
		{"no port", map[string]string{config: auths("registry.example:5000", basic("port"), "registry.example", basic("none"))}, "registry.example/edge", login("none"), both},
		{"another port", map[string]string{config: auths("registry.example:5000", basic("port"))}, "registry.example:5001/edge", auth.EmptyCredential, both},
		{"a port and a path", map[string]string{runtime: auths("registry.example:5000/org", basic("port"))}, "registry.example:5000/org/edge", login("port"), podman},
		{"the port of HTTPS", map[string]string{config: auths("registry.example:443", basic("port"))}, "registry.example/edge", auth.EmptyCredential, both},
		{"capitals", map[string]string{config: auths("Registry.Example", basic("ann"))}, "Registry.Example/edge", login("ann"), both},
		{"capitals for another spelling", map[string]string{config: auths("Registry.Example", basic("ann"))}, "registry.example/edge", auth.EmptyCredential, both},
		{"an address without a scheme", map[string]string{config: auths("registry.example/v2/", basic("url"))}, "registry.example/edge", login("url"), docker},
		{"a slash at the end", map[string]string{config: auths("registry.example/", basic("url"))}, "registry.example/edge", login("url"), docker},
		{"a path with a slash at the end", map[string]string{config: auths("registry.example/org/", basic("url"))}, "registry.example/edge", auth.EmptyCredential, podman},
		{"IPv6", map[string]string{config: auths("[::1]:5000", basic("six"))}, "[::1]:5000/edge", login("six"), both},
		{"a URL", map[string]string{config: auths("https://registry.example", basic("url"))}, "registry.example/edge", login("url"), both},
		{"a URL with a path", map[string]string{config: auths("https://registry.example/v2/", basic("url"))}, "registry.example/edge", login("url"), both},
		{"a URL without TLS", map[string]string{config: auths("http://registry.example:5000/v1/", basic("url"))}, "registry.example:5000/edge", login("url"), both},
		{"a name before a URL", map[string]string{config: auths("https://registry.example/v1/", basic("url"), "registry.example", basic("name"))}, "registry.example/edge", login("name"), both},

		{"Docker Hub as docker login has it", map[string]string{config: auths("https://index.docker.io/v1/", basic("hub"))}, "docker.io/krt/edge", login("hub"), both},
		{"Docker Hub as podman login has it", map[string]string{runtime: auths("docker.io", basic("hub"))}, "docker.io/krt/edge", login("hub"), podman},
		{"Docker Hub by its index", map[string]string{runtime: auths("index.docker.io", basic("hub"))}, "docker.io/krt/edge", login("hub"), podman},
		{"Docker Hub by its registry", map[string]string{runtime: auths("registry-1.docker.io", basic("hub"))}, "docker.io/krt/edge", login("hub"), podman},
		{"Docker Hub by a path", map[string]string{runtime: auths("docker.io", basic("hub"), "docker.io/krt", basic("krt"))}, "docker.io/krt/edge", login("krt"), podman},
		{"Docker Hub by two keys in docker's file", map[string]string{config: auths("docker.io", basic("pod"), "https://index.docker.io/v1/", basic("hub"))}, "docker.io/krt/edge", login("hub"), docker},
		{"Docker Hub by two keys in Podman's file", map[string]string{runtime: auths("docker.io", basic("pod"), "https://index.docker.io/v1/", basic("hub"))}, "docker.io/krt/edge", login("pod"), podman},
		{"Docker Hub by two keys in $REGISTRY_AUTH_FILE", map[string]string{explicit: auths("docker.io", basic("pod"), "https://index.docker.io/v1/", basic("hub"))}, "docker.io/krt/edge", login("pod"), podman},
		{"Docker Hub by another URL", map[string]string{config: auths("https://index.docker.io/v2/", basic("hub"))}, "docker.io/krt/edge", login("hub"), podman},
		{"Docker Hub by a path and a URL", map[string]string{runtime: auths("https://index.docker.io/v1/", basic("hub"), "docker.io/krt", basic("krt"))}, "docker.io/krt/edge", login("krt"), podman},
		{"Docker Hub by another path and a URL", map[string]string{runtime: auths("https://index.docker.io/v1/", basic("hub"), "docker.io/krt", basic("krt"))}, "docker.io/other/edge", login("hub"), podman},
		{"nobody at Docker Hub", map[string]string{config: auths("registry.example", basic("ann"))}, "docker.io/krt/edge", auth.EmptyCredential, both},

		{"an identity token", map[string]string{config: `{"auths":{"registry.example":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("00000000-0000-0000-0000-000000000000:")) + `","identitytoken":"a token"}}}`}, "registry.example/edge",
			auth.Credential{Username: "00000000-0000-0000-0000-000000000000", RefreshToken: "a token"}, both},
		{"an identity token alone", map[string]string{config: auths("registry.example", `{"identitytoken":"a token"}`)}, "registry.example/edge", auth.Credential{RefreshToken: "a token"}, docker},
		{"a password with colons", map[string]string{config: `{"auths":{"registry.example":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("ann:a:b:c")) + `"}}}`}, "registry.example/edge", auth.Credential{Username: "ann", Password: "a:b:c"}, both},
		{"a login that base64 has wrapped", map[string]string{config: auths("registry.example", `{"auth":"YW5uOnNl\nY3JldA==\n"}`)}, "registry.example/edge", auth.Credential{Username: "ann", Password: "secret"}, both},
		{"a user name and a password", map[string]string{config: auths("registry.example", `{"username":"ann","password":"plain"}`)}, "registry.example/edge", auth.Credential{Username: "ann", Password: "plain"}, docker},
		{"an empty entry", map[string]string{config: auths("registry.example", `{}`)}, "registry.example/edge", auth.EmptyCredential, both},

		{"a helper for a registry", map[string]string{config: `{"credHelpers":{"registry.example":"desk"}}`}, "registry.example/edge", login("helped"), both},
		{"a helper in Podman's file", map[string]string{runtime: `{"credHelpers":{"registry.example":"desk"}}`}, "registry.example/org/edge", login("helped"), podman},
		{"a helper before an entry", map[string]string{config: `{"auths":{"registry.example":` + basic("old") + `},"credHelpers":{"registry.example":"desk"}}`}, "registry.example/edge", login("helped"), both},
		{"a helper before another one for all", map[string]string{config: `{"credsStore":"missing","credHelpers":{"registry.example":"desk"}}`}, "registry.example/edge", login("helped"), both},
		{"a helper for all before an entry", map[string]string{config: `{"auths":{"registry.example":` + basic("old") + `},"credsStore":"desk"}`}, "registry.example/edge", login("helped"), docker},
		{"a helper for a path, which nobody has", map[string]string{config: `{"credHelpers":{"registry.example/org":"desk"}}`}, "registry.example/org/edge", auth.EmptyCredential, both},
		{"an empty helper, and an entry", map[string]string{config: `{"auths":{"registry.example":` + basic("file") + `},"credHelpers":{"registry.example":""}}`}, "registry.example/edge", login("file"), docker},
		{"a helper by Podman's name of Docker Hub", map[string]string{runtime: `{"credHelpers":{"docker.io":"podhub"}}`, "bin/docker-credential-podhub": "#!/bin/sh\nread -r server\n[ \"$server\" = docker.io ] && echo '{\"Username\":\"podhub\",\"Secret\":\"secret of podhub\"}'\n"}, "docker.io/krt/edge", login("podhub"), podman},
		{"a helper that gives a token", map[string]string{config: `{"credHelpers":{"token.example":"desk"}}`}, "token.example/edge", auth.Credential{RefreshToken: "a token"}, nobody},
		{"a helper that has nothing", map[string]string{config: `{"credHelpers":{"unknown.example":"desk"}}`}, "unknown.example/edge", auth.EmptyCredential, both},
		{"a helper for all", map[string]string{config: `{"auths":{"registry.example":{}},"credsStore":"desk"}`}, "registry.example/edge", login("helped"), docker},
		{"a helper for all, and Docker Hub", map[string]string{config: `{"auths":{"https://index.docker.io/v1/":{}},"credsStore":"desk"}`}, "docker.io/krt/edge", login("hub"), docker},
		{"a helper for all that has nothing", map[string]string{config: `{"auths":{"unknown.example":` + basic("file") + `},"credsStore":"desk"}`}, "unknown.example/edge", login("file"), podman},
		{"a helper for Docker Hub", map[string]string{config: `{"credHelpers":{"https://index.docker.io/v1/":"desk"}}`}, "docker.io/krt/edge", login("hub"), docker},
	} {
		t.Run(c.name, func(t *testing.T) {
			loginFiles(t, c.files)
			l, err := newLogins(nil)
			if err != nil {
				t.Fatal(err)
			}
			host, path, _ := strings.Cut(c.repository, "/")
			if host == "docker.io" {
				host = "registry-1.docker.io" // as oras-go has it
			}
			got, err := l.findCredential(t.Context(), host, path)
			if err != nil || got != c.want {
				t.Errorf("%+v, error %v; want %+v", got, err, c.want)
			}
			out, err := exec.CommandContext(t.Context(), tool, c.repository).Output()
			if err != nil {
				t.Fatal(err)
			}
			var theirs map[string]struct{ Username, Password, IdentityToken, Error string }
			if err := json.Unmarshal(out, &theirs); err != nil {
				t.Fatal(err)
			}
			for _, name := range strings.Fields(c.as) {
				they := theirs[name]
				if they.Error != "" || they.Username != c.want.Username || they.Password != c.want.Password || they.IdentityToken != c.want.RefreshToken {
					t.Errorf("to %s it is %+v, want %+v", name, they, c.want)
				}
			}
		})
	}
}

func login(name string) auth.Credential {
	return auth.Credential{Username: name, Password: "secret of " + name}
}

// What is wrong with a login is said with the file, and without the secret, and only to who
// needs that login.
func TestBadLogins(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"not JSON":            {map[string]string{"docker/config.json": "auths: {}"}, "config.json"},
		"not base64":          {map[string]string{"docker/config.json": auths("registry.example", `{"auth":"c2VjcmV0!"}`)}, "login for registry.example: auth is not base64"},
		"no colon":            {map[string]string{"docker/config.json": auths("registry.example", `{"auth":"c2VjcmV0"}`)}, "login for registry.example: auth is not a user name and a password"},
		"a helper that fails": {map[string]string{"docker/config.json": `{"credHelpers":{"registry.example":"missing"}}`}, "docker-credential-missing"},
		"a locked keychain":   {map[string]string{"docker/config.json": `{"credHelpers":{"registry.example":"locked"}}`, "bin/docker-credential-locked": "#!/bin/sh\necho the keychain is locked\nexit 1\n"}, "the keychain is locked"},
	} {
		t.Run(name, func(t *testing.T) {
			loginFiles(t, c.files)
			l, err := newLogins(nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = l.findCredential(t.Context(), "registry.example", "edge")
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "credentials for registry.example: ") || strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("got %v", err)
			}
			if strings.Contains(name, "JSON") {
				return
			}
			if _, err := l.findCredential(t.Context(), "other.example", "edge"); err != nil {
				t.Errorf("for another registry: %v", err)
			}
		})
	}
	loginFiles(t, map[string]string{"$DOCKER_AUTH_CONFIG": "registry.example"})
	if l, err := newLogins(nil); err != nil {
		t.Fatal(err)
	} else if _, err := l.findCredential(t.Context(), "registry.example", "edge"); err == nil || !strings.Contains(err.Error(), "$DOCKER_AUTH_CONFIG: invalid character") {
		t.Errorf("a variable that is not JSON: %v", err)
	}
	loginFiles(t, map[string]string{})
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(t.TempDir(), "gone.json"))
	l, err := newLogins(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.findCredential(t.Context(), "registry.example", "edge"); err == nil || !strings.Contains(err.Error(), "gone.json") {
		t.Errorf("a file that was named and is not there: %v", err)
	}
}

// Without $HOME the user's files are where the system says that the user is at home.
func TestLoginsWithoutHome(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"HOME", "DOCKER_CONFIG", "XDG_CONFIG_HOME"} {
		t.Setenv(name, "")
	}
	if got := homeDir(); got != me.HomeDir {
		t.Errorf("at home in %q, want %q", got, me.HomeDir)
	}
	if got, want := configDir(), filepath.Join(me.HomeDir, ".config"); got != want {
		t.Errorf("configured in %q, want %q", got, want)
	}
}

// Two organisations of one registry have a login each, and neither gets the other's.
func TestLoginsByPath(t *testing.T) {
	r := registrytest.StartRegistry(t, registrytest.Options{Auth: registrytest.Token})
	right := base64.StdEncoding.EncodeToString([]byte(r.Username + ":" + r.Password))
	loginFiles(t, map[string]string{"run/containers/auth.json": auths(
		r.Host+"/org1", `{"auth":"`+right+`"}`, r.Host+"/org2", basic("somebody"), r.Host+"/org1/secret", basic("nobody"))})
	c := newClient(t, Options{})
	for range 2 {
		for path, works := range map[string]bool{"org1/edge": true, "org2/edge": false, "org1/secret/edge": false, "org3/edge": false} {
			if err := roundTrip(t.Context(), c, r.Host+"/"+path); (err == nil) != works {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}
