package transfer

import (
	"cmp"
	"fmt"
	"path"
	"slices"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// chooseVersions gives the versions that are to stay their reasons.
func (p *pruner) chooseVersions() {
	byName := map[string][]*PruneVersion{}
	for _, v := range p.versions {
		slices.Sort(v.Tags)
		if reason := p.options.KeepDigests[v.Digest]; reason != "" {
			v.Reasons = append(v.Reasons, reason)
		}
		for _, tag := range v.Tags {
			if reason := p.reasonOfTag(tag); reason != "" {
				v.Reasons = append(v.Reasons, reason)
			}
		}
		if len(v.Tags) > 0 {
			byName[v.Kind+" "+v.Name] = append(byName[v.Kind+" "+v.Name], v)
		}
	}
	for _, versions := range byName {
		slices.SortFunc(versions, compareVersions)
		for _, v := range versions {
			if countNewer(versions, v) < p.options.KeepVersions {
				v.Reasons = append(v.Reasons, newestReason(p.options.KeepVersions))
			}
		}
	}
	for _, e := range p.belonging {
		p.keepOwners(e)
	}
}

// countNewer returns how many versions are newer than one, of those that have a tag of their version. Builds of one
// version count once.
func countNewer(versions []*PruneVersion, than *PruneVersion) int {
	var newer []*PruneVersion
	for _, v := range versions {
		isSame := func(known *PruneVersion) bool { return v.release().Compare(known.release()) == bundle.OtherBuild }
		if v.isTagged() && isNewer(v, than) && !slices.ContainsFunc(newer, isSame) {
			newer = append(newer, v)
		}
	}
	return len(newer)
}

// isNewer reports whether a version comes before another one; of those that semver cannot order, each that is
// sorted first.
func isNewer(v, than *PruneVersion) bool {
	switch v.release().Compare(than.release()) {
	case bundle.NewerVersion:
		return true
	case bundle.Unordered:
		return compareVersions(v, than) < 0
	}
	return false
}

func (v *PruneVersion) release() bundle.Release {
	return bundle.Release{Name: v.Name, Version: v.Version, Digest: v.Digest}
}

// isTagged reports whether a tag claims the version that the manifest says.
func (v *PruneVersion) isTagged() bool {
	m := bundle.Metadata{Name: v.Name, Version: v.Version}
	return slices.ContainsFunc(v.Tags, func(tag string) bool { return m.IsVersionTag(tag) && m.CheckTag(tag) == nil })
}

// reasonOfTag returns why what a tag names stays, or "".
func (p *pruner) reasonOfTag(tag string) string {
	pattern := matchTag(p.options.KeepTags, tag)
	followed, _ := argoCDTag(tag)
	_, isVersion := bundle.TaggedVersion(followed)
	_, isAttached := taggedSubject(tag)
	switch {
	case pattern == tag:
		return "tag " + tag
	case pattern != "":
		return fmt.Sprintf("tag %s matches %s", tag, pattern)
	case !isVersion && !isAttached && !p.options.DeleteChannels:
		return "channel " + tag
	}
	return ""
}

// keepOwners gives the versions that a tagged entry belongs to the reason that its tag gives.
func (p *pruner) keepOwners(e pruneEntry) {
	if e.tag == "" {
		return
	}
	reason := p.reasonOfTag(e.tag)
	if reason == "" {
		return
	}
	owners := map[digest.Digest]bool{}
	if subject, is := taggedSubject(e.tag); is {
		owners[subject] = true
	}
	n := p.nodes[e.desc.Digest] // not of a tag that is made of a digest
	if n != nil && n.subject != "" {
		owners[n.subject] = true
	}
	for d, v := range p.versions {
		if len(v.Reasons) == 0 && (owners[d] || n != nil && n.isSecondOf(p.nodes[d])) {
			v.Reasons = append(v.Reasons, reason)
		}
	}
	p.keptEntries = append(p.keptEntries, e)
}

func newestReason(count int) string {
	if count == 1 {
		return "newest version"
	}
	return fmt.Sprintf("newest %d versions", count)
}

// compareVersions puts the newest version first; what is not a version comes last.
func compareVersions(a, b *PruneVersion) int {
	x, _ := semver.NewVersion(a.Version)
	y, _ := semver.NewVersion(b.Version)
	order := 0
	switch {
	case x != nil && y != nil:
		order = y.Compare(x)
	case x != nil:
		order = -1
	case y != nil:
		order = 1
	}
	return cmp.Or(order, cmp.Compare(b.Version, a.Version), cmp.Compare(a.Digest, b.Digest))
}

// matchTag returns the first pattern that matches a tag, or "".
func matchTag(patterns []string, tag string) string {
	for _, pattern := range patterns {
		if matches, _ := path.Match(pattern, tag); matches {
			return pattern
		}
	}
	return ""
}
