package site

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// recordedRuntimes are the revisions of runtimes, by name.
type recordedRuntimes map[string][]deploy.Revision

func (r recordedRuntimes) History(_ context.Context, runtime string) ([]deploy.Revision, error) {
	if history := r[runtime]; len(history) > 0 {
		return history, nil
	}
	return nil, fmt.Errorf("%s: %w", runtime, deploy.ErrNotInstalled)
}

func TestCheckRecord(t *testing.T) {
	revision := func(number int, version, digest, from string) deploy.Revision {
		return deploy.Revision{Number: number, Version: version, Digest: digest, Origin: deploy.Origin{Reference: from + "@" + digest}}
	}
	const repository = "registry.example/krt/edge"
	cluster := recordedRuntimes{
		"edge": {revision(2, "1.1.0", "sha256:b", repository), revision(1, "1.0.0", "sha256:a", repository)},
		"core": {revision(1, "1.0.0", "sha256:c", "registry.example/other/core")},
	}
	for name, row := range map[string]struct {
		runtime, version, digest, from, expected string
		other                                    int
		mixedUp                                  bool
	}{
		"the next version":                  {runtime: "edge", version: "1.2.0", digest: "sha256:d", from: repository},
		"the same again":                    {runtime: "edge", version: "1.0.0", digest: "sha256:a", from: repository},
		"another build":                     {runtime: "edge", version: "1.0.0", digest: "sha256:e", from: repository, other: 1},
		"another runtime":                   {runtime: "core", version: "1.1.0", digest: "sha256:f", from: repository, mixedUp: true},
		"another runtime, expected":         {runtime: "core", version: "1.1.0", digest: "sha256:f", from: repository, expected: "core"},
		"another repository of that name":   {runtime: "core", version: "1.1.0", digest: "sha256:f", from: "mirror.example/krt/edge"},
		"a repository of another name":      {runtime: "edge", version: "1.2.0", digest: "sha256:d", from: "registry.example/krt/runtime"},
		"a runtime that is not on the site": {runtime: "new", version: "1.0.0", digest: "sha256:d", from: "registry.example/krt/new"},
	} {
		t.Run(name, func(t *testing.T) {
			rt := deploy.Runtime{Name: row.runtime, Version: row.version, Digest: row.digest}
			other, err := CheckRecord(t.Context(), cluster, rt, row.from, row.runtime, row.expected)
			var mixedUp *MixedUpError
			if errors.As(err, &mixedUp) != row.mixedUp || errors.Is(err, trust.ErrRefused) != row.mixedUp || err != nil && !row.mixedUp {
				t.Errorf("error %v", err)
			}
			if number := 0; other != nil || row.other != 0 {
				if other != nil {
					number = other.Number
				}
				if number != row.other {
					t.Errorf("other build: revision %d, want %d", number, row.other)
				}
			}
		})
	}
}
