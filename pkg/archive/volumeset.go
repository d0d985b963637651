package archive

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/parity"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// A volume of parity is a tar like the others, with parity of its own, but not a layout: it holds what tells of the set, and
// the parity of all other volumes.
const (
	paritySet    = parityFolder + "set.json"
	parityVolume = parityFolder + "volume"
	// maxParitySet is how many bytes there are at most of the first.
	maxParitySet = 64 << 10
	// parityVolumeRoom is what a volume of parity has besides what the largest other one has.
	parityVolumeRoom = 16 << 10
)

// setInfo is what a volume of parity tells of its set.
type setInfo struct {
	// Volumes are how many bytes of each volume are protected, Parity is how many volumes of parity there are.
	Volumes []int64 `json:"volumes"`
	Parity  int     `json:"parity"`
	// Number is that of this volume of parity, from 1.
	Number int `json:"number"`
}

func (i setInfo) set() parity.Set { return parity.Set{Sizes: i.Volumes, Parity: i.Parity} }

// splitProtected is [Contents.Split] for volumes with parity.
func (c Contents) splitProtected(limit int64) ([]Contents, error) {
	sizeOf := func(content int64) (int64, error) {
		g, err := parity.NewGeometry(max(1, content), c.Parity)
		return g.End() + int64(len(trailer)), err
	}
	room := limit
	for room > 0 {
		size, err := sizeOf(room)
		if err != nil {
			return nil, err
		}
		if size <= limit {
			break
		}
		room -= max(block, size-limit)
	}
	// What the parity adds to the entries: its own two, and the other end.
	room -= int64(2*block + parity.SectorSize + 3*block - len(trailer))
	if c.ParityVolumes > 0 {
		room -= parityVolumeRoom
	}
	plain := c
	plain.Parity, plain.ParityVolumes = 0, 0
	volumes, err := plain.Split(max(1, room))
	var tooSmall *VolumeSizeError
	if errors.As(err, &tooSmall) {
		need, sizeErr := sizeOf(tooSmall.Need + parityVolumeRoom)
		return nil, errors.Join(&VolumeSizeError{Limit: limit, Need: need, Blob: tooSmall.Blob}, sizeErr)
	}
	if err != nil {
		return nil, err
	}
	for i := range volumes {
		volumes[i].Parity, volumes[i].ParityVolumes = c.Parity, c.ParityVolumes
	}
	return volumes, nil
}

// ParityVolumeNames returns the names of the volumes of parity of a file: edge.tar has edge.parity-1-of-2.tar and so on.
func ParityVolumeNames(name string, n int) []string {
	stem := strings.TrimSuffix(name, ".tar")
	names := make([]string, n)
	width := len(strconv.Itoa(n))
	for i := range names {
		names[i] = fmt.Sprintf("%s.parity-%0*d-of-%d.tar", stem, width, i+1, n)
	}
	return names
}

var parityVolumePattern = regexp.MustCompile(`\.parity-[0-9]+-of-[0-9]+\.tar$`)

// IsParityVolume reports whether a name is one that [ParityVolumeNames] returns.
func IsParityVolume(name string) bool { return parityVolumePattern.MatchString(name) }

// PlanParityVolumes returns the sizes of the volumes of parity that [WriteParityVolumes] would write.
func PlanParityVolumes(volumes []Contents) ([]int64, error) {
	info, err := describeSet(volumes)
	if err != nil {
		return nil, err
	}
	sizes := make([]int64, info.Parity)
	for j := range sizes {
		info.Number = j + 1
		file, err := layOutParityVolume(info, volumes[0].Parity)
		if err != nil {
			return nil, err
		}
		sizes[j] = file.size()
	}
	return sizes, nil
}

func describeSet(volumes []Contents) (setInfo, error) {
	info := setInfo{Parity: volumes[0].ParityVolumes}
	for _, volume := range volumes {
		file, err := volume.layOutFile()
		if err != nil {
			return info, err
		}
		info.Volumes = append(info.Volumes, file.geometry.Size)
	}
	return info, info.set().Check()
}

// layOutParityVolume returns a volume of parity; the content of its last entry is not known yet.
func layOutParityVolume(info setInfo, percent int) (fileLayout, error) {
	data, err := json.Marshal(info)
	if err != nil {
		return fileLayout{}, err
	}
	var all []archiveEntry
	for _, e := range []struct {
		name  string
		entry archiveEntry
	}{
		{parityGeometry, archiveEntry{data: make([]byte, parity.SectorSize)}},
		{paritySet, archiveEntry{data: data}},
		{parityVolume, archiveEntry{desc: ocispec.Descriptor{Size: info.set().ShardSize()}}},
	} {
		if all, err = appendEntry(all, e.name, e.entry, nil); err != nil {
			return fileLayout{}, err
		}
	}
	return layOutEntries(all, percent)
}

