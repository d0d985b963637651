package delta

import (
	"encoding/binary"
	"sync"
)

// additionCoder codes additions, most of which are zero: what is not is mostly addresses in programs, which
// stand at places that the old bytes before them tell, and change by the same distances again and again. Each
// byte is first coded as zero or not, what is not bit by bit, each bit by the mean of what several contexts
// predict (logistic mixing, as in Matt Mahoney's PAQ), with an arithmetic coder. Everything is integers, so
// that both sides have the same state; encoding and decoding are the same code.
type additionCoder struct {
	decoding bool
	// out is what was coded; in is what is to be decoded, up to at.
	out, in []byte
	at      int
	// low and high are the range of the arithmetic coder, code is where in it the coded number is.
	low, high, code uint32

	// old are the last three bytes of the base, the last one first.
	old [3]byte
	// zeros is how many additions in a row were zero, history which of the last 16 were not.
	zeros   int
	history uint32
	// changed is the place in a change, of which last are the latest bytes and before the bytes that the
	// change before had at the same places.
	changed int
	last    [2]byte
	before  [8]byte

	blocks  []uint16
	isBlock [32]uint16
	zeroes  [4][]uint16
	values  [4][]uint16
	// weights of the predictions of zero by the number of zeros before, and of bits of values by their place.
	zeroWeights  [18][4]int32
	valueWeights [64][4]int32
}

const (
	zeroBits, valueBits = 18, 18
	// blockSize is how many zeros in a row are coded at once, if as many were before.
	blockSize = 16
	// codedAtOnce is how many additions of one operation belong together.
	codedAtOnce = 64 << 10
)

// additionCoders are coders that are no longer used, with their tables of 4 MiB: layers are often smaller.
var additionCoders = sync.Pool{New: func() any {
	c := &additionCoder{blocks: make([]uint16, 1<<16)}
	for i := range c.zeroes {
		c.zeroes[i], c.values[i] = make([]uint16, 1<<zeroBits), make([]uint16, 1<<valueBits)
	}
	return c
}}

// newAdditionCoder returns a coder that has learned nothing. Call release when it is no longer used.
func newAdditionCoder(decoding bool) *additionCoder {
	c := additionCoders.Get().(*additionCoder)
	*c = additionCoder{decoding: decoding, zeros: 255, out: c.out[:0], blocks: c.blocks, zeroes: c.zeroes, values: c.values}
	fillTable(c.blocks, 1<<12)
	for i := range c.zeroes {
		fillTable(c.zeroes[i], 1<<13)
		fillTable(c.values[i], 1<<15)
	}
	for i := range c.isBlock {
		c.isBlock[i] = 1 << 14
	}
	for i := range c.zeroWeights {
		c.zeroWeights[i] = [4]int32{20_000, 20_000, 20_000, 20_000}
	}
	for i := range c.valueWeights {
		c.valueWeights[i] = [4]int32{18_000, 18_000, 18_000, 18_000}
	}
	return c
}

// releaseCoder gives the coder to the next delta.
func (c *additionCoder) releaseCoder() {
	c.in = nil
	additionCoders.Put(c)
}

// fillTable sets all of a table, most of it by copying: that is many times as fast.
func fillTable(table []uint16, value uint16) {
	table[0] = value
	for n := 1; n < len(table); n *= 2 {
		copy(table[n:], table[:n])
	}
}

// beginSection starts a section; what was learned stays. A decoder reads from in.
func (c *additionCoder) beginSection(in []byte) {
	c.low, c.high, c.out, c.in, c.at = 0, 1<<32-1, c.out[:0], in, 0
	if c.decoding {
		for range 4 {
			c.code = c.code<<8 | c.nextByte()
		}
	}
}

// endSection returns the coded section.
func (c *additionCoder) endSection() []byte {
	c.out = binary.BigEndian.AppendUint32(c.out, c.low+(c.high-c.low)/2)
	return c.out
}

