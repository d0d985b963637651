// Command argocd runs one of the programs of Argo CD that tests need, by its name: repo-server,
// application-controller, or a redis for both of them. What follows the name are its own flags.
package main

import (
	"fmt"
	"os"

	"github.com/alicebob/miniredis/v2"
	controller "github.com/argoproj/argo-cd/v3/cmd/argocd-application-controller/commands"
	reposerver "github.com/argoproj/argo-cd/v3/cmd/argocd-repo-server/commands"
	"github.com/spf13/cobra"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("want repo-server, application-controller or redis"))
	}
	var command *cobra.Command
	switch os.Args[1] {
	case "repo-server":
		command = reposerver.NewCommand()
	case "application-controller":
		command = controller.NewCommand()
	case "redis":
		command = &cobra.Command{Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			if err := miniredis.NewMiniRedis().StartAddr(args[0]); err != nil {
				return err
			}
			select {}
		}}
	default:
		fail(fmt.Errorf("no program %q", os.Args[1]))
	}
	command.SetArgs(os.Args[2:])
	if err := command.Execute(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "argocd:", err)
	os.Exit(1)
}
