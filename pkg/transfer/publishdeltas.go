package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// annotationDeltasFrom names the roots of the base in a published manifest of deltas.
const annotationDeltasFrom = "dev.krtpkg.deltas.from"

// PublishOptions are the parameters of [Deltas.Publish].
type PublishOptions struct {
	// Concurrency is how many deltas are copied at once; 4 when zero.
	Concurrency int
	// Progress receives events; nil drops them.
	Progress progress.Func
}

// Publish attaches the deltas to a root that a target has, for [Copy] from there to targets that have the base.
// It returns their manifest: the same deltas give the same one. Without deltas nothing is published, and the
// descriptor is empty.
func (d *Deltas) Publish(ctx context.Context, root ocispec.Descriptor, dst oras.GraphTarget, o PublishOptions) (ocispec.Descriptor, error) {
	if len(d.list) == 0 {
		return ocispec.Descriptor{}, nil
	}
	there, err := dst.Exists(ctx, root)
	if err == nil && !there {
		err = fmt.Errorf("%s: %w", root.Digest, errdef.ErrNotFound)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("publish deltas at %s: %w", storeName(dst), err)
	}
	manifest, err := d.encodeManifest(root)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	options := Options{Concurrency: o.Concurrency, Progress: o.Progress, WholeLayers: true}
	options.setDefaults()
	p := &Plan{options: options, nodes: map[digest.Digest]*planNode{}}
	var blobs []topManifest
	add := func(desc ocispec.Descriptor) {
		p.nodes[desc.Digest] = &planNode{desc: desc, from: d.WithDeltas(nil)}
		blobs = append(blobs, topManifest{desc: desc})
	}
	for _, l := range d.list {
		add(bareDescriptor(l.Blob))
	}
	add(bareDescriptor(ocispec.DescriptorEmptyJSON))
	options.Progress.Emit(progress.Event{Kind: progress.Planned, Items: len(p.nodes), Bytes: p.Size()})
	c := newCopier(p, dst)
	if err := c.forEach(ctx, blobs, c.copyBlob); err != nil {
		return ocispec.Descriptor{}, err
	}
	n := &planNode{desc: content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, manifest), data: manifest}
	err = sign.GatherReferrers(ctx, dst, func(ctx context.Context) error { return c.pushManifest(ctx, n) })
	if err != nil && isRefusal(err) {
		err = fmt.Errorf("%w (it may accept no referrers: krtpkg doctor %s shows that)", err, storeName(dst))
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("publish deltas at %s: %w", storeName(dst), err)
	}
	return n.desc, nil
}

// encodeManifest returns the manifest of the deltas as a referrer of a root.
func (d *Deltas) encodeManifest(root ocispec.Descriptor) ([]byte, error) {
	subject, from := bareDescriptor(root), make([]string, len(d.from))
	for i, base := range d.from {
		from[i] = base.String()
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: bundle.TypeDeltas, Config: ocispec.DescriptorEmptyJSON, Subject: &subject,
		Annotations: map[string]string{annotationDeltasFrom: strings.Join(from, " ")},
	}
	m.Config.Data = nil
	for _, l := range d.list {
		m.Layers = append(m.Layers, l.Describe())
	}
	data, err := json.Marshal(m)
	if err == nil && len(data) > oci.MaxManifest {
		err = fmt.Errorf("%d deltas: their manifest has %d bytes, the limit is %d", len(d.list), len(data), oci.MaxManifest)
	}
	return data, err
}
