// Package oci is ground level: the limits on what comes from outside, in one table, and the
// readers that keep to them before they trust a byte.
//
// Call [UnmarshalJSON] for manifests and other JSON of strangers, [ReadIndex] for the index.json of
// a layout, and [WithBudget] at the start of an operation, so that all of it that is kept in memory
// counts against one [Budget].
package oci

// The limits. Where a limit is met the object is refused by name; nothing is cut short silently.
const (
	// MaxManifest is how many bytes a manifest has, in a registry, a layout or an archive. It is
	// what registries take (distribution-spec v1.1, pushing manifests).
	MaxManifest = 4 << 20
	// MaxElements is how many values the JSON of one manifest or statement has. A manifest that
	// names 30,000 others stays below.
	MaxElements = 250_000
	// MaxStatementElements is how many values an attested statement has: an SBOM of 15 MB.
	MaxStatementElements = 500_000
	// MaxDepth is how deep JSON and metadata files are nested.
	MaxDepth = 200

	// MaxIndex is how many bytes the index.json of a layout has, MaxIndexEntries how many
	// manifests it lists: five times what a runtime of 2,000 signed images takes.
	MaxIndex         = 32 << 20
	MaxIndexEntries  = 50_000
	MaxIndexElements = 750_000
	// MaxAnnotations is how many bytes of annotations a listing of referrers keeps.
	MaxAnnotations = 32 << 20

	// MaxMetadataFile is how many bytes a lock or a definition inside of a bundle has, and
	// MaxMetadataNodes how many keys and values.
	MaxMetadataFile  = 4 << 20
	MaxMetadataNodes = 250_000

	// MaxManifestFile is how many bytes a file of Kubernetes manifests has, MaxManifestNodes how many
	// keys and values, MaxBundleNodes how many all files of a bundle have: ten times what the largest
	// known ones have. A parsed key or value takes some 350 bytes of memory.
	MaxManifestFile  = 32 << 20
	MaxManifestNodes = 500_000
	MaxBundleNodes   = 1_000_000

	// DefaultMemory is how much content an operation keeps in memory. With what decoding takes
	// its process stays below 256 MiB above where it started.
	DefaultMemory = 128 << 20

	// MaxUnsizedFile is how many bytes a file has that a bundle carries and whose size neither its definition nor its
	// server tells: a build keeps it in a temporary file.
	MaxUnsizedFile = 16 << 30

	// MaxPages is how many pages a listing of tags or referrers has, MaxListed how many entries
	// in all.
	MaxPages  = 1_000
	MaxListed = 100_000
)
