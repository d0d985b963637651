package parity

import (
	"bytes"
	"context"
	"slices"
)

// Range is a part of a file.
type Range struct{ Offset, Length int64 }

// End returns where the part ends.
func (r Range) End() int64 { return r.Offset + r.Length }

// Damage is what [Reader.Survey] found.
type Damage struct {
	// Content are the parts of the content that are damaged, in blocks; Lost are those that cannot be healed.
	Content, Lost []Range
	// Unknown are the parts of the content that nothing is known of, in blocks: too many of the checksums are damaged.
	Unknown []Range
	// Parity is how many bytes of the parity are damaged, in blocks.
	Parity int64
}

// IsNone reports whether nothing is damaged.
func (d *Damage) IsNone() bool { return len(d.Content) == 0 && len(d.Unknown) == 0 && d.Parity == 0 }

// CountBytes returns how much some parts of a file are.
func CountBytes(parts []Range) (n int64) {
	for _, part := range parts {
		n += part.Length
	}
	return n
}

// Survey reads the whole file and heals what can be healed. report receives how many bytes were read, or is nil.
func (r *Reader) Survey(ctx context.Context, report func(bytes int64)) (*Damage, error) {
	g, size := r.Geometry, int64(r.Geometry.Block)
	found := &Damage{Parity: int64(r.badTable) * tableBlock}
	var bad []int64
	run := make([]byte, max(size, runSize))
	for first := int64(0); first < g.blocks(); first += int64(len(run)) / size {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		run := run[:min(int64(len(run)), (g.blocks()-first)*size)]
		unread := r.readRun(first, run)
		for k := range int64(len(run)) / size {
			if unread[k] != nil || !r.isRight(first+k, run[k*size:(k+1)*size]) {
				bad = append(bad, first+k)
			}
		}
		if report != nil {
			report(int64(len(run)))
		}
	}
	if err := r.surveyParity(ctx, found, report); err != nil {
		return nil, err
	}
	// Group by group, so that each is read once.
	order := slices.Clone(bad)
	slices.SortFunc(order, func(a, b int64) int { return int(a%g.stripes() - b%g.stripes()) })
	block := make([]byte, size)
	verdicts := make([]verdict, g.blocks())
	for _, at := range order {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		unread := r.readRun(at, block)[0]
		found, err := r.healBlock(ctx, at, block, unread, r.Fallback)
		if err != nil {
			return nil, err
		}
		verdicts[at] = found
	}
	for _, at := range bad {
		part := Range{at * size, min(size, g.Size-at*size)}
		switch verdicts[at] {
		case isIntact:
		case isUnknown:
			found.Unknown = appendRange(found.Unknown, part)
		case isLost:
			found.Lost = appendRange(found.Lost, part)
			fallthrough
		case isHealed:
			found.Content = appendRange(found.Content, part)
		}
	}
	return found, nil
}

// appendRange joins neighbors.
func appendRange(parts []Range, next Range) []Range {
	if n := len(parts); n > 0 && parts[n-1].End() == next.Offset {
		parts[n-1].Length += next.Length
		return parts
	}
	return append(parts, next)
}

// surveyParity counts what is damaged of the parity: blocks, copies of the geometry and what is between them.
func (r *Reader) surveyParity(ctx context.Context, found *Damage, report func(int64)) error {
	g, size := r.Geometry, int64(r.Geometry.Block)
	count := g.stripes() * int64(g.Parity)
	run := make([]byte, max(size, runSize))
	for first := int64(0); first < count; first += int64(len(run)) / size {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		run := run[:min(int64(len(run)), (count-first)*size)]
		unread := make([]error, int64(len(run))/size)
		r.readParts(g.parityOffset()+first*size, run, unread)
		for k := range unread {
			at := int64(k)
			if unread[k] != nil || !r.isRight(g.blocks()+first+at, run[at*size:(at+1)*size]) {
				found.Parity += size
			}
		}
		if report != nil {
			report(int64(len(run)))
		}
	}
	_, tableParity := g.tableCode()
	for _, part := range []struct {
		from int64
		want []byte
	}{
		{g.Size, make([]byte, g.headOffset()-g.Size)},
		{g.headOffset(), g.Sector()},
		{g.tableOffset() + g.tableBlocks()*tableBlock, make([]byte, g.parityOffset()-g.tableOffset()-g.tableBlocks()*tableBlock)},
		{g.tableParityOffset() + g.tableStripes()*int64(tableParity)*tableBlock, make([]byte, g.tailOffset()-g.tableParityOffset()-g.tableStripes()*int64(tableParity)*tableBlock)},
		{g.tailOffset(), g.Sector()},
	} {
		have := make([]byte, len(part.want))
		readSectors(r.file, part.from, have)
		if !bytes.Equal(have, part.want) {
			found.Parity += int64(len(part.want))
		}
	}
	return nil
}
