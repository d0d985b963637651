package bundle

import (
	"fmt"
	"strings"

	"github.com/Masterminds/semver/v3"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
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
	return fmt.Sprintf("tag %s is not the version of %s %s", e.Tag, e.Name, e.Version)
}

// CheckTag holds the version that a tag claims against the artifact's own. A tag that people and tools read as a
// version without being one, such as V1.2.3 or release-1.2.3, claims the version that it spells. Errors: [*TagError].
func (m Metadata) CheckTag(tag string) error {
	version, claims := TaggedVersion(tag)
	if claims && version == m.Version {
		return nil
	}
	if !claims {
		spelled, spells := m.spelledVersion(tag)
		claims = spells && spelled != VersionTag(m.Version)
	}
	if claims {
		return &TagError{tag, m.Name, m.Version}
	}
	return nil
}

// IsVersionTag reports whether a tag of the artifact claims a version, which [Metadata.CheckTag] compares with its own.
// Other tags are channels, which move.
func (m Metadata) IsVersionTag(tag string) bool {
	_, claims := TaggedVersion(tag)
	if !claims {
		_, claims = m.spelledVersion(tag)
	}
	return claims
}

// spelledVersion returns what a tag that is not a version is read as by people and tools.
func (m Metadata) spelledVersion(tag string) (version string, spells bool) {
	if strings.HasSuffix(tag, ".argocd") {
		return "", false
	}
	// The name may stand in front, as in archives of releases.
	rest, named := strings.CutPrefix(tag, m.Name)
	found := versionLike.Get().FindStringSubmatch(rest)
	if found == nil || !named && strings.ContainsAny(rest[:1], "-_.") {
		return "", false
	}
	return found[1], true
}

// versionLike matches what is read as a version: three numbers, whatever follows, behind a word for it.
var versionLike = lazyregexp.New(`(?i)^[-_.]?(?:(?:version|ver|release|rel|v|r)[-_.]?)*([0-9]+\.[0-9]+\.[0-9]+.*)$`)
