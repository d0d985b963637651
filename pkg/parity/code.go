package parity

import (
	"bytes"

	"github.com/klauspost/reedsolomon"
)

// code is a Reed-Solomon code over the shards of a stripe: any data of them, data and parity, give back all.
type code struct {
	data, parity int
	encoder      reedsolomon.Encoder
	// matrix are the rows that make the parity shards.
	matrix [][]byte
	// multipliers are those of the dual code: the sum of multiplier*point^l*value over all shards is 0 for each l
	// below parity.
	multipliers []byte
	// failures counts the columns that could not be corrected.
	failures int
}

const (
	// sampledColumns is how many columns of a stripe are looked at first. If none of them can be corrected, the others are
	// not tried: that takes seconds for each megabyte.
	sampledColumns = 32
	// maxFailures is how many columns are tried in vain, of all stripes, before only whole shards are restored.
	maxFailures = 256 << 10
)

func newCode(data, parity int) (*code, error) {
	matrix := parityMatrix(data, parity)
	encoder, err := reedsolomon.New(data, parity, reedsolomon.WithCustomMatrix(matrix))
	if err != nil {
		return nil, err
	}
	c := &code{data: data, parity: parity, encoder: encoder, matrix: matrix, multipliers: make([]byte, data+parity)}
	for i := range c.multipliers {
		product := byte(1)
		for l := range c.multipliers {
			if l != i {
				product = multiply(product, evaluationPoint(i)^evaluationPoint(l))
			}
		}
		c.multipliers[i] = invert(product)
	}
	return c, nil
}

// heal restores the shards of a stripe in place. intact are the shards that are known to
// be right; isRight reports whether content is that of a shard. A shard that is lost as a whole takes one parity
// shard. Where there are too many of them, single wrong bytes are looked for first: in each column half as many as
// there are parity shards are found.
func (c *code) heal(shards [][]byte, intact []bool, isRight func(i int, content []byte) bool) {
	if c.countLost(intact) > c.parity {
		c.correctColumns(shards, intact)
		for i, shard := range shards {
			intact[i] = intact[i] || isRight(i, shard)
		}
	}
	if lost := c.countLost(intact); lost > 0 && lost <= c.parity {
		_ = c.restoreShards(shards, intact) // what stays lost is not intact
	}
}

// restoreShards restores shards that are not intact, at most as many as there are parity shards. It solves only for
// those: each stripe lost others, and to invert the matrix of all shards each time takes longer.
func (c *code) restoreShards(shards [][]byte, intact []bool) error {
	var lost, rows []int
	for i := range c.data {
		if !intact[i] {
			lost = append(lost, i)
			clear(shards[i])
		}
	}
	for j := 0; j < c.parity && len(rows) < len(lost); j++ {
		if intact[c.data+j] {
			rows = append(rows, j)
		}
	}
	without, err := c.encodeParity(shards)
	if err != nil {
		return err
	}
	system := make([][]byte, len(lost))
	for i, row := range rows {
		system[i] = make([]byte, len(lost))
		for k, shard := range lost {
			system[i][k] = c.matrix[row][shard]
		}
		addProducts(without[row], 1, shards[c.data+row]) // now what the lost ones contribute
	}
	invertMatrix(system)
	for i, shard := range lost {
		for k, row := range rows {
			addProducts(shards[shard], system[i][k], without[row])
		}
		intact[shard] = true
	}
	whole, err := c.encodeParity(shards)
	if err != nil {
		return err
	}
	for j, shard := range whole {
		if !intact[c.data+j] {
			copy(shards[c.data+j], shard)
			intact[c.data+j] = true
		}
	}
	return nil
}

// encodeParity returns the parity of the data shards.
func (c *code) encodeParity(shards [][]byte) ([][]byte, error) {
	all := make([][]byte, len(shards))
	copy(all, shards[:c.data])
	for j := range c.parity {
		all[c.data+j] = make([]byte, len(shards[0]))
	}
	return all[c.data:], c.encoder.Encode(all)
}

func (c *code) countLost(intact []bool) (n int) {
	for _, is := range intact {
		if !is {
			n++
		}
	}
	return n
}

