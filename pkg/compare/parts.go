package compare

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/render"
)

// ValueChange is a value that a site can set and that is not the same in both versions.
type ValueChange struct {
	Bundle string `json:"bundle"`
	// Value is its path below the bundle, KEY.KEY.
	Value  string `json:"value"`
	Change Change `json:"change"`
	// Required reports whether a site must set it now and need not before.
	Required bool `json:"required,omitempty"`
	// Old and New are absent where the version does not have the value.
	Old *ValueState `json:"old,omitempty"`
	New *ValueState `json:"new,omitempty"`
}

// ValueState is a value in one of the versions.
type ValueState struct {
	Type string `json:"type,omitempty"`
	// Default is the default as JSON; a long one is cut.
	Default string `json:"default,omitempty"`
	// Required reports whether a site must set it.
	Required bool `json:"required,omitempty"`
	// Allowed are the only values that it can have, as JSON.
	Allowed []string `json:"allowed,omitempty"`
}

// Describe returns the state in words, "none" for a value that is not there.
func (v *ValueState) Describe() string {
	if v == nil {
		return "none"
	}
	text := cmp.Or(v.Type, "any type")
	if v.Default != "" {
		text += ", default " + v.Default
	}
	if len(v.Allowed) > 0 {
		text += ", one of " + strings.Join(v.Allowed, " ")
	}
	if v.Required {
		text += ", must be set"
	}
	return text
}

// compareValues compares what a bundle takes, if both versions have it or only the new one.
func compareValues(p *bundlePair) (all []ValueChange) {
	if p.new.artifact == nil {
		return nil // who removes a bundle needs none of its values
	}
	for _, at := range slices.Sorted(maps.Keys(mergeKeys(p.old.fields, p.new.fields))) {
		v := ValueChange{Bundle: p.name, Value: at, Change: Changed, Old: stateOfValue(p.old.fields, at), New: stateOfValue(p.new.fields, at)}
		switch {
		case v.Old == nil:
			v.Change = Added
		case v.New == nil:
			v.Change = Removed
		case v.Old.Type == v.New.Type && v.Old.Default == v.New.Default && v.Old.Required == v.New.Required && slices.Equal(v.Old.Allowed, v.New.Allowed):
			continue
		}
		v.Required = v.New != nil && v.New.Required && (v.Old == nil || !v.Old.Required)
		if p.old.artifact == nil && !v.Required {
			continue // a new bundle's own, of which a site need know nothing
		}
		all = append(all, v)
	}
	return all
}

func mergeKeys(a, b map[string]render.ValueField) map[string]render.ValueField {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]render.ValueField{}
	}
	maps.Copy(all, b)
	return all
}

func stateOfValue(fields map[string]render.ValueField, at string) *ValueState {
	f, is := fields[at]
	if !is {
		return nil
	}
	return &ValueState{Type: f.Type, Default: f.Default, Required: f.Required, Allowed: f.Allowed}
}

// KubernetesChange is a bundle that runs on other versions of Kubernetes than before.
type KubernetesChange struct {
	Bundle string `json:"bundle"`
	// Old and New are the ranges; absent for any version.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Dropped are the minor versions that all of the old version runs on, and the bundle does not.
	Dropped []string `json:"dropped,omitempty"`
}

// The minor versions of Kubernetes 1 that ranges are tried with.
const (
	firstMinor = 20
	lastMinor  = 60
)

func compareKubernetes(before *bundle.Set, pairs []bundlePair) []KubernetesChange {
	all := []KubernetesChange{}
	for i := range pairs {
		p := &pairs[i]
		if p.new.artifact == nil {
			continue
		}
		change := KubernetesChange{Bundle: p.name, Old: specOf(p.old.artifact).Kubernetes, New: specOf(p.new.artifact).Kubernetes}
		if change.Old == change.New {
			continue
		}
		for minor := firstMinor; minor <= lastMinor; minor++ {
			runs := func(b *bundle.Artifact) bool { return runsOn(b.Bundle.Spec.Kubernetes, minor) }
			ran := !slices.ContainsFunc(before.Bundles, func(b *bundle.Artifact) bool { return !runs(b) })
			if ran && !runs(p.new.artifact) {
				change.Dropped = append(change.Dropped, fmt.Sprintf("1.%d", minor))
			}
		}
		all = append(all, change)
	}
	return all
}

// runsOn reports whether a range has any release of a minor version. One that cannot be read has none.
func runsOn(text string, minor int) bool {
	if text == "" {
		return true
	}
	wanted, err := semver.NewConstraint(text)
	if err != nil {
		return false
	}
	for patch := range 30 {
		if wanted.Check(semver.New(1, uint64(minor), uint64(patch), "", "")) {
			return true
		}
	}
	return false
}

