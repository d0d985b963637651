package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/result"
)

// mirrorList is a file that says what to copy where.
type mirrorList struct {
	APIVersion string       `yaml:"apiVersion"`
	Kind       string       `yaml:"kind"`
	Copies     []mirrorItem `yaml:"copies"`
}

// mirrorItem copies versions from one place to another: those with a tag that one of the globs
// matches, or a version in the range; all without either. Newest keeps the newest ones.
type mirrorItem struct {
	From     string   `yaml:"from"`
	To       string   `yaml:"to"`
	Tags     []string `yaml:"tags"`
	Versions string   `yaml:"versions"`
	Newest   int      `yaml:"newest"`
}

const (
	mirrorListAPIVersion = "krtpkg.dev/v1alpha1"
	mirrorListKind       = "MirrorList"
)

func readMirrorList(file string) (*mirrorList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list mirrorList
	if _, err := manifest.ParseStrict(file, data, &list); err != nil {
		return nil, err
	}
	if list.APIVersion != mirrorListAPIVersion || list.Kind != mirrorListKind {
		return nil, fmt.Errorf("%s is %s %s, want %s %s", file, list.APIVersion, list.Kind, mirrorListAPIVersion, mirrorListKind)
	}
	for i, item := range list.Copies {
		if err := item.checkItem(); err != nil {
			return nil, fmt.Errorf("%s: copies[%d]: %w", file, i, err)
		}
	}
	return &list, nil
}

func (m mirrorItem) checkItem() error {
	for _, reference := range []string{m.From, m.To} {
		if p, err := place.Parse(reference); err != nil {
			return err
		} else if p.Tag != "" || p.Digest != "" {
			return fmt.Errorf("%s: want a repository: set tags or versions instead", reference)
		}
	}
	for _, glob := range m.Tags {
		if _, err := path.Match(glob, ""); err != nil {
			return fmt.Errorf("tag %q: %w", glob, err)
		}
	}
	if _, err := semver.NewConstraint(m.Versions); m.Versions != "" && err != nil {
		return fmt.Errorf("versions %q: %w", m.Versions, err)
	}
	return nil
}

// pickTags returns the tags to copy of those that are there, the newest version first.
func (m mirrorItem) pickTags(tags []string) (picked []string) {
	constraint, err := semver.NewConstraint(m.Versions)
	for _, tag := range tags {
		if strings.HasPrefix(tag, "sha256-") || strings.ContainsAny(tag, "/:") || strings.HasSuffix(tag, ".argocd") {
			continue // no version of its own
		}
		version := versionOf(tag)
		matches := m.Versions == "" && len(m.Tags) == 0 ||
			err == nil && m.Versions != "" && version != nil && constraint.Check(version) ||
			slices.ContainsFunc(m.Tags, func(glob string) bool { ok, _ := path.Match(glob, tag); return ok })
		if matches {
			picked = append(picked, tag)
		}
	}
	slices.SortStableFunc(picked, func(a, b string) int {
		x, y := versionOf(a), versionOf(b)
		switch {
		case x != nil && y != nil:
			return y.Compare(x)
		case x != nil:
			return -1
		case y != nil:
			return 1
		}
		return strings.Compare(a, b)
	})
	if m.Newest > 0 && len(picked) > m.Newest {
		picked = picked[:m.Newest]
	}
	return picked
}

// versionOf returns the version that a tag claims, or nil for a channel. What is copied is held to it.
func versionOf(tag string) *semver.Version {
	text, claims := bundle.TaggedVersion(tag)
	v, err := semver.NewVersion(text)
	if err != nil || !claims {
		return nil
	}
	return v
}

// copyList copies what a list says, one item after the other. The result of one that fails is of those before.
func (a *app) copyList(ctx context.Context, file string, f *transferFlags) error {
	list, err := readMirrorList(file)
	if err != nil {
		return &usageError{err}
	}
	all := &result.Transfer{Roots: []result.Root{}, DryRun: f.dryRun}
	targets, failed := a.copyItems(ctx, file, list, f, all)
	if failed != nil && len(all.Roots) == 0 {
		return failed
	}
	return a.printResult(ctx, f.format, all, failed, func(w io.Writer) { writeTransfer(w, all, strings.Join(targets, ", ")) })
}

// copyItems copies the items of a list and adds up what it did. It returns where it copied to.
func (a *app) copyItems(ctx context.Context, file string, list *mirrorList, f *transferFlags, all *result.Transfer) (targets []string, err error) {
	for _, item := range list.Copies {
		from, err := a.openPlace(ctx, item.From)
		if err != nil {
			return targets, err
		}
		var tags []string
		err = from.store.Tags(ctx, "", func(page []string) error {
			tags = append(tags, page...)
			return nil
		})
		if err != nil {
			return targets, fmt.Errorf("%s: %w", item.From, err)
		}
		picked := item.pickTags(tags)
		if len(picked) == 0 {
			return targets, fmt.Errorf("%s: none of its %d tags matches %s", item.From, len(tags), file)
		}
		sources := make([]string, len(picked))
		for i, tag := range picked {
			sources[i] = from.WithTag(tag).String()
		}
		to, err := place.Parse(item.To)
		if err != nil {
			return targets, &usageError{err}
		}
		r, err := a.copyTo(ctx, "copy", sources, to, f)
		if err != nil {
			return targets, err
		}
		if !slices.Contains(targets, to.Location()) {
			targets = append(targets, to.Location())
		}
		all.Roots, all.Referrers, all.Files = append(all.Roots, r.Roots...), append(all.Referrers, r.Referrers...), append(all.Files, r.Files...)
		all.Items, all.Bytes, all.CopiedItems, all.CopiedBytes = all.Items+r.Items, all.Bytes+r.Bytes, all.CopiedItems+r.CopiedItems, all.CopiedBytes+r.CopiedBytes
		all.MountedItems, all.PresentItems, all.PresentBytes = all.MountedItems+r.MountedItems, all.PresentItems+r.PresentItems, all.PresentBytes+r.PresentBytes
	}
	return targets, nil
}
