package archive

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TypeDelta is the artifact type of a manifest of deltas, and the media type of a delta.
const TypeDelta = "application/vnd.krtpkg.delta.v1"

// What a manifest of deltas says of each.
const (
	annotationDeltaTo   = "dev.krtpkg.delta.to"
	annotationDeltaSize = "dev.krtpkg.delta.size"
	annotationDeltaFrom = "dev.krtpkg.delta.from"
)

// Delta is a layer that an archive has as its difference from layers of the base.
type Delta struct {
	// Layer is what the delta makes, Blob is the delta.
	Layer, Blob ocispec.Descriptor
	// Bases are the layers that it is made from.
	Bases []digest.Digest
}

// EncodeDeltas returns the manifest that lists deltas. In an archive it has no subject, so that it is
// nobody's referrer and is not copied to a target.
func EncodeDeltas(deltas []Delta) ([]byte, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: TypeDelta, Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{},
	}
	m.Config.Data = nil
	for _, d := range deltas {
		m.Layers = append(m.Layers, d.Describe())
	}
	return json.Marshal(m)
}

// Describe returns the descriptor by which a manifest of deltas lists the delta.
func (d Delta) Describe() ocispec.Descriptor {
	from := make([]string, len(d.Bases))
	for i, base := range d.Bases {
		from[i] = base.String()
	}
	return ocispec.Descriptor{
		MediaType: TypeDelta, Digest: d.Blob.Digest, Size: d.Blob.Size,
		Annotations: map[string]string{
			annotationDeltaTo: d.Layer.Digest.String(), annotationDeltaSize: strconv.FormatInt(d.Layer.Size, 10),
			annotationDeltaFrom: strings.Join(from, " "),
		},
	}
}

// maxDeltaBases is how many layers a delta is made from at most (docs/DELTAS.md).
const maxDeltaBases = 16

// ParseDelta reads what a manifest of deltas says of one.
func ParseDelta(blob ocispec.Descriptor) (Delta, error) {
	if err := blob.Digest.Validate(); err != nil || blob.Size < 0 {
		return Delta{}, fmt.Errorf("invalid descriptor of a delta: digest %q, size %d", blob.Digest, blob.Size)
	}
	d := Delta{
		Blob:  ocispec.Descriptor{MediaType: octets, Digest: blob.Digest, Size: blob.Size},
		Layer: ocispec.Descriptor{MediaType: octets, Digest: digest.Digest(blob.Annotations[annotationDeltaTo])},
	}
	var err error
	if d.Layer.Size, err = strconv.ParseInt(blob.Annotations[annotationDeltaSize], 10, 64); err != nil || d.Layer.Size < 0 {
		return d, fmt.Errorf("delta %s is of a layer of %q bytes", blob.Digest, blob.Annotations[annotationDeltaSize])
	}
	from := strings.Fields(blob.Annotations[annotationDeltaFrom])
	if len(from) > maxDeltaBases {
		return d, fmt.Errorf("delta %s names %d bases, at most %d", blob.Digest, len(from), maxDeltaBases)
	}
	for _, text := range from {
		d.Bases = append(d.Bases, digest.Digest(text))
	}
	for _, named := range append([]digest.Digest{d.Layer.Digest}, d.Bases...) {
		if err := named.Validate(); err != nil {
			return d, fmt.Errorf("delta %s names %q", blob.Digest, named)
		}
	}
	return d, nil
}

// addDeltas adds what a manifest of deltas lists. Its content is nothing that a target needs: what it
// makes is named by the manifests of images.
func (w namedContent) addDeltas(manifest digest.Digest, config *ocispec.Descriptor, blobs []ocispec.Descriptor) error {
	if config != nil {
		w.deltaBlobs[config.Digest] = config.Size
	}
	for _, blob := range blobs {
		d, err := ParseDelta(blob)
		if err != nil {
			return fmt.Errorf("manifest %s: %w: %w", manifest, err, ErrDamaged)
		}
		w.deltaBlobs[blob.Digest] = blob.Size
		w.deltas[d.Layer.Digest] = d
	}
	if len(w.deltaBlobs) > maxNamed {
		return fmt.Errorf("more than %d deltas: %w", maxNamed, ErrDamaged)
	}
	return nil
}

// listDeltas returns the deltas in the order of their layers.
func (w namedContent) listDeltas() []Delta {
	list := make([]Delta, 0, len(w.deltas))
	for _, d := range w.deltas {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b Delta) int { return strings.Compare(a.Layer.Digest.String(), b.Layer.Digest.String()) })
	return list
}

// featureDeltas is what an archive with deltas requires of its reader.
const featureDeltas = "deltas"

// FeatureError reports an archive that requires a later version of krtpkg.
type FeatureError struct {
	// Feature is what this version does not know.
	Feature string
}

func (e *FeatureError) Error() string {
	return fmt.Sprintf("archive requires %q, which this version does not know: update krtpkg", e.Feature)
}

// countText returns the annotation of the number of manifests. Versions that do not know what an archive
// requires read a number alone, and print the text that they cannot read.
func countText(manifests int, requires []string) string {
	text := strconv.Itoa(manifests)
	if len(requires) > 0 {
		text += ", with " + strings.Join(requires, " and ") + ": update krtpkg to read it"
	}
	return text
}

// checkFeatures returns an error if an archive requires what is not known.
func checkFeatures(annotation string) error {
	for _, feature := range strings.Fields(annotation) {
		if feature != featureDeltas {
			return &FeatureError{feature}
		}
	}
	return nil
}
