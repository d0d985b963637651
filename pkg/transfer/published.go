package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// MovedTagError reports a tag of the target that would move to something other than a newer version: to another build of
// the version that it names, to an older version, or to another name.
type MovedTagError struct {
	// Target is the repository or folder.
	Target, Tag string
	// Is is what the tag names there, New what it would name.
	Is, New bundle.Release
}

func (e *MovedTagError) Error() string {
	return fmt.Sprintf("refuse to move tag %s of %s from %s to %s: not a newer version of it", e.Tag, e.Target, e.Is, e.New)
}

// IsDowngrade reports whether the tag would go back to an older version.
func (e *MovedTagError) IsDowngrade() bool { return e.New.Compare(e.Is) == bundle.OlderVersion }

// release returns the release that a root is.
func (r *planRoot) release() bundle.Release {
	m := r.artifact.Metadata()
	return bundle.Release{Name: m.Name, Version: m.Version, Digest: r.desc.Digest}
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
		if r.artifact == nil {
			continue // an image under its upstream name: its tags move as they do upstream
		}
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
	if err == nil || errors.Is(err, errdef.ErrNotFound) {
		if r.tagsBefore == nil {
			r.tagsBefore = map[string]digest.Digest{}
		}
		r.tagsBefore[tag] = desc.Digest
	}
	isSame := err == nil && desc.Digest == r.desc.Digest
	r.tagged = r.tagged || isSame
	if isSame || errors.Is(err, errdef.ErrNotFound) {
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
	if isForward(moved.New.Compare(is)) {
		return nil, nil
	}
	return moved, nil
}

// readRelease returns the release that a target has; its name is empty if it is neither a bundle nor a runtime.
func readRelease(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) (bundle.Release, error) {
	release := bundle.Release{Digest: desc.Digest}
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

// HighestVersions returns the highest version of each name among the roots, sorted by name. Builds that have no order are
// all in it.
func (p *Plan) HighestVersions() []bundle.Release {
	var highest []bundle.Release
	for _, r := range p.roots {
		release := r.release()
		isHigher := true
		highest = slices.DeleteFunc(highest, func(known bundle.Release) bool {
			order := release.Compare(known)
			isHigher = isHigher && order != bundle.OlderVersion && order != bundle.SameContent
			return order == bundle.NewerVersion
		})
		if isHigher {
			highest = append(highest, release)
		}
	}
	slices.SortFunc(highest, func(a, b bundle.Release) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Digest, b.Digest))
	})
	return highest
}

// isForward reports whether who has one release may get another one without being asked: the same content, or a newer
// version.
func isForward(order bundle.Order) bool {
	return order == bundle.SameContent || order == bundle.NewerVersion
}

// DowngradeError reports a release that is no newer version than what a site has: an older one, another build of the same
// version, or something else.
type DowngradeError struct {
	// Site is where that is known from: the cluster, a tag, or an inventory.
	Site    string
	Is, New bundle.Release
}

func (e *DowngradeError) Error() string {
	how, note := "is not a newer version than", ""
	switch e.New.Compare(e.Is) {
	case bundle.OlderVersion:
		how = "is older than"
	case bundle.OtherBuild:
		how = "is another build of"
		if e.New.Version != e.Is.Version {
			note = ": build metadata makes no version newer"
		}
	case bundle.OtherName:
		how = "has another name than"
	}
	return fmt.Sprintf("%s %s %s, which %s has%s", e.New, how, e.Is, e.Site, note)
}

// CheckRelease returns a [*DowngradeError] unless a release is what a site has, or a newer version of it.
func CheckRelease(site string, is, next bundle.Release) error {
	if isForward(next.Compare(is)) {
		return nil
	}
	return &DowngradeError{Site: site, Is: is, New: next}
}

// CheckDowngrade returns a [*DowngradeError] if a root of the plan is an older version than the one that a site has, or
// another build of it. What the site has several builds of may be each of them.
func (p *Plan) CheckDowngrade(site string, has []bundle.Release) error {
	for _, r := range p.roots {
		release := r.release()
		if slices.ContainsFunc(has, func(is bundle.Release) bool { return release.Compare(is) == bundle.SameContent }) {
			continue
		}
		for _, is := range has {
			if is.Name != release.Name {
				continue
			}
			if err := CheckRelease(site, is, release); err != nil {
				return err
			}
		}
	}
	return nil
}
