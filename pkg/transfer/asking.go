package transfer

import (
	"context"
	"fmt"
	"sync"

	"oras.land/oras-go/v2/content"
)

const (
	// maxUnaskedBlob is the largest blob that is sent without asking for it first: sending one that is there
	// takes hardly longer than asking.
	maxUnaskedBlob = 256 << 10
	// lackingBefore is after how many answers in a row that an item is not there the next ones are sent unasked, and
	// askedOf of how many of them one is still asked for.
	lackingBefore = 16
	askedOf       = 16
)

// lackingStreak decides which items a target is asked for before they are sent. Where a target lacks everything, asking is a
// third of the requests for a blob. The first item that is there ends the streak: a copy that goes on where an earlier one
// stopped asks for each.
type lackingStreak struct {
	mu sync.Mutex
	// lacking counts answers in a row, unasked the items since the last answer.
	lacking, unasked int
}

// shouldAsk reports whether to ask for the next item.
func (s *lackingStreak) shouldAsk() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lacking < lackingBefore {
		return true
	}
	s.unasked++
	return s.unasked%askedOf == 0
}

// addAnswer records whether an item was there.
func (s *lackingStreak) addAnswer(there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lacking++; there {
		s.lacking, s.unasked = 0, 0
	}
}

// skipsAsking reports whether the target may be sent what it has: a registry, unless nothing is to be written.
func (c *copier) skipsAsking() bool {
	_, isRegistry := c.dst.(registryRepository)
	return isRegistry && !c.isCompared
}

// hasBlob reports whether the target is known to have a blob. It does not ask for small blobs while the target lacks
// everything, unless the target would be read to get them.
func (c *copier) hasBlob(ctx context.Context, n *planNode) (bool, error) {
	desc := n.desc
	if desc.Size <= maxUnaskedBlob && c.skipsAsking() && !readsFallback(ctx, n) && !c.blobStreak.shouldAsk() {
		return false, nil
	}
	there, err := c.dst.Exists(ctx, desc)
	if err != nil {
		return false, fmt.Errorf("target %s: look for %s: %w", storeName(c.dst), desc.Digest, err)
	}
	c.blobStreak.addAnswer(there)
	return there, nil
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
