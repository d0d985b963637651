package result

import "krtpkg.dev/krtpkg/pkg/compare"

// Diff is the result of krtpkg diff.
type Diff struct {
	Outcome
	Old DiffVersion `json:"old"`
	New DiffVersion `json:"new"`
	// Changes reports whether anything differs.
	Changes bool `json:"changes"`
	compare.Comparison
	// Carry is what a site would have to get, with --base.
	Carry *Carry `json:"carry,omitempty"`
}

// DiffVersion is one of the two versions of a diff.
type DiffVersion struct {
	Artifact
	// Verified reports whether a trusted signer signed it.
	Verified bool `json:"verified"`
}

// Carry is what of a version a site does not have yet.
type Carry struct {
	// Base is what the site has.
	Base []string `json:"base"`
	// Items and Bytes count all of the version, CopiedItems and CopiedBytes what the site lacks.
	Items       int64 `json:"items"`
	Bytes       int64 `json:"bytes"`
	CopiedItems int64 `json:"copiedItems"`
	CopiedBytes int64 `json:"copiedBytes"`
}