// nextByte returns the next coded byte. After the end it is zero: the layer is another then, and refused.
func (c *additionCoder) nextByte() uint32 {
	if c.at >= len(c.in) {
		return 0
	}
	c.at++
	return uint32(c.in[c.at-1])
}

// codeBit codes a bit, of which p in 4096 is how likely it is set, and returns it.
func (c *additionCoder) codeBit(bit int, p int32) int {
	middle := c.low + uint32(uint64(c.high-c.low)*uint64(p)>>12)
	if c.decoding {
		bit = 0
		if c.code <= middle {
			bit = 1
		}
	}
	if bit == 1 {
		c.high = middle
	} else {
		c.low = middle + 1
	}
	for (c.low^c.high)>>24 == 0 {
		if c.decoding {
			c.code = c.code<<8 | c.nextByte()
		} else {
			c.out = append(c.out, byte(c.high>>24))
		}
		c.low, c.high = c.low<<8, c.high<<8|0xff
	}
	return bit
}

// codeBytes codes the additions to bytes of a base; a decoder sets them. Both sides must call it with the
// same bytes.
func (c *additionCoder) codeBytes(old, additions []byte) {
	for i := 0; i < len(old); {
		if c.zeros >= blockSize && i+blockSize <= len(old) && c.codeBlock(old[i:i+blockSize], additions[i:i+blockSize]) {
			i += blockSize
			continue
		}
		// Where a block is not zero, it is looked at byte by byte up to what is not.
		for end := min(len(old), i+blockSize); i < end; i++ {
			additions[i] = c.codeByte(old[i], additions[i])
			if c.zeros == 0 {
				i++
				break
			}
		}
	}
}

// codeBlock codes whether a block is zero.
func (c *additionCoder) codeBlock(old, additions []byte) bool {
	likely := uint16(0)
	before, last := c.old[1], c.old[0]
	for _, b := range old {
		likely = max(likely, c.blocks[int(before)<<8|int(last)])
		before, last = last, b
	}
	p := &c.isBlock[likely>>11]
	zero := 1
	for _, b := range additions {
		if b != 0 && !c.decoding {
			zero = 0
			break
		}
	}
	zero = c.codeBit(zero, max(1, int32(*p>>4)))
	adapt(p, zero, 6)
	if zero == 0 {
		return false
	}
	clear(additions)
	c.zeros = min(c.zeros+blockSize, 255)
	c.history <<= blockSize
	c.old = [3]byte{old[blockSize-1], old[blockSize-2], old[blockSize-3]}
	return true
}

// codeByte codes one addition.
func (c *additionCoder) codeByte(old, addition byte) byte {
	place := min(c.zeros, 15)
	switch {
	case c.zeros > 128:
		place = 17
	case c.zeros > 32:
		place = 16
	}
	near := uint32(min(c.zeros, 3))
	pair := uint32(c.old[1])<<8 | uint32(c.old[0])
	slots := [4]*uint16{
		&c.zeroes[0][uint32(c.old[0])<<5|uint32(place)],
		&c.zeroes[1][near<<16|pair],
		&c.zeroes[2][near<<16|c.history&0xffff],
		&c.zeroes[3][hashOf(pair<<8|uint32(old), uint32(place))>>(32-zeroBits)],
	}
	bit := 0
	if addition != 0 {
		bit = 1
	}
	bit = c.codeMixed(bit, &slots, &c.zeroWeights[place], &[4]uint{5, 4, 5, 4})
	adapt(&c.blocks[pair], bit, 5)
	c.history = c.history<<1 | uint32(bit)
	if bit == 0 {
		c.zeros = min(c.zeros+1, 255)
		c.changed = min(c.changed+1, len(c.before)-1)
		if c.zeros > 3 {
			c.changed, c.last = 0, [2]byte{}
		}
	} else {
		if c.zeros > 3 {
			c.changed = 0
		}
		c.zeros = 0
		addition = c.codeValue(old, addition)
	}
	c.old = [3]byte{old, c.old[0], c.old[1]}
	if bit == 0 {
		return 0
	}
	return addition
}

