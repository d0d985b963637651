package archive

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// ListFront lists the blobs that precede all others, by digest: the layers and configs of
// bundles and runtimes, and their signatures and attestations. With them and the manifests a reader
// can verify the archive, and knows what belongs to it, before anything else arrives. Named are the
// entries of index.json. Entries that are not manifests are skipped.
func ListFront(named []ocispec.Descriptor, manifests iter.Seq2[digest.Digest, []byte]) []ocispec.Descriptor {
	nodes := map[digest.Digest]*manifestNode{}
	for d, data := range manifests {
		if n, err := parseNode(d, data); err == nil {
			nodes[d] = n
		}
	}
	return findFront(named, nodes)
}

func findFront(named []ocispec.Descriptor, nodes map[digest.Digest]*manifestNode) []ocispec.Descriptor {
	isArtifact := func(d digest.Digest) bool {
		n := nodes[d]
		return n != nil && (n.ArtifactType == bundle.TypeBundle || n.ArtifactType == bundle.TypeRuntime)
	}
	sizes := map[digest.Digest]int64{}
	add := func(n *manifestNode) {
		for _, desc := range n.Blobs() {
			if nodes[desc.Digest] == nil {
				sizes[desc.Digest] = desc.Size
			}
		}
	}
	for d, n := range nodes {
		if isArtifact(d) || n.Subject != nil && isArtifact(n.Subject.Digest) && n.isSignature() {
			add(n)
		}
	}
	for _, desc := range named {
		// cosign's tags: sha256-<hex>.sig and .att.
		tag := desc.Annotations[ocispec.AnnotationRefName]
		subject, suffix, _ := strings.Cut(tag, ".")
		if n := nodes[desc.Digest]; n != nil && (suffix == "sig" || suffix == "att") && isArtifact(digest.Digest(strings.Replace(subject, "-", ":", 1))) {
			add(n)
		}
	}
	front := make([]ocispec.Descriptor, 0, len(sizes))
	for d, size := range sizes {
		front = append(front, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size})
	}
	SortBlobs(front)
	return front
}

// isSignature reports whether a referrer is a signature or an attestation, in one of the forms of
// cosign.
func (n *manifestNode) isSignature() bool {
	types := []string{n.ArtifactType}
	for _, desc := range n.Blobs() {
		types = append(types, desc.MediaType)
	}
	for _, t := range types {
		if strings.HasPrefix(t, "application/vnd.dev.cosign.") || strings.HasPrefix(t, "application/vnd.dev.sigstore.bundle") {
			return true
		}
	}
	return false
}

// PendingFront lists the blobs that verification needs and that were neither kept nor passed.
func (s *Stream) PendingFront() []ocispec.Descriptor {
	front := ListFront(s.info.Manifests, maps.All(s.manifests))
	left := front[:0]
	for _, desc := range front {
		if _, kept := s.kept[desc.Digest]; !kept {
			left = append(left, desc)
		}
	}
	return left
}

// KeepBlob reads a blob that [Stream.NextBlob] returned and keeps it in memory, like manifests. It
// counts against the budget.
func (s *Stream) KeepBlob(desc ocispec.Descriptor, r io.Reader, budget *oci.Budget) error {
	if err := budget.Take(desc.Size); err != nil {
		return fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	data, err := readBlob(desc, r)
	if err != nil {
		budget.Release(desc.Size)
		return err
	}
	s.kept[desc.Digest] = data
	return nil
}

// IsKept reports whether the stream holds a blob.
func (s *Stream) IsKept(d digest.Digest) bool { return s.kept[d] != nil }

// KeptBlobs lists the blobs that the stream holds.
func (s *Stream) KeptBlobs() (list []ocispec.Descriptor) {
	for d, data := range s.kept {
		list = append(list, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(data))})
	}
	SortBlobs(list)
	return list
}

// CopyKept copies the blobs that another stream of the same archive keeps.
func (s *Stream) CopyKept(other *Stream) {
	for d, data := range other.kept {
		s.kept[d] = data
	}
}

func readBlob(desc ocispec.Descriptor, r io.Reader) ([]byte, error) {
	data := make([]byte, desc.Size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read %s from the archive: %w", desc.Digest, unexpectedEOF(err))
	}
	if desc.Digest != desc.Digest.Algorithm().FromBytes(data) {
		return nil, fmt.Errorf("read %s from the archive: %w", desc.Digest, content.ErrMismatchedDigest)
	}
	return data, nil
}

// heldContent is the content of a stream that is in memory.
type heldContent struct{ manifests, kept manifestContents }

func (h heldContent) mapFor(d digest.Digest) manifestContents {
	if _, ok := h.kept[d]; ok {
		return h.kept
	}
	return h.manifests
}

func (h heldContent) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return h.mapFor(desc.Digest).Fetch(ctx, desc)
}

func (h heldContent) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	return h.mapFor(desc.Digest).Exists(ctx, desc)
}

func (h heldContent) Stat(d digest.Digest) (int64, error) { return h.mapFor(d).Stat(d) }

var _ layout.Blobs = heldContent{}

// ListFront lists the blobs that verification needs.
func (s *Store) ListFront(ctx context.Context) ([]ocispec.Descriptor, error) {
	var failed error
	front := ListFront(s.info.Manifests, func(yield func(digest.Digest, []byte) bool) {
		for d := range s.manifests {
			data, err := s.readManifest(ctx, d)
			if err != nil {
				failed = err
				return
			}
			if !yield(d, data) {
				return
			}
		}
	})
	return front, failed
}

// readManifest reads a manifest that stands where manifests do.
func (s *Store) readManifest(ctx context.Context, d digest.Digest) ([]byte, error) {
	size, err := s.Stat(d)
	if err != nil {
		return nil, err
	}
	if size > oci.MaxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes, the limit is %d: %w", d, size, oci.MaxManifest, ErrDamaged)
	}
	data, err := content.FetchAll(ctx, s, ocispec.Descriptor{Digest: d, Size: size})
	if err != nil {
		return nil, fmt.Errorf("archive %s: manifest %s: %w", s.Name, d, err)
	}
	return data, nil
}
