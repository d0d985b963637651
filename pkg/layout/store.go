package layout

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/lockedfile"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// Store is a layout in a folder: [Open] one to read, [Create] one to write. It is an [oras.land/oras-go/v2.GraphTarget].
//
// oras-go's own store writes index.json in map order, again for every manifest, and lists
// every manifest in it; this one lists what has a tag or a subject, sorted, so that the same
// content is the same folder, and writes it once a call.
type Store struct {
	*View
	folder *rootedFolder
	// make turns a new folder into a layout, once.
	make func() error

	// mu guards index.json against this process, a lock file against others.
	mu sync.Mutex
}

// Open opens the layout in a folder, which must be there.
func Open(dir string) (*Store, error) {
	at := &rootedFolder{dir: dir}
	data, err := at.readSmall(ocispec.ImageLayoutFile, maxLayoutFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not an OCI layout: no file %s", dir, ocispec.ImageLayoutFile)
	}
	if err != nil {
		return nil, err
	}
	var l ocispec.ImageLayout
	if err := oci.UnmarshalJSON(data, &l); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, ocispec.ImageLayoutFile), err)
	}
	if l.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("%s has layout version %q, want %s", dir, l.Version, ocispec.ImageLayoutVersion)
	}
	return openStore(at), nil
}

// maxLayoutFile is for the file oci-layout, which has 30 bytes.
const maxLayoutFile = 64 << 10

// Create opens the layout in a folder, to write to. A folder that is empty or not there
// becomes a layout with the first write, so that work which fails before leaves nothing; one
// that holds anything else is an error.
func Create(dir string) (*Store, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if slices.ContainsFunc(entries, isContent) {
		return Open(dir)
	}
	s := openStore(&rootedFolder{dir: dir})
	s.make = sync.OnceValue(s.initLayout)
	return s, nil
}

// isContent reports whether an entry of a folder is more than what initialize makes on its way:
// another process may be there at this moment, or have been stopped there.
func isContent(entry fs.DirEntry) bool {
	if entry.Name() == ocispec.ImageLayoutFile {
		info, err := entry.Info()
		return err != nil || info.Size() > 0
	}
	return entry.Name() != ocispec.ImageBlobsDir
}

func openStore(at *rootedFolder) *Store {
	s := &Store{folder: at, make: func() error { return nil }}
	s.View = &View{Blobs: folderBlobs{at}, Index: s.loadIndex, Name: "oci:" + at.dir}
	return s
}

func (s *Store) initLayout() error {
	if err := os.MkdirAll(s.folder.dir, 0o755); err != nil {
		return err
	}
	if err := s.folder.makeFolders(filepath.Join(ocispec.ImageBlobsDir, "sha256")); err != nil {
		return err
	}
	data, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	// It stays the file that it is, since processes lock it.
	name, err := s.folder.filePath(ocispec.ImageLayoutFile)
	if err != nil {
		return err
	}
	err = lockedfile.Transform(name, func(there []byte) ([]byte, error) {
		if len(there) > 0 {
			return there, nil
		}
		return data, nil
	})
	if err != nil {
		return err
	}
	return errors.Join(os.Chmod(name, 0o644), s.updateIndex(func(*ocispec.Index) {}))
}

// Push writes content and checks its digest and size on the way; what fails leaves nothing.
// A manifest with a subject is listed in the index, so that it is found by its subject.
func (s *Store) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := s.make(); err != nil {
		return err
	}
	if !oci.IsManifest(desc.MediaType) {
		return s.ingestBlob(desc, r)
	}
	data, err := content.ReadAll(r, desc)
	if err != nil {
		return err
	}
	there := s.ingestBlob(desc, bytes.NewReader(data))
	if there != nil && !errors.Is(there, errdef.ErrAlreadyExists) {
		return there
	}
	listed, err := DescribeReferrer(desc, data)
	if err != nil || listed == nil {
		return cmp.Or(err, there)
	}
	listed.Annotations = maps.Clone(listed.Annotations)
	// In the index it would be a tag, of whoever made the manifest's choice.
	delete(listed.Annotations, ocispec.AnnotationRefName)
	// Also when the content was there: whoever wrote it may have been stopped before this.
	err = s.updateIndex(func(index *ocispec.Index) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return d.Digest == desc.Digest && d.Annotations[ocispec.AnnotationRefName] == ""
		})
		index.Manifests = append(index.Manifests, *listed)
	})
	return cmp.Or(err, there)
}

