package site

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// MixedUpError reports a repository that gave a cluster the runtime of its name, and has another one now. It is
// [trust.ErrRefused].
type MixedUpError struct {
	Repository string
	// Name is the name of what the repository has now, Recorded that of what the cluster has from there.
	Name, Recorded string
}

func (e *MixedUpError) Error() string {
	return fmt.Sprintf("%s now holds %s, but the cluster's %s was applied from it", e.Repository, e.Name, e.Recorded)
}

// Is reports whether target is [trust.ErrRefused].
func (e *MixedUpError) Is(target error) bool { return target == trust.ErrRefused }

// HistoryReader reads the recorded revisions of a runtime; [*deploy.Cluster] is one.
type HistoryReader interface {
	History(ctx context.Context, runtime string) ([]deploy.Revision, error)
}

// CheckRecord compares a runtime from a repository with what the cluster has recorded. name is the name in the artifact,
// expected the one that the user expects. A repository that is named after the runtime that came from it cannot give
// another runtime, unless its name is expected. otherBuild is the recorded revision of the same version with another
// digest, nil if there is none.
//
// Errors: [*MixedUpError], those of the cluster.
func CheckRecord(ctx context.Context, cluster HistoryReader, rt deploy.Runtime, repository, name, expected string) (otherBuild *deploy.Revision, err error) {
	if base := path.Base(repository); name != base && name != expected {
		history, err := readHistory(ctx, cluster, base)
		if err != nil {
			return nil, err
		}
		for _, r := range history {
			if from, _, _ := strings.Cut(r.Reference, "@"); from == repository {
				return nil, &MixedUpError{repository, name, base}
			}
		}
	}
	history, err := readHistory(ctx, cluster, rt.Name)
	if err != nil {
		return nil, err
	}
	release := bundle.Release{Name: rt.Name, Version: rt.Version, Digest: digest.Digest(rt.Digest)}
	for i, r := range history {
		if release.Compare(bundle.Release{Name: rt.Name, Version: r.Version, Digest: digest.Digest(r.Digest)}) == bundle.OtherBuild {
			return &history[i], nil
		}
	}
	return nil, nil
}

// readHistory returns the revisions of a runtime, none for one that is not installed.
func readHistory(ctx context.Context, cluster HistoryReader, runtime string) ([]deploy.Revision, error) {
	history, err := cluster.History(ctx, runtime)
	if errors.Is(err, deploy.ErrNotInstalled) {
		return nil, nil
	}
	return history, err
}
