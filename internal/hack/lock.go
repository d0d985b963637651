package hack

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/rogpeppe/go-internal/lockedfile"
)

// lockFile locks a file, which it makes, for this process alone. It waits as long as ctx lets it.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	type result struct {
		unlock func()
		err    error
	}
	locked := make(chan result, 1)
	go func() {
		unlock, err := lockedfile.MutexAt(path).Lock()
		locked <- result{unlock, err}
	}()
	select {
	case r := <-locked:
		return r.unlock, r.err
	case <-ctx.Done():
		// The system's lock cannot be given up while it is waited for.
		go func() {
			if r := <-locked; r.err == nil {
				r.unlock()
			}
		}()
		return nil, fmt.Errorf("wait for %s: %w", filepath.Base(path), context.Cause(ctx))
	}
}
