package bundle

import (
	"fmt"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// VersionTag returns the tag of a version: + is not a character of tags, and _ stands for it, as in Helm.
func VersionTag(version string) string { return strings.ReplaceAll(version, "+", "_") }

// TaggedVersion returns the version that a tag claims to lead to. A tag that is not a whole version, such as
// stable or 1.2, is a channel and claims nothing; neither does one of a manifest for Argo CD.
func TaggedVersion(tag string) (version string, ok bool) {
	version = strings.ReplaceAll(strings.TrimPrefix(tag, "v"), "_", "+")
	_, err := semver.StrictNewVersion(version)
	return version, err == nil && !strings.HasSuffix(tag, ".argocd")
}

// TagError reports a tag that claims another version than the one that it leads to. Signatures cover
// that version and not the tag, which whoever runs the registry can set on anything.
type TagError struct {
	// Tag is what claims, Name and Version are what the artifact says of itself.
	Tag, Name, Version string
}

func (e *TagError) Error() string {
	return fmt.Sprintf("tag %s names %s %s", e.Tag, e.Name, e.Version)
}

// CheckTag holds the version that a tag claims against the artifact's own. Errors: [*TagError].
func (m Metadata) CheckTag(tag string) error {
	if version, claims := TaggedVersion(tag); claims && version != m.Version {
		return &TagError{tag, m.Name, m.Version}
	}
	return nil
}
