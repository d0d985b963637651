package clustertest

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"krtpkg.dev/krtpkg/internal/hack"
)

// Deploy makes the cluster hold manifests, and those in files and folders, as an app of kapp, and
// waits until they are ready.
func (c *Cluster) Deploy(ctx context.Context, app, manifests string, files ...string) error {
	kapp, err := hack.BuildProgram(ctx, "tools/kapp")
	if err != nil {
		return err
	}
	args := []string{"deploy", "-a", app, "-f", "-", "--yes", "--kubeconfig", c.Kubeconfig}
	for _, file := range files {
		args = append(args, "-f", file)
	}
	cmd := exec.CommandContext(ctx, kapp, args...)
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kapp deploy: %w\n%s", err, out)
	}
	return nil
}
