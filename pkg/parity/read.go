package parity

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sync"
)

// inPlace is the slot of a block that is right where it is.
const inPlace = -1

// ErrNotFound is the error of a file without parity.
var ErrNotFound = errors.New("no parity found")

// Reader reads content that has parity, and heals what is damaged as it is read. What was healed is in a temporary
// file, so memory does not grow with the damage. It is safe for concurrent use.
type Reader struct {
	// Geometry is that of the file.
	Geometry Geometry
	// Fallback has the same content where it is set, and is read where the file cannot heal itself.
	Fallback io.ReaderAt

	file io.ReaderAt
	size int64
	code *code
	// sums are the checksums of all blocks; known tells for each block of the table whether it is right.
	sums  []uint32
	known []bool
	// badTable counts the blocks of the table that were damaged.
	badTable int

	mu sync.Mutex
	// tried are the groups of stripes that were healed as far as possible; slots are where the healed blocks are, and
	// inPlace for those that turned out to be right; kept is how many are in the temporary file.
	tried  map[int64]bool
	slots  map[int64]int64
	kept   int64
	healed *os.File
	// isUnlinked is set if the file has no name any more.
	isUnlinked bool
}

// ErrCutOff is the error of a file that ends before its parity.
var ErrCutOff = errors.New("file ends before its parity")

// Open opens a file with parity of so many bytes. head is where its content has [Geometry.Sector]. It looks there and
// at the end. Errors: [ErrNotFound], [ErrCutOff].
func Open(file io.ReaderAt, size, head int64) (*Reader, error) {
	g, err := FindGeometry(file, size, head)
	if err != nil {
		return nil, err
	}
	return openGeometry(file, size, g)
}

// FindGeometry returns the geometry of a file as [Open] does, without the checksums, of which there are four bytes a block.
func FindGeometry(file io.ReaderAt, size, head int64) (Geometry, error) {
	for _, from := range []int64{head, max(0, size-8*SectorSize)} {
		g, err := findGeometry(file, from, min(size, from+8*SectorSize), head)
		if !errors.Is(err, ErrNotFound) {
			return g, cmp.Or(err, g.checkLength(size))
		}
	}
	return Geometry{}, ErrNotFound
}

// Search opens a file of which beginning and end are damaged: it looks for the geometry everywhere.
func Search(ctx context.Context, file io.ReaderAt, size, head int64) (*Reader, error) {
	g, err := SearchGeometry(ctx, file, size, head)
	if err != nil {
		return nil, err
	}
	return openGeometry(file, size, g)
}

// SearchGeometry returns the geometry of a file as [Search] does.
func SearchGeometry(ctx context.Context, file io.ReaderAt, size, head int64) (Geometry, error) {
	const step = 1 << 20
	for from := int64(0); from < size; from += step {
		if ctx.Err() != nil {
			return Geometry{}, ctx.Err()
		}
		g, err := findGeometry(file, from, min(size, from+step), head)
		if !errors.Is(err, ErrNotFound) {
			return g, cmp.Or(err, g.checkLength(size))
		}
	}
	return Geometry{}, ErrNotFound
}

// checkLength returns an error for a file that ends before its parity.
func (g Geometry) checkLength(size int64) error {
	if size <= g.tableOffset() {
		return fmt.Errorf("%w, at byte %d of %d", ErrCutOff, size, g.End())
	}
	return nil
}

// findGeometry looks for a descriptor in a part of a file, at one of its places: content may be another file with
// parity.
func findGeometry(file io.ReaderAt, from, to, head int64) (Geometry, error) {
	from -= from % descriptorSize
	part := make([]byte, max(0, to-from))
	readSectors(file, from, part)
	for at := 0; at+descriptorSize <= len(part); at += descriptorSize {
		next := bytes.Index(part[at:], []byte(descriptorMagic))
		if next < 0 {
			break
		}
		if at = int(roundUp(int64(at+next), descriptorSize)); at+descriptorSize > len(part) {
			break
		}
		g, err := parseDescriptor(part[at : at+descriptorSize])
		if err != nil {
			continue
		}
		for _, place := range []int64{head, g.headOffset(), g.tailOffset()} {
			if offset := from + int64(at); offset >= place && offset < place+SectorSize {
				return g, nil
			}
		}
	}
	return Geometry{}, ErrNotFound
}

