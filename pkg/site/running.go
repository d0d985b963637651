package site

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// Applied is a revision of a runtime that is on a cluster, and where its images are.
type Applied struct {
	*bundle.Set
	// Repository is where it was applied from, as host/path; pods pull from there. It is empty for a folder: pods pull
	// from the images' origins then.
	Repository string
	Store      bundle.ReadStore
}

// ImageFinding is what is wrong with an image that runs.
type ImageFinding string

// The findings.
const (
	// NotLocked is an image that no lock of what is applied has: it was never mirrored or verified.
	NotLocked ImageFinding = "notLocked"
	// OtherDigest is an image that a lock has, by the same name, with another digest.
	OtherDigest ImageFinding = "otherDigest"
	// Elsewhere is an image whose name is not of a registry that something was applied from.
	Elsewhere ImageFinding = "elsewhere"
)

// RunningImage is an image, with the containers that run it for the same reason.
type RunningImage struct {
	Image  string
	Digest digest.Digest
	// Findings are empty for an image that runs as it was locked.
	Findings []ImageFinding
	// Locked is the digest that a lock has for the name.
	Locked digest.Digest
	// Runtime and Bundle are those of the lock that has it or, for one that no lock has, those of its owner.
	Runtime, Bundle string
	// Owner is what made the pods, the last of the owners; the pod itself if it has none.
	Owner string
	// Containers are those that run it.
	Containers []deploy.RunningContainer
	// Field and Entry are what to put into the definition of the bundle so that the next build locks the
	// image: searchRules or images, and an item of it in YAML. Both are empty if no lock lacks it.
	Field, Entry string
}

// CompareOptions are the parameters of [CompareImages].
type CompareOptions struct {
	// Registries are hosts, or host/path, from which pods may pull in addition to the places that something was applied
	// from.
	Registries []string
	// WithoutLocks proposes an entry for each image and finds nothing, for a cluster that nothing was applied to.
	WithoutLocks bool
	// Origins finds locked images that are not where something was applied from; nil for none.
	Origins images.Origins
	// Progress receives notes about locked images that cannot be read; nil drops them.
	Progress progress.Func
}

// CompareImages compares what containers run with the locks of what is applied. It reads the manifests of locked images
// if a node reports the digest of a platform.
func CompareImages(ctx context.Context, containers []deploy.RunningContainer, applied []Applied, o CompareOptions) ([]RunningImage, error) {
	c := newImageComparer(applied, o)
	byReason := map[string]*RunningImage{}
	for _, container := range containers {
		one, err := c.compare(ctx, container)
		if err != nil {
			return nil, err
		}
		key := strings.Join([]string{one.Image, string(one.Digest), one.Owner, one.Runtime, one.Bundle, fmt.Sprint(one.Findings)}, "\n")
		if byReason[key] == nil {
			byReason[key] = one
		}
		byReason[key].Containers = append(byReason[key].Containers, container)
	}
	all := make([]RunningImage, 0, len(byReason))
	for _, key := range slices.Sorted(maps.Keys(byReason)) {
		all = append(all, *byReason[key])
	}
	return all, nil
}

// lockedIn is an image of a lock, and whose lock it is.
type lockedIn struct {
	images.Locked
	runtime, bundle string
	repository      string
	store           bundle.ReadStore
}

// imageComparer knows all that is locked.
type imageComparer struct {
	options CompareOptions
	// repositories are those that something was applied from.
	repositories []string
	byDigest     map[digest.Digest]lockedIn
	byName       map[string]lockedIn
	// expanded is set once byPart has the manifests and configs of all locked images.
	expanded bool
	byPart   map[digest.Digest]lockedIn
}

