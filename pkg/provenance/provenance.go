// Package provenance says how a runtime or a bundle was built, as the predicate of SLSA
// provenance v1 (slsa.dev/spec/v1.0/provenance).
//
// Call [EncodeSLSA] with an opened [bundle.Set] and the builder that answers for the build.
package provenance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// BuildType is the URI of how krtpkg build makes an artifact of a definition.
const BuildType = "https://krtpkg.dev/build/v1"

// Builder is who ran the build.
type Builder struct {
	// ID is a URI that stands for the builder and all that must be trusted with it. It is
	// what policies go by.
	ID string
	// Version is the version of krtpkg; left out when empty.
	Version string
	// Invocation names this run of the builder; left out when empty.
	Invocation string
}

// EncodeSLSA returns the predicate, without the statement around it, in JSON. The same set and builder give
// the same bytes.
//
// It holds what the artifact itself tells. The external parameters are the definition's kind,
// name and version, and the time that the artifact was given, if its manifest has one; what else
// the definition says is in the artifact, under its digest. The platforms that images were
// restricted to are not told: they show in the digests of the images alone. Nor is it told when
// the build ran: builds are reproducible, so that it makes no difference.
//
// The resolved dependencies are the sources and images of all bundles, and the bundles that a
// runtime took from a registry. A folder has a dirHash of the files that were taken of it.
func EncodeSLSA(set *bundle.Set, b Builder) ([]byte, error) {
	if u, err := url.Parse(b.ID); err != nil || !u.IsAbs() {
		return nil, fmt.Errorf("builder %q is not a URI", b.ID)
	}
	parameters, err := structpb.NewStruct(buildParameters(set.Root))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", set.Name(), err)
	}
	dependencies, err := resolveDependencies(set)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", set.Name(), err)
	}
	p := &slsa.Provenance{
		BuildDefinition: &slsa.BuildDefinition{
			BuildType: BuildType, ExternalParameters: parameters, ResolvedDependencies: dependencies,
		},
		RunDetails: &slsa.RunDetails{Builder: &slsa.Builder{Id: b.ID}},
	}
	if b.Version != "" {
		p.RunDetails.Builder.Version = map[string]string{"krtpkg": b.Version}
	}
	if b.Invocation != "" {
		p.RunDetails.Metadata = &slsa.BuildMetadata{InvocationId: b.Invocation}
	}
	return encodePredicate(p)
}

func buildParameters(root *bundle.Artifact) map[string]any {
	m := root.Metadata()
	p := map[string]any{"kind": bundle.KindBundle, "name": m.Name, "version": m.Version}
	if root.Runtime != nil {
		p["kind"] = bundle.KindRuntime
	}
	if created, ok := root.Manifest.Annotations[ocispec.AnnotationCreated]; ok {
		p["created"] = created
	}
	return p
}

func encodePredicate(p *slsa.Provenance) ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	raw, err := protojson.Marshal(p)
	if err != nil {
		return nil, err
	}
	// protojson puts in blanks that differ from one build of the program to the next.
	var compact bytes.Buffer
	err = json.Compact(&compact, raw)
	return compact.Bytes(), err
}
