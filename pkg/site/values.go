package site

import (
	"context"
	"fmt"
	"strings"

	"krtpkg.dev/krtpkg/pkg/render"
)

// ValueSources are the places where a site's values come from. Each overrides those before it: the values on the
// cluster, the files, the assignments. Without values on the cluster and without files, [ValueSources.MergeWithCluster]
// starts from the values of the last apply.
type ValueSources struct {
	// Cluster names Secrets and ConfigMaps with values; later ones override earlier ones.
	Cluster []ClusterValues
	// Files are parsed values files; later ones override earlier ones.
	Files []*render.Values
	// Assignments are single values, which override all else; later ones override earlier ones.
	Assignments []render.Assignment
	// Reset ignores the values of the last apply.
	Reset bool
	// OnSecret, if set, is called with the texts of values that come from Secrets, before anything that follows can
	// quote them in an error.
	OnSecret func(texts []string)
}

// ClusterValues is a key of a Secret or a ConfigMap that holds values.
type ClusterValues struct {
	// Secret is set for a Secret, and false for a ConfigMap.
	Secret bool
	// Name is the name of the object in the namespace of the runtime's records.
	Name string
	// Key is the key in the object (default: values.yaml).
	Key string
}

// defaultValuesKey is the key of an object that holds values.
const defaultValuesKey = "values.yaml"

// ParseClusterValues parses secret/NAME[:KEY] or configmap/NAME[:KEY].
func ParseClusterValues(text string) (ClusterValues, error) {
	kind, name, found := strings.Cut(text, "/")
	name, key, _ := strings.Cut(name, ":")
	if !found || name == "" || kind != "secret" && kind != "configmap" {
		return ClusterValues{}, fmt.Errorf("%q: want secret/NAME[:KEY] or configmap/NAME[:KEY]", text)
	}
	return ClusterValues{Secret: kind == "secret", Name: name, Key: key}, nil
}

// String returns secret/NAME:KEY or configmap/NAME:KEY.
func (c ClusterValues) String() string { return c.kind() + "/" + c.Name + ":" + c.key() }

func (c ClusterValues) kind() string {
	if c.Secret {
		return "secret"
	}
	return "configmap"
}

func (c ClusterValues) key() string {
	if c.Key == "" {
		return defaultValuesKey
	}
	return c.Key
}

// ValuesReader reads values on a cluster; [*deploy.Cluster] implements it.
type ValuesReader interface {
	// Read returns a key of a ConfigMap or, if kind is "secret", of a Secret.
	Read(ctx context.Context, kind, name, key string) ([]byte, error)
	// Values returns the recorded values of a revision of a runtime, or of the newest if revision is 0.
	Values(ctx context.Context, runtime string, revision int) ([]byte, error)
}

// Merge merges the files and the assignments. Values for a bundle other than bundles are an error.
func (s *ValueSources) Merge(bundles []string) (*render.Values, error) {
	values, err := s.overFiles(nil).WithAssignments(s.Assignments...)
	if err != nil {
		return nil, err
	}
	return values, values.CheckBundles(bundles)
}

// MergeWithCluster merges all sources for a runtime on a cluster. Values for a bundle other than bundles are an error,
// unless they are of the last apply: the values of a bundle that has left the runtime are dropped.
func (s *ValueSources) MergeWithCluster(ctx context.Context, cluster ValuesReader, runtime string, bundles []string) (render.Kept, error) {
	var kept render.Kept
	var err error
	switch {
	case len(s.Cluster) > 0 || len(s.Files) > 0:
		if kept, err = s.readCluster(ctx, cluster); err != nil {
			return kept, err
		}
		kept.All = s.overFiles(kept.All)
	case !s.Reset:
		if kept, err = readLastValues(ctx, cluster, runtime, bundles); err != nil {
			return kept, err
		}
	}
	s.reportSecret(kept.Secret)
	if kept.All, err = kept.All.WithAssignments(s.Assignments...); err != nil {
		return kept, err
	}
	return kept, kept.All.CheckBundles(bundles)
}

func (s *ValueSources) overFiles(values *render.Values) *render.Values {
	for _, file := range s.Files {
		values = file.Override(values)
	}
	return values
}

func (s *ValueSources) reportSecret(values *render.Values) {
	if s.OnSecret != nil {
		s.OnSecret(values.ListTexts())
	}
}

func (s *ValueSources) readCluster(ctx context.Context, cluster ValuesReader) (kept render.Kept, err error) {
	for _, from := range s.Cluster {
		values, err := readClusterValues(ctx, cluster, from)
		if err != nil {
			return kept, fmt.Errorf("values from %s: %w", from, err)
		}
		kept.All = values.Override(kept.All)
		if from.Secret {
			kept.Secret = values.Override(kept.Secret)
			s.reportSecret(values)
		}
	}
	return kept, nil
}

func readClusterValues(ctx context.Context, cluster ValuesReader, from ClusterValues) (*render.Values, error) {
	data, err := cluster.Read(ctx, from.kind(), from.Name, from.key())
	if err != nil {
		return nil, err
	}
	values, err := render.ParseValues(from.String(), data)
	if err != nil && from.Secret {
		// The parser's error may quote the Secret.
		return nil, fmt.Errorf("%s is not a mapping from bundle names to their values", from.key())
	}
	return values, err
}

func readLastValues(ctx context.Context, cluster ValuesReader, runtime string, bundles []string) (kept render.Kept, err error) {
	data, err := cluster.Values(ctx, runtime, 0)
	if err != nil {
		return kept, err
	}
	if kept, err = render.DecodeKept("the values of the last apply", data); err != nil {
		return kept, err
	}
	kept.All, kept.Secret = kept.All.SelectBundles(bundles), kept.Secret.SelectBundles(bundles)
	return kept, nil
}
