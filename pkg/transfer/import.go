package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// BaseError says that an archive builds on what the target does not have.
type BaseError struct {
	// Base is what has to be there first, a reference with its digest each; empty where the
	// archive says nothing of it.
	Base []string
	// Missing are blobs that are neither in the archive nor at the target.
	Missing []digest.Digest
}

func (e *BaseError) Error() string {
	if len(e.Base) == 0 {
		return fmt.Sprintf("the archive lacks %d blobs, %s among them, and the target does too", len(e.Missing), e.Missing[0])
	}
	return fmt.Sprintf("the archive builds on %s, which the target does not have: import that first", strings.Join(e.Base, ", "))
}

// Imported says what an import did.
type Imported struct {
	*Report
	// Absent are the volumes that are still to come: blobs arrived, and no tag was set.
	Absent []int
}

// Import brings what is in an archive to a target: every root that it names, under its tag.
// Of several volumes those that are there are imported, in any order; the last one sets the
// tags. Errors: [*BaseError], before anything is written.
func Import(ctx context.Context, from *archive.Store, dst oras.GraphTarget, o Options) (*Imported, error) {
	o.defaults()
	missing, err := absent(ctx, from.Lacking, dst, o.Concurrency)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		if len(from.Absent()) == 0 {
			return nil, &BaseError{Base: from.Base(), Missing: missing}
		}
		report, err := importBlobs(ctx, from, dst, o)
		return &Imported{report, from.Absent()}, err
	}
	report, err := importRoots(ctx, from, dst, o)
	return &Imported{Report: report}, err
}

func (o *Options) defaults() {
	if o.Concurrency == 0 {
		o.Concurrency = 4
	}
}

// lister lists the blobs that an archive's manifests name and it does not hold.
type lister = func(context.Context) ([]ocispec.Descriptor, error)

