package deploy

import (
	"context"
	"fmt"

	"github.com/Masterminds/semver/v3"
)

// checkDowngrade tells of versions older than those that are there: of the runtime, as recorded,
// and of its bundles; and of another build of the recorded version. Versions that are not semver cannot be compared.
func (s *session) checkDowngrade(context.Context, *clusterView) ([]Finding, error) {
	var found []Finding
	for _, r := range s.record.Revisions {
		if isOlder(s.runtime.Version, r.Version) {
			found = append(found, Finding{Severity: Warning, Message: fmt.Sprintf(
				"%s %s (%s) is older than %s (%s), revision %d on the cluster (%s)",
				s.runtime.Name, s.runtime.Version, s.runtime.Digest, r.Version, r.Digest, r.Number, r.State)})
			break
		}
		if r.Version == s.runtime.Version && r.Digest != s.runtime.Digest {
			found = append(found, Finding{Severity: Warning, Message: fmt.Sprintf(
				"%s %s (%s) is another build than %s, revision %d on the cluster (%s)",
				s.runtime.Name, s.runtime.Version, s.runtime.Digest, r.Digest, r.Number, r.State)})
			break
		}
		if r.State == Complete {
			break // what was before it is gone
		}
	}
	for _, j := range s.jobs {
		if j.was != nil && isOlder(j.unit.Version, j.was.Version) {
			found = append(found, Finding{Severity: Warning, Bundle: j.newOutcome().Bundle, Message: fmt.Sprintf(
				"%s is older than %s on the cluster", j.unit.Version, j.was.Version)})
		}
	}
	return found, nil
}

func isOlder(version, than string) bool {
	a, err1 := semver.NewVersion(version)
	b, err2 := semver.NewVersion(than)
	return err1 == nil && err2 == nil && a.LessThan(b)
}
