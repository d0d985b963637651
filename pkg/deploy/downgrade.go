package deploy

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// CheckRelease holds a release against what the cluster has recorded of a runtime, by the release's name. It is one of the
// checks of [Cluster.Check], for those who have to know before they render anything. It writes nothing.
func (c *Cluster) CheckRelease(ctx context.Context, release bundle.Release) ([]Finding, error) {
	r, err := c.records().Read(ctx, release.Name)
	if err != nil {
		return nil, err
	}
	return findDowngrade(r, release), nil
}

// findDowngrade tells of a release that is older than the recorded ones, or another build of one. Versions that are not semver
// cannot be compared.
func findDowngrade(r *records.History, release bundle.Release) []Finding {
	for _, was := range r.Revisions {
		how := ""
		switch release.Compare(newRelease(release.Name, was.Version, was.Digest)) {
		case bundle.OlderVersion:
			how = fmt.Sprintf("is older than %s (%s)", was.Version, was.Digest)
		case bundle.OtherBuild:
			how = "is another build than " + was.Digest
			if was.Version != release.Version {
				how = fmt.Sprintf("is another build than %s (%s)", was.Version, was.Digest)
			}
		}
		if how != "" {
			return []Finding{{Severity: Warning, Check: CheckDowngrade, Message: fmt.Sprintf("%s %s (%s) %s, revision %d on the cluster (%s)",
				release.Name, release.Version, release.Digest, how, was.Number, was.State)}}
		}
		if was.State == Complete {
			break // what was before it is gone
		}
	}
	return nil
}

// checkDowngrade tells of versions older than those that are there: of the runtime, as recorded, and of its bundles; and of
// another build of the recorded version.
func (s *session) checkDowngrade(context.Context, *clusterView) ([]Finding, error) {
	found := findDowngrade(s.record, newRelease(s.runtime.Name, s.runtime.Version, s.runtime.Digest))
	for _, j := range s.jobs {
		if j.was != nil && newRelease("", j.unit.Version, "").Compare(newRelease("", j.was.Version, "")) == bundle.OlderVersion {
			found = append(found, Finding{Severity: Warning, Bundle: j.newOutcome().Bundle, Message: fmt.Sprintf(
				"%s is older than %s on the cluster", j.unit.Version, j.was.Version)})
		}
	}
	return found, nil
}

func newRelease(name, version, content string) bundle.Release {
	return bundle.Release{Name: name, Version: version, Digest: digest.Digest(content)}
}
