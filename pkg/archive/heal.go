package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"krtpkg.dev/krtpkg/pkg/parity"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// DamageError reports a damaged archive that has parity. It is [ErrDamaged].
type DamageError struct {
	// File is the file, or the volume.
	File string
	// Damage is what is damaged, and what of it cannot be healed.
	Damage parity.Damage
	// Items are what the lost parts belong to, such as "layer of IMAGE".
	Items []string
	// IsVerified is set if what has lost its checksums matches its digests.
	IsVerified bool
}

func (e *DamageError) Error() string {
	content, unknown := parity.CountBytes(e.Damage.Content), parity.CountBytes(e.Damage.Unknown)
	if e.IsVerified {
		unknown = 0
	}
	text := ""
	switch {
	case content == 0 && unknown > 0:
		text = fmt.Sprintf("%s of the parity damaged, without which %s of the content cannot be checked", formatBytes(e.Damage.Parity), formatBytes(unknown))
	case content == 0 && len(e.Damage.Unknown) > 0:
		return fmt.Sprintf("%s of the parity damaged, too much to repair anything; the content is intact", formatBytes(e.Damage.Parity))
	case content == 0:
		return fmt.Sprintf("the content is intact, but %s of the parity is damaged", formatBytes(e.Damage.Parity))
	default:
		text = fmt.Sprintf("%s damaged in %s", formatBytes(content), countPlaces(len(e.Damage.Content)))
		if e.IsHealable() {
			return text + "; parity can repair all of it"
		}
		if lost := parity.CountBytes(e.Damage.Lost); lost > 0 {
			text += fmt.Sprintf(", of which %s cannot be repaired", formatBytes(lost))
		} else {
			text += fmt.Sprintf(", and %s more cannot be checked", formatBytes(unknown))
		}
	}
	if len(e.Items) > 0 {
		text += ": " + strings.Join(e.Items, ", ")
	}
	return text
}

func (e *DamageError) Unwrap() error { return ErrDamaged }

// IsHealable reports whether everything can be healed. What has neither a checksum nor a digest cannot.
func (e *DamageError) IsHealable() bool {
	return len(e.Damage.Lost) == 0 && (len(e.Damage.Unknown) == 0 || e.IsVerified)
}

func formatBytes(n int64) string { return humanize.IBytes(uint64(n)) }

func countPlaces(n int) string {
	if n == 1 {
		return "1 place"
	}
	return humanize.Comma(int64(n)) + " places"
}

// Survey reads all files that have parity, and volumes that are read from them, and heals what is damaged; what was healed
// is in the folder for temporary files until the store is closed. It returns what was damaged, file by file, and a [*DamageError] for the first file
// that has more damage than can be healed.
func (s *Store) Survey(ctx context.Context, report progress.Func) ([]DamageError, error) {
	var all []DamageError
	for _, file := range s.files {
		if remade, ok := file.(*remadeFile); ok {
			if err := remade.readWhole(ctx, report); err != nil {
				return nil, err
			}
		}
		healed, ok := file.(*healedFile)
		if !ok {
			continue
		}
		found, err := healed.findDamage(ctx, report)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name(), err)
		}
		if found == nil {
			continue
		}
		if len(found.Damage.Unknown) > 0 {
			if err := s.findLost(ctx, file, found); err != nil {
				return nil, err
			}
		}
		if !found.IsHealable() {
			found.Items = s.nameLost(ctx, file, found.Damage.Lost)
			return nil, found
		}
		all = append(all, *found)
	}
	return all, nil
}

// HealedBytes returns how much was healed so far of what was read, by file.
func (s *Store) HealedBytes() map[string]int64 {
	bytes := map[string]int64{}
	for _, file := range s.files {
		if healed, ok := file.(*healedFile); ok && healed.reader.HealedBytes() > 0 {
			bytes[file.Name()] = healed.reader.HealedBytes()
		}
	}
	return bytes
}

