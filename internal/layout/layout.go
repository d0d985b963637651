// Package layout is the OCI image layout on disk (image-spec v1.1, image-layout.md) as a
// store for oras-go: [Open] one to read, [Create] one to write.
//
// oras-go's own store writes index.json in map order, again for every manifest, and lists
// every manifest in it; this one lists what has a tag or a subject, sorted, so that the same
// content is the same folder, and writes it once a call.
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
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
)

// maxIndex caps index.json, and manifests that are read to follow their references.
const maxIndex = 64 << 20

// Store is a layout. It is an [oras.land/oras-go/v2.GraphTarget].
type Store struct {
	*oci.Storage
	dir string
	// make turns a new folder into a layout, once.
	make func() error

	// mu guards index.json against this process, a lock file against others.
	mu sync.Mutex
}

// Open opens the layout in a folder, which has to be there.
func Open(dir string) (*Store, error) {
	data, err := os.ReadFile(filepath.Join(dir, ocispec.ImageLayoutFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no OCI layout: it has no file %s", dir, ocispec.ImageLayoutFile)
	}
	if err != nil {
		return nil, err
	}
	var l ocispec.ImageLayout
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, ocispec.ImageLayoutFile), err)
	}
	if l.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("%s has layout version %q, want %s", dir, l.Version, ocispec.ImageLayoutVersion)
	}
	return open(dir)
}

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
	s, err := open(dir)
	if err != nil {
		return nil, err
	}
	s.make = sync.OnceValue(s.initialize)
	return s, nil
}

// isContent says whether an entry of a folder is more than what initialize makes on its way:
// another process may be there at this moment, or have been stopped there.
func isContent(entry fs.DirEntry) bool {
	if entry.Name() == ocispec.ImageLayoutFile {
		info, err := entry.Info()
		return err != nil || info.Size() > 0
	}
	return entry.Name() != ocispec.ImageBlobsDir
}

func open(dir string) (*Store, error) {
	storage, err := oci.NewStorage(dir)
	if err != nil {
		return nil, err
	}
	return &Store{Storage: storage, dir: dir, make: func() error { return nil }}, nil
}

func (s *Store) initialize() error {
	if err := os.MkdirAll(filepath.Join(s.dir, ocispec.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return err
	}
	data, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	// It stays the file that it is, since processes lock it.
	name := filepath.Join(s.dir, ocispec.ImageLayoutFile)
	err = lockedfile.Transform(name, func(there []byte) ([]byte, error) {
		if len(there) > 0 {
			return there, nil
		}
		return data, nil
	})
	if err != nil {
		return err
	}
	return errors.Join(os.Chmod(name, 0o644), s.update(func(*ocispec.Index) {}))
}

// Push writes content and checks its digest and size on the way; what fails leaves nothing.
// A manifest with a subject is listed in the index, so that it is found by its subject.
func (s *Store) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := s.make(); err != nil {
		return err
	}
	if !isManifest(desc.MediaType) {
		return s.ingest(desc, r)
	}
	data, err := content.ReadAll(r, desc)
	if err != nil {
		return err
	}
	there := s.ingest(desc, bytes.NewReader(data))
	if there != nil && !errors.Is(there, errdef.ErrAlreadyExists) {
		return there
	}
	m, err := parse(data)
	if err != nil || m.Subject == nil {
		return cmp.Or(err, there)
	}
	listed := ocispec.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size,
		ArtifactType: cmp.Or(m.ArtifactType, m.Config.MediaType), Annotations: maps.Clone(m.Annotations),
	}
	// In the index it would be a tag, of whoever made the manifest's choice.
	delete(listed.Annotations, ocispec.AnnotationRefName)
	// Also when the content was there: whoever wrote it may have been stopped before this.
	err = s.update(func(index *ocispec.Index) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return d.Digest == desc.Digest && d.Annotations[ocispec.AnnotationRefName] == ""
		})
		index.Manifests = append(index.Manifests, listed)
	})
	return cmp.Or(err, there)
}

// ingest writes a blob under a temporary name, which becomes the final one when size and
// digest are right. oras-go's own store leaves the temporary file behind when they are not.
func (s *Store) ingest(desc ocispec.Descriptor, r io.Reader) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("%q: %w", desc.Digest, errdef.ErrInvalidDigest)
	}
	name := s.blob(desc.Digest)
	if _, err := os.Stat(name); err == nil {
		return fmt.Errorf("%s: %w", desc.Digest, errdef.ErrAlreadyExists)
	}
	dir := filepath.Join(s.dir, "ingest")
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, desc.Digest.Encoded()+"_*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	verified := content.NewVerifyReader(r, desc)
	if _, err = io.Copy(temp, verified); err == nil {
		err = verified.Verify()
	}
	if err := errors.Join(err, temp.Chmod(0o444), temp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", desc.Digest, err)
	}
	return os.Rename(temp.Name(), name)
}

func (s *Store) blob(d digest.Digest) string {
	return filepath.Join(s.dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// String is the store's name for messages.
func (s *Store) String() string { return "oci:" + s.dir }

// Exists says whether content is here whole: an index counts only with everything in it,
// since a layout, unlike a registry, takes an index before its manifests.
func (s *Store) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	exists, err := s.Storage.Exists(ctx, desc)
	if err != nil || !exists || !isIndex(desc.MediaType) {
		return exists, err
	}
	m, err := s.manifest(ctx, desc)
	if err != nil {
		return false, err
	}
	for _, child := range m.Manifests {
		if exists, err := s.Exists(ctx, child); err != nil || !exists {
			return exists, err
		}
	}
	return true, nil
}

// Tag names a manifest; a name that is taken moves.
func (s *Store) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	exists, err := s.Storage.Exists(ctx, desc)
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
	return s.update(func(index *ocispec.Index) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return d.Annotations[ocispec.AnnotationRefName] == tag
		})
		index.Manifests = append(index.Manifests, named)
	})
}

