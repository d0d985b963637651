package delta

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"path"
	"strings"
)

// op makes the next bytes of a tar.
type op struct {
	kind opKind
	size int64
	// new is where the bytes are in the tar, old where the bytes that they come from are in the bases.
	new, old int64
}

type opKind byte

const (
	// opExtra takes bytes from the delta.
	opExtra opKind = iota
	// opCopy takes bytes of the bases as they are.
	opCopy
	// opAdd adds bytes of the delta to bytes of the bases, each modulo 256.
	opAdd
)

// opList collects operations in the order of the tar.
type opList struct {
	ops []op
	end int64
}

// appendOp appends an operation; what goes on where the last one ended is joined with it.
func (l *opList) appendOp(kind opKind, size, old int64) {
	if size == 0 {
		return
	}
	if len(l.ops) > 0 {
		last := &l.ops[len(l.ops)-1]
		if last.kind == kind && (kind == opExtra || last.old+last.size == old) {
			last.size += size
			l.end += size
			return
		}
	}
	l.ops = append(l.ops, op{kind: kind, size: size, new: l.end, old: old})
	l.end += size
}

// tarEntry is an entry of a tar, with the places of its parts.
type tarEntry struct {
	name string
	// start is where its headers begin, with what fills the block before them.
	start, content, size int64
	// blank is set for a rest of a few zeros: that is at the end of every tar, and no reason to read a base.
	blank bool
	sum   [sha256.Size]byte
}

func (e tarEntry) end() int64 { return e.content + e.size }

// maxTarEntries is how many entries of a tar are paired; what follows them is taken as one.
const maxTarEntries = 1_000_000

// listEntries returns the entries of a tar. Where it is not a tar, or no more, the rest is one entry
// without a name: the blocks at its end, or a layer that is another file.
func listEntries(ctx context.Context, file *Scratch) ([]tarEntry, error) {
	section := file.section(0, file.size)
	reader := tar.NewReader(section)
	var all []tarEntry
	end := int64(0)
	for len(all) < maxTarEntries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		header, err := reader.Next()
		if err != nil {
			break
		}
		content, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		e := tarEntry{name: path.Clean("/" + header.Name), start: end, content: content}
		if header.Typeflag == tar.TypeReg {
			e.size = header.Size
		}
		if e.end() > file.size || isSparse(header) {
			break
		}
		if e.size > 0 {
			if err := e.hashContent(file); err != nil {
				return nil, err
			}
		}
		all, end = append(all, e), e.end()
	}
	if end < file.size {
		rest := tarEntry{start: end, content: end, size: file.size - end}
		if err := rest.hashContent(file); err != nil {
			return nil, err
		}
		if rest.size <= maxHeaders {
			data := make([]byte, rest.size)
			if _, err := file.ReadAt(data, rest.content); err != nil {
				return nil, err
			}
			rest.blank = len(bytes.TrimLeft(data, "\x00")) == 0
		}
		all = append(all, rest)
	}
	return all, nil
}

func (e *tarEntry) hashContent(file *Scratch) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, file.section(e.content, e.size)); err != nil {
		return err
	}
	sum.Sum(e.sum[:0])
	return nil
}

// isSparse reports whether the content of an entry is not as long as it says.
func isSparse(header *tar.Header) bool {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return header.Typeflag == tar.TypeGNUSparse
}

// pairing finds for an entry what it may come from.
type pairing struct {
	entries []tarEntry
	bySum   map[[sha256.Size]byte]int
	byName  map[string]int
	byStem  map[string]int
}

func (p *pairing) addOldEntry(e tarEntry) {
	i := len(p.entries)
	p.entries = append(p.entries, e)
	if e.size > 0 {
		keep(p.bySum, e.sum, i)
	}
	keep(p.byName, e.name, i)
	keep(p.byStem, stemOf(e.name), i)
}

// keep sets a key that is not set.
func keep[K comparable](m map[K]int, key K, i int) {
	if _, known := m[key]; !known {
		m[key] = i
	}
}

// stemOf returns a name without its digits: libssl.so.3.0.14 is to be the successor of libssl.so.3.0.13.
func stemOf(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, name)
}

// sameContent returns the entry with the content of another, if possible at its name.
func (p *pairing) sameContent(e tarEntry) (tarEntry, bool) {
	if e.size == 0 {
		return tarEntry{}, false
	}
	if i, ok := p.byName[e.name]; ok && p.entries[i].sum == e.sum && p.entries[i].size == e.size {
		return p.entries[i], true
	}
	i, ok := p.bySum[e.sum]
	if !ok || p.entries[i].size != e.size {
		return tarEntry{}, false
	}
	return p.entries[i], true
}