// readSectors reads what can be read; the rest is zeros.
func readSectors(file io.ReaderAt, offset int64, to []byte) {
	if n, err := file.ReadAt(to, offset); err == nil || err == io.EOF {
		clear(to[n:])
		return
	}
	for at := 0; at < len(to); at += SectorSize {
		sector := to[at:min(len(to), at+SectorSize)]
		if n, err := file.ReadAt(sector, offset+int64(at)); err != nil {
			clear(sector[n:])
		}
	}
}

func openGeometry(file io.ReaderAt, size int64, g Geometry) (*Reader, error) {
	code, err := newCode(g.Data, g.Parity)
	if err != nil {
		return nil, err
	}
	r := &Reader{Geometry: g, file: file, size: size, code: code, tried: map[int64]bool{}, slots: map[int64]int64{}}
	return r, r.loadTable()
}

// Close removes what was healed.
func (r *Reader) Close() error {
	if r.healed == nil {
		return nil
	}
	err := r.healed.Close()
	if !r.isUnlinked {
		err = errors.Join(err, os.Remove(r.healed.Name()))
	}
	return err
}

// loadTable reads the checksums and heals them.
func (r *Reader) loadTable() error {
	g := r.Geometry
	data, parity := g.tableCode()
	code, err := newCode(data, parity)
	if err != nil {
		return err
	}
	table := make([]byte, g.tableBlocks()*tableBlock)
	tableParity := make([]byte, g.tableStripes()*int64(parity)*tableBlock)
	readSectors(r.file, g.tableOffset(), table)
	readSectors(r.file, g.tableParityOffset(), tableParity)
	r.sums, r.known = make([]uint32, g.all()), make([]bool, g.tableBlocks())
	for stripe := range g.tableStripes() {
		shards, stored, intact := make([][]byte, data+parity), make([][]byte, data+parity), make([]bool, data+parity)
		for i := range shards {
			block := int64(i)*g.tableStripes() + stripe
			switch {
			case i >= data:
				block -= int64(data) * g.tableStripes()
				stored[i] = tableParity[block*tableBlock : (block+1)*tableBlock]
			case block < g.tableBlocks():
				stored[i] = table[block*tableBlock : (block+1)*tableBlock]
			default:
				shards[i], intact[i] = make([]byte, tablePayload), true
				continue
			}
			shards[i], intact[i] = stored[i][:tablePayload], isTableBlock(stored[i])
			if !intact[i] {
				r.badTable++
			}
		}
		code.heal(shards, intact, func(i int, _ []byte) bool { return stored[i] != nil && isTableBlock(stored[i]) })
		for i := range data {
			if block := int64(i)*g.tableStripes() + stripe; block < g.tableBlocks() {
				r.known[block] = intact[i]
				r.readSums(block, shards[i])
			}
		}
	}
	return nil
}

// readSums reads a block of the table.
func (r *Reader) readSums(block int64, payload []byte) {
	for i := range int64(tablePayload / 4) {
		if at := block*tablePayload/4 + i; at < int64(len(r.sums)) {
			r.sums[at] = binary.BigEndian.Uint32(payload[4*i:])
		}
	}
}

// isKnown reports whether there is a checksum of a block.
func (r *Reader) isKnown(block int64) bool { return r.known[block/(tablePayload/4)] }

// isRight reports whether a block is what the table says; the blocks of parity are behind those of the content.
func (r *Reader) isRight(block int64, content []byte) bool {
	return r.isKnown(block) && r.sums[block] == crc32.Checksum(content, castagnoli)
}

// isSuspect reports whether the table tells that a block is wrong.
func (r *Reader) isSuspect(block int64, content []byte) bool {
	return r.isKnown(block) && r.sums[block] != crc32.Checksum(content, castagnoli)
}

// Size returns the size of the file as it should be, at least.
func (r *Reader) Size() int64 { return max(r.size, r.Geometry.End()) }

// ReadAt reads the file, with the content healed. What cannot be healed is as it stands there, or an error where it
// cannot be read at all. The parity is not healed: [Write] makes it again.
func (r *Reader) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, fmt.Errorf("offset %d", offset)
	}
	n := min(int64(len(p)), r.Size()-offset)
	if n <= 0 {
		return 0, io.EOF
	}
	content := max(0, min(n, r.Geometry.Size-offset))
	if err := r.readContent(p[:content], offset, r.Fallback, isUnknown); err != nil {
		return 0, err
	}
	readSectors(r.file, offset+content, p[content:n])
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// verdict is what becomes of a block that does not match its checksum, or has none.
type verdict uint8

