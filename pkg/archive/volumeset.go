package archive

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/parity"
)

// volumeSet are the volumes of an archive with their parity, as far as they are there.
type volumeSet struct {
	info  setInfo
	names []string
	// present are the volumes that are there, lacking is how many files too few there are to restore one.
	present []bool
	lacking int
	// parity is how many volumes of parity are there.
	parity  int
	reader  *parity.SetReader
	closers []io.Closer
}

// errNoSet is the error of volumes without parity next to them.
var errNoSet = errors.New("no parity volume next to it")

// openVolumeSet opens the volumes next to one, with their parity.
func openVolumeSet(ctx context.Context, name string) (_ *volumeSet, err error) {
	names, isVolume := Siblings(name)
	if !isVolume {
		return nil, errNoSet
	}
	s := &volumeSet{names: names, present: make([]bool, len(names))}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	// Look for parity volumes first: without them no sibling is opened, and no more than a set may have.
	sets, err := s.openParityVolumes(ctx, name)
	if err != nil {
		return nil, err
	}
	readers, sizes := make([]*parity.Reader, len(names)), make([]int64, len(names))
	for i, name := range names {
		file, err := openRegular(name)
		if err != nil {
			continue // lost, for whatever reason
		}
		s.closers = append(s.closers, file)
		if reader, err := openParity(ctx, file); err == nil {
			s.closers = append(s.closers, reader)
			readers[i], sizes[i] = reader, reader.Geometry.Size
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	best := s.chooseSet(sets, sizes)
	files := make([]io.ReaderAt, len(names))
	for i, isPresent := range s.present {
		if isPresent {
			files[i] = readers[i].Strict()
		}
	}
	s.reader, err = parity.OpenSet(s.info.set(), files, best.shards)
	return s, err
}

// inspectVolumeSet returns the volumes next to one as [openVolumeSet] does, but without opening them to be read.
func inspectVolumeSet(ctx context.Context, name string) (_ *volumeSet, err error) {
	names, isVolume := Siblings(name)
	if !isVolume {
		return nil, errNoSet
	}
	s := &volumeSet{names: names, present: make([]bool, len(names))}
	sets, err := s.openParityVolumes(ctx, name)
	if err := errors.Join(err, s.Close()); err != nil {
		return nil, err
	}
	sizes := make([]int64, len(names))
	for i, name := range names {
		if sizes[i], err = protectedSize(ctx, name); err != nil {
			return nil, err
		}
	}
	s.chooseSet(sets, sizes)
	return s, nil
}

// protectedSize returns how many bytes of a file its parity protects; 0 for a file that is lost, for whatever reason, or has none.
func protectedSize(ctx context.Context, name string) (size int64, err error) {
	file, err := openRegular(name)
	if err != nil {
		return 0, nil
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	g, err := findParity(ctx, file)
	if err != nil {
		return 0, ctx.Err()
	}
	return g.Size, nil
}

// SetState is what is there of an archive that has volumes of parity.
type SetState struct {
	// Absent are the numbers of the volumes that are not there, or too damaged for others to be restored from them. Those of
	// another export, to which the volumes of parity do not belong, count as not there.
	Absent []int
	// Parity is how many volumes of parity are there.
	Parity int
	// Lacking is how many more files are needed to restore what is absent; 0 if it can be restored.
	Lacking int
}

// InspectSet looks for the volumes next to one, without reading their content. It returns nil if there is no volume of parity,
// or none that belongs to any of the volumes. The result is the same for all volumes of an archive.
func InspectSet(ctx context.Context, name string) (*SetState, error) {
	s, err := inspectVolumeSet(ctx, name)
	if errors.Is(err, errNoSet) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	state := &SetState{Parity: s.parity, Lacking: max(0, s.lacking)}
	for i, isPresent := range s.present {
		if !isPresent {
			state.Absent = append(state.Absent, i+1)
		}
	}
	if len(state.Absent) == len(s.names) {
		return nil, nil
	}
	return state, nil
}

// openedParity are the volumes of parity of one export.
type openedParity struct {
	info   setInfo
	shards []io.ReaderAt
}

// countFits returns how many volumes fit, by how many bytes of them are protected.
func (p *openedParity) countFits(sizes []int64) (n int) {
	for i, size := range sizes {
		if size == p.info.Volumes[i] {
			n++
		}
	}
	return n
}

// chooseSet takes the volumes of parity that fit most of the volumes, and records what is there of their set.
func (s *volumeSet) chooseSet(sets []*openedParity, sizes []int64) *openedParity {
	best := slices.MaxFunc(sets, func(a, b *openedParity) int { return cmp.Compare(a.countFits(sizes), b.countFits(sizes)) })
	s.info, s.lacking = best.info, len(s.names)
	for i, size := range sizes {
		if s.present[i] = size == s.info.Volumes[i]; s.present[i] {
			s.lacking--
		}
	}
	for _, shard := range best.shards {
		if shard != nil {
			s.lacking--
			s.parity++
		}
	}
	return best
}

// openParityVolumes opens the volumes of parity next to a volume. Those of several exports may be there. It returns errNoSet
// if it finds no such volume.
func (s *volumeSet) openParityVolumes(ctx context.Context, name string) (sets []*openedParity, err error) {
	stem := volumePattern.FindStringSubmatch(name)[1]
	entries, err := os.ReadDir(cmp.Or(filepath.Dir(stem), "."))
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		name := filepath.Join(filepath.Dir(stem), entry.Name())
		if !IsParityVolume(name) || parityVolumePattern.ReplaceAllString(name, "") != filepath.Clean(stem) {
			continue
		}
		info, shard, err := s.openParityVolume(ctx, name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil || len(info.Volumes) != len(s.names) {
			continue // of another export, or damaged
		}
		at := slices.IndexFunc(sets, func(set *openedParity) bool {
			return slices.Equal(info.Volumes, set.info.Volumes) && info.Parity == set.info.Parity
		})
		if at < 0 {
			at, sets = len(sets), append(sets, &openedParity{info: info, shards: make([]io.ReaderAt, info.Parity)})
		}
		sets[at].shards[info.Number-1] = shard
	}
	if len(sets) == 0 {
		return nil, errNoSet
	}
	return sets, nil
}

// openParityVolume opens a volume of parity, and what it holds.
func (s *volumeSet) openParityVolume(ctx context.Context, name string) (info setInfo, shard io.ReaderAt, err error) {
	file, err := openRegular(name)
	if err != nil {
		return info, nil, err
	}
	s.closers = append(s.closers, file)
	reader, err := openParity(ctx, file)
	if err != nil {
		return info, nil, err
	}
	s.closers = append(s.closers, reader)
	section := io.NewSectionReader(reader, 0, reader.Geometry.Size)
	entries := tar.NewReader(section)
	for {
		h, err := entries.Next()
		if err != nil {
			return info, nil, fmt.Errorf("%s: %w: %w", name, unexpectedEOF(err), ErrDamaged)
		}
		switch h.Name {
		case paritySet:
			data, err := readLimited(entries, paritySet, h.Size, maxParitySet)
			if err == nil {
				err = oci.UnmarshalJSON(data, &info)
			}
			if err == nil {
				err = info.set().Check()
			}
			if err == nil && (info.Number < 1 || info.Number > info.Parity) {
				err = fmt.Errorf("volume %d of %d of parity", info.Number, info.Parity)
			}
			if err != nil {
				return info, nil, fmt.Errorf("%s: %w: %w", name, err, ErrDamaged)
			}
		case parityVolume:
			if len(info.Volumes) == 0 || h.Size != info.set().ShardSize() {
				return info, nil, fmt.Errorf("%s: %w", name, ErrDamaged)
			}
			offset, err := section.Seek(0, io.SeekCurrent)
			return info, io.NewSectionReader(reader.Strict(), offset, h.Size), err
		}
	}
}

// HoldsParity reports whether a file is a volume of parity.
func HoldsParity(ctx context.Context, name string) bool {
	s := &volumeSet{}
	_, _, err := s.openParityVolume(ctx, name)
	return errors.Join(err, s.Close()) == nil
}

// Close closes the files.
func (s *volumeSet) Close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// lazySet opens the volumes of an archive once something of one has to be restored from the others.
type lazySet struct {
	// name is that of one of the volumes.
	name string

	mu  sync.Mutex
	set *volumeSet
	err error
}

// openOnce returns the volumes.
func (l *lazySet) openOnce() (*volumeSet, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set == nil && l.err == nil {
		l.set, l.err = openVolumeSet(context.Background(), l.name)
	}
	return l.set, l.err
}

// Close closes the volumes. Each that shares them does.
func (l *lazySet) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set == nil {
		return nil
	}
	set := l.set
	l.set, l.err = nil, os.ErrClosed
	return set.Close()
}

// setVolume is a volume as it is made of the others.
type setVolume struct {
	set    *lazySet
	number int
}

// ReadAt implements [io.ReaderAt].
func (v setVolume) ReadAt(p []byte, offset int64) (int, error) {
	set, err := v.set.openOnce()
	if err != nil {
		return 0, err
	}
	return set.reader.File(v.number).ReadAt(p, offset)
}