// findRelative returns the entry that another is the next version of.
func (p *pairing) findRelative(e tarEntry) (tarEntry, bool) {
	i, ok := p.byName[e.name]
	if !ok {
		i, ok = p.byStem[stemOf(e.name)]
	}
	if !ok {
		return tarEntry{}, false
	}
	return p.entries[i], true
}

// computeOps returns the operations that turn bases into a tar.
func computeOps(ctx context.Context, old *baseSet, target *Scratch, maxMemory int64) ([]op, error) {
	p := &pairing{bySum: map[[sha256.Size]byte]int{}, byName: map[string]int{}, byStem: map[string]int{}}
	for i, file := range old.tars {
		entries, err := listEntries(ctx, file)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			e.start, e.content = e.start+old.starts[i], e.content+old.starts[i]
			p.addOldEntry(e)
		}
	}
	entries, err := listEntries(ctx, target)
	if err != nil {
		return nil, err
	}
	f := &finder{old: old, target: target, maxMemory: maxMemory}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := f.addEntry(ctx, p, e); err != nil {
			return nil, err
		}
	}
	return f.list.ops, nil
}

// finder finds operations, one part of the tar after the other.
type finder struct {
	old       *baseSet
	target    *Scratch
	maxMemory int64
	list      opList
	// have and want are contents that are compared, index is that of have: memory to be used again.
	have, want []byte
	index      seedIndex
}

func (f *finder) addEntry(ctx context.Context, p *pairing, e tarEntry) error {
	if e.blank {
		f.list.appendOp(opExtra, e.size, 0)
		return nil
	}
	relative, related := p.findRelative(e)
	if err := f.addHeaders(e, relative, related); err != nil {
		return err
	}
	if same, ok := p.sameContent(e); ok {
		f.list.appendOp(opCopy, e.size, same.content)
		return nil
	}
	if !related || relative.size == 0 {
		f.list.appendOp(opExtra, e.size, 0)
		return nil
	}
	return f.addChanged(ctx, e, relative)
}

// maxHeaders is how long headers are compared.
const maxHeaders = 64 << 10

// addHeaders adds the headers of an entry, as a change of those of its relative.
func (f *finder) addHeaders(e, relative tarEntry, related bool) error {
	size := e.content - e.start
	if !related || relative.content-relative.start < size || size > maxHeaders {
		f.list.appendOp(opExtra, size, 0)
		return nil
	}
	// What stands before the headers differs in length, the headers are aligned at their end.
	from := relative.content - size
	have, want := make([]byte, size), make([]byte, size)
	if _, err := f.old.ReadAt(have, from); err != nil {
		return err
	}
	if _, err := f.target.ReadAt(want, e.start); err != nil {
		return err
	}
	if bytes.Equal(have, want) {
		f.list.appendOp(opCopy, size, from)
	} else {
		f.list.appendOp(opAdd, size, from)
	}
	return nil
}

// addChanged adds content as a change of that of a relative, in windows that memory allows.
func (f *finder) addChanged(ctx context.Context, e, relative tarEntry) error {
	// A byte of the old window takes one, and up to four in its index; a byte of the new one takes one.
	window := max(f.maxMemory/8, 1<<20)
	for at := int64(0); at < e.size; at += window {
		size := min(window, e.size-at)
		from := max(0, at-window/4)
		if from >= relative.size {
			f.list.appendOp(opExtra, e.size-at, 0)
			return nil
		}
		f.have = resize(f.have, min(relative.size-from, window+window/2))
		if _, err := f.old.ReadAt(f.have, relative.content+from); err != nil {
			return err
		}
		f.want = resize(f.want, size)
		if _, err := f.target.ReadAt(f.want, e.content+at); err != nil {
			return err
		}
		m := &matcher{
			list: &f.list, index: &f.index, old: f.have, content: f.want,
			base: relative.content + from, lastOld: int(at - from), offset: int(at - from),
		}
		if err := m.findMatches(ctx); err != nil {
			return err
		}
	}
	return nil
}

// resize returns a slice of a size, in the memory of another one if that suffices.
func resize[T any](s []T, size int64) []T {
	if int64(cap(s)) < size {
		return make([]T, size)
	}
	return s[:size]
}
