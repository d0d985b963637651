package mirror

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// The apiVersion and the kind of a [List].
const (
	ListAPIVersion = "krtpkg.dev/v1alpha1"
	ListKind       = "MirrorList"
)

// List is a file that names repositories to copy, and the versions to copy of each.
type List struct {
	APIVersion string     `yaml:"apiVersion"`
	Kind       string     `yaml:"kind"`
	Copies     []ListItem `yaml:"copies"`
}

// ListItem copies versions from one repository to another: those with a tag that matches one of the globs in Tags, and
// those in the range Versions; all of them if neither is set.
type ListItem struct {
	From     string   `yaml:"from"`
	To       string   `yaml:"to"`
	Tags     []string `yaml:"tags"`
	Versions string   `yaml:"versions"`
	// Newest keeps only that many of them, the newest versions (default: all).
	Newest int `yaml:"newest"`
}

// ParseList parses a list; name is the file's name in errors. It calls checkRepository, which may be nil, for the From
// and the To of each item.
func ParseList(name string, data []byte, checkRepository func(repository string) error) (*List, error) {
	var list List
	if _, err := manifest.ParseStrict(name, data, &list); err != nil {
		return nil, err
	}
	if list.APIVersion != ListAPIVersion || list.Kind != ListKind {
		return nil, fmt.Errorf("%s is %s %s, want %s %s", name, list.APIVersion, list.Kind, ListAPIVersion, ListKind)
	}
	for i, item := range list.Copies {
		err := item.validateItem()
		for _, repository := range []string{item.From, item.To} {
			if err == nil && checkRepository != nil {
				err = checkRepository(repository)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: copies[%d]: %w", name, i, err)
		}
	}
	return &list, nil
}

func (m ListItem) validateItem() error {
	if m.From == "" || m.To == "" {
		return errors.New("from and to are required")
	}
	for _, glob := range m.Tags {
		if _, err := path.Match(glob, ""); err != nil {
			return fmt.Errorf("tag %q: %w", glob, err)
		}
	}
	if _, err := semver.NewConstraint(m.Versions); m.Versions != "" && err != nil {
		return fmt.Errorf("versions %q: %w", m.Versions, err)
	}
	if m.Newest < 0 {
		return fmt.Errorf("newest %d: want a positive number", m.Newest)
	}
	return nil
}

// PickTags returns the tags to copy out of all tags of From: the newest version first, then channels by name. Tags of
// signatures and of other attached manifests are never picked: they go along with what they are attached to.
func (m ListItem) PickTags(tags []string) []string {
	constraint, _ := semver.NewConstraint(m.Versions) // nil unless ParseList accepted it
	var picked []string
	for _, tag := range tags {
		if !isAttachedTag(tag) && m.matchesTag(tag, constraint) {
			picked = append(picked, tag)
		}
	}
	slices.SortStableFunc(picked, compareTags)
	if m.Newest > 0 && len(picked) > m.Newest {
		picked = picked[:m.Newest]
	}
	return picked
}

func (m ListItem) matchesTag(tag string, constraint *semver.Constraints) bool {
	if m.Versions == "" && len(m.Tags) == 0 {
		return true
	}
	if version := parseTag(tag); m.Versions != "" && constraint != nil && version != nil && constraint.Check(version) {
		return true
	}
	return slices.ContainsFunc(m.Tags, func(glob string) bool { ok, _ := path.Match(glob, tag); return ok })
}

// isAttachedTag reports whether a tag is derived from that of a version or from a digest.
func isAttachedTag(tag string) bool {
	return strings.HasPrefix(tag, "sha256-") || strings.ContainsAny(tag, "/:") || strings.HasSuffix(tag, ".argocd")
}

func compareTags(a, b string) int {
	x, y := parseTag(a), parseTag(b)
	switch {
	case x != nil && y != nil:
		return y.Compare(x)
	case x != nil:
		return -1
	case y != nil:
		return 1
	}
	return strings.Compare(a, b)
}

// parseTag returns the version that a tag claims, or nil for a channel.
func parseTag(tag string) *semver.Version {
	text, claims := bundle.TaggedVersion(tag)
	v, err := semver.NewVersion(text)
	if err != nil || !claims {
		return nil
	}
	return v
}
