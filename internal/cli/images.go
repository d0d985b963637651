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
	var at string
	var offline bool
	var format ui.Format
	cmd := &cobra.Command{
		Use:   "images -f DEFINITION|FILE|FOLDER",
		Short: "list every image that manifests name, and what only looks like one",
		Long: `Images lists each image reference of a definition's manifests, or of any YAML and JSON files:
where it stands, how it was found, what it resolves to, and what to know of it:

  latest       its tag is :latest, or it has none
  unpinned     its tag can move: the lock pins it
  unreachable  no registry gave it
  suspect      it looks like an image where none is known to be: build refuses it until
               searchRules, images or notImages of the definition say what it is
  ignored      a rule says why it is not locked

It asks registries for digests, unless --offline.`,
		Example: `  krtpkg images -f bundle.yaml
  krtpkg images -f manifests --offline -o json`,
		GroupID: groupMake,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.images(cmd.Context(), at, offline, format)
		},
	}
	cmd.Flags().StringVarP(&at, "file", "f", "", "a definition, or manifests: a file or a folder")
	cmd.Flags().BoolVar(&offline, "offline", false, "ask no registry for digests")
	required(cmd, "file")
	outputFlag(cmd, &format)
	return cmd
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
}

func (a *app) images(ctx context.Context, at string, offline bool, format ui.Format) error {
	o, err := a.buildOptions()
	if err != nil {
		return err
	}
	uses, err := build.Images(ctx, at, !offline, o)
	if err != nil {
		return err
	}
	views := make([]imageUseView, len(uses))
	for i, u := range uses {
		views[i] = imageUseView{
			Image: u.Image, State: string(u.State), Notes: notes(u), How: u.How, Digest: u.Digest, Bundle: u.Bundle,
			Resource: u.Resource, Path: u.Path, File: u.File, Line: u.Line, Column: u.Column, Reason: u.Reason,
		}
		if u.Err != nil {
			views[i].Error = u.Err.Error()
		}
	}
	return a.ui.Result(format, views, func(w io.Writer) {
		if len(views) == 0 {
			fmt.Fprintln(w, "no images")
			return
		}
		fmt.Fprintln(w, "WHERE\tHOW\tIMAGE\tDIGEST\tNOTES")
		for _, v := range views {
			where := v.File
			if v.Line > 0 {
				where = fmt.Sprintf("%s:%d:%d", v.File, v.Line, v.Column)
			}
			said := strings.Join(v.Notes, ", ")
			if v.Reason != "" {
				said = strings.TrimPrefix(said+": "+v.Reason, ": ")
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", where, v.How, v.Image, shortPin(v.Digest), cmp.Or(said, "-"))
		}
	})
}

// notes is what to know of an image.
func notes(u build.ImageUse) []string {
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
