package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/render"
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

// readValues returns the values, which must be for bundles that there are.
func (f *valuesFlags) readValues(a *app, set *bundle.Set) (*render.Values, error) {
	values, err := f.readFile(nil)
	if err != nil {
		return nil, err
	}
	if values, err = f.applyAssignments(values); err != nil {
		return nil, err
	}
	a.ui.HideInErrors(values.ConfidentialTexts()...)
	return values, values.CheckBundles(bundleNames(set))
}

// readFile returns the values of the files over others.
func (f *valuesFlags) readFile(values *render.Values) (*render.Values, error) {
	for _, file := range f.files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		given, err := render.ParseValues(file, data)
		if err != nil {
			return nil, err
		}
		values = given.Override(values)
	}
	return values, nil
}

// applyAssignments returns the values with single ones over them.
func (f *valuesFlags) applyAssignments(values *render.Values) (*render.Values, error) {
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
	return values.WithAssignments(assignments...)
}

func bundleNames(set *bundle.Set) []string {
	names := make([]string, len(set.Bundles))
	for i, b := range set.Bundles {
		names[i] = b.Metadata().Name
	}
	return names
}

// siteValues returns the values for a cluster: those that are given, or, where none are, those of the
// last apply; and single ones over either. What came from Secrets is hidden from now on.
func (f *valuesFlags) siteValues(ctx context.Context, a *app, cluster *deploy.Cluster, runtime string, set *bundle.Set) (render.Kept, error) {
	var v render.Kept
	names := bundleNames(set)
	switch {
	case f.reset && len(f.from) == 0 && len(f.files) == 0:
	case len(f.from) > 0 || len(f.files) > 0:
		for _, from := range f.from {
			given, secret, err := clusterValues(ctx, cluster, from)
			if err != nil {
				return v, err
			}
			v.All = given.Override(v.All)
			if secret {
				v.Secret = given.Override(v.Secret)
				a.ui.HideTexts(given.ListTexts()...)
			}
		}
		var err error
		if v.All, err = f.readFile(v.All); err != nil {
			return v, err
		}
	default:
		kept, err := cluster.Values(ctx, runtime, 0)
		if err != nil {
			return v, err
		}
		if v, err = render.DecodeKept("the values of the last apply", kept); err != nil {
			return v, err
		}
		// A bundle that left takes its values along.
		v.All, v.Secret = v.All.SelectBundles(names), v.Secret.SelectBundles(names)
	}
	a.ui.HideTexts(v.Secret.ListTexts()...)
	all, err := f.applyAssignments(v.All)
	if err != nil {
		return v, err
	}
	v.All = all
	a.ui.HideInErrors(all.ConfidentialTexts()...)
	return v, v.All.CheckBundles(names)
}

// clusterValues reads secret/NAME[:KEY] or configmap/NAME[:KEY].
func clusterValues(ctx context.Context, cluster *deploy.Cluster, from string) (values *render.Values, secret bool, err error) {
	kind, name, found := strings.Cut(from, "/")
	name, key, _ := strings.Cut(name, ":")
	secret = kind == "secret"
	if !found || name == "" || !secret && kind != "configmap" {
		return nil, false, &usageError{fmt.Errorf("--values-from %q: want secret/NAME[:KEY] or configmap/NAME[:KEY]", from)}
	}
	if key == "" {
		key = "values.yaml"
	}
	data, err := cluster.Read(ctx, kind, name, key)
	if err != nil {
		return nil, false, fmt.Errorf("--values-from %s: %w", from, err)
	}
	values, err = render.ParseValues(from+":"+key, data)
	if secret && err != nil {
		// What is wrong with it may be part of the secret.
		err = fmt.Errorf("--values-from %s: %s is not a mapping from bundle names to their values", from, key)
	}
	return values, secret, err
}

func (a *app) valuesCommand() *cobra.Command {
	var f clusterFlags
	var revision int
	var show bool
	cmd := &cobra.Command{
		Use:   "values NAME",
		Short: "show the values that a runtime was applied with",
		Long: `Values prints the values of the last apply in the form of --values. Values from Secrets are masked
unless you pass --show-secrets.`,
		Example: `  krtpkg values edge
  krtpkg values edge --revision 2 > site.yaml`,
		GroupID: groupCluster,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runValues(cmd.Context(), args[0], revision, show, f)
		},
	}
	f.addConnection(cmd)
	cmd.Flags().IntVar(&revision, "revision", 0, "a revision of krtpkg history (default: the last one)")
	cmd.Flags().BoolVar(&show, "show-secrets", false, "also print values from Secrets")
	return cmd
}

func (a *app) runValues(ctx context.Context, name string, revision int, show bool, f clusterFlags) error {
	cluster, err := f.connectCluster(a)
	if err != nil {
		return err
	}
	if _, err := cluster.History(ctx, name); err != nil {
		return err
	}
	data, err := cluster.Values(ctx, name, revision)
	if err != nil {
		return err
	}
	v, err := render.DecodeKept("the values of "+name, data)
	if err != nil {
		return err
	}
	if !show {
		v.All = v.All.MaskSecrets(v.Secret)
	}
	node := v.All.Node()
	if node == nil {
		a.ui.Note("%s was applied without values", name)
		return nil
	}
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(node), encoder.Close()); err != nil {
		return err
	}
	return a.ui.Data(text.Bytes())
}
