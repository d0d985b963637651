package transfer

import (
	"context"
	"fmt"
	"sync"

	"oras.land/oras-go/v2/content"
)

const (
	// maxUncheckedBlob is the largest blob that is sent without an existence check: sending one that exists
	// takes hardly longer than the check.
	maxUncheckedBlob = 256 << 10
	// missesBeforeSampling is how many checks in a row must find nothing before checks are sampled, and sampleInterval
	// is how many items one of these is for.
	missesBeforeSampling = 16
	sampleInterval       = 16
)

// existenceSampler decides for which items the target is asked whether they exist. Where a target lacks everything, these
// checks are a third of the requests for a blob. The first item that exists ends the sampling: a copy that resumes an
// earlier one checks each item.
type existenceSampler struct {
	mu sync.Mutex
	// misses counts checks in a row that found nothing, unchecked the items since the last check.
	misses, unchecked int
}

// shouldCheck reports whether to check the next item.
func (s *existenceSampler) shouldCheck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.misses < missesBeforeSampling {
		return true
	}
	s.unchecked++
	return s.unchecked%sampleInterval == 0
}

// addResult records whether an item exists.
func (s *existenceSampler) addResult(exists bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.misses++; exists {
		s.misses, s.unchecked = 0, 0
	}
}

// maySkipExistenceCheck reports whether the target may be sent what it has: a registry, unless nothing is to be written.
func (c *copier) maySkipExistenceCheck() bool {
	_, isRegistry := c.dst.(registryRepository)
	return isRegistry && !c.isCompared
}

// hasBlob reports whether the target is known to have a blob. It skips the check of small blobs while the target lacks
// everything, unless the target would be read to get them.
func (c *copier) hasBlob(ctx context.Context, n *planNode) (bool, error) {
	desc := n.desc
	if desc.Size <= maxUncheckedBlob && c.maySkipExistenceCheck() && !readsFallback(ctx, n) && !c.blobSampler.shouldCheck() {
		return false, nil
	}
	exists, err := c.dst.Exists(ctx, desc)
	if err != nil {
		return false, fmt.Errorf("target %s: look for %s: %w", storeName(c.dst), desc.Digest, err)
	}
	c.blobSampler.addResult(exists)
	return exists, nil
}

// readsFallback reports whether content may come from [Options.Fallback], which is the target of an import.
func readsFallback(ctx context.Context, n *planNode) bool {
	from, ok := n.from.(*fallbackFetcher)
	if !ok || from.fallback == nil {
		return false
	}
	first, ok := from.first.(content.ReadOnlyStorage)
	if !ok {
		return true
	}
	there, err := first.Exists(ctx, n.desc)
	return err != nil || !there
}