// ingestBlob writes a blob under another name, which becomes the final one when size and digest
// are right. oras-go's own store leaves the temporary file behind when they are not.
func (s *Store) ingestBlob(desc ocispec.Descriptor, r io.Reader) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("%q: %w", desc.Digest, errdef.ErrInvalidDigest)
	}
	name := blobPath(desc.Digest)
	if _, err := s.folder.statRegular(name); err == nil {
		return fmt.Errorf("%s: %w", desc.Digest, errdef.ErrAlreadyExists)
	}
	if err := errors.Join(s.folder.makeFolders(filepath.Dir(name)), s.folder.makeFolders("ingest")); err != nil {
		return err
	}
	seeker, seeks := r.(io.ReadSeeker)
	if !seeks || desc.Size < worthKeeping {
		return s.ingestWhole(name, desc, r)
	}
	err := s.ingestOn(partialPath(desc.Digest), name, desc, seeker)
	if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return fmt.Errorf("write %s: %w", desc.Digest, err)
	}
	return err
}

// worthKeeping is the size from which on what has arrived of a blob is kept.
const worthKeeping = 1 << 20

func (s *Store) ingestWhole(name string, desc ocispec.Descriptor, r io.Reader) error {
	temp, tempName, err := s.folder.createTemp(filepath.Join("ingest", desc.Digest.Encoded()))
	if err != nil {
		return err
	}
	defer s.folder.removeFile(tempName)
	verified := content.NewVerifyReader(r, desc)
	if _, err = io.Copy(temp, verified); err == nil {
		err = verified.Verify()
	}
	if err := errors.Join(err, temp.Chmod(0o444), temp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", desc.Digest, err)
	}
	return s.folder.renameFile(tempName, name)
}

// ingestOn goes on with a blob where an earlier attempt stopped. What has arrived stays when
// this one breaks off too, unless it is wrong; one process at a time.
func (s *Store) ingestOn(partial, name string, desc ocispec.Descriptor, r io.ReadSeeker) error {
	path, err := s.folder.filePath(partial)
	if err != nil {
		return err
	}
	file, err := lockedfile.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := s.folder.statRegular(name); err == nil {
		return fmt.Errorf("%s: %w", desc.Digest, errdef.ErrAlreadyExists) // by whoever held the lock
	}
	hash := desc.Digest.Algorithm().Hash()
	n, err := io.Copy(hash, io.LimitReader(file, desc.Size))
	if err != nil {
		return err
	}
	if n > 0 {
		if _, err := r.Seek(n, io.SeekStart); err != nil {
			return err
		}
	}
	if err := file.Truncate(n); err != nil {
		return err
	}
	arrived, err := io.Copy(io.MultiWriter(file, hash), io.LimitReader(r, desc.Size-n))
	if err == nil && n+arrived < desc.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	return s.finishBlob(file, partial, name, desc, r, fmt.Sprintf("%x", hash.Sum(nil)))
}

// finishBlob gives a blob its name, or removes what is wrong.
func (s *Store) finishBlob(file *lockedfile.File, partial, name string, desc ocispec.Descriptor, rest io.Reader, sum string) error {
	extra, err := io.ReadFull(rest, make([]byte, 1))
	switch {
	case extra > 0:
		err = content.ErrTrailingData
	case err == io.EOF:
		err = nil
	}
	if err == nil && sum != desc.Digest.Encoded() {
		err = content.ErrMismatchedDigest
	}
	if err != nil {
		return errors.Join(err, s.folder.removeFile(partial))
	}
	return errors.Join(file.Chmod(0o444), s.folder.renameFile(partial, name))
}

// ChecksDigests says that Push does.
func (s *Store) ChecksDigests() {}