// ImageChange is an image of a bundle that is not the same in both versions.
type ImageChange struct {
	Bundle string `json:"bundle"`
	// Repository is where the image comes from.
	Repository string `json:"repository"`
	Change     Change `json:"change"`
	// Old and New are absent where the version does not have the image.
	Old *ImageState `json:"old,omitempty"`
	New *ImageState `json:"new,omitempty"`
	// LostPlatforms are those of the old image that the new one is not for.
	LostPlatforms []string `json:"lostPlatforms,omitempty"`
}

// ImageState is an image in one of the versions.
type ImageState struct {
	// Reference is what the manifests call it.
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	// Platforms are those that it is for, as OS/ARCHITECTURE; absent if they are not known.
	Platforms []string `json:"platforms,omitempty"`
}

// parallelImages is how many images are looked up at once.
const parallelImages = 8

// lookUp returns the platforms of an image by its digest.
type lookUp = func(ctx context.Context, digest string) ([]string, error)

func compareImages(ctx context.Context, pairs []bundlePair, before, after lookUp) ([]ImageChange, error) {
	all := []ImageChange{}
	for i := range pairs {
		p := &pairs[i]
		if p.old.artifact != nil && p.new.artifact != nil && p.old.artifact.Descriptor.Digest == p.new.artifact.Descriptor.Digest {
			continue
		}
		all = append(all, pairImages(p.name, lockOf(p.old.artifact), lockOf(p.new.artifact))...)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelImages)
	find := func(image *ImageState, platforms lookUp) {
		if image == nil || platforms == nil {
			return
		}
		group.Go(func() (err error) {
			if image.Platforms, err = platforms(ctx, image.Digest); err != nil {
				return fmt.Errorf("platforms of image %s: %w", image.Reference, err)
			}
			return nil
		})
	}
	for _, change := range all {
		find(change.Old, before)
		find(change.New, after)
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, change := range all {
		if change.Old == nil || change.New == nil || len(change.New.Platforms) == 0 {
			continue
		}
		for _, platform := range change.Old.Platforms {
			if !slices.Contains(change.New.Platforms, platform) {
				all[i].LostPlatforms = append(all[i].LostPlatforms, platform)
			}
		}
	}
	return all, nil
}

func lockOf(b *bundle.Artifact) images.Lock {
	if b == nil {
		return nil
	}
	return b.Images
}

// pairImages compares the images of a bundle: first those with the same reference, then those of the same repository,
// which are another version each.
func pairImages(bundleName string, old, current images.Lock) (all []ImageChange) {
	was, now := slices.Clone(old), slices.Clone(current)
	for _, keyOf := range []func(images.Locked) string{func(l images.Locked) string { return l.Reference }, repositoryOf} {
		var changed []ImageChange
		was, now, changed = pairBy(keyOf, was, now)
		for _, c := range changed {
			c.Bundle = bundleName
			all = append(all, c)
		}
	}
	for _, b := range now {
		all = append(all, ImageChange{Bundle: bundleName, Repository: repositoryOf(b), Change: Added, New: stateOfImage(b)})
	}
	for _, a := range was {
		all = append(all, ImageChange{Bundle: bundleName, Repository: repositoryOf(a), Change: Removed, Old: stateOfImage(a)})
	}
	slices.SortStableFunc(all, func(a, b ImageChange) int { return cmp.Compare(a.Repository, b.Repository) })
	return all
}

// pairBy returns the images that have no counterpart with the same key, and how those that have one changed.
func pairBy(keyOf func(images.Locked) string, old, current images.Lock) (was, now images.Lock, changed []ImageChange) {
	waiting := map[string][]int{}
	for i, a := range old {
		waiting[keyOf(a)] = append(waiting[keyOf(a)], i)
	}
	paired := make([]bool, len(old))
	for _, b := range current {
		key := keyOf(b)
		if len(waiting[key]) == 0 {
			now = append(now, b)
			continue
		}
		i := waiting[key][0]
		waiting[key], paired[i] = waiting[key][1:], true
		if a := old[i]; a.Reference != b.Reference || a.Image.DigestStr() != b.Image.DigestStr() {
			changed = append(changed, ImageChange{Repository: repositoryOf(b), Change: Changed, Old: stateOfImage(a), New: stateOfImage(b)})
		}
	}
	for i, a := range old {
		if !paired[i] {
			was = append(was, a)
		}
	}
	return was, now, changed
}

func repositoryOf(l images.Locked) string {
	repository, _ := l.CalledBy()
	return images.FamiliarName(repository.Name())
}

func stateOfImage(l images.Locked) *ImageState {
	return &ImageState{Reference: l.Reference, Digest: l.Image.DigestStr()}
}
