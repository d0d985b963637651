package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// platform is the platform that a user asks for.
type platform = ocispec.Platform

func (a *app) filesGetCommand() *cobra.Command {
	var o filesGetOptions
	cmd := &cobra.Command{
		Use:   "get REFERENCE [FILE...]",
		Short: "fetch files and charts that a bundle or a runtime carries",
		Long: `Get writes the named files, or all files, into a folder. Name a file as FILE, or as BUNDLE/FILE if
several bundles have a file of that name. A chart is a file called NAME-VERSION.tgz; NAME is enough.

With --key, --certificate-identity or --policy the signature is verified before anything is written.
Each file appears under its name, with its mode, once it is complete and matches its digest.`,
		Example: `  krtpkg files get registry.example/krt/edge:1.0.0 -d files --platform linux/amd64
  krtpkg files get --key cosign.pub ./edge-1.0.0.tar kubelet kubeadm --platform linux/arm64 -d /usr/local/bin`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runFilesGet(cmd.Context(), args[0], args[1:], &o)
		},
	}
	cmd.Flags().StringVarP(&o.dir, "output-dir", "d", ".", "folder to write to")
	_ = cmd.MarkFlagDirname("output-dir")
	platformFlag(cmd, &o.platform, "fetch what is for this platform or for any, as os/arch[/variant]")
	o.trust.addTrustFlags(cmd)
	o.trust.addUnsigned(cmd, "fetch even if a policy file would refuse it")
	outputFlag(cmd, &o.format)
	return cmd
}

type filesGetOptions struct {
	dir, platform string
	trust         trustFlags
	format        ui.Format
}

func (a *app) runFilesGet(ctx context.Context, reference string, names []string, o *filesGetOptions) error {
	want, err := parseCargoPlatform(o.platform)
	if err != nil {
		return err
	}
	at, set, err := a.openForFiles(ctx, reference, &o.trust)
	if err != nil {
		return err
	}
	chosen, leftOut, err := chooseCargo(listSetCargo(set), names, want)
	if err != nil {
		return fmt.Errorf("%s: %w", at.unpinnedReference(), err)
	}
	for _, note := range leftOut {
		a.ui.Note("note: %s", note)
	}
	if err := writeCargoFiles(ctx, at.store, chosen, o.dir, a.ui.Progress("fetched")); err != nil {
		return fmt.Errorf("%s: %w", at.unpinnedReference(), asLost(err))
	}
	r := newFilesResult(at, set, chosen)
	for i := range r.Cargo {
		r.Cargo[i].Path = filepath.Join(o.dir, r.Cargo[i].Name)
	}
	return a.printResult(ctx, o.format, r, nil, func(w io.Writer) {
		for _, c := range r.Cargo {
			ui.Fprintf(w, "%s\n", c.Path)
		}
	})
}

// chooseCargo returns the files and charts that names and a platform select, each once. Of what no name asks for it
// leaves out what is for other platforms, and says so.
func chooseCargo(items []bundle.CargoItem, names []string, want *platform) (chosen []bundle.CargoItem, leftOut []string, err error) {
	if len(items) == 0 {
		return nil, nil, errors.New("no files or charts found")
	}
	variants := map[string][]bundle.CargoItem{}
	var order []string
	for _, item := range items {
		key := item.Bundle + "/" + item.Name
		if variants[key] == nil {
			order = append(order, key)
		}
		variants[key] = append(variants[key], item)
	}
	asked := order
	if len(names) > 0 {
		asked = nil
		for _, wanted := range names {
			i := len(asked)
			for _, key := range order {
				if isCalled(variants[key][0], wanted) && !slices.Contains(asked, key) {
					asked = append(asked, key)
				}
			}
			if i == len(asked) && !slices.ContainsFunc(asked, func(key string) bool { return isCalled(variants[key][0], wanted) }) {
				return nil, nil, fmt.Errorf("no file or chart %s found: krtpkg files list shows all", wanted)
			}
		}
	}
	for _, key := range asked {
		one, err := chooseVariant(variants[key], want)
		var other *otherPlatformError
		if errors.As(err, &other) && len(names) == 0 {
			leftOut = append(leftOut, "skipped "+err.Error())
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		chosen = append(chosen, one)
	}
	if len(chosen) == 0 {
		return nil, nil, fmt.Errorf("no files or charts for %s", oci.FormatPlatform(*want))
	}
	chosen, err = withoutTwins(chosen)
	return chosen, leftOut, err
}

// isCalled reports whether a user means a file or a chart by a name.
func isCalled(item bundle.CargoItem, wanted string) bool {
	wanted = strings.TrimPrefix(wanted, item.Bundle+"/")
	return wanted == item.Name || item.Chart != nil && (wanted == item.Chart.Chart || wanted == path.Base(item.Chart.Chart))
}

// otherPlatformError reports a file that is for other platforms only.
type otherPlatformError struct {
	name, wanted string
	has          []string
}

func (e *otherPlatformError) Error() string {
	return fmt.Sprintf("%s: no file for %s (available: %s)", e.name, e.wanted, strings.Join(e.has, ", "))
}

// chooseVariant returns the one of several files of a name that is for a platform.
func chooseVariant(variants []bundle.CargoItem, want *platform) (bundle.CargoItem, error) {
	has := make([]string, len(variants))
	var fit []bundle.CargoItem
	for i, v := range variants {
		has[i] = v.Platform
		if want == nil || isForPlatform(v, *want) {
			fit = append(fit, v)
		}
	}
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) == 0:
		return bundle.CargoItem{}, &otherPlatformError{variants[0].Name, oci.FormatPlatform(*want), has}
	}
	return bundle.CargoItem{}, fmt.Errorf("%s is for %s: choose one with --platform", variants[0].Name, strings.Join(has, ", "))
}

