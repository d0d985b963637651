package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/layout"
)

// Store is an archive, or several volumes of one, to read in place. It is an
// [oras.land/oras-go/v2.ReadOnlyGraphTarget]; its content implements [io.Seeker].
type Store struct {
	*layout.View
	info    indexInfo
	volumes map[int]string
	files   []archiveFile
	blobs   blobSections
	// manifests are the entries that stand where manifests do.
	manifests map[digest.Digest]bool
	// inOrder is set if every file begins as krtpkg writes it; dockerManifest that there is a
	// file by which docker reads it too.
	inOrder, dockerManifest bool
	// whole are the files whose entries were read up to the last one, that with the parity.
	whole map[archiveFile]bool
	// remade are the numbers of volumes that are read from the others, by volumes.
	remade []int
	set    *volumeSet
	// referrers are all there are; nil until they were looked for.
	referrers   map[digest.Digest][]ocispec.Descriptor
	referrersMu sync.Mutex
}

// blobSections are the places of content in the files.
type blobSections map[digest.Digest]fileSection

type fileSection struct {
	file         archiveFile
	offset, size int64
}

// Open opens an archive, or some volumes of one. It looks at every entry, so damaged archives and
// unexpected entries are errors here; contents are checked as they are read. It returns [ErrDamaged], and the error of the
// context, which ends it between two entries and has no part in what is read later.
// What has parity is healed as it is read, and volumes that are lost, or too damaged to be opened, are read from the others
// where volumes of parity are next to them ([Store.Survey], [Store.Remade]).
func Open(ctx context.Context, names ...string) (*Store, error) {
	s, damaged, err := openFiles(ctx, names)
	if err != nil {
		return nil, err
	}
	lost := s.openLostVolumes(ctx, names)
	if ctx.Err() != nil {
		return nil, errors.Join(ctx.Err(), s.Close())
	}
	for name, err := range damaged {
		if !s.hasVolume(name) {
			return nil, errors.Join(err, lost, s.Close())
		}
	}
	return s.finishOpening(ctx, names)
}

// openAlone is [Open] without volumes that were not named.
func openAlone(ctx context.Context, name string) (*Store, error) {
	s, damaged, err := openFiles(ctx, []string{name})
	if err != nil {
		return nil, err
	}
	if err := damaged[name]; err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s.finishOpening(ctx, []string{name})
}

// openFiles opens files, and returns the errors of volumes that are damaged: others may restore them.
func openFiles(ctx context.Context, names []string) (_ *Store, damaged map[string]error, err error) {
	s := &Store{blobs: blobSections{}, manifests: map[digest.Digest]bool{}, volumes: map[int]string{}, whole: map[archiveFile]bool{}, inOrder: true}
	damaged = map[string]error{}
	for _, name := range names {
		err := s.openFile(ctx, name)
		if ctx.Err() != nil {
			return nil, nil, errors.Join(ctx.Err(), s.Close())
		}
		if err != nil {
			err = fmt.Errorf("archive %s: %w", name, err)
		}
		if _, isVolume := Siblings(name); isVolume && errors.Is(err, ErrDamaged) {
			damaged[name] = err
		} else if err != nil {
			return nil, nil, errors.Join(err, s.Close())
		}
	}
	return s, damaged, nil
}

// finishOpening returns the store, or closes it.
func (s *Store) finishOpening(ctx context.Context, names []string) (*Store, error) {
	s.View = &layout.View{
		Blobs: setBlobs{s.blobs, s}, Name: strings.Join(names, ", "),
		Index: func() (ocispec.Index, error) { return s.info.Index, nil },
	}
	if s.info.hasOrder {
		if err := s.detectManifests(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("archive %s: %w", s.Name, err), s.Close())
		}
	}
	return s, nil
}

func (s *Store) openFile(ctx context.Context, name string) error {
	file, err := openArchiveFile(ctx, name)
	if err != nil {
		return err
	}
	healed, isHealed := file.(*healedFile)
	shared := s.findSet(name)
	if isHealed && shared != nil {
		healed.shareSet(shared)
	}
	found, err := s.scanFile(ctx, file)
	if err != nil {
		if isHealed && shared != nil {
			healed.set = nil // the others still need it
		}
		return errors.Join(err, file.Close())
	}
	return s.addFile(name, found)
}

// findSet returns the set that the other volumes of an archive are healed from; nil if none is open.
func (s *Store) findSet(name string) *lazySet {
	for _, file := range s.files {
		if healed, ok := file.(*healedFile); ok && healed.set != nil && isSibling(healed.Name(), name) {
			return healed.set
		}
	}
	return nil
}

// isSibling reports whether a file is a volume of the same archive as another, by their names.
func isSibling(name, other string) bool {
	siblings, isVolume := Siblings(name)
	return isVolume && slices.Contains(siblings, other)
}

