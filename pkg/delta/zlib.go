package delta

import (
	"io"
	"math/bits"
)

// zlibWriter is deflate as zlib does it (versions 1.2.5 to 1.3, memory level 8) and as GNU gzip does: both
// descend from one program and search for the same matches. They differ in how many symbols a block has, and in
// when it ends early. What it gives must be theirs to the last bit; TestZlibVectors holds that.
type zlibWriter struct {
	w   io.Writer
	err error
	// gnu is set for GNU gzip.
	gnu   bool
	level int
	searchParams

	// in is what was written and is not in the window yet. Only whole windows are taken of it before the end,
	// so that the result does not depend on how it was written.
	in     []byte
	ending bool
	// empty is set once nothing was left to take.
	empty bool

	window [2*zlibWindow + zlibMaxMatch]byte
	// head holds the latest position of each hash, prev the position before each position; 0 means no position.
	head [1 << zlibHashBits]uint16
	prev [zlibWindow]uint16
	// at is the place in the window, ahead how much follows it, blockStart where the block began.
	at, ahead, blockStart int
	// matchAt and matchLength are the match at at, prevLength is the length of the one before.
	matchAt, matchLength, prevLength int
	// pending is set if the byte before at is not in a block yet.
	pending bool

	blockEncoder
}

const (
	zlibWindow       = 32 << 10
	zlibHashBits     = 15
	zlibMinMatch     = 3
	zlibMaxMatch     = 258
	zlibMinAhead     = zlibMaxMatch + zlibMinMatch + 1
	zlibMaxDistance  = zlibWindow - zlibMinAhead
	zlibTooFar       = 4096
	zlibSymbols      = 16<<10 - 1
	gnuSymbols       = 32<<10 - 1
	gnuSymbolsAtOnce = 4 << 10
)

// searchParams are how hard to search at a level.
type searchParams struct {
	// good is the length from which on less is searched, lazy up to which a better match is looked for, nice at
	// which the search ends, and chain how many places are tried.
	good, lazy, nice, chain int
	// isLazy is set for levels that look for a better match at the next byte.
	isLazy bool
}

var zlibLevels = [10]searchParams{
	1: {4, 4, 8, 4, false}, 2: {4, 5, 16, 8, false}, 3: {4, 6, 32, 32, false},
	4: {4, 4, 16, 16, true}, 5: {8, 16, 32, 32, true}, 6: {8, 16, 128, 128, true},
	7: {8, 32, 128, 256, true}, 8: {32, 128, 258, 1024, true}, 9: {32, 258, 258, 4096, true},
}

func newZlibWriter(w io.Writer, level int, gnu bool) *zlibWriter {
	z := &zlibWriter{w: w, level: level, gnu: gnu, searchParams: zlibLevels[level], matchLength: zlibMinMatch - 1, prevLength: zlibMinMatch - 1}
	z.maxSymbols = zlibSymbols
	if gnu {
		z.maxSymbols = gnuSymbols
	}
	z.beginBlock()
	return z
}

func (z *zlibWriter) Write(p []byte) (int, error) {
	z.in = append(z.in, p...)
	if len(z.in) >= 1<<20 {
		z.compressWindow()
	}
	return len(p), z.err
}

// Close ends the stream.
func (z *zlibWriter) Close() error {
	z.ending = true
	z.compressWindow()
	if z.pending {
		z.addLiteral(z.window[z.at-1])
	}
	z.endBlock(true)
	z.flushBits()
	z.sendOutput()
	return z.err
}

func (z *zlibWriter) compressWindow() {
	if z.isLazy {
		z.compressLazily()
	} else {
		z.compressFast()
	}
	z.sendOutput()
}

// sendOutput passes on what was encoded.
func (z *zlibWriter) sendOutput() {
	if z.err == nil && len(z.out) > 0 {
		_, z.err = z.w.Write(z.out)
	}
	z.out = z.out[:0]
}