// withoutTwins drops what several bundles carry, and refuses two files of one name.
func withoutTwins(chosen []bundle.CargoItem) (all []bundle.CargoItem, err error) {
	taken := map[string]bundle.CargoItem{}
	for _, item := range chosen {
		folded := strings.ToLower(item.Name)
		first, again := taken[folded]
		switch {
		case !again:
			taken[folded] = item
			all = append(all, item)
		case first.Content.Digest != item.Content.Digest || first.Name != item.Name || first.Mode != item.Mode:
			return nil, fmt.Errorf("%s/%s and %s/%s are different files of one name: name one of them", first.Bundle, first.Name, item.Bundle, item.Name)
		}
	}
	return all, nil
}

// writeCargoFiles writes files into a folder, each under another name until it is whole.
func writeCargoFiles(ctx context.Context, store content.Fetcher, chosen []bundle.CargoItem, dir string, report progress.Func) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	planned := progress.Event{Kind: progress.Planned, Items: len(chosen)}
	for _, item := range chosen {
		planned.Bytes += item.Content.Size
	}
	report.Emit(planned)
	for _, item := range chosen {
		there, err := hasFile(ctx, root, item)
		if err != nil {
			return err
		}
		if there {
			report.Emit(progress.Event{Kind: progress.Skipped, Subject: item.Name, Bytes: item.Content.Size})
			if err := root.Chmod(item.Name, item.Mode); err != nil {
				return err
			}
			continue
		}
		if err := writeCargoFile(ctx, store, item, root, report); err != nil {
			return err
		}
	}
	return nil
}

// hasFile reports whether a folder has a file already, byte for byte. It returns the error of ctx.
func hasFile(ctx context.Context, root *os.Root, item bundle.CargoItem) (bool, error) {
	info, err := root.Lstat(item.Name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != item.Content.Size {
		return false, nil
	}
	file, err := root.Open(item.Name)
	if err != nil {
		return false, nil
	}
	defer file.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, oci.StopReader(ctx, file))
	return err == nil && fmt.Sprintf("%x", hash.Sum(nil)) == item.Content.Digest.Encoded(), ctx.Err()
}

func writeCargoFile(ctx context.Context, store content.Fetcher, item bundle.CargoItem, root *os.Root, report progress.Func) (err error) {
	temp := "." + item.Name[:min(len(item.Name), 200)] + "-" + rand.Text()
	file, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Remove(temp))
		}
	}()
	event := progress.Event{Kind: progress.Began, Subject: item.Name, Bytes: item.Content.Size}
	report.Emit(event)
	err = item.CopyTo(ctx, store, &movedWriter{file, report, item.Name})
	if errors.Is(err, errdef.ErrNotFound) {
		err = fmt.Errorf("%w: it may have been copied for other platforms only", err)
	}
	if err := errors.Join(err, file.Chmod(item.Mode), file.Close()); err != nil {
		return err
	}
	event.Kind = progress.Copied
	report.Emit(event)
	return root.Rename(temp, item.Name)
}

// movedWriter reports what has arrived of a file.
type movedWriter struct {
	io.Writer
	report progress.Func
	name   string
}

func (w *movedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.report.Emit(progress.Event{Kind: progress.Moved, Subject: w.name, Bytes: int64(n)})
	return n, err
}
