package transfer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// Inventory lists the content of a site, in a form small enough to carry back to where archives are made.
type Inventory struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Roots are the complete bundles and runtimes, references with digests.
	Roots []string `json:"roots"`
	// Blobs are the blobs of 4 KiB and more: the first 8 bytes of each digest, sorted, as one base64
	// string. If two blobs share a prefix, an export may omit one of them;
	// the import then reports it as missing.
	Blobs string `json:"blobs"`
	// Versions are the highest version of each name, sorted, and all builds of it. Inventories of earlier versions have none.
	Versions []bundle.Release `json:"versions,omitempty"`
}

const (
	inventoryAPIVersion = "krtpkg.dev/v1alpha1"
	inventoryKind       = "Inventory"
	// prefixLength is the number of bytes that stand for a digest.
	prefixLength = 8
	// minListedBlob is the size of listed blobs; smaller ones are sent again.
	minListedBlob = 4 << 10
	// maxInventory has room for six million blobs.
	maxInventory = 64 << 20
)

// Inventory returns the inventory of a target that has the whole plan; roots are the names of the roots.
func (p *Plan) Inventory(roots []string) Inventory {
	var list [][]byte
	for d, n := range p.nodes {
		if n.data == nil && n.desc.Size >= minListedBlob {
			list = append(list, digestPrefix(d))
		}
	}
	slices.SortFunc(list, bytes.Compare)
	return Inventory{
		APIVersion: inventoryAPIVersion, Kind: inventoryKind, Roots: roots,
		Blobs:    base64.StdEncoding.EncodeToString(bytes.Join(list, nil)),
		Versions: p.HighestVersions(),
	}
}

func digestPrefix(d digest.Digest) []byte {
	var raw []byte
	if _, err := fmt.Sscanf(d.Encoded()[:2*prefixLength], "%x", &raw); err != nil {
		return make([]byte, prefixLength) // no hex, no such blob
	}
	return raw
}

// ReadInventory reads an [Inventory] as JSON.
func ReadInventory(r io.Reader) (*Inventory, error) {
	decoder := json.NewDecoder(io.LimitReader(r, maxInventory)) // a later version may add fields
	var i Inventory
	if err := decoder.Decode(&i); err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	if i.APIVersion != inventoryAPIVersion || i.Kind != inventoryKind {
		return nil, fmt.Errorf("read inventory: is %s %s, want %s %s", i.APIVersion, i.Kind, inventoryAPIVersion, inventoryKind)
	}
	if raw, err := base64.StdEncoding.DecodeString(i.Blobs); err != nil || len(raw)%prefixLength != 0 {
		return nil, fmt.Errorf("read inventory: blobs are not a list of digest prefixes")
	}
	return &i, nil
}

// ContainsFunc returns a function that reports whether a blob is in the inventory.
func (i *Inventory) ContainsFunc() func(digest.Digest) bool {
	raw, err := base64.StdEncoding.DecodeString(i.Blobs)
	known := map[string]bool{}
	for ; err == nil && len(raw) >= prefixLength; raw = raw[prefixLength:] {
		known[string(raw[:prefixLength])] = true
	}
	return func(d digest.Digest) bool { return known[string(digestPrefix(d))] }
}

// ContainsFunc returns a function that reports whether a blob is in the plan.
func (p *Plan) ContainsFunc() func(digest.Digest) bool {
	return func(d digest.Digest) bool {
		n := p.nodes[d]
		return n != nil && n.data == nil
	}
}
