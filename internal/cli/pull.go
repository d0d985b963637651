package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

func (a *app) pullCommand() *cobra.Command {
	var o struct {
		dir   string
		trust trustFlags
		force bool
	}
	cmd := &cobra.Command{
		Use:   "pull REFERENCE -d FOLDER",
		Short: "fetch the content of a bundle or a runtime into a folder",
		Long: `Pull writes the files of a bundle into a folder; those of a runtime's bundles go into
bundles/NAME below it. With --key, --certificate-identity or --policy the
signature is verified first.

The folder must be new or empty. It appears under its name when everything is in it.`,
		Example: `  krtpkg pull registry.example/krt/edge:1.0.0 -d edge
  krtpkg pull --key cosign.pub registry.example/krt/edge:1.0.0 -d edge`,
		GroupID: groupLook,
		Args:    oneReference,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.dir == "" {
				return &usageError{fmt.Errorf("--output-dir is missing\nusage: %s", cmd.UseLine())}
			}
			return a.runPull(cmd.Context(), args[0], o.dir, &o.trust)
		},
	}
	outputDirFlag(cmd, &o.dir, "folder to write to")
	o.trust.addTrustFlags(cmd)
	o.trust.addUnsigned(cmd, "fetch even if a policy file would refuse it")
	return cmd
}

func (a *app) runPull(ctx context.Context, reference, dir string, t *trustFlags) error {
	if err := checkEmpty(dir); err != nil {
		return err
	}
	from, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	if err := a.verifiedIf(ctx, from, t); err != nil {
		return err
	}
	set, err := a.openSet(ctx, from)
	if err != nil {
		return err
	}
	n, err := writeSet(set, dir)
	if err != nil {
		return err
	}
	a.ui.Say("%s: %s", from.pinnedReference(), countNoun(n, "file"))
	return nil
}

func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		return fmt.Errorf("folder %s is not empty", dir)
	}
	return err
}

// writeSet puts everything into a folder next to the target and renames that, so that the
// target is whole or not there.
func writeSet(set *bundle.Set, dir string) (n int, err error) {
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return 0, err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+"-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	if n, err = writeFiles(temp, set); err != nil {
		return n, err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return n, err
	}
	// Only an empty folder is replaced: Remove refuses any other.
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return n, err
	}
	return n, os.Rename(temp, dir)
}

func writeFiles(dir string, set *bundle.Set) (n int, err error) {
	// Names were checked when the bundle was opened; a root holds them below the folder
	// whatever they are.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	files := filesBelow("", set.Root)
	if set.Root.Runtime != nil {
		for _, b := range set.Bundles {
			files = append(files, filesBelow(path.Join("bundles", b.Metadata().Name), b)...)
		}
	}
	made := map[string]bool{}
	group := errgroup.Group{}
	group.SetLimit(4)
	for _, f := range files {
		name := filepath.FromSlash(f.Path)
		if parent := filepath.Dir(name); !made[parent] {
			made[parent] = true
			if err := root.MkdirAll(parent, 0o755); err != nil {
				return 0, errors.Join(err, group.Wait())
			}
		}
		group.Go(func() error { return root.WriteFile(name, f.Data, 0o644) })
	}
	return len(files), group.Wait()
}

// filesBelow returns the files of an artifact below a folder.
func filesBelow(dir string, artifact *bundle.Artifact) []bundle.File {
	files := make([]bundle.File, 0, len(artifact.AllFiles()))
	for _, f := range artifact.AllFiles() {
		files = append(files, bundle.File{Path: path.Join(dir, f.Path), Data: f.Data})
	}
	return files
}
