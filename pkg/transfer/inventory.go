package transfer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Inventory is what a site has, small enough to be carried back to where archives are made.
type Inventory struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Roots are the bundles and runtimes that are there whole, references with digests.
	Roots []string `json:"roots"`
	// Blobs are the blobs of 4 KiB and more, the first 8 bytes of each digest, sorted, as one
	// base64 string. Two that begin alike would be taken for one, and the import would name
	// the one that is missing.
	Blobs string `json:"blobs"`
}

const (
	inventoryAPIVersion = "krtpkg.dev/v1alpha1"
	inventoryKind       = "Inventory"
	// prefix is how much of a digest stands for it.
	prefix = 8
	// smallBlob is what is sent rather than listed.
	smallBlob = 4 << 10
	// maxInventory is room for six million blobs.
	maxInventory = 64 << 20
)

// Inventory is what a target has that has all of the plan; roots are what to call the roots.
func (p *Plan) Inventory(roots []string) Inventory {
	var list [][]byte
	for d, n := range p.nodes {
		if n.data == nil && n.desc.Size >= smallBlob {
			list = append(list, prefixOf(d))
		}
	}
	slices.SortFunc(list, bytes.Compare)
	return Inventory{
		APIVersion: inventoryAPIVersion, Kind: inventoryKind, Roots: roots,
		Blobs: base64.StdEncoding.EncodeToString(bytes.Join(list, nil)),
	}
}

func prefixOf(d digest.Digest) []byte {
	var raw []byte
	if _, err := fmt.Sscanf(d.Encoded()[:2*prefix], "%x", &raw); err != nil {
		return make([]byte, prefix) // no hex, no such blob
	}
	return raw
}

// ReadInventory reads what [Plan.Inventory] gave, as JSON.
func ReadInventory(r io.Reader) (*Inventory, error) {
	decoder := json.NewDecoder(io.LimitReader(r, maxInventory))
	decoder.DisallowUnknownFields()
	var i Inventory
	if err := decoder.Decode(&i); err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	if i.APIVersion != inventoryAPIVersion || i.Kind != inventoryKind {
		return nil, fmt.Errorf("it is %s %s, want %s %s", i.APIVersion, i.Kind, inventoryAPIVersion, inventoryKind)
	}
	if raw, err := base64.StdEncoding.DecodeString(i.Blobs); err != nil || len(raw)%prefix != 0 {
		return nil, fmt.Errorf("inventory: blobs are no list of digests")
	}
	return &i, nil
}

// Has gives what says of a blob whether it is in the inventory.
func (i *Inventory) Has() func(digest.Digest) bool {
	raw, err := base64.StdEncoding.DecodeString(i.Blobs)
	known := map[string]bool{}
	for ; err == nil && len(raw) >= prefix; raw = raw[prefix:] {
		known[string(raw[:prefix])] = true
	}
	return func(d digest.Digest) bool { return known[string(prefixOf(d))] }
}

// Has gives what says of a blob whether it is in the plan.
func (p *Plan) Has() func(digest.Digest) bool {
	return func(d digest.Digest) bool {
		n := p.nodes[d]
		return n != nil && n.data == nil
	}
}
