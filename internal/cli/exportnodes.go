package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// nodeKind is a kind of nodes that take images from files.
type nodeKind struct {
	// usage says what to do with the files on each node; FOLDER is where they were written to.
	usage string
	// takesZstd is set if the files may be compressed.
	takesZstd bool
}

// nodeKinds are those that --for takes. Where each looks, and what it reads there, is by its own code:
// k3s-io/k3s and rancher/rke2 (pkg/agent/containerd), k0sproject/k0s (pkg/component/worker/ocibundle.go),
// siderolabs/talos (pkg/imager/cache).
var nodeKinds = map[string]nodeKind{
	"containerd": {"on each node: ctr -n k8s.io images import FILE", true},
	"k3s":        {"copy the files to /var/lib/rancher/k3s/agent/images/ on each node", true},
	"rke2":       {"copy the files to /var/lib/rancher/rke2/agent/images/ on each node", true},
	"k0s":        {"copy the files to /var/lib/k0s/images/ on each worker", false},
	talosNodes:   {"put manifests/ and blob/ into the image cache of each node: the partition IMAGECACHE, or /imagecache of its ISO", false},
}

const talosNodes = "talos"

func addNodeFlag(cmd *cobra.Command, kind *string) {
	names := slices.Sorted(maps.Keys(nodeKinds))
	cmd.Flags().StringVar(kind, "for", "", "write image archives that nodes load without a registry into a folder: "+strings.Join(names, ", ")+"; requires --platform")
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

// checkNodeFlags returns a usage error for flags that cannot be used with --for.
func (f *exportFlags) checkNodeFlags(dir string) error {
	kind, known := nodeKinds[f.nodes]
	switch {
	case !known:
		return &usageError{fmt.Errorf("--for %q: want %s", f.nodes, strings.Join(slices.Sorted(maps.Keys(nodeKinds)), ", "))}
	case len(f.platforms) != 1:
		return &usageError{fmt.Errorf("--for %s requires one --platform, that of the nodes, such as linux/amd64", f.nodes)}
	case len(f.bases) > 0 || f.delta != "" && f.delta != deltaOff || f.volumeSize != "" || f.parity.parity != "" || f.parity.volumes > 0 || f.onlyBundles:
		return &usageError{errors.New("--for cannot be used with --base, --delta, --volume-size, --parity, --parity-volumes or --only-bundles: nodes cannot read these archives")}
	case f.zstd && !kind.takesZstd:
		return &usageError{fmt.Errorf("--zstd: %s reads archives that are not compressed; layers are compressed anyway", f.nodes)}
	case dir == "-":
		return &usageError{errors.New("--for writes a file for each bundle: name a folder")}
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return &usageError{fmt.Errorf("--for writes a file for each bundle: %s is not a folder", dir)}
	}
	return nil
}

// exportForNodes writes the images of each bundle for nodes.
func (a *app) exportForNodes(ctx context.Context, references []string, dir string, f exportFlags) error {
	if err := f.checkNodeFlags(dir); err != nil {
		return err
	}
	roots, err := a.openRoots(ctx, references, "")
	if err != nil {
		return err
	}
	options, err := a.transferOptions(ctx, &f.transferFlags, "export")
	if err != nil {
		return err
	}
	plan, err := transfer.NewPlan(ctx, roots, options)
	if err != nil {
		return err
	}
	archives := plan.NodeArchives()
	if len(archives) == 0 {
		return fmt.Errorf("export for %s: no bundle has images", f.nodes)
	}
	report := plan.NameItems(options.Progress)
	whole := progress.Event{Kind: progress.Planned}
	for _, one := range archives {
		planned := plannedEvent(one.Contents)
		whole.Items, whole.Bytes = whole.Items+planned.Items, whole.Bytes+planned.Bytes
	}
	if !f.dryRun {
		report.Emit(whole)
	}
	r := &result.Transfer{DryRun: f.dryRun, Items: int64(whole.Items), CopiedItems: int64(whole.Items), Bytes: whole.Bytes, CopiedBytes: whole.Bytes}
	if f.nodes == talosNodes {
		r.Files, err = a.writeImageCache(ctx, dir, archives, plan, f, report)
	} else {
		r.Files, err = a.writeNodeArchives(ctx, dir, archives, plan, f, report)
	}
	if err != nil {
		return fmt.Errorf("export for %s: %w", f.nodes, err)
	}
	r.Roots = []result.Root{}
	a.ui.EndProgress(nil)
	a.ui.Say("%s", nodeKinds[f.nodes].usage)
	return a.printResult(ctx, f.format, r, nil, func(w io.Writer) { writeTransfer(w, r, dir) })
}

// writeNodeArchives writes an archive for each bundle. Its name has no version, so that the next one replaces it; one
// that stays the same is not touched.
func (a *app) writeNodeArchives(ctx context.Context, dir string, archives []transfer.NodeArchive, plan *transfer.Plan, f exportFlags, report progress.Func) (files []result.File, err error) {
	if !f.dryRun {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	platform, err := oci.ParsePlatform(f.platforms[0])
	if err != nil {
		return nil, &usageError{err}
	}
	suffix := "-" + strings.ReplaceAll(oci.FormatPlatform(platform), "/", "-") + ".tar"
	if f.zstd {
		suffix += ".zst"
	}
	written := map[string]bool{}
	for _, one := range archives {
		name := one.Bundle.Name + suffix
		if written[name] {
			return nil, fmt.Errorf("two versions or builds of bundle %s: export them into two folders", one.Bundle.Name)
		}
		written[name] = true
		if f.force {
			continue
		}
		if err := refuseOtherImages(ctx, filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	for _, one := range archives {
		file, err := a.writeArchive(ctx, filepath.Join(dir, one.Bundle.Name+suffix), one.Contents, plan, f, report)
		if err != nil {
			return nil, err
		}
		files = append(files, *file)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) && f.dryRun {
		return files, nil
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), suffix) && !written[entry.Name()] {
			a.ui.Note("note: %s is of no bundle of this version: remove it here and on the nodes if no other runtime needs it", filepath.Join(dir, entry.Name()))
		}
	}
	return files, err
}

// refuseOtherImages returns an error if a file is not an archive of images, such as an earlier export for nodes wrote.
func refuseOtherImages(ctx context.Context, name string) error {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || info.Size() == 0) {
		return nil // what writes it knows what to do
	}
	if err != nil {
		return err
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	stream, err := archive.OpenStream(ctx, file)
	if err != nil {
		return &otherArchiveError{name, fmt.Sprintf("something other than images for nodes (%v)", err)}
	}
	defer stream.Close()
	if roots, err := transfer.FindRoots(ctx, stream); err == nil {
		return &otherArchiveError{name, strings.Join(roots[0].Tags, ", ") + ", " + roots[0].Root.Digest.String()}
	}
	return nil
}

// writeImageCache writes the image cache of Talos.
func (a *app) writeImageCache(ctx context.Context, dir string, archives []transfer.NodeArchive, plan *transfer.Plan, f exportFlags, report progress.Func) ([]result.File, error) {
	if f.dryRun {
		return []result.File{{Name: dir}}, nil
	}
	written, err := transfer.WriteImageCache(ctx, dir, archives, plan, report)
	return []result.File{{Name: dir, Bytes: written}}, err
}
