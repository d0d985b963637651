// Package bundle is what a bundle and a runtime are: their definitions, their form as OCI
// artifacts, and how these are made and opened. It knows no network and no cluster.
//
// Call [Parse] to read a definition, [Content.Pack] to make an artifact, [Open] to read one.
package bundle

// Media types and annotations of the wire format.
const (
	// TypeBundle is the artifactType of a bundle's manifest.
	TypeBundle = "application/vnd.krtpkg.bundle.v1"
	// TypeRuntime is the artifactType of a runtime's manifest.
	TypeRuntime = "application/vnd.krtpkg.runtime.v1"
	// TypeCatalogue is the artifactType of the packages of several versions of runtimes.
	TypeCatalogue = "application/vnd.krtpkg.catalogue.v1"
	// TypeClosure is the artifactType of the index over everything that a root needs.
	TypeClosure = "application/vnd.krtpkg.closure.v1"
	// TypeArgoCD is the artifactType of the manifests by which Argo CD fetches what is in a
	// bundle or a runtime, and of the index over them.
	TypeArgoCD = "application/vnd.krtpkg.argocd.v1"
	// TypeDeltas is the artifactType of a manifest of deltas that make layers of its subject.
	TypeDeltas = "application/vnd.krtpkg.deltas.v1"

	// mediaTypeLayer is Docker's: imgpkg copies no other, and every registry and client
	// takes it in an OCI manifest.
	mediaTypeLayer = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	// labelImgpkg is the config label by which imgpkg and kapp-controller know a bundle.
	labelImgpkg = "dev.carvel.imgpkg.bundle"

	// HookAnnotation is on each hook of Helm among what is applied: RELEASE@DIGEST, the release that it
	// is of, and the digest of all that belongs to that. A hook runs once for a digest.
	HookAnnotation = "krtpkg.dev/hook"

	annotationLayer    = "dev.krtpkg.layer"
	annotationCategory = "dev.krtpkg.category"
)

// Files inside the layer.
const (
	fileImages    = ".imgpkg/images.yml"
	fileImgpkg    = ".imgpkg/bundle.yml"
	fileBundle    = ".krtpkg/bundle.yaml"
	fileRuntime   = ".krtpkg/runtime.yaml"
	fileCatalogue = ".krtpkg/catalogue.yaml"
	// ConfigDir is the folder of what the target renders.
	ConfigDir = "config"
	// OverlaysDir is the folder of the overlays that the target lays over it, each source's
	// below the source's path.
	OverlaysDir = "overlays"
	// HooksDir is the folder of Helm's hooks that nothing applies with the rest: those of a deletion
	// and of a rollback, each source's below the source's path.
	HooksDir = "hooks"
	// PackagesDir is the folder of a runtime's packages, for kapp-controller.
	PackagesDir = "packages"
	// FluxDir is the folder of what Flux applies of a runtime.
	FluxDir = "flux"
	// ArgoCDDir is the folder of what Argo CD applies of a runtime: a chart.
	ArgoCDDir = "argocd"
)

// Limits on artifacts that come from outside.
const (
	maxLayer   = 256 << 20 // compressed
	maxContent = 512 << 20 // all files of an artifact, unpacked
	maxFiles   = 100_000
	maxStream  = maxContent + maxFiles*2<<10 // the archive of them
)
