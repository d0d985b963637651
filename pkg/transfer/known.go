package transfer

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/progress"
)

// Attached says which of what is attached comes along. Whoever may push to a repository can
// attach to what is there, and nothing signed says what belongs to it.
type Attached string

const (
	// AttachedKnown are signatures, attestations, SBOMs and reports in the forms of the field,
	// 64 MiB for each that they are attached to. It is what is meant when nothing is said.
	AttachedKnown Attached = "known"
	// AttachedVerified are the signatures and attestations of the roots that were verified.
	AttachedVerified Attached = "verified"
	// AttachedAll is everything.
	AttachedAll Attached = "all"
)

// The limits on what is attached to one root, bundle or image, with what is attached to that.
const (
	maxAttached      = 1000
	maxAttachedBytes = 64 << 20
	maxAttachedDepth = 4
)

// AttachedError says that too much is attached to something.
type AttachedError struct {
	Subject digest.Digest
	// Limit is what there is more of, such as "64 MiB".
	Limit string
}

func (e *AttachedError) Error() string {
	return fmt.Sprintf("more than %s are attached to %s", e.Limit, e.Subject)
}

// knownTypes are how the types of artifacts begin that everybody knows. An empty one is what
// cosign 2.6 says of its bundles where registries do not list referrers.
var knownTypes = []string{
	"application/vnd.dev.cosign.", "application/vnd.dev.sigstore.", "application/vnd.dsse.", "application/vnd.in-toto",
	"application/vnd.cncf.notary.", "application/vnd.krtpkg.",
	"application/spdx", "text/spdx", "application/vnd.cyclonedx", "application/vnd.syft",
	"application/sarif", "application/vnd.openvex", "application/openvex",
	"application/vnd.oci.empty.", "application/vnd.oci.image.config.",
}

func isKnownType(artifactType string) bool {
	for _, prefix := range knownTypes {
		if strings.HasPrefix(artifactType, prefix) {
			return true
		}
	}
	return false
}

// isKnown reports whether a referrer is of a kind that everybody knows, by its own words.
func (m manifest) isKnown() bool {
	artifactType := m.ArtifactType
	if artifactType == "" && m.Config != nil {
		artifactType = m.Config.MediaType
	}
	if isKnownType(artifactType) && !strings.HasPrefix(artifactType, "application/vnd.oci.") {
		return true
	}
	for _, l := range m.Layers {
		if isKnownType(l.MediaType) {
			return true
		}
	}
	return false
}

// gathering is what is attached to one root, bundle or image, with what is attached to that.
type gathering struct {
	*Plan
	subject digest.Digest
	count   int
	bytes   int64
	// left are those that stay behind, besides what is deeper than depth.
	left   int
	deeper bool
}

// wants reports whether a referrer comes along, before it is read, by what a listing says: that
// it is of another kind is believed, that it is of a known one is not.
func (g *gathering) wants(desc ocispec.Descriptor) bool {
	switch g.options.Attached {
	case AttachedAll:
		return true
	case AttachedVerified:
		return g.options.IsVerified != nil && g.options.IsVerified(desc.Digest)
	}
	return desc.ArtifactType == "" || isKnownType(desc.ArtifactType)
}

// take counts a manifest that comes along.
func (g *gathering) take(desc ocispec.Descriptor, m manifest) error {
	g.count++
	g.bytes += desc.Size
	for _, next := range m.needs(desc.MediaType) {
		g.bytes += max(next.Size, 0)
	}
	switch {
	case g.count > maxAttached:
		return &AttachedError{g.subject, fmt.Sprint(maxAttached)}
	case g.bytes > maxAttachedBytes && g.options.Attached != AttachedAll:
		return &AttachedError{g.subject, fmt.Sprintf("%d MiB", maxAttachedBytes>>20)}
	}
	return nil
}

// say tells what stays behind.
func (g *gathering) say() {
	note := func(detail string) {
		g.options.Progress.Emit(progress.Event{Kind: progress.Note, Subject: g.subject.String(), Detail: detail})
	}
	if g.left > 0 {
		note(fmt.Sprintf("has referrers that stay behind, %d in number: they are of no known kind, or not verified", g.left))
	}
	if g.deeper {
		note(fmt.Sprintf("has referrers of referrers, more than %d deep, that stay behind", maxAttachedDepth))
	}
}
