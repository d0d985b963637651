package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// Archives come from outside, so all of it is capped.
const (
	// maxManifests is for all manifests of a stream, which are held in memory.
	maxManifests = 64 << 20
	// maxNamed is how many blobs the manifests may name, which all are remembered.
	maxNamed = 1_000_000
	// maxEntries is ten times what a runtime of 2,000 images has.
	maxEntries = 250_000
	// maxLayout is for the file oci-layout, which has 30 bytes.
	maxLayout = 64 << 10
	// maxPadding is how many zeros may follow the end of a tar: the largest record there is.
	maxPadding = 1 << 20
)

// ErrDamaged is the error of a file that is damaged or not an archive.
var ErrDamaged = errors.New("damaged or not an archive")

// tarScanner goes through the files of a tar and refuses what has no place in a layout.
type tarScanner struct {
	tar  *tar.Reader
	read *countingReader
	seen map[string]bool
	// end is where the last entry ends.
	end int64
	// records are the PAX records of the last entry.
	records map[string]string
}

// countingReader counts what is read, and seeks if it can: archive/tar seeks over content then.
type countingReader struct {
	io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

type seekCounter struct{ *countingReader }

func (c seekCounter) Seek(offset int64, whence int) (int64, error) {
	n, err := c.Reader.(io.Seeker).Seek(offset, whence)
	if err == nil {
		c.n = n
	}
	return n, err
}

func newScanner(r io.Reader) *tarScanner {
	c := &countingReader{Reader: r}
	s := &tarScanner{read: c, seen: map[string]bool{}}
	if _, ok := r.(io.Seeker); ok {
		s.tar = tar.NewReader(seekCounter{c})
	} else {
		s.tar = tar.NewReader(c)
	}
	return s
}

// nextFile returns the next regular file, and where its content begins. At the end it is io.EOF,
// and the archive is whole.
func (s *tarScanner) nextFile() (name string, offset, size int64, err error) {
	for {
		h, err := s.tar.Next()
		if err == io.EOF {
			return "", 0, 0, s.checkEnd()
		}
		if err != nil {
			return "", 0, 0, markDamaged(fmt.Errorf("at byte %d: %w", s.read.n, unexpectedEOF(err)))
		}
		name, err := s.checkHeader(h)
		if err == errDockerSave {
			return "", 0, 0, err
		}
		if err != nil {
			return "", 0, 0, fmt.Errorf("%w: %w", err, ErrDamaged)
		}
		s.end, s.records = s.read.n+roundUpToBlock(h.Size), h.PAXRecords
		if h.Typeflag == tar.TypeReg && !isParity(name) {
			return name, s.read.n, h.Size, nil
		}
	}
}

// checkHeader refuses what could lead out of a layout, or hide in it.
func (s *tarScanner) checkHeader(h *tar.Header) (string, error) {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return "", fmt.Errorf("entry %q is sparse", h.Name)
		}
	}
	if (h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink) && (dockerLayer.MatchString(h.Name) || isDockerSave(s.seen)) {
		return "", errDockerSave
	}
	if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
		return "", fmt.Errorf("entry %q is neither a file nor a folder", h.Name)
	}
	name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
	if name == "" && h.Typeflag == tar.TypeDir {
		return ".", nil // of "tar -C layout -c ."
	}
	if name != filepath.ToSlash(filepath.Clean(name)) || !filepath.IsLocal(name) || strings.ContainsRune(name, '\\') {
		return "", fmt.Errorf("unexpected entry %q", h.Name)
	}
	if s.seen[name] {
		return "", fmt.Errorf("duplicate entry %q", name)
	}
	s.seen[name] = true
	if len(s.seen) > maxEntries {
		return "", fmt.Errorf("more than %d entries", maxEntries)
	}
	return name, nil
}

// checkEnd checks that the tar has its end, and nothing after it.
func (s *tarScanner) checkEnd() error {
	if s.read.n < s.end+int64(len(trailer)) {
		return fmt.Errorf("truncated at byte %d: %w", s.read.n, ErrDamaged)
	}
	rest, err := io.ReadAll(io.LimitReader(s.read, maxPadding+1))
	if err != nil {
		return err
	}
	if strings.Trim(string(rest), "\x00") != "" || len(rest) > maxPadding {
		return fmt.Errorf("trailing data at byte %d: %w", s.end+int64(len(trailer)), ErrDamaged)
	}
	return io.EOF
}

