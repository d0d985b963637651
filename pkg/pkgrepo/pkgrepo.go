// Package pkgrepo makes runtimes readable for kapp-controller, Flux and Argo CD: what lies for each
// of them in a runtime's artifact, and what a cluster must be given to consume it. It does no I/O
// and knows no cluster.
//
// Call [RuntimeFiles] with the bundles of a runtime to get what goes below packages/, flux/ and argocd/, or
// [PackageFiles], [FluxFiles] or [ArgoCDFiles] for one of them; [InstallDocuments], [FluxDocuments] and [ArgoCDDocuments] for what a cluster is given;
// [BuildCatalogue] for the packages of several versions. [CheckFiles] tells whether what lies in a runtime is
// what these make of its bundles.
package pkgrepo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/sbom"
)

// domain ends the names of all packages: kapp-controller wants at least three segments.
const domain = "krtpkg.dev"

// apiVersion of the resources that describe packages.
const apiVersion = "data.packaging.carvel.dev/v1alpha1"

// Bundle is one of a runtime, and where its lock has it.
type Bundle struct {
	*bundle.Content
	Image name.Digest
	// Manifest is that of its artifact.
	Manifest *ocispec.Manifest
}

// LeftOut is a bundle that cannot be a package.
type LeftOut struct {
	Bundle string
	// Reason is why kapp-controller would not come to the manifests that krtpkg does.
	Reason string
}

// RefName returns what the packages of a bundle of a runtime are called, for all their versions.
func RefName(bundle, runtime string) string { return bundle + "." + runtime + "." + domain }