// Resolve finds a manifest by its tag or digest.
func (s *Store) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	index, err := s.load()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, d := range index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == reference || d.Digest.String() == reference {
			return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType}, nil
		}
	}
	if d, err := digest.Parse(reference); err == nil {
		return s.byDigest(d)
	}
	return ocispec.Descriptor{}, fmt.Errorf("%s: tag %q: %w", s.dir, reference, errdef.ErrNotFound)
}

// byDigest describes a manifest that the index does not list, from its bytes.
func (s *Store) byDigest(d digest.Digest) (ocispec.Descriptor, error) {
	file, err := os.Open(s.blob(d))
	if errors.Is(err, fs.ErrNotExist) {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %s: %w", s.dir, d, errdef.ErrNotFound)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxIndex+1))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m, err := parse(data)
	if err != nil || m.mediaType() == "" {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %s is no manifest: %w", s.dir, d, errdef.ErrNotFound)
	}
	return ocispec.Descriptor{MediaType: m.mediaType(), Digest: d, Size: int64(len(data)), ArtifactType: m.ArtifactType}, nil
}

// Predecessors lists the manifests whose subject a node is: those that the index names, and
// those of a fallback index tagged sha256-<hex> (distribution-spec v1.1, referrers tag
// schema), which other tools write into layouts too.
func (s *Store) Predecessors(ctx context.Context, node ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	index, err := s.load()
	if err != nil {
		return nil, err
	}
	candidates := slices.Clone(index.Manifests)
	fallback := strings.ReplaceAll(node.Digest.String(), ":", "-")
	for _, d := range index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == fallback && isIndex(d.MediaType) {
			m, err := s.manifest(ctx, d)
			if err != nil {
				return nil, err
			}
			candidates = append(candidates, m.Manifests...)
		}
	}
	var found []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, d := range candidates {
		if seen[d.Digest] || !isManifest(d.MediaType) {
			continue
		}
		seen[d.Digest] = true
		m, err := s.manifest(ctx, d)
		if err != nil {
			return nil, err
		}
		if m.Subject != nil && m.Subject.Digest == node.Digest {
			found = append(found, ocispec.Descriptor{
				MediaType: d.MediaType, Digest: d.Digest, Size: d.Size,
				ArtifactType: cmp.Or(m.ArtifactType, m.Config.MediaType), Annotations: m.Annotations,
			})
		}
	}
	return found, nil
}

// Tags lists the tags in order.
func (s *Store) Tags(_ context.Context, _ string, fn func([]string) error) error {
	index, err := s.load()
	if err != nil {
		return err
	}
	var tags []string
	for _, d := range index.Manifests {
		if tag := d.Annotations[ocispec.AnnotationRefName]; tag != "" {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return fn(tags)
}

func (s *Store) update(change func(*ocispec.Index)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The file oci-layout never changes, so it can be what processes lock.
	lock, err := lockedfile.Edit(filepath.Join(s.dir, ocispec.ImageLayoutFile))
	if err != nil {
		return err
	}
	defer lock.Close()
	index, err := s.load()
	if err != nil {
		return err
	}
	change(&index)
	return s.save(index)
}

func (s *Store) load() (ocispec.Index, error) {
	var index ocispec.Index
	file := filepath.Join(s.dir, ocispec.ImageIndexFile)
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil // a new layout
	}
	if err != nil {
		return index, err
	}
	if info.Size() > maxIndex {
		return index, fmt.Errorf("%s: %d bytes are over the limit of %d", file, info.Size(), maxIndex)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return index, err
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return index, fmt.Errorf("%s: %w", file, err)
	}
	return index, nil
}

func (s *Store) save(index ocispec.Index) error {
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
	return write(filepath.Join(s.dir, ocispec.ImageIndexFile), data)
}

// node is what manifests of every kind have in common.
type node struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Config       ocispec.Descriptor   `json:"config"`
	Subject      *ocispec.Descriptor  `json:"subject"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Annotations  map[string]string    `json:"annotations"`
}

// mediaType is what the manifest says it is. It need not (image-spec v1.1, manifest.md), and
// then its fields tell, if they tell of one kind only.
func (n node) mediaType() string {
	image, index := n.Config.Digest != "", n.Manifests != nil
	switch {
	case n.MediaType != "" || image == index:
		return n.MediaType
	case index:
		return ocispec.MediaTypeImageIndex
	}
	return ocispec.MediaTypeImageManifest
}

func (s *Store) manifest(ctx context.Context, desc ocispec.Descriptor) (node, error) {
	if desc.Size > maxIndex {
		return node{}, fmt.Errorf("%s: manifest of %d bytes is over the limit of %d", desc.Digest, desc.Size, maxIndex)
	}
	data, err := content.FetchAll(ctx, s.Storage, desc)
	if err != nil {
		return node{}, err
	}
	return parse(data)
}

func parse(data []byte) (node, error) {
	var n node
	err := json.Unmarshal(data, &n)
	return n, err
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

func isManifest(mediaType string) bool {
	return isIndex(mediaType) || mediaType == ocispec.MediaTypeImageManifest || mediaType == "application/vnd.docker.distribution.manifest.v2+json"
}

// write replaces a file as a whole: a reader sees the old one or the new one.
func write(path string, data []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(data)
	if err := errors.Join(err, temp.Chmod(0o644), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