// blobDigest returns the digest that an entry's name stands for; ok is false where it names no blob.
func blobDigest(name string) (d digest.Digest, ok bool, err error) {
	rest, ok := strings.CutPrefix(name, ocispec.ImageBlobsDir+"/")
	if !ok {
		return "", false, nil
	}
	d = digest.Digest(strings.Replace(rest, "/", ":", 1))
	if err := d.Validate(); err != nil {
		return "", false, fmt.Errorf("entry %q: %w: %w", name, err, ErrDamaged)
	}
	return d, true, nil
}

// indexInfo is what an archive says of itself in its index.
type indexInfo struct {
	ocispec.Index
	manifests int
	// hasOrder is set if the index tells how many entries are manifests, as krtpkg's does, and
	// named how many those are.
	hasOrder bool
	named    int
	base     []string
	volume   int
	starts   []string
}

// readIndex reads index.json, the entry that the scanner is at.
func (s *tarScanner) readIndex() (a indexInfo, err error) {
	sum := digest.Canonical.Digester()
	if a.Index, err = oci.ReadIndex(io.TeeReader(s.tar, sum.Hash())); err != nil {
		return a, fmt.Errorf("%s: %w: %w", ocispec.ImageIndexFile, err, ErrDamaged)
	}
	if err := checkChecksum(s.records, sum.Digest()); err != nil {
		return a, err
	}
	for _, d := range a.Manifests {
		if err := d.Digest.Validate(); err != nil || d.Size < 0 {
			return a, fmt.Errorf("%s: invalid descriptor: digest %q, size %d: %w", ocispec.ImageIndexFile, d.Digest, d.Size, ErrDamaged)
		}
	}
	if err := checkFeatures(a.Annotations[annotationRequires]); err != nil {
		return a, err
	}
	number := func(key string) (n int) {
		if text, ok := a.Annotations[key]; ok && err == nil {
			if key == annotationManifests && a.Annotations[annotationRequires] != "" {
				text, _, _ = strings.Cut(text, ",")
			}
			if n, err = strconv.Atoi(text); err != nil || n < 0 {
				err = fmt.Errorf("%s: %s is %q: %w", ocispec.ImageIndexFile, key, text, ErrDamaged)
			}
		}
		return n
	}
	a.manifests = number(annotationManifests)
	a.hasOrder, a.named = a.manifests > 0, a.manifests
	a.volume = number(annotationVolume)
	if text := a.Annotations[annotationBase]; text != "" {
		a.base = strings.Split(text, "\n")
	}
	if text, ok := a.Annotations[annotationVolumes]; ok {
		a.starts = strings.Split(text, " ")
	}
	if err == nil && a.volume > len(a.starts) {
		err = fmt.Errorf("%s: volume %d of %d: %w", ocispec.ImageIndexFile, a.volume, len(a.starts), ErrDamaged)
	}
	return a, err
}

func checkLayout(r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxLayout+1))
	if err != nil {
		return fmt.Errorf("%s: %w: %w", ocispec.ImageLayoutFile, err, ErrDamaged)
	}
	if len(data) > maxLayout {
		return fmt.Errorf("%s has more than %d bytes: %w", ocispec.ImageLayoutFile, maxLayout, ErrDamaged)
	}
	var l ocispec.ImageLayout
	if err := oci.UnmarshalJSON(data, &l); err != nil {
		return fmt.Errorf("%s: %w: %w", ocispec.ImageLayoutFile, err, ErrDamaged)
	}
	if l.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("layout version %q, want %s: %w", l.Version, ocispec.ImageLayoutVersion, ErrDamaged)
	}
	return nil
}

// readLimited reads a file of the archive that must fit in memory.
func readLimited(r io.Reader, name string, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, the limit is %d: %w", name, size, limit, ErrDamaged)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, markDamaged(fmt.Errorf("%s: %w", name, unexpectedEOF(err)))
	}
	return data, nil
}

// markDamaged returns the error of a read as [ErrDamaged], unless a context ended the read.
func markDamaged(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", err, ErrDamaged)
}

