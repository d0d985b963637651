package bundle

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
	// Sources are where the manifests come from.
	Sources []Source `json:"sources" yaml:"sources" jsonschema:"minItems=1"`
	// Images names images that no manifest mentions, such as those an operator starts.
	Images []ExtraImage `json:"images,omitempty" yaml:"images,omitempty"`
}

// Source is one place that manifests come from: exactly one of dir, file and url.
type Source struct {
	// Dir is a folder below the definition's: every YAML and JSON file in it.
	Dir string `json:"dir,omitempty" yaml:"dir,omitempty"`
	// File is a file below the definition's folder.
	File string `json:"file,omitempty" yaml:"file,omitempty"`
	// URL is an https URL of one file; it needs sha256.
	URL string `json:"url,omitempty" yaml:"url,omitempty" jsonschema:"pattern=^https://"`
	// SHA256 is the digest that the source must have: of a file's bytes, or over the tree
	// of a folder as `krtpkg inspect` prints it.
	SHA256 string `json:"sha256,omitempty" yaml:"sha256,omitempty" jsonschema:"pattern=^[0-9a-f]{64}$"`
	// Include keeps only the files of a folder that match one of these globs; ** crosses folders.
	Include []string `json:"include,omitempty" yaml:"include,omitempty"`
	// Exclude leaves out the files of a folder that match one of these globs.
	Exclude []string `json:"exclude,omitempty" yaml:"exclude,omitempty"`
	// Template says how the target renders the files: "ytt", or as they are when empty.
	Template string `json:"template,omitempty" yaml:"template,omitempty" jsonschema:"enum=ytt"`
	// Path is where the files go below config/; the name of the folder or file when empty.
	Path string `json:"path,omitempty" yaml:"path,omitempty"`
}

// TemplateYTT is the [Source] template that ytt renders with the site's values.
const TemplateYTT = "ytt"

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
}

// BundleSource is where a bundle comes from: exactly one of path and ref.
type BundleSource struct {
	// Path is a bundle definition, or the folder of one, to build along with the runtime;
	// relative to the runtime's own definition.
	Path string `json:"path,omitempty" yaml:"path,omitempty"`
	// Ref is a bundle that was built before, pinned by digest: registry/repository@sha256:…,
	// or oci:folder@sha256:….
	Ref string `json:"ref,omitempty" yaml:"ref,omitempty" jsonschema:"pattern=@sha256:[0-9a-f]{64}$"`
}

// RuntimeLock is what a built runtime holds as .krtpkg/runtime.yaml: the bundles by digest
// in the order to apply them.
type RuntimeLock struct {
	APIVersion string         `json:"apiVersion" yaml:"apiVersion"`
	Kind       string         `json:"kind" yaml:"kind"`
	Metadata   Metadata       `json:"metadata" yaml:"metadata"`
	Provided   []string       `json:"provided,omitempty" yaml:"provided,omitempty"`
	Bundles    []LockedBundle `json:"bundles" yaml:"bundles"`
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
