package catalog

import (
	"fmt"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// DescribeArtifact returns what results say of a bundle or a runtime.
func DescribeArtifact(c *bundle.Content, digest digest.Digest, reference string) result.Artifact {
	m := c.Metadata()
	d := result.Artifact{Reference: reference, Kind: bundle.KindBundle, Name: m.Name, Version: m.Version, Digest: digest.String()}
	if c.Runtime != nil {
		d.Kind = bundle.KindRuntime
	}
	return d
}

// DescribeRoot returns what krtpkg inspect shows of a root with what is attached to it.
func DescribeRoot(set *bundle.Set, reference string, claims []sign.Claim) *result.Inspect {
	view := &result.Inspect{
		Artifact: DescribeArtifact(&set.Root.Content, set.Root.Descriptor.Digest, reference),
		Metadata: set.Root.Metadata(), Annotations: set.Root.Manifest.Annotations,
		Bundles: []result.Bundle{}, Signatures: []sign.Claim{}, Attestations: []sign.Claim{},
	}
	for _, b := range set.Bundles {
		view.Bundles = append(view.Bundles, describeBundle(b))
	}
	for _, c := range claims {
		if c.PredicateType != "" {
			view.Attestations = append(view.Attestations, c)
		} else {
			view.Signatures = append(view.Signatures, c)
		}
	}
	return view
}

func describeBundle(b *bundle.Artifact) result.Bundle {
	spec := b.Bundle.Spec
	view := result.Bundle{
		Artifact: DescribeArtifact(&b.Content, b.Descriptor.Digest, ""), Layer: spec.Layer, Category: spec.Category, Kubernetes: spec.Kubernetes,
		Provides: spec.Provides, Requires: spec.Requires, Sources: append([]bundle.Source{}, spec.Sources...),
		Images: []result.LockedImage{},
	}
	for _, item := range b.ListCargo() {
		view.Cargo = append(view.Cargo, DescribeCargo(item))
	}
	for _, locked := range b.Images {
		view.Images = append(view.Images, result.LockedImage{Reference: locked.Reference, Image: images.FamiliarName(locked.Image.Name()), Digest: locked.Image.DigestStr()})
	}
	return view
}

// DescribeCargo returns what results say of a file or a chart.
func DescribeCargo(item bundle.CargoItem) result.Cargo {
	c := result.Cargo{
		Bundle: item.Bundle, Kind: item.Kind, Name: item.Name, Platform: item.Platform, Mode: fmt.Sprintf("%04o", item.Mode),
		Size: item.Content.Size, SHA256: item.Content.Digest.Encoded(), Origin: item.Origin, Artifact: item.Artifact.String(),
	}
	if item.Chart != nil {
		c.Chart, c.Version = item.Chart.Chart, item.Chart.Version
	}
	return c
}

// DescribeSignatures returns what results say of signatures that were looked at.
func DescribeSignatures(found *sign.Result) *result.Signatures {
	s := &result.Signatures{
		Verified: append([]sign.Verified{}, found.Verified...), Attestations: append([]sign.Verified{}, found.Attestations...),
		Rejected: []result.RejectedSignature{}, UnexaminedCount: found.Unexamined,
	}
	for _, r := range found.Rejected {
		s.Rejected = append(s.Rejected, result.RejectedSignature{Object: r.Object, Reason: r.Err.Error()})
	}
	return s
}