// codeValue codes an addition that is not zero.
func (c *additionCoder) codeValue(old, addition byte) byte {
	at, before := uint32(c.changed), uint32(c.before[c.changed])
	contexts := [4]uint32{
		at<<8 | before,
		at<<16 | uint32(c.last[0])<<8 | uint32(c.last[1]) | 1<<24,
		uint32(old)<<8 | uint32(c.old[0]) | 2<<24,
		at<<16 | uint32(c.last[0])<<8 | before | 3<<24,
	}
	half := uint32(1)
	for shift := uint(4); ; shift = 0 {
		// What one half of a byte needs stands together.
		var slots [4]*[16]uint16
		for i, context := range contexts {
			slots[i] = (*[16]uint16)(c.values[i][hashOf(context, half)>>(32-valueBits+4)<<4:])
		}
		node := uint32(1)
		for k := uint32(4); k > 0; k-- {
			one := [4]*uint16{&slots[0][node], &slots[1][node], &slots[2][node], &slots[3][node]}
			bit := c.codeMixed(int(addition>>shift>>(k-1)&1), &one, &c.valueWeights[at<<3|uint32(shift)+k-1], &[4]uint{4, 3, 4, 3})
			node = (node<<1 | uint32(bit)) & 31
		}
		half = half<<4 | node&15
		if shift == 0 {
			break
		}
	}
	addition = byte(half)
	c.before[c.changed] = addition
	c.last = [2]byte{addition, c.last[0]}
	c.changed = min(c.changed+1, len(c.before)-1)
	return addition
}

func hashOf(a, b uint32) uint32 {
	h := a*0x9e3779b1 ^ b*0x85ebca6b
	return (h ^ h>>15) * 0xc2b2ae35
}

// codeMixed codes a bit by what four contexts predict, and has them learn from it.
func (c *additionCoder) codeMixed(bit int, slots *[4]*uint16, weights *[4]int32, rates *[4]uint) int {
	var inputs [4]int32
	sum := int64(0)
	for i, slot := range slots {
		inputs[i] = stretched[*slot>>4]
		sum += int64(inputs[i]) * int64(weights[i])
	}
	p := squash(sum >> 16)
	bit = c.codeBit(bit, p)
	wrong := (int32(bit)<<12 - p) * 6
	for i, slot := range slots {
		weights[i] += (inputs[i]*wrong + 1<<13) >> 14
		adapt(slot, bit, rates[i])
	}
	return bit
}

// adapt moves a prediction towards a bit.
func adapt(p *uint16, bit int, rate uint) {
	if bit == 1 {
		*p += (1<<16 - 1 - *p) >> rate
	} else {
		*p -= *p >> rate
	}
}

// logistic are 4096/(1+e^-x) for x from -8 to 8 in halves.
var logistic = [33]int32{
	1, 2, 4, 6, 10, 17, 27, 45, 74, 120, 194, 311, 488, 747, 1102, 1547, 2048,
	2549, 2994, 3349, 3608, 3785, 3902, 3976, 4022, 4051, 4069, 4079, 4086, 4090, 4092, 4094, 4095,
}

// squash returns 4096/(1+e^-x) of x in 256ths, from 1 to 4095.
func squash(x int64) int32 {
	x = max(-2047, min(2047, x)) + 2048
	i, rest := x>>7, int32(x&127)
	return (logistic[i]*(128-rest) + logistic[i+1]*rest) >> 7
}

// stretched is the inverse of squash.
var stretched = func() (table [4096]int32) {
	p := int32(0)
	for x := int64(-2047); x <= 2047; x++ {
		for ; p < squash(x); p++ {
			table[p] = int32(x)
		}
	}
	for ; p < 4096; p++ {
		table[p] = 2047
	}
	return table
}()
