package parity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Geometry is how content and its parity stand in a file: Size bytes of content, then what [Write] writes, then
// whatever ends the file.
//
// Content is cut into blocks. Block i belongs to stripe i modulo the number of stripes, so that neighbors are in
// different stripes and a hole takes a block or two of many of them. Each stripe has Parity more blocks. The
// checksums of all blocks are a table with parity of its own, on both sides of the parity blocks. Copies of the
// geometry, with checksums, are at the beginning of the file, and before and behind the parity.
type Geometry struct {
	// Size is how many bytes are protected.
	Size int64
	// Block is the size of a block, a power of two.
	Block int
	// Data and Parity are how many blocks of each a stripe has, together at most 255.
	Data, Parity int
	// Percent is what was asked for.
	Percent int
}

const (
	// SectorSize is the size of [Geometry.Sector], and what the parity is aligned to: a sector of a disc.
	SectorSize = 2048
	minBlock   = 512
	maxBlock   = 1 << 20
	// manyBlocks is from how many blocks on they are larger, up to a sector; maxBlocks is how many there are, so
	// that the table of their checksums fits into memory.
	manyBlocks = 16 << 10
	maxBlocks  = 4 << 20
	maxShards  = 255
	// minParity is how many blocks of parity content of a single stripe has.
	minParity = 8
	// MaxSize is how many bytes can be protected, 4 TiB.
	MaxSize = maxBlocks * maxBlock

	// A block of the table is a run of checksums and its own checksum.
	tableBlock, tablePayload = 512, 508
	// Half of the table is parity, and of a short one more.
	maxTableData, minTableParity = 127, 8
)

// NewGeometry returns the geometry for a number of bytes to protect and the size of the parity, in percent of
// them, 1 to 100.
func NewGeometry(size int64, percent int) (Geometry, error) {
	if size < 1 || size > MaxSize {
		return Geometry{}, fmt.Errorf("parity for %d bytes: want 1 to %d", size, int64(MaxSize))
	}
	if percent < 1 || percent > 100 {
		return Geometry{}, fmt.Errorf("parity of %d %%: want 1 to 100", percent)
	}
	g := Geometry{Size: size, Block: minBlock, Percent: percent}
	for g.Block < SectorSize && g.blocks() > manyBlocks || g.blocks() > maxBlocks {
		g.Block *= 2
	}
	// Of 255 shards at most, as many are parity as the percentage needs, rounded up.
	most := maxShards * 100 / (100 + percent)
	for most+roundUp(most*percent, 100)/100 > maxShards {
		most--
	}
	stripes := (g.blocks() + int64(most) - 1) / int64(most)
	g.Data = int((g.blocks() + stripes - 1) / stripes)
	g.Parity = roundUp(g.Data*percent, 100) / 100
	if stripes == 1 {
		// A few hundred blocks are soon hit twice, and a sector is several of them.
		g.Parity = max(g.Parity, min(minParity, g.Data, maxShards-g.Data))
	}
	return g, nil
}

func roundUp[T int | int64](n, to T) T { return (n + to - 1) / to * to }

// blocks returns how many blocks of content there are, stripes how many stripes, all how many blocks with parity.
func (g Geometry) blocks() int64  { return (g.Size + int64(g.Block) - 1) / int64(g.Block) }
func (g Geometry) stripes() int64 { return (g.blocks() + int64(g.Data) - 1) / int64(g.Data) }
func (g Geometry) all() int64     { return g.blocks() + g.stripes()*int64(g.Parity) }

// tableBlocks returns how many blocks of the table are data, and its code.
func (g Geometry) tableBlocks() int64 { return roundUp(4*g.all(), tablePayload) / tablePayload }
func (g Geometry) tableStripes() int64 {
	return (g.tableBlocks() + maxTableData - 1) / maxTableData
}
func (g Geometry) tableCode() (data, parity int) {
	data = int((g.tableBlocks() + g.tableStripes() - 1) / g.tableStripes())
	return data, max(data, minTableParity)
}

// The parts of what follows the content, by where they begin in the file.
func (g Geometry) headOffset() int64  { return roundUp(g.Size, SectorSize) }
func (g Geometry) tableOffset() int64 { return g.headOffset() + SectorSize }
func (g Geometry) parityOffset() int64 {
	return roundUp(g.tableOffset()+g.tableBlocks()*tableBlock, SectorSize)
}
func (g Geometry) tableParityOffset() int64 {
	return g.parityOffset() + g.stripes()*int64(g.Parity)*int64(g.Block)
}
func (g Geometry) tailOffset() int64 {
	_, parity := g.tableCode()
	return roundUp(g.tableParityOffset()+g.tableStripes()*int64(parity)*tableBlock, SectorSize)
}

// End returns where the parity ends.
func (g Geometry) End() int64 { return g.tailOffset() + SectorSize }

// ParitySize returns how many bytes [Write] writes.
func (g Geometry) ParitySize() int64 { return g.End() - g.Size }

// The descriptor of a geometry, of which a sector is full: magic and version (bytes 0-7), the size of a block (8-11), how many
// data and parity blocks a stripe has and the percentage (12, 13, 14), how much is protected (16-23), and the checksum of
// all that (60-63). What follows the content is: zeros up to a sector, a sector of descriptors, the table, zeros up to a
// sector, the parity blocks stripe by stripe of each row, the parity of the table, zeros up to a sector, a sector of
// descriptors. Each block of the table has 127 checksums and its own.
const (
	descriptorSize  = 64
	descriptorMagic = "krtpkgP\x01"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sector returns the sector that holds the geometry. Write it near the beginning of the content, at the offset
// that is given to [Open].
func (g Geometry) Sector() []byte {
	one := make([]byte, descriptorSize)
	copy(one, descriptorMagic)
	binary.BigEndian.PutUint32(one[8:], uint32(g.Block))
	one[12], one[13], one[14] = byte(g.Data), byte(g.Parity), byte(g.Percent)
	binary.BigEndian.PutUint64(one[16:], uint64(g.Size))
	binary.BigEndian.PutUint32(one[descriptorSize-4:], crc32.Checksum(one[:descriptorSize-4], castagnoli))
	return bytes.Repeat(one, SectorSize/descriptorSize)
}

var errGeometry = errors.New("no valid geometry")

// parseDescriptor reads a descriptor. It comes from outside, so its numbers have to be those of [NewGeometry]: others could
// ask for a table that is thousands of times larger than the file.
func parseDescriptor(one []byte) (Geometry, error) {
	if !bytes.HasPrefix(one, []byte(descriptorMagic)) || binary.BigEndian.Uint32(one[descriptorSize-4:]) != crc32.Checksum(one[:descriptorSize-4], castagnoli) {
		return Geometry{}, errGeometry
	}
	block, size := binary.BigEndian.Uint32(one[8:]), binary.BigEndian.Uint64(one[16:])
	g := Geometry{Size: int64(size), Block: int(block), Data: int(one[12]), Parity: int(one[13]), Percent: int(one[14])}
	if want, err := NewGeometry(g.Size, g.Percent); err != nil || g != want {
		return Geometry{}, errGeometry
	}
	return g, nil
}

// ParseSector returns the geometry that a sector holds.
func ParseSector(sector []byte) (Geometry, error) {
	for at := 0; at+descriptorSize <= len(sector); at += descriptorSize {
		if g, err := parseDescriptor(sector[at : at+descriptorSize]); err == nil {
			return g, nil
		}
	}
	return Geometry{}, errGeometry
}
