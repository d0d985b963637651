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
	if len(data) > records.MaxHooksSize {
		return nil, "", fmt.Errorf("store the deletion hooks: %d bytes do not fit into a Secret", len(data))
	}
	return data, digest.FromBytes(data).String(), nil
}

// storeHooks keeps the hooks of a bundle that run when it is deleted, in place of those that are there.
func (c *Cluster) storeHooks(ctx context.Context, j job, data []byte) error {
	store, bundle := c.records(), j.newOutcome().Bundle
	if data == nil {
		return store.RemoveHooks(ctx, j.runtime.Name, bundle)
	}
	return store.StoreHooks(ctx, j.runtime.Name, bundle, data)
}

// keptHooks returns the hooks of a bundle that run when it is deleted.
func (c *Cluster) keptHooks(ctx context.Context, runtime, bundle string) ([]Hook, error) {
	data, object, err := c.records().ReadHooks(ctx, runtime, bundle)
	if err != nil {
		return nil, err
	}
	var hooks []Hook
	if err := yaml.Unmarshal(data, &hooks); err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	return hooks, nil
}
