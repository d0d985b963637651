package layout

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// annotationImageName is the full name of an image, for containerd.
const annotationImageName = "io.containerd.image.name"

// describedManifest is what a description needs of a manifest.
type describedManifest struct {
	Annotations map[string]string    `json:"annotations"`
	Config      *ocispec.Descriptor  `json:"config"`
	Layers      []ocispec.Descriptor `json:"layers"`
	Manifests   []ocispec.Descriptor `json:"manifests"`
	Subject     *ocispec.Descriptor  `json:"subject"`
}

// DescribeItems returns what manifests and blobs are, for people: "layer of ghcr.io/org/app:1.0 for linux/amd64".
// entries are those of an index.json, and manifests all that are known. What belongs to several is named by one of
// them; what belongs to nothing has no description.
func DescribeItems(entries []ocispec.Descriptor, manifests map[digest.Digest][]byte) map[digest.Digest]string {
	d := itemDescriber{manifests: manifests, described: map[digest.Digest]string{}}
	for _, name := range []string{annotationImageName, ocispec.AnnotationRefName} {
		for _, entry := range entries {
			if owner := entry.Annotations[name]; owner != "" {
				d.describe(entry, "manifest", owner, 0)
			}
		}
	}
	for _, found := range slices.Sorted(maps.Keys(manifests)) {
		m := d.read(found)
		if title := m.Annotations[ocispec.AnnotationTitle]; title != "" {
			d.describe(ocispec.Descriptor{Digest: found}, "manifest", strings.TrimSpace(title+" "+m.Annotations[ocispec.AnnotationVersion]), 0)
		}
	}
	// Referrers go by what they are attached to, which may be a referrer itself.
	for range maxDescribed {
		for _, found := range slices.Sorted(maps.Keys(manifests)) {
			subject := d.read(found).Subject
			if subject == nil || d.described[found] != "" {
				continue
			}
			if _, owner, known := strings.Cut(d.described[subject.Digest], " of "); known {
				d.describe(ocispec.Descriptor{Digest: found}, "manifest", "a referrer of "+owner, 0)
			}
		}
	}
	return d.described
}

// itemDescriber collects descriptions.
type itemDescriber struct {
	manifests map[digest.Digest][]byte
	described map[digest.Digest]string
}

// maxDescribed is how deep manifests are followed; images have two levels.
const maxDescribed = 4

func (d *itemDescriber) describe(item ocispec.Descriptor, role, owner string, depth int) {
	if d.described[item.Digest] != "" || depth > maxDescribed {
		return
	}
	if p := item.Platform; p != nil && p.OS != "" && p.OS != "unknown" {
		owner += " for " + p.OS + "/" + p.Architecture
	}
	d.described[item.Digest] = fmt.Sprintf("%s of %s", role, owner)
	m := d.read(item.Digest)
	if m.Config != nil {
		d.describe(*m.Config, "config", owner, depth+1)
	}
	for _, layer := range m.Layers {
		d.describe(layer, "layer", owner, depth+1)
	}
	for _, next := range m.Manifests {
		d.describe(next, "manifest", owner, depth+1)
	}
}

// read returns a manifest; an empty one if it is not known.
func (d *itemDescriber) read(item digest.Digest) (m describedManifest) {
	if data := d.manifests[item]; data != nil {
		_ = oci.UnmarshalJSON(data, &m) // it was read before, for what it needs
	}
	return m
}
