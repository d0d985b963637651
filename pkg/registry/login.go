package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// ParseAddress returns the registry that people mean by HOST[:PORT] or, as docker login takes it, by a URL:
// https://HOST/, with or without v1 or v2.
func ParseAddress(text string) (string, error) {
	_, rest, isURL := strings.Cut(text, "://")
	if !isURL {
		rest = text
	}
	host, path, _ := strings.Cut(rest, "/")
	if host == "" || !slices.Contains([]string{"", "v1", "v2"}, strings.TrimSuffix(path, "/")) || strings.ContainsAny(host, "@?# ") {
		return "", fmt.Errorf("%q: want a registry, HOST[:PORT]", text)
	}
	return host, nil
}

// Login checks a login at a registry and stores it where podman does if $REGISTRY_AUTH_FILE names a file, or else
// where docker does: in the credential helper that the file names, or in the file. It is an error if another login
// for the registry is found before the stored one.
func (c *Client) Login(ctx context.Context, address, username, password string) error {
	host, err := ParseAddress(address)
	if err != nil {
		return err
	}
	stored, store, err := openLoginStore()
	if err != nil {
		return err
	}
	registry, err := remote.NewRegistry(host)
	if err != nil {
		return err
	}
	h, err := c.findHost(ctx, registry.Reference.Host())
	if err != nil {
		return err
	}
	client := *c.clientFor(h, registry.Reference.Host(), "")
	client.Cache = nil // no token of another login
	registry.Client, registry.PlainHTTP = &client, h.plainHTTP
	if err := credentials.Login(ctx, store, registry, auth.Credential{Username: username, Password: password}); err != nil {
		return err
	}
	if first, found := findLogin(ctx, registry.Reference.Host()); found && first != stored {
		return fmt.Errorf("login stored in %s, but %s takes precedence: remove the login from %s", stored, first, first)
	}
	return nil
}

// ErrNoLogin is the error of a logout where there is no login.
var ErrNoLogin = errors.New("no login found")

// Logout removes the login for a registry from where [Client.Login] stores it. It is an error if there is none
// ([ErrNoLogin]), and if another file has a login for the registry as well.
func Logout(ctx context.Context, address string) error {
	host, err := ParseAddress(address)
	if err != nil {
		return err
	}
	if registry, err := remote.NewRegistry(host); err == nil {
		host = registry.Reference.Host()
	}
	stored, store, err := openLoginStore()
	if err != nil {
		return err
	}
	removed := false
	for _, key := range listLoginKeys(stored, host) {
		login, err := store.Get(ctx, key)
		if err != nil {
			return err
		}
		if login == auth.EmptyCredential {
			continue
		}
		if err := store.Delete(ctx, key); err != nil {
			return fmt.Errorf("remove the login for %s from %s: %w", key, stored, err)
		}
		removed = true
	}
	other, found := findLogin(ctx, host)
	switch {
	case found && removed:
		return fmt.Errorf("login removed from %s, but %s has one, too: remove it there", stored, other)
	case found:
		return fmt.Errorf("%s has no login, but %s has one: remove it there", stored, other)
	case !removed:
		return fmt.Errorf("%w in %s", ErrNoLogin, stored)
	}
	return nil
}

// openLoginStore returns where a login is stored, and the name of its file.
func openLoginStore() (string, credentials.Store, error) {
	name := cmp.Or(os.Getenv("REGISTRY_AUTH_FILE"), dockerConfigFile())
	store, err := credentials.NewStore(name, credentials.StoreOptions{AllowPlaintextPut: true})
	if err != nil {
		return name, nil, fmt.Errorf("%s: %w", name, err)
	}
	return name, store, nil
}

// dockerConfigFile returns where docker keeps logins.
func dockerConfigFile() string {
	return filepath.Join(cmp.Or(os.Getenv("DOCKER_CONFIG"), filepath.Join(homeDir(), ".docker")), "config.json")
}

// listLoginKeys lists the keys under which a file may have a registry's login.
func listLoginKeys(name, host string) []string {
	file := &loginFile{}
	if data, err := os.ReadFile(name); err == nil {
		if parsed, err := parseLogins(name, data); err == nil {
			file = parsed
		}
	}
	keys := file.hostNames(host)
	if key, ok := file.findKey(host, ""); ok {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// findLogin returns the name of the first of the user's files that has a login for a registry.
func findLogin(ctx context.Context, host string) (string, bool) {
	for _, file := range userLogins() {
		if login, err := file.findCredential(ctx, host, ""); err == nil && login != auth.EmptyCredential {
			return file.name, true
		}
	}
	return "", false
}