// fillWindow takes more into the window when little is ahead, and reports whether to go on.
func (z *zlibWriter) fillWindow() bool {
	if z.ahead >= zlibMinAhead {
		return true
	}
	if !z.ending && len(z.in) < 2*zlibWindow {
		return false
	}
	// GNU gzip leaves the window once it knows that nothing follows.
	if z.gnu && z.empty {
		return z.ahead > 0
	}
	if z.at >= zlibWindow+zlibMaxDistance {
		z.moveWindow()
	}
	n := copy(z.window[z.at+z.ahead:2*zlibWindow], z.in)
	z.in = z.in[n:]
	z.ahead += n
	if n == 0 && z.gnu {
		z.empty = true
		clear(z.window[z.at+z.ahead:][:zlibMinMatch-1])
	}
	return z.ahead > 0
}

// moveWindow moves the upper half of the window to the lower.
func (z *zlibWriter) moveWindow() {
	copy(z.window[:zlibWindow], z.window[zlibWindow:2*zlibWindow])
	z.matchAt -= zlibWindow
	z.at -= zlibWindow
	z.blockStart -= zlibWindow
	for _, places := range [][]uint16{z.head[:], z.prev[:]} {
		for i, place := range places {
			if place >= zlibWindow {
				places[i] = place - zlibWindow
			} else {
				places[i] = 0
			}
		}
	}
}

// insertHash records the three bytes at a place, and returns where they were before.
func (z *zlibWriter) insertHash(at int) int {
	b := z.window[at : at+3 : at+3]
	h := (uint(b[0])<<10 ^ uint(b[1])<<5 ^ uint(b[2])) & (1<<zlibHashBits - 1)
	before := z.head[h]
	z.prev[at&(zlibWindow-1)] = before
	z.head[h] = uint16(at)
	return int(before)
}

// canMatch reports whether a match at a place is looked at. GNU gzip finds none at the end of its window, which it
// reaches at the end of its input.
func (z *zlibWriter) canMatch(before int) bool {
	return before != 0 && z.at-before <= zlibMaxDistance && (!z.gnu || z.at <= 2*zlibWindow-zlibMinAhead)
}

// findMatch returns the length of the longest match of those that the level tries, beginning at a place, and sets
// matchAt; it is not more than best if there is no longer one.
func (z *zlibWriter) findMatch(place, best int) int {
	chain, nice, limit := z.chain, z.nice, max(z.at-zlibMaxDistance, 0)
	if best >= z.good {
		chain >>= 2
	}
	if !z.gnu {
		nice = min(nice, z.ahead)
	}
	scan := z.window[z.at:][:zlibMaxMatch]
	for {
		match := z.window[place:][:zlibMaxMatch]
		if match[best] == scan[best] && match[best-1] == scan[best-1] && match[0] == scan[0] && match[1] == scan[1] {
			if n := matchLength(match, scan); n > best {
				z.matchAt, best = place, n
				if n >= nice || n >= zlibMaxMatch {
					break
				}
			}
		}
		place = int(z.prev[place&(zlibWindow-1)])
		if chain--; place <= limit || chain == 0 {
			break
		}
	}
	return min(best, z.ahead)
}

func (z *zlibWriter) compressFast() {
	for z.fillWindow() {
		before := 0
		if z.ahead >= zlibMinMatch {
			before = z.insertHash(z.at)
		}
		if z.canMatch(before) {
			z.matchLength = z.findMatch(before, zlibMinMatch-1)
		}
		ends := false
		if z.matchLength < zlibMinMatch {
			ends = z.addLiteral(z.window[z.at])
			z.at++
			z.ahead--
		} else {
			ends = z.addMatch(z.at-z.matchAt, z.matchLength)
			z.ahead -= z.matchLength
			if z.matchLength <= z.lazy && z.ahead >= zlibMinMatch {
				for range z.matchLength - 1 {
					z.at++
					z.insertHash(z.at)
				}
				z.at++
			} else {
				z.at += z.matchLength
			}
			z.matchLength = 0
		}
		if ends {
			z.endBlock(false)
		}
	}
}

