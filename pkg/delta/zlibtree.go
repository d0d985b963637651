package delta

import "math/bits"

// symbol is a literal if its distance is 0, else a match of a length less three.
type symbol struct {
	distance uint16
	value    byte
}

// blockEncoder writes blocks of deflate with the Huffman codes of zlib.
type blockEncoder struct {
	out   []byte
	acc   uint64
	count uint

	symbols    []symbol
	maxSymbols int
	// matches are how many of the symbols are matches.
	matches             int
	literals, distances huffmanTree
	// lengths are the codes of the lengths of codes.
	lengths huffmanTree
	heap    codeHeap
}

const (
	literalCodes  = 286
	distanceCodes = 30
	lengthCodes   = 19
	endOfBlock    = 256
	// maxCodes is how many nodes a tree has at most.
	maxNodes = 2*literalCodes + 1
)

// huffmanTree has the frequencies, lengths and codes of symbols; nodes above the leaves follow the symbols.
type huffmanTree struct {
	freq   [maxNodes]uint32
	length [maxNodes]uint8
	code   [literalCodes + 2]uint16
	// last is the largest symbol that has a code.
	last int
}

func (b *blockEncoder) beginBlock() {
	clear(b.literals.freq[:literalCodes])
	clear(b.distances.freq[:distanceCodes])
	clear(b.lengths.freq[:lengthCodes])
	b.literals.freq[endOfBlock] = 1
	b.symbols, b.matches = b.symbols[:0], 0
}

func (b *blockEncoder) writeBits(value uint64, n uint) {
	b.acc |= value << b.count
	b.count += n
	for b.count >= 8 {
		b.out = append(b.out, byte(b.acc))
		b.acc >>= 8
		b.count -= 8
	}
}

// flushBits fills the last byte.
func (b *blockEncoder) flushBits() {
	if b.count > 0 {
		b.writeBits(0, 8-b.count)
	}
}

// lengthOrder is the order in which lengths of codes of lengths are written (RFC 1951, 3.2.7).
var lengthOrder = [lengthCodes]int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// fixedLiterals and fixedDistances are the codes of RFC 1951, 3.2.6.
var fixedLiterals, fixedDistances = func() (l, d huffmanTree) {
	for i := range l.code {
		switch {
		case i < 144:
			l.length[i] = 8
		case i < 256:
			l.length[i] = 9
		case i < 280:
			l.length[i] = 7
		default:
			l.length[i] = 8
		}
	}
	l.last = len(l.code) - 1
	l.assignCodes()
	for i := range distanceCodes {
		d.length[i] = 5
	}
	d.last = distanceCodes - 1
	d.assignCodes()
	return l, d
}()

// writeBlock writes the symbols in the shortest way. stored is what they stand for, if it is still there.
func (b *blockEncoder) writeBlock(stored []byte, hasStored bool, size int, last bool) {
	final := uint64(0)
	if last {
		final = 1
	}
	dynamic := b.literals.buildCodes(&b.heap, literalCodes, 15) + b.distances.buildCodes(&b.heap, distanceCodes, 15)
	for code := range literalCodes - 257 {
		dynamic += int(b.literals.freq[257+code]) * lengthExtra(code)
	}
	for code := range distanceCodes {
		dynamic += int(b.distances.freq[code]) * distanceExtra(code)
	}
	runs := appendRuns(appendRuns(nil, b.literals.length[:b.literals.last+1]), b.distances.length[:b.distances.last+1])
	for _, r := range runs {
		b.lengths.freq[r.code]++
	}
	dynamic += b.lengths.buildCodes(&b.heap, lengthCodes, 7)
	for _, r := range runs {
		dynamic += int(r.extra)
	}
	named := lengthCodes
	for named > 4 && b.lengths.length[lengthOrder[named-1]] == 0 {
		named--
	}
	dynamic += 3*named + 5 + 5 + 4
	dynamicBytes, fixedBytes := (dynamic+3+7)>>3, (b.fixedSize()+3+7)>>3
	switch {
	case hasStored && size+4 <= min(dynamicBytes, fixedBytes):
		b.writeBits(final, 3)
		b.flushBits()
		b.writeBits(uint64(size)&0xffff|uint64(^size&0xffff)<<16, 32)
		b.out = append(b.out, stored...)
	case fixedBytes <= dynamicBytes:
		b.writeBits(1<<1|final, 3)
		b.writeSymbols(&fixedLiterals, &fixedDistances)
	default:
		b.writeBits(2<<1|final, 3)
		b.writeBits(uint64(b.literals.last-256), 5)
		b.writeBits(uint64(b.distances.last), 5)
		b.writeBits(uint64(named-4), 4)
		for _, code := range lengthOrder[:named] {
			b.writeBits(uint64(b.lengths.length[code]), 3)
		}
		for _, r := range runs {
			b.writeBits(uint64(b.lengths.code[r.code]), uint(b.lengths.length[r.code]))
			b.writeBits(uint64(r.value), uint(r.extra))
		}
		b.writeSymbols(&b.literals, &b.distances)
	}
	b.beginBlock()
}

