package bundle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// CargoFile is a file that a bundle carries as it is: a binary, a package or a disk image for nodes. It is an artifact
// of its own next to the bundle, so its size does not matter.
type CargoFile struct {
	// Name is what the file is called where it is fetched to; the last part of its URL or path when empty.
	Name string `json:"name,omitempty" yaml:"name,omitempty" jsonschema:"pattern=^[A-Za-z0-9_][A-Za-z0-9._+~%@-]*$,maxLength=255"`
	// URL is the https URL of the file.
	URL string `json:"url,omitempty" yaml:"url,omitempty" jsonschema:"pattern=^https://"`
	// Path is a file below the definition's folder.
	Path string `json:"path,omitempty" yaml:"path,omitempty"`
	// SHA256 is the digest that the file must have. A URL without one is pinned by krtpkg update.
	SHA256 string `json:"sha256,omitempty" yaml:"sha256,omitempty" jsonschema:"pattern=^[0-9a-f]{64}$"`
	// Platform is the platform that the file is for, as os/architecture[/variant]. Files for several platforms have one
	// name.
	Platform string `json:"platform,omitempty" yaml:"platform,omitempty"`
	// Mode is the mode that the file gets where it is fetched to; "0644" when empty.
	Mode string `json:"mode,omitempty" yaml:"mode,omitempty" jsonschema:"pattern=^0?[0-7][0-7][0-7]$"`
	// Size is how many bytes it has. The build sets it.
	Size int64 `json:"size,omitempty" yaml:"size,omitempty" jsonschema:"minimum=0"`
	// Artifact is the digest of its manifest, or of the index of all platforms. The build sets it.
	Artifact string `json:"artifact,omitempty" yaml:"artifact,omitempty" jsonschema:"pattern=^sha256:[0-9a-f]{64}$"`
}

// CargoChart is a Helm chart that a bundle carries whole, for helm at the site: exactly one of chart, dir and archive.
type CargoChart struct {
	// Chart is the name of the chart in Repository. Of a folder or an archive the build sets it.
	Chart string `json:"chart,omitempty" yaml:"chart,omitempty" jsonschema:"pattern=^[a-z0-9]([-a-z0-9._/]*[a-z0-9])?$"`
	// Repository is the https URL of a chart repository, or oci://registry/path.
	Repository string `json:"repository,omitempty" yaml:"repository,omitempty" jsonschema:"pattern=^(https|oci)://"`
	// Version is the chart's version, or a range of versions that krtpkg update chooses from.
	Version string `json:"version,omitempty" yaml:"version,omitempty"`
	// Dir is the folder of a chart below the definition's. It is packed as helm package does it.
	Dir string `json:"dir,omitempty" yaml:"dir,omitempty"`
	// Archive is a packed chart: an https URL, or a file below the definition's folder.
	Archive string `json:"archive,omitempty" yaml:"archive,omitempty"`
	// SHA256 is the digest that the packed chart must have.
	SHA256 string `json:"sha256,omitempty" yaml:"sha256,omitempty" jsonschema:"pattern=^[0-9a-f]{64}$"`
	// Size is how many bytes the packed chart has. The build sets it.
	Size int64 `json:"size,omitempty" yaml:"size,omitempty" jsonschema:"minimum=0"`
	// Artifact is the digest of its manifest. The build sets it.
	Artifact string `json:"artifact,omitempty" yaml:"artifact,omitempty" jsonschema:"pattern=^sha256:[0-9a-f]{64}$"`
}

// HasManifests reports whether a bundle has something for a cluster, and not only files and charts.
func (b *Bundle) HasManifests() bool { return len(b.Spec.Sources) > 0 }

// Media types of what a bundle carries.
const (
	// TypeFile is the artifactType of a file.
	TypeFile = "application/vnd.krtpkg.file.v1"
	// mediaTypeFile is that of a file's layer, which is the file itself.
	mediaTypeFile = "application/octet-stream"
	// mediaTypeChartConfig and mediaTypeChart are Helm's (helm.sh/docs/topics/registries).
	mediaTypeChartConfig = "application/vnd.cncf.helm.config.v1+json"
	mediaTypeChart       = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"

	annotationMode = "dev.krtpkg.mode"
)

