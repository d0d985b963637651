package transfer

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/progress"
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

// DropLost asks the sources for every blob of the plan and leaves out of the plan what they lost. It
// returns what that is, sorted, "sha256:… (layer of IMAGE)".
func (p *Plan) DropLost(ctx context.Context) ([]string, error) {
	var lost []*planNode
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for _, n := range p.nodes {
		from := n.from
		if first, is := from.(*fallbackFetcher); is {
			from = first.first
		}
		store, asks := from.(content.ReadOnlyStorage)
		if n.data != nil || !asks {
			continue // a manifest was read
		}
		group.Go(func() error {
			there, err := store.Exists(ctx, n.desc)
			if err != nil {
				return p.itemError(n, err)
			}
			p.options.Progress.Emit(progress.Event{Kind: progress.Skipped, Subject: n.desc.Digest.String(), Bytes: n.desc.Size})
			if !there {
				p.mu.Lock()
				lost = append(lost, n)
				p.mu.Unlock()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var names []string
	for _, n := range lost {
		text := n.desc.Digest.String()
		if item := p.describeItem(n.desc.Digest); item != "" {
			text += " (" + item + ")"
		}
		names = append(names, text)
		delete(p.nodes, n.desc.Digest)
	}
	slices.Sort(names)
	return names, nil
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
