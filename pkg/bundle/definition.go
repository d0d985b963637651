package bundle

import (
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// APIVersion is the version of the definitions' format.
const APIVersion = "krtpkg.dev/v1alpha1"

// The kinds of definitions.
const (
	KindBundle  = "Bundle"
	KindRuntime = "Runtime"
)

// Metadata says what a bundle or a runtime is called and where it comes from.
type Metadata struct {
	// Name is unique in a runtime; with the runtime's name it becomes the name of a kapp app.
	Name string `json:"name" yaml:"name" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]{0\\,61}[a-z0-9])?$"`
	// Version is the version of what the bundle delivers, as semver 2.0.
	Version string `json:"version" yaml:"version" jsonschema:"pattern=^(0|[1-9]\\d*)\\.(0|[1-9]\\d*)\\.(0|[1-9]\\d*)(-[0-9A-Za-z.-]+)?(\\+[0-9A-Za-z.-]+)?$"`
	// Description is one sentence for lists and catalogues.
	Description string `json:"description,omitempty" yaml:"description,omitempty"`
	// Licenses is an SPDX licence expression.
	Licenses string `json:"licenses,omitempty" yaml:"licenses,omitempty"`
	// Source is the URL of the product's source code.
	Source string `json:"source,omitempty" yaml:"source,omitempty"`
	// Revision is the source's revision, a commit for example.
	Revision string `json:"revision,omitempty" yaml:"revision,omitempty"`
}

// Bundle is one component of a runtime: its manifests and the images that they run.
type Bundle struct {
	// APIVersion is krtpkg.dev/v1alpha1.
	APIVersion string `json:"apiVersion" yaml:"apiVersion" jsonschema:"enum=krtpkg.dev/v1alpha1"`
	// Kind is Bundle.
	Kind string `json:"kind" yaml:"kind" jsonschema:"enum=Bundle"`
	// Metadata names the bundle.
	Metadata Metadata `json:"metadata" yaml:"metadata"`
	// Spec says what is in it.
	Spec BundleSpec `json:"spec" yaml:"spec"`
}

// Component returns what the order of bundles depends on.
func (b *Bundle) Component() layers.Component {
	return layers.Component{
		Name: b.Metadata.Name, Layer: b.Spec.Layer, Category: b.Spec.Category,
		Provides: b.Spec.Provides, Requires: b.Spec.Requires,
	}
}

// BundleSpec says what a bundle holds and what it stands on.
type BundleSpec struct {
	// Layer is the layer of the runtime that the bundle belongs to, 0 to 6.
	Layer int `json:"layer" yaml:"layer" jsonschema:"minimum=0,maximum=6"`
	// Category is the bundle's category in its layer, for example service-proxy.
	Category string `json:"category,omitempty" yaml:"category,omitempty" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"`
	// Provides names what other bundles may require, besides the bundle's own name.
	Provides []string `json:"provides,omitempty" yaml:"provides,omitempty"`
	// Requires names what has to be on the cluster before this bundle.
	Requires []string `json:"requires,omitempty" yaml:"requires,omitempty"`
	// Kubernetes is the range of cluster versions that the bundle runs on, for example ">=1.29".
	Kubernetes string `json:"kubernetes,omitempty" yaml:"kubernetes,omitempty"`
	// Maintainers are who looks after the bundle, for catalogues.
	Maintainers []Maintainer `json:"maintainers,omitempty" yaml:"maintainers,omitempty"`
	// Support says where help is to be had, for catalogues; the source where it is empty.
	Support string `json:"support,omitempty" yaml:"support,omitempty" jsonschema:"maxLength=4096"`
	// ReleaseNotes say what is new in the version, for catalogues; the source in its revision
	// where they are empty.
	ReleaseNotes string `json:"releaseNotes,omitempty" yaml:"releaseNotes,omitempty" jsonschema:"maxLength=32768"`
	// Icon is the bundle's picture for catalogues, an SVG of at most 32 KiB.
	Icon string `json:"icon,omitempty" yaml:"icon,omitempty"`
	// IconFile is a file below the definition's folder that holds the icon.
	IconFile string `json:"iconFile,omitempty" yaml:"iconFile,omitempty"`
	// Sources are where the manifests come from. A bundle that carries files or charts may have none.
	Sources []Source `json:"sources,omitempty" yaml:"sources,omitempty" jsonschema:"minItems=1"`
	// Files are carried as they are, for nodes: binaries, packages, disk images.
	Files []CargoFile `json:"files,omitempty" yaml:"files,omitempty"`
	// Charts are carried whole, for helm at the site.
	Charts []CargoChart `json:"charts,omitempty" yaml:"charts,omitempty"`
	// Images names images that no manifest mentions, such as those an operator starts.
	Images []ExtraImage `json:"images,omitempty" yaml:"images,omitempty"`
	// SearchRules say where else in the manifests images are, as the searchRules of kbld do.
	SearchRules []images.Rule `json:"searchRules,omitempty" yaml:"searchRules,omitempty"`
	// NotImages allows what looks like an image and is not locked, each with a reason.
	NotImages []images.NotImage `json:"notImages,omitempty" yaml:"notImages,omitempty"`
}

// Maintainer is a person or a team.
type Maintainer struct {
	// Name is what catalogues show.
	Name string `json:"name" yaml:"name" jsonschema:"minLength=1"`
}

// Source is one place that manifests come from, exactly one of dir, file, url, archive, git,
// oci and chart, and what makes plain manifests of it: a template engine, then patches, then
// overlays.
type Source struct {
	// Dir is a folder below the definition's: every YAML and JSON file in it, or every file
	// when it has a template.
	Dir string `json:"dir,omitempty" yaml:"dir,omitempty"`
	// File is a file below the definition's folder.
	File string `json:"file,omitempty" yaml:"file,omitempty"`
	// URL is an https URL of one file.
	URL string `json:"url,omitempty" yaml:"url,omitempty" jsonschema:"pattern=^https://"`
	// Archive is a tar (plain, gzip or zstd) or a zip: an https URL, or a file below the
	// definition's folder.
	Archive string `json:"archive,omitempty" yaml:"archive,omitempty"`
	// Git is the URL of a git repository: https, ssh, or the user@host:path form.
	Git string `json:"git,omitempty" yaml:"git,omitempty"`
	// OCI is an artifact of files in a registry: registry/repository, with a tag, a digest or both.
	OCI string `json:"oci,omitempty" yaml:"oci,omitempty"`
	// Chart is the name of a Helm chart in a repository. A chart from anywhere else is a
	// source of that kind with the template helm.
	Chart string `json:"chart,omitempty" yaml:"chart,omitempty" jsonschema:"pattern=^[a-zA-Z0-9]([-a-zA-Z0-9._/]*[a-zA-Z0-9])?$"`
	// Repository is where a chart is: the https URL of a chart repository, or
	// oci://registry/path.
	Repository string `json:"repository,omitempty" yaml:"repository,omitempty" jsonschema:"pattern=^(https|oci)://"`
	// Version is the chart's version, or a range of versions that krtpkg update chooses from.
	Version string `json:"version,omitempty" yaml:"version,omitempty"`
	// Ref is the tag or branch of a git repository that krtpkg update follows.
	Ref string `json:"ref,omitempty" yaml:"ref,omitempty"`
	// Commit is the commit of a git repository.
	Commit string `json:"commit,omitempty" yaml:"commit,omitempty" jsonschema:"pattern=^[0-9a-f]{40}$"`
	// SHA256 is the digest that the source must have: of the bytes of a file, an archive or a
	// packed chart, or over the tree of what else is a folder, as `krtpkg inspect` prints it.
	SHA256 string `json:"sha256,omitempty" yaml:"sha256,omitempty" jsonschema:"pattern=^[0-9a-f]{64}$"`
	// Root is the folder of an archive, a git repository or an artifact that is the source.
	Root string `json:"root,omitempty" yaml:"root,omitempty"`
	// Include keeps only the files that match one of these globs; ** crosses folders.
	Include []string `json:"include,omitempty" yaml:"include,omitempty"`
	// Exclude leaves out the files that match one of these globs.
	Exclude []string `json:"exclude,omitempty" yaml:"exclude,omitempty"`
	// Template is the engine that renders the files: ytt, helm or kustomize; as they are when
	// empty. A chart's is helm.
	Template string `json:"template,omitempty" yaml:"template,omitempty" jsonschema:"enum=ytt,enum=helm,enum=kustomize"`
	// Render is when the template is rendered: at the build, which leaves plain manifests to
	// review, or at the target with the site's values. It is target for ytt and build for the
	// others when empty; a kustomization can only be rendered at the build.
	Render string `json:"render,omitempty" yaml:"render,omitempty" jsonschema:"enum=build,enum=target"`
	// Values are given to the template engine helm or ytt; at the target, the site's go over them.
	Values manifest.Values `json:"values,omitempty" yaml:"values,omitempty"`
	// ValuesFiles are files below the definition's folder that come before Values, in order.
	ValuesFiles []string `json:"valuesFiles,omitempty" yaml:"valuesFiles,omitempty"`
	// Helm is what else the engine helm wants to know.
	Helm *Helm `json:"helm,omitempty" yaml:"helm,omitempty"`
	// Dependencies are the charts that a chart needs and that are not under its charts/, each pinned.
	Dependencies []Dependency `json:"dependencies,omitempty" yaml:"dependencies,omitempty"`
	// Patches change the manifests as kustomize's field of the same name does, at the build.
	Patches []Patch `json:"patches,omitempty" yaml:"patches,omitempty"`
	// Overlays are files or folders of ytt overlays below the definition's folder, applied last.
	Overlays []string `json:"overlays,omitempty" yaml:"overlays,omitempty"`
	// Path is where the files go below config/; the name of the folder or file when empty.
	Path string `json:"path,omitempty" yaml:"path,omitempty"`
}

// The template engines of a [Source].
const (
	TemplateYTT       = "ytt"
	TemplateHelm      = "helm"
	TemplateKustomize = "kustomize"
)

// The moments of [Source.Render].
const (
	RenderBuild  = "build"
	RenderTarget = "target"
)

// Helm is what `helm template` takes besides values.
type Helm struct {
	// Release is the name of the release; the bundle's name when empty.
	Release string `json:"release,omitempty" yaml:"release,omitempty" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]{0\\,51}[a-z0-9])?$"`
	// Namespace is the namespace of the release; default when empty.
	Namespace string `json:"namespace,omitempty" yaml:"namespace,omitempty" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]{0\\,61}[a-z0-9])?$"`
	// ValuesFiles are files of the chart's own, by their paths in it, that come before the source's
	// values, in order: the alternatives to its values.yaml that some charts have.
	ValuesFiles []string `json:"valuesFiles,omitempty" yaml:"valuesFiles,omitempty"`
	// CreateNamespace adds the namespace to what the chart renders, as few charts do.
	CreateNamespace bool `json:"createNamespace,omitempty" yaml:"createNamespace,omitempty"`
	// Kubernetes is the version of the cluster that the chart is told, for example 1.34.0.
	Kubernetes string `json:"kubernetes,omitempty" yaml:"kubernetes,omitempty" jsonschema:"pattern=^v?[0-9]+\\.[0-9]+(\\.[0-9]+([-+][0-9A-Za-z.+-]+)?)?$"`
	// APIVersions are told to the chart as served by the cluster besides Kubernetes' own.
	APIVersions []string `json:"apiVersions,omitempty" yaml:"apiVersions,omitempty"`
}

// Dependency is a chart that another needs: from git, an archive, or a repository of charts.
type Dependency struct {
	// Name is the name that the chart has among the dependencies of the other.
	Name string `json:"name" yaml:"name" jsonschema:"pattern=^[a-zA-Z0-9]([-a-zA-Z0-9._]*[a-zA-Z0-9])?$"`
	// Git is the URL of a git repository, Commit the commit.
	Git    string `json:"git,omitempty" yaml:"git,omitempty"`
	Commit string `json:"commit,omitempty" yaml:"commit,omitempty" jsonschema:"pattern=^[0-9a-f]{40}$"`
	// Archive is a tar or a zip: an https URL, or a file below the definition's folder.
	Archive string `json:"archive,omitempty" yaml:"archive,omitempty"`
	// Repository is where a chart of this name is, Version its version.
	Repository string `json:"repository,omitempty" yaml:"repository,omitempty" jsonschema:"pattern=^(https|oci)://"`
	Version    string `json:"version,omitempty" yaml:"version,omitempty"`
	// Root is the folder of a git repository or an archive that is the chart.
	Root string `json:"root,omitempty" yaml:"root,omitempty"`
	// SHA256 is the digest that an archive or a packed chart must have, and the tree of a folder may have.
	SHA256 string `json:"sha256,omitempty" yaml:"sha256,omitempty" jsonschema:"pattern=^[0-9a-f]{64}$"`
}

// Source returns the dependency as a source of its own.
func (d *Dependency) Source() *Source {
	s := &Source{
		Git: d.Git, Commit: d.Commit, Archive: d.Archive, Repository: d.Repository, Version: d.Version,
		Root: d.Root, SHA256: d.SHA256, Template: TemplateHelm,
	}
	if d.Repository != "" {
		s.Chart = d.Name
	}
	return s
}

// Patch is a patch of kustomize: strategic merge or JSON 6902, to one resource or to all that
// its target selects.
type Patch struct {
	// Patch is the patch itself.
	Patch string `json:"patch" yaml:"patch" jsonschema:"minLength=1"`
	// Target selects the resources; the patch names its own when there is none.
	Target *PatchTarget `json:"target,omitempty" yaml:"target,omitempty"`
}

// PatchTarget selects resources as kustomize does: each field is a regular expression.
type PatchTarget struct {
	Group     string `json:"group,omitempty" yaml:"group,omitempty"`
	Version   string `json:"version,omitempty" yaml:"version,omitempty"`
	Kind      string `json:"kind,omitempty" yaml:"kind,omitempty"`
	Name      string `json:"name,omitempty" yaml:"name,omitempty"`
	Namespace string `json:"namespace,omitempty" yaml:"namespace,omitempty"`
	// LabelSelector and AnnotationSelector are selectors as kubectl takes them.
	LabelSelector      string `json:"labelSelector,omitempty" yaml:"labelSelector,omitempty"`
	AnnotationSelector string `json:"annotationSelector,omitempty" yaml:"annotationSelector,omitempty"`
}

// ExtraImage is an image that is locked though no manifest names it.
type ExtraImage struct {
	// Image is the reference, with a tag or a digest.
	Image string `json:"image" yaml:"image"`
	// Reason says who needs it, for whoever reads the lock.
	Reason string `json:"reason" yaml:"reason" jsonschema:"minLength=1"`
}

// Runtime is a versioned set of bundles.
type Runtime struct {
	// APIVersion is krtpkg.dev/v1alpha1.
	APIVersion string `json:"apiVersion" yaml:"apiVersion" jsonschema:"enum=krtpkg.dev/v1alpha1"`
	// Kind is Runtime.
	Kind string `json:"kind" yaml:"kind" jsonschema:"enum=Runtime"`
	// Metadata names the runtime.
	Metadata Metadata `json:"metadata" yaml:"metadata"`
	// Spec says which bundles it is made of.
	Spec RuntimeSpec `json:"spec" yaml:"spec"`
}

// RuntimeSpec lists a runtime's bundles. Their order is computed, never written down.
type RuntimeSpec struct {
	// Bundles are the bundles of the runtime.
	Bundles []BundleSource `json:"bundles" yaml:"bundles" jsonschema:"minItems=1"`
	// Provided names what bundles may require though it comes from outside the runtime.
	Provided []string `json:"provided,omitempty" yaml:"provided,omitempty"`
	// Exceptions are the capabilities that several bundles provide although the model of the
	// layers has them once, as cni.
	Exceptions []Exception `json:"exceptions,omitempty" yaml:"exceptions,omitempty"`
}

// Exception says why a rule of the model does not hold for a runtime.
type Exception struct {
	// Capability is what several bundles provide.
	Capability string `json:"capability" yaml:"capability" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"`
	// Reason says why that is meant, for those who read the definition.
	Reason string `json:"reason" yaml:"reason" jsonschema:"minLength=1"`
}

// ExceptedCapabilities returns the capabilities of exceptions.
func ExceptedCapabilities(exceptions []Exception) (names []string) {
	for _, e := range exceptions {
		names = append(names, e.Capability)
	}
	return names
}

// BundleSource is where a bundle comes from: exactly one of path and ref.
type BundleSource struct {
	// Path is a bundle definition, or the folder of one, to build along with the runtime;
	// relative to the runtime's own definition.
	Path string `json:"path,omitempty" yaml:"path,omitempty"`
	// Ref is a bundle that was built before, pinned by digest: registry/repository@sha256:…,
	// or oci:folder@sha256:…. krtpkg update adds the digest to registry/repository:tag.
	Ref string `json:"ref,omitempty" yaml:"ref,omitempty" jsonschema:"pattern=^oci:.*@sha256:[0-9a-f]{64}$|^([[][0-9a-fA-F:]+[]]|[^/@:[]+)(:[0-9]+)?/[^@]+(@sha256:[0-9a-f]{64}|:[^/@:]+(@sha256:[0-9a-f]{64})?)$"`
}

// RuntimeLock is what a built runtime holds as .krtpkg/runtime.yaml: the bundles by digest
// in the order to apply them.
type RuntimeLock struct {
	APIVersion string         `json:"apiVersion" yaml:"apiVersion"`
	Kind       string         `json:"kind" yaml:"kind"`
	Metadata   Metadata       `json:"metadata" yaml:"metadata"`
	Provided   []string       `json:"provided,omitempty" yaml:"provided,omitempty"`
	Exceptions []Exception    `json:"exceptions,omitempty" yaml:"exceptions,omitempty"`
	Bundles    []LockedBundle `json:"bundles" yaml:"bundles"`
}

// Catalogue is what a built catalogue holds as .krtpkg/catalogue.yaml: the runtimes whose packages it
// has, by digest, the oldest version first.
type Catalogue struct {
	APIVersion string          `json:"apiVersion" yaml:"apiVersion"`
	Kind       string          `json:"kind" yaml:"kind"`
	Metadata   Metadata        `json:"metadata" yaml:"metadata"`
	Runtimes   []LockedRuntime `json:"runtimes" yaml:"runtimes"`
}

// KindCatalogue is the kind of a [Catalogue].
const KindCatalogue = "Catalogue"

// LockedRuntime is a runtime of a catalogue.
type LockedRuntime struct {
	Name    string `json:"name" yaml:"name"`
	Version string `json:"version" yaml:"version"`
	Digest  string `json:"digest" yaml:"digest"`
}

// KindRuntimeLock is the kind of a [RuntimeLock].
const KindRuntimeLock = "RuntimeLock"

// LockedBundle is a bundle of a runtime.
type LockedBundle struct {
	Name     string   `json:"name" yaml:"name"`
	Version  string   `json:"version" yaml:"version"`
	Layer    int      `json:"layer" yaml:"layer"`
	Category string   `json:"category,omitempty" yaml:"category,omitempty"`
	Digest   string   `json:"digest" yaml:"digest"`
	Provides []string `json:"provides,omitempty" yaml:"provides,omitempty"`
	Requires []string `json:"requires,omitempty" yaml:"requires,omitempty"`
}