const (
	// isIntact is a block that is right as it stands there, isHealed one that was restored.
	isIntact verdict = iota
	isHealed
	// isUnknown is a block that nothing is known of, isLost one that is wrong, or cannot be read.
	isUnknown
	isLost
)

// healBlock restores a block in place, from its stripe or from a fallback if there is one.
func (r *Reader) healBlock(ctx context.Context, block int64, content []byte, unread error, fallback io.ReaderAt) (verdict, error) {
	slot, err := r.findSlot(ctx, block)
	if err != nil {
		return isLost, err
	}
	if slot != nil && *slot != inPlace {
		_, err := r.healed.ReadAt(content, *slot*int64(len(content)))
		return isHealed, err
	}
	if slot != nil {
		return isIntact, nil
	}
	if restored := r.readFallback(block, fallback); restored != nil {
		if unread == nil && bytes.Equal(restored, content) {
			return isIntact, nil
		}
		copy(content, restored)
		return isHealed, nil
	}
	if unread == nil && !r.isKnown(block) {
		return isUnknown, nil
	}
	return isLost, nil
}

// readFallback reads a block where the file cannot heal itself; nil if it is not there either.
func (r *Reader) readFallback(block int64, fallback io.ReaderAt) []byte {
	if fallback == nil {
		return nil
	}
	size := int64(r.Geometry.Block)
	restored := make([]byte, size)
	n := min(size, r.Geometry.Size-block*size)
	if _, err := fallback.ReadAt(restored[:n], block*size); err != nil || r.isSuspect(block, restored) {
		return nil
	}
	return restored
}

// Strict returns the content to read, with [ErrLost] for what is not known to be right and cannot be healed.
func (r *Reader) Strict() io.ReaderAt { return strictReader{r} }

type strictReader struct{ r *Reader }

func (s strictReader) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 || offset+int64(len(p)) > s.r.Geometry.Size {
		return 0, io.EOF
	}
	// What the others are read for must not be read from them.
	if err := s.r.readContent(p, offset, nil, isHealed); err != nil {
		return 0, err
	}
	return len(p), nil
}

// runSize is how much is read at once.
const runSize = 256 << 10

