package bundle

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// File is a file of an artifact. Path is relative and has slashes.
type File struct {
	Path string
	Data []byte
}

// Content is everything that an artifact holds. Exactly one of Bundle, Runtime and Catalogue is set.
type Content struct {
	// Bundle is the definition as resolved: every source with its path and digest.
	Bundle *Bundle
	// Runtime is the runtime's lock.
	Runtime *RuntimeLock
	// Catalogue says of which runtimes it has the packages. Such an artifact is made, and opened
	// by kapp-controller alone.
	Catalogue *Catalogue
	// Images are the workload images of a bundle, or the nested bundles of a runtime or a
	// catalogue.
	Images images.Lock
	// Cargo are the files and charts of a bundle, by the digests of their manifests.
	Cargo images.Lock
	// Files are what the target renders, below config/ and overlays/, and hooks of Helm that it
	// does not apply, below hooks/; of a runtime what controllers take, below packages/, flux/
	// and argocd/.
	Files []File
	// opened is set if it was read from an artifact, and base is the kustomization there; nil for none.
	opened bool
	base   []byte
	// parsed are files that were parsed before it is packed, by their paths.
	parsed map[string]*manifest.File
}

// UseParsed tells the next [Content.Pack] what files were parsed to, by their paths, so that it does not parse them again.
func (c *Content) UseParsed(parsed map[string]*manifest.File) { c.parsed = parsed }

// Metadata returns the content's name and version.
func (c *Content) Metadata() Metadata {
	switch {
	case c.Bundle != nil:
		return c.Bundle.Metadata
	case c.Catalogue != nil:
		return c.Catalogue.Metadata
	}
	return c.Runtime.Metadata
}

// Pack writes the content to a store and returns its manifest's descriptor. The same
// content gives the same bytes anywhere: entries are sorted, owners and modes are fixed,
// and all times are created (the Unix epoch when zero), which goes into the image config
// only when it is not zero.
func (c *Content) Pack(ctx context.Context, store content.Pusher, created time.Time) (ocispec.Descriptor, error) {
	if err := c.checkSizes(); err != nil {
		return ocispec.Descriptor{}, err
	}
	files, err := c.layerFiles()
	c.parsed = nil
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer, diffID, err := compressLayer(files, created)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config, err := json.Marshal(c.imageConfig(diffID, created))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: c.artifactType(),
		Config:       content.NewDescriptorFromBytes(ocispec.MediaTypeImageConfig, config),
		Layers:       []ocispec.Descriptor{content.NewDescriptorFromBytes(mediaTypeLayer, layer)},
		Annotations:  c.manifestAnnotations(created),
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	root := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, raw)
	for _, blob := range []struct {
		desc ocispec.Descriptor
		data []byte
	}{{manifest.Config, config}, {manifest.Layers[0], layer}, {root, raw}} {
		err := store.Push(ctx, blob.desc, bytes.NewReader(blob.data))
		if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
			return ocispec.Descriptor{}, fmt.Errorf("write %s: %w", blob.desc.Digest, err)
		}
	}
	root.ArtifactType = manifest.ArtifactType
	return root, nil
}

// checkSizes refuses more manifests than can be parsed in the memory that a program has for them.
func (c *Content) checkSizes() error {
	nodes := 0
	for _, f := range c.Files {
		if ext := path.Ext(f.Path); ext != ".yaml" && ext != ".yml" && ext != ".json" {
			continue
		}
		if err := manifest.CheckSize(f.Data); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if nodes += manifest.CountNodes(f.Data); nodes > oci.MaxBundleNodes {
			return fmt.Errorf("the files of the bundle have more than %d keys and values: %w", oci.MaxBundleNodes, oci.ErrTooLarge)
		}
	}
	return nil
}

func (c *Content) artifactType() string {
	switch {
	case c.Bundle != nil:
		return TypeBundle
	case c.Catalogue != nil:
		return TypeCatalogue
	}
	return TypeRuntime
}

