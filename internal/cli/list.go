package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/result"
)

func (a *app) listCommand() *cobra.Command {
	var format ui.Format
	cmd := &cobra.Command{
		Use:   "list PLACE",
		Short: "list the versions of a runtime or bundle",
		Example: `  krtpkg list registry.example/krt/edge
  krtpkg list oci:dist`,
		GroupID: groupLook,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runList(cmd.Context(), args[0], format) },
	}
	outputFlag(cmd, &format)
	return cmd
}

func (a *app) runList(ctx context.Context, reference string, format ui.Format) error {
	at, err := a.openPlace(ctx, reference)
	if err != nil {
		return err
	}
	found := &result.List{Versions: []result.ListedVersion{}}
	err = at.store.Tags(ctx, "", func(tags []string) error {
		for _, tag := range tags {
			if strings.HasPrefix(tag, "sha256-") { // signatures and referrers
				continue
			}
			desc, err := at.store.Resolve(ctx, tag)
			if err != nil {
				return fmt.Errorf("%s: %w", at.WithTag(tag), err)
			}
			m, err := bundle.ReadManifest(ctx, at.store, desc)
			if errors.Is(err, bundle.ErrNotOurs) {
				continue
			}
			if err != nil {
				return err
			}
			kind := bundle.KindBundle
			if m.ArtifactType == bundle.TypeRuntime {
				kind = bundle.KindRuntime
			}
			at.Tag, at.root = tag, desc
			one := result.Artifact{Reference: at.pinnedReference(), Kind: kind, Name: titleOf(m), Version: m.Annotations[ocispec.AnnotationVersion], Digest: desc.Digest.String()}
			if err := (bundle.Metadata{Name: one.Name, Version: one.Version}).CheckTag(tag); err != nil {
				a.ui.Note("note: %s: %v", at.Location(), err)
			}
			found.Versions = append(found.Versions, result.ListedVersion{Tag: tag, Artifact: one})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.printResult(ctx, format, found, nil, func(w io.Writer) {
		ui.Fprintf(w, "TAG\tNAME\tVERSION\tKIND\tDIGEST\n")
		for _, v := range found.Versions {
			ui.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", v.Tag, v.Name, v.Version, v.Kind, v.Digest)
		}
	})
}
