package preflight

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// FindDowngrade tells of a release that is older than those recorded of its runtime, or another build of one. Versions
// that are not semver cannot be compared. It is the part of [CheckDowngrade] that needs no bundles.
func FindDowngrade(revisions []records.Revision, release bundle.Release) []Finding {
	for _, was := range revisions {
		how := ""
		switch release.Compare(bundle.Release{Name: release.Name, Version: was.Version, Digest: digest.Digest(was.Digest)}) {
		case bundle.OlderVersion:
			how = fmt.Sprintf("is older than %s (%s)", was.Version, was.Digest)
		case bundle.OtherBuild:
			how = "is another build than " + was.Digest
			if was.Version != release.Version {
				how = fmt.Sprintf("is another build than %s (%s)", was.Version, was.Digest)
			}
		}
		if how != "" {
			return []Finding{{Severity: SeverityWarning, Check: CheckDowngrade, Message: fmt.Sprintf("%s %s (%s) %s, revision %d on the cluster (%s)",
				release.Name, release.Version, release.Digest, how, was.Number, was.State)}}
		}
		if was.State == records.Complete {
			break // what was before it is gone
		}
	}
	return nil
}

// checkDowngrade tells of versions older than those that are there: of the runtime, as recorded, and of its bundles; and of
// another build of the recorded version.
func (in *inspection) checkDowngrade(context.Context) ([]Finding, error) {
	found := FindDowngrade(in.runtime.Revisions, in.runtime.Release)
	for _, b := range in.runtime.Bundles {
		is, was := bundle.Release{Version: b.Version}, bundle.Release{Version: b.Installed}
		if is.Compare(was) == bundle.OlderVersion {
			found = append(found, Finding{Severity: SeverityWarning, Bundle: b.Name, Message: fmt.Sprintf(
				"%s is older than %s on the cluster", b.Version, b.Installed)})
		}
	}
	return found, nil
}
