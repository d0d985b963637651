package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/rogpeppe/go-internal/lockedfile"

	"krtpkg.dev/krtpkg/pkg/parity"
	"krtpkg.dev/krtpkg/pkg/progress"
)

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
		if err := output.finishFile(ctx, report); err != nil {
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
	// written is the digest of the parity of the volumes as it was written, in order; nil for what is not read back.
	written hash.Hash
	// isClosed is set once the file was closed, isFinished once it has its name.
	isClosed, isFinished bool
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
	if err = file.Truncate(0); err == nil {
		_, err = file.WriteAt(o.encodeFront(), 0)
	}
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// Close closes the file, and removes it if it is not finished: it cannot be gone on with.
func (o *parityOutput) Close() error {
	err := o.closeFile()
	if !o.isFinished {
		err = errors.Join(err, os.Remove(o.name+partial))
	}
	return err
}

func (o *parityOutput) closeFile() error {
	if o.isClosed {
		return nil
	}
	o.isClosed = true
	return o.file.Close()
}

// setEntry is the entry with the parity of the volumes.
func (o *parityOutput) setEntry() archiveEntry { return o.layout.entries[len(o.layout.entries)-1] }

// encodeFront returns what is in front of the parity of the volumes.
func (o *parityOutput) encodeFront() []byte {
	var front []byte
	for _, e := range o.layout.entries {
		front = append(front, e.header...)
		if e.data != nil {
			front = append(front, e.data...)
			front = append(front, e.paddingBytes()...)
		}
	}
	return front
}

// WriteAt writes to the entry with the parity of the volumes, in order.
func (o *parityOutput) WriteAt(p []byte, offset int64) (int, error) {
	if o.written != nil {
		o.written.Write(p)
	}
	return o.file.WriteAt(p, o.setEntry().contentOffset()+offset)
}

// finishFile writes what follows the parity of the volumes, and gives the file its name.
func (o *parityOutput) finishFile(ctx context.Context, report progress.Func) error {
	if err := o.writeOwnParity(ctx, report); err != nil {
		return err
	}
	return o.giveName()
}

func (o *parityOutput) writeOwnParity(ctx context.Context, report progress.Func) error {
	if err := errors.Join(o.layout.writeParity(ctx, o.file, report), o.file.Sync()); err != nil {
		return fmt.Errorf("write %s: %w", o.name, err)
	}
	return nil
}

// readBack checks every byte of the file, which has no name yet. Its own parity was made of what the disk had then, so
// everything else is held against what was written.
func (o *parityOutput) readBack(ctx context.Context, report progress.Func) error {
	if err := o.compareWritten(ctx); err != nil {
		return err
	}
	if runtime.GOOS == "windows" { // where a locked file cannot be read by another name of it
		if err := o.closeFile(); err != nil {
			return err
		}
	}
	_, err := CheckParityVolume(ctx, o.name+partial, report)
	return err
}

// compareWritten compares everything but the file's own parity with what was written.
func (o *parityOutput) compareWritten(ctx context.Context) error {
	entry, read := o.setEntry(), sha256.New()
	end := entry.contentOffset() + entry.contentSize()
	for _, part := range []struct {
		offset int64
		want   []byte
	}{{0, o.encodeFront()}, {end, slices.Concat(entry.paddingBytes(), o.layout.parityHeader)}, {o.layout.geometry.End(), trailer}} {
		if same, err := hasAt(o.file, part.offset, part.want); err != nil {
			return err
		} else if !same {
			return fmt.Errorf("bytes %d to %d differ from what was written: %w", part.offset, part.offset+int64(len(part.want)), ErrDamaged)
		}
	}
	content := contextReader{ctx, io.NewSectionReader(o.file, entry.contentOffset(), entry.contentSize())}
	if _, err := io.CopyBuffer(struct{ io.Writer }{read}, content, make([]byte, 1<<20)); err != nil {
		return err
	}
	if !bytes.Equal(read.Sum(nil), o.written.Sum(nil)) {
		return fmt.Errorf("%s differs from what was written: %w", parityVolume, ErrDamaged)
	}
	return nil
}

func (o *parityOutput) giveName() error {
	if err := os.Rename(o.name+partial, o.name); err != nil {
		return err
	}
	o.isFinished = true
	return syncFolder(filepath.Dir(o.name))
}
