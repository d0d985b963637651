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
	"github.com/rogpeppe/go-internal/lockedfile"

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
	// What has to go of the content for so much to go of the file.
	shrink := func(excess int64) int64 { return excess / int64(100+c.Parity) * 100 }
	room := min(limit, parity.MaxSize)
	for room > 0 {
		size, err := sizeOf(room)
		if err != nil {
			return nil, err
		}
		if size <= limit {
			break
		}
		room -= max(block, shrink(size-limit))
	}
	// What the parity adds to the entries: its own two, and the other end.
	room -= int64(2*block + parity.SectorSize + 3*block - len(trailer))
	if c.ParityVolumes > 0 {
		room -= parityVolumeRoom
	}
	plain := c
	plain.Parity, plain.ParityVolumes = 0, 0
	for {
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
		// A few bytes less can take more parity, where stripes get longer.
		largest, err := largestVolume(volumes)
		if err != nil || largest <= limit {
			return volumes, err
		}
		room -= max(block, shrink(largest-limit))
	}
}

// largestVolume returns the size of the largest volume, of those of parity too.
func largestVolume(volumes []Contents) (largest int64, err error) {
	var sizes []int64
	if volumes[0].ParityVolumes > 0 {
		if sizes, err = PlanParityVolumes(volumes); err != nil {
			return 0, err
		}
	}
	for _, volume := range volumes {
		size, err := volume.Size()
		if err != nil {
			return 0, err
		}
		sizes = append(sizes, size)
	}
	return slices.Max(sizes), nil
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
// already is replaced at the end. A volume that is damaged is healed as it is read; more damage than that is [ErrDamaged].
func WriteParityVolumes(ctx context.Context, names, parityNames []string, volumes []Contents, report progress.Func) (_ []WrittenFile, err error) {
	info, err := describeSet(volumes)
	if err != nil {
		return nil, err
	}
	var files []io.ReaderAt
	var outputs []*parityOutput
	defer func() {
		for _, output := range outputs {
			err = errors.Join(err, output.Close())
		}
	}()
	for i, name := range names {
		file, err := openProtected(ctx, name)
		if err == nil && (file == nil || file.reader.Geometry.Size != info.Volumes[i]) {
			err = errors.Join(ErrDamaged, closeProtected(file))
		}
		if err != nil {
			return nil, fmt.Errorf("read volume %s: %w", name, err)
		}
		defer file.Close()
		// An export keeps what it finds written, so it may be damaged since.
		files = append(files, namedReader{file.reader.Strict(), name})
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

// namedReader names a volume that cannot be read.
type namedReader struct {
	io.ReaderAt
	name string
}

func (r namedReader) ReadAt(p []byte, offset int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, offset)
	if errors.Is(err, parity.ErrLost) {
		err = fmt.Errorf("volume %s: %w: %w", r.name, err, ErrDamaged)
	}
	return n, err
}

// closeProtected closes a file, nil for none.
func closeProtected(file *healedFile) error {
	if file == nil {
		return nil
	}
	return file.Close()
}

// parityOutput is a volume of parity that is being written.
type parityOutput struct {
	name   string
	layout fileLayout
	file   *lockedfile.File
	// isFinished is set once the file has its name.
	isFinished bool
}

func createParityVolume(name string, info setInfo, percent int) (*parityOutput, error) {
	layout, err := layOutParityVolume(info, percent)
	if err != nil {
		return nil, err
	}
	file, err := openPartial(name + partial)
	if err != nil {
		return nil, err
	}
	o := &parityOutput{name: name, layout: layout, file: file}
	err = file.Truncate(0)
	for _, e := range layout.entries {
		if err == nil {
			_, err = file.WriteAt(append(e.header, e.data...), e.offset)
		}
	}
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// Close closes the file, and removes it if it is not finished: it cannot be gone on with.
func (o *parityOutput) Close() error {
	err := o.file.Close()
	if !o.isFinished {
		err = errors.Join(err, os.Remove(o.name+partial))
	}
	return err
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
	o.isFinished = true
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
		}
	}
	s.reader, err = parity.OpenSet(s.info.set(), files, shards)
	return s, err
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

// openRemade returns a lost volume as it is made of the others.
func (s *volumeSet) openRemade(i int) (*remadeFile, error) {
	content := s.reader.File(i)
	sector := make([]byte, parity.SectorSize)
	if _, err := content.ReadAt(sector, geometryOffset); err != nil {
		return nil, (&remadeFile{name: s.names[i]}).explain(err)
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
			return 0, f.explain(err)
		}
	}
	clear(p[inside:n])
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// explain returns the error of a read: what cannot be restored is damaged.
func (f *remadeFile) explain(err error) error {
	if errors.Is(err, parity.ErrLost) {
		return fmt.Errorf("volume %s %w: %w", f.name, err, ErrDamaged)
	}
	return err
}

// readWhole reads all of it, so that it is known whether it can be restored.
func (f *remadeFile) readWhole(ctx context.Context, report progress.Func) error {
	event := progress.Event{Kind: progress.Planned, Items: 1, Bytes: f.geometry.Size}
	report.Emit(event)
	event = progress.Event{Kind: progress.Began, Subject: f.name, Detail: "parity", Bytes: f.geometry.Size}
	report.Emit(event)
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, contextReader{ctx, io.NewSectionReader(f, 0, f.geometry.Size)}, make([]byte, 1<<20)); err != nil {
		return err
	}
	event.Kind = progress.Copied
	report.Emit(event)
	return nil
}

func (f *remadeFile) Name() string               { return f.name }
func (f *remadeFile) Close() error               { return nil }
func (f *remadeFile) Stat() (fs.FileInfo, error) { return nil, fs.ErrNotExist }
func (f *remadeFile) size() int64                { return f.geometry.End() + int64(len(trailer)) }

// openLostVolumes adds the volumes that are not among the files but can be read from them and from volumes of parity next
// to them. What cannot be read so stays absent, and whoever needs it says so; the error tells why.
func (s *Store) openLostVolumes(names []string) error {
	absent := s.AbsentVolumes()
	if len(absent) == 0 {
		return nil
	}
	set, err := openVolumeSet(names[0])
	if errors.Is(err, errNoSet) {
		return nil
	}
	if err != nil {
		return err
	}
	s.set = set
	if len(set.names) != s.Volumes() {
		return nil
	}
	if set.lacking > 0 {
		return set.absentError()
	}
	var failures []error
	for _, number := range absent {
		if set.present[number-1] {
			continue // it was left out on purpose
		}
		if err := s.openLostVolume(number); err != nil {
			failures = append(failures, fmt.Errorf("restore volume %d: %w", number, err))
			continue
		}
		s.remade = append(s.remade, number)
	}
	return errors.Join(failures...)
}

// openLostVolume adds a volume that is read from the others.
func (s *Store) openLostVolume(number int) error {
	file, err := s.set.openRemade(number - 1)
	if err != nil {
		return err
	}
	found, err := s.scanFile(file)
	if err != nil {
		return err
	}
	if found.index.volume != number || s.info.archiveID() != found.index.archiveID() {
		return fmt.Errorf("%s: the parity of the volumes does not fit: %w", file.name, ErrDamaged)
	}
	return s.addFile(file.name, found)
}

// absentError is the error of too few files to restore one.
func (s *volumeSet) absentError() error {
	e := &AbsentVolumesError{Of: len(s.names)}
	for i, isPresent := range s.present {
		if isPresent {
			e.Near = append(e.Near, filepath.Base(s.names[i]))
		} else {
			e.Volumes = append(e.Volumes, i+1)
		}
	}
	return fmt.Errorf("%d more files needed to restore a volume: %w", s.lacking, e)
}

// Remade returns the numbers of the volumes that were lost and are read from the others.
func (s *Store) Remade() []int { return s.remade }

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
