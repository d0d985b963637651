package transfer

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// Attached selects which attached artifacts are copied. Anyone who can push to a repository can
// attach artifacts, and nothing signed says which belong to a manifest.
type Attached string

const (
	// AttachedKnown are signatures, attestations, SBOMs and reports of known types, up to 64 MiB for
	// each subject. It is the default.
	AttachedKnown Attached = "known"
	// AttachedVerified are the signatures and attestations of the roots that were verified.
	AttachedVerified Attached = "verified"
	// AttachedAll is everything.
	AttachedAll Attached = "all"
)

// Limits on the artifacts attached to one root, bundle or image, directly or indirectly.
const (
	maxAttached      = 1000
	maxAttachedBytes = 64 << 20
	maxAttachedDepth = 4
)

// AttachedError reports that a manifest has too many attached artifacts.
type AttachedError struct {
	Subject digest.Digest
	// Limit is the limit in words, such as "64 MiB".
	Limit string
}

func (e *AttachedError) Error() string {
	return fmt.Sprintf("more than %s are attached to %s", e.Limit, e.Subject)
}

// knownTypes are prefixes of well-known artifact types. cosign 2.6 declares its bundles as
// application/vnd.oci.empty where registries do not list referrers.
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

// isKnown reports whether a referrer declares a well-known type.
func isKnown(m *oci.Manifest) bool {
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

// attachmentSearch collects what is attached to one root, bundle or image, directly or indirectly.
type attachmentSearch struct {
	*Plan
	subject digest.Digest
	count   int
	bytes   int64
	// leftBehind counts the referrers that are not copied, apart from those that are too deep.
	leftBehind int
	hasDeeper  bool
	// hasVerified is set if some of what is copied was verified.
	hasVerified bool
}

// isWanted reports whether a referrer may be copied, judged by a listing before it is read: an
// unknown type is believed, a known one is checked again once it is read.
func (g *attachmentSearch) isWanted(desc ocispec.Descriptor) bool {
	switch g.options.Attached {
	case AttachedAll:
		return true
	case AttachedVerified:
		return g.options.IsVerified != nil && g.options.IsVerified(desc.Digest)
	}
	return desc.ArtifactType == "" || isKnownType(desc.ArtifactType)
}

// isVerified reports whether a manifest was verified.
func (g *attachmentSearch) isVerified(desc ocispec.Descriptor) bool {
	return g.options.IsVerified != nil && g.options.IsVerified(desc.Digest)
}

// compareReferrers puts what was verified first, and the rest by digest.
func (g *attachmentSearch) compareReferrers(a, b ocispec.Descriptor) int {
	if x, y := g.isVerified(a), g.isVerified(b); x != y {
		if x {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.Digest, b.Digest)
}

// countIfRoom counts a manifest that is copied, and reports whether it does. Where something that comes
// along was verified, the rest may stay behind: else whoever may push could keep it from coming along.
func (g *attachmentSearch) countIfRoom(desc ocispec.Descriptor, m *oci.Manifest) (bool, error) {
	if g.isVerified(desc) {
		g.hasVerified = true
		return true, nil
	}
	err := g.countManifest(desc, m)
	if err != nil && g.hasVerified && g.options.Attached != AttachedAll {
		g.leftBehind++
		return false, nil
	}
	return err == nil, err
}

// countManifest counts a manifest, and refuses what is over the limits.
func (g *attachmentSearch) countManifest(desc ocispec.Descriptor, m *oci.Manifest) error {
	g.count++
	g.bytes += desc.Size
	for _, next := range requiredBy(desc.MediaType, m) {
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

// reportLeftBehind emits notes about what is not copied.
func (g *attachmentSearch) reportLeftBehind() {
	note := func(detail string) {
		g.options.Progress.Emit(progress.Event{Kind: progress.Note, Subject: g.subject.String(), Detail: detail})
	}
	if g.leftBehind > 0 {
		note(fmt.Sprintf("has %d referrers that are not copied: unknown types, not verified, or too many", g.leftBehind))
	}
	if g.hasDeeper {
		note(fmt.Sprintf("has nested referrers, more than %d deep, that are not copied", maxAttachedDepth))
	}
}