func newImageComparer(applied []Applied, o CompareOptions) *imageComparer {
	c := &imageComparer{options: o, byDigest: map[digest.Digest]lockedIn{}, byName: map[string]lockedIn{}, byPart: map[digest.Digest]lockedIn{}}
	for _, a := range applied {
		if a.Repository != "" {
			c.repositories = append(c.repositories, a.Repository)
		}
		for _, b := range a.Bundles {
			for _, locked := range b.Images {
				in := lockedIn{locked, a.Name(), b.Metadata().Name, a.Repository, a.Store}
				c.byDigest[digest.Digest(locked.Image.DigestStr())] = in
				if ref, err := images.ParseReference(locked.Reference); err == nil {
					c.byName[ref.Name()] = in
				}
			}
		}
	}
	return c
}

func (c *imageComparer) compare(ctx context.Context, container deploy.RunningContainer) (*RunningImage, error) {
	one := &RunningImage{Image: container.Image, Digest: container.Digest, Owner: "Pod " + container.Namespace + "/" + container.Pod}
	owner := deploy.Owner{}
	for _, o := range container.Owners {
		if o.Bundle != "" || owner.Bundle == "" {
			owner = o
		}
		one.Owner = o.String()
	}
	one.Runtime, one.Bundle = owner.Runtime, owner.Bundle
	ref, err := images.ParseReference(container.Image)
	if err != nil { // no node could pull it
		one.Findings = []ImageFinding{NotLocked}
		return one, nil
	}
	pinned, isPinned := ref.(name.Digest)
	if one.Digest == "" && isPinned {
		one.Digest = digest.Digest(pinned.DigestStr())
	}
	if c.options.WithoutLocks {
		one.Field, one.Entry = proposeEntry(container, ref)
		return one, nil
	}
	locked, isLocked, err := c.findLocked(ctx, one.Digest)
	if err != nil {
		return nil, err
	}
	named, isNamed := c.byName[ref.Name()]
	if isPinned && !isNamed {
		named, isNamed = c.byDigest[digest.Digest(pinned.DigestStr())]
	}
	switch {
	case isLocked:
		one.Runtime, one.Bundle = locked.runtime, locked.bundle
	case isNamed && one.Digest == "": // not pulled yet
		one.Runtime, one.Bundle = named.runtime, named.bundle
	case isNamed:
		one.Findings = append(one.Findings, OtherDigest)
		one.Locked, one.Runtime, one.Bundle = digest.Digest(named.Image.DigestStr()), named.runtime, named.bundle
	default:
		one.Findings = append(one.Findings, NotLocked)
		one.Field, one.Entry = proposeEntry(container, ref)
	}
	staysAtOrigin := isLocked && locked.repository == "" || isNamed && named.repository == ""
	if len(c.repositories) > 0 && !staysAtOrigin && !c.isFromSite(ref) {
		one.Findings = append(one.Findings, Elsewhere)
	}
	return one, nil
}

// isFromSite reports whether a name is of a registry that something was applied from, or that is allowed.
func (c *imageComparer) isFromSite(ref name.Reference) bool {
	full := images.FamiliarName(ref.Context().Name())
	for _, repository := range c.repositories {
		if host, _, _ := strings.Cut(repository, "/"); strings.HasPrefix(full, host+"/") {
			return true
		}
	}
	return slices.ContainsFunc(c.options.Registries, func(allowed string) bool {
		return full == allowed || strings.HasPrefix(full, strings.TrimSuffix(allowed, "/")+"/")
	})
}

// findLocked finds the locked image that a digest is of: its own, that of one of its platforms, or of a config.
func (c *imageComparer) findLocked(ctx context.Context, d digest.Digest) (lockedIn, bool, error) {
	if in, is := c.byDigest[d]; is || d == "" {
		return in, is, nil
	}
	if !c.expanded {
		for _, locked := range slices.Sorted(maps.Keys(c.byDigest)) {
			in := c.byDigest[locked]
			err := c.expand(ctx, locked, in, 0)
			if errors.Is(err, errdef.ErrNotFound) && c.options.Origins != nil {
				err = c.expandAtOrigin(ctx, locked, in)
			}
			if ctx.Err() != nil {
				return lockedIn{}, false, ctx.Err()
			}
			if err != nil {
				c.options.Progress.Emit(progress.Event{Kind: progress.Note, Subject: in.Reference,
					Detail: fmt.Sprintf("cannot be read, so the digest of one of its platforms is taken for another image: %v", err)})
			}
		}
		c.expanded = true
	}
	in, is := c.byPart[d]
	return in, is, nil
}