// correctColumns corrects wrong bytes of shards that are not intact. A column with more than half as many wrong bytes
// as there are parity shards stays as it is.
func (c *code) correctColumns(shards [][]byte, intact []bool) {
	width := len(shards[0])
	expected, err := c.encodeParity(shards)
	if err != nil {
		return
	}
	differences, syndromes := make([]byte, c.parity), make([]byte, c.parity)
	none := make([]byte, c.parity)
	// factors are what a difference at a parity shard adds to each syndrome.
	factors := make([][]byte, c.parity)
	for j := range factors {
		factors[j] = make([]byte, c.parity)
		for l := range factors[j] {
			factors[j][l] = multiply(c.multipliers[c.data+j], raise(evaluationPoint(c.data+j), l))
		}
	}
	correct := func(column int) (isWrong, isCorrected bool) {
		for j := range c.parity {
			differences[j] = shards[c.data+j][column] ^ expected[j][column]
		}
		if bytes.Equal(differences, none) {
			return false, false
		}
		clear(syndromes)
		for j, difference := range differences {
			if difference != 0 {
				for l, factor := range factors[j] {
					syndromes[l] ^= multiply(difference, factor)
				}
			}
		}
		return true, c.correctColumn(shards, intact, column, syndromes)
	}
	step, wrong, corrected := max(1, width/sampledColumns), 0, 0
	for _, isSample := range []bool{true, false} {
		for column := range width {
			if (column%step == 0) != isSample || c.failures >= maxFailures {
				continue
			}
			isWrong, isCorrected := correct(column)
			if isWrong {
				wrong++
			}
			if isCorrected {
				corrected++
			} else if isWrong {
				c.failures++
			}
		}
		if isSample && wrong > 0 && corrected == 0 {
			return
		}
	}
}

// correctColumn corrects the wrong bytes of one column, which it finds by its syndromes (Berlekamp, Massey, Chien, Forney).
// It reports whether it could.
func (c *code) correctColumn(shards [][]byte, intact []bool, column int, syndromes []byte) bool {
	locator := findLocator(syndromes)
	count := len(locator) - 1
	if count < 1 || 2*count > c.parity {
		return false
	}
	type wrongByte struct {
		shard int
		by    byte
	}
	var found []wrongByte
	for i := range shards {
		inverse := invert(evaluationPoint(i))
		if evaluate(locator, inverse) != 0 {
			continue
		}
		if intact[i] || len(found) == count {
			return false
		}
		value, slope := c.forney(syndromes, locator, inverse)
		if slope == 0 {
			return false
		}
		by := multiply(multiply(value, evaluationPoint(i)), invert(multiply(slope, c.multipliers[i])))
		found = append(found, wrongByte{i, by})
	}
	if len(found) != count {
		return false
	}
	for _, wrong := range found {
		shards[wrong.shard][column] ^= wrong.by
	}
	return true
}

// forney returns the values of the error evaluator and of the locator's derivative.
func (c *code) forney(syndromes, locator []byte, x byte) (value, slope byte) {
	power := byte(1)
	for n := range len(locator) - 1 {
		var coefficient byte
		for i := 0; i <= n; i++ {
			coefficient ^= multiply(locator[i], syndromes[n-i])
		}
		value ^= multiply(coefficient, power)
		if n%2 == 0 { // the derivative of x^(n+1) is x^n where n is even, and 0 elsewhere
			slope ^= multiply(locator[n+1], power)
		}
		power = multiply(power, x)
	}
	return value, slope
}

// findLocator returns the shortest polynomial that the syndromes obey (Massey 1969).
func findLocator(syndromes []byte) []byte {
	current, previous := []byte{1}, []byte{1}
	length, gap, last := 0, 1, byte(1)
	for n := range syndromes {
		discrepancy := syndromes[n]
		for i := 1; i <= length && i < len(current); i++ {
			discrepancy ^= multiply(current[i], syndromes[n-i])
		}
		if discrepancy == 0 {
			gap++
			continue
		}
		factor := multiply(discrepancy, invert(last))
		next := make([]byte, max(len(current), len(previous)+gap))
		copy(next, current)
		for i, coefficient := range previous {
			next[i+gap] ^= multiply(factor, coefficient)
		}
		if 2*length <= n {
			previous, last = current, discrepancy
			length, gap = n+1-length, 1
		} else {
			gap++
		}
		current = next
	}
	for len(current) > length+1 && current[len(current)-1] == 0 {
		current = current[:len(current)-1]
	}
	if len(current) != length+1 {
		return nil
	}
	return current
}