// layerFiles returns every file of the layer, sorted by path.
func (c *Content) layerFiles() ([]File, error) {
	lock, err := c.Images.Merge(c.Cargo).Marshal()
	if err != nil {
		return nil, err
	}
	about, err := c.imgpkgMetadata()
	if err != nil {
		return nil, err
	}
	files := []File{{fileImages, lock}, {fileImgpkg, about}}
	var definition any = c.Bundle
	name := fileBundle
	switch {
	case c.Runtime != nil:
		definition, name = c.Runtime, fileRuntime
	case c.Catalogue != nil:
		definition, name = c.Catalogue, fileCatalogue
	}
	data, err := manifest.EncodeYAML(definition)
	if err != nil {
		return nil, err
	}
	files = append(files, File{name, data})
	if data, err = c.makeKustomization(); err != nil {
		return nil, err
	}
	if data != nil {
		files = append(files, File{fileKustomization, data})
	}
	names := entryNames{}
	for _, f := range files {
		if _, err := names.add(f.Path, false); err != nil {
			return nil, err
		}
	}
	for _, f := range c.Files {
		if !isConfined(f.Path) || path.Clean(f.Path) != f.Path {
			return nil, fmt.Errorf("file %q is not allowed in a bundle", f.Path)
		}
		if !isPrintable(f.Path) {
			return nil, fmt.Errorf("file %q has non-printable characters in its name", f.Path)
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	size := 0
	for i, f := range files {
		if i > 0 && f.Path == files[i-1].Path {
			return nil, fmt.Errorf("two sources write the file %s", f.Path)
		}
		size += len(f.Data)
	}
	// What Open would refuse is not made.
	if size > maxContent || len(files) > maxFiles {
		return nil, fmt.Errorf("%d files of %d bytes, the limit is %d files and %d bytes", len(files), size, maxFiles, maxContent)
	}
	return files, nil
}

// imgpkgMetadata is imgpkg's own optional description
// (carvel.dev/imgpkg/docs/latest/resources#bundle-metadata).
func (c *Content) imgpkgMetadata() ([]byte, error) {
	type named struct {
		Name string `yaml:"name"`
	}
	return manifest.EncodeYAML(struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
		Metadata   named  `yaml:"metadata"`
	}{"imgpkg.carvel.dev/v1alpha1", "Bundle", named{c.Metadata().Name}})
}

// compressLayer makes the layer and the digest of its tar stream.
func compressLayer(files []File, created time.Time) ([]byte, digest.Digest, error) {
	var out bytes.Buffer
	// The module's compressor, not the toolchain's: its output changes with go.mod only.
	// Its header stays empty: no name, no time.
	zip, err := gzip.NewWriterLevel(&out, gzip.DefaultCompression)
	if err != nil {
		return nil, "", err
	}
	zip.ModTime = time.Unix(0, 0) // "no time"; this writer takes the zero Time for a date
	diff := digest.SHA256.Digester()
	archive := tar.NewWriter(io.MultiWriter(zip, diff.Hash()))
	if created.IsZero() {
		created = time.Unix(0, 0)
	}
	dirs := map[string]bool{".": true}
	for _, f := range files {
		if err := addDirs(archive, dirs, path.Dir(f.Path), created); err != nil {
			return nil, "", err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: 0o644, Size: int64(len(f.Data)), ModTime: created, Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return nil, "", err
		}
		if _, err := archive.Write(f.Data); err != nil {
			return nil, "", err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, "", err
	}
	if err := zip.Close(); err != nil {
		return nil, "", err
	}
	return out.Bytes(), diff.Digest(), nil
}

func addDirs(archive *tar.Writer, done map[string]bool, dir string, created time.Time) error {
	if done[dir] {
		return nil
	}
	if err := addDirs(archive, done, path.Dir(dir), created); err != nil {
		return err
	}
	done[dir] = true
	return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: created, Format: tar.FormatPAX})
}

func (c *Content) imageConfig(diffID digest.Digest, created time.Time) ocispec.Image {
	labels := c.manifestAnnotations(time.Time{})
	labels[labelImgpkg] = "true"
	config := ocispec.Image{
		Config: ocispec.ImageConfig{Labels: labels},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
	}
	if !created.IsZero() {
		utc := created.UTC()
		config.Created = &utc
	}
	return config
}

func (c *Content) manifestAnnotations(created time.Time) map[string]string {
	m := c.Metadata()
	annotations := map[string]string{}
	for key, value := range map[string]string{
		ocispec.AnnotationTitle:       m.Name,
		ocispec.AnnotationVersion:     m.Version,
		ocispec.AnnotationDescription: m.Description,
		ocispec.AnnotationLicenses:    m.Licenses,
		ocispec.AnnotationSource:      m.Source,
		ocispec.AnnotationRevision:    m.Revision,
	} {
		if value != "" {
			annotations[key] = value
		}
	}
	if !created.IsZero() {
		annotations[ocispec.AnnotationCreated] = created.UTC().Format(time.RFC3339)
	}
	if c.Bundle != nil {
		annotations[annotationLayer] = strconv.Itoa(c.Bundle.Spec.Layer)
		if c.Bundle.Spec.Category != "" {
			annotations[annotationCategory] = c.Bundle.Spec.Category
		}
	}
	return annotations
}