// namedContent is what the manifests of an archive name.
type namedContent struct {
	// blobs are sizes; those of foreign layers, which an archive need not have, are -1 less.
	blobs map[digest.Digest]int64
	// manifests are those that indexes name.
	manifests map[digest.Digest]ocispec.Descriptor
	// deltas are those of layers, by the layer; deltaBlobs are what their manifest names.
	deltas     map[digest.Digest]Delta
	deltaBlobs map[digest.Digest]int64
}

func newWanted() namedContent {
	return namedContent{
		blobs: map[digest.Digest]int64{}, manifests: map[digest.Digest]ocispec.Descriptor{},
		deltas: map[digest.Digest]Delta{}, deltaBlobs: map[digest.Digest]int64{},
	}
}

// addManifest adds what a manifest names.
func (w namedContent) addManifest(d digest.Digest, data []byte) error {
	sizes := w.blobs
	m, err := oci.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("manifest %s: %w: %w", d, err, ErrDamaged)
	}
	if len(sizes)+len(w.manifests) > maxNamed {
		return fmt.Errorf("the manifests name more than %d blobs: %w", maxNamed, ErrDamaged)
	}
	if m.ArtifactType == TypeDelta && m.Subject == nil {
		return w.addDeltas(d, m.Config, m.Layers)
	}
	for _, named := range m.Blobs() {
		if err := named.Digest.Validate(); err != nil || named.Size < 0 {
			return fmt.Errorf("manifest %s: invalid descriptor: digest %q, size %d: %w", d, named.Digest, named.Size, ErrDamaged)
		}
		if !oci.IsForeign(named) {
			sizes[named.Digest] = named.Size
		} else if _, known := sizes[named.Digest]; !known {
			sizes[named.Digest] = -1 - named.Size
		}
	}
	for _, named := range m.Manifests {
		if err := named.Digest.Validate(); err != nil || named.Size < 0 {
			return fmt.Errorf("manifest %s: invalid descriptor: digest %q, size %d: %w", d, named.Digest, named.Size, ErrDamaged)
		}
		w.manifests[named.Digest] = named
	}
	return nil
}

// listLacking returns those that are not there, less what is for platforms that the archive says that it
// leaves out.
func (w namedContent) listLacking(a indexInfo, there func(digest.Digest) bool) (list []ocispec.Descriptor) {
	for d, size := range w.blobs {
		if size >= 0 && !there(d) {
			list = append(list, ocispec.Descriptor{MediaType: octets, Digest: d, Size: size})
		}
	}
	for d, named := range w.manifests {
		if !there(d) && !a.leavesOut(named.Platform) {
			list = append(list, ocispec.Descriptor{MediaType: named.MediaType, Digest: d, Size: named.Size})
		}
	}
	SortBlobs(list)
	return list
}

// countForeign returns how many foreign layers are not there: they are at their URLs alone.
func (w namedContent) countForeign(there func(digest.Digest) bool) (n int) {
	for d, size := range w.blobs {
		if size < 0 && !there(d) {
			n++
		}
	}
	return n
}

const octets = "application/octet-stream"

// leavesOut reports whether a root of the archive is limited to other platforms than one.
func (a indexInfo) leavesOut(platform *ocispec.Platform) bool {
	if platform == nil {
		return false
	}
	for _, root := range a.Manifests {
		text := root.Annotations[layout.AnnotationPlatforms]
		if text != "" && !slices.ContainsFunc(strings.Split(text, ","), func(want string) bool { return isPlatform(want, platform) }) {
			return true
		}
	}
	return false
}

// isPlatform reports whether a platform is the one of os/architecture[/variant].
func isPlatform(text string, p *ocispec.Platform) bool {
	want, err := oci.ParsePlatform(text)
	return err == nil && oci.MatchesPlatform(want, *p)
}

// limitedPlatforms returns those to which the roots are limited, in order.
func (a indexInfo) limitedPlatforms() (list []string) {
	for _, root := range a.Manifests {
		if text := root.Annotations[layout.AnnotationPlatforms]; text != "" {
			list = append(list, strings.Split(text, ",")...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// IncompleteError reports that an archive lacks items that it does not declare as left out.
type IncompleteError struct{ Missing []ocispec.Descriptor }

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("archive incomplete: %d items that its manifests name are missing and not declared as left out, the first is %s", len(e.Missing), e.Missing[0].Digest)
}
