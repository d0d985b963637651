package result

// Prune is the result of krtpkg prune. With --dry-run it is what would be deleted.
type Prune struct {
	Outcome
	// Reference is the repository or the folder.
	Reference string `json:"reference"`
	DryRun    bool   `json:"dryRun,omitempty"`
	// Versions are bundles and runtimes by name, the newest first. Those that stay have reasons.
	Versions []PrunedVersion `json:"versions"`
	// Unknown are tags that name something else. They stay, unless they are marked as deleted.
	Unknown []UnknownTag `json:"unknown"`
	// Tags and Manifests are what is deleted, in this order.
	Tags      []string `json:"tags"`
	Manifests []string `json:"manifests"`
	// Bytes is the size of the manifests and of the blobs that nothing names then. A folder frees them at once, a
	// registry with its garbage collection.
	Bytes int64 `json:"bytes"`
	// DeletedTagCount and DeletedManifestCount are how many were deleted. They are less than planned after an error.
	DeletedTagCount      int `json:"deletedTagCount"`
	DeletedManifestCount int `json:"deletedManifestCount"`
}

// PrunedVersion is a version that stays, or is deleted.
type PrunedVersion struct {
	Artifact
	Tags []string `json:"tags"`
	// Deleted reports whether it is deleted; else Reasons are why it stays.
	Deleted bool     `json:"deleted"`
	Reasons []string `json:"reasons,omitempty"`
}

// UnknownTag is a tag that names neither a bundle nor a runtime.
type UnknownTag struct {
	Tag    string `json:"tag"`
	Digest string `json:"digest"`
	// What says what it is, as its media type or artifact type.
	What    string `json:"what"`
	Deleted bool   `json:"deleted"`
}
