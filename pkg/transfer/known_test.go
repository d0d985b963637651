package transfer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

const knownType = "application/vnd.in-toto+json"

// pushy is a repository to which someone attaches whatever is asked for.
type pushy struct {
	oras.GraphTarget
	artifactType string
	// width is how many referrers each manifest has, size what each of them says of its layer.
	width int
	size  int64
	// silent makes a listing say nothing of types.
	silent bool
	// only is what they are attached to; everything when empty.
	only digest.Digest

	mu   sync.Mutex
	made map[digest.Digest][]byte
}

func (p *pushy) Predecessors(ctx context.Context, subject ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	found, err := p.GraphTarget.Predecessors(ctx, subject)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.only != "" && subject.Digest != p.only {
		return found, err
	}
	for i := range p.width {
		data, err := json.Marshal(ocispec.Manifest{
			MediaType: ocispec.MediaTypeImageManifest, ArtifactType: p.artifactType, Subject: &subject, Config: ocispec.DescriptorEmptyJSON,
			Layers: []ocispec.Descriptor{{MediaType: "application/octet-stream", Digest: digest.FromString(fmt.Sprint(i)), Size: p.size}},
		})
		if err != nil {
			return nil, err
		}
		desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, data)
		p.made[desc.Digest] = data
		if !p.silent {
			desc.ArtifactType = p.artifactType
		}
		found = append(found, desc)
	}
	return found, err
}

func (p *pushy) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	p.mu.Lock()
	data, ok := p.made[desc.Digest]
	p.mu.Unlock()
	if ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	return p.GraphTarget.Fetch(ctx, desc)
}

// Whoever may push attaches no end of things: what comes along is bounded, the rest is said to
// stay behind, and nobody waits for ever.
func TestWhatStrangersAttach(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		store    *pushy
		attached transfer.Attached
		// along is how much comes along, note and want are parts of what is said.
		along      int
		note, want string
	}{
		{"a foreign referrer of 20 MB", &pushy{artifactType: "application/vnd.example", width: 1, size: 20 << 20}, "", 0, "has 1 referrers that are not copied", ""},
		{"one that the listing says nothing of", &pushy{artifactType: "application/vnd.example", width: 1, size: 20 << 20, silent: true}, "", 0, "has 1 referrers that are not copied", ""},
		{"5,000 foreign ones", &pushy{artifactType: "application/vnd.example", width: 5000}, "", 0, "has 5000 referrers that are not copied", ""},
		{"a chain without end", &pushy{artifactType: knownType, width: 1, size: 1}, "", 4, "more than 4 deep, that are not copied", ""},
		{"a chain without end, all of it", &pushy{artifactType: "text/plain", width: 1, size: 1}, transfer.AttachedAll, 4, "more than 4 deep, that are not copied", ""},
		{"a tree without end", &pushy{artifactType: knownType, width: 40}, "", 0, "", "more than 1000 are attached to "},
		{"more than 64 MiB", &pushy{artifactType: knownType, width: 4, size: 20 << 20}, "", 0, "", "more than 64 MiB are attached to "},
		{"more than 64 MiB, all of it", &pushy{artifactType: "text/plain", width: 4, size: 20 << 20}, transfer.AttachedAll, 4 + 16 + 64 + 256, "more than 4 deep, that are not copied", ""},
		{"more than 64 MiB, only what is verified", &pushy{artifactType: knownType, width: 4, size: 20 << 20}, transfer.AttachedVerified, 0, "has 4 referrers that are not copied", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.bundle("a")
			src := newLayout(t)
			w.mustCopy(root, src)
			c.store.GraphTarget, c.store.made = struct{ oras.GraphTarget }{src}, map[digest.Digest][]byte{}
			var notes []string
			var mu sync.Mutex
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			plan, err := transfer.NewPlan(ctx, []transfer.Source{{Store: c.store, Root: root}}, transfer.Options{
				Attached: c.attached,
				Progress: func(e progress.Event) {
					if e.Kind == progress.Note {
						mu.Lock()
						notes = append(notes, e.Detail)
						mu.Unlock()
					}
				},
			})
			var over *transfer.AttachedError
			if c.want != "" {
				if !errors.As(err, &over) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("no %q in: %v", c.want, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			along := 0
			for _, d := range plan.ArchiveContents(nil, nil).Named {
				if d.ArtifactType == c.store.artifactType {
					along++
				}
			}
			if along != c.along {
				t.Errorf("%d come along, want %d", along, c.along)
			}
			if said := strings.Join(notes, "\n"); !strings.Contains(said, c.note) || c.note == "" && said != "" {
				t.Errorf("said %q, want %q", said, c.note)
			}
		})
	}
}

// What was verified comes along, however much more someone attaches.
func TestStrangersDisplaceNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	found, err := sign.Find(t.Context(), w.dist, root)
	if err != nil || len(found) == 0 {
		t.Fatalf("%v, %v", found, err)
	}
	isVerified := func(d digest.Digest) bool {
		return slices.ContainsFunc(found, func(o sign.Object) bool { return o.Manifest == d })
	}
	for name, store := range map[string]*pushy{
		"1,100":  {artifactType: knownType, width: 1100, size: 1},
		"80 MiB": {artifactType: knownType, width: 4, size: 20 << 20},
	} {
		store.GraphTarget, store.made, store.only = struct{ oras.GraphTarget }{w.dist}, map[digest.Digest][]byte{}, root.Digest
		plan, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: store, Root: root}}, transfer.Options{Origins: w, IsVerified: isVerified})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, o := range found {
			if !slices.ContainsFunc(plan.ArchiveContents(nil, nil).Named, func(d ocispec.Descriptor) bool { return d.Digest == o.Manifest }) {
				t.Errorf("%s: %s does not come along", name, o)
			}
		}
	}
}

// Of signatures that are verified only those come along, in each form, and from each place.
func TestOnlyVerifiedSignatures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	want, err := sign.Find(t.Context(), w.dist, root)
	if err != nil || len(want) != 2 {
		t.Fatalf("%v, %v", want, err)
	}
	signed(t, w.dist, root, signtest.NewSigner(t))
	isVerified := func(d digest.Digest) bool {
		return slices.ContainsFunc(want, func(o sign.Object) bool { return o.Form == sign.Bundle && o.Manifest == d })
	}
	dst := newLayout(t)
	if _, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, dst, transfer.Options{
		Origins: w, Attached: transfer.AttachedVerified, IsVerified: isVerified,
	}); err != nil {
		t.Fatal(err)
	}
	found, err := sign.Find(t.Context(), dst, root)
	if err != nil || len(found) != 1 || !isVerified(found[0].Manifest) {
		t.Errorf("%v, %v", found, err)
	}
}
