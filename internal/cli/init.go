package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/starter"
	"krtpkg.dev/krtpkg/pkg/layers"
)

type initOptions struct {
	name, version, from, answers string
	bundle                       string
	choose, because              []string
	model                        modelFlag
	yes, force                   bool
}

func (a *app) initCommand() *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init [FOLDER]",
		Short: "start a runtime: choose products for the layers and write the definition",
		Long: `Init writes runtime.yaml with a reason for each bundle, copies the ready bundles that it names to
bundles/ as a start for your own, and writes DECISIONS.md with the decision for each category of
the layers and the open questions.

On a terminal it asks. Without one, or with --choose, --answers or --yes, it starts from the ready
runtime of --from, and applies the decisions of --answers and then of --choose. A product without
a ready bundle is noted where its bundle belongs; a service, or software of the nodes, comes from
outside (spec.provided). Required bundles are added if exactly one ready bundle provides them.

With --bundle it writes bundle.yaml for one chart, or for manifests in a folder or a file below.`,
		Example: `  krtpkg init
  krtpkg init shop --from edge --choose networking=antrea --why 'networking=network policies'
  krtpkg init --from none --choose networking=outside --choose certificate-management=cert-manager
  krtpkg init --answers answers.yaml
  krtpkg init queue --bundle https://charts.example/nats@1.x
  krtpkg init web --bundle web/manifests`,
		GroupID: groupMake,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder := filepath.Clean(cmp.Or(slices.Concat(args, []string{"."})[0], "."))
			if o.bundle != "" {
				return a.initBundle(folder, &o)
			}
			return a.runInit(cmd.Context(), folder, &o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.bundle, "bundle", "", "start a bundle, not a runtime: of a chart, https://REPOSITORY/CHART[@VERSIONS] or oci://REGISTRY/PATH/CHART[@VERSIONS], or of manifests below the folder")
	flags.StringVar(&o.name, "name", "", "its name (default: the folder's, or the chart's)")
	flags.StringVar(&o.version, "version", "", "its version (default 0.1.0)")
	flags.StringVar(&o.from, "from", "", "the ready runtime to start from: edge (default), enterprise, air-gapped, observability, delivery, or none")
	flags.StringVar(&o.answers, "answers", "", "file with decisions, as docs/LAYERS.md shows")
	flags.StringArrayVar(&o.choose, "choose", nil, "decide as CATEGORY=PRODUCT[,PRODUCT], CATEGORY=outside or CATEGORY=none")
	flags.StringArrayVar(&o.because, "why", nil, "say why, as CATEGORY=TEXT")
	flags.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	flags.BoolVar(&o.force, "force", false, "overwrite existing files")
	o.model.addFlag(flags)
	_ = cmd.RegisterFlagCompletionFunc("from", completeRuntimes)
	_ = cmd.RegisterFlagCompletionFunc("choose", completeChoices)
	return cmd
}

func (a *app) runInit(ctx context.Context, folder string, o *initOptions) error {
	model, err := o.model.loadModel()
	if err != nil {
		return err
	}
	ready, err := bundles.All()
	if err != nil {
		return err
	}
	answers, err := o.readAnswers(model, folder)
	if err != nil {
		return err
	}
	if a.ui.IsTerminal() && !o.yes && o.answers == "" && len(o.choose) == 0 {
		w := decisionWalk{ui: a.ui, model: model, ready: ready, answers: answers}
		if err := w.askAll(ctx); err != nil {
			return err
		}
	}
	if answers.From == "none" {
		answers.From = ""
	}
	start, err := starter.StartRuntime(model, ready, answers)
	if err != nil {
		return err
	}
	files, err := start.Files()
	if err != nil {
		return err
	}
	if err := writeFolder(folder, files, 0o644, o.force); err != nil {
		return err
	}
	a.printNextSteps(folder, start, len(files))
	return nil
}

// readAnswers puts the answers together from the file and the flags.
func (o *initOptions) readAnswers(model *layers.Model, folder string) (*starter.Answers, error) {
	answers := &starter.Answers{}
	if o.answers != "" {
		data, err := os.ReadFile(o.answers)
		if err != nil {
			return nil, err
		}
		if answers, err = starter.ParseAnswers(o.answers, data, model); err != nil {
			return nil, err
		}
	}
	for _, text := range o.choose {
		if err := answers.AddChoice(text, model); err != nil {
			return nil, &usageError{fmt.Errorf("--choose: %w", err)}
		}
	}
	for _, text := range o.because {
		if err := answers.AddReason(text, model); err != nil {
			return nil, &usageError{fmt.Errorf("--why: %w", err)}
		}
	}
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	answers.Name = cmp.Or(o.name, answers.Name, runtimeName(filepath.Base(absolute)))
	answers.Version = cmp.Or(o.version, answers.Version, "0.1.0")
	answers.From = cmp.Or(o.from, answers.From, "edge")
	return answers, nil
}

// runtimeName makes a name of what a folder is called.
func runtimeName(folder string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(folder))
	return cmp.Or(strings.Trim(name, "-"), "runtime")
}

// writeFolder puts files below a folder, or none of them if another is there already or one cannot be
// written.
func writeFolder(folder string, files []starter.File, mode fs.FileMode, force bool) error {
	if !force {
		for _, f := range files {
			at := filepath.Join(folder, filepath.FromSlash(f.Path))
			if info, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
				if err == nil && info.Mode().IsRegular() && info.Size() == int64(len(f.Data)) {
					if data, err := os.ReadFile(at); err == nil && bytes.Equal(data, f.Data) {
						continue
					}
				}
				return fmt.Errorf("%s already exists: choose another folder, or overwrite it with --force", at)
			}
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	for i, f := range files {
		at := filepath.FromSlash(f.Path)
		err := root.MkdirAll(filepath.Dir(at), 0o755)
		if err == nil {
			err = replaceFile(root, at, f.Data, mode)
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("write %s: %w", filepath.Join(folder, at), err)
		if !force { // what was there before cannot be brought back
			for _, written := range files[:i+1] {
				if gone := root.Remove(filepath.FromSlash(written.Path)); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
					err = errors.Join(err, gone)
				}
			}
		}
		return err
	}
	return nil
}

// replaceFile writes a file in full before it has its name: a link that has the name is not followed, and
// what was readable for others is not.
func replaceFile(root *os.Root, name string, data []byte, mode fs.FileMode) error {
	temp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+"."+rand.Text()[:8])
	file, err := root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		err = errors.Join(err, root.Remove(temp))
	}
	return err
}

// printNextSteps says what was written and what comes next.
func (a *app) printNextSteps(folder string, s *starter.Start, files int) {
	a.ui.Say("wrote %s, DECISIONS.md and %s in %s", filepath.Join(folder, "runtime.yaml"), countNoun(len(s.Bundles), "bundle"), countNoun(files-2, "file"))
	for _, w := range s.Wanting {
		a.ui.Note("%s has no ready bundle: write it, see docs/DEFINITIONS.md", w.Product.Name)
	}
	for _, absent := range s.AbsentCapabilities() {
		a.ui.Note("%v: choose a product, or --choose %s=outside if the platform provides it", absent, absent.Category)
	}
	a.ui.Say("next: krtpkg layers check %[1]s, krtpkg build -f %[1]s", filepath.Join(folder, "runtime.yaml"))
}
