package preflight

import (
	"context"
	"fmt"

	"github.com/Masterminds/semver/v3"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

func (in *inspection) checkKubernetes(ctx context.Context) ([]Finding, error) {
	info, err := in.cluster.Client.Discovery().ServerVersionWithContext(apiserver.WithoutLogs(ctx))
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", in.cluster.Server, err)
	}
	return compareVersions(in.runtime.Bundles, info.GitVersion)
}

// compareVersions holds the ranges of bundles against the version of a cluster.
func compareVersions(bundles []Bundle, version string) ([]Finding, error) {
	parsed, err := semver.NewVersion(version)
	if err != nil {
		return []Finding{{Severity: SeverityWarning, Message: fmt.Sprintf("the cluster's version %q is invalid", version)}}, nil
	}
	// What distributions add after a dash is not a pre-release: v1.34.2-eks-1234.
	plain := semver.New(parsed.Major(), parsed.Minor(), parsed.Patch(), "", "")
	var found []Finding
	for _, b := range bundles {
		if b.Kubernetes == "" {
			continue
		}
		wanted, err := semver.NewConstraint(b.Kubernetes)
		if err != nil {
			return nil, fmt.Errorf("bundle %s: kubernetes %q: %w", b.Name, b.Kubernetes, err)
		}
		if !wanted.Check(plain) {
			found = append(found, Finding{Severity: SeverityError, Bundle: b.Name,
				Message: fmt.Sprintf("requires Kubernetes %s, but the cluster is %s", b.Kubernetes, version)})
		}
	}
	return found, nil
}
