package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"
	"oras.land/oras-go/v2/registry"
)

// ChartVersion is a version of a chart in a repository.
type ChartVersion struct {
	Version string
	// SHA256 is the digest of the packed chart; "" where the repository does not name it.
	SHA256 string
	// URL is the location of the packed chart; "" in a registry.
	URL string
}

// FetchChart reads a version of a Helm chart from a chart repository (https) or a registry (oci). The
// packed chart must have the digest want, unless that is empty, and the one that the
// repository names. The chart's own folder is the root of the tree.
func (f *Fetcher) FetchChart(ctx context.Context, repository, chart, version, want string) (tree *Tree, err error) {
	label := strings.TrimSuffix(redactURL(repository), "/") + "/" + chart + " " + version
	file, sum, err := f.openChart(ctx, repository, chart, version, want)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", label, err)
	}
	defer func() { err = errors.Join(err, closeTemporary(file)) }()
	if tree, err = unpackArchive(ctx, file, Pick{All: true}); err != nil {
		return nil, fmt.Errorf("chart %s: %w", label, err)
	}
	for i, f := range tree.Files {
		top, rest, _ := strings.Cut(f.Path, "/")
		if top != path.Base(chart) || rest == "" {
			return nil, fmt.Errorf("chart %s: %s is outside of the chart's folder", label, f.Path)
		}
		tree.Files[i].Path = rest
	}
	tree.SHA256 = sum
	return tree, nil
}

// openChart fetches a packed chart into a temporary file and returns its digest. Close it with [closeTemporary].
func (f *Fetcher) openChart(ctx context.Context, repository, chart, version, want string) (*os.File, string, error) {
	if strings.HasPrefix(repository, "oci://") {
		return f.pullChart(ctx, repository, chart, version, want)
	}
	return f.downloadChart(ctx, repository, chart, version, want)
}

func (f *Fetcher) downloadChart(ctx context.Context, repository, chart, version, want string) (*os.File, string, error) {
	if file, ok := f.openCached(want); ok {
		return file, want, nil
	}
	versions, err := f.ListChartVersions(ctx, repository, chart)
	if err != nil {
		return nil, "", err
	}
	i := slices.IndexFunc(versions, func(v ChartVersion) bool { return v.Version == version })
	if i < 0 {
		return nil, "", errors.New("version not found in the repository")
	}
	listed := versions[i].SHA256
	if want != "" && listed != "" && listed != want {
		return nil, "", &DigestError{Source: "the repository's entry", Got: listed, Want: want}
	}
	return f.download(ctx, versions[i].URL, cmp.Or(want, listed))
}

func (f *Fetcher) pullChart(ctx context.Context, repository, chart, version, want string) (*os.File, string, error) {
	if file, ok := f.openCached(want); ok {
		return file, want, nil
	}
	ref, err := chartReference(repository, chart, version)
	if err != nil {
		return nil, "", err
	}
	store, manifest, err := f.fetchManifest(ctx, ref, "")
	if err != nil {
		return nil, "", err
	}
	for _, layer := range manifest.Layers {
		if layer.MediaType != chartLayer {
			continue
		}
		if !isSHA256(layer.Digest) {
			return nil, "", fmt.Errorf("digest %q of the chart is not a sha256", layer.Digest)
		}
		sum := layer.Digest.Encoded()
		if want != "" && sum != want {
			return nil, "", &DigestError{Source: ref.Name(), Got: sum, Want: want}
		}
		file, _, err := downloadBlob(ctx, store, layer)
		if err != nil {
			return nil, "", err
		}
		f.storeInCache(sum, io.NewSectionReader(file, 0, maxArchive))
		return file, sum, nil
	}
	return nil, "", fmt.Errorf("%s is not a Helm chart: no layer of type %s", ref.Name(), chartLayer)
}

// chartReference returns the reference of a chart's version in a registry. Tags cannot contain +,
// so _ stands for it.
func chartReference(repository, chart, version string) (name.Tag, error) {
	at := strings.TrimSuffix(strings.TrimPrefix(repository, "oci://"), "/") + "/" + chart
	return name.NewTag(at+":"+strings.ReplaceAll(version, "+", "_"), name.StrictValidation)
}

