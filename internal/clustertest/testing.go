package clustertest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
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

// shared are the clusters of this test binary.
var shared struct {
	sync.Mutex
	inMain bool
	// free are those that Reserve gives out, the last one first: what runs comes before what does not.
	free []*sharedCluster
	some sync.Cond
	all  []*sharedCluster
}

// sharedCluster is a cluster that its first use starts. A failure to start is kept as well: the next test would
// only wait for it again.
type sharedCluster struct {
	once    sync.Once
	cluster *Cluster
	err     error
}

func (s *sharedCluster) start(t testing.TB) *Cluster {
	t.Helper()
	s.once.Do(func() { s.cluster, s.err = runShared(t) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	if s.cluster == nil {
		t.Fatal("the cluster of this package's tests did not start")
	}
	return s.cluster
}

// reserved is how many clusters a package has at most for tests that reserve one.
const reserved = 3

// Reserve makes the test one that runs in parallel with others, and returns a cluster of this package's tests that
// no other test uses until it ends, with what earlier tests have left there. Tests of clusters wait more than they
// compute, so that more run in parallel than there are processors, unless -parallel says how many.
//
// A test that has reserved a cluster must not have subtests that do, too: they would wait for each other. The
// package's TestMain must be
//
//	func TestMain(m *testing.M) { os.Exit(clustertest.Main(m)) }
func Reserve(t *testing.T) *Cluster {
	t.Helper()
	checkMain(t)
	t.Parallel()
	shared.Lock()
	for len(shared.free) == 0 {
		shared.some.Wait()
	}
	last := len(shared.free) - 1
	mine := shared.free[last]
	shared.free = shared.free[:last]
	shared.Unlock()
	t.Cleanup(func() {
		shared.Lock()
		defer shared.Unlock()
		shared.free = append(shared.free, mine)
		shared.some.Signal()
	})
	return mine.start(t)
}

func checkMain(t testing.TB) {
	t.Helper()
	hack.SkipIfShort(t)
	if !shared.inMain {
		t.Fatal("shared clusters need a TestMain that calls clustertest.Main")
	}
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

// Main runs the tests of a package, ends the clusters that [Reserve] and [Borrow] started, and returns the
// exit code.
func Main(m interface{ Run() int }) int {
	shared.inMain, shared.some.L = true, &shared.Mutex
	for range reserved {
		c := &sharedCluster{}
		shared.free, shared.all = append(shared.free, c), append(shared.all, c)
	}
	code := runWaiting(m)
	for _, s := range shared.all {
		if s.cluster == nil {
			continue
		}
		if err := errors.Join(s.cluster.Stop(), os.RemoveAll(s.cluster.Dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if err := lent.endAll(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

const parallelFlag = "test.parallel"

const (
	// waiting is how many tests that wait for clusters, registries and controllers keep two processors busy.
	waiting = 5
	// memoryOfTest is what a control plane and its test need, in bytes; four control planes took 7.1 GB.
	memoryOfTest = 2_500_000_000
)

// runWaiting runs the tests of a package that wait more than they compute, for clusters above all: more of them in
// parallel than there are processors where memory has room for their control planes, unless -parallel says how many.
func runWaiting(m interface{ Run() int }) int {
	flag.Parse()
	isChosen := false
	flag.Visit(func(f *flag.Flag) { isChosen = isChosen || f.Name == parallelFlag })
	if n := countParallel(readMemory(os.DirFS("/"))); !isChosen && n > runtime.GOMAXPROCS(0) {
		if err := flag.Set(parallelFlag, strconv.Itoa(n)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// countParallel returns how many tests run in parallel, two at least, with as many bytes of memory free; 0 stands for an
// unknown number.
func countParallel(free uint64) int {
	if free == 0 {
		return waiting
	}
	return int(min(waiting, max(2, free/memoryOfTest)))
}
