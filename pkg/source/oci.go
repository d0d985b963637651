package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	orascontent "oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// maxLayers limits the layers of an artifact.
const maxLayers = 127

// Media types of the layers of a chart (helm.sh/docs/topics/registries).
const (
	chartLayer      = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	provenanceLayer = "application/vnd.cncf.helm.chart.provenance.v1.prov"
)

// FetchArtifact picks the files of an artifact: the content of its tar layers (as in imgpkg, Flux,
// Helm and images), and layers with a title, as oras pushes them.
func (f *Fetcher) FetchArtifact(ctx context.Context, ref name.Digest, pick Pick) (*Tree, error) {
	tree, err := f.fetchLayers(ctx, ref, pick)
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", ref.Name(), err)
	}
	return tree, nil
}

func (f *Fetcher) fetchLayers(ctx context.Context, ref name.Digest, pick Pick) (tree *Tree, err error) {
	store, manifest, err := f.fetchManifest(ctx, ref, ref.DigestStr())
	if err != nil {
		return nil, err
	}
	var size int64
	for _, layer := range manifest.Layers {
		size += max(layer.Size, 0)
	}
	if len(manifest.Layers) > maxLayers || size > maxArchive {
		return nil, fmt.Errorf("%d layers of %d bytes in all are over the limit of %d layers and %d bytes", len(manifest.Layers), size, maxLayers, maxArchive)
	}
	whole := newEntryTree()
	for _, layer := range manifest.Layers {
		if layer.MediaType == provenanceLayer {
			continue
		}
		// Links may lead from any layer to any other, so all files stay until the end.
		file, t, failed := openLayer(ctx, store, layer)
		if file != nil {
			defer func() { err = errors.Join(err, closeTemporary(file)) }()
		}
		if failed != nil {
			return nil, fmt.Errorf("layer %s: %w", layer.Digest, failed)
		}
		whole.entries += t.entries
		if whole.names += t.names; whole.entries > maxEntries || whole.names > maxNames {
			return nil, errTooManyEntries
		}
		whole.root.overlay(t.root)
	}
	return whole.pickFiles(pick)
}

