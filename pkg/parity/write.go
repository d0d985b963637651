package parity

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// File is a file to read and to write anywhere.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// groupMemory is how much the parity of the stripes that are worked on at once takes.
const groupMemory = 16 << 20

// Write writes the parity of the first g.Size bytes of a file behind them, up to [Geometry.End]. It reads each byte
// once, in long runs, and takes 32 MiB of memory at most but for the checksums and their parity, twelve bytes a block. report receives
// how many bytes were read, or is nil.
func Write(ctx context.Context, file File, g Geometry, report func(bytes int64)) error {
	code, err := newCode(g.Data, g.Parity)
	if err != nil {
		return err
	}
	sums := make([]uint32, g.all())
	perGroup := max(1, groupMemory/int64(g.Parity*g.Block))
	for first := int64(0); first < g.stripes(); first += perGroup {
		if err := writeGroup(ctx, file, g, code, sums, first, min(perGroup, g.stripes()-first), report); err != nil {
			return err
		}
	}
	if err := fillZeros(file, g.Size, g.headOffset()); err != nil {
		return err
	}
	if _, err := file.WriteAt(g.Sector(), g.headOffset()); err != nil {
		return err
	}
	if err := writeTable(file, g, sums); err != nil {
		return err
	}
	_, err = file.WriteAt(g.Sector(), g.tailOffset())
	return err
}

// writeGroup writes the parity of neighboring stripes.
func writeGroup(ctx context.Context, file File, g Geometry, c *code, sums []uint32, first, count int64, report func(int64)) error {
	width := count * int64(g.Block)
	parity := make([][]byte, g.Parity)
	for j := range parity {
		parity[j] = make([]byte, width)
	}
	run := make([]byte, width)
	for i := range g.Data {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		block := int64(i)*g.stripes() + first
		n := min(width, g.Size-block*int64(g.Block))
		if n <= 0 {
			continue // blocks behind the end are zeros, and add nothing
		}
		clear(run[n:])
		if _, err := file.ReadAt(run[:n], block*int64(g.Block)); err != nil {
			return unexpectedEOF(err)
		}
		for k := range count {
			if block+k < g.blocks() {
				sums[block+k] = crc32.Checksum(run[k*int64(g.Block):(k+1)*int64(g.Block)], castagnoli)
			}
		}
		if err := c.encoder.EncodeIdx(run, i, parity); err != nil {
			return err
		}
		if report != nil {
			report(n)
		}
	}
	for j, run := range parity {
		block := int64(j)*g.stripes() + first
		for k := range count {
			sums[g.blocks()+block+k] = crc32.Checksum(run[k*int64(g.Block):(k+1)*int64(g.Block)], castagnoli)
		}
		if _, err := file.WriteAt(run, g.parityOffset()+block*int64(g.Block)); err != nil {
			return err
		}
	}
	return nil
}

// writeTable writes the checksums of all blocks, and their parity.
func writeTable(file io.WriterAt, g Geometry, sums []uint32) error {
	data, parity := g.tableCode()
	code, err := newCode(data, parity)
	if err != nil {
		return err
	}
	table := make([]byte, g.tableBlocks()*tableBlock)
	tableParity := make([]byte, g.tableStripes()*int64(parity)*tableBlock)
	for stripe := range g.tableStripes() {
		shards := make([][]byte, data+parity)
		for i := range shards {
			shards[i] = make([]byte, tablePayload)
			if block := int64(i)*g.tableStripes() + stripe; i < data && block < g.tableBlocks() {
				first := block * tablePayload / 4
				for k, sum := range sums[first:min(int64(len(sums)), first+tablePayload/4)] {
					binary.BigEndian.PutUint32(shards[i][4*k:], sum)
				}
				sealTableBlock(table[block*tableBlock:], shards[i])
			}
		}
		if err := code.encoder.Encode(shards); err != nil {
			return err
		}
		for j := range parity {
			block := int64(j)*g.tableStripes() + stripe
			sealTableBlock(tableParity[block*tableBlock:], shards[data+j])
		}
	}
	for _, part := range []struct {
		data          []byte
		offset, until int64
	}{{table, g.tableOffset(), g.parityOffset()}, {tableParity, g.tableParityOffset(), g.tailOffset()}} {
		if _, err := file.WriteAt(part.data, part.offset); err != nil {
			return err
		}
		if err := fillZeros(file, part.offset+int64(len(part.data)), part.until); err != nil {
			return err
		}
	}
	return nil
}

// sealTableBlock writes a block of the table with its checksum.
func sealTableBlock(to, payload []byte) {
	copy(to, payload)
	binary.BigEndian.PutUint32(to[tablePayload:], crc32.Checksum(payload, castagnoli))
}

// isTableBlock reports whether a block of the table matches its checksum.
func isTableBlock(block []byte) bool {
	return binary.BigEndian.Uint32(block[tablePayload:]) == crc32.Checksum(block[:tablePayload], castagnoli)
}

func fillZeros(file io.WriterAt, from, to int64) error {
	if from == to {
		return nil
	}
	_, err := file.WriteAt(make([]byte, to-from), from)
	return err
}

func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