// findDamage returns what of a file is damaged; nil if nothing is.
func (f *healedFile) findDamage(ctx context.Context, report progress.Func) (*DamageError, error) {
	report.Emit(progress.Event{Kind: progress.Planned, Items: 1, Bytes: f.size()})
	event := progress.Event{Kind: progress.Began, Subject: f.Name(), Detail: "parity", Bytes: f.size()}
	report.Emit(event)
	event.Kind = progress.Moved
	damage, err := f.reader.Survey(ctx, func(bytes int64) {
		event.Bytes = bytes
		report.Emit(event)
	})
	if err != nil {
		return nil, err
	}
	event.Kind, event.Bytes = progress.Copied, f.size()
	report.Emit(event)
	// The end of the tar, which nothing else covers.
	end := make([]byte, len(trailer))
	if n, err := f.File.ReadAt(end, f.reader.Geometry.End()); n < len(end) || err != nil && err != io.EOF || !slices.Equal(end, trailer) {
		damage.Parity += int64(len(end))
	}
	if damage.IsNone() {
		return nil, nil
	}
	return &DamageError{File: f.Name(), Damage: *damage}, nil
}

// findLost finds what of a file is lost by its digest, where its checksums are. Names and sizes have checksums in the tar,
// and index.json has one of its own.
func (s *Store) findLost(ctx context.Context, file archiveFile, found *DamageError) error {
	for _, desc := range s.ListContents() {
		section := s.blobs[desc.Digest]
		if section.file != file {
			continue
		}
		var unknown []parity.Range
		for _, part := range found.Damage.Unknown {
			from, to := max(part.Offset, section.offset), min(part.End(), section.offset+section.size)
			if from < to {
				unknown = append(unknown, parity.Range{Offset: from, Length: to - from})
			}
		}
		if len(unknown) == 0 {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.verifyBlob(ctx, desc); err != nil {
			found.Damage.Lost = append(found.Damage.Lost, unknown...)
			found.Damage.Content = append(found.Damage.Content, unknown...)
		}
	}
	byOffset := func(a, b parity.Range) int { return cmp.Compare(a.Offset, b.Offset) }
	slices.SortFunc(found.Damage.Lost, byOffset)
	slices.SortFunc(found.Damage.Content, byOffset)
	found.IsVerified = s.whole[file] // behind what ends too early can be more
	return ctx.Err()
}

// maxNamedLost is how many items are named of those that cannot be healed.
const maxNamedLost = 10

// nameLost returns what parts of a file belong to.
func (s *Store) nameLost(ctx context.Context, file archiveFile, lost []parity.Range) (names []string) {
	described := s.DescribeItems(ctx)
	for _, desc := range s.ListContents() {
		section := s.blobs[desc.Digest]
		if section.file != file || !slices.ContainsFunc(lost, func(part parity.Range) bool {
			return part.Offset < section.offset+section.size && section.offset < part.End()
		}) {
			continue
		}
		name := desc.Digest.String()
		if item := described[desc.Digest]; item != "" {
			name = item
		}
		names = append(names, name)
	}
	if more := len(names) - maxNamedLost; more > 0 {
		names = append(names[:maxNamedLost], fmt.Sprintf("and %d more", more))
	}
	return names
}

// surveyFile returns what of a file with parity is damaged; nil if nothing is, or if it has no parity.
func surveyFile(ctx context.Context, name string, report progress.Func) (*DamageError, error) {
	if store, err := openAlone(ctx, name); err == nil {
		defer store.Close()
		found, err := store.Survey(ctx, report)
		var damage *DamageError
		if errors.As(err, &damage) || err != nil || len(found) == 0 {
			return damage, dropDamage(err)
		}
		return &found[0], nil
	}
	file, err := openProtected(ctx, name)
	if err != nil || file == nil {
		return nil, ctx.Err() //nolint:nilerr // the check that follows says what is wrong with it
	}
	defer file.Close()
	found, err := file.findDamage(ctx, report)
	if found != nil && !found.IsHealable() && !IsParityVolume(name) {
		found.Items = []string{"the headers and index.json, without which nothing of it can be read"}
	}
	return found, err
}

// dropDamage returns an error that is not a [*DamageError].
func dropDamage(err error) error {
	var damage *DamageError
	if errors.As(err, &damage) {
		return nil
	}
	return err
}

// openProtected opens a file that has parity, wherever in it something tells of it; nil if it has none.
func openProtected(ctx context.Context, name string) (*healedFile, error) {
	file, err := openArchiveFile(ctx, name)
	if err != nil {
		return nil, err
	}
	if healed, ok := file.(*healedFile); ok {
		return healed, nil
	}
	return nil, file.Close()
}

// RepairOptions are the parameters of [Repair].
type RepairOptions struct {
	// Dir is the folder for the healed file; empty for its own, where it replaces the damaged one.
	Dir string
	// Progress receives events; nil drops them.
	Progress progress.Func
}

// Repaired is the result of [Repair].
type Repaired struct {
	// File is the healed file; it is empty if nothing was damaged.
	File string
	// Healed is how many bytes of the content were damaged, Parity how many of the parity.
	Healed, Parity int64
	// IsRemade is set if the file was lost as a whole.
	IsRemade bool
}

// ErrNoParity is the error of a damaged file that nothing can heal.
var ErrNoParity = errors.New("no parity, so damage cannot be repaired")

// Repair heals a file with parity, or makes a volume from the others that is lost, or too damaged to heal itself. The
// healed file is written next to the damaged one, checked, and then gets its name; a file that is intact stays as it is. It
// returns [*DamageError] if there is more damage than can be healed, [*AbsentVolumesError] if too few other volumes are
// there, and [ErrNoParity].
func Repair(ctx context.Context, name string, o RepairOptions) (*Repaired, error) {
	target := name
	if o.Dir != "" {
		target = filepath.Join(o.Dir, filepath.Base(name))
	} else if linked, err := filepath.EvalSymlinks(name); err == nil {
		target = linked // a link stays one
	}
	file, err := openProtected(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r, err := remakeVolume(ctx, name, target, o)
		if errors.Is(err, errNoSet) {
			err = fmt.Errorf("%s, with %w: %w", name, errNoSet, fs.ErrNotExist)
		}
		return r, err
	case errors.Is(err, ErrDamaged), err == nil && file == nil && isDamaged(ctx, name):
		// Cut off, empty, or overwritten as a whole.
		r, remakeErr := remakeVolume(ctx, name, target, o)
		switch {
		case !errors.Is(remakeErr, errNoSet):
			return r, remakeErr
		case err == nil:
			return nil, ErrNoParity
		}
		return nil, err
	case err != nil:
		return nil, err
	case file == nil:
		return nil, cmp.Or(ctx.Err(), ErrNoParity)
	}
	defer file.Close()
	found, err := surveyFile(ctx, name, o.Progress)
	if err != nil {
		return nil, err
	}
	if found == nil {
		return &Repaired{}, nil
	}
	if !found.IsHealable() && IsParityVolume(name) {
		r, err := remakeParityVolume(ctx, name, target, o)
		cannotBeMade := errors.Is(err, errNoSet) || errors.Is(err, ErrDamaged) && !errors.Is(err, errReadBack) || errors.Is(err, fs.ErrNotExist)
		if !cannotBeMade {
			return r, err
		}
	}
	if !found.IsHealable() {
		return nil, found
	}
	r := &Repaired{File: target, Healed: parity.CountBytes(found.Damage.Content), Parity: found.Damage.Parity}
	return r, writeHealed(ctx, file, file.reader.Geometry, name, target, o)
}

// isDamaged reports whether a file without parity cannot be opened as an archive since it is damaged.
func isDamaged(ctx context.Context, name string) bool {
	store, err := openAlone(ctx, name)
	if err == nil {
		err = store.Close()
	}
	return errors.Is(err, ErrDamaged)
}

// remakeVolume makes a volume from the others.
func remakeVolume(ctx context.Context, name, target string, o RepairOptions) (_ *Repaired, err error) {
	if IsParityVolume(name) {
		return remakeParityVolume(ctx, name, target, o)
	}
	set, err := openVolumeSet(ctx, name)
	if errors.Is(err, errNoSet) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	if set.lacking > 0 {
		return nil, set.absentError()
	}
	file, err := set.openRemade(slices.Index(set.names, name))
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", name, err)
	}
	r := &Repaired{File: target, Healed: file.geometry.Size, IsRemade: true}
	return r, writeHealed(ctx, file, file.geometry, name, target, o)
}