func (z *zlibWriter) compressLazily() {
	for z.fillWindow() {
		before := 0
		if z.ahead >= zlibMinMatch {
			before = z.insertHash(z.at)
		}
		z.prevLength = z.matchLength
		prevAt := z.matchAt
		z.matchLength = zlibMinMatch - 1
		if z.prevLength < z.lazy && z.canMatch(before) {
			z.matchLength = z.findMatch(before, z.prevLength)
			if z.matchLength == zlibMinMatch && z.at-z.matchAt > zlibTooFar {
				z.matchLength = zlibMinMatch - 1
			}
		}
		switch {
		case z.prevLength >= zlibMinMatch && z.matchLength <= z.prevLength:
			last := z.at + z.ahead - zlibMinMatch
			ends := z.addMatch(z.at-1-prevAt, z.prevLength)
			z.ahead -= z.prevLength - 1
			for range z.prevLength - 2 {
				if z.at++; z.at <= last {
					z.insertHash(z.at)
				}
			}
			z.at++
			z.pending, z.matchLength = false, zlibMinMatch-1
			if ends {
				z.endBlock(false)
			}
		case z.pending:
			if z.addLiteral(z.window[z.at-1]) {
				z.endBlock(false)
			}
			z.at++
			z.ahead--
		default:
			z.pending = true
			z.at++
			z.ahead--
		}
	}
}

// addLiteral adds a byte to the block, and reports whether that ends.
func (z *zlibWriter) addLiteral(b byte) bool {
	z.symbols = append(z.symbols, symbol{0, b})
	z.literals.freq[b]++
	return z.isFull()
}

// addMatch adds a match to the block, and reports whether that ends.
func (z *zlibWriter) addMatch(distance, length int) bool {
	z.symbols = append(z.symbols, symbol{uint16(distance), byte(length - zlibMinMatch)})
	z.literals.freq[257+lengthCode(length-zlibMinMatch)]++
	z.distances.freq[distanceCode(distance-1)]++
	z.matches++
	return z.isFull()
}

// isFull reports whether the block ends. GNU gzip ends one early that compresses well.
func (z *zlibWriter) isFull() bool {
	if z.gnu && z.level > 2 && len(z.symbols)%gnuSymbolsAtOnce == 0 {
		out := len(z.symbols) * 8
		for code, n := range z.distances.freq[:30] {
			out += int(n) * (5 + distanceExtra(code))
		}
		if z.matches < len(z.symbols)/2 && out>>3 < (z.at-z.blockStart)/2 {
			return true
		}
	}
	return len(z.symbols) == z.maxSymbols
}

// endBlock writes the block up to the place.
func (z *zlibWriter) endBlock(last bool) {
	var stored []byte
	hasStored := z.blockStart >= 0
	if hasStored {
		stored = z.window[z.blockStart:z.at]
	}
	z.writeBlock(stored, hasStored, z.at-z.blockStart, last)
	z.blockStart = z.at
}

// lengthCode returns the number of the code of a length less three (RFC 1951, 3.2.5).
func lengthCode(n int) int {
	switch {
	case n < 8:
		return n
	case n == zlibMaxMatch-zlibMinMatch:
		return 28
	}
	high := bits.Len(uint(n)) - 3
	return high<<2 + n>>high
}

// lengthExtra returns how many bits follow a code of a length, and lengthBase its smallest length less three.
func lengthExtra(code int) int {
	if code < 8 || code == 28 {
		return 0
	}
	return code>>2 - 1
}

func lengthBase(code int) int {
	switch {
	case code < 8:
		return code
	case code == 28:
		return zlibMaxMatch - zlibMinMatch
	}
	return (4 + code&3) << lengthExtra(code)
}

// distanceCode returns the code of a distance less one.
func distanceCode(n int) int {
	if n < 4 {
		return n
	}
	high := bits.Len(uint(n)) - 2
	return high<<1 + n>>high
}

// distanceExtra returns how many bits follow a code of a distance, and distanceBase its smallest distance less one.
func distanceExtra(code int) int { return max(0, code>>1-1) }

func distanceBase(code int) int {
	if code < 4 {
		return code
	}
	return (2 + code&1) << distanceExtra(code)
}