// ListChartVersions lists the versions of a chart, the newest first.
func (f *Fetcher) ListChartVersions(ctx context.Context, repository, chart string) ([]ChartVersion, error) {
	list := f.listIndexedVersions
	if strings.HasPrefix(repository, "oci://") {
		list = f.listTaggedVersions
	}
	versions, err := list(ctx, repository, chart)
	if err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		return nil, fmt.Errorf("%s has no chart %s", redactURL(repository), chart)
	}
	return sortVersions(versions), nil
}

// sortVersions puts versions in order, the newest first. Each is parsed once: an index may list hundreds of
// thousands.
func sortVersions(versions []ChartVersion) []ChartVersion {
	type parsedVersion struct {
		ChartVersion
		parsed *semver.Version
	}
	all := make([]parsedVersion, len(versions))
	for i, v := range versions {
		all[i] = parsedVersion{v, semver.MustParse(v.Version)}
	}
	slices.SortStableFunc(all, func(a, b parsedVersion) int { return b.parsed.Compare(a.parsed) })
	for i, v := range all {
		versions[i] = v.ChartVersion
	}
	return versions
}

// maxTags is the limit on the tags in a registry.
const maxTags = 100_000

// listTaggedVersions lists the versions that a registry has tags for.
func (f *Fetcher) listTaggedVersions(ctx context.Context, repository, chart string) ([]ChartVersion, error) {
	if f.Registry == nil {
		return nil, fmt.Errorf("chart %s/%s: no registry configured", strings.TrimSuffix(repository, "/"), chart)
	}
	ref, err := chartReference(repository, chart, "0")
	if err != nil {
		return nil, err
	}
	store, _, err := f.Registry.Origin(ctx, ref)
	if err != nil {
		return nil, err
	}
	lister, ok := store.(registry.TagLister)
	if !ok {
		return nil, fmt.Errorf("%s cannot list tags", ref.Context().Name())
	}
	var versions []ChartVersion
	count := 0
	err = lister.Tags(ctx, "", func(tags []string) error {
		if count += len(tags); count > maxTags {
			return fmt.Errorf("more than %d tags", maxTags)
		}
		for _, tag := range tags {
			// A layout's tags are whole references.
			tag = strings.TrimPrefix(tag, ref.Context().Name()+":")
			version := strings.ReplaceAll(tag, "_", "+")
			// A tag such as 1 or 1.2 moves and is not a version.
			if _, err := semver.StrictNewVersion(strings.TrimPrefix(version, "v")); err != nil {
				continue
			}
			// The v may make it too long.
			if _, err := semver.NewVersion(version); err == nil {
				versions = append(versions, ChartVersion{Version: version})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tags of %s: %w", ref.Context().Name(), err)
	}
	return versions, nil
}

// listIndexedVersions lists the versions in a chart repository's index (helm.sh/docs/topics/chart_repository).
func (f *Fetcher) listIndexedVersions(ctx context.Context, repository, chart string) ([]ChartVersion, error) {
	base, err := url.Parse(strings.TrimSuffix(repository, "/") + "/")
	if err != nil {
		return nil, redactError(err)
	}
	data, err := f.fetchBytes(ctx, base.String()+"index.yaml")
	if err != nil {
		return nil, err
	}
	var index struct {
		// Decoded one by one, so that one bad entry does not affect other charts.
		Entries map[string]yaml.Node `yaml:"entries"`
	}
	if err := yaml.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("index of %s: %w", redactURL(repository), err)
	}
	var entries []struct {
		Version string   `yaml:"version"`
		Digest  string   `yaml:"digest"`
		URLs    []string `yaml:"urls"`
	}
	if node, ok := index.Entries[chart]; ok {
		if err := node.Decode(&entries); err != nil {
			return nil, fmt.Errorf("index of %s: chart %s: %w", redactURL(repository), chart, err)
		}
	}
	var versions []ChartVersion
	for _, e := range entries {
		if _, err := semver.NewVersion(e.Version); err != nil || len(e.URLs) == 0 {
			continue
		}
		at, err := base.Parse(e.URLs[0])
		if err != nil {
			return nil, fmt.Errorf("index of %s: %s %s: %w", redactURL(repository), chart, e.Version, redactError(err))
		}
		versions = append(versions, ChartVersion{e.Version, strings.TrimPrefix(e.Digest, "sha256:"), at.String()})
	}
	return versions, nil
}
