package delta

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/bits"
	"slices"
)

// seedSize is how many bytes must be equal for a match to be looked at.
const seedSize = 8

// seedIndex finds where seeds are in old content: places by hash, in order.
type seedIndex struct {
	old    []byte
	shift  uint
	starts []uint32
	places []uint32
}

// indexContent indexes content of less than 4 GiB.
func (x *seedIndex) indexContent(old []byte) {
	step := 1 + len(old)>>26 // at most 64 Mi places
	width := min(max(bits.Len(uint(len(old)/step)), 10), 24)
	x.old, x.shift = old, uint(64-width)
	x.starts = resize(x.starts, 1<<width+2)
	clear(x.starts)
	each := func(do func(h uint32, at int)) {
		for at := 0; at+seedSize <= len(old); at += step {
			seed := binary.LittleEndian.Uint64(old[at:])
			if !isRun(seed) {
				do(x.hashSeed(seed), at)
			}
		}
	}
	// Two ahead, so that filling moves each start to its place.
	each(func(h uint32, _ int) { x.starts[h+2]++ })
	for i := 1; i < len(x.starts); i++ {
		x.starts[i] += x.starts[i-1]
	}
	x.places = resize(x.places, int64(x.starts[len(x.starts)-1]))
	each(func(h uint32, at int) {
		x.places[x.starts[h+1]] = uint32(at)
		x.starts[h+1]++
	})
}

// isRun reports whether a seed is one byte again and again, as padding is.
func isRun(seed uint64) bool { return seed == bits.RotateLeft64(seed, 8) }

func (x *seedIndex) hashSeed(seed uint64) uint32 {
	return uint32(seed * 0x9e3779b97f4a7c15 >> x.shift)
}

// maxTried is how many places are tried for one seed: those nearest to where it is expected.
const maxTried = 8

// findLongest returns the longest match of the beginning of content, of those that are tried.
func (x *seedIndex) findLongest(content []byte, expected int) (at, size int) {
	if len(content) < seedSize {
		return 0, 0
	}
	seed := binary.LittleEndian.Uint64(content)
	if isRun(seed) {
		return 0, 0
	}
	h := x.hashSeed(seed)
	places := x.places[x.starts[h]:x.starts[h+1]]
	if len(places) == 0 {
		return 0, 0
	}
	above, _ := slices.BinarySearch(places, uint32(max(expected, 0)))
	below := above - 1
	for range maxTried {
		var place int
		switch {
		case above < len(places) && (below < 0 || int(places[above])-expected <= expected-int(places[below])):
			place = int(places[above])
			above++
		case below >= 0:
			place = int(places[below])
			below--
		default:
			return at, size
		}
		if size > 0 && (place+size >= len(x.old) || size >= len(content) || x.old[place+size] != content[size]) {
			continue // not longer
		}
		if n := matchLength(x.old[place:], content); n >= seedSize && n > size {
			at, size = place, n
		}
	}
	return at, size
}