// fixedSize returns how many bits the symbols have with the fixed codes.
func (b *blockEncoder) fixedSize() (size int) {
	for i, n := range b.literals.freq[:literalCodes] {
		length := int(fixedLiterals.length[i])
		if i > endOfBlock {
			length += lengthExtra(i - 257)
		}
		size += int(n) * length
	}
	for i, n := range b.distances.freq[:distanceCodes] {
		size += int(n) * (5 + distanceExtra(i))
	}
	return size
}

func (b *blockEncoder) writeSymbols(literals, distances *huffmanTree) {
	for _, s := range b.symbols {
		if s.distance == 0 {
			b.writeBits(uint64(literals.code[s.value]), uint(literals.length[s.value]))
			continue
		}
		code := lengthCode(int(s.value))
		b.writeBits(uint64(literals.code[257+code]), uint(literals.length[257+code]))
		b.writeBits(uint64(int(s.value)-lengthBase(code)), uint(lengthExtra(code)))
		n := int(s.distance) - 1
		code = distanceCode(n)
		b.writeBits(uint64(distances.code[code]), uint(distances.length[code]))
		b.writeBits(uint64(n-distanceBase(code)), uint(distanceExtra(code)))
	}
	b.writeBits(uint64(literals.code[endOfBlock]), uint(literals.length[endOfBlock]))
}

// run is a code of the lengths of codes, with what follows it.
type run struct{ code, value, extra uint8 }

// appendRuns encodes the lengths of the codes of one tree.
func appendRuns(runs []run, lengths []uint8) []run {
	for i := 0; i < len(lengths); {
		n := 1
		for i+n < len(lengths) && lengths[i+n] == lengths[i] {
			n++
		}
		length := lengths[i]
		i += n
		if length > 0 {
			runs = append(runs, run{code: length})
			n--
		}
		for n > 0 {
			switch {
			case length == 0 && n >= 11:
				part := min(n, 138)
				runs = append(runs, run{18, uint8(part - 11), 7})
				n -= part
			case length == 0 && n >= 3:
				runs = append(runs, run{17, uint8(n - 3), 3})
				n = 0
			case length > 0 && n >= 3:
				part := min(n, 6)
				runs = append(runs, run{16, uint8(part - 3), 2})
				n -= part
			default:
				runs = append(runs, run{code: length})
				n--
			}
		}
	}
	return runs
}

// codeHeap orders nodes by how often they are, and among equals by how deep they are.
type codeHeap struct {
	nodes  [maxNodes + 1]int // from 1
	size   int
	sorted []int
	depth  [maxNodes]uint8
	parent [maxNodes]int
}

func (h *codeHeap) isLess(t *huffmanTree, a, b int) bool {
	return t.freq[a] < t.freq[b] || t.freq[a] == t.freq[b] && h.depth[a] <= h.depth[b]
}