// RuntimeFiles returns what [PackageFiles], [FluxFiles] and [ArgoCDFiles] return of a runtime, and the bundles that
// cannot be packages. It reads each bundle once for all of them.
func RuntimeFiles(ctx context.Context, lock *bundle.RuntimeLock, bundles []Bundle, released time.Time) ([]bundle.File, []LeftOut, error) {
	bundles = withManifests(bundles)
	defined := scopesOf(bundles)
	packages, contents := make([]packagedBundle, len(bundles)), make([]plainContent, len(bundles))
	err := visitBundles(bundles, func(i int, b *Bundle) error {
		p, rendered, err := packageOf(ctx, b, defined)
		if err == nil {
			packages[i] = p
			contents[i], err = readPlain(b, rendered, defined)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	files, left, err := packageFiles(lock.Metadata.Name, packages, released)
	if err != nil {
		return nil, nil, err
	}
	flux, _, err := fluxFiles(lock, contents)
	if err != nil {
		return nil, nil, err
	}
	argoCD, _, err := argoCDFiles(lock, contents)
	return slices.Concat(files, flux, argoCD), left, err
}

// PackageFiles returns the files below packages/ of a runtime: of each bundle a PackageMetadata, and a
// Package of its version. Bundles that cannot be packages are left out, and returned with the
// reason; those without manifests are passed over. released is when the runtime was; zero when that is unknown.
func PackageFiles(ctx context.Context, runtime string, bundles []Bundle, released time.Time) ([]bundle.File, []LeftOut, error) {
	bundles = withManifests(bundles)
	defined, packages := scopesOf(bundles), make([]packagedBundle, len(bundles))
	err := visitBundles(bundles, func(i int, b *Bundle) (err error) {
		packages[i], _, err = packageOf(ctx, b, defined)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return packageFiles(runtime, packages, released)
}

// packagedBundle is a bundle as a Package, or the reason why it cannot be one.
type packagedBundle struct {
	*Bundle
	spec   packageSpec
	reason string
}

func packageFiles(runtime string, packages []packagedBundle, released time.Time) ([]bundle.File, []LeftOut, error) {
	model, err := layers.LoadModel()
	if err != nil {
		return nil, nil, err
	}
	var files []bundle.File
	var left []LeftOut
	for _, b := range packages {
		m, spec := b.Metadata(), b.spec
		if b.reason != "" {
			left = append(left, LeftOut{m.Name, b.reason})
			continue
		}
		spec.RefName = RefName(m.Name, runtime)
		if !released.IsZero() {
			spec.ReleasedAt = released.UTC().Format(time.RFC3339)
		}
		dir := path.Join(bundle.PackagesDir, spec.RefName)
		for _, f := range []struct {
			name  string
			value any
		}{
			{metadataFile, apiResource[metadataSpec]{apiVersion, "PackageMetadata", objectMeta{Name: spec.RefName}, metadataOf(b.Bundle.Bundle, model)}},
			{m.Version + ".yml", apiResource[packageSpec]{apiVersion, "Package", objectMeta{Name: spec.RefName + "." + m.Version}, spec}},
		} {
			data, err := manifest.EncodeYAML(f.value)
			if err != nil {
				return nil, nil, err
			}
			files = append(files, bundle.File{Path: path.Join(dir, f.name), Data: data})
		}
	}
	slices.SortFunc(files, func(a, b bundle.File) int { return cmp.Compare(a.Path, b.Path) })
	return files, left, nil
}

// withManifests returns the bundles of which there is something to apply.
func withManifests(bundles []Bundle) []Bundle {
	return slices.DeleteFunc(slices.Clone(bundles), func(b Bundle) bool { return !b.Bundle.HasManifests() })
}

// visitBundles calls a function for each bundle of a runtime, for as many at once as there are processors, and returns the
// error of the first bundle that has one.
func visitBundles(bundles []Bundle, read func(i int, b *Bundle) error) error {
	problems := make([]error, len(bundles))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range bundles {
		group.Go(func() error {
			problems[i] = read(i, &bundles[i])
			return nil
		})
	}
	_ = group.Wait()
	return cmp.Or(problems...)
}

// CheckFiles holds what lies in a folder of a runtime against what was made of its bundles: a controller
// applies it, and nothing else looks at it. The error is a [*bundle.AlteredError].
func CheckFiles(runtime *bundle.Artifact, folder string, made []bundle.File) error {
	want := map[string][]byte{}
	for _, f := range made {
		want[f.Path] = f.Data
	}
	for _, f := range runtime.AllFiles() {
		if !strings.HasPrefix(f.Path, folder+"/") {
			continue
		}
		if data, known := want[f.Path]; !known || !bytes.Equal(data, f.Data) {
			return &bundle.AlteredError{Artifact: runtime.Metadata().Name, File: f.Path}
		}
		delete(want, f.Path)
	}
	for _, missing := range slices.Sorted(maps.Keys(want)) {
		return &bundle.AlteredError{Artifact: runtime.Metadata().Name, File: missing}
	}
	return nil
}

// The resources, as far as they are written here.
type apiResource[Spec any] struct {
	APIVersion string     `yaml:"apiVersion"`
	Kind       string     `yaml:"kind"`
	Metadata   objectMeta `yaml:"metadata"`
	Spec       Spec       `yaml:"spec"`
}

type objectMeta struct {
	Name        string            `yaml:"name"`
	Namespace   string            `yaml:"namespace,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
	Finalizers  []string          `yaml:"finalizers,omitempty"`
}

type metadataSpec struct {
	DisplayName        string              `yaml:"displayName"`
	ShortDescription   string              `yaml:"shortDescription,omitempty"`
	LongDescription    string              `yaml:"longDescription"`
	Categories         []string            `yaml:"categories"`
	Icon               string              `yaml:"iconSVGBase64,omitempty"`
	Maintainers        []bundle.Maintainer `yaml:"maintainers,omitempty"`
	SupportDescription string              `yaml:"supportDescription,omitempty"`
}

type packageSpec struct {
	RefName          string             `yaml:"refName"`
	Version          string             `yaml:"version"`
	Licenses         []string           `yaml:"licenses,omitempty"`
	ReleasedAt       string             `yaml:"releasedAt,omitempty"`
	ReleaseNotes     string             `yaml:"releaseNotes,omitempty"`
	Kubernetes       *versionSelection  `yaml:"kubernetesVersionSelection,omitempty"`
	IncludedSoftware []includedSoftware `yaml:"includedSoftware,omitempty"`
	ValuesSchema     *valuesSchema      `yaml:"valuesSchema,omitempty"`
	Template         packageTemplate    `yaml:"template"`
}

type versionSelection struct {
	Constraints string `yaml:"constraints"`
}

type includedSoftware struct {
	DisplayName string `yaml:"displayName"`
	Version     string `yaml:"version,omitempty"`
	Description string `yaml:"description,omitempty"`
}

type valuesSchema struct {
	OpenAPIv3 *yaml.Node `yaml:"openAPIv3"`
}

type packageTemplate struct {
	Spec appSpec `yaml:"spec"`
}

// metadataOf returns what a bundle is, for all its versions.
func metadataOf(b *bundle.Bundle, model *layers.Model) metadataSpec {
	m := b.Metadata
	layer := layers.ListLayers()[b.Spec.Layer]
	spec := metadataSpec{
		DisplayName: m.Name, ShortDescription: m.Description,
		LongDescription: fmt.Sprintf("Layer %d, %s: %s.", layer.Number, layer.Name, layer.Purpose),
		Categories:      []string{fmt.Sprintf("%d %s", layer.Number, layer.Name)},
		Icon:            base64.StdEncoding.EncodeToString([]byte(b.Spec.Icon)),
		Maintainers:     b.Spec.Maintainers, SupportDescription: b.Spec.Support,
	}
	if category, _, found := model.FindCategory(b.Spec.Category); found {
		spec.Categories = append(spec.Categories, category.Title)
		spec.LongDescription += " " + category.Title + ": " + category.Purpose
		for _, p := range category.Products {
			if p.ID == m.Name {
				spec.DisplayName = p.Name
			}
		}
	} else if b.Spec.Category != "" {
		spec.Categories = append(spec.Categories, b.Spec.Category)
	}
	if spec.SupportDescription == "" && m.Source != "" {
		spec.SupportDescription = "Its source and its issues are at " + m.Source
	}
	return spec
}

// packageOf returns a bundle as a Package, and what it renders to if that had to be known. defined are the kinds of its
// runtime.
func packageOf(ctx context.Context, b *Bundle, defined render.Scopes) (p packagedBundle, rendered *renderedBundle, err error) {
	p.Bundle = b
	defer func() {
		if err != nil {
			err = fmt.Errorf("package of %s: %w", b.Metadata().Name, err)
		}
	}()
	if p.reason, err = p.describe(); p.reason != "" || err != nil {
		return p, nil, err
	}
	if rendered, err = renderDefaults(ctx, b.Content); err != nil {
		return p, nil, err
	}
	if p.reason, err = rendered.checkRewritable(); p.reason != "" || err != nil {
		return p, rendered, err
	}
	node, err := render.ValuesSchemas(ctx, b.Content)
	if err != nil {
		return p, rendered, err
	}
	if node != nil {
		if at := imageKey(node); at != nil {
			p.reason = fmt.Sprintf("its values schema has the image %q as a default, which kapp-controller would fetch", at.Value)
			return p, rendered, nil
		}
		p.spec.ValuesSchema = &valuesSchema{node}
	}
	_, p.reason, err = rendered.findNamespace(defined)
	return p, rendered, err
}

// describe sets what the definition says of the package, or returns the reason why it cannot be one.
func (p *packagedBundle) describe() (reason string, err error) {
	m, spec := p.Metadata(), p.Bundle.Bundle.Spec
	p.spec = packageSpec{Version: m.Version, ReleaseNotes: spec.ReleaseNotes}
	included, err := sbom.ListSoftware(p.Content)
	if err != nil {
		return "", err
	}
	for _, s := range included {
		p.spec.IncludedSoftware = append(p.spec.IncludedSoftware, includedSoftware{s.Name, s.Version, s.At})
	}
	if m.Licenses != "" {
		p.spec.Licenses = []string{m.Licenses}
	}
	if m.Source != "" && p.spec.ReleaseNotes == "" {
		p.spec.ReleaseNotes = m.Source
		if m.Revision != "" {
			p.spec.ReleaseNotes += " at " + m.Revision
		}
	}
	if spec.Kubernetes != "" {
		constraints, err := convertConstraints(spec.Kubernetes)
		if err != nil {
			return fmt.Sprintf("its range of Kubernetes versions cannot be expressed for kapp-controller: %v", err), nil
		}
		p.spec.Kubernetes = &versionSelection{constraints}
	}
	p.spec.Template.Spec, reason = appOf(p.Bundle)
	return reason, nil
}
