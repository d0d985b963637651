package source

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	orascontent "oras.land/oras-go/v2/content"
)

// maxManifest is the limit that registries have.
const maxManifest = 4 << 20

// chartLayer is the media type of a packed chart (helm.sh/docs/topics/registries).
const chartLayer = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"

// OCI picks the files of an artifact: what its layers that are tar archives hold (those of
// imgpkg, Flux, Helm and of images), and layers with a title, as oras makes them.
func (f *Fetcher) OCI(ctx context.Context, ref name.Digest, pick Pick) (*Tree, error) {
	tree, err := f.oci(ctx, ref, pick)
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", ref.Name(), err)
	}
	return tree, nil
}

func (f *Fetcher) oci(ctx context.Context, ref name.Digest, pick Pick) (*Tree, error) {
	store, manifest, err := f.manifest(ctx, ref, ref.DigestStr())
	if err != nil {
		return nil, err
	}
	g, err := newGatherer(pick)
	if err != nil {
		return nil, err
	}
	// Links are only known at the end: every file counts until then.
	g.pick = Pick{All: true}
	for _, layer := range manifest.Layers {
		if err := g.layer(ctx, store, layer); err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
	}
	g.pick = pick
	return g.tree(func(string) ([]byte, error) { return nil, errors.New("it is not there") })
}

// manifest reads the manifest of an artifact.
func (f *Fetcher) manifest(ctx context.Context, ref name.Reference, digest string) (oras.ReadOnlyTarget, *ocispec.Manifest, error) {
	if f.Registry == nil {
		return nil, nil, errors.New("there is no registry to fetch it from")
	}
	store, reference, err := f.Registry.Origin(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	desc, err := store.Resolve(ctx, reference)
	switch {
	case err != nil:
		return nil, nil, err
	case digest != "" && desc.Digest.String() != digest:
		return nil, nil, &DigestError{Source: ref.Name(), Got: desc.Digest.String(), Want: digest}
	case desc.Size > maxManifest:
		return nil, nil, fmt.Errorf("manifest of %d bytes is over the limit of %d", desc.Size, maxManifest)
	}
	raw, err := orascontent.FetchAll(ctx, store, desc)
	if err != nil {
		return nil, nil, err
	}
	var manifest struct {
		ocispec.Manifest
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return nil, nil, fmt.Errorf("invalid manifest: %w", err)
	}
	if len(manifest.Manifests) > 0 {
		return nil, nil, errors.New("it is an index, want one artifact")
	}
	return store, &manifest.Manifest, nil
}

// layer takes what a layer holds.
func (g *gatherer) layer(ctx context.Context, store oras.ReadOnlyTarget, layer ocispec.Descriptor) (err error) {
	title := layer.Annotations[ocispec.AnnotationTitle]
	isArchive := slices.ContainsFunc([]string{".tar", ".tar.gzip", "+gzip", ".tar.zstd", "+zstd", "tar"}, func(end string) bool {
		return strings.HasSuffix(layer.MediaType, end)
	}) && (strings.Contains(layer.MediaType, "tar"))
	switch {
	case layer.Size > maxArchive:
		return fmt.Errorf("%d bytes are over the limit of %d", layer.Size, maxArchive)
	case title == "" && !isArchive:
		return fmt.Errorf("media type %s is neither an archive nor a file with a title", layer.MediaType)
	case title != "" && layer.Annotations["io.deis.oras.content.unpack"] == "true":
		isArchive = true
	case title != "" && layer.MediaType != chartLayer:
		isArchive = false
	}
	blob, err := store.Fetch(ctx, layer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	verified := orascontent.NewVerifyReader(blob, layer)
	if isArchive {
		err = walkTar(bufio.NewReader(verified), g.over)
	} else {
		err = g.over(entry{name: title, mode: 0, size: layer.Size, body: verified})
	}
	// The digest is the better reason: unpacking fails in odd ways on wrong bytes.
	if _, drained := io.Copy(io.Discard, verified); drained != nil {
		return errors.Join(drained, err)
	}
	if wrong := verified.Verify(); wrong != nil {
		return wrong
	}
	return err
}

// over takes an entry of a layer, which replaces those below it (image-spec, layer.md).
func (g *gatherer) over(e entry) error {
	clean := path.Clean(strings.TrimSuffix(e.name, "/"))
	dir, base := path.Split(clean)
	removed, isWhiteout := strings.CutPrefix(base, ".wh.")
	switch {
	case base == ".wh..wh..opq":
		g.remove(path.Clean(dir), false)
		return nil
	case isWhiteout:
		g.remove(path.Join(dir, removed), true)
		return nil
	case !e.mode.IsDir():
		g.remove(clean, true)
	}
	return g.take(e)
}

// remove forgets what is below a path, and with itself what is at it.
func (g *gatherer) remove(at string, itself bool) {
	is := func(name string) bool { return itself && name == at || strings.HasPrefix(name, at+"/") || at == "." }
	maps.DeleteFunc(g.files, func(name string, data []byte) bool {
		if is(name) {
			g.bytes -= int64(len(data))
		}
		return is(name)
	})
	maps.DeleteFunc(g.links, func(name, _ string) bool { return is(name) })
}
