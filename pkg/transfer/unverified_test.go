package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// written is a target that remembers what is pushed to it.
type written struct {
	oras.GraphTarget
	mu     sync.Mutex
	pushed []digest.Digest
}

func (w *written) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	w.mu.Lock()
	w.pushed = append(w.pushed, desc.Digest)
	w.mu.Unlock()
	return w.GraphTarget.Push(ctx, desc, r)
}

// either fetches from the first that has it.
type either []content.Fetcher

func (e either) Fetch(ctx context.Context, desc ocispec.Descriptor) (body io.ReadCloser, err error) {
	for _, from := range e {
		if body, err = from.Fetch(ctx, desc); err == nil {
			return body, nil
		}
	}
	return nil, err
}

// asEarlier returns how earlier versions wrote archives: with signatures anywhere. Here they are last.
func asEarlier(c archive.Contents) archive.Contents {
	c.Blobs, c.Front = append(slices.Clone(c.Blobs), c.Front...), nil
	return c
}

// imports are the ways into a target, from files that are whole, or the first volume of two.
var imports = map[string]func(ctx context.Context, files []string, dst oras.GraphTarget, o transfer.Options) (*transfer.Imported, error){
	"in place": func(ctx context.Context, files []string, dst oras.GraphTarget, o transfer.Options) (*transfer.Imported, error) {
		store, err := archive.Open(ctx, files...)
		if err != nil {
			return nil, err
		}
		defer store.Close()
		return transfer.Import(ctx, store, dst, o)
	},
	"as a stream": func(ctx context.Context, files []string, dst oras.GraphTarget, o transfer.Options) (*transfer.Imported, error) {
		file, err := os.Open(files[0])
		if err != nil {
			return nil, err
		}
		defer file.Close()
		stream, err := archive.OpenStream(ctx, file)
		if err != nil {
			return nil, err
		}
		defer stream.Close()
		return transfer.ImportStream(ctx, stream, dst, o)
	},
	"compressed": func(ctx context.Context, files []string, dst oras.GraphTarget, o transfer.Options) (*transfer.Imported, error) {
		file, err := os.Open(files[0])
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return transfer.ImportFile(ctx, file, dst, o)
	},
}

// Nothing is written before it is known who signed it, in whatever way an archive comes, and
// nothing that does not belong to what was signed.
func TestNothingIsWrittenBeforeItIsVerified(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	large := func(text string) ocispec.Descriptor { return w.imageOf(bytes.Repeat([]byte(text), 300<<10/len(text))) }
	root := w.runtime(w.bundle("a", large("one"), large("two")), w.bundle("b", large("three")))
	signer, stranger := signtest.NewSigner(t), signtest.NewSigner(t)
	policy, err := sign.KeyPolicy(signer.Key())
	if err != nil {
		t.Fatal(err)
	}
	verify := func(ctx context.Context, source transfer.Source) error {
		_, err := sign.Verify(ctx, source.Store, source.Root, policy)
		return err
	}
	// What is in the archive besides: an image that nothing signed names.
	junk := put(t, w.origin, ocispec.MediaTypeImageLayerGzip, bytes.Repeat([]byte("junk"), 50_000))
	junkImage := put(t, w.origin, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: put(t, w.origin, ocispec.MediaTypeImageConfig, []byte("{}")), Layers: []ocispec.Descriptor{junk},
	})
	type made struct {
		contents archive.Contents
		from     content.Fetcher
		plan     *transfer.Plan
	}
	make := func(by *sign.Signer, withJunk bool) made {
		store := newLayout(t)
		w.mustCopy(root, store)
		if by != nil {
			signed(t, store, root, by)
		}
		plan := planOf(t, store, root, transfer.Options{})
		c := plan.ArchiveContents(nil, nil)
		if withJunk {
			c.Manifests = append(slices.Clone(c.Manifests), junkImage)
			c.Blobs = append(slices.Clone(c.Blobs), junk)
		}
		return made{c, either{plan, w.origin}, plan}
	}
	for _, c := range []struct {
		name string
		made made
		// earlier is set if an earlier version wrote it, whole that it is not a volume.
		earlier, whole bool
		options        transfer.Options
		// how it comes; in every way when empty.
		how string
		// is is the error, want what is written: nothing, or what belongs to the root.
		is   error
		some bool
	}{
		{name: "unsigned", made: make(nil, false), whole: true, is: sign.ErrUnsigned},
		{name: "by a stranger", made: make(stranger, false), whole: true, is: sign.ErrNotVerified},
		{name: "unsigned, of earlier", made: make(nil, false), earlier: true, whole: true, is: sign.ErrUnsigned},
		{name: "by a stranger, of earlier", made: make(stranger, false), earlier: true, whole: true, is: sign.ErrNotVerified},
		{name: "signed", made: make(signer, false), whole: true, some: true},
		{name: "signed, of earlier", made: make(signer, false), earlier: true, whole: true, some: true},
		{name: "signed, with something besides", made: make(signer, true), whole: true, some: true},
		{name: "signed, with something besides, of earlier", made: make(signer, true), earlier: true, whole: true, some: true},
		{name: "signed, with too much in front", made: make(signer, false), earlier: true, whole: true, options: transfer.Options{MaxUnverified: 100 << 10}, how: "as a stream", is: &transfer.UnverifiedError{}},
		{name: "unsigned, with too much in front", made: make(nil, false), earlier: true, whole: true, options: transfer.Options{MaxUnverified: 100 << 10}, how: "as a stream", is: &transfer.UnverifiedError{}},
		{name: "signed, with too much in front of a file", made: make(signer, false), earlier: true, whole: true, options: transfer.Options{MaxUnverified: 100 << 10}, how: "compressed", some: true},
		{name: "a volume, unsigned", made: make(nil, false), is: sign.ErrUnsigned},
		{name: "a volume by a stranger", made: make(stranger, false), is: sign.ErrNotVerified},
		{name: "a volume, signed", made: make(signer, false), some: true},
		{name: "a volume, signed, with something besides", made: make(signer, true), some: true},
		{name: "a volume of earlier", made: make(signer, false), earlier: true, is: &transfer.UnverifiedError{}},
		{name: "a volume of earlier that is let pass", made: make(signer, false), earlier: true, options: transfer.Options{UnverifiedVolumes: true}, some: true},
		{name: "a volume by a stranger that is let pass", made: make(stranger, false), options: transfer.Options{UnverifiedVolumes: true}, how: "in place", is: sign.ErrNotVerified},
	} {
		files := map[bool]string{}
		for _, compress := range []bool{false, true} {
			contents := c.made.contents
			if c.earlier {
				contents = asEarlier(contents)
			}
			if !c.whole {
				volumes, err := contents.Split(350 << 10)
				if err != nil || len(volumes) < 2 {
					t.Fatalf("%s: %d volumes, %v", c.name, len(volumes), err)
				}
				contents = volumes[0]
			}
			files[compress] = filepath.Join(t.TempDir(), "edge.tar")
			if _, err := archive.WriteFile(t.Context(), files[compress], contents, c.made.from, archive.Options{Compress: compress}); err != nil {
				t.Fatal(err)
			}
		}
		for how, run := range imports {
			if c.how != "" && c.how != how {
				continue
			}
			t.Run(c.name+", "+how, func(t *testing.T) {
				t.Parallel()
				dst := &written{GraphTarget: newLayout(t)}
				o := c.options
				o.Verify = verify
				imported, err := run(t.Context(), []string{files[how == "compressed"]}, dst, o)
				var unverified *transfer.UnverifiedError
				switch {
				case c.is == nil && err != nil:
					t.Fatal(err)
				case c.is != nil && errors.As(c.is, &unverified) && !errors.As(err, &unverified),
					c.is != nil && !errors.As(c.is, &unverified) && !errors.Is(err, c.is):
					t.Errorf("got %v", err)
				}
				if got := len(dst.pushed) > 0; got != c.some {
					t.Errorf("%d items were written", len(dst.pushed))
				}
				if slices.Contains(dst.pushed, junk.Digest) || slices.Contains(dst.pushed, junkImage.Digest) {
					t.Error("what nothing signed names was written")
				}
				if c.some && c.whole {
					if at, err := dst.Resolve(t.Context(), "1.0.0"); err != nil || at.Digest != root.Digest {
						t.Errorf("1.0.0 is %s, %v", at.Digest, err)
					}
					if _, err := sign.Verify(t.Context(), dst, root, policy); err != nil {
						t.Error(err)
					}
				}
				if c.some && !c.whole && len(imported.Absent) == 0 {
					t.Error("no volume is missing")
				}
			})
		}
	}
}

