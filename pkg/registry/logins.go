package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Logins are read as in containers-auth.json(5): a key is a registry, or a registry with the
// beginning of a repository's path, of which the longest one counts.

// loginFile is a docker config, or podman's auth.json.
type loginFile struct {
	name    string
	Auths   map[string]loginEntry `json:"auths"`
	Helpers map[string]string     `json:"credHelpers"`
	Store   string                `json:"credsStore"`
	// isPodmans is set for a file that is not docker's: another one of Docker Hub's keys counts first.
	isPodmans bool
	err       error
}

type loginEntry struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// loginSources are the files with logins; the first one that has a login counts.
type loginSources struct {
	explicit  []*loginFile
	userFiles func() []*loginFile
}

// newLogins reads docker configs, which come before the user's files.
func newLogins(configs [][]byte) (*loginSources, error) {
	l := &loginSources{userFiles: sync.OnceValue(userLogins)}
	for i, config := range configs {
		file, err := parseLogins(fmt.Sprintf("login %d", i+1), config)
		if err != nil {
			return nil, err
		}
		l.explicit = append(l.explicit, file)
	}
	return l, nil
}

// CheckLogin validates a docker config as one of [Options.Logins].
func CheckLogin(config []byte) error {
	file, err := parseLogins("login", config)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(file.Auths)) {
		if _, err := file.Auths[key].decodeCredential(); err != nil {
			return fmt.Errorf("login for %s: %w", key, err)
		}
	}
	return nil
}

// parseLogins reads a login file; an empty one has no logins, as with docker.
func parseLogins(name string, data []byte) (*loginFile, error) {
	file := &loginFile{name: name}
	if len(bytes.TrimSpace(data)) == 0 {
		return file, nil
	}
	if err := json.Unmarshal(data, file); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return file, nil
}

// userLogins reads the files of docker and of podman, and docker's variable (github.com/docker/cli 28.3).
func userLogins() (files []*loginFile) {
	add := func(name string, data []byte, err error) *loginFile {
		var file *loginFile
		if err == nil {
			file, err = parseLogins(name, data)
		}
		if err != nil {
			file = &loginFile{err: err}
		}
		files = append(files, file)
		return file
	}
	read := func(name string) *loginFile {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return &loginFile{} // asked by nobody
		}
		return add(name, data, err)
	}
	if name := os.Getenv("REGISTRY_AUTH_FILE"); name != "" {
		data, err := os.ReadFile(name)
		add(name, data, err).isPodmans = true
	}
	if text := os.Getenv("DOCKER_AUTH_CONFIG"); text != "" {
		add("$DOCKER_AUTH_CONFIG", []byte(text), nil)
	}
	read(dockerConfigFile())
	read(filepath.Join(runtimeDir(), "containers", "auth.json")).isPodmans = true
	read(filepath.Join(configDir(), "containers", "auth.json")).isPodmans = true
	return files
}

// homeDir returns the user's home, also where no variable names it, as in a unit of systemd.
func homeDir() string {
	if home, err := os.UserHomeDir(); err == nil && home != "" {
		return home
	}
	if u, err := user.Current(); err == nil && u.HomeDir != "" {
		return u.HomeDir
	}
	return "/nonexistent" // not the current folder, whose files may be anyone's
}

// configDir returns where podman has its configuration, on every system.
func configDir() string {
	return cmp.Or(os.Getenv("XDG_CONFIG_HOME"), filepath.Join(homeDir(), ".config"))
}

// runtimeDir returns where podman login keeps logins until the next start of the system, if it does.
func runtimeDir() string {
	if runtime.GOOS != "linux" {
		return filepath.Join(homeDir(), ".config")
	}
	return cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), filepath.Join("/run/containers", strconv.Itoa(os.Getuid())))
}

func (l *loginSources) allFiles() []*loginFile { return slices.Concat(l.explicit, l.userFiles()) }