// readContent reads content that is not worse than accepted. What is lost is left as it is where unknown content is
// accepted, if it can be read: who knows its digest tells whether it is right.
func (r *Reader) readContent(p []byte, offset int64, fallback io.ReaderAt, accepted verdict) error {
	size := int64(r.Geometry.Block)
	run := make([]byte, min(roundUp(offset%size+int64(len(p)), size), max(size, runSize)))
	for len(p) > 0 {
		first := offset / size
		run := run[:min(int64(len(run)), roundUp(offset%size+int64(len(p)), size))]
		unread := r.readRun(first, run)
		for k := range int64(len(run)) / size {
			block := run[k*size : (k+1)*size]
			if unread[k] == nil && r.isRight(first+k, block) {
				continue
			}
			found, err := r.healBlock(context.Background(), first+k, block, unread[k], fallback)
			if err != nil {
				return err
			}
			if found > accepted && (accepted != isUnknown || unread[k] != nil) {
				return cmp.Or(unread[k], ErrLost)
			}
		}
		n := copy(p, run[offset%size:])
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// readRun reads neighboring blocks of the content, and the errors of those that cannot be read, which are zeros then.
// Behind the content are zeros.
func (r *Reader) readRun(first int64, run []byte) []error {
	size := int64(r.Geometry.Block)
	unread := make([]error, int64(len(run))/size)
	inside := run[:max(0, min(int64(len(run)), r.Geometry.Size-first*size))]
	clear(run[len(inside):])
	r.readParts(first*size, inside, unread)
	return unread
}

// readParts reads blocks one by one where they cannot be read together.
func (r *Reader) readParts(offset int64, to []byte, unread []error) {
	if _, err := r.file.ReadAt(to, offset); err == nil {
		return
	}
	size := r.Geometry.Block
	for k := range (len(to) + size - 1) / size {
		block := to[k*size : min(len(to), (k+1)*size)]
		if n, err := r.file.ReadAt(block, offset+int64(k*size)); n < len(block) {
			clear(block[n:])
			unread[k] = unexpectedEOF(err)
		}
	}
}

// findSlot returns where a healed block is, nil for one that is not. It heals the stripe first where nobody has tried to.
func (r *Reader) findSlot(ctx context.Context, block int64) (*int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	group := block % r.Geometry.stripes() / r.stripesAtOnce()
	if !r.tried[group] {
		if err := r.healGroup(ctx, group); err != nil {
			return nil, err
		}
		r.tried[group] = true
	}
	if slot, ok := r.slots[block]; ok {
		return &slot, nil
	}
	return nil, nil
}

// stripeMemory is where stripes are read to that are healed, for all readers in turn.
var stripeMemory sync.Pool

// takeStripes returns memory for the parts of stripes, and what gives it back.
func (r *Reader) takeStripes(width int64) (runs [][]byte, free func()) {
	runs = make([][]byte, r.Geometry.Data+r.Geometry.Parity)
	need := width * int64(len(runs))
	memory, _ := stripeMemory.Get().(*[]byte)
	if memory == nil || int64(len(*memory)) < need {
		fresh := make([]byte, need)
		memory = &fresh
	}
	for i := range int64(len(runs)) {
		runs[i] = (*memory)[i*width : (i+1)*width : (i+1)*width]
	}
	return runs, func() { stripeMemory.Put(memory) }
}

// healMemory is what the stripes that are healed at once take, unless one takes more.
const healMemory = 32 << 20

func (r *Reader) stripesAtOnce() int64 {
	g := r.Geometry
	return max(1, min(g.stripes(), healMemory/int64((g.Data+g.Parity)*g.Block)))
}

// healGroup heals neighboring stripes and keeps the blocks of the content that were wrong.
func (r *Reader) healGroup(ctx context.Context, group int64) error {
	g, size := r.Geometry, int64(r.Geometry.Block)
	first := group * r.stripesAtOnce()
	count := min(r.stripesAtOnce(), g.stripes()-first)
	runs, free := r.takeStripes(count * size)
	defer free()
	unread := make([][]error, g.Data+g.Parity)
	for i := range runs {
		if i < g.Data {
			unread[i] = r.readRun(int64(i)*g.stripes()+first, runs[i])
			continue
		}
		unread[i] = make([]error, count)
		r.readParts(g.parityOffset()+(int64(i-g.Data)*g.stripes()+first)*size, runs[i], unread[i])
	}
	for k := range count {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		stripe := first + k
		blockOf := func(i int) int64 {
			if i < g.Data {
				return int64(i)*g.stripes() + stripe
			}
			return g.blocks() + int64(i-g.Data)*g.stripes() + stripe
		}
		isRight := func(i int, content []byte) bool {
			if block := blockOf(i); i >= g.Data || block < g.blocks() {
				return r.isRight(block, content)
			}
			return true // behind the end
		}
		shards, intact := make([][]byte, len(runs)), make([]bool, len(runs))
		for i, run := range runs {
			shards[i] = run[k*size : (k+1)*size]
			intact[i] = unread[i][k] == nil && isRight(i, shards[i])
		}
		before, sums := slices.Clone(intact), make([]uint32, g.Data)
		for i := range g.Data {
			if !intact[i] {
				sums[i] = crc32.Checksum(shards[i], castagnoli)
			}
		}
		r.code.heal(shards, intact, isRight)
		for i := range g.Data {
			if before[i] || !intact[i] || r.isSuspect(blockOf(i), shards[i]) {
				continue
			}
			if unread[i][k] == nil && crc32.Checksum(shards[i], castagnoli) == sums[i] {
				r.slots[blockOf(i)] = inPlace // only its checksum was lost
				continue
			}
			if err := r.keepHealed(blockOf(i), shards[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepHealed keeps a healed block in a temporary file. One that is there stays: a group can be healed again after an error.
func (r *Reader) keepHealed(block int64, content []byte) error {
	if _, isKept := r.slots[block]; isKept {
		return nil
	}
	if r.healed == nil {
		file, err := os.CreateTemp("", "krtpkg-healed-*")
		if err != nil {
			return fmt.Errorf("keep repaired content: %w", err)
		}
		// Where that works, nothing is left behind by a process that is killed.
		r.healed, r.isUnlinked = file, os.Remove(file.Name()) == nil
	}
	if _, err := r.healed.WriteAt(content, r.kept*int64(r.Geometry.Block)); err != nil {
		return fmt.Errorf("keep repaired content: %w", err)
	}
	r.slots[block] = r.kept
	r.kept++
	return nil
}

// HealedBytes returns how much was healed so far, in blocks.
func (r *Reader) HealedBytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept * int64(r.Geometry.Block)
}
