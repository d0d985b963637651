package parity

// The field is GF(2^8) modulo x^8+x^4+x^3+x^2+1, in which 2 generates everything but 0.
const fieldPolynomial = 0x11d

// fieldTables are logarithms, powers of 2 up to twice the order, so that sums of logarithms need no remainder, and all
// products.
type fieldTables struct {
	log      [256]int
	exp      [510]byte
	products [256][256]byte
}

var field = makeTables()

func makeTables() *fieldTables {
	t := &fieldTables{}
	for x, i := 1, 0; i < 255; i++ {
		t.exp[i], t.exp[i+255], t.log[x] = byte(x), byte(x), i
		if x <<= 1; x > 255 {
			x ^= fieldPolynomial
		}
	}
	for a := 1; a < 256; a++ {
		for b := 1; b < 256; b++ {
			t.products[a][b] = t.exp[t.log[a]+t.log[b]]
		}
	}
	return t
}

func multiply(a, b byte) byte { return field.products[a][b] }

// addProducts adds the products of a factor and many values to sums.
func addProducts(sums []byte, factor byte, values []byte) {
	row := &field.products[factor]
	for i, value := range values {
		sums[i] ^= row[value]
	}
}

// invertMatrix replaces a matrix that has an inverse by it (Gauss, Jordan).
func invertMatrix(m [][]byte) {
	size := len(m)
	inverse := make([][]byte, size)
	for i := range inverse {
		inverse[i] = make([]byte, size)
		inverse[i][i] = 1
	}
	for column := range size {
		pivot := column
		for m[pivot][column] == 0 {
			pivot++
		}
		m[column], m[pivot] = m[pivot], m[column]
		inverse[column], inverse[pivot] = inverse[pivot], inverse[column]
		factor := invert(m[column][column])
		for k := range size {
			m[column][k], inverse[column][k] = multiply(m[column][k], factor), multiply(inverse[column][k], factor)
		}
		for row := range size {
			if factor := m[row][column]; row != column && factor != 0 {
				addProducts(m[row], factor, m[column])
				addProducts(inverse[row], factor, inverse[column])
			}
		}
	}
	copy(m, inverse)
}

// invert returns 1/a; a is not 0.
func invert(a byte) byte { return field.exp[255-field.log[a]] }

func raise(a byte, n int) byte {
	if n == 0 {
		return 1
	}
	if a == 0 {
		return 0
	}
	return field.exp[field.log[a]*n%255]
}

// evaluate returns the value of a polynomial, lowest coefficient first.
func evaluate(polynomial []byte, x byte) (sum byte) {
	for i := len(polynomial) - 1; i >= 0; i-- {
		sum = multiply(sum, x) ^ polynomial[i]
	}
	return sum
}

// evaluationPoint is where the polynomial of a stripe has the value of shard i. 0 is not used: an error there
// would be in one syndrome only.
func evaluationPoint(i int) byte { return byte(i + 1) }

// parityMatrix returns the rows that make parity of data: the polynomial through the data shards, at the points of
// the parity shards (Lagrange).
func parityMatrix(data, parity int) [][]byte {
	weights := make([]byte, data)
	for i := range weights {
		weights[i] = 1
		for l := range data {
			if l != i {
				weights[i] = multiply(weights[i], evaluationPoint(i)^evaluationPoint(l))
			}
		}
	}
	rows := make([][]byte, parity)
	for j := range rows {
		x, product := evaluationPoint(data+j), byte(1)
		for l := range data {
			product = multiply(product, x^evaluationPoint(l))
		}
		rows[j] = make([]byte, data)
		for i := range data {
			rows[j][i] = multiply(product, invert(multiply(x^evaluationPoint(i), weights[i])))
		}
	}
	return rows
}
