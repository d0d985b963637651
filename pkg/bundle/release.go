package bundle

import (
	"fmt"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"
)

// Release is a build of a version of a bundle or a runtime.
type Release struct {
	Name    string        `json:"name"`
	Version string        `json:"version"`
	Digest  digest.Digest `json:"digest"`
}

// String returns what errors call a release.
func (r Release) String() string {
	if r.Name == "" {
		return "something that is neither a bundle nor a runtime, " + r.Digest.String()
	}
	return fmt.Sprintf("%s %s, %s", r.Name, r.Version, r.Digest)
}

// Order is how a release stands to another one.
type Order int

const (
	// SameContent is the same digest.
	SameContent Order = iota
	// NewerVersion and OlderVersion are versions of the same name.
	NewerVersion
	OlderVersion
	// OtherBuild is the same version of the same name with another digest.
	OtherBuild
	// OtherName is a release of something else.
	OtherName
	// Unordered is a version of the same name that cannot be compared, since one of both is not semver.
	Unordered
)

// Compare returns how r stands to another release. It is the only comparison by which tags, channels, sites and clusters
// go on or back.
//
// Versions have semver's precedence (semver.org, 10 and 11), in which build metadata does not count: 1.0.0+2 is another
// build of 1.0.0+1, not a newer version. The metadata is a counter for some, and for others a commit or a machine;
// an order made of those would pass every second way back as an update.
func (r Release) Compare(to Release) Order {
	if r.Digest == to.Digest && (r.Digest != "" || r.Version == to.Version) {
		return SameContent
	}
	if r.Name != to.Name {
		return OtherName
	}
	if r.Version == to.Version {
		return OtherBuild
	}
	a, err := semver.NewVersion(r.Version)
	b, otherErr := semver.NewVersion(to.Version)
	if err != nil || otherErr != nil {
		return Unordered
	}
	switch a.Compare(b) {
	case 1:
		return NewerVersion
	case -1:
		return OlderVersion
	}
	return OtherBuild
}
