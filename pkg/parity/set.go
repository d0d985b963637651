package parity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Set is the code over whole files: as many of them as there are parity files can be lost.
type Set struct {
	// Sizes are how many bytes of each file are protected; shorter ones end in zeros that are not stored.
	Sizes []int64
	// Parity is how many parity files there are, of which each has as many bytes as the largest file.
	Parity int
}

// ErrLost is the error of content that too few files are there for.
var ErrLost = errors.New("cannot be restored: too much is missing")

// Check returns an error if the set is not possible.
func (s Set) Check() error {
	if len(s.Sizes) < 1 || s.Parity < 1 || len(s.Sizes)+s.Parity > maxShards {
		return fmt.Errorf("%d files with %d of parity: want 1 of each or more, at most %d in all", len(s.Sizes), s.Parity, maxShards)
	}
	for _, size := range s.Sizes {
		if size < 1 || size > MaxSize {
			return fmt.Errorf("a file of %d bytes: want 1 to %d", size, int64(MaxSize))
		}
	}
	return nil
}

// ShardSize returns how many bytes a parity file has.
func (s Set) ShardSize() int64 { return slices.Max(s.Sizes) }

// setRun is how much of each file is worked on at once.
const setRun = 1 << 20

// WriteSet writes the parity of files. report receives how many bytes were read, or is nil.
func WriteSet(ctx context.Context, s Set, files []io.ReaderAt, parity []io.WriterAt, report func(bytes int64)) error {
	if err := s.Check(); err != nil {
		return err
	}
	code, err := newCode(len(s.Sizes), s.Parity)
	if err != nil {
		return err
	}
	run, sums := make([]byte, setRun), make([][]byte, s.Parity)
	for j := range sums {
		sums[j] = make([]byte, setRun)
	}
	for offset := int64(0); offset < s.ShardSize(); offset += setRun {
		width := min(setRun, s.ShardSize()-offset)
		for j := range sums {
			sums[j] = sums[j][:width]
			clear(sums[j])
		}
		for i, file := range files {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			n := min(width, s.Sizes[i]-offset)
			if n <= 0 {
				continue
			}
			clear(run[n:])
			if _, err := file.ReadAt(run[:n], offset); err != nil {
				return unexpectedEOF(err)
			}
			if err := code.encoder.EncodeIdx(run[:width], i, sums); err != nil {
				return err
			}
			if report != nil {
				report(n)
			}
		}
		for j, file := range parity {
			if _, err := file.WriteAt(sums[j], offset); err != nil {
				return err
			}
		}
	}
	return nil
}

// SetReader reads files that are lost from those that are there. It is safe for concurrent use.
type SetReader struct {
	set  Set
	code *code
	// shards are the files and their parity, nil where one is lost.
	shards []io.ReaderAt

	mu    sync.Mutex
	cache map[setChunk][]byte
	order []setChunk
}

type setChunk struct {
	shard  int
	offset int64
}

const (
	setChunkSize = 64 << 10
	// setCached is how many chunks are kept: what is read is often read in smaller pieces.
	setCached = 64
)

// OpenSet opens the files of a set with their parity, nil where one is lost. A file that gives anything but its content
// has to return an error instead ([Reader.Strict]).
func OpenSet(s Set, files, parity []io.ReaderAt) (*SetReader, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if len(files) != len(s.Sizes) || len(parity) != s.Parity {
		return nil, fmt.Errorf("%d files with %d of parity: want %d with %d", len(files), len(parity), len(s.Sizes), s.Parity)
	}
	code, err := newCode(len(s.Sizes), s.Parity)
	if err != nil {
		return nil, err
	}
	return &SetReader{set: s, code: code, shards: slices.Concat(files, parity), cache: map[setChunk][]byte{}}, nil
}

// File returns a file as it is made of the others. Its reads return [ErrLost] where too few of those are there.
func (s *SetReader) File(i int) io.ReaderAt { return setFile{s, i} }

type setFile struct {
	set   *SetReader
	shard int
}

func (f setFile) ReadAt(p []byte, offset int64) (int, error) {
	size, done := f.set.set.Sizes[f.shard], 0
	if offset < 0 {
		return 0, fmt.Errorf("offset %d", offset)
	}
	for done < len(p) && offset < size {
		chunk, err := f.set.restoreChunk(setChunk{f.shard, offset - offset%setChunkSize})
		if err != nil {
			return done, err
		}
		n := copy(p[done:], chunk[offset%setChunkSize:min(setChunkSize, size-offset+offset%setChunkSize)])
		done, offset = done+n, offset+int64(n)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// restoreChunk makes a part of a file from the same parts of the others.
func (s *SetReader) restoreChunk(at setChunk) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if chunk := s.cache[at]; chunk != nil {
		return chunk, nil
	}
	shards, there := make([][]byte, len(s.shards)), 0
	for i, shard := range s.shards {
		if i == at.shard || shard == nil || there == s.code.data {
			continue
		}
		size := s.set.ShardSize()
		if i < len(s.set.Sizes) {
			size = s.set.Sizes[i]
		}
		part := make([]byte, setChunkSize)
		if n := min(setChunkSize, size-at.offset); n > 0 {
			if _, err := shard.ReadAt(part[:n], at.offset); err != nil {
				continue
			}
		}
		shards[i] = part
		there++
	}
	if there < s.code.data {
		return nil, ErrLost
	}
	required := make([]bool, len(shards))
	required[at.shard] = true
	if err := s.code.encoder.ReconstructSome(shards, required); err != nil {
		return nil, err
	}
	if len(s.order) == setCached {
		delete(s.cache, s.order[0])
		s.order = s.order[1:]
	}
	s.cache[at], s.order = shards[at.shard], append(s.order, at)
	return shards[at.shard], nil
}
