package assemble

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-containerregistry/pkg/name"
	"oras.land/oras-go/v2/registry"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/source"
)

// newestPin is what a source could be pinned to now.
type newestPin struct {
	// pin is the newest of what the definition asks for; nil when the source has no upstream.
	pin *sourcePin
	// newest is the newest version that there is, asked for or not; "" when versions are not
	// what the source has.
	newest string
}

// findNewest asks upstream for the newest version of a source.
func findNewest(ctx context.Context, f *source.Fetcher, s *bundle.Source) (newestPin, error) {
	switch {
	case s.Chart != "":
		return lookForChart(ctx, f, s)
	case s.Git != "" && s.Ref != "":
		return lookForRef(ctx, f, s)
	case s.OCI != "":
		return lookForTag(ctx, f, s)
	case s.URL != "" || strings.HasPrefix(s.Archive, "https://"):
		sum, err := f.FetchDigest(ctx, s.URL+s.Archive)
		return newestPin{pin: &sourcePin{SHA256: sum}}, err
	}
	return newestPin{}, nil
}

func lookForChart(ctx context.Context, f *source.Fetcher, s *bundle.Source) (newestPin, error) {
	versions, err := f.ListChartVersions(ctx, s.Repository, s.Chart)
	if err != nil {
		return newestPin{}, err
	}
	constraint, err := semver.NewConstraint(s.Version)
	if err != nil {
		return newestPin{}, err
	}
	var up newestPin
	for _, v := range versions {
		parsed, err := semver.NewVersion(v.Version)
		if err != nil {
			continue
		}
		if up.newest == "" && parsed.Prerelease() == "" {
			up.newest = v.Version
		}
		if up.pin == nil && (v.Version == s.Version || constraint.Check(parsed)) {
			up.pin = &sourcePin{Version: v.Version, SHA256: v.SHA256}
		}
	}
	if up.pin == nil {
		return up, fmt.Errorf("chart %s has no version %s: the newest of %d is %s", s.Name(), s.Version, len(versions), up.newest)
	}
	return up, nil
}

func lookForRef(ctx context.Context, f *source.Fetcher, s *bundle.Source) (newestPin, error) {
	refs, err := f.ListRefs(ctx, s.Git)
	if err != nil {
		return newestPin{}, err
	}
	var up newestPin
	for _, full := range []string{s.Ref, "refs/tags/" + s.Ref, "refs/heads/" + s.Ref} {
		if commit, ok := refs[full]; ok && up.pin == nil {
			up.pin = &sourcePin{Commit: commit}
		}
	}
	if up.pin == nil {
		return up, fmt.Errorf("git %s has no tag or branch %s", s.Git, s.Ref)
	}
	var tags []string
	for full := range refs {
		if tag, is := strings.CutPrefix(full, "refs/tags/"); is {
			tags = append(tags, tag)
		}
	}
	up.newest = newestTag(s.Ref, tags)
	return up, nil
}

func lookForTag(ctx context.Context, f *source.Fetcher, s *bundle.Source) (newestPin, error) {
	tagged, _, _ := strings.Cut(s.OCI, "@")
	tag, err := name.NewTag(tagged, name.StrictValidation)
	if err != nil {
		return newestPin{}, nil // a digest alone follows nothing
	}
	if f.Registry == nil {
		return newestPin{}, fmt.Errorf("oci %s: no registry configured", s.OCI)
	}
	origin, reference, err := f.Registry.Origin(ctx, tag)
	if err != nil {
		return newestPin{}, err
	}
	desc, err := origin.Resolve(ctx, reference)
	if err != nil {
		return newestPin{}, fmt.Errorf("oci %s: %w", tagged, err)
	}
	up := newestPin{pin: &sourcePin{Digest: desc.Digest.String()}}
	if lister, ok := origin.(registry.TagLister); ok {
		err = lister.Tags(ctx, "", func(tags []string) error {
			up.newest = newestTag(cmp.Or(up.newest, tag.TagStr()), tags)
			return nil
		})
	}
	return up, err
}

// imageVersion is a tag of an image that is a version: with or without v, of two numbers or more, and with what
// tells variants apart, such as -alpine.
var imageVersion = lazyregexp.New(`^(v?)([0-9]+(?:\.[0-9]+){1,2})(-.*)?$`)

// findNewestImage returns the tag of the newest version of an image, if that is not the one in use: of the same
// variant, and of as many numbers, since a date is not a version. That a registry does not list its tags is noted.
func (o Options) findNewestImage(ctx context.Context, ref name.Reference) string {
	tag, tagged := ref.(name.Tag)
	if !tagged || !imageVersion.MatchString(tag.TagStr()) || o.Sources.Registry == nil {
		return ""
	}
	newest := tag.TagStr()
	origin, _, err := o.Sources.Registry.Origin(ctx, ref)
	if err == nil {
		if lister, ok := origin.(registry.TagLister); ok {
			err = lister.Tags(ctx, "", func(tags []string) error {
				newest = newestImageTag(newest, tags)
				return nil
			})
		}
	}
	if err != nil {
		o.Progress.Emit(progress.Event{Kind: progress.Note, Subject: images.FamiliarName(ref.Name()), Detail: "may have newer versions: " + err.Error()})
	}
	if newest == tag.TagStr() {
		return ""
	}
	return newest
}

// newestImageTag returns the greatest of the tags that are versions like the one in use.
func newestImageTag(used string, tags []string) string {
	shape := imageVersion.Get().FindStringSubmatch(used)
	best, err := semver.NewVersion(shape[2])
	if err != nil {
		return used
	}
	newest := used
	for _, tag := range tags {
		parts := imageVersion.Get().FindStringSubmatch(tag)
		if parts == nil || parts[1] != shape[1] || parts[3] != shape[3] || strings.Count(parts[2], ".") != strings.Count(shape[2], ".") {
			continue
		}
		if v, err := semver.NewVersion(parts[2]); err == nil && v.GreaterThan(best) {
			best, newest = v, tag
		}
	}
	return newest
}

// released is a tag of a repository with several products: a name before the version.
var released = lazyregexp.New(`^(?:.*[-/])?(v?[0-9]+\.[0-9]+\.[0-9]+.*)$`)

// newestTag returns the greatest version among tags that is not below the one in use; "" when that is
// not a version. Where a name comes before it, as in chart-1.2.3, those of other names are not looked at.
func newestTag(used string, tags []string) string {
	name := ""
	best, err := semver.NewVersion(used)
	if parts := released.Get().FindStringSubmatch(used); err != nil && parts != nil {
		name = strings.TrimSuffix(used, parts[1])
		best, err = semver.NewVersion(parts[1])
	}
	if err != nil {
		return ""
	}
	newest := used
	slices.Sort(tags)
	for _, tag := range tags {
		version, named := strings.CutPrefix(tag, name)
		if !named {
			continue
		}
		v, err := semver.NewVersion(version)
		if err == nil && v.Prerelease() == "" && v.GreaterThan(best) {
			best, newest = v, tag
		}
	}
	return newest
}