// hasVolume reports whether the volume of a name is open.
func (s *Store) hasVolume(name string) bool {
	for _, volume := range s.volumes {
		if filepath.Clean(volume) == filepath.Clean(name) {
			return true
		}
	}
	return false
}

// addFile adds what was found in a file, which is closed with the others from now on.
func (s *Store) addFile(name string, found *scannedFile) error {
	s.files = append(s.files, found.file)
	if err := s.addVolume(name, found.index); err != nil {
		return err
	}
	maps.Copy(s.blobs, found.blobs)
	maps.Copy(s.manifests, found.manifests)
	s.inOrder, s.dockerManifest = s.inOrder && found.inOrder, s.dockerManifest || found.dockerManifest
	s.whole[found.file] = found.isWhole
	return nil
}

// addVolume notes the last file as a volume, if it is one of the same archive as the others.
func (s *Store) addVolume(name string, a *indexInfo) error {
	if len(s.files) == 1 {
		s.info = *a
	}
	if len(s.files) > 1 && (a.volume == 0 || s.info.archiveID() != a.archiveID()) {
		return fmt.Errorf("not a volume of the same archive as %s: open other archives one at a time", s.files[0].Name())
	}
	if other := s.volumes[a.volume]; other != "" {
		return fmt.Errorf("volume %d was given twice: %s is the same volume", a.volume, other)
	}
	s.volumes[a.volume] = name
	return nil
}

var (
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	gzipMagic = []byte{0x1f, 0x8b}
)

// ErrCompressed is the error of a compressed archive, which cannot be read in place.
var ErrCompressed = errors.New("the whole archive is compressed, so it can only be imported")

func refuseCompressed(file io.ReaderAt) error {
	magic := make([]byte, 4)
	n, err := file.ReadAt(magic, 0)
	switch {
	case err != nil && err != io.EOF:
		return err
	case bytes.Equal(magic, zstdMagic):
		return ErrCompressed
	case bytes.HasPrefix(magic[:n], gzipMagic):
		return errGzip
	}
	return nil
}

// openRegular opens a file. A pipe would keep us waiting, and cannot be read in place.
func openRegular(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("not a file"), file.Close())
	}
	return file, nil
}

// scannedFile is what was found in a file; its fields are as those of [Store].
type scannedFile struct {
	file                             archiveFile
	index                            *indexInfo
	blobs                            blobSections
	manifests                        map[digest.Digest]bool
	inOrder, dockerManifest, isWhole bool
}

// scanFile finds where everything is.
func (s *Store) scanFile(ctx context.Context, file archiveFile) (*scannedFile, error) {
	if err := refuseCompressed(file); err != nil {
		return nil, err
	}
	var a *indexInfo
	hasLayout := false
	found := &scannedFile{file: file, blobs: blobSections{}, manifests: map[digest.Digest]bool{}, inOrder: true}
	scanner := newScanner(io.NewSectionReader(file, 0, file.size()))
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		name, offset, size, err := scanner.nextFile()
		if err == io.EOF {
			break
		}
		if n < 2 && name != []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile}[n] {
			found.inOrder = false
		}
		if err != nil {
			return nil, err
		}
		d, isBlob, err := blobDigest(name)
		switch {
		case err != nil:
			return nil, err
		case isBlob:
			if known, twice := s.blobs[d]; twice && known.size != size {
				return nil, fmt.Errorf("%s has %d bytes, but %d in another volume: %w", d, size, known.size, ErrDamaged)
			}
			found.blobs[d] = fileSection{file, offset, size}
			if a != nil && a.manifests > 0 {
				a.manifests--
				found.manifests[d] = true
			}
		case name == ocispec.ImageLayoutFile:
			hasLayout = true
			if err := checkLayout(scanner.tar); err != nil {
				return nil, err
			}
		case name == ocispec.ImageIndexFile:
			parsed, err := scanner.readIndex()
			if err != nil {
				return nil, err
			}
			a = &parsed
		}
	}
	found.dockerManifest, found.isWhole = scanner.seen["manifest.json"], scanner.seen[parityBlocks]
	if (!hasLayout || a == nil) && isDockerSave(scanner.seen) {
		return nil, errDockerSave
	}
	if scanner.seen[paritySet] {
		return nil, errParityVolume
	}
	if !hasLayout || a == nil {
		return nil, fmt.Errorf("%s or %s is missing: %w", ocispec.ImageLayoutFile, ocispec.ImageIndexFile, ErrDamaged)
	}
	found.index = a
	return found, nil
}

// archiveID tells volumes of one archive from those of another.
func (a indexInfo) archiveID() string {
	var id strings.Builder
	for _, key := range slices.Sorted(maps.Keys(a.Annotations)) {
		if key != annotationVolume {
			fmt.Fprintf(&id, "%s=%s\n", key, a.Annotations[key])
		}
	}
	for _, d := range a.Manifests {
		fmt.Fprintf(&id, "%s %s\n", d.Digest, d.Annotations[ocispec.AnnotationRefName])
	}
	return id.String()
}