// findCredential returns the credential for a repository, empty if there is none. The error names the
// file, but no secret.
func (l *loginSources) findCredential(ctx context.Context, host, repository string) (auth.Credential, error) {
	for _, file := range l.allFiles() {
		found, err := file.findCredential(ctx, host, repository)
		if err != nil {
			return auth.EmptyCredential, fmt.Errorf("credentials for %s: %w", host, err)
		}
		if found != auth.EmptyCredential {
			return found, nil
		}
	}
	return auth.EmptyCredential, nil
}

// credentialScope identifies the credential of a repository: repositories of a host with the same
// credential have the same scope.
func (l *loginSources) credentialScope(host, repository string) string {
	var keys []string
	for _, file := range l.allFiles() {
		key, _ := file.findKey(host, repository)
		keys = append(keys, key)
	}
	return strings.Join(keys, "\n")
}

func (f *loginFile) findCredential(ctx context.Context, host, repository string) (auth.Credential, error) {
	if f.err != nil {
		return auth.EmptyCredential, f.err
	}
	for _, name := range f.hostNames(host) {
		if helper, ok := f.Helpers[name]; ok && helper != "" {
			return queryCredentialHelper(ctx, helper, name)
		}
	}
	if f.Store != "" {
		found, err := queryCredentialHelper(ctx, f.Store, f.hostNames(host)[0])
		if err != nil || found != auth.EmptyCredential {
			return found, err
		}
	}
	key, ok := f.findKey(host, repository)
	if !ok {
		return auth.EmptyCredential, nil
	}
	found, err := f.Auths[key].decodeCredential()
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("%s: login for %s: %w", f.name, key, err)
	}
	return found, nil
}

func queryCredentialHelper(ctx context.Context, helper, name string) (auth.Credential, error) {
	found, err := credentials.NewNativeStore(helper).Get(ctx, name)
	if err != nil {
		return found, fmt.Errorf("docker-credential-%s: %w", helper, err)
	}
	return found, nil
}

// findKey finds the entry for a repository: the one with the longest path, or else the registry's.
func (f *loginFile) findKey(host, repository string) (string, bool) {
	names := f.hostNames(host)
	for path := "/" + repository; ; path = path[:strings.LastIndexByte(path, '/')] {
		for _, name := range names {
			if _, ok := f.Auths[name+path]; ok {
				return name + path, true
			}
		}
		if path == "" {
			break
		}
	}
	// docker login used to write URLs, and takes them without a scheme.
	for _, key := range slices.Sorted(maps.Keys(f.Auths)) {
		_, rest, isURL := strings.Cut(key, "://")
		if !isURL {
			rest = key
		}
		name, path, hasPath := strings.Cut(rest, "/")
		isAddress := isURL || hasPath && slices.Contains([]string{"", "v1/", "v2/"}, path)
		if isAddress && slices.Contains(names, name) {
			return key, true
		}
	}
	return "", false
}

// hostNames returns the keys for a registry. Docker Hub has several; docker login writes the first, and podman
// login the second.
func (f *loginFile) hostNames(host string) []string {
	hub := []string{"https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"}
	if !slices.Contains(hub, host) {
		return []string{host}
	}
	if f.isPodmans {
		hub[0], hub[1] = hub[1], hub[0]
	}
	return hub
}

// decodeCredential returns the credential of an entry, which may be empty.
func (e loginEntry) decodeCredential() (auth.Credential, error) {
	c := auth.Credential{Username: e.Username, Password: e.Password, RefreshToken: e.IdentityToken, AccessToken: e.RegistryToken}
	if e.Auth == "" {
		return c, nil
	}
	data, err := base64.StdEncoding.DecodeString(e.Auth)
	if err != nil {
		return auth.EmptyCredential, errors.New("auth is not base64")
	}
	username, password, ok := strings.Cut(string(data), ":")
	if !ok {
		return auth.EmptyCredential, errors.New("auth is not a user name and a password, separated by a colon")
	}
	c.Username, c.Password = username, strings.Trim(password, "\x00")
	return c, nil
}
