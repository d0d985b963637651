package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// Release is a build of a version.
type Release struct {
	Name    string        `json:"name"`
	Version string        `json:"version"`
	Digest  digest.Digest `json:"digest"`
}

// String returns what errors call a release.
func (r Release) String() string {
	if r.Name == "" {
		return "something that is neither a bundle nor a runtime, " + r.Digest.String()
	}
	return fmt.Sprintf("%s %s, %s", r.Name, r.Version, r.Digest)
}

// IsOlder reports whether both are versions of the same name, and r is the older one.
func (r Release) IsOlder(than Release) bool {
	a, err := semver.NewVersion(r.Version)
	b, otherErr := semver.NewVersion(than.Version)
	return r.Name == than.Name && err == nil && otherErr == nil && a.LessThan(b)
}

// MovedTagError reports a tag of the target that would move to something other than a newer version: to another build of
// the version that it names, to an older version, or to another name.
type MovedTagError struct {
	// Target is the repository or folder.
	Target, Tag string
	// Is is what the tag names there, New what it would name.
	Is, New Release
}

func (e *MovedTagError) Error() string {
	return fmt.Sprintf("move tag %s of %s: it names %s; this is %s", e.Tag, e.Target, e.Is, e.New)
}

// IsDowngrade reports whether the tag would go back to an older version.
func (e *MovedTagError) IsDowngrade() bool { return e.New.IsOlder(e.Is) }

// release returns the release that a root is.
func (r *planRoot) release() Release {
	m := r.artifact.Metadata()
	return Release{m.Name, m.Version, r.desc.Digest}
}

// tagTarget is a target with tags.
type tagTarget interface {
	content.Fetcher
	content.Resolver
}

// checkTags returns the tags that the plan moves to another build of their version, to an older version or to another
// name. It returns [*MovedTagError] unless the options allow that.
func (p *Plan) checkTags(ctx context.Context, dst any) (moved []*MovedTagError, err error) {
	target, ok := dst.(tagTarget)
	if !ok {
		return nil, nil // a plan without a target
	}
	for _, r := range p.roots {
		for _, tag := range r.Tags {
			found, err := p.findMovedTag(ctx, target, r, tag)
			if err != nil {
				return nil, err
			}
			if found == nil {
				continue
			}
			if !p.options.MoveTags && !(p.options.AllowDowngrade && found.IsDowngrade()) {
				return nil, found
			}
			moved = append(moved, found)
		}
	}
	return moved, nil
}

// findMovedTag returns how a tag would move; nil if it is new, stays, or goes on to a newer version.
func (p *Plan) findMovedTag(ctx context.Context, dst tagTarget, r *planRoot, tag string) (*MovedTagError, error) {
	desc, err := dst.Resolve(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) || err == nil && desc.Digest == r.desc.Digest {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("target %s: resolve tag %s: %w", storeName(dst), tag, err)
	}
	is, err := readRelease(ctx, dst, desc)
	if err != nil && !p.options.MoveTags {
		return nil, fmt.Errorf("target %s: read tag %s: %w", storeName(dst), tag, err)
	}
	moved := &MovedTagError{Target: storeName(dst), Tag: tag, Is: is, New: r.release()}
	if is.IsOlder(moved.New) {
		return nil, nil
	}
	return moved, nil
}

// readRelease returns the release that a target has; its name is empty if it is neither a bundle nor a runtime.
func readRelease(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) (Release, error) {
	release := Release{Digest: desc.Digest}
	m, err := bundle.ReadManifest(ctx, from, desc)
	if errors.Is(err, bundle.ErrNotOurs) {
		return release, nil
	}
	if err != nil {
		return release, err
	}
	release.Name, release.Version = m.Annotations[ocispec.AnnotationTitle], m.Annotations[ocispec.AnnotationVersion]
	return release, nil
}

// HighestVersions returns the highest version of each name among the roots, sorted by name.
func (p *Plan) HighestVersions() []Release {
	highest := map[string]Release{}
	for _, r := range p.roots {
		release := r.release()
		known, there := highest[release.Name]
		if !there || known.IsOlder(release) {
			highest[release.Name] = release
		}
	}
	all := slices.Collect(maps.Values(highest))
	slices.SortFunc(all, func(a, b Release) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// DowngradeError reports a version that is older than what a site has, or another build of the same version.
type DowngradeError struct {
	// Site is where that is known from: the cluster, or an inventory.
	Site    string
	Is, New Release
}

func (e *DowngradeError) Error() string {
	if e.New.IsOlder(e.Is) {
		return fmt.Sprintf("%s is older than %s, which %s has", e.New, e.Is, e.Site)
	}
	return fmt.Sprintf("%s is another build of %s, which %s has", e.New, e.Is, e.Site)
}

// CheckDowngrade returns a [*DowngradeError] if a root of the plan is an older version than the one that a site has, or
// another build of it.
func (p *Plan) CheckDowngrade(site string, has []Release) error {
	for _, r := range p.roots {
		release := r.release()
		for _, is := range has {
			rebuilt := is.Name == release.Name && is.Version == release.Version && is.Digest != release.Digest
			if release.IsOlder(is) || rebuilt {
				return &DowngradeError{Site: site, Is: is, New: release}
			}
		}
	}
	return nil
}