// Predecessors lists the manifests whose subject a node is.
func (s *Store) Predecessors(ctx context.Context, node ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	s.referrersMu.Lock()
	defer s.referrersMu.Unlock()
	if s.referrers == nil {
		all, err := s.AllReferrers(ctx)
		if err != nil {
			return nil, err
		}
		s.referrers = all
	}
	return s.referrers[node.Digest], nil
}

// Close closes the files.
func (s *Store) Close() error {
	var errs []error
	for _, file := range s.files {
		errs = append(errs, file.Close())
	}
	if s.set != nil {
		errs = append(errs, s.set.Close())
	}
	return errors.Join(errs...)
}

// BaseReferences lists the references that a target must have before it imports this archive.
func (s *Store) BaseReferences() []string { return s.info.base }

// Volumes returns the number of volumes; 0 if the archive is a single file.
func (s *Store) Volumes() int { return len(s.info.starts) }

// AbsentVolumes returns the volumes that were not opened, in order.
func (s *Store) AbsentVolumes() (absent []int) {
	for n := range s.info.starts {
		if _, ok := s.volumes[n+1]; !ok {
			absent = append(absent, n+1)
		}
	}
	return absent
}

// VolumeOf returns the number of the volume that should have a blob, or 0 for a single file.
func (s *Store) VolumeOf(d digest.Digest) (n int) { return s.info.volumeOf(d) }

func (a indexInfo) volumeOf(d digest.Digest) (n int) {
	for i, start := range a.starts {
		if start <= d.String() {
			n = i + 1
		}
	}
	return n
}

// FileOf returns the file that holds some content, or "".
func (s *Store) FileOf(d digest.Digest) string {
	if section, ok := s.blobs[d]; ok {
		return section.file.Name()
	}
	return ""
}

// IsManifest reports whether content is one of the archive's manifests.
func (s *Store) IsManifest(d digest.Digest) bool { return s.manifests[d] }

// ListLacking lists what the manifests name but the archive lacks, except foreign layers and
// platforms to which a root is not limited.
func (s *Store) ListLacking(ctx context.Context) ([]ocispec.Descriptor, error) {
	named, err := s.namedContent(ctx)
	if err != nil {
		return nil, err
	}
	return named.listLacking(s.info, s.hasBlob), nil
}

// DescribeItems returns what the items of the archive are, and those that its manifests name, such as
// "layer of IMAGE". What cannot be read is left out.
func (s *Store) DescribeItems(ctx context.Context) map[digest.Digest]string {
	manifests := map[digest.Digest][]byte{}
	for d := range s.manifests {
		if data, err := s.readManifest(ctx, d); err == nil {
			manifests[d] = data
		}
	}
	return layout.DescribeItems(s.info.Manifests, manifests)
}

// Deltas lists the layers that the archive has as deltas, less deltas on volumes that were not opened.
func (s *Store) Deltas(ctx context.Context) ([]Delta, error) {
	if s.info.Annotations[annotationRequires] == "" {
		return nil, nil
	}
	named, err := s.namedContent(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(named.listDeltas(), func(d Delta) bool { return !s.hasBlob(d.Blob.Digest) }), nil
}

// namedContent returns what the manifests name.
func (s *Store) namedContent(ctx context.Context) (namedContent, error) {
	named := newWanted()
	for d := range s.manifests {
		data, err := s.readManifest(ctx, d)
		if err != nil {
			return named, err
		}
		if err := named.addManifest(d, data); err != nil {
			return named, err
		}
	}
	return named, nil
}

// ListContents lists all content, manifests too, by digest.
func (s *Store) ListContents() []ocispec.Descriptor {
	all := make([]ocispec.Descriptor, 0, len(s.blobs))
	for d, at := range s.blobs {
		all = append(all, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: at.size})
	}
	SortBlobs(all)
	return all
}

// Fetch returns content as an [io.ReadSeekCloser], without verifying its digest.
func (b blobSections) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	at, ok := b[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", desc.Digest, errdef.ErrNotFound)
	}
	return sectionCloser{io.NewSectionReader(at.file, at.offset, at.size)}, nil
}

type sectionCloser struct{ *io.SectionReader }

func (sectionCloser) Close() error { return nil }

// Exists reports whether the archive has some content, or it was added.
func (b blobSections) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	_, ok := b[desc.Digest]
	return ok, nil
}

// Stat returns the size of content.
func (b blobSections) Stat(d digest.Digest) (int64, error) {
	at, ok := b[d]
	if !ok {
		return 0, errdef.ErrNotFound
	}
	return at.size, nil
}
