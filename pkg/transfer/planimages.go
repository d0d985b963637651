package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// namedImage is a workload image and a name that the lock has for it.
type namedImage struct {
	desc      ocispec.Descriptor
	image     name.Digest
	reference string
	// cargo is what errors call a file or a chart; "" for an image.
	cargo string
	// chart is set of a chart.
	chart *bundle.CargoChart
}

// label returns what errors call the image.
func (n namedImage) label() string {
	if n.cargo != "" {
		return n.cargo
	}
	return images.FamiliarName(n.image.Name())
}

func (n namedImage) locked() images.Locked {
	return images.Locked{Image: n.image, Reference: n.reference}
}

// lockedImages returns the images in the locks of a root's bundles, by digest and by each name, with their files and
// charts.
func (r *planRoot) lockedImages() []namedImage {
	var all []namedImage
	for _, b := range r.opened {
		for _, locked := range b.Images {
			all = append(all, namedImage{image: locked.Image, reference: locked.Reference})
		}
		carried := b.CargoByArtifact()
		for _, locked := range b.Cargo {
			item := carried[locked.Image.DigestStr()]
			all = append(all, namedImage{image: locked.Image, reference: locked.Reference, cargo: item.String(), chart: item.Chart})
		}
	}
	slices.SortFunc(all, func(a, b namedImage) int {
		return cmp.Or(cmp.Compare(a.image.DigestStr(), b.image.DigestStr()), cmp.Compare(a.reference, b.reference), cmp.Compare(a.image.Name(), b.image.Name()))
	})
	return all
}

// countCargo returns how many artifacts the files and charts of a root's bundles are.
func (r *planRoot) countCargo() int {
	seen := map[string]bool{}
	for _, b := range r.opened {
		for _, locked := range b.Cargo {
			seen[locked.Image.DigestStr()] = true
		}
	}
	return len(seen)
}

// addImages adds images to a root.
func (p *Plan) addImages(ctx context.Context, r *planRoot, locked []namedImage) error {
	r.images = locked
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i := range r.images {
		// Several names of one digest are the same image.
		if i > 0 && r.images[i].image.DigestStr() == r.images[i-1].image.DigestStr() {
			continue
		}
		if r.images[i].cargo == "" {
			r.imageCount++
		}
		group.Go(func() error {
			found, err := p.locateImage(ctx, r.Store, r.images[i].image)
			if err == nil {
				r.images[i].desc = bareDescriptor(found.desc)
				err = p.addLocated(ctx, found)
			}
			if err == nil {
				err = p.noteLacking(ctx, found.from, r.images[i])
			}
			if errors.Is(err, ErrPlatform) {
				return fmt.Errorf("%s: %w", cmp.Or(r.images[i].cargo, "image "+r.images[i].reference), err)
			}
			if err != nil {
				return p.recordMissing(ctx, r.images[i].label(), err)
			}
			return nil
		})
	}
	err := group.Wait()
	for i := range r.images {
		if r.images[i].desc.Digest == "" && i > 0 {
			r.images[i].desc = r.images[i-1].desc
		}
	}
	return cmp.Or(err, p.checkCharts(r))
}

// checkCharts holds the manifests of charts to the definitions of their bundles.
func (p *Plan) checkCharts(r *planRoot) error {
	for _, image := range r.images {
		n := p.nodes[image.desc.Digest]
		if image.chart == nil || n == nil || n.data == nil {
			continue // or missing
		}
		m, err := oci.ParseManifest(n.data)
		if err == nil {
			err = image.chart.CheckManifest(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// recordMissing records a missing image. The search goes on, so that the error names all of them.
func (p *Plan) recordMissing(ctx context.Context, image string, reason error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.missing = append(p.missing, Missing{image, reason})
	return nil
}

func (p *Plan) incompleteError() error {
	if len(p.missing) == 0 {
		return nil
	}
	slices.SortStableFunc(p.missing, func(a, b Missing) int { return cmp.Compare(a.Image, b.Image) })
	// Several roots, such as a runtime and its bundles, have the same images.
	p.missing = slices.CompactFunc(p.missing, func(a, b Missing) bool { return a.Image == b.Image && a.Reason.Error() == b.Reason.Error() })
	return &IncompleteError{Root: p.roots[0].desc, Missing: p.missing}
}

// noteLacking notes of which wanted platforms an image has nothing.
func (p *Plan) noteLacking(ctx context.Context, from content.Fetcher, image namedImage) error {
	p.mu.Lock()
	n := p.nodes[image.desc.Digest]
	p.mu.Unlock()
	if len(p.platforms) == 0 || n == nil {
		return nil
	}
	m, err := oci.ParseManifest(n.data)
	if err != nil {
		return err
	}
	lacking, err := p.platforms.lacking(ctx, from, n.desc, m)
	if len(lacking) > 0 {
		note := "has no image for %s: nodes of these platforms cannot run it"
		if image.cargo != "" {
			note = "has no variant for %s: nodes of these platforms do not get it"
		}
		p.note(cmp.Or(image.cargo, image.reference), fmt.Sprintf(note, strings.Join(lacking, ", ")))
	}
	return err
}