// LostVolumes returns the names of the volumes next to one that are missing, or too damaged to tell what they are, if they
// can be made of the others.
func LostVolumes(ctx context.Context, name string) ([]string, error) {
	set, err := inspectVolumeSet(ctx, name)
	if errors.Is(err, errNoSet) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var lost []string
	for i, name := range set.names {
		if !set.present[i] && set.lacking <= 0 {
			lost = append(lost, name)
		}
	}
	return lost, nil
}

// writeHealed writes a file as it was before it was damaged: the content as it is read, and the parity made again. Only
// the damaged file itself is replaced.
func writeHealed(ctx context.Context, from io.ReaderAt, g parity.Geometry, name, target string, o RepairOptions) (err error) {
	mode, err := checkTarget(name, target)
	if err != nil {
		return err
	}
	temporary := target + ".healed"
	file, err := openPartial(temporary)
	if err != nil {
		return err
	}
	isOpen, isRenamed := true, false
	closeFile := func() error {
		if !isOpen {
			return nil
		}
		isOpen = false
		return file.Close()
	}
	defer func() {
		err = errors.Join(err, closeFile())
		if err != nil && !isRenamed {
			err = errors.Join(err, os.Remove(temporary))
		}
	}()
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err = io.CopyBuffer(io.NewOffsetWriter(file, 0), contextReader{ctx, struct{ io.Reader }{io.NewSectionReader(from, 0, g.Size)}}, make([]byte, 1<<20))
	if err == nil {
		err = parity.Write(ctx, file, g, nil)
	}
	if err == nil {
		_, err = file.WriteAt(trailer, g.End())
	}
	if err == nil {
		err = errors.Join(file.Chmod(mode), file.Sync())
	}
	if err != nil {
		return err
	}
	if runtime.GOOS == "windows" { // where a locked file cannot be read by another name of it
		if err := closeFile(); err != nil {
			return err
		}
	}
	if err := checkHealed(ctx, name, temporary, o.Progress); err != nil {
		return fmt.Errorf("check the repaired file: %w", err)
	}
	if err := os.Rename(temporary, target); err != nil {
		return err
	}
	isRenamed = true
	return syncFolder(filepath.Dir(target))
}