// blobPath returns the name of content; its digest is valid.
func blobPath(d digest.Digest) string {
	return filepath.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// partialPath returns the name of what has arrived of content; its digest is valid.
func partialPath(d digest.Digest) string { return filepath.Join("ingest", d.Encoded()+".partial") }

// folderBlobs is the folder's content.
type folderBlobs struct{ folder *rootedFolder }

// Fetch opens content; it is an [io.ReadSeekCloser], and is not checked against its digest.
func (b folderBlobs) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%q: %w", desc.Digest, errdef.ErrInvalidDigest)
	}
	file, err := b.folder.openFile(blobPath(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", desc.Digest, errdef.ErrNotFound)
	}
	return file, err
}

// Exists reports whether content is there.
func (b folderBlobs) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	_, err := b.Stat(desc.Digest)
	if errors.Is(err, errdef.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Stat returns the size of content.
func (b folderBlobs) Stat(d digest.Digest) (int64, error) {
	if err := d.Validate(); err != nil {
		return 0, fmt.Errorf("%q: %w", d, errdef.ErrInvalidDigest)
	}
	info, err := b.folder.statRegular(blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errdef.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Tag names a manifest; a name that is taken moves.
func (s *Store) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	limit, err := s.PlatformsOf(desc.Digest)
	if err != nil {
		return err
	}
	return s.TagPlatforms(ctx, desc, tag, limit)
}

// TagPlatforms is [Store.Tag] of a root of which only some platforms are there, or all where none are given. It holds
// for the other tags of the root too.
func (s *Store) TagPlatforms(ctx context.Context, desc ocispec.Descriptor, tag string, platforms []string) error {
	exists, err := s.Blobs.Exists(ctx, desc)
	if err != nil {
		return err
	}
	if !exists {
		return fmt.Errorf("tag %s: %s: %w", tag, desc.Digest, errdef.ErrNotFound)
	}
	named := ocispec.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size, ArtifactType: desc.ArtifactType,
		Annotations: map[string]string{ocispec.AnnotationRefName: tag},
	}
	if len(platforms) > 0 {
		named.Annotations[AnnotationPlatforms] = strings.Join(platforms, ",")
	}
	return s.updateIndex(func(index *ocispec.Index) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return d.Annotations[ocispec.AnnotationRefName] == tag
		})
		for i, d := range index.Manifests {
			if d.Digest != desc.Digest || d.Annotations[ocispec.AnnotationRefName] == "" {
				continue
			}
			annotations := maps.Clone(d.Annotations)
			delete(annotations, AnnotationPlatforms)
			if len(platforms) > 0 {
				annotations[AnnotationPlatforms] = named.Annotations[AnnotationPlatforms]
			}
			index.Manifests[i].Annotations = annotations
		}
		index.Manifests = append(index.Manifests, named)
	})
}

func (s *Store) updateIndex(change func(*ocispec.Index)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The file oci-layout never changes, so it can be what processes lock.
	name, err := s.folder.filePath(ocispec.ImageLayoutFile)
	if err != nil {
		return err
	}
	lock, err := lockedfile.Edit(name)
	if err != nil {
		return err
	}
	defer lock.Close()
	index, err := s.loadIndex()
	if err != nil {
		return err
	}
	change(&index)
	return s.saveIndex(index)
}

func (s *Store) loadIndex() (ocispec.Index, error) {
	var index ocispec.Index
	opened, err := s.folder.openFile(ocispec.ImageIndexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil // a new layout
	}
	if err != nil {
		return index, err
	}
	defer opened.Close()
	if index, err = oci.ReadIndex(opened); err != nil {
		return index, fmt.Errorf("%s: %w", filepath.Join(s.folder.dir, ocispec.ImageIndexFile), err)
	}
	return index, nil
}

func (s *Store) saveIndex(index ocispec.Index) error {
	index.Versioned = specs.Versioned{SchemaVersion: 2}
	index.MediaType = ocispec.MediaTypeImageIndex
	if index.Manifests == nil {
		index.Manifests = []ocispec.Descriptor{}
	}
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int {
		return cmp.Or(cmp.Compare(a.Annotations[ocispec.AnnotationRefName], b.Annotations[ocispec.AnnotationRefName]),
			cmp.Compare(a.Digest, b.Digest))
	})
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return s.folder.replaceFile(ocispec.ImageIndexFile, data)
}
