// Command vault is Vault for tests: the unchanged core and API, with transit/ as the only secrets
// engine next to those built into the core. Upstream's command also wants every other engine and
// store. It unseals itself, keeps all in memory and forgets it when it ends.
//
//	vault -listen 127.0.0.1:0 -token TOKEN     TOKEN becomes a root token
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/helper/namespace"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	token := flag.String("token", "", "root token")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *token); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, token string) error {
	if token == "" || flag.NArg() > 0 {
		return errors.New("usage: vault [-listen ADDRESS] -token TOKEN")
	}
	core, err := start(token)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	// A caller that asked for port 0 learns the address from it.
	fmt.Printf("listening on http://%v\n", listener.Addr())
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{}})
	server := &http.Server{Handler: handler}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		// Nothing outlives the process that would have to be put in order.
		return server.Close()
	}
}

// start returns a core that is unsealed, has its root token and transit/.
func start(token string) (*vault.Core, error) {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr})
	store, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return nil, err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:        store,
		LogicalBackends: map[string]logical.Factory{"transit": transit.Factory},
		BuiltinRegistry: registry{},
		DisableMlock:    true,
		Logger:          logger,
	})
	if err != nil {
		return nil, err
	}
	ctx := namespace.RootContext(context.Background())
	made, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig:  &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
		RecoveryConfig: &vault.SealConfig{},
	})
	if err != nil {
		return nil, err
	}
	if _, err := core.Unseal(made.SecretShares[0]); err != nil {
		return nil, err
	}
	for path, data := range map[string]map[string]any{
		"auth/token/create":  {"id": token, "policies": []string{"root"}, "no_parent": true},
		"sys/mounts/transit": {"type": "transit"},
	} {
		req := &logical.Request{Operation: logical.UpdateOperation, ClientToken: made.RootToken, Path: path, Data: data}
		resp, err := core.HandleRequest(ctx, req)
		if err == nil && resp != nil {
			err = resp.Error()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return core, nil
}

// registry is the plugins that the core may start by name: none.
type registry struct{}

func (registry) Contains(string, consts.PluginType) bool                   { return false }
func (registry) Get(string, consts.PluginType) (func() (any, error), bool) { return nil, false }
func (registry) Keys(consts.PluginType) []string                           { return nil }
func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool         { return false }
func (registry) DeprecationStatus(string, consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Unknown, false
}
