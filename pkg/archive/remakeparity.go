package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"krtpkg.dev/krtpkg/pkg/parity"
)

// parityNumbers matches the names that [ParityVolumeNames] returns, with their parts.
var parityNumbers = regexp.MustCompile(`^(.*)\.parity-([0-9]+)-of-([0-9]+)\.tar$`)

// errReadBack is the error of a volume that was made again, and is not what was written.
var errReadBack = errors.New("check the restored parity volume")

// remakeParityVolume computes a volume of parity again, from all volumes next to it, as an export does, and reads it back. It
// returns errNoSet if they are not there, or are others than those that it was made of.
func remakeParityVolume(ctx context.Context, name, target string, o RepairOptions) (_ *Repaired, err error) {
	names, info, err := describeVolumes(name)
	if err != nil {
		return nil, err
	}
	before := &volumeSet{}
	known, _, knownErr := before.openParityVolume(ctx, name)
	if err := before.Close(); err != nil {
		return nil, err
	}
	var files []io.ReaderAt
	percent := 0
	for _, volume := range names {
		file, err := openProtected(ctx, volume)
		if err != nil {
			return nil, fmt.Errorf("read volume %s: %w", volume, err)
		}
		if file == nil {
			return nil, errNoSet
		}
		defer file.Close()
		info.Volumes, percent = append(info.Volumes, file.reader.Geometry.Size), file.reader.Geometry.Percent
		files = append(files, namedReader{file.reader.Strict(), volume})
	}
	if knownErr == nil && !slices.Equal(known.Volumes, info.Volumes) || info.set().Check() != nil {
		return nil, errNoSet
	}
	if _, err := checkTarget(name, target); err != nil {
		return nil, err
	}
	output, err := createParityVolume(target, info, percent)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, output.Close()) }()
	writers := make([]io.WriterAt, info.Parity)
	for j := range writers {
		writers[j] = dropWriter{}
	}
	output.written = sha256.New()
	writers[info.Number-1] = output
	if err := parity.WriteSet(ctx, info.set(), files, writers, nil); err != nil {
		return nil, fmt.Errorf("restore %s: %w", name, err)
	}
	if err := output.writeOwnParity(ctx, o.Progress); err != nil {
		return nil, err
	}
	if err := output.readBack(ctx, o.Progress); err != nil {
		return nil, fmt.Errorf("%w: %w", errReadBack, err)
	}
	if err := output.giveName(); err != nil {
		return nil, err
	}
	return &Repaired{File: target, Healed: output.layout.geometry.Size, IsRemade: true}, nil
}

// describeVolumes returns the volumes that a volume of parity belongs to, by its name, and which one it is.
func describeVolumes(name string) (names []string, info setInfo, err error) {
	parts := parityNumbers.FindStringSubmatch(name)
	if parts == nil {
		return nil, info, errNoSet
	}
	number, numberErr := strconv.Atoi(parts[2])
	count, countErr := strconv.Atoi(parts[3])
	if numberErr != nil || countErr != nil || number < 1 || number > count || count > 255 {
		return nil, info, errNoSet
	}
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil {
		return nil, info, err
	}
	for _, entry := range entries {
		volume := filepath.Join(filepath.Dir(name), entry.Name())
		siblings, isVolume := Siblings(volume)
		if !isVolume || volumePattern.FindStringSubmatch(volume)[1] != filepath.Clean(parts[1]) {
			continue
		}
		if names != nil && !slices.Equal(names, siblings) {
			return nil, info, errNoSet // of two exports
		}
		names = siblings
	}
	if names == nil {
		return nil, info, errNoSet
	}
	return names, setInfo{Parity: count, Number: number}, nil
}

// dropWriter drops what is written.
type dropWriter struct{}

// WriteAt implements [io.WriterAt].
func (dropWriter) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
