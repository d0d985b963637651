// Package archive is an OCI image layout as one tar (image-spec v1.1, image-layout.md), made
// to be carried: the same content is the same bytes, every size is known before the first
// byte, so that it is written in one pass to anything and read in one pass from anything.
//
// [WriteFile] and [Write] write one from [Contents]; [Open] reads one in place, without
// unpacking it; [OpenStream] reads one as it arrives.
//
// The order is: oci-layout, index.json, the manifests with children before parents, the blobs of
// bundles, runtimes and their signatures ([ListFront]), then all other blobs by digest. So a reader
// knows who signed what arrives before most of it does. Every entry is a regular file of mode
// 0644, time 0 and no owner. The header of index.json has its digest as a PAX comment: an archive whose
// index does not match it is damaged, and one without it, as others write them, is read as it is.
// Archives of earlier versions have no such comment, and the oldest have all blobs by digest.
//
// With [Contents.Parity] an archive heals: two more entries hold parity of all the others (pkg/parity), and other
// programs leave them alone.
package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/parity"
)

// What an archive says of itself, as annotations of its index.json.
const (
	// annotationManifests is how many entries after index.json are manifests.
	annotationManifests = "dev.krtpkg.archive.manifests"
	// annotationVolume is the number of this volume, from 1; annotationVolumes are the digests
	// of the first blob of each of them.
	annotationVolume  = "dev.krtpkg.archive.volume"
	annotationVolumes = "dev.krtpkg.archive.volumes"
	// annotationBase lists, one per line, what the target must have before an import.
	annotationBase = "dev.krtpkg.archive.base"
	// annotationRequires lists, parted by spaces, what a reader must know.
	annotationRequires = "dev.krtpkg.archive.requires"
	// annotationContainerd is the name that containerd gives an image
	// (github.com/containerd/containerd: core/images/annotations.go).
	annotationContainerd = "io.containerd.image.name"
)

// Contents is the content of an archive.
type Contents struct {
	// Named are the entries of index.json: what has a name, as its ref.name annotation, and
	// what has a subject.
	Named []ocispec.Descriptor
	// Manifests are all image manifests and indexes, children before parents.
	Manifests []ocispec.Descriptor
	// Front are the blobs that come first ([ListFront]), by digest.
	Front []ocispec.Descriptor
	// Blobs are everything else, by digest.
	Blobs []ocispec.Descriptor
	// Base names the roots that the archive builds on, as references with digests.
	Base []string
	// HasDeltas is set if there is a manifest of deltas ([EncodeDeltas]): versions of krtpkg that do not
	// know deltas then refuse the archive.
	HasDeltas bool
	// Parity is the size of the parity in percent of the archive, 1 to 100: a file then heals damage ([Open],
	// [Repair]). 0 adds none.
	Parity int
	// ParityVolumes is how many volumes of parity [Contents.Split] leaves room for.
	ParityVolumes int

	// volume is this one's number from 1, or 0 where there is only one; starts are the first
	// blobs of all volumes.
	volume int
	starts []digest.Digest
}

// NameDescriptor returns a descriptor a name in index.json: reference is a tag or a whole reference, full
// the whole reference by which containerd is to know it, or empty.
func NameDescriptor(desc ocispec.Descriptor, reference, full string) ocispec.Descriptor {
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: reference}
	if full != "" {
		desc.Annotations[annotationContainerd] = full
	}
	return desc
}

// FullName returns the whole reference that a descriptor was given by [NameDescriptor], or empty.
func FullName(desc ocispec.Descriptor) string { return desc.Annotations[annotationContainerd] }

func (c Contents) encodeIndex() ([]byte, error) {
	var requires []string
	if c.HasDeltas {
		requires = append(requires, featureDeltas)
	}
	annotations := map[string]string{annotationManifests: countText(len(c.Manifests), requires)}
	if len(requires) > 0 {
		annotations[annotationRequires] = strings.Join(requires, " ")
	}
	if len(c.Base) > 0 {
		annotations[annotationBase] = strings.Join(c.Base, "\n")
	}
	if c.volume > 0 {
		annotations[annotationVolume] = strconv.Itoa(c.volume)
		starts := make([]string, len(c.starts))
		for i, d := range c.starts {
			starts[i] = d.String()
		}
		annotations[annotationVolumes] = strings.Join(starts, " ")
	}
	named := c.Named
	if named == nil {
		named = []ocispec.Descriptor{}
	}
	return json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: named, Annotations: annotations,
	})
}

// archiveEntry is a file of the archive: its header as it stands there, and its content, which is
// data or what desc describes.
type archiveEntry struct {
	header []byte
	data   []byte
	desc   ocispec.Descriptor
	// offset is where the header begins.
	offset int64
}

func (e archiveEntry) contentSize() int64 {
	if e.data != nil {
		return int64(len(e.data))
	}
	return e.desc.Size
}

// contentOffset returns where the content begins, end where the next entry does.
func (e archiveEntry) contentOffset() int64 { return e.offset + int64(len(e.header)) }
func (e archiveEntry) endOffset() int64     { return e.contentOffset() + roundUpToBlock(e.contentSize()) }

// paddingBytes returns what fills the last block of the content.
func (e archiveEntry) paddingBytes() []byte {
	return trailer[:roundUpToBlock(e.contentSize())-e.contentSize()]
}

const block = 512

func roundUpToBlock(n int64) int64 { return (n + block - 1) / block * block }

// trailer ends a tar.
var trailer = make([]byte, 2*block)

// listEntries returns all files, each with its place.
func (c Contents) listEntries() ([]archiveEntry, error) {
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	index, err := c.encodeIndex()
	if err != nil {
		return nil, err
	}
	all := make([]archiveEntry, 0, 3+len(c.Manifests)+len(c.Front)+len(c.Blobs))
	add := func(name string, e archiveEntry) (err error) {
		var records map[string]string
		if name == ocispec.ImageIndexFile {
			records = checksumRecords(e.data)
		}
		all, err = appendEntry(all, name, e, records)
		return err
	}
	if c.Parity > 0 {
		if err := add(parityGeometry, archiveEntry{data: make([]byte, parity.SectorSize)}); err != nil {
			return nil, err
		}
	}
	if err := add(ocispec.ImageLayoutFile, archiveEntry{data: layout}); err != nil {
		return nil, err
	}
	if err := add(ocispec.ImageIndexFile, archiveEntry{data: index}); err != nil {
		return nil, err
	}
	for _, descs := range [][]ocispec.Descriptor{c.Manifests, c.Front, c.Blobs} {
		for _, desc := range descs {
			if err := add(blobPath(desc.Digest), archiveEntry{desc: desc}); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func blobPath(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// encodeHeader returns an entry's header. One of 8 GiB and more, or with records, takes three blocks
// (PAX), others one.
func encodeHeader(name string, size int64, records map[string]string) ([]byte, error) {
	var out bytes.Buffer
	err := tar.NewWriter(&out).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), PAXRecords: records,
	})
	return out.Bytes(), err
}

// Size returns the size of the archive in bytes.
func (c Contents) Size() (int64, error) {
	file, err := c.layOutFile()
	if err != nil {
		return 0, err
	}
	return file.size(), nil
}

// SortBlobs sorts blobs into the order in which an archive stores them.
func SortBlobs(blobs []ocispec.Descriptor) {
	slices.SortFunc(blobs, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
}