// absent are those that the target does not have either.
func absent(ctx context.Context, lacking lister, dst content.ReadOnlyStorage, concurrency int) (missing []digest.Digest, err error) {
	list, err := lacking(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for _, desc := range list {
		group.Go(func() error {
			there, err := dst.Exists(ctx, desc)
			if err == nil && !there {
				mu.Lock()
				missing = append(missing, desc.Digest)
				mu.Unlock()
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("target %s: %w", where(dst), err)
	}
	slices.Sort(missing)
	return missing, nil
}

// importBlobs brings the blobs of some volumes.
func importBlobs(ctx context.Context, from *archive.Store, dst oras.GraphTarget, o Options) (*Report, error) {
	p := &Plan{options: o, nodes: map[digest.Digest]*node{}}
	var list []top
	for _, desc := range from.Contents() {
		if !from.IsManifest(desc.Digest) {
			p.nodes[desc.Digest] = &node{desc: desc, from: from}
			list = append(list, top{desc: desc})
		}
	}
	o.Progress.Emit(progress.Event{Kind: progress.Planned, Items: len(p.nodes), Bytes: p.Size()})
	c := newCopier(p, dst)
	slices.SortStableFunc(list, func(a, b top) int { return int(min(max(b.desc.Size-a.desc.Size, -1), 1)) })
	return &c.report, c.each(ctx, list, c.blob)
}

// importRoots copies the roots of an archive whose blobs are there, or at the target.
func importRoots(ctx context.Context, from oras.ReadOnlyGraphTarget, dst oras.GraphTarget, o Options) (*Report, error) {
	sources, err := RootsOf(ctx, from)
	if err != nil {
		return nil, err
	}
	o.Beside = dst
	return Copy(ctx, sources, dst, o)
}

// RootsOf are the bundles and runtimes that an archive or a layout names, each with its tags.
func RootsOf(ctx context.Context, store oras.ReadOnlyGraphTarget) (sources []Source, err error) {
	tags, ok := store.(tagLister)
	if !ok {
		return nil, fmt.Errorf("%s does not list what it has", where(store))
	}
	byDigest := map[digest.Digest]int{}
	err = tags.Tags(ctx, "", func(page []string) error {
		for _, tag := range page {
			if strings.ContainsAny(tag, "/:") || strings.HasPrefix(tag, "sha256-") {
				continue // an image, or what is attached
			}
			desc, err := store.Resolve(ctx, tag)
			if err != nil {
				return err
			}
			if desc.ArtifactType == "" {
				if desc, err = withArtifactType(ctx, store, desc); err != nil {
					return err
				}
			}
			if desc.ArtifactType != bundle.TypeBundle && desc.ArtifactType != bundle.TypeRuntime {
				continue
			}
			at, known := byDigest[desc.Digest]
			if !known {
				at = len(sources)
				byDigest[desc.Digest] = at
				sources = append(sources, Source{Store: store, Root: desc})
			}
			sources[at].Tags = append(sources[at].Tags, tag)
		}
		return nil
	})
	if err == nil && len(sources) == 0 {
		err = fmt.Errorf("%s names no bundle and no runtime", where(store))
	}
	return sources, err
}

func withArtifactType(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	if !isManifest(desc.MediaType) {
		return desc, nil
	}
	data, err := read(ctx, store, desc)
	if err != nil {
		return desc, err
	}
	m, err := parse(data)
	desc.ArtifactType = m.ArtifactType
	return desc, err
}

// small is up to which size a blob of a stream is held in memory, so that several move at once.
const small = 1 << 20

// ImportStream is [Import] from an archive as it arrives. Blobs go on to the target as they
// come; manifests and tags follow at the end, when the archive has shown itself to be whole.
func ImportStream(ctx context.Context, from *archive.Stream, dst oras.GraphTarget, o Options) (*Imported, error) {
	o.defaults()
	if err := hasBase(ctx, from.Base(), dst); err != nil {
		return nil, err
	}
	blobs, err := streamBlobs(ctx, from, dst, o)
	if err != nil {
		return nil, err
	}
	missing, err := absent(ctx, from.Lacking, dst, o.Concurrency)
	if err != nil {
		return nil, err
	}
	if volume, volumes := from.Volumes(); len(missing) > 0 && volumes > 0 {
		imported := &Imported{Report: blobs}
		for n := range volumes {
			if n+1 != volume {
				imported.Absent = append(imported.Absent, n+1)
			}
		}
		return imported, nil
	}
	if len(missing) > 0 {
		return nil, &BaseError{Base: from.Base(), Missing: missing}
	}
	report, err := importRoots(ctx, from, dst, o)
	if err != nil {
		return nil, err
	}
	report.Copied += blobs.Copied
	report.CopiedBytes += blobs.CopiedBytes
	report.Present = max(0, report.Present-blobs.Copied)
	return &Imported{Report: report}, nil
}

// hasBase says early what an archive builds on that is not there.
func hasBase(ctx context.Context, base []string, dst oras.GraphTarget) error {
	var missing []string
	for _, reference := range base {
		_, d, _ := strings.Cut(reference, "@")
		_, err := dst.Resolve(ctx, d)
		if errors.Is(err, errdef.ErrNotFound) {
			missing = append(missing, reference)
		} else if err != nil {
			return fmt.Errorf("target %s: %w", where(dst), err)
		}
	}
	if len(missing) > 0 {
		return &BaseError{Base: missing}
	}
	return nil
}

func streamBlobs(ctx context.Context, from *archive.Stream, dst oras.GraphTarget, o Options) (*Report, error) {
	p := &Plan{options: o, nodes: map[digest.Digest]*node{}}
	c := newCopier(p, dst)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(o.Concurrency)
	var first error
	for groupCtx.Err() == nil {
		desc, content, err := from.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = c.arrive(groupCtx, group, desc, content)
		}
		if err != nil {
			first = err
			break
		}
	}
	return &c.report, errors.Join(first, group.Wait())
}

// arrive sends a blob on: a small one while the next arrives.
func (c *copier) arrive(ctx context.Context, group *errgroup.Group, desc ocispec.Descriptor, r io.Reader) error {
	n := &node{desc: desc, from: once{r}}
	if desc.Size <= small {
		data := make([]byte, desc.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			return fmt.Errorf("read %s from the archive: %w", desc.Digest, err)
		}
		if desc.Digest != desc.Digest.Algorithm().FromBytes(data) {
			return fmt.Errorf("read %s from the archive: %w", desc.Digest, content.ErrMismatchedDigest)
		}
		n.from = inMemory(data)
		group.Go(func() error { return c.arrived(ctx, n) })
		return nil
	}
	return c.arrived(ctx, n)
}

func (c *copier) arrived(ctx context.Context, n *node) error {
	there, err := c.dst.Exists(ctx, n.desc)
	if err != nil {
		return fmt.Errorf("target %s: look for %s: %w", where(c.dst), n.desc.Digest, err)
	}
	if there {
		c.count(&c.report.Present, progress.Skipped, n.desc)
		return nil
	}
	return c.send(ctx, n)
}

// once is content that can be read one time, as it arrives.
type once struct{ io.Reader }

func (o once) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(o.Reader), nil
}

func (once) String() string { return "the archive" }

// inMemory is content that was read.
type inMemory []byte

func (m inMemory) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return memory{bytes.NewReader(m)}, nil
}

func (inMemory) String() string { return "the archive" }