func (h *codeHeap) sink(t *huffmanTree, k int) {
	node := h.nodes[k]
	for j := k << 1; j <= h.size; j <<= 1 {
		if j < h.size && h.isLess(t, h.nodes[j+1], h.nodes[j]) {
			j++
		}
		if h.isLess(t, node, h.nodes[j]) {
			break
		}
		h.nodes[k] = h.nodes[j]
		k = j
	}
	h.nodes[k] = node
}

// takeLeast returns the least node, and takes it from the heap.
func (h *codeHeap) takeLeast(t *huffmanTree) int {
	least := h.nodes[1]
	h.nodes[1] = h.nodes[h.size]
	h.size--
	h.sink(t, 1)
	return least
}

// buildCodes finds lengths of at most limit and the codes of a number of symbols, and returns how many bits these have
// together. At least two symbols get a code.
func (t *huffmanTree) buildCodes(h *codeHeap, symbols, limit int) (size int) {
	h.size, h.sorted, t.last = 0, h.sorted[:0], -1
	for i := range symbols {
		t.length[i] = 0
		if t.freq[i] > 0 {
			h.size++
			h.nodes[h.size], t.last, h.depth[i] = i, i, 0
		}
	}
	forced := 0
	for h.size < 2 {
		node := 0
		if t.last < 2 {
			t.last++
			node = t.last
		}
		h.size++
		h.nodes[h.size], t.freq[node], h.depth[node] = node, 1, 0
		forced |= 1 << node
	}
	for k := h.size / 2; k >= 1; k-- {
		h.sink(t, k)
	}
	next := symbols
	for {
		a := h.takeLeast(t)
		b := h.nodes[1]
		h.sorted = append(h.sorted, a, b)
		t.freq[next] = t.freq[a] + t.freq[b]
		h.depth[next] = max(h.depth[a], h.depth[b]) + 1
		h.parent[a], h.parent[b] = next, next
		h.nodes[1] = next
		next++
		h.sink(t, 1)
		if h.size < 2 {
			break
		}
	}
	h.sorted = append(h.sorted, h.nodes[1])
	t.limitLengths(h, symbols, limit)
	t.assignCodes()
	for i := range symbols {
		if forced>>min(i, 31)&1 == 0 || i > 2 {
			size += int(t.freq[i]) * int(t.length[i])
		}
	}
	for i := range 3 {
		if forced>>i&1 == 1 {
			t.freq[i] = 0
		}
	}
	return size
}

// limitLengths sets the lengths of the leaves by their depths, none longer than limit.
func (t *huffmanTree) limitLengths(h *codeHeap, symbols, limit int) {
	var count [17]int
	t.length[h.sorted[len(h.sorted)-1]] = 0
	over := 0
	for i := len(h.sorted) - 2; i >= 0; i-- {
		node := h.sorted[i]
		length := int(t.length[h.parent[node]]) + 1
		if length > limit {
			length = limit
			over++
		}
		t.length[node] = uint8(length)
		if node < symbols {
			count[length]++
		}
	}
	if over == 0 {
		return
	}
	for ; over > 0; over -= 2 {
		length := limit - 1
		for count[length] == 0 {
			length--
		}
		count[length]--
		count[length+1] += 2
		count[limit]--
	}
	i := 0
	for length := limit; length > 0; length-- {
		for n := count[length]; n > 0; i++ {
			if node := h.sorted[i]; node < symbols {
				t.length[node] = uint8(length)
				n--
			}
		}
	}
}

// assignCodes gives symbols the codes of their lengths (RFC 1951, 3.2.2), the first bit lowest.
func (t *huffmanTree) assignCodes() {
	var count, next [16]uint16
	for _, length := range t.length[:t.last+1] {
		count[length]++
	}
	count[0] = 0
	for i := 1; i < len(next); i++ {
		next[i] = (next[i-1] + count[i-1]) << 1
	}
	for i, length := range t.length[:t.last+1] {
		if length > 0 {
			t.code[i] = bits.Reverse16(next[length]) >> (16 - length)
			next[length]++
		}
	}
}
