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

// maxLayers is how many layers an artifact has.
const maxLayers = 127

// Media types of the layers of a chart (helm.sh/docs/topics/registries).
const (
	chartLayer      = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	provenanceLayer = "application/vnd.cncf.helm.chart.provenance.v1.prov"
)

// OCI picks the files of an artifact: what its layers that are tar archives hold (those of
// imgpkg, Flux, Helm and of images), and layers with a title, as oras makes them.
func (f *Fetcher) OCI(ctx context.Context, ref name.Digest, pick Pick) (*Tree, error) {
	tree, err := f.oci(ctx, ref, pick)
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", ref.Name(), err)
	}
	return tree, nil
}

func (f *Fetcher) oci(ctx context.Context, ref name.Digest, pick Pick) (tree *Tree, err error) {
	store, manifest, err := f.manifest(ctx, ref, ref.DigestStr())
	if err != nil {
		return nil, err
	}
	var size int64
	for _, layer := range manifest.Layers {
		size += max(layer.Size, 0)
	}
	if len(manifest.Layers) > maxLayers || size > maxArchive {
		return nil, fmt.Errorf("%d layers of %d bytes are over the limit of %d of %d", len(manifest.Layers), size, maxLayers, maxArchive)
	}
	whole := newNodes()
	for _, layer := range manifest.Layers {
		if layer.MediaType == provenanceLayer {
			continue
		}
		// Links may lead from any layer to any other: all stay until the end.
		file, t, failed := openLayer(ctx, store, layer)
		if file != nil {
			defer func() { err = errors.Join(err, discard(file)) }()
		}
		if failed != nil {
			return nil, fmt.Errorf("layer %s: %w", layer.Digest, failed)
		}
		whole.entries += t.entries
		if whole.names += t.names; whole.entries > maxEntries || whole.names > maxNames {
			return nil, errEntries
		}
		whole.top.cover(t.top)
	}
	return whole.pick(pick)
}

// manifest reads the manifest of an artifact.
func (f *Fetcher) manifest(ctx context.Context, ref name.Reference, want string) (oras.ReadOnlyTarget, *ocispec.Manifest, error) {
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
	case want != "" && desc.Digest.String() != want:
		return nil, nil, digestError(ref.Name(), desc.Digest.String(), want)
	case desc.Size > oci.MaxManifest:
		return nil, nil, fmt.Errorf("manifest of %d bytes is over the limit of %d", desc.Size, oci.MaxManifest)
	}
	file, _, err := blob(ctx, store, desc)
	if err != nil {
		return nil, nil, err
	}
	raw, err := readAll("manifest", file)
	if err = errors.Join(err, discard(file)); err != nil {
		return nil, nil, err
	}
	var manifest struct {
		ocispec.Manifest
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := oci.Unmarshal(raw, &manifest); err != nil {
		return nil, nil, fmt.Errorf("invalid manifest: %w", err)
	}
	if len(manifest.Manifests) > 0 || strings.Contains(desc.MediaType, "index") || strings.Contains(desc.MediaType, "manifest.list") {
		return nil, nil, errors.New("it is an index, want one artifact")
	}
	return store, &manifest.Manifest, nil
}

// isSHA256 has to come before any other question to a digest, which panics if it is none.
func isSHA256(d digest.Digest) bool { return d.Validate() == nil && d.Algorithm() == digest.SHA256 }

func digestError(source, got, want string) error {
	return &DigestError{Source: source, Got: strings.TrimPrefix(got, "sha256:"), Want: strings.TrimPrefix(want, "sha256:")}
}

// blob puts what a descriptor names into a file, which is for [discard], and says its digest.
func blob(ctx context.Context, store oras.ReadOnlyTarget, desc ocispec.Descriptor) (*os.File, string, error) {
	switch {
	case !isSHA256(desc.Digest):
		return nil, "", fmt.Errorf("digest %q is no sha256", desc.Digest)
	case desc.Size < 0 || desc.Size > maxArchive:
		return nil, "", fmt.Errorf("%d bytes are over the limit of %d", desc.Size, maxArchive)
	}
	from, err := store.Fetch(ctx, desc)
	if err != nil {
		return nil, "", err
	}
	file, err := os.CreateTemp("", "krtpkg-source-*")
	if err != nil {
		return nil, "", errors.Join(err, from.Close())
	}
	verified := orascontent.NewVerifyReader(from, desc)
	sum, err := spool(file, verified)
	if err == nil && sum != desc.Digest.Encoded() {
		err = digestError("it", sum, desc.Digest.String())
	} else if err == nil {
		err = verified.Verify() // what comes after the size
	}
	if err == nil {
		_, err = file.Seek(0, 0)
	}
	if err = errors.Join(err, from.Close()); err != nil {
		return nil, "", errors.Join(err, discard(file))
	}
	return file, sum, nil
}

// isArchive tells a layer that is unpacked from one that is a file. oras gives files the type of
// an image's layer too: there the title tells, and an annotation of its own for folders.
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

// openLayer fetches a layer and says what it holds. The file, if there is one, is for [discard].
func openLayer(ctx context.Context, store oras.ReadOnlyTarget, layer ocispec.Descriptor) (*os.File, *nodes, error) {
	isArchive, err := isArchive(layer)
	if err != nil {
		return nil, nil, err
	}
	file, _, err := blob(ctx, store, layer)
	if err != nil {
		return nil, nil, err
	}
	if isArchive {
		t, err := list(ctx, file)
		if err == nil {
			t.settle(t.top)
		}
		return file, t, err
	}
	t := newNodes()
	return file, t, t.add(layer.Annotations[ocispec.AnnotationTitle], &node{kind: isFile, size: layer.Size, pack: &plain{file}})
}

// plain is a layer that is one file.
type plain struct{ file *os.File }

func (p *plain) read(files map[string][]byte, _ func(string, error) error) error {
	var data bytes.Buffer
	_, err := data.ReadFrom(p.file)
	files[""] = data.Bytes()
	return err
}

// settle makes a layer's hard links the files that they lead to: a layer above may replace those.
func (t *nodes) settle(dir *node) {
	for name, n := range dir.children {
		if n.kind == isFolder {
			t.settle(n)
		}
		if n.kind != isLink || !n.fromTop {
			continue
		}
		file := t.top
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
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// cover puts a layer over those below it: its files replace theirs, and a whiteout removes one
// (image-spec, layer.md).
func (n *node) cover(layer *node) {
	if layer.children[opaque] != nil {
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
			below.cover(above)
		}
	}
}
