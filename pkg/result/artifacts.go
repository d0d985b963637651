package result

import (
	"time"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// Artifact names a bundle or a runtime.
type Artifact struct {
	// Reference is where it is, with its digest. It is absent for a bundle inside of a runtime.
	Reference string `json:"reference,omitempty"`
	// Kind is Bundle or Runtime.
	Kind string `json:"kind"`
	// Name is what its definition calls it.
	Name string `json:"name"`
	// Version is the one that was built, whatever its tag says.
	Version string `json:"version"`
	// Digest is that of its manifest.
	Digest string `json:"digest"`
}

// Version is the result of krtpkg version.
type Version struct {
	Outcome
	Version string `json:"version"`
	// Commit is the one that the program was built from, and Date when that was made, in RFC 3339.
	Commit string `json:"commit,omitempty"`
	Date   string `json:"date,omitempty"`
	// Modified reports whether files differed from the commit.
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// Libraries are the versions of those whose behaviour a user sees, by name.
	Libraries map[string]string `json:"libraries"`
}

// Build is the result of krtpkg build.
type Build struct {
	Outcome
	Artifact
	// Bundles are those of a runtime, in the order of apply.
	Bundles []BuiltBundle `json:"bundles"`
	// ImageCount is how many images there are, each once.
	ImageCount int `json:"imageCount"`
	// CargoCount is how many files and charts there are; a file for several platforms counts once for each.
	CargoCount int `json:"cargoCount,omitempty"`
	// PackageCount is how many of the bundles kapp-controller can install.
	PackageCount int `json:"packageCount"`
	// LeftOut are the bundles that it can't.
	LeftOut []LeftOut `json:"leftOut"`
}

// BuiltBundle is a bundle of a runtime that was built.
type BuiltBundle struct {
	Artifact
	// ImageCount is how many images it has, each once.
	ImageCount int `json:"imageCount"`
}

// LeftOut is a bundle that is not a package.
type LeftOut struct {
	Bundle string `json:"bundle"`
	Reason string `json:"reason"`
}

// List is the result of krtpkg list.
type List struct {
	Outcome
	// Versions are sorted by tag.
	Versions []ListedVersion `json:"versions"`
}

// ListedVersion is a tag and what it leads to.
type ListedVersion struct {
	Tag string `json:"tag"`
	Artifact
}

// Inspect is the result of krtpkg inspect and krtpkg tree.
type Inspect struct {
	Outcome
	Artifact
	// Metadata is what the definition says of it.
	Metadata    bundle.Metadata   `json:"metadata"`
	Annotations map[string]string `json:"annotations"`
	// Bundles are those of a runtime in the order of apply, or the bundle itself.
	Bundles []Bundle `json:"bundles"`
	// Signatures and Attestations are what is attached to it, as it describes itself. None of it was verified.
	Signatures   []sign.Claim `json:"signatures"`
	Attestations []sign.Claim `json:"attestations"`
}

// Bundle is a bundle and what is in it.
type Bundle struct {
	Artifact
	// Layer is its layer, 0 to 6.
	Layer      int             `json:"layer"`
	Category   string          `json:"category,omitempty"`
	Kubernetes string          `json:"kubernetes,omitempty"`
	Provides   []string        `json:"provides,omitempty"`
	Requires   []string        `json:"requires,omitempty"`
	Sources    []bundle.Source `json:"sources"`
	Images     []LockedImage   `json:"images"`
	// Cargo are the files and charts that it carries.
	Cargo []Cargo `json:"cargo,omitempty"`
}

// LockedImage is an image of a bundle.
type LockedImage struct {
	// Reference is what its manifests call it.
	Reference string `json:"reference"`
	// Image is what it is locked to, a name with a digest.
	Image string `json:"image"`
	// Digest is that of Image.
	Digest string `json:"digest"`
}

// Attestations is the result of krtpkg attestation list.
type Attestations struct {
	Outcome
	Artifact
	// Verified reports whether those that are listed are by trusted signers; else they are what they claim.
	Verified     bool         `json:"verified"`
	Attestations []sign.Claim `json:"attestations"`
}

// Verify is the result of krtpkg verify.
type Verify struct {
	Outcome
	Artifact
	Signatures
	// Bundles are those that were read and match the signed digest.
	Bundles []Artifact `json:"bundles"`
	// Promotions are those that trusted signers attested, the latest last.
	Promotions []Promotion `json:"promotions,omitempty"`
	// Images are what was verified of upstream's signatures, with --images.
	Images []VerifiedImage `json:"images,omitempty"`
}

// Signatures is what was found out about signatures and attestations.
type Signatures struct {
	// Verified are the valid signatures of trusted authorities.
	Verified []sign.Verified `json:"verified"`
	// Attestations are what they attested.
	Attestations []sign.Verified `json:"attestations"`
	// Rejected are the others. They change nothing.
	Rejected []RejectedSignature `json:"rejected"`
	// UnexaminedCount is how many more there are that were not looked at, since these suffice.
	UnexaminedCount int `json:"unexaminedCount,omitempty"`
}

// RejectedSignature is a signature or an attestation that does not count.
type RejectedSignature struct {
	sign.Object
	// Reason is why not.
	Reason string `json:"reason"`
}

// VerifiedImage is a workload image.
type VerifiedImage struct {
	// Reference is what the manifests call it.
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	// Signatures are what was verified; absent if no rule of the policy matches the image.
	Signatures *Signatures `json:"signatures,omitempty"`
}

// Attach is the result of krtpkg sign and krtpkg attest.
type Attach struct {
	Outcome
	Artifact
	// Attached are the signatures and attestations, also those that were there already.
	Attached []sign.Attached `json:"attached"`
}

// Tag is the result of krtpkg tag.
type Tag struct {
	Outcome
	Artifact
	Tag string `json:"tag"`
}

// Promote is the result of krtpkg promote.
type Promote struct {
	Outcome
	Artifact
	Promotion Promotion `json:"promotion"`
}

// Promotion is the predicate of what promote attests.
type Promotion struct {
	// Channel is the tag that was moved, in Repository.
	Channel    string `json:"channel"`
	Repository string `json:"repository"`
	// Version is the one that was promoted.
	Version string `json:"version"`
	// Previous is the digest that the channel stood for before; empty for the first.
	Previous string    `json:"previous,omitempty"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`
	// Expires is when the channel is stale, unless it is promoted again before.
	Expires time.Time `json:"expires,omitzero"`
}

// Transfer is the result of krtpkg push, copy, export and import. The counts are of manifests and blobs.
type Transfer struct {
	Outcome
	// DryRun is set if nothing was written.
	DryRun bool `json:"dryRun,omitempty"`
	// Roots are the bundles and runtimes, at the target.
	Roots []Root `json:"roots"`
	// Referrers are the digests of the signatures and other referrers that were copied.
	Referrers []string `json:"referrers,omitempty"`
	// Items are how many items there are, and Bytes their size; absent where it is not known.
	Items int64 `json:"items"`
	Bytes int64 `json:"bytes,omitempty"`
	// CopiedItems are those that were copied.
	CopiedItems int64 `json:"copiedItems"`
	CopiedBytes int64 `json:"copiedBytes"`
	// MadeItems are the copied layers that were made from published deltas, MadeBytes their size, and
	// DeltaBytes the size of the deltas, which were read instead.
	MadeItems  int64 `json:"madeItems,omitempty"`
	MadeBytes  int64 `json:"madeBytes,omitempty"`
	DeltaBytes int64 `json:"deltaBytes,omitempty"`
	// MountedItems are those that the registry took from another of its repositories.
	MountedItems int64 `json:"mountedItems"`
	// PresentItems are those that the target had; PresentBytes is their size, and that
	// of the parts of items that an earlier attempt had sent, as far as it is known.
	PresentItems int64 `json:"presentItems"`
	PresentBytes int64 `json:"presentBytes,omitempty"`
	// Files are those of an archive, of an export.
	Files []File `json:"files,omitempty"`
	// Base is what an archive builds on.
	Base []string `json:"base,omitempty"`
	// Layers are those of images that the base lacks, of an export with --delta.
	Layers []ExportedLayer `json:"layers,omitempty"`
	// Deltas are what push --delta-from published.
	Deltas []PublishedDeltas `json:"deltas,omitempty"`
	// Volumes is how many volumes an archive has, and AbsentVolumes which of them are still to be imported.
	Volumes       int   `json:"volumes,omitempty"`
	AbsentVolumes []int `json:"absentVolumes,omitempty"`
}

// Root is a bundle or a runtime of a transfer.
type Root struct {
	Artifact
	// Tags are those that it has at the target.
	Tags []string `json:"tags"`
	// Closure is the digest of the index of everything that was copied.
	Closure string `json:"closure,omitempty"`
	// CargoCount is how many files and charts it carries; a file for several platforms counts once.
	CargoCount int `json:"cargoCount,omitempty"`
	// BundleCount and ImageCount are how many it has.
	BundleCount int `json:"bundleCount"`
	ImageCount  int `json:"imageCount"`
}

// Delta is the result of krtpkg delta; it is of the new version.
type Delta struct {
	Outcome
	// DryRun is set if nothing was published.
	DryRun bool `json:"dryRun,omitempty"`
	Artifact
	// Deltas are what was published, from each of the old versions.
	Deltas []PublishedDeltas `json:"deltas"`
}

// PublishedDeltas are the deltas from one version to another.
type PublishedDeltas struct {
	// From is the reference of the old version.
	From string `json:"from"`
	// Digest is that of the manifest that lists the deltas; absent if there is none.
	Digest string `json:"digest,omitempty"`
	// SavedBytes is how many bytes less a copy reads.
	SavedBytes int64 `json:"savedBytes"`
	// Layers are those that the old version lacks.
	Layers []ExportedLayer `json:"layers"`
}

// ExportedLayer is a layer that the base lacks, and how it travels.
type ExportedLayer struct {
	// Image is the reference of the image that it is of.
	Image  string `json:"image"`
	Digest string `json:"digest"`
	Bytes  int64  `json:"bytes"`
	// DeltaBytes is the size of its delta, and From are the layers that this is made from; absent if it
	// travels whole.
	DeltaBytes int64    `json:"deltaBytes,omitempty"`
	From       []string `json:"from,omitempty"`
	// Encoder is how it is compressed, where that was found.
	Encoder string `json:"encoder,omitempty"`
	// Reason is why it travels whole.
	Reason string `json:"reason,omitempty"`
}

// File is a file of an archive.
type File struct {
	Name string `json:"name"`
	// Bytes is its size, and KeptBytes how much of it was written before.
	Bytes     int64 `json:"bytes"`
	KeptBytes int64 `json:"keptBytes"`
}

// Check is the result of krtpkg check.
type Check struct {
	Outcome
	// Checked are what was given, each of them intact.
	Checked []Checked `json:"checked"`
}

// Checked is an archive, a volume or what a reference leads to.
type Checked struct {
	// Reference is what was given.
	Reference string `json:"reference"`
	// Items are the manifests and blobs that were read, and Bytes their size.
	Items int64 `json:"items"`
	Bytes int64 `json:"bytes"`
	// AbsentItems are blobs that an archive names and leaves out.
	AbsentItems int `json:"absentItems"`
	// Volume is the number of a volume, of Volumes.
	Volume  int `json:"volume,omitempty"`
	Volumes int `json:"volumes,omitempty"`
	// ParityVolumes are how many parity volumes are next to it: as many of its volumes can be restored.
	ParityVolumes int `json:"parityVolumes,omitempty"`
	// LostVolumes are those that are not next to it, where there are parity volumes, and LackingFiles how many more files are
	// needed to restore them; 0 if they can be restored.
	LostVolumes  []int `json:"lostVolumes,omitempty"`
	LackingFiles int   `json:"lackingFiles,omitempty"`
	// Base is what an archive builds on.
	Base []string `json:"base,omitempty"`
	// ForeignItems are layers that are at their URLs alone.
	ForeignItems int `json:"foreignItems,omitempty"`
	// DeltaItems are how many of the absent blobs an archive has as deltas.
	DeltaItems int `json:"deltaItems,omitempty"`
	// Platforms are those to which it is limited.
	Platforms []string `json:"platforms,omitempty"`
}

// Images is the result of krtpkg images.
type Images struct {
	Outcome
	Images []ImageUse `json:"images"`
	// Running are what pods run, with --cluster and --from-cluster.
	Running []RunningImage `json:"running,omitempty"`
}

// ImageUse is a reference to an image in manifests, or a string that looks like one.
type ImageUse struct {
	Image string `json:"image"`
	// State is image, suspect or ignored.
	State string `json:"state"`
	// Notes are latest, unpinned, unreachable and the like.
	Notes []string `json:"notes,omitempty"`
	// How is how it was found.
	How string `json:"how"`
	// Digest is what it resolves to.
	Digest   string `json:"digest,omitempty"`
	Bundle   string `json:"bundle,omitempty"`
	Resource string `json:"resource,omitempty"`
	Path     string `json:"path,omitempty"`
	File     string `json:"file"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	// Reason is the definition's for one that is ignored.
	Reason string `json:"reason,omitempty"`
	// Unreachable is why no registry has it.
	Unreachable string `json:"unreachable,omitempty"`
	// Upstream are the fields of an image that still point upstream when it is relocated.
	Upstream []string `json:"upstream,omitempty"`
	// Settle is what to put into the definition for a suspect.
	Settle string `json:"settle,omitempty"`
	// Context is the lines around it, from ContextLine on, with --context.
	Context     []string `json:"context,omitempty"`
	ContextLine int      `json:"contextLine,omitempty"`
}

// Moves is the result of krtpkg outdated and krtpkg update.
type Moves struct {
	Outcome
	// Moves are the sources, images and bundles that are outdated, or were updated.
	Moves []assemble.Move `json:"moves"`
	// Unlocked are the bundles without a lock file, whose images outdated does not look up.
	Unlocked []string `json:"unlocked"`
}

// Graph is the result of krtpkg graph.
type Graph struct {
	Outcome
	*graph.Graph
}

// Trust is the result of krtpkg trust show.
type Trust struct {
	Outcome
	// File is the policy file, and Digest that of the file with the files that it names, as receipts have it.
	File        string      `json:"file"`
	Digest      string      `json:"digest"`
	Authorities []Authority `json:"authorities"`
	// Rules are for bundles and runtimes, ImageRules for workload images.
	Rules      []TrustRule `json:"rules"`
	ImageRules []TrustRule `json:"imageRules"`
	// Revoked are key ids and digests.
	Revoked []string `json:"revoked"`
}

// Authority is a trusted signer.
type Authority struct {
	Name    string `json:"name"`
	KeyID   string `json:"keyId,omitempty"`
	Subject string `json:"subject,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	// NotBefore and NotAfter are when its signatures count.
	NotBefore string `json:"notBefore,omitempty"`
	NotAfter  string `json:"notAfter,omitempty"`
	// Counts reports whether a signature of now does.
	Counts bool `json:"counts"`
}

// TrustRule is a rule of a policy.
type TrustRule struct {
	// Match are the places that it is for.
	Match       []string `json:"match"`
	Authorities []string `json:"authorities"`
	// Threshold is how many of them must have signed.
	Threshold int `json:"threshold"`
	// Attestations are the predicate types that must be attested.
	Attestations []string `json:"attestations"`
	// Names limits the names of what is signed.
	Names []string `json:"names,omitempty"`
	// MinAge is how long ago each must have signed.
	MinAge string `json:"minAge,omitempty"`
	// Channels say how fresh channels must be.
	Channels *ChannelRule `json:"channels,omitempty"`
}

// ChannelRule says how fresh channels must be.
type ChannelRule struct {
	// MaxAge is how old the newest promotion of a channel may be.
	MaxAge string `json:"maxAge,omitempty"`
	// Stale is warn or refuse.
	Stale string `json:"stale"`
}

// Doctor is the result of krtpkg doctor.
type Doctor struct {
	Outcome
	// Findings are what was tried.
	Findings []Capability `json:"findings"`
	// Deviations are what the registry does otherwise than the specification says, and what is
	// done about it.
	Deviations []string `json:"deviations"`
	// Left are the tags and manifests that the registry did not let go of.
	Left []string `json:"left"`
}

// Capability is what was found of one ability of a registry.
type Capability struct {
	Capability string `json:"capability"`
	// Works reports whether it does, and Needed whether krtpkg cannot do without.
	Works  bool `json:"works"`
	Needed bool `json:"needed"`
	// Meaning is what follows from that for krtpkg.
	Meaning string `json:"meaning"`
	// Reason is what the registry answered where it does not work.
	Reason string `json:"reason,omitempty"`
}
