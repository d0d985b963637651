package result

import "krtpkg.dev/krtpkg/pkg/bundle"

// Files is the result of krtpkg files list and krtpkg files get.
type Files struct {
	Outcome
	Artifact
	// Cargo are the files and charts that were listed or fetched, in the order of bundles.
	Cargo []Cargo `json:"cargo"`
}

// Cargo is a file or a chart that a bundle carries.
type Cargo struct {
	// Bundle is the name of the bundle that carries it.
	Bundle string `json:"bundle"`
	// Kind is file or chart.
	Kind bundle.CargoKind `json:"kind"`
	// Name is what it is called where it is fetched to.
	Name string `json:"name"`
	// Chart and Version are those of a chart.
	Chart   string `json:"chart,omitempty"`
	Version string `json:"version,omitempty"`
	// Platform is the one that it is for, as os/architecture[/variant]; absent for any.
	Platform string `json:"platform,omitempty"`
	// Mode is the mode that it gets where it is fetched to, in octal.
	Mode   string `json:"mode"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Origin is where it came from: a URL, a chart of a repository, or a path next to the definition.
	Origin string `json:"origin"`
	// Artifact is the digest of its manifest, or of the index of all its platforms.
	Artifact string `json:"artifact"`
	// Helm is what helm pull takes for a chart in a registry.
	Helm string `json:"helm,omitempty"`
	// Path is where it was written to.
	Path string `json:"path,omitempty"`
}
