package bundle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

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
