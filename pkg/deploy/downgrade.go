package deploy

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// checkDowngrade tells of versions older than those that are there: of the runtime, as recorded,
// and of its bundles; and of another build of the recorded version. Versions that are not semver cannot be compared.
func (s *session) checkDowngrade(context.Context, *clusterView) ([]Finding, error) {
	var found []Finding
	is := newRelease(s.runtime.Name, s.runtime.Version, s.runtime.Digest)
	for _, r := range s.record.Revisions {
		how := ""
		switch is.Compare(newRelease(s.runtime.Name, r.Version, r.Digest)) {
		case bundle.OlderVersion:
			how = fmt.Sprintf("is older than %s (%s)", r.Version, r.Digest)
		case bundle.OtherBuild:
			how = "is another build than " + r.Digest
			if r.Version != s.runtime.Version {
				how = fmt.Sprintf("is another build than %s (%s)", r.Version, r.Digest)
			}
		}
		if how != "" {
			found = append(found, Finding{Severity: Warning, Message: fmt.Sprintf("%s %s (%s) %s, revision %d on the cluster (%s)",
				s.runtime.Name, s.runtime.Version, s.runtime.Digest, how, r.Number, r.State)})
			break
		}
		if r.State == Complete {
			break // what was before it is gone
		}
	}
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
