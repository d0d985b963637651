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

// Logins are read as containers-auth.json(5) has it: a key is a registry, or a registry with
// the beginning of a repository's path, of which the longest one counts.

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

// logins are the files in which logins are looked for, the first of which that has one counts.
type logins struct {
	given []*loginFile
	found func() []*loginFile
}

// newLogins reads docker configs, which come before the files of the user.
func newLogins(configs [][]byte) (*logins, error) {
	l := &logins{found: sync.OnceValue(userLogins)}
	for i, config := range configs {
		file, err := parseLogins(fmt.Sprintf("login %d", i+1), config)
		if err != nil {
			return nil, err
		}
		l.given = append(l.given, file)
	}
	return l, nil
}

// CheckLogin reports what is wrong with a docker config as one of [Options.Logins].
func CheckLogin(config []byte) error {
	file, err := parseLogins("login", config)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(file.Auths)) {
		if _, err := file.Auths[key].credential(); err != nil {
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

func (l *logins) files() []*loginFile { return slices.Concat(l.given, l.found()) }

// find looks for the login for a repository. The error names the file, and no secret.
func (l *logins) find(ctx context.Context, host, repository string) (auth.Credential, error) {
	for _, file := range l.files() {
		found, err := file.find(ctx, host, repository)
		if err != nil {
			return auth.EmptyCredential, fmt.Errorf("credentials for %s: %w", host, err)
		}
		if found != auth.EmptyCredential {
			return found, nil
		}
	}
	return auth.EmptyCredential, nil
}

// scope tells repositories of a host with different logins apart: it is the same for those that
// have one login.
func (l *logins) scope(host, repository string) string {
	var keys []string
	for _, file := range l.files() {
		key, _ := file.key(host, repository)
		keys = append(keys, key)
	}
	return strings.Join(keys, "\n")
}

func (f *loginFile) find(ctx context.Context, host, repository string) (auth.Credential, error) {
	if f.err != nil {
		return auth.EmptyCredential, f.err
	}
	for _, name := range hostNames(host) {
		if helper, ok := f.Helpers[name]; ok && helper != "" {
			return ask(ctx, helper, name)
		}
	}
	if f.Store != "" {
		found, err := ask(ctx, f.Store, hostNames(host)[0])
		if err != nil || found != auth.EmptyCredential {
			return found, err
		}
	}
	key, ok := f.key(host, repository)
	if !ok {
		return auth.EmptyCredential, nil
	}
	found, err := f.Auths[key].credential()
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("%s: login for %s: %w", f.name, key, err)
	}
	return found, nil
}

func ask(ctx context.Context, helper, name string) (auth.Credential, error) {
	found, err := credentials.NewNativeStore(helper).Get(ctx, name)
	if err != nil {
		return found, fmt.Errorf("docker-credential-%s: %w", helper, err)
	}
	return found, nil
}

// key finds the entry for a repository: that of the longest path, or else of the registry.
func (f *loginFile) key(host, repository string) (string, bool) {
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
	// docker login has taken URLs for a long time.
	for _, key := range slices.Sorted(maps.Keys(f.Auths)) {
		_, rest, isURL := strings.Cut(key, "://")
		if name, _, _ := strings.Cut(rest, "/"); isURL && slices.Contains(names, name) {
			return key, true
		}
	}
	return "", false
}

// hostNames returns the keys that a registry goes by. Docker Hub has several, the first of which
// docker login writes.
func hostNames(host string) []string {
	hub := []string{"https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"}
	if slices.Contains(hub, host) {
		return hub
	}
	return []string{host}
}

// credential returns what an entry holds; nothing where it is empty.
func (e loginEntry) credential() (auth.Credential, error) {
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
		return auth.EmptyCredential, errors.New("auth is not a name and a password, parted by a colon")
	}
	c.Username, c.Password = username, strings.Trim(password, "\x00")
	return c, nil
}
