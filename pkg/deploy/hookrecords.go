package deploy

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// encodeHooks returns the hooks that run at a deletion as they are kept, and the digest of that; nothing
// where there are none.
func encodeHooks(hooks []Hook) (data []byte, sum string, err error) {
	hooks = slices.DeleteFunc(slices.Clone(hooks), func(h Hook) bool { return !h.runsAt(preDelete, postDelete) })
	if len(hooks) == 0 {
		return nil, "", nil
	}
	if data, err = yaml.Marshal(hooks); err != nil {
		return nil, "", err
	}
	if len(data) > records.HooksLimit {
		return nil, "", fmt.Errorf("store the deletion hooks: %d bytes do not fit into a Secret", len(data))
	}
	return data, digest.FromBytes(data).String(), nil
}

// keptHooks returns the hooks of a bundle that run when it is deleted.
func (c *Cluster) keptHooks(ctx context.Context, runtime, bundle string) ([]Hook, error) {
	data, object, err := c.records().KeptHooks(ctx, runtime, bundle)
	if err != nil {
		return nil, err
	}
	var hooks []Hook
	if err := yaml.Unmarshal(data, &hooks); err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	return hooks, nil
}