// checkTarget returns an error if the target is there and is not the file that is healed, and the mode for it.
func checkTarget(name, target string) (fs.FileMode, error) {
	was, err := os.Stat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	there, err := os.Lstat(target)
	switch {
	case err == nil && (was == nil || !os.SameFile(was, there)):
		return 0, fmt.Errorf("%s exists already: move it away, or name another folder", target)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, err
	case was != nil:
		return was.Mode().Perm(), nil
	}
	return 0o644, nil
}

// checkHealed checks every byte of a healed file.
func checkHealed(ctx context.Context, name, healed string, report progress.Func) error {
	if IsParityVolume(name) {
		_, err := CheckParityVolume(ctx, healed, report)
		return err
	}
	_, err := CheckFile(ctx, healed, report)
	return err
}

// CheckParityVolume checks every byte of a volume of parity and returns its size. Errors: [*DamageError], [ErrDamaged].
func CheckParityVolume(ctx context.Context, name string, report progress.Func) (int64, error) {
	file, err := openProtected(ctx, name)
	if err != nil {
		return 0, err
	}
	if file == nil {
		return 0, ErrDamaged
	}
	defer file.Close()
	found, err := file.findDamage(ctx, report)
	if err == nil && found != nil {
		err = found
	}
	return file.size(), err
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// asError returns damage as an error, nil for none.
func asError(damage *DamageError) error {
	if damage == nil {
		return nil
	}
	return damage
}
