package archive

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// Stream is an archive that is read as it arrives, compressed or not. Its manifests are there
// when it is opened, the blobs follow: call [Stream.NextBlob] until io.EOF, which means that the
// archive was complete.
type Stream struct {
	// View holds the manifests, and what was kept.
	*layout.View
	info      indexInfo
	scanner   *tarScanner
	manifests manifestContents
	// kept are blobs that are in memory.
	kept manifestContents
	// named is what the manifests name, seen are the blobs that came.
	named namedContent
	seen  map[digest.Digest]bool
	// odd is set if what stood where a manifest should may be none.
	odd   bool
	close func()
}

// OpenStream reads the beginning of an archive. The context ends this and all that is read of the stream later. Errors:
// [ErrDamaged].
func OpenStream(ctx context.Context, r io.Reader) (_ *Stream, err error) {
	buffered := bufio.NewReaderSize(contextReader{ctx, r}, 1<<20)
	s := &Stream{manifests: manifestContents{}, kept: manifestContents{}, named: newWanted(), seen: map[digest.Digest]bool{}, close: func() {}}
	magic, err := buffered.Peek(len(zstdMagic))
	switch {
	case err != nil && err != io.EOF:
		return nil, err
	case bytes.Equal(magic, zstdMagic):
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(32<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		s.close, r = decoder.Close, io.Reader(decoder)
	case bytes.HasPrefix(magic, gzipMagic):
		return nil, errGzip
	default:
		r = buffered
	}
	s.scanner = newScanner(r)
	if err := s.readStart(); err != nil {
		s.close()
		return nil, err
	}
	s.View = &layout.View{
		Blobs: heldContent{s.manifests, s.kept}, Name: "the archive",
		Index: func() (ocispec.Index, error) { return s.info.Index, nil },
	}
	return s, nil
}

// readStart reads all that comes before the blobs.
func (s *Stream) readStart() error {
	if err := s.nextNamed(ocispec.ImageLayoutFile); err != nil {
		return err
	}
	if err := checkLayout(s.scanner.tar); err != nil {
		return err
	}
	if err := s.nextNamed(ocispec.ImageIndexFile); err != nil {
		return err
	}
	var err error
	if s.info, err = s.scanner.readIndex(); err != nil {
		return err
	}
	if s.info.manifests == 0 {
		return fmt.Errorf("not made by krtpkg: %w", ErrOrder)
	}
	left := int64(maxManifests)
	for range s.info.manifests {
		n, err := s.readNextManifest(left)
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// nextNamed goes to the next entry, which must be the one that is wanted.
func (s *Stream) nextNamed(want string) error {
	name, _, _, err := s.scanner.nextFile()
	switch {
	case err == io.EOF:
		return fmt.Errorf("%s is missing: %w", want, ErrDamaged)
	case err == nil && name != want:
		return fmt.Errorf("%s is not at its place in an archive: %w", want, ErrOrder)
	}
	return err
}

// readNextManifest reads the next manifest and notes what it names.
func (s *Stream) readNextManifest(left int64) (int64, error) {
	name, _, size, err := s.scanner.nextFile()
	if err == io.EOF {
		err = fmt.Errorf("manifests are missing: %w", ErrDamaged)
	}
	if err != nil {
		return 0, err
	}
	d, isBlob, err := blobDigest(name)
	if err != nil {
		return 0, err
	}
	if !isBlob {
		return 0, fmt.Errorf("expected a manifest, found entry %q: %w", name, ErrDamaged)
	}
	if size > oci.MaxManifest {
		return 0, fmt.Errorf("expected a manifest, found blob %s: %w", d, ErrOrder)
	}
	data, err := readLimited(s.scanner.tar, "manifest "+d.String(), size, left)
	if err != nil {
		return 0, err
	}
	if d != d.Algorithm().FromBytes(data) {
		return 0, fmt.Errorf("manifest %s: %w", d, content.ErrMismatchedDigest)
	}
	s.odd = s.odd || !oci.IsManifest(layout.MediaTypeOf(data))
	if err := s.named.addManifest(d, data); err != nil && !json.Valid(data) {
		return 0, fmt.Errorf("expected a manifest, found blob %s: %w", d, ErrOrder)
	} else if err != nil {
		return 0, err
	}
	s.manifests[d] = data
	return size, nil
}

// NextBlob returns the next blob. Its reader fails before the end if the content does not match the
// digest; unread content is skipped. Blobs that no manifest names, or that have another size, are
// errors.
func (s *Stream) NextBlob() (ocispec.Descriptor, io.Reader, error) {
	name, _, size, err := s.scanner.nextFile()
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	d, isBlob, err := blobDigest(name)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	if !isBlob {
		return ocispec.Descriptor{}, nil, fmt.Errorf("unexpected entry %q among the blobs: %w", name, ErrDamaged)
	}
	want, named := s.named.blobs[d]
	if want < 0 {
		want = -1 - want // a foreign layer that came along
	}
	if !named {
		want, named = s.named.deltaBlobs[d]
	}
	if !named && s.odd {
		return ocispec.Descriptor{}, nil, fmt.Errorf("blob %s is not named by a manifest: %w", d, ErrOrder)
	}
	if !named {
		return ocispec.Descriptor{}, nil, fmt.Errorf("blob %s is not named by a manifest: %w", d, ErrDamaged)
	}
	if want != size {
		return ocispec.Descriptor{}, nil, fmt.Errorf("blob %s has %d bytes, other than its manifest declares: %w", d, size, ErrDamaged)
	}
	s.seen[d] = true
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size}
	return desc, &verifiedReader{r: s.scanner.tar, hash: d.Verifier(), left: size}, nil
}

// ListLacking lists what the manifests name but the stream did not contain, except foreign layers and the
// platforms that a root is not limited to.
func (s *Stream) ListLacking(context.Context) ([]ocispec.Descriptor, error) {
	return s.named.listLacking(s.info, func(d digest.Digest) bool { return s.seen[d] || s.manifests[d] != nil || s.kept[d] != nil }), nil
}

// DescribeItems returns what the blobs that the manifests name are, such as "layer of IMAGE".
func (s *Stream) DescribeItems() map[digest.Digest]string {
	return layout.DescribeItems(s.info.Manifests, s.manifests)
}

// ListExpected lists the blobs that the rest of the stream should contain, by digest: all that the manifests
// name, less those of other volumes, foreign layers and layers for which there are deltas. Those that a base has
// are known only at the end.
func (s *Stream) ListExpected() (list []ocispec.Descriptor) {
	front := map[digest.Digest]bool{}
	for _, desc := range ListFront(s.info.Manifests, maps.All(s.manifests)) {
		front[desc.Digest] = true
	}
	for _, sizes := range []map[digest.Digest]int64{s.named.blobs, s.named.deltaBlobs} {
		for d, size := range sizes {
			_, isDelta := s.named.deltas[d]
			if size >= 0 && !isDelta && (front[d] || s.info.volume == 0 || s.info.volumeOf(d) == s.info.volume) {
				list = append(list, ocispec.Descriptor{MediaType: octets, Digest: d, Size: size})
			}
		}
	}
	SortBlobs(list)
	return slices.CompactFunc(list, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest })
}

// Deltas lists the layers that the archive has as deltas.
func (s *Stream) Deltas() []Delta { return s.named.listDeltas() }

// BaseReferences lists the references that a target must have before it imports this archive.
func (s *Stream) BaseReferences() []string { return s.info.base }

// Volumes returns the number of this volume and of all volumes; zeros for a single file.
func (s *Stream) Volumes() (volume, volumes int) { return s.info.volume, len(s.info.starts) }

// Close ends the decompression.
func (s *Stream) Close() { s.close() }

// verifiedReader is content that fails at its end, before io.EOF, when it is not what it should be.
type verifiedReader struct {
	r    io.Reader
	hash digest.Verifier
	left int64
}

func (v *verifiedReader) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.left -= int64(n)
	switch {
	case err != nil && err != io.EOF:
		return n, markDamaged(err)
	case v.left == 0 && !v.hash.Verified():
		return 0, content.ErrMismatchedDigest
	case v.left > 0 && err == io.EOF:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// manifestContents is content in memory.
type manifestContents map[digest.Digest][]byte
