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
var errNoSet = errors.New("no volume of parity next to it")

// openVolumeSet opens the volumes next to one, with their parity.
func openVolumeSet(name string) (_ *volumeSet, err error) {
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
	readers, sizes := make([]*parity.Reader, len(names)), make([]int64, len(names))
	for i, name := range names {
		file, err := openRegular(name)
		if err != nil {
			continue // lost, for whatever reason
		}
		s.closers = append(s.closers, file)
		if reader, err := openParity(context.Background(), file); err == nil {
			s.closers = append(s.closers, reader)
			readers[i], sizes[i] = reader, reader.Geometry.Size
		}
	}
	shards, err := s.openParityVolumes(volumePattern.FindStringSubmatch(name)[1], sizes)
	if err != nil {
		return nil, err
	}
	files := make([]io.ReaderAt, len(names))
	s.lacking = len(names)
	for i, reader := range readers {
		if reader == nil || sizes[i] != s.info.Volumes[i] {
			continue
		}
		files[i], s.present[i] = reader.Strict(), true
		s.lacking--
	}
	for _, shard := range shards {
		if shard != nil {
			s.lacking--
			s.parity++
		}
	}
	s.reader, err = parity.OpenSet(s.info.set(), files, shards)
	return s, err
}

// SetState is what is there of an archive that has volumes of parity.
type SetState struct {
	// Absent are the numbers of the volumes that are not there, or too damaged for others to be restored from them.
	Absent []int
	// Parity is how many volumes of parity are there.
	Parity int
	// Lacking is how many more files are needed to restore what is absent; 0 if it can be restored.
	Lacking int
}

// InspectSet looks for the volumes next to one, without reading their content. It returns nil if there is no volume of parity.
func InspectSet(name string) (*SetState, error) {
	s, err := openVolumeSet(name)
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
	return state, s.Close()
}

// openParityVolumes opens the volumes of parity that belong to the volumes of a stem. Those of several exports may be
// there: it takes the set that fits most of the volumes, by how many bytes of them are protected.
func (s *volumeSet) openParityVolumes(stem string, sizes []int64) ([]io.ReaderAt, error) {
	entries, err := os.ReadDir(cmp.Or(filepath.Dir(stem), "."))
	if err != nil {
		return nil, err
	}
	type paritySet struct {
		info   setInfo
		shards []io.ReaderAt
		fits   int
	}
	var sets []*paritySet
	for _, entry := range entries {
		name := filepath.Join(filepath.Dir(stem), entry.Name())
		if !IsParityVolume(name) || parityVolumePattern.ReplaceAllString(name, "") != filepath.Clean(stem) {
			continue
		}
		info, shard, err := s.openParityVolume(name)
		if err != nil || len(info.Volumes) != len(s.names) {
			continue // of another export, or damaged
		}
		at := slices.IndexFunc(sets, func(set *paritySet) bool {
			return slices.Equal(info.Volumes, set.info.Volumes) && info.Parity == set.info.Parity
		})
		if at < 0 {
			set := &paritySet{info: info, shards: make([]io.ReaderAt, info.Parity)}
			for i, size := range sizes {
				if size == info.Volumes[i] {
					set.fits++
				}
			}
			at, sets = len(sets), append(sets, set)
		}
		sets[at].shards[info.Number-1] = shard
	}
	if len(sets) == 0 {
		return nil, errNoSet
	}
	best := slices.MaxFunc(sets, func(a, b *paritySet) int { return cmp.Compare(a.fits, b.fits) })
	s.info = best.info
	return best.shards, nil
}

// openParityVolume opens a volume of parity, and what it holds.
func (s *volumeSet) openParityVolume(name string) (info setInfo, shard io.ReaderAt, err error) {
	file, err := openRegular(name)
	if err != nil {
		return info, nil, err
	}
	s.closers = append(s.closers, file)
	reader, err := openParity(context.Background(), file)
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
func HoldsParity(name string) bool {
	s := &volumeSet{}
	_, _, err := s.openParityVolume(name)
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

// open returns the volumes.
func (l *lazySet) open() (*volumeSet, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set == nil && l.err == nil {
		l.set, l.err = openVolumeSet(l.name)
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
	set, err := v.set.open()
	if err != nil {
		return 0, err
	}
	return set.reader.File(v.number).ReadAt(p, offset)
}
