package result

import (
	"encoding/json"
	"time"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// Catalog is what the pages of krtpkg catalog and krtpkg serve --ui show, their catalog.json.
type Catalog struct {
	// Policy is the trust policy that versions were verified by; absent if nothing was verified.
	Policy *ReceiptPolicy `json:"policy,omitempty"`
	// Runtimes are runtimes, and bundles on their own, by name and place.
	Runtimes []CatalogRuntime `json:"runtimes"`
	// Icons are the pictures of bundles, SVGs, by their SHA-256.
	Icons map[string]string `json:"icons"`
}

// CatalogRuntime is a runtime, or a bundle on its own, in one place.
type CatalogRuntime struct {
	Name string `json:"name"`
	// Place is the repository, the folder or the archive.
	Place string `json:"place"`
	// Versions are those that are shown, the newest first.
	Versions []CatalogVersion `json:"versions"`
	// OlderCount is how many more tags of older versions the place has that are not shown, at the first of its runtimes.
	OlderCount int `json:"olderCount,omitempty"`
	// Bundles are what all versions are made of, and Images the images that they run, each digest once.
	Bundles []CatalogBundle `json:"bundles"`
	Images  []CatalogImage  `json:"images"`
}

// CatalogVersion is a version. It has the fields that krtpkg inspect -o json prints; error says why it cannot be read.
type CatalogVersion struct {
	Inspect
	// Tags are those that lead to it.
	Tags []string `json:"tags"`
	// Created is when it says that it was made.
	Created time.Time `json:"created,omitzero"`
	// Graph is the picture of its layers.
	Graph *graph.Graph `json:"graph,omitempty"`
	// Verdict is what the trust policy says of it; absent without one.
	Verdict *CatalogVerdict `json:"verdict,omitempty"`
	// Licenses are the licences of what it is made of, the most frequent first.
	Licenses []CatalogLicense `json:"licenses"`
	// Reports are attached reports of vulnerabilities, of the version and of its images.
	Reports []CatalogReport `json:"reports"`
	// SBOM is its bill of materials as CycloneDX, which is a file of its own.
	SBOM json.RawMessage `json:"-"`
	// Changes is how it differs from the version before, if that is there.
	Changes *CatalogChanges `json:"changes,omitempty"`
}

// CatalogVerdict is what a trust policy says of a version.
type CatalogVerdict struct {
	Accepted bool `json:"accepted"`
	// Reason is why it is refused.
	Reason string `json:"reason,omitempty"`
	// Signatures is what was verified.
	Signatures *Signatures `json:"signatures,omitempty"`
	// Promotions are those that trusted signers attested, the latest last.
	Promotions []Promotion `json:"promotions,omitempty"`
	// Stale is why the channels are stale that it was promoted to, if all are.
	Stale string `json:"stale,omitempty"`
	// StaleTags are the tags that lead to it and are channels that are stale.
	StaleTags []StaleTag `json:"staleTags,omitempty"`
}

// StaleTag is a channel of which nothing shows that it is still what should run.
type StaleTag struct {
	Tag    string `json:"tag"`
	Reason string `json:"reason"`
	// Refused is set if the policy refuses to follow it.
	Refused bool `json:"refused,omitempty"`
}

// CatalogLicense is a licence, and what has it.
type CatalogLicense struct {
	// License is an SPDX expression, or what the author wrote.
	License string `json:"license"`
	Count   int    `json:"count"`
	// Components are the names of what has it, sorted; a few of many.
	Components []string `json:"components"`
}

// CatalogReport is a report of vulnerabilities.
type CatalogReport struct {
	// Subject is the image that it is of, "" for the version as a whole, and Digest what it is attached to.
	Subject string `json:"subject,omitempty"`
	Digest  string `json:"digest"`
	// Scanner is the program that made it.
	Scanner string `json:"scanner,omitempty"`
	// Time is when it was made, by what it says.
	Time time.Time `json:"time,omitzero"`
	// By is who claims to have signed it, and Verified reports whether the trust policy accepts them.
	By       string `json:"by"`
	Verified bool   `json:"verified"`
	SeverityCounts
	// Findings are the vulnerabilities, the most severe first.
	Findings []CatalogFinding `json:"findings"`
	// Problem is why it cannot be read, or why not all of its findings are listed.
	Problem string `json:"problem,omitempty"`
}

// SeverityCounts are numbers of vulnerabilities by their severity.
type SeverityCounts struct {
	CriticalCount int `json:"criticalCount"`
	HighCount     int `json:"highCount"`
	MediumCount   int `json:"mediumCount"`
	LowCount      int `json:"lowCount"`
	// UnknownCount counts all others.
	UnknownCount int `json:"unknownCount"`
}

// CatalogFinding is a vulnerability in a package.
type CatalogFinding struct {
	ID string `json:"id"`
	// Severity is critical, high, medium, low or unknown.
	Severity string `json:"severity"`
	Package  string `json:"package,omitempty"`
	Version  string `json:"version,omitempty"`
	// Fixed is the version without it.
	Fixed string `json:"fixed,omitempty"`
	Title string `json:"title,omitempty"`
	// Image is the one that a report of several has it in.
	Image string `json:"image,omitempty"`
	// Status is what an attached OpenVEX document says of it, such as not_affected, StatusBy who claims to have signed that,
	// and StatusVerified reports whether the trust policy accepts them.
	Status         string `json:"status,omitempty"`
	StatusBy       string `json:"statusBy,omitempty"`
	StatusVerified bool   `json:"statusVerified,omitempty"`
}

// CatalogChanges is how a version differs from the one before.
type CatalogChanges struct {
	// From is the version before, and Digest its digest.
	From   string `json:"from"`
	Digest string `json:"digest"`
	// Comparison has the fields that krtpkg diff -o json prints of both.
	Comparison *compare.Comparison `json:"comparison,omitempty"`
	// Carry is what a site has to get that has the version before; absent if the images are elsewhere.
	Carry *Carry `json:"carry,omitempty"`
	// Problem is why they cannot be compared.
	Problem string `json:"problem,omitempty"`
}

// CatalogBundle is a bundle as its definition describes it.
type CatalogBundle struct {
	Digest string `json:"digest"`
	// Metadata is what the definition says of it.
	Metadata bundle.Metadata `json:"metadata"`
	Layer    int             `json:"layer"`
	Category string          `json:"category,omitempty"`
	// Maintainers are names.
	Maintainers  []string `json:"maintainers,omitempty"`
	Support      string   `json:"support,omitempty"`
	ReleaseNotes string   `json:"releaseNotes,omitempty"`
	// Icon is the key of its picture in icons.
	Icon string `json:"icon,omitempty"`
	// Values are what a site can set, by path.
	Values []CatalogValue `json:"values"`
	// Problem is why its values are not known.
	Problem string `json:"problem,omitempty"`
}

// CatalogValue is a value that a site can set.
type CatalogValue struct {
	// Value is its path below the bundle, KEY.KEY.
	Value       string `json:"value"`
	Description string `json:"description,omitempty"`
	compare.ValueState
}

// CatalogImage is an image as it is in the place of its runtime.
type CatalogImage struct {
	Digest string `json:"digest"`
	// Absent is set if it is not in the place: clusters pull it from its origin.
	Absent bool `json:"absent,omitempty"`
	// Platforms are those that it is for, as OS/ARCHITECTURE, and Bytes what it takes with all of them.
	Platforms []string `json:"platforms"`
	Bytes     int64    `json:"bytes,omitempty"`
	// Attached are its signatures and attestations, as they describe themselves. None of it was verified.
	Attached []sign.Claim `json:"attached"`
	// Problem is why no more is known of it.
	Problem string `json:"problem,omitempty"`
}

// CatalogSchema returns the JSON schema of a [Catalog].
func CatalogSchema() ([]byte, error) { return schemas.ReadFile("schema/catalog.json") }
