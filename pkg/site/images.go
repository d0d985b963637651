package site

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// parallelRequests is how many images are asked for at once.
const parallelRequests = 8

// Images holds the locations of a root's images. The zero value locates all of them at their origin.
type Images struct {
	repository string
	all        []name.Digest
	relocated  map[string]bool // by digest
}

// LocateImages locates the images of a set: in the repository of the root, where push and copy put them (imgpkg's
// rule, so that kapp-controller derives the same references), or else at their origin. If repository is empty, because
// the root is not in a registry, it locates all images at their origin without a request.
func LocateImages(ctx context.Context, store content.Resolver, repository string, set *bundle.Set) (*Images, error) {
	l := &Images{repository: repository, all: DistinctImages(set), relocated: map[string]bool{}}
	if repository == "" {
		return l, nil
	}
	there := make([]bool, len(l.all))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelRequests)
	for i, image := range l.all {
		group.Go(func() error {
			_, err := store.Resolve(ctx, image.DigestStr())
			there[i] = err == nil
			if errors.Is(err, errdef.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, image := range l.all {
		l.relocated[image.DigestStr()] = there[i]
	}
	return l, nil
}

// AtOrigin returns the images that are not in the repository of the root; nil if the root is not in a registry.
func (l *Images) AtOrigin() []name.Digest {
	if l.repository == "" {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(l.all), func(image name.Digest) bool { return l.relocated[image.DigestStr()] })
}

// Reference returns the reference by which a cluster pulls an image.
func (l *Images) Reference(image name.Digest) string {
	if l != nil && l.relocated[image.DigestStr()] {
		return l.repository + "@" + image.DigestStr()
	}
	return image.Name()
}

// DistinctImages returns the images of all bundles, each digest once, sorted by digest.
func DistinctImages(set *bundle.Set) []name.Digest {
	var all []name.Digest
	for _, b := range set.Bundles {
		all = append(all, b.Images.DistinctImages()...)
	}
	slices.SortStableFunc(all, func(a, b name.Digest) int { return cmp.Compare(a.DigestStr(), b.DigestStr()) })
	return slices.CompactFunc(all, func(a, b name.Digest) bool { return a.DigestStr() == b.DigestStr() })
}

// ProbeOptions are for [Images.Probe].
type ProbeOptions struct {
	// Open opens a repository, HOST/PATH, with the cluster's credentials. It is required.
	Open func(ctx context.Context, repository string) (oras.ReadOnlyTarget, error)
	// RanBefore is set if the cluster has run the images before. If an image has left the repository of the root and
	// its origin does not answer, that is then an error instead of a warning.
	RanBefore bool
	// IsArchive is set if the root is in an archive, which no cluster pulls from: that an origin does not answer is then
	// an error, too.
	IsArchive bool
}

// Probe checks which images exist where the cluster would pull them, and for which platforms. An image that does not
// exist is an error. A registry that does not answer is a warning, since the nodes may be able to reach it, unless the
// image should be elsewhere: in the repository of the root, or out of an archive.
func (l *Images) Probe(ctx context.Context, set *bundle.Set, opts ProbeOptions) ([]preflight.Image, []preflight.Finding, error) {
	var (
		mu       sync.Mutex
		images   []preflight.Image
		findings []preflight.Finding
	)
	if opts.Open == nil {
		return nil, nil, errors.New("probe images: ProbeOptions.Open is nil: want a function that opens a repository")
	}
	owner := map[string]string{}
	for _, b := range set.Bundles {
		for _, image := range b.Images.DistinctImages() {
			owner[image.DigestStr()] = b.Metadata().Name
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelRequests)
	for _, image := range DistinctImages(set) {
		group.Go(func() error {
			one := preflight.Image{Bundle: owner[image.DigestStr()], Name: l.Reference(image)}
			var err error
			if one.Platforms, err = l.findPlatforms(ctx, image, opts.Open); ctx.Err() != nil {
				return ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				images = append(images, one)
			} else {
				findings = append(findings, l.explainAbsence(image, one, err, opts))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(images, func(a, b preflight.Image) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(findings, func(a, b preflight.Finding) int { return cmp.Compare(a.Message, b.Message) })
	return images, findings, nil
}

func (l *Images) explainAbsence(image name.Digest, one preflight.Image, err error, opts ProbeOptions) preflight.Finding {
	f := preflight.Finding{Severity: preflight.SeverityWarning, Check: preflight.CheckImages, Bundle: one.Bundle,
		Message: fmt.Sprintf("look for image %s: %v", one.Name, err)}
	var refused *errcode.ErrorResponse // the nodes may have the login that this user lacks
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		f.Severity, f.Message = preflight.SeverityError, fmt.Sprintf("image %s not found", one.Name)
	case l.relocated[image.DigestStr()]:
	case l.repository != "" && (opts.RanBefore || l.isMirror() && !errors.As(err, &refused)):
		f.Severity, f.Message = preflight.SeverityError, fmt.Sprintf("image %s is not in %s, and its origin does not answer: %v", one.Name, l.repository, err)
	case opts.IsArchive && !errors.As(err, &refused):
		f.Severity, f.Message = preflight.SeverityError, fmt.Sprintf("the origin of image %s does not answer, and a cluster does not pull from an archive (--registry imports it first): %v", one.Name, err)
	}
	return f
}

// isMirror reports whether the repository of the root has images of it: one that it lacks is then lost rather than
// left out.
func (l *Images) isMirror() bool {
	for _, there := range l.relocated {
		if there {
			return true
		}
	}
	return false
}

func (l *Images) findPlatforms(ctx context.Context, image name.Digest, open func(context.Context, string) (oras.ReadOnlyTarget, error)) ([]string, error) {
	repository := image.Context().Name()
	if l.relocated[image.DigestStr()] {
		repository = l.repository
	}
	store, err := open(ctx, repository)
	if err != nil {
		return nil, err
	}
	return ListPlatforms(ctx, store, image.DigestStr())
}

// ListPlatforms returns the platforms of an image: of its index, as far as their manifests are there, or of its
// config. The error wraps errdef.ErrNotFound if the store does not have the image.
func ListPlatforms(ctx context.Context, store oras.ReadOnlyTarget, digest string) ([]string, error) {
	desc, err := store.Resolve(ctx, digest)
	if err != nil {
		return nil, err
	}
	if desc.Size > oci.MaxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes, the limit is %d", desc.Digest, desc.Size, int64(oci.MaxManifest))
	}
	data, err := content.FetchAll(ctx, store, desc)
	if err != nil {
		return nil, err
	}
	manifest, err := oci.ParseManifest(data)
	if err != nil {
		return nil, err
	}
	var all []string
	add := func(p *ocispec.Platform) {
		if p == nil || p.OS == "" || p.OS == "unknown" {
			return
		}
		if text := p.OS + "/" + p.Architecture; !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	for _, m := range manifest.Manifests {
		// A registry that is cleaned by tags loses these, and keeps the index.
		_, err := store.Resolve(ctx, m.Digest.String())
		if err != nil && !errors.Is(err, errdef.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			add(m.Platform)
		}
	}
	if len(manifest.Manifests) > 0 && len(all) == 0 {
		return nil, fmt.Errorf("%s lists manifests, but none of them exists: %w", digest, errdef.ErrNotFound)
	}
	if c := manifest.Config; c != nil && c.Size <= oci.MaxManifest {
		data, err := content.FetchAll(ctx, store, *c)
		if err != nil {
			return nil, err
		}
		var p ocispec.Platform
		if json.Unmarshal(data, &p) == nil {
			add(&p)
		}
	}
	slices.Sort(all)
	return all, nil
}
