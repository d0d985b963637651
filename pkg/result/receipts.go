package result

import "time"

// Receipts is the result of krtpkg receipts verify. The next run reads it with --previous.
type Receipts struct {
	Outcome
	// Receipts are what the newest receipt of each cluster and runtime says, and what is missing.
	Receipts []ReceiptStatus `json:"receipts"`
	// Refused are those that do not count.
	Refused []RefusedReceipt `json:"refused"`
	// SupersededCount is how many older receipts of the same cluster and runtime there are.
	SupersededCount int `json:"supersededCount"`
}

// ReceiptStatus is what the newest receipt of a cluster and a runtime says.
type ReceiptStatus struct {
	// Cluster is the name in the fleet file.
	Cluster string `json:"cluster,omitempty"`
	// ClusterID is the UID of the namespace kube-system.
	ClusterID string `json:"clusterId"`
	// Name, Version and Digest are those of the runtime that was applied.
	Name    string `json:"name,omitempty"`
	Version string `json:"version,omitempty"`
	Digest  string `json:"digest,omitempty"`
	// State is current, old or missing; of a missing one the rest is what was seen before.
	State string `json:"state"`
	// Outcome is applied, paused or failed.
	Outcome string `json:"outcome,omitempty"`
	// Failure is the code of the error of a failed apply, at its site.
	Failure string `json:"failure,omitempty"`
	// AgeSeconds is how long ago it finished.
	AgeSeconds int64     `json:"ageSeconds"`
	Started    time.Time `json:"started,omitzero"`
	Finished   time.Time `json:"finished,omitzero"`
	// Policies accepted what was applied; none if nothing was verified.
	Policies []ReceiptPolicy `json:"policies,omitempty"`
	// Values is the digest of the values.
	Values string `json:"values,omitempty"`
	// Bundles are names of bundles by what became of them.
	Bundles ReceiptBundles `json:"bundles,omitzero"`
	// KeyID is the key that signed, File what the receipt was read from.
	KeyID string `json:"keyId,omitempty"`
	File  string `json:"file,omitempty"`
	// Krtpkg is the version that applied.
	Krtpkg string `json:"krtpkg,omitempty"`
}

// ReceiptPolicy is a trust policy of a site.
type ReceiptPolicy struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// ReceiptBundles are names of bundles by what became of them.
type ReceiptBundles struct {
	Applied   []string `json:"applied,omitempty"`
	Unchanged []string `json:"unchanged,omitempty"`
	Deleted   []string `json:"deleted,omitempty"`
	Failed    []string `json:"failed,omitempty"`
	// Blocked were not begun, because something that they need failed.
	Blocked  []string `json:"blocked,omitempty"`
	NotBegun []string `json:"notBegun,omitempty"`
}

// RefusedReceipt is a receipt that does not count.
type RefusedReceipt struct {
	File string `json:"file"`
	// Reason is malformed, unknownKey, altered, replayed, otherCluster or future.
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// ReceiptFile is a receipt that was written.
type ReceiptFile struct {
	File string `json:"file"`
	// Bytes is its size; a QR code holds 2,953.
	Bytes int `json:"bytes"`
}