// fetchManifest reads the manifest of an artifact.
func (f *Fetcher) fetchManifest(ctx context.Context, ref name.Reference, want string) (oras.ReadOnlyTarget, *ocispec.Manifest, error) {
	if f.Registry == nil {
		return nil, nil, errors.New("no registry configured")
	}
	store, reference, err := f.Registry.Origin(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	desc, err := store.Resolve(ctx, reference)
	switch {
	case err != nil:
		return nil, nil, err
	case want != "" && desc.Digest.String() != want:
		return nil, nil, newDigestError(ref.Name(), desc.Digest.String(), want)
	case desc.Size > oci.MaxManifest:
		return nil, nil, fmt.Errorf("the manifest has %d bytes, the limit is %d", desc.Size, oci.MaxManifest)
	}
	file, _, err := downloadBlob(ctx, store, desc)
	if err != nil {
		return nil, nil, err
	}
	raw, err := readAll("manifest", file)
	if err = errors.Join(err, closeTemporary(file)); err != nil {
		return nil, nil, err
	}
	var manifest struct {
		ocispec.Manifest
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := oci.UnmarshalJSON(raw, &manifest); err != nil {
		return nil, nil, fmt.Errorf("invalid manifest: %w", err)
	}
	if len(manifest.Manifests) > 0 || strings.Contains(desc.MediaType, "index") || strings.Contains(desc.MediaType, "manifest.list") {
		return nil, nil, errors.New("is an index, want a single artifact")
	}
	return store, &manifest.Manifest, nil
}

// isSHA256 must be asked before other methods of a digest, which panic if it is invalid.
func isSHA256(d digest.Digest) bool { return d.Validate() == nil && d.Algorithm() == digest.SHA256 }

func newDigestError(source, got, want string) error {
	return &DigestError{Source: source, Got: strings.TrimPrefix(got, "sha256:"), Want: strings.TrimPrefix(want, "sha256:")}
}

// downloadBlob fetches a blob into a temporary file and returns its digest. Close the file with
// [closeTemporary].
func downloadBlob(ctx context.Context, store oras.ReadOnlyTarget, desc ocispec.Descriptor) (*os.File, string, error) {
	switch {
	case !isSHA256(desc.Digest):
		return nil, "", fmt.Errorf("digest %q is not a sha256", desc.Digest)
	case desc.Size < 0 || desc.Size > maxArchive:
		return nil, "", fmt.Errorf("%d bytes are over the limit of %d", desc.Size, maxArchive)
	}
	file, sum, err := tryDownload(ctx, store, desc)
	var wrong *DigestError
	if errors.As(err, &wrong) && ctx.Err() == nil {
		return tryDownload(ctx, store, desc) // a byte may have changed on the way
	}
	return file, sum, err
}

func tryDownload(ctx context.Context, store oras.ReadOnlyTarget, desc ocispec.Descriptor) (*os.File, string, error) {
	from, err := store.Fetch(ctx, desc)
	if err != nil {
		return nil, "", err
	}
	file, err := createTemporary()
	if err != nil {
		return nil, "", errors.Join(err, from.Close())
	}
	verified := orascontent.NewVerifyReader(from, desc)
	sum, err := copyWithDigest(file, verified)
	if err == nil && sum != desc.Digest.Encoded() {
		err = newDigestError("it", sum, desc.Digest.String())
	} else if err == nil {
		err = verified.Verify() // nothing may follow
	}
	if err == nil {
		_, err = file.Seek(0, 0)
	}
	if err = errors.Join(err, from.Close()); err != nil {
		return nil, "", errors.Join(err, closeTemporary(file))
	}
	return file, sum, nil
}

// isArchive tells layers to unpack from layers that are a file. oras gives files the media type of
// image layers too; there the title decides, and for folders an annotation.
func isArchive(layer ocispec.Descriptor) (bool, error) {
	hasTitle := layer.Annotations[ocispec.AnnotationTitle] != ""
	isTar := slices.ContainsFunc([]string{"tar", "tar+gzip", "tar.gzip", "tar+zstd", "tar.zstd"}, func(end string) bool {
		return strings.HasSuffix(layer.MediaType, "."+end) || strings.HasSuffix(layer.MediaType, "/"+end) || strings.HasSuffix(layer.MediaType, "/x-"+end)
	})
	switch {
	case layer.Annotations["io.deis.oras.content.unpack"] == "true", isTar && strings.HasPrefix(layer.MediaType, "application/vnd.cncf."):
		return true, nil
	case hasTitle:
		return false, nil
	case isTar:
		return true, nil
	}
	return false, fmt.Errorf("media type %s is neither an archive nor a file with a title", layer.MediaType)
}

// openLayer fetches a layer and lists its content. Close the file, if there is one, with
// [closeTemporary].
func openLayer(ctx context.Context, store oras.ReadOnlyTarget, layer ocispec.Descriptor) (*os.File, *entryTree, error) {
	isArchive, err := isArchive(layer)
	if err != nil {
		return nil, nil, err
	}
	file, _, err := downloadBlob(ctx, store, layer)
	if err != nil {
		return nil, nil, err
	}
	if isArchive {
		t, err := listArchive(ctx, file)
		if err == nil {
			t.resolveHardLinks(t.root)
		}
		return file, t, err
	}
	t := newEntryTree()
	return file, t, t.addEntry(layer.Annotations[ocispec.AnnotationTitle], &node{kind: isFile, size: layer.Size, pack: &singleFilePack{file}})
}

// singleFilePack is a layer that is one file.
type singleFilePack struct{ file *os.File }

func (p *singleFilePack) readFiles(files map[string][]byte, _ func(string, error) error) error {
	var data bytes.Buffer
	_, err := data.ReadFrom(p.file)
	files[""] = data.Bytes()
	return err
}

// resolveHardLinks replaces a layer's hard links by the files that they lead to, since a layer above
// may replace those files.
func (t *entryTree) resolveHardLinks(dir *node) {
	for name, n := range dir.children {
		if n.kind == isFolder {
			t.resolveHardLinks(n)
		}
		if n.kind != isLink || !n.fromTop {
			continue
		}
		file := t.root
		for element := range strings.SplitSeq(path.Clean(n.target), "/") {
			if file = file.children[element]; file == nil {
				break
			}
		}
		if file != nil && file.kind == isFile {
			dir.children[name] = file
		}
	}
}

const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// overlay applies a layer to the layers below it: its files replace theirs, and a whiteout removes
// a file (image-spec, layer.md).
func (n *node) overlay(layer *node) {
	if layer.children[opaqueWhiteout] != nil {
		clear(n.children)
	}
	for name := range layer.children {
		if removed, is := strings.CutPrefix(name, whiteout); is {
			delete(n.children, removed)
		}
	}
	for name, above := range layer.children {
		switch below := n.children[name]; {
		case strings.HasPrefix(name, whiteout):
		case above.kind != isFolder:
			n.children[name] = above
		default:
			if below == nil || below.kind != isFolder {
				below = newFolder()
				n.children[name] = below
			}
			below.overlay(above)
		}
	}
}
