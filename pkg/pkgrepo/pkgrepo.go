// Package pkgrepo makes runtimes readable for kapp-controller, Flux and Argo CD: what lies for each
// of them in a runtime's artifact, and what a cluster must be given to consume it. It does no I/O
// and knows no cluster.
//
// Call [PackageFiles], [FluxFiles] and [ArgoCDFiles] with the bundles of a runtime to get what goes below packages/,
// flux/ and argocd/; [InstallDocuments], [FluxDocuments] and [ArgoCDDocuments] for what a cluster is given;
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
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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

// PackageFiles returns the files below packages/ of a runtime: of each bundle a PackageMetadata, and a
// Package of its version. Bundles that cannot be packages are left out, and returned with the
// reason; those without manifests are passed over. released is when the runtime was; zero when that is unknown.
func PackageFiles(ctx context.Context, runtime string, bundles []Bundle, released time.Time) ([]bundle.File, []LeftOut, error) {
	model, err := layers.LoadModel()
	if err != nil {
		return nil, nil, err
	}
	var files []bundle.File
	var left []LeftOut
	defined := scopesOf(bundles)
	for _, b := range bundles {
		if !b.Bundle.HasManifests() {
			continue // there is nothing to install
		}
		m := b.Metadata()
		spec, reason, err := packageOf(ctx, &b)
		if err == nil && reason == "" {
			_, reason, err = DefaultNamespace(ctx, b.Content, defined)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("package of %s: %w", m.Name, err)
		}
		if reason != "" {
			left = append(left, LeftOut{m.Name, reason})
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
			{metadataFile, apiResource[metadataSpec]{apiVersion, "PackageMetadata", objectMeta{Name: spec.RefName}, metadataOf(b.Bundle, model)}},
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

// packageOf returns a bundle as a Package, or the reason why it is none.
func packageOf(ctx context.Context, b *Bundle) (packageSpec, string, error) {
	m := b.Metadata()
	spec := packageSpec{Version: m.Version, ReleaseNotes: b.Bundle.Spec.ReleaseNotes}
	included, err := sbom.ListSoftware(b.Content)
	if err != nil {
		return spec, "", err
	}
	for _, s := range included {
		spec.IncludedSoftware = append(spec.IncludedSoftware, includedSoftware{s.Name, s.Version, s.At})
	}
	if m.Licenses != "" {
		spec.Licenses = []string{m.Licenses}
	}
	if m.Source != "" && spec.ReleaseNotes == "" {
		spec.ReleaseNotes = m.Source
		if m.Revision != "" {
			spec.ReleaseNotes += " at " + m.Revision
		}
	}
	if b.Bundle.Spec.Kubernetes != "" {
		constraints, err := convertConstraints(b.Bundle.Spec.Kubernetes)
		if err != nil {
			return spec, fmt.Sprintf("its range of Kubernetes versions cannot be expressed for kapp-controller: %v", err), nil
		}
		spec.Kubernetes = &versionSelection{constraints}
	}
	var reason string
	if spec.Template.Spec, reason = appOf(b); reason != "" {
		return spec, reason, nil
	}
	reason, err = checkRewritable(ctx, b.Content)
	if reason != "" || err != nil {
		return spec, reason, err
	}
	node, err := render.ValuesSchemas(ctx, b.Content)
	if err != nil {
		return spec, "", err
	}
	if node != nil {
		if at := imageKey(node); at != nil {
			return spec, fmt.Sprintf("its values schema has the image %q as a default, which kapp-controller would fetch", at.Value), nil
		}
		spec.ValuesSchema = &valuesSchema{node}
	}
	return spec, "", nil
}
