package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/result"
)

type tagOptions struct {
	force  bool
	format ui.Format
}

func (a *app) tagCommand() *cobra.Command {
	var o tagOptions
	cmd := &cobra.Command{
		Use:   "tag REFERENCE TAG",
		Short: "give a bundle or a runtime another tag",
		Long: `Tag adds a tag to a bundle or a runtime where it is, in a registry or a folder. A tag that is
a version must be the version that was built. A tag that names something else stays, unless you
pass --force.

Tag records nothing. For a channel that sites follow, use promote: it verifies, and attests who
moved the channel and when.`,
		Example: `  krtpkg tag registry.example/krt/edge@sha256:0f1e… 1.0.0
  krtpkg tag oci:dist:1.0.0 latest --force`,
		GroupID: groupMake,
		Args:    cobra.ExactArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runTag(cmd.Context(), args[0], args[1], o) },
	}
	cmd.Flags().BoolVar(&o.force, "force", false, "move a tag that names something else")
	outputFlag(cmd, &o.format)
	return cmd
}

func (a *app) runTag(ctx context.Context, reference, tag string, o tagOptions) error {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	if at.File != "" {
		return &usageError{fmt.Errorf("%s: an archive keeps its tags: tag it in a registry or a folder", reference)}
	}
	named := at.WithTag(tag)
	if strings.ContainsAny(tag, "/:@") {
		return &usageError{fmt.Errorf("%q is not a tag: want the tag alone, as in krtpkg tag %s stable", tag, reference)}
	}
	if _, err := place.Parse(named.String()); err != nil {
		return &usageError{err}
	}
	set, err := a.openSet(ctx, at)
	if err != nil {
		return err
	}
	if err := set.Root.Metadata().CheckTag(tag); err != nil && !a.settings.allowRenamed {
		return err
	}
	before, err := at.store.Resolve(ctx, tag)
	if err != nil && !errors.Is(err, errdef.ErrNotFound) {
		return err
	}
	if err == nil && before.Digest != at.root.Digest && !o.force {
		what := before.Digest.String()
		if m, err := bundle.ReadManifest(ctx, at.store, before); err == nil {
			what = titleOf(m) + ", " + what
		}
		return fmt.Errorf("tag %s names %s: pass --force to move it", named, what)
	}
	store, err := at.Create(ctx, at.client)
	if err != nil {
		return err
	}
	if err := store.Tag(ctx, at.root, tag); err != nil {
		return err
	}
	named.Digest = at.root.Digest
	r := &result.Tag{Artifact: describeArtifact(&set.Root.Content, at.root.Digest, named.String()), Tag: tag}
	return a.printResult(ctx, o.format, r, nil, func(w io.Writer) { ui.Fprintln(w, named) })
}