// Nowhere is the host that locks give to what has no repository of its own: bundles that were built along with a
// runtime, files and charts. It is found by its digest next to what locks it. No host is ever called so (RFC 2606).
const Nowhere = "krtpkg.invalid"

// filesRepository and chartsRepository stand in locks for the repositories of files and of charts.
const (
	filesRepository  = Nowhere + "/files"
	chartsRepository = Nowhere + "/charts/"
)

// IsCargo reports whether a locked image stands for a file or a chart.
func IsCargo(image name.Digest) bool {
	at := image.Context().Name()
	return at == filesRepository || strings.HasPrefix(at, chartsRepository)
}

// IsFile reports whether a locked image stands for a file.
func IsFile(image name.Digest) bool { return image.Context().Name() == filesRepository }

// ChartRepository returns the repository of a chart below a mirror that keeps names, such as charts/podinfo; false for
// an image.
func ChartRepository(repository name.Repository) (string, bool) {
	return repository.RepositoryStr(), repository.RegistryStr() == Nowhere && strings.HasPrefix(repository.Name(), chartsRepository)
}

const (
	// defaultMode is the mode of files without one.
	defaultMode = "0644"
	// othersWrite are the bits of modes by which others than the owner may write.
	othersWrite fs.FileMode = 0o022
)

// FileMode returns the mode that the file gets.
func (f *CargoFile) FileMode() fs.FileMode {
	bits, err := strconv.ParseUint(cmp.Or(f.Mode, defaultMode), 8, 9)
	if err != nil {
		return 0o644 // the schema refuses it
	}
	return fs.FileMode(bits)
}

// Source returns where the file comes from, as a source.
func (f *CargoFile) Source() *Source { return &Source{URL: f.URL, File: f.Path, SHA256: f.SHA256} }

// Origin returns what errors call the file: where it comes from.
func (f *CargoFile) Origin() string { return cmp.Or(f.URL, f.Path) }

// Source returns where the chart comes from, as a source.
func (c *CargoChart) Source() *Source {
	s := &Source{Dir: c.Dir, Archive: c.Archive, SHA256: c.SHA256}
	if c.Repository != "" {
		s.Chart, s.Repository, s.Version = c.Chart, c.Repository, c.Version
	}
	return s
}

// Origin returns what errors call the chart: where it comes from.
func (c *CargoChart) Origin() string { return c.Source().Name() }

// Tag returns the tag of the chart's version, as helm push has it.
func (c *CargoChart) Tag() string { return VersionTag(c.Version) }

// checkCargo holds files and charts to the rules that a schema cannot express, and sets the names of files.
func (d *Definition) checkCargo(report func([]any, string, ...any)) {
	spec := &d.Bundle.Spec
	if len(spec.Sources)+len(spec.Files)+len(spec.Charts) == 0 {
		report([]any{"spec"}, "spec.sources is missing: want sources, files or charts")
	}
	taken := map[string]string{}
	for i := range spec.Files {
		f := &spec.Files[i]
		at := []any{"spec", "files", i}
		f.checkRules(func(field, format string, args ...any) { report(fieldBelow(at, field), format, args...) })
		f.checkUnique(taken, func(format string, args ...any) { report(at, format, args...) })
	}
	versions := map[string]bool{}
	for i := range spec.Charts {
		c := &spec.Charts[i]
		at := []any{"spec", "charts", i}
		c.checkRules(func(field, format string, args ...any) { report(fieldBelow(at, field), format, args...) })
		if key := path.Base(c.Chart) + " " + c.Version; c.Chart != "" && c.Version != "" && versions[key] {
			report(at, "duplicate chart %s", key)
		} else {
			versions[key] = true
		}
	}
}

