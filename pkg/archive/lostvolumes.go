package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"krtpkg.dev/krtpkg/pkg/parity"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// openRemade returns a lost volume as it is made of the others.
func (s *volumeSet) openRemade(i int) (*remadeFile, error) {
	content := s.reader.File(i)
	sector := make([]byte, parity.SectorSize)
	if _, err := content.ReadAt(sector, geometryOffset); err != nil {
		return nil, (&remadeFile{name: s.names[i]}).explainRead(err)
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
			return 0, f.explainRead(err)
		}
	}
	clear(p[inside:n])
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// explainRead returns the error of a read: what cannot be restored is damaged.
func (f *remadeFile) explainRead(err error) error {
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
func (s *Store) openLostVolumes(ctx context.Context, names []string) error {
	absent := s.AbsentVolumes()
	if len(absent) == 0 {
		return nil
	}
	set, err := openVolumeSet(ctx, names[0])
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
		if err := s.openLostVolume(ctx, number); err != nil {
			failures = append(failures, fmt.Errorf("restore volume %d: %w", number, err))
			continue
		}
		s.remade = append(s.remade, number)
	}
	return errors.Join(failures...)
}

// openLostVolume adds a volume that is read from the others.
func (s *Store) openLostVolume(ctx context.Context, number int) error {
	file, err := s.set.openRemade(number - 1)
	if err != nil {
		return err
	}
	found, err := s.scanFile(ctx, file)
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
