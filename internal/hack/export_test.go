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
func SetStallLimit(t *testing.T, limit time.Duration) {
	before := stallLimit
	stallLimit = limit
	t.Cleanup(func() { stallLimit = before })
}
