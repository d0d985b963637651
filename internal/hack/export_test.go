package hack

import (
	"context"
	"testing"
	"time"
)

// PrepareFrom is [PrepareControlPlane] with other archives, kept in another folder.
func PrepareFrom(ctx context.Context, index, platform, cache, way string, report func(string)) (*ControlPlane, error) {
	parsed, err := readReleaseIndex(index)
	if err != nil {
		return nil, err
	}
	return (&controlPlaneSource{index: parsed, platform: platform, cache: cache, report: report}).prepare(ctx, way)
}

// SetStallLimit changes how long downloads may bring nothing, for one test.
func SetStallLimit(t *testing.T, limit time.Duration) { setLimit(t, &stallLimit, limit) }

// SetDownloadLimit changes how long downloads may take, for one test.
func SetDownloadLimit(t *testing.T, limit time.Duration) { setLimit(t, &downloadLimit, limit) }

func setLimit(t *testing.T, what *time.Duration, limit time.Duration) {
	before := *what
	*what = limit
	t.Cleanup(func() { *what = before })
}

// LockFile locks a file for this process alone.
func LockFile(ctx context.Context, path string) (unlock func(), err error) {
	return lockFile(ctx, path)
}