// expandAtOrigin is expand for an image that is only at its origin.
func (c *imageComparer) expandAtOrigin(ctx context.Context, d digest.Digest, in lockedIn) error {
	store, _, err := c.options.Origins.Origin(ctx, in.Image)
	if err != nil {
		return err
	}
	in.store = store
	return c.expand(ctx, d, in, 0)
}

// maxIndexDepth is how deep indexes lie in each other.
const maxIndexDepth = 4

// expand adds the manifests and configs of a locked image.
func (c *imageComparer) expand(ctx context.Context, d digest.Digest, in lockedIn, depth int) error {
	desc, err := in.store.Resolve(ctx, d.String())
	if depth > 0 && errors.Is(err, errdef.ErrNotFound) {
		return nil // a platform that was not copied
	}
	if err != nil {
		return err
	}
	if desc.Size > oci.MaxManifest {
		return fmt.Errorf("manifest %s has %d bytes, the limit is %d", d, desc.Size, oci.MaxManifest)
	}
	data, err := content.FetchAll(ctx, in.store, desc)
	if err != nil {
		return err
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("invalid manifest %s: %w", d, err)
	}
	c.byPart[d] = in
	if m.Config != nil {
		c.byPart[m.Config.Digest] = in
	}
	for _, child := range m.Manifests {
		c.byPart[child.Digest] = in
		if depth == maxIndexDepth || !isRunnable(child) {
			continue
		}
		if err := c.expand(ctx, child.Digest, in, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// isRunnable reports whether a manifest of an index is for a platform, unlike an attestation.
func isRunnable(d ocispec.Descriptor) bool {
	return oci.IsManifest(d.MediaType) && (d.Platform == nil || d.Platform.OS != "unknown")
}

// proposeEntry returns what makes the next build lock an image. If a custom resource of a bundle names it in a field, that
// is a search rule for the field. Otherwise only the program of an operator knows it, or somebody who is not part of
// any bundle: then the image itself.
func proposeEntry(container deploy.RunningContainer, ref name.Reference) (field, entry string) {
	for _, owner := range container.Owners {
		if !owner.IsApplied || owner.Object == nil {
			continue
		}
		if field, entry := proposeRule(owner, ref); field == "searchRules" {
			return field, entry
		}
	}
	reason := fmt.Sprintf("%s runs it", container.Kind+" "+container.Name+" of pod "+container.Namespace+"/"+container.Pod)
	if last := len(container.Owners) - 1; last >= 0 {
		reason = container.Owners[last].String() + " runs it"
	}
	image, err1 := json.Marshal(images.FamiliarName(ref.Name()))
	why, err2 := json.Marshal(reason)
	if cmp.Or(err1, err2) != nil {
		return "", ""
	}
	return "images", fmt.Sprintf("{image: %s, reason: %s}", image, why)
}

// proposeRule looks for an image in a custom resource, as a build looks for it in manifests.
func proposeRule(owner deploy.Owner, ref name.Reference) (field, entry string) {
	object := maps.Clone(owner.Object)
	delete(object, "status")
	data, err := json.Marshal(object)
	if err != nil {
		return "", ""
	}
	file, err := manifest.Parse(owner.String(), data)
	if err != nil {
		return "", ""
	}
	found, err := (&images.Finder{}).Find(file)
	if err != nil {
		return "", ""
	}
	for _, f := range found {
		there, err := images.ParseReference(f.Image)
		if f.State == images.Suspect && err == nil && (there.Name() == ref.Name() || there.Context().Name() == ref.Context().Name()) {
			return f.SuggestEntry()
		}
	}
	return "", ""
}
