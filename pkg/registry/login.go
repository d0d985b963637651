package registry

import (
	"context"
	"errors"

	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Login checks a login at a registry and stores it where docker does: in the credential helper that docker's
// config file names, or else in the file.
func (c *Client) Login(ctx context.Context, address, username, password string) error {
	store, err := dockerStore()
	if err != nil {
		return err
	}
	registry, err := remote.NewRegistry(address)
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
	return credentials.Login(ctx, store, registry, auth.Credential{Username: username, Password: password})
}

// ErrNoLogin is the error of a logout where there is no login.
var ErrNoLogin = errors.New("no login found in docker's config file")

// Logout removes the login for a registry from where docker keeps it.
func Logout(ctx context.Context, address string) error {
	store, err := dockerStore()
	if err != nil {
		return err
	}
	login, err := store.Get(ctx, credentials.ServerAddressFromRegistry(address))
	if err != nil {
		return err
	}
	if login == auth.EmptyCredential {
		return ErrNoLogin
	}
	return credentials.Logout(ctx, store, address)
}

func dockerStore() (credentials.Store, error) {
	return credentials.NewStoreFromDocker(credentials.StoreOptions{AllowPlaintextPut: true})
}
