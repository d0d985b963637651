package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/result"
)

func (a *app) imagesCommand() *cobra.Command {
	var list imageList
	cmd := &cobra.Command{
		Use:   "images (-f DEFINITION|FILE|FOLDER | --cluster | --from-cluster)",
		Short: "list the images in manifests, strings that look like one, or what a cluster runs",
		Long: `Images lists each image reference of a definition's manifests, or of any YAML and JSON files:
its place, how it was found, what it resolves to, and notes:

  latest       its tag is :latest, or it has none
  unpinned     its tag can move; the lock pins it
  unreachable  no registry has it
  suspect      it looks like an image in an unknown field: build refuses it until searchRules,
               images or notImages of the definition decide
  ignored      a rule explains why it is not locked

If an image is split over several fields and a search rule rewrites only some of them, it lists the
fields that still point upstream. It asks registries for digests unless you pass --offline.

With --cluster it compares what all pods run (init and ephemeral containers, static pods and image volumes
too, by the digests that the nodes report) with the locks of what krtpkg applied, and lists:

  notLocked    no lock has it: it is hard-coded in an operator, or somebody else created the pod
  otherDigest  the lock has another digest for the name
  elsewhere    the name is not in any registry that a runtime was applied from; --allow-registry adds others

For each it names the owner of the pods, up to the operator's resource, and what to put into which definition
so that the next build locks it. With --from-cluster, nothing needs to be applied: it lists what a runtime for
this cluster would have to carry.`,
		Example: `  krtpkg images -f bundle.yaml
  krtpkg images -f bundle.yaml --context
  krtpkg images -f manifests --offline -o json
  krtpkg images --cluster --exit-code
  krtpkg images --from-cluster --contexts north`,
		GroupID: groupMake,
		Args: func(cmd *cobra.Command, args []string) error {
			err := noArguments(cmd, args)
			if err != nil && strings.ContainsAny(args[0], ":@") {
				err = fmt.Errorf("%w: krtpkg tree %s lists what an artifact has", err, args[0])
			}
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkImagesFlags(cmd, list); err != nil {
				return err
			}
			switch {
			case list.onCluster == (list.at != "") && !list.fromCluster, list.fromCluster && (list.onCluster || list.at != ""):
				return &usageError{fmt.Errorf("want one of --file, --cluster and --from-cluster\nusage: %s", cmd.UseLine())}
			case list.at == "":
				return a.runRunningImages(cmd.Context(), list)
			}
			return a.runImages(cmd.Context(), list)
		},
	}
	cmd.Flags().StringVarP(&list.at, "file", "f", "", "a definition, or manifests: a file or a folder")
	cmd.Flags().BoolVar(&list.offline, "offline", false, "do not ask registries for digests")
	cmd.Flags().BoolVar(&list.withContext, "context", false, "show the rendered lines around each image")
	list.addClusterFlags(cmd)
	outputFlag(cmd, &list.format)
	return cmd
}

// checkImagesFlags refuses flags that would do nothing.
func checkImagesFlags(cmd *cobra.Command, list imageList) error {
	refuse := func(why string, names ...string) error {
		for _, flag := range names {
			if cmd.Flags().Changed(flag) {
				return &usageError{fmt.Errorf("--%s %s", flag, why)}
			}
		}
		return nil
	}
	switch {
	case list.at != "":
		return cmp.Or(refuse("is for --cluster", "exit-code", "allow-registry"),
			refuse("is for --cluster and --from-cluster", "contexts", "kubeconfig", "namespace", "retry-timeout"))
	case list.fromCluster:
		return refuse("is for --cluster", "exit-code", "allow-registry")
	}
	return nil
}

// imageList is what is listed, and how.
type imageList struct {
	at                   string
	offline, withContext bool
	format               ui.Format

	runningImages
}

func (a *app) runImages(ctx context.Context, list imageList) error {
	o, err := a.buildOptions()
	if err != nil {
		return err
	}
	uses, err := assemble.ListImages(ctx, list.at, !list.offline, o)
	if err != nil {
		return err
	}
	r := &result.Images{Images: make([]result.ImageUse, len(uses))}
	views := r.Images
	for i, u := range uses {
		views[i] = result.ImageUse{
			Image: u.Image, State: string(u.State), Notes: imageNotes(u), How: u.How, Digest: u.Digest, Bundle: u.Bundle,
			Resource: u.Resource, Path: u.Path, File: u.File, Line: u.Line, Column: u.Column, Reason: u.Reason,
		}
		if u.Err != nil {
			views[i].Unreachable = u.Err.Error()
		}
		if u.State == images.Image {
			views[i].Upstream = u.KeptFields()
		}
		if u.State == images.Suspect {
			field, entry := u.SuggestEntry()
			views[i].Settle = fmt.Sprintf("%s: [%s]", field, entry)
		}
		if list.withContext {
			views[i].Context, views[i].ContextLine = u.Context, u.ContextLine
		}
	}
	return a.printResult(ctx, list.format, r, nil, func(w io.Writer) {
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
			if v.Unreachable != "" && slices.Contains(v.Notes, "unreachable") {
				said += ": " + v.Unreachable
			}
			if len(v.Upstream) > 0 {
				said = strings.TrimPrefix(said+", points upstream: "+strings.Join(v.Upstream, ", "), ", ")
			}
			ui.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", where, v.How, v.Image, shortPin(v.Digest), cmp.Or(said, "-"))
			writeContext(w, v)
		}
	})
}

// writeContext shows the lines around a reference, and what settles it.
func writeContext(w io.Writer, v result.ImageUse) {
	for i, line := range v.Context {
		mark := " "
		if v.ContextLine+i == v.Line {
			mark = ">"
		}
		ui.Fprintf(w, "%s %5d  %s\n", mark, v.ContextLine+i, strings.ReplaceAll(line, "\t", "  "))
	}
	if len(v.Context) > 0 && v.Settle != "" {
		ui.Fprintf(w, "  %s\n", v.Settle)
	}
}

// imageNotes returns what to know of an image.
func imageNotes(u assemble.ImageUse) []string {
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
