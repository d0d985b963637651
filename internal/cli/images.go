package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/build"
	"krtpkg.dev/krtpkg/pkg/images"
)

func (a *app) imagesCommand() *cobra.Command {
	var list imageList
	cmd := &cobra.Command{
		Use:   "images -f DEFINITION|FILE|FOLDER",
		Short: "list the images in manifests, and strings that look like one",
		Long: `Images lists each image reference of a definition's manifests, or of any YAML and JSON files:
its place, how it was found, what it resolves to, and notes:

  latest       its tag is :latest, or it has none
  unpinned     its tag can move; the lock pins it
  unreachable  no registry has it
  suspect      it looks like an image in an unknown field: build refuses it until searchRules,
               images or notImages of the definition decide
  ignored      a rule explains why it is not locked

For an image made up of several fields, of which a search rule rewrites some, it lists the fields
that still point upstream. It asks registries for digests unless you pass --offline.`,
		Example: `  krtpkg images -f bundle.yaml
  krtpkg images -f bundle.yaml --context
  krtpkg images -f manifests --offline -o json`,
		GroupID: groupMake,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.runImages(cmd.Context(), list)
		},
	}
	cmd.Flags().StringVarP(&list.at, "file", "f", "", "a definition, or manifests: a file or a folder")
	cmd.Flags().BoolVar(&list.offline, "offline", false, "do not ask registries for digests")
	cmd.Flags().BoolVar(&list.withContext, "context", false, "show the rendered lines around each image")
	requireFlags(cmd, "file")
	outputFlag(cmd, &list.format)
	return cmd
}

// imageList is what is listed, and how.
type imageList struct {
	at                   string
	offline, withContext bool
	format               ui.Format
}

// imageUseView is a reference for programs.
type imageUseView struct {
	Image    string   `json:"image"`
	State    string   `json:"state"`
	Notes    []string `json:"notes,omitempty"`
	How      string   `json:"how"`
	Digest   string   `json:"digest,omitempty"`
	Bundle   string   `json:"bundle,omitempty"`
	Resource string   `json:"resource,omitempty"`
	Path     string   `json:"path,omitempty"`
	File     string   `json:"file"`
	Line     int      `json:"line,omitempty"`
	Column   int      `json:"column,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Error    string   `json:"error,omitempty"`
	// Upstream are the fields of an image that still point upstream when it is relocated.
	Upstream []string `json:"upstream,omitempty"`
	// Settle is what to put into the definition for a suspect.
	Settle  string   `json:"settle,omitempty"`
	Context []string `json:"context,omitempty"`

	contextLine int
}

func (a *app) runImages(ctx context.Context, list imageList) error {
	o, err := a.buildOptions()
	if err != nil {
		return err
	}
	uses, err := build.ListImages(ctx, list.at, !list.offline, o)
	if err != nil {
		return err
	}
	views := make([]imageUseView, len(uses))
	for i, u := range uses {
		views[i] = imageUseView{
			Image: u.Image, State: string(u.State), Notes: imageNotes(u), How: u.How, Digest: u.Digest, Bundle: u.Bundle,
			Resource: u.Resource, Path: u.Path, File: u.File, Line: u.Line, Column: u.Column, Reason: u.Reason,
		}
		if u.Err != nil {
			views[i].Error = u.Err.Error()
		}
		if u.State == images.Image {
			views[i].Upstream = u.KeptFields()
		}
		if u.State == images.Suspect {
			field, entry := u.SuggestEntry()
			views[i].Settle = fmt.Sprintf("%s: [%s]", field, entry)
		}
		if list.withContext {
			views[i].Context, views[i].contextLine = u.Context, u.ContextLine
		}
	}
	return a.ui.Result(list.format, views, func(w io.Writer) {
		if len(views) == 0 {
			ui.Fprintln(w, "no images")
			return
		}
		ui.Fprintf(w, "WHERE\tHOW\tIMAGE\tDIGEST\tNOTES\n")
		for _, v := range views {
			where := v.File
			if v.Line > 0 {
				where = fmt.Sprintf("%s:%d:%d", v.File, v.Line, v.Column)
			}
			said := strings.Join(v.Notes, ", ")
			if v.Reason != "" {
				said = strings.TrimPrefix(said+": "+v.Reason, ": ")
			}
			if len(v.Upstream) > 0 {
				said = strings.TrimPrefix(said+", points upstream: "+strings.Join(v.Upstream, ", "), ", ")
			}
			ui.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", where, v.How, v.Image, shortPin(v.Digest), cmp.Or(said, "-"))
			v.writeContext(w)
		}
	})
}

// writeContext shows the lines around a reference, and what settles it.
func (v *imageUseView) writeContext(w io.Writer) {
	for i, line := range v.Context {
		mark := " "
		if v.contextLine+i == v.Line {
			mark = ">"
		}
		ui.Fprintf(w, "%s %5d  %s\n", mark, v.contextLine+i, strings.ReplaceAll(line, "\t", "  "))
	}
	if len(v.Context) > 0 && v.Settle != "" {
		ui.Fprintf(w, "  %s\n", v.Settle)
	}
}

// imageNotes returns what to know of an image.
func imageNotes(u build.ImageUse) []string {
	var list []string
	if u.State != images.Image {
		list = append(list, string(u.State))
	}
	if u.State == images.Ignored {
		return list
	}
	ref, err := images.ParseReference(u.Image)
	if err != nil {
		return append(list, "no reference")
	}
	if tag, isTag := ref.(name.Tag); isTag {
		if tag.TagStr() == "latest" {
			list = append(list, "latest")
		}
		list = append(list, "unpinned")
	}
	if u.Err != nil {
		list = append(list, "unreachable")
	}
	return list
}