// WriteParityVolumes writes the volumes of parity of volumes that are written, next to them: as many lost volumes can be
// read from the others. names are those of the volumes, parityNames those of the volumes of parity. A file that is there
// already is replaced at the end.
func WriteParityVolumes(ctx context.Context, names, parityNames []string, volumes []Contents, report progress.Func) (_ []WrittenFile, err error) {
	info, err := describeSet(volumes)
	if err != nil {
		return nil, err
	}
	var files []io.ReaderAt
	var outputs []*parityOutput
	defer func() {
		for _, output := range outputs {
			err = errors.Join(err, output.file.Close())
		}
	}()
	for _, name := range names {
		file, err := openRegular(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		files = append(files, file)
	}
	var writers []io.WriterAt
	for j, name := range parityNames {
		info.Number = j + 1
		output, err := createParityVolume(name, info, volumes[0].Parity)
		if err != nil {
			return nil, err
		}
		outputs, writers = append(outputs, output), append(writers, output)
	}
	event := progress.Event{Kind: progress.Began, Subject: parityVolume, Detail: "parity of all volumes"}
	for _, size := range info.Volumes {
		event.Bytes += size
	}
	report.Emit(event)
	all := event.Bytes
	event.Kind = progress.Moved
	if err := parity.WriteSet(ctx, info.set(), files, writers, func(bytes int64) {
		event.Bytes = bytes
		report.Emit(event)
	}); err != nil {
		return nil, fmt.Errorf("write the parity of all volumes: %w", err)
	}
	event.Kind, event.Bytes = progress.Copied, all
	report.Emit(event)
	written := make([]WrittenFile, len(outputs))
	for j, output := range outputs {
		if err := output.finish(ctx, report); err != nil {
			return nil, err
		}
		written[j].Size = output.layout.size()
	}
	return written, nil
}

// parityOutput is a volume of parity that is being written.
type parityOutput struct {
	name   string
	layout fileLayout
	file   *os.File
}

func createParityVolume(name string, info setInfo, percent int) (*parityOutput, error) {
	layout, err := layOutParityVolume(info, percent)
	if err != nil {
		return nil, err
	}
	if err := checkRegular(name + partial); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(name+partial, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	for _, e := range layout.entries {
		if _, err := file.WriteAt(append(e.header, e.data...), e.offset); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return &parityOutput{name, layout, file}, nil
}

// WriteAt writes to the entry with the parity of the volumes.
func (o *parityOutput) WriteAt(p []byte, offset int64) (int, error) {
	return o.file.WriteAt(p, o.layout.entries[len(o.layout.entries)-1].contentOffset()+offset)
}

func (o *parityOutput) finish(ctx context.Context, report progress.Func) error {
	if err := errors.Join(o.layout.writeParity(ctx, o.file, report), o.file.Sync()); err != nil {
		return fmt.Errorf("write %s: %w", o.name, err)
	}
	if err := os.Rename(o.name+partial, o.name); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(o.name))
}

// volumeSet are the volumes of an archive with their parity, as far as they are there.
type volumeSet struct {
	info  setInfo
	names []string
	// present are the volumes that are there, lacking is how many files too few there are to restore one.
	present []bool
	lacking int
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
	shards, err := s.openParityVolumes(volumePattern.FindStringSubmatch(name)[1])
	if err != nil {
		return nil, err
	}
	files := make([]io.ReaderAt, len(names))
	s.lacking = len(names)
	for i, name := range names {
		file, err := openRegular(name)
		if err != nil {
			continue // lost, for whatever reason
		}
		s.closers = append(s.closers, file)
		reader, err := openParity(file)
		if err != nil || reader.Geometry.Size != s.info.Volumes[i] {
			continue
		}
		s.closers = append(s.closers, reader)
		files[i], s.present[i] = reader.Strict(), true
		s.lacking--
	}
	for _, shard := range shards {
		if shard != nil {
			s.lacking--
		}
	}
	s.reader, err = parity.OpenSet(s.info.set(), files, shards)
	return s, err
}

// openParity opens the parity of a file, wherever in it something tells of it.
func openParity(file *os.File) (*parity.Reader, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	reader, err := parity.Open(file, info.Size(), geometryOffset)
	if errors.Is(err, parity.ErrNotFound) {
		return parity.Search(context.Background(), file, info.Size(), geometryOffset)
	}
	return reader, err
}

// openParityVolumes opens the volumes of parity that belong to the volumes of a stem.
func (s *volumeSet) openParityVolumes(stem string) ([]io.ReaderAt, error) {
	entries, err := os.ReadDir(cmp.Or(filepath.Dir(stem), "."))
	if err != nil {
		return nil, err
	}
	var shards []io.ReaderAt
	for _, entry := range entries {
		name := filepath.Join(filepath.Dir(stem), entry.Name())
		if !IsParityVolume(name) || parityVolumePattern.ReplaceAllString(name, "") != filepath.Clean(stem) {
			continue
		}
		info, shard, err := s.openParityVolume(name)
		if err != nil || len(info.Volumes) != len(s.names) {
			continue // of another export, or damaged
		}
		if shards == nil {
			s.info, shards = info, make([]io.ReaderAt, info.Parity)
		}
		if slices.Equal(info.Volumes, s.info.Volumes) && info.Parity == s.info.Parity {
			shards[info.Number-1] = shard
		}
	}
	if shards == nil {
		return nil, errNoSet
	}
	return shards, nil
}

// openParityVolume opens a volume of parity, and what it holds.
func (s *volumeSet) openParityVolume(name string) (info setInfo, shard io.ReaderAt, err error) {
	file, err := openRegular(name)
	if err != nil {
		return info, nil, err
	}
	s.closers = append(s.closers, file)
	reader, err := openParity(file)
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

// openRemade returns a lost volume as it is made of the others.
func (s *volumeSet) openRemade(i int) (*remadeFile, error) {
	content := s.reader.File(i)
	sector := make([]byte, parity.SectorSize)
	if _, err := content.ReadAt(sector, geometryOffset); err != nil {
		return nil, err
	}
	g, err := parity.ParseSector(sector)
	if err != nil || g.Size != s.info.Volumes[i] {
		return nil, fmt.Errorf("the parity of the volumes does not fit: %w", ErrDamaged)
	}
	return &remadeFile{name: s.names[i], content: content, geometry: g}, nil
}

// remadeFile is a volume that is read from the others.
type remadeFile struct {
	name     string
	content  io.ReaderAt
	geometry parity.Geometry
}

// ReadAt reads the content; its parity, which nobody needs, is zeros.
func (f *remadeFile) ReadAt(p []byte, offset int64) (int, error) {
	n := min(int64(len(p)), f.size()-offset)
	if n <= 0 {
		return 0, io.EOF
	}
	inside := max(0, min(n, f.geometry.Size-offset))
	if inside > 0 {
		if _, err := f.content.ReadAt(p[:inside], offset); err != nil {
			return 0, err
		}
	}
	clear(p[inside:n])
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (f *remadeFile) Name() string               { return f.name }
func (f *remadeFile) Close() error               { return nil }
func (f *remadeFile) Stat() (fs.FileInfo, error) { return nil, fs.ErrNotExist }
func (f *remadeFile) size() int64                { return f.geometry.End() + int64(len(trailer)) }

// openLostVolumes adds the volumes that are not among the files but can be read from them and from volumes of parity next
// to them.
func (s *Store) openLostVolumes(names []string) error {
	absent := s.AbsentVolumes()
	if len(absent) == 0 {
		return nil
	}
	set, err := openVolumeSet(names[0])
	if err != nil {
		return nil // they stay absent, and whoever needs one says so
	}
	s.set = set
	if set.lacking > 0 || len(set.names) != s.Volumes() {
		return nil
	}
	for _, number := range absent {
		if set.present[number-1] {
			continue // it was left out on purpose
		}
		file, err := set.openRemade(number - 1)
		if err != nil {
			return fmt.Errorf("archive %s: restore volume %d: %w", names[0], number, err)
		}
		s.files = append(s.files, file)
		a, err := s.scanFile(file)
		if err != nil {
			return fmt.Errorf("archive %s: restore volume %d: %w", names[0], number, err)
		}
		if err := s.addVolume(file.name, a); err != nil {
			return fmt.Errorf("archive %s: restore volume %d: %w", names[0], number, err)
		}
		s.remade = append(s.remade, number)
	}
	return nil
}

// Remade returns the numbers of the volumes that were lost and are read from the others.
func (s *Store) Remade() []int { return s.remade }

// lazySet opens the other volumes once something of one has to be restored from them.
type lazySet struct {
	name   string
	number int

	once sync.Once
	set  *volumeSet
	err  error
}

// ReadAt reads the volume as it is made of the others.
func (l *lazySet) ReadAt(p []byte, offset int64) (int, error) {
	l.once.Do(func() { l.set, l.err = openVolumeSet(l.name) })
	if l.err != nil {
		return 0, l.err
	}
	return l.set.reader.File(l.number).ReadAt(p, offset)
}

// Close closes the other volumes.
func (l *lazySet) Close() error {
	if l.set == nil {
		return nil
	}
	return l.set.Close()
}
