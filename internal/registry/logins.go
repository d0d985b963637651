package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
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
	err     error
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

func parseLogins(name string, data []byte) (*loginFile, error) {
	file := &loginFile{name: name}
	if err := json.Unmarshal(data, file); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return file, nil
}

// userLogins reads the files of docker and of podman.
func userLogins() (files []*loginFile) {
	read := func(name string, wanted bool) {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) && !wanted {
			return
		}
		var file *loginFile
		if err == nil {
			file, err = parseLogins(name, data)
		}
		if err != nil {
			file = &loginFile{err: err}
		}
		files = append(files, file)
	}
	if name := os.Getenv("REGISTRY_AUTH_FILE"); name != "" {
		read(name, true)
	}
	home, _ := os.UserHomeDir()
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		read(filepath.Join(dir, "config.json"), false)
	} else if home != "" {
		read(filepath.Join(home, ".docker", "config.json"), false)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		read(filepath.Join(dir, "containers", "auth.json"), false)
	} else {
		read(filepath.Join("/run/containers", strconv.Itoa(os.Getuid()), "auth.json"), false)
	}
	if dir, err := os.UserConfigDir(); err == nil {
		read(filepath.Join(dir, "containers", "auth.json"), false)
	}
	return files
}

func (l *loginSources) allFiles() []*loginFile { return slices.Concat(l.explicit, l.userFiles()) }

// findLogin finds the login for a repository. The error names the file, but no secret.
func (l *loginSources) findLogin(ctx context.Context, host, repository string) (auth.Credential, error) {
	for _, file := range l.allFiles() {
		found, err := file.findLogin(ctx, host, repository)
		if err != nil {
			return auth.EmptyCredential, fmt.Errorf("credentials for %s: %w", host, err)
		}
		if found != auth.EmptyCredential {
			return found, nil
		}
	}
	return auth.EmptyCredential, nil
}

// loginScope identifies the login of a repository: repositories of a host with the same login have
// the same scope.
func (l *loginSources) loginScope(host, repository string) string {
	var keys []string
	for _, file := range l.allFiles() {
		key, _ := file.findKey(host, repository)
		keys = append(keys, key)
	}
	return strings.Join(keys, "\n")
}

func (f *loginFile) findLogin(ctx context.Context, host, repository string) (auth.Credential, error) {
	if f.err != nil {
		return auth.EmptyCredential, f.err
	}
	for _, name := range hostNames(host) {
		if helper, ok := f.Helpers[name]; ok && helper != "" {
			return queryHelper(ctx, helper, name)
		}
	}
	if f.Store != "" {
		found, err := queryHelper(ctx, f.Store, hostNames(host)[0])
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

func queryHelper(ctx context.Context, helper, name string) (auth.Credential, error) {
	found, err := credentials.NewNativeStore(helper).Get(ctx, name)
	if err != nil {
		return found, fmt.Errorf("docker-credential-%s: %w", helper, err)
	}
	return found, nil
}

// findKey finds the entry for a repository: the one with the longest path, or else the registry's.
func (f *loginFile) findKey(host, repository string) (string, bool) {
	names := hostNames(host)
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
	// docker login used to write URLs.
	for _, key := range slices.Sorted(maps.Keys(f.Auths)) {
		_, rest, isURL := strings.Cut(key, "://")
		if name, _, _ := strings.Cut(rest, "/"); isURL && slices.Contains(names, name) {
			return key, true
		}
	}
	return "", false
}

// hostNames returns the keys for a registry. Docker Hub has several; docker login writes the first.
func hostNames(host string) []string {
	hub := []string{"https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"}
	if slices.Contains(hub, host) {
		return hub
	}
	return []string{host}
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
