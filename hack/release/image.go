package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocidigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// checksumsType is the predicate type of a release's checksums: {"version": …, "files": {NAME: SHA256}}.
const checksumsType = "https://krtpkg.dev/release/v1"

// nonroot is the user that the image runs as.
const nonroot = "65532:65532"

// writeImage writes an image with the Linux programs into an OCI layout, tagged with the version.
func (r *release) writeImage(programs []program) (ocispec.Descriptor, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range programs {
		if p.os != "linux" {
			continue
		}
		one, err := r.newImage(p)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: one, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: p.os, Architecture: p.arch}},
		})
	}
	raw, err := index.RawManifest()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	digest, err := index.Digest()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	root := ocispec.Descriptor{MediaType: string(types.OCIImageIndex), Digest: ocidigest.Digest(digest.String()), Size: int64(len(raw))}
	folder, err := ggcrlayout.Write(r.imageDir(), empty.Index)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return root, folder.AppendIndex(index, ggcrlayout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: r.version}))
}

func (r *release) newImage(p program) (v1.Image, error) {
	data, err := os.ReadFile(p.path)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(r.program)
	layer, err := newLayer([]entry{
		{"etc/ssl/certs/ca-certificates.crt", 0o644, systemRoots()},
		{"usr/local/bin/" + name, 0o755, data},
	})
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = p.os, p.arch
	config.Config = v1.Config{
		Entrypoint: []string{"/usr/local/bin/" + name}, User: nonroot, WorkingDir: "/",
		Env:    []string{"PATH=/usr/local/bin", "HOME=/tmp"},
		Labels: map[string]string{ocispec.AnnotationTitle: name, ocispec.AnnotationVersion: r.version, ocispec.AnnotationLicenses: "Apache-2.0"},
	}
	return mutate.ConfigFile(image, config)
}

// entry is a file of a layer.
type entry struct {
	name string
	mode int64
	data []byte
}

// newLayer packs files, with the folders that they need and a /tmp to write to.
func newLayer(entries []entry) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, folder := range []struct {
		name string
		mode int64
	}{{"etc/", 0o755}, {"etc/ssl/", 0o755}, {"etc/ssl/certs/", 0o755}, {"tmp/", 0o1777}, {"usr/", 0o755}, {"usr/local/", 0o755}, {"usr/local/bin/", 0o755}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder.name, Mode: folder.mode}); err != nil {
			return nil, err
		}
	}
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: e.mode, Size: int64(len(e.data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// systemRoots are the certificates of Mozilla's program that hold for every name.
func systemRoots() []byte {
	var all bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&all, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a buffer takes all
		}
	}
	return all.Bytes()
}

// sign signs the image, and attests the checksums on it.
func (r *release) sign(ctx context.Context, image ocispec.Descriptor, sums map[string]string) error {
	key, err := os.ReadFile(r.key)
	if err != nil {
		return err
	}
	signer, err := sign.LoadSigner(key, func() ([]byte, error) { return []byte(os.Getenv("COSIGN_PASSWORD")), nil })
	if err != nil {
		return fmt.Errorf("%s: %w", r.key, err)
	}
	store, err := layout.Create(r.imageDir())
	if err != nil {
		return err
	}
	options := sign.SignOptions{Signer: signer}
	if _, err := sign.Sign(ctx, store, image, options); err != nil {
		return err
	}
	predicate, err := json.Marshal(map[string]any{"version": r.version, "files": sums})
	if err != nil {
		return err
	}
	_, err = sign.Attest(ctx, store, image, []sign.Statement{{Type: checksumsType, Predicate: predicate}}, options)
	return err
}
