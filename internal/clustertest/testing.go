package clustertest

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"krtpkg.dev/krtpkg/internal/hack"
)

// Start starts a cluster for one test and ends it with the test.
func Start(t testing.TB) *Cluster {
	t.Helper()
	hack.SkipIfShort(t)
	c, err := Run(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// shared is the cluster of this test binary. A failure to start is kept as well: the next
// test would only wait for it again.
var shared struct {
	sync.Mutex
	inMain  bool
	cluster *Cluster
	err     error
}

// Shared returns the one cluster of this package's tests, which the first call starts.
// What a test creates is there for the others, so each should use a namespace of its own.
//
// The package's TestMain must be
//
//	func TestMain(m *testing.M) { os.Exit(clustertest.Main(m)) }
func Shared(t testing.TB) *Cluster {
	t.Helper()
	hack.SkipIfShort(t)
	shared.Lock()
	defer shared.Unlock()
	if !shared.inMain {
		t.Fatal("clustertest.Shared needs a TestMain that calls clustertest.Main")
	}
	if shared.cluster == nil && shared.err == nil {
		shared.cluster, shared.err = runShared(t)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

func runShared(t testing.TB) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "clustertest-")
	if err != nil {
		return nil, err
	}
	c, err := Run(t.Context(), dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return c, nil
}

// Main runs the tests of a package, ends the cluster that Shared started, if any, and
// returns the exit code.
func Main(m *testing.M) int {
	shared.inMain = true
	code := m.Run()
	if shared.cluster == nil {
		return code
	}
	if err := errors.Join(shared.cluster.Stop(), os.RemoveAll(shared.cluster.Dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}