// Volumes that are verified each come together to the same as the whole.
func TestVerifiedVolumesOneByOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.runtime(w.bundle("a", w.imageOf(bytes.Repeat([]byte("one"), 100<<10)), w.imageOf(bytes.Repeat([]byte("two"), 100<<10))))
	complete, signer := newLayout(t), signtest.NewSigner(t)
	w.mustCopy(root, complete)
	signed(t, complete, root, signer)
	policy, err := sign.KeyPolicy(signer.Key())
	if err != nil {
		t.Fatal(err)
	}
	plan := planOf(t, complete, root, transfer.Options{})
	volumes, err := plan.ArchiveContents(nil, nil).Split(350 << 10)
	if err != nil || len(volumes) != 2 {
		t.Fatalf("%d volumes, %v", len(volumes), err)
	}
	for how, run := range imports {
		for _, order := range [][]int{{0, 1}, {1, 0}} {
			t.Run(fmt.Sprint(how, order), func(t *testing.T) {
				t.Parallel()
				dst := newLayout(t)
				verified := 0
				for _, n := range order {
					name := filepath.Join(t.TempDir(), "edge.tar")
					if _, err := archive.WriteFile(t.Context(), name, volumes[n], plan, archive.Options{Compress: how == "compressed"}); err != nil {
						t.Fatal(err)
					}
					if _, err := run(t.Context(), []string{name}, dst, transfer.Options{Verify: func(ctx context.Context, source transfer.Source) error {
						verified++
						_, err := sign.Verify(ctx, source.Store, source.Root, policy)
						return err
					}}); err != nil {
						t.Fatal(err)
					}
				}
				if verified != 2 {
					t.Errorf("verified %d times", verified)
				}
				equal(t, contentOf(t, dst, root), contentOf(t, complete, root))
			})
		}
	}
}

// What stands in front is there before all else, in archives of every kind.
func TestFront(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	complete := newLayout(t)
	w.mustCopy(root, complete)
	plan := planOf(t, complete, root, transfer.Options{})
	contents := plan.ArchiveContents(nil, nil)
	// Of the runtime and of each bundle a config and a layer; two forms of signatures of two; an
	// attestation.
	if n := len(contents.Front); n < 6+4+1 {
		t.Errorf("%d blobs in front: %v", n, contents.Front)
	}
	stream, err := archive.OpenStream(t.Context(), bytes.NewReader(read(t, export(t, plan, contents))))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var names []string
	for _, desc := range stream.PendingFront() {
		names = append(names, desc.Digest.String())
	}
	for i, want := range names {
		desc, _, err := stream.NextBlob()
		if err != nil || desc.Digest.String() != want {
			t.Fatalf("blob %d is %s, want %s of %s; %v", i, desc.Digest, want, strings.Join(names, " "), err)
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
