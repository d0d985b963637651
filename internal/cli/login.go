package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/registry"
)

type loginOptions struct {
	username string
	stdin    bool
}

func (a *app) loginCommand() *cobra.Command {
	var o loginOptions
	cmd := &cobra.Command{
		Use:   "login REGISTRY",
		Short: "log in to a registry",
		Long: `Login checks a user name and a password, or a token, at a registry and stores them where docker
does: in the credential helper that docker's config file names, or else in that file
($DOCKER_CONFIG/config.json or ~/.docker/config.json); or, as podman does, in $REGISTRY_AUTH_FILE.
docker, podman and other tools read them there, and krtpkg reads what those have stored.

It prompts for the user name and the password if they are not given.`,
		Example: `  krtpkg login registry.example
  krtpkg login -u release --password-stdin registry.example < token`,
		GroupID: groupCarry,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runLogin(cmd.Context(), args[0], o) },
	}
	cmd.Flags().StringVarP(&o.username, "username", "u", "", "user name")
	cmd.Flags().BoolVar(&o.stdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

func (a *app) runLogin(ctx context.Context, host string, o loginOptions) error {
	host, err := registry.ParseAddress(host)
	if err != nil {
		return &usageError{err}
	}
	client, err := a.newClient()
	if err != nil {
		return err
	}
	if o.stdin && o.username == "" {
		return &usageError{errors.New("--password-stdin requires --username")}
	}
	if o.username == "" {
		if !a.ui.IsTerminal() {
			return &usageError{errors.New("no terminal: pass --username and --password-stdin")}
		}
		if o.username, err = a.ui.AskText(ctx, "User name for "+host+":"); err != nil {
			return asStopped(err)
		}
	}
	var password []byte
	if o.stdin {
		password, err = io.ReadAll(io.LimitReader(a.ui.In, 64<<10))
	} else {
		password, err = a.askPassword(ctx, "Password for "+host+":", "pass --password-stdin")
	}
	if err != nil {
		return fmt.Errorf("password: %w", asStopped(err))
	}
	text := strings.TrimRight(string(password), "\r\n")
	if text == "" {
		return &usageError{errors.New("the password is empty")}
	}
	a.ui.HideTexts(text)
	if err := client.Login(ctx, host, o.username, text); err != nil {
		return fmt.Errorf("log in to %s: %w", host, err)
	}
	a.ui.Say("logged in to %s as %s", host, o.username)
	return nil
}

// askPassword prompts for a password; instead is the hint if there is no terminal.
func (a *app) askPassword(ctx context.Context, prompt, instead string) ([]byte, error) {
	password, err := a.ui.Password(ctx, prompt)
	if errors.Is(err, ui.ErrNoTerminal) {
		err = fmt.Errorf("%w: %s", err, instead)
	}
	return password, err
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "logout REGISTRY",
		Short:   "remove the login for a registry",
		Long:    "Logout removes the login for a registry from where login stores it, and reports if another file still has one.",
		Example: "  krtpkg logout registry.example",
		GroupID: groupCarry,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := registry.ParseAddress(args[0])
			if err != nil {
				return &usageError{err}
			}
			if err := registry.Logout(cmd.Context(), host); err != nil {
				return fmt.Errorf("log out of %s: %w", host, err)
			}
			a.ui.Say("logged out of %s", host)
			return nil
		},
	}
}