func fieldBelow(at []any, field string) []any {
	if field == "" {
		return at
	}
	return append(slices.Clip(at), field)
}

// fileName is what a file may be called: one name, that no shell and no folder takes for something else.
var fileName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+~%@-]{0,254}$`)

func (f *CargoFile) checkRules(report func(field, format string, args ...any)) {
	if countSet(f.URL, f.Path) != 1 {
		report("", "a file needs exactly one of url and path")
		return
	}
	if !isConfined(f.Path) {
		report("path", "path %q leaves its folder: want a relative path without ..", f.Path)
	}
	if secret := findSecret(f.URL); secret != "" {
		report("url", "url contains %s, which would be published: use ~/.netrc, git's credential helpers or --source-mirror", secret)
	}
	if f.Name == "" {
		f.Name = path.Base(f.Path)
		if at, err := url.Parse(f.URL); f.URL != "" && err == nil {
			f.Name = path.Base(at.Path)
		}
	}
	if !fileName.MatchString(f.Name) {
		report("name", "name %q is not the name of a file: want letters, digits and ._+~%%@-, and not one of these first", f.Name)
	}
	if f.FileMode()&othersWrite != 0 {
		report("mode", "mode %q lets others than its owner write to the file: want at most 0755", f.Mode)
	}
	if f.Platform == "" {
		return
	}
	p, err := oci.ParsePlatform(f.Platform)
	if err != nil {
		report("platform", "%v", err)
		return
	}
	f.Platform = oci.FormatPlatform(p)
}

// checkUnique refuses a second file of a name for one platform. Names that differ by their capitals are one name for
// some file systems.
func (f *CargoFile) checkUnique(taken map[string]string, report func(format string, args ...any)) {
	folded := strings.ToLower(f.Name)
	first, again := taken[folded]
	switch {
	case !again:
		taken[folded] = f.Name
	case first != f.Name:
		report("files %s and %s differ by their capitals alone", first, f.Name)
	}
	key := folded + " " + f.Platform
	switch _, twice := taken[key]; {
	case twice && f.Platform == "":
		report("duplicate file %s: give one of them another name, or each its platform", f.Name)
	case twice:
		report("duplicate file %s for %s: give one of them another name", f.Name, f.Platform)
	case again && first == f.Name && (f.Platform == "" || taken[folded+" "] != ""):
		report("file %s is for one platform and for any: give each its platform", f.Name)
	}
	taken[key] = f.Name
}

// chartName is a name of a chart that registries take.
var chartName = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)

func (c *CargoChart) checkRules(report func(field, format string, args ...any)) {
	if countSet(c.Repository, c.Dir, c.Archive) != 1 {
		report("", "a chart needs exactly one of repository, dir and archive")
		return
	}
	if c.Repository != "" && c.Chart == "" {
		report("", "a chart of a repository needs its name: chart is missing")
		return
	}
	s := c.Source()
	s.Template = TemplateHelm
	s.checkRules(report)
	if c.Chart != "" && !chartName.MatchString(path.Base(c.Chart)) {
		report("chart", "chart %q is not a name that registries take: want lower-case letters, digits, dots and dashes", c.Chart)
	}
}

// PackFiles writes the manifests of files whose content is in the store, sets the artifact of each and returns their
// lock. Files of one name that have platforms are in one index. The same files give the same bytes anywhere.
func PackFiles(ctx context.Context, store content.Pusher, files []CargoFile) (images.Lock, error) {
	empty := ocispec.DescriptorEmptyJSON
	if len(files) > 0 {
		if err := pushBytes(ctx, store, empty, empty.Data); err != nil {
			return nil, err
		}
	}
	var lock images.Lock
	err := eachFileArtifact(files, func(of []int, blobs []jsonBlob, locked images.Locked) error {
		for _, blob := range blobs {
			if err := pushBytes(ctx, store, blob.desc, blob.data); err != nil {
				return err
			}
		}
		for _, i := range of {
			files[i].Artifact = locked.Image.DigestStr()
		}
		lock = append(lock, locked)
		return nil
	})
	return lock, err
}

// eachFileArtifact passes what files are packed as to take, once for all files of a name: their indexes, the manifests
// with the artifact last, and the lock of it.
func eachFileArtifact(files []CargoFile, take func(of []int, blobs []jsonBlob, locked images.Locked) error) error {
	variants := map[string][]int{}
	for i := range files {
		variants[files[i].Name] = append(variants[files[i].Name], i)
	}
	for i := range files {
		of := variants[files[i].Name]
		if of[0] != i {
			continue
		}
		blobs, err := packVariants(files, of)
		if err == nil {
			var locked images.Locked
			if locked, err = lockCargo(filesRepository, "", blobs[len(blobs)-1].desc.Digest); err == nil {
				err = take(of, blobs, locked)
			}
		}
		if err != nil {
			return fmt.Errorf("file %s: %w", files[i].Name, err)
		}
	}
	return nil
}

// packVariants returns the manifest of a file, or those of each platform and the index of them.
func packVariants(files []CargoFile, of []int) (blobs []jsonBlob, err error) {
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: TypeFile,
		Annotations: map[string]string{ocispec.AnnotationTitle: files[of[0]].Name},
	}
	for _, i := range of {
		f := &files[i]
		blob, err := marshalBlob(ocispec.MediaTypeImageManifest, f.manifest())
		if err != nil {
			return nil, err
		}
		blobs = append(blobs, blob)
		if f.Platform == "" {
			continue
		}
		p, err := oci.ParsePlatform(f.Platform)
		if err != nil {
			return nil, err
		}
		blob.desc.Platform, blob.desc.ArtifactType = &p, TypeFile
		index.Manifests = append(index.Manifests, blob.desc)
	}
	if len(index.Manifests) == 0 {
		return blobs, nil
	}
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int {
		return cmp.Compare(oci.FormatPlatform(*a.Platform), oci.FormatPlatform(*b.Platform))
	})
	blob, err := marshalBlob(ocispec.MediaTypeImageIndex, index)
	return append(blobs, blob), err
}

func (f *CargoFile) manifest() ocispec.Manifest {
	title := map[string]string{ocispec.AnnotationTitle: f.Name}
	layer := f.Content()
	layer.Annotations = title // by which oras names the file
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: TypeFile,
		Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{layer},
		Annotations: map[string]string{ocispec.AnnotationTitle: f.Name, annotationMode: cmp.Or(f.Mode, defaultMode)},
	}
	return m
}

// Content returns the blob that is the file. Its size and its digest are those of the definition.
func (f *CargoFile) Content() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaTypeFile, Digest: digest.NewDigestFromEncoded(digest.SHA256, f.SHA256), Size: f.Size}
}

// Content returns the blob that is the packed chart.
func (c *CargoChart) Content() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaTypeChart, Digest: digest.NewDigestFromEncoded(digest.SHA256, c.SHA256), Size: c.Size}
}

// PackedChart is a chart in the form in which repositories have it.
type PackedChart struct {
	// Data is a tar with gzip, and Metadata its Chart.yaml as JSON.
	Data, Metadata []byte
	// Name, Version and Description are those of the metadata.
	Name, Version, Description string
}

// Pack writes a packed chart as helm push does, sets the fields that a build sets and returns the chart's lock.
func (c *CargoChart) Pack(ctx context.Context, store content.Pusher, packed *PackedChart) (images.Lock, error) {
	c.Chart, c.Version = cmp.Or(c.Chart, packed.Name), packed.Version
	c.SHA256, c.Size = digest.FromBytes(packed.Data).Encoded(), int64(len(packed.Data))
	if path.Base(c.Chart) != packed.Name || !chartName.MatchString(packed.Name) {
		return nil, fmt.Errorf("chart %s is called %q in its Chart.yaml: registries need a name of lower-case letters, digits, dots and dashes", c.Origin(), packed.Name)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: content.NewDescriptorFromBytes(mediaTypeChartConfig, packed.Metadata), Layers: []ocispec.Descriptor{c.Content()},
		Annotations: map[string]string{ocispec.AnnotationTitle: packed.Name, ocispec.AnnotationVersion: packed.Version},
	}
	if packed.Description != "" {
		m.Annotations[ocispec.AnnotationDescription] = packed.Description
	}
	if err := errors.Join(pushBytes(ctx, store, m.Config, packed.Metadata), pushBytes(ctx, store, m.Layers[0], packed.Data)); err != nil {
		return nil, err
	}
	blob, err := marshalBlob(ocispec.MediaTypeImageManifest, m)
	if err == nil {
		err = pushBytes(ctx, store, blob.desc, blob.data)
	}
	if err != nil {
		return nil, err
	}
	c.Artifact = blob.desc.Digest.String()
	locked, err := c.lock()
	return images.Lock{locked}, err
}

// lock locks the artifact of the chart.
func (c *CargoChart) lock() (images.Locked, error) {
	return lockCargo(chartsRepository+path.Base(c.Chart), c.Tag(), digest.Digest(c.Artifact))
}

// packedName is what the packed chart is called where it is fetched to, as helm pull names it.
func (c *CargoChart) packedName() string {
	return fmt.Sprintf("%s-%s.tgz", path.Base(c.Chart), c.Version)
}

// CheckManifest returns an error unless the manifest of the chart's artifact holds the packed chart and nothing else.
// Any other would be an image that goes by the name of a chart.
func (c *CargoChart) CheckManifest(m *oci.Manifest) error {
	want := c.Content()
	if m.Config != nil && m.Config.MediaType == mediaTypeChartConfig && len(m.Layers) == 1 {
		if got := m.Layers[0]; got.MediaType == want.MediaType && got.Digest == want.Digest && got.Size == want.Size {
			return nil
		}
	}
	return fmt.Errorf("chart %s: manifest %s does not hold the packed chart %s", c.packedName(), c.Artifact, want.Digest)
}

// checkChartManifests holds the manifests of a bundle's charts to its definition, as far as they are there.
func (c *Content) checkChartManifests(ctx context.Context, store ReadStore) error {
	if c.Bundle == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range c.Bundle.Spec.Charts {
		chart := &c.Bundle.Spec.Charts[i]
		group.Go(func() error {
			m, err := readSmallManifest(ctx, store, chart.Artifact)
			if errors.Is(err, errdef.ErrNotFound) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("chart %s: %w", chart.packedName(), err)
			}
			return chart.CheckManifest(m)
		})
	}
	return group.Wait()
}

// readSmallManifest reads a manifest by its digest.
func readSmallManifest(ctx context.Context, store ReadStore, of string) (*oci.Manifest, error) {
	desc, err := store.Resolve(ctx, of)
	if err != nil {
		return nil, err
	}
	if desc.Digest.String() != of {
		return nil, fmt.Errorf("got %s for %s: %w", desc.Digest, of, content.ErrMismatchedDigest)
	}
	if desc.Size > oci.MaxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes, the limit is %d: %w", of, desc.Size, oci.MaxManifest, oci.ErrTooLarge)
	}
	_, budget := oci.WithBudget(ctx) // several are read at once
	if err := budget.Take(desc.Size); err != nil {
		return nil, err
	}
	defer budget.Release(desc.Size)
	data, err := content.FetchAll(ctx, store, desc)
	if err != nil {
		return nil, err
	}
	return oci.ParseManifest(data)
}

// lockCargo locks an artifact under a name that no registry has.
func lockCargo(repository, tag string, artifact digest.Digest) (images.Locked, error) {
	image, err := name.NewDigest(repository + "@" + artifact.String())
	if err != nil {
		return images.Locked{}, err
	}
	reference := image.Name()
	if tag != "" {
		reference = repository + ":" + tag
	}
	return images.Locked{Image: image, Reference: reference}, nil
}

// jsonBlob is a manifest as it is written.
type jsonBlob struct {
	desc ocispec.Descriptor
	data []byte
}

func marshalBlob(mediaType string, value any) (jsonBlob, error) {
	data, err := json.Marshal(value)
	return jsonBlob{content.NewDescriptorFromBytes(mediaType, data), data}, err
}

func pushBytes(ctx context.Context, store content.Pusher, desc ocispec.Descriptor, data []byte) error {
	err := store.Push(ctx, ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}, bytes.NewReader(data))
	if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return fmt.Errorf("write %s: %w", desc.Digest, err)
	}
	return nil
}

// splitCargo parts the locked files and charts from the images. The lock has exactly what a build locks for the
// definition: what has another name or other content would be an image that nothing checks as one.
func (c *Content) splitCargo(all images.Lock) error {
	if c.Bundle == nil {
		c.Images = all
		return nil
	}
	if err := c.checkBuiltCargo(); err != nil {
		return err
	}
	expected, err := c.listLocks()
	if err != nil {
		return err
	}
	unlocked := make(map[string]bool, len(expected))
	for _, e := range expected {
		unlocked[e.key] = true
	}
	c.Images = make(images.Lock, 0, len(all))
	for _, locked := range all {
		if !IsCargo(locked.Image) {
			if at, _ := locked.CalledBy(); at.RegistryStr() == Nowhere {
				return fmt.Errorf("%s locks %s as %s, a name of files and charts", fileImages, locked.Image, locked.Reference)
			}
			c.Images = append(c.Images, locked)
			continue
		}
		key := lockKey(locked)
		if !unlocked[key] {
			return fmt.Errorf("%s locks %s as %s, which is not a file or a chart of the bundle", fileImages, locked.Image, locked.Reference)
		}
		delete(unlocked, key)
		c.Cargo = append(c.Cargo, locked)
	}
	for _, e := range expected {
		if unlocked[e.key] {
			return fmt.Errorf("%s is not in %s", e.what, fileImages)
		}
	}
	return nil
}

// expectedLock is what the lock has of a file or a chart.
type expectedLock struct{ key, what string }

func lockKey(locked images.Locked) string { return locked.Image.Name() + " " + locked.Reference }

// listLocks returns what the lock has of each file and chart. The artifacts of files follow from the definition.
func (c *Content) listLocks() (all []expectedLock, err error) {
	spec := &c.Bundle.Spec
	err = eachFileArtifact(spec.Files, func(of []int, _ []jsonBlob, locked images.Locked) error {
		for _, i := range of {
			if got, want := spec.Files[i].Artifact, locked.Image.DigestStr(); got != want {
				return fmt.Errorf("its artifact is %q, want %s", got, want)
			}
		}
		all = append(all, expectedLock{lockKey(locked), "file " + spec.Files[of[0]].Name})
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range spec.Charts {
		chart := &spec.Charts[i]
		locked, err := chart.lock()
		if err != nil {
			return nil, fmt.Errorf("chart %s: %w", chart.packedName(), err)
		}
		all = append(all, expectedLock{lockKey(locked), "chart " + chart.packedName()})
	}
	return all, nil
}

// checkBuiltCargo holds files and charts to what a build sets.
func (c *Content) checkBuiltCargo() error {
	for i := range c.Bundle.Spec.Files {
		if f := &c.Bundle.Spec.Files[i]; f.SHA256 == "" {
			return fmt.Errorf("file %s has no sha256", f.Name)
		}
	}
	_, err := c.Bundle.Spec.CheckBuiltCharts()
	return err
}

// CheckBuiltCharts checks the charts of a bundle that is built: each has what a build sets, and a name of its own among
// the charts and files that are fetched. The error is about the chart with index i.
func (s *BundleSpec) CheckBuiltCharts() (i int, err error) {
	taken := map[string]string{}
	for _, f := range s.Files {
		taken[strings.ToLower(f.Name)] = "a file"
	}
	for i := range s.Charts {
		c := &s.Charts[i]
		if c.SHA256 == "" || c.Chart == "" || c.Version == "" {
			return i, fmt.Errorf("chart %s has no sha256, name or version", c.Origin())
		}
		called := c.packedName()
		if _, err := semver.NewVersion(c.Version); err != nil || !fileName.MatchString(called) {
			return i, fmt.Errorf("chart %s has version %q, want a version such as 1.2.0", c.Origin(), c.Version)
		}
		if first := taken[strings.ToLower(called)]; first != "" {
			return i, fmt.Errorf("chart %s %s from %s is fetched as %s, and so is %s: remove one, or give it another name or version",
				path.Base(c.Chart), c.Version, c.Origin(), called, first)
		}
		taken[strings.ToLower(called)] = "the chart from " + c.Origin()
	}
	return 0, nil
}

// CargoKind is what an item of cargo is.
type CargoKind string

// The kinds of cargo.
const (
	FileCargo  CargoKind = "file"
	ChartCargo CargoKind = "chart"
)

// CargoItem is a file or a packed chart as it is fetched.
type CargoItem struct {
	Kind CargoKind
	// Bundle is the name of the bundle that carries it.
	Bundle string
	// Name is that of the file; of a chart NAME-VERSION.tgz, as helm pull names it.
	Name string
	// Platform is the platform that it is for; "" for any.
	Platform string
	Mode     fs.FileMode
	// Origin is where it came from: a URL, or a path next to the definition.
	Origin string
	// Chart is set of a chart.
	Chart *CargoChart
	// Content is the blob that it is.
	Content ocispec.Descriptor
	// Artifact is the manifest, or the index of all platforms.
	Artifact digest.Digest
}

// ListCargo lists the files and charts of a bundle, in the definition's order.
func (c *Content) ListCargo() (items []CargoItem) {
	if c.Bundle == nil {
		return nil
	}
	for i := range c.Bundle.Spec.Files {
		f := &c.Bundle.Spec.Files[i]
		items = append(items, CargoItem{
			Kind: FileCargo, Bundle: c.Bundle.Metadata.Name, Name: f.Name, Platform: f.Platform, Mode: f.FileMode(), Origin: f.Origin(),
			Content: f.Content(), Artifact: digest.Digest(f.Artifact),
		})
	}
	for i := range c.Bundle.Spec.Charts {
		chart := &c.Bundle.Spec.Charts[i]
		items = append(items, CargoItem{
			Kind: ChartCargo, Bundle: c.Bundle.Metadata.Name, Name: chart.packedName(), Mode: 0o644,
			Origin: chart.Origin(), Chart: chart, Content: chart.Content(), Artifact: digest.Digest(chart.Artifact),
		})
	}
	return items
}

// String returns what errors call the file or the chart.
func (i *CargoItem) String() string { return string(i.Kind) + " " + i.Name }

// CargoByArtifact returns the files and charts by the digests of their artifacts; of files for several platforms the
// first.
func (c *Content) CargoByArtifact() map[string]CargoItem {
	byArtifact := map[string]CargoItem{}
	for _, item := range c.ListCargo() {
		if _, is := byArtifact[item.Artifact.String()]; !is {
			byArtifact[item.Artifact.String()] = item
		}
	}
	return byArtifact
}

// CopyTo writes the content of a file or a chart, and returns an error unless it has the size and the digest that the
// definition has. What was written before that error is not to be used. It ends with ctx.
func (i *CargoItem) CopyTo(ctx context.Context, store content.Fetcher, w io.Writer) (err error) {
	blob, err := store.Fetch(ctx, i.Content)
	if err != nil {
		return fmt.Errorf("read %s %s: %w", i.Kind, i.Name, err)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	verified := content.NewVerifyReader(blob, i.Content)
	if _, err := io.Copy(w, oci.StopReader(ctx, verified)); err != nil {
		return fmt.Errorf("read %s %s: %w", i.Kind, i.Name, err)
	}
	if err := verified.Verify(); err != nil {
		return fmt.Errorf("%s %s: %w", i.Kind, i.Name, err)
	}
	return nil
}