// matchLength returns how many bytes are equal from the beginning.
func matchLength(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// matcher adds the operations that make content of old content. It works as bsdiff does (Colin Percival,
// Naive differences of executable code, 2003): exact matches are extended in both directions over what is
// similar, so that a program whose addresses have changed becomes additions that are zero but for the
// addresses.
type matcher struct {
	list         *opList
	index        *seedIndex
	old, content []byte
	// base is where the old content is in the bases.
	base int64
	// last is up to where operations are added; lastOld is where that is in the old content, and
	// offset how far that is ahead.
	last, lastOld, offset int
}

// isAligned reports whether a byte is equal where the last match goes on.
func (m *matcher) isAligned(at int) bool {
	at, old := at, at+m.offset
	return old >= 0 && old < len(m.old) && m.old[old] == m.content[at]
}

// alignedLength returns how long the last match goes on at a place without a difference.
func (m *matcher) alignedLength(at int) int {
	if old := at + m.offset; old >= 0 && old < len(m.old) {
		return matchLength(m.old[old:], m.content[at:])
	}
	return 0
}

const (
	// enoughAligned is how long the last match must go on to be taken without a search.
	enoughAligned = 24
	// betterBy is how much more another match must have equal.
	betterBy = 8
)

func (m *matcher) findMatches(ctx context.Context) error {
	if bytes.Equal(m.old, m.content) {
		m.list.appendOp(opCopy, int64(len(m.content)), m.base)
		return nil
	}
	m.index.indexContent(m.old)
	for scan := 0; scan < len(m.content); {
		if err := ctx.Err(); err != nil {
			return err
		}
		at, size, next := m.nextMatch(scan)
		m.addUpTo(next, at, size)
		scan = next + size
	}
	if m.last < len(m.content) {
		m.addUpTo(len(m.content), 0, 0)
	}
	return nil
}

// nextMatch returns the next match that is better than going on with the last one, and where it is
// in the content. At the end the match is empty.
func (m *matcher) nextMatch(scan int) (at, size, next int) {
	// equal counts the bytes from scan to counted that are equal where the last match goes on.
	equal, counted := 0, scan
	for scan < len(m.content) {
		if n := m.alignedLength(scan); n >= enoughAligned {
			scan += n
			equal, counted = 0, scan
			continue
		}
		at, size := m.index.findLongest(m.content[scan:], scan+m.offset)
		for ; counted < scan+size; counted++ {
			if m.isAligned(counted) {
				equal++
			}
		}
		if size == equal && size > 0 {
			scan += size
			equal, counted = 0, scan
			continue
		}
		if size > equal+betterBy {
			return at, size, scan
		}
		if counted > scan {
			if m.isAligned(scan) {
				equal--
			}
		} else {
			counted++
		}
		scan++
	}
	return 0, 0, len(m.content)
}

// addUpTo adds what is before the match of content at next, and makes it the last one.
func (m *matcher) addUpTo(next, at, size int) {
	forward := m.extendForward(next)
	backward := 0
	if size > 0 {
		backward = m.extendBackward(next, at)
	}
	if overlap := m.last + forward - (next - backward); overlap > 0 {
		keep := m.splitOverlap(overlap, forward, next-backward, at-backward)
		forward += keep - overlap
		backward -= keep
	}
	m.addSimilar(forward)
	m.list.appendOp(opExtra, int64(next-backward-m.last-forward), 0)
	m.last, m.lastOld, m.offset = next-backward, at-backward, at-next
	if size == 0 {
		m.last = len(m.content)
	}
}

// extendForward returns how far the last match is to go on: as long as more than half is equal.
func (m *matcher) extendForward(limit int) (best int) {
	score, bestScore := 0, 0
	for i := 0; m.last+i < limit && m.lastOld+i < len(m.old); i++ {
		if m.old[m.lastOld+i] == m.content[m.last+i] {
			score++
		}
		if score*2-(i+1) > bestScore*2-best {
			bestScore, best = score, i+1
		}
	}
	return best
}

// extendBackward returns how much before a match is similar.
func (m *matcher) extendBackward(next, at int) (best int) {
	score, bestScore := 0, 0
	for i := 1; next-i >= m.last && at-i >= 0; i++ {
		if m.old[at-i] == m.content[next-i] {
			score++
		}
		if score*2-i > bestScore*2-best {
			bestScore, best = score, i
		}
	}
	return best
}

// splitOverlap returns how much of what both matches cover belongs to the first.
func (m *matcher) splitOverlap(overlap, forward, start, startOld int) (best int) {
	score, bestScore := 0, 0
	for i := range overlap {
		if m.content[m.last+forward-overlap+i] == m.old[m.lastOld+forward-overlap+i] {
			score++
		}
		if m.content[start+i] == m.old[startOld+i] {
			score--
		}
		if score > bestScore {
			bestScore, best = score, i+1
		}
	}
	return best
}

// minCopy is how long equal bytes must be to be a copy of their own among additions.
const minCopy = 1 << 10

// addSimilar adds bytes as additions, and long parts without a difference as copies.
func (m *matcher) addSimilar(size int) {
	start := 0
	for i := 0; i < size; {
		n := matchLength(m.old[m.lastOld+i:m.lastOld+size], m.content[m.last+i:m.last+size])
		if n >= minCopy || n == size {
			m.list.appendOp(opAdd, int64(i-start), m.base+int64(m.lastOld+start))
			m.list.appendOp(opCopy, int64(n), m.base+int64(m.lastOld+i))
			start = i + n
		}
		i += n + 1
	}
	if start < size {
		m.list.appendOp(opAdd, int64(size-start), m.base+int64(m.lastOld+start))
	}
}
