package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/site"
)

// valuesFlags are a site's values: files, each over those before it, and single values over them.
type valuesFlags struct {
	files        []string
	texts, yamls []string
	textFiles    []string
	// from and reset are for commands that go to a cluster.
	from  []string
	reset bool
}

func (f *valuesFlags) addValuesFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.files, "values", nil, "file of the site's values: a mapping from bundle names to their values; given more than once, later files are merged over earlier ones")
	flags.StringArrayVar(&f.texts, "data-value", nil, "a single string value that overrides the files, as BUNDLE.KEY=VALUE")
	flags.StringArrayVar(&f.textFiles, "data-value-file", nil, "a single string value, the content of a file, that overrides the files, as BUNDLE.KEY=FILE")
	flags.StringArrayVar(&f.yamls, "data-value-yaml", nil, "a single value that overrides the files, as BUNDLE.KEY=YAML")
}

func (f *valuesFlags) addCluster(cmd *cobra.Command) {
	f.addValuesFlags(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&f.from, "values-from", nil, "values on the cluster, secret/NAME[:KEY] or configmap/NAME[:KEY], overridden by --values; the default key is values.yaml")
	flags.BoolVar(&f.reset, "reset-values", false, "do not reuse the values of the last apply")
}

// readValues returns the values of the flags, without those on a cluster.
func (f *valuesFlags) readValues(a *app, set *bundle.Set) (*render.Values, error) {
	sources, err := f.readSources(a)
	if err != nil {
		return nil, err
	}
	values, err := sources.Merge(set.BundleNames())
	a.ui.HideInErrors(values.ConfidentialTexts()...)
	return values, err
}

// siteValues returns the values for a runtime on a cluster. Texts from Secrets are hidden from now on.
func (f *valuesFlags) siteValues(ctx context.Context, a *app, cluster *deploy.Cluster, runtime string, set *bundle.Set) (render.Kept, error) {
	sources, err := f.readSources(a)
	if err != nil {
		return render.Kept{}, err
	}
	kept, err := sources.MergeWithCluster(ctx, cluster, runtime, set.BundleNames())
	a.ui.HideInErrors(kept.All.ConfidentialTexts()...)
	return kept, err
}

// readSources reads the files that the flags name, and parses the rest.
func (f *valuesFlags) readSources(a *app) (*site.ValueSources, error) {
	sources := &site.ValueSources{Reset: f.reset, OnSecret: func(texts []string) { a.ui.HideTexts(texts...) }}
	for _, text := range f.from {
		from, err := site.ParseClusterValues(text)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--values-from %w", err)}
		}
		sources.Cluster = append(sources.Cluster, from)
	}
	for _, file := range f.files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		values, err := render.ParseValues(file, data)
		if err != nil {
			return nil, err
		}
		sources.Files = append(sources.Files, values)
	}
	var err error
	sources.Assignments, err = f.parseAssignments()
	return sources, err
}

func (f *valuesFlags) parseAssignments() ([]render.Assignment, error) {
	var assignments []render.Assignment
	for i, text := range slices.Concat(f.texts, f.yamls) {
		one, err := render.ParseAssignment(text, i >= len(f.texts))
		if err != nil {
			return nil, &usageError{err}
		}
		assignments = append(assignments, one)
	}
	for _, text := range f.textFiles {
		name, file, found := strings.Cut(text, "=")
		if !found {
			return nil, &usageError{fmt.Errorf("--data-value-file %q: want BUNDLE.KEY=FILE", text)}
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--data-value-file %s: %w", name, err)
		}
		one, err := render.ParseAssignment(name+"="+string(data), false)
		if err != nil {
			return nil, &usageError{err}
		}
		assignments = append(assignments, one)
	}
	return assignments, nil
}

func (a *app) valuesCommand() *cobra.Command {
	var f clusterFlags
	var o valuesOptions
	cmd := &cobra.Command{
		Use:   "values NAME",
		Short: "show the values that a runtime was applied with",
		Long: `Values prints the values of the last apply in the form of --values. Values from Secrets, and
texts whose key looks like password, are masked unless you pass --show-secrets.`,
		Example: `  krtpkg values edge
  krtpkg values edge --revision 2 --show-secrets > site.yaml`,
		GroupID: groupCluster,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runValues(cmd.Context(), args[0], o, f)
		},
	}
	f.addConnection(cmd)
	cmd.Flags().IntVar(&o.revision, "revision", 0, "a revision of krtpkg history (default: the last one)")
	cmd.Flags().BoolVar(&o.showSecrets, "show-secrets", false, "also print secrets")
	return cmd
}

// valuesOptions are what krtpkg values prints: a revision, 0 for the last, and whether secrets are masked.
type valuesOptions struct {
	revision    int
	showSecrets bool
}

func (a *app) runValues(ctx context.Context, name string, o valuesOptions, f clusterFlags) error {
	cluster, err := f.connectCluster(a)
	if err != nil {
		return err
	}
	if _, err := cluster.History(ctx, name); err != nil {
		return err
	}
	data, err := cluster.Values(ctx, name, o.revision)
	if err != nil {
		return err
	}
	v, err := render.DecodeKept("the values of "+name, data)
	if err != nil {
		return err
	}
	node := v.All.Node()
	if node == nil {
		a.ui.Note("%s was applied without values", name)
		return nil
	}
	text, err := manifest.EncodeYAML(node)
	if err != nil {
		return err
	}
	if o.showSecrets {
		return a.ui.Data(text)
	}
	masked, err := manifest.EncodeYAML(v.All.MaskConfidential().MaskSecrets(v.Secret).Node())
	if err != nil {
		return err
	}
	if !bytes.Equal(masked, text) {
		a.ui.Note("note: secrets are masked, so this output cannot be passed to --values: --show-secrets prints them")
	}
	return a.ui.Data(masked)
}
