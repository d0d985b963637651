package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/registry"
)

// corpusImages is how many images there are to carry; every third is for two platforms.
const corpusImages = 30

// The layers that images share, and the range of their own ones, in MB at full scale.
var shared = []float64{95, 70, 55, 40, 28, 80, 60, 45}

// pushImages puts images into a registry, at HOST/app/N:1.0 each, and gives the bytes of their
// distinct blobs. Half of every layer compresses. The same scale gives the same bytes.
func pushImages(ctx context.Context, host string, scale float64) (*pushed, error) {
	client, err := registry.New(registry.Options{})
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	var all pushed
	base := make([][]byte, len(shared))
	for i, size := range shared {
		base[i] = randomLayer(uint64(i), int(size*scale*1e6))
	}
	for n := range corpusImages {
		repo, err := client.Repository(ctx, fmt.Sprintf("%s/app/%d", host, n))
		if err != nil {
			return nil, err
		}
		push := func(mediaType string, data []byte) (ocispec.Descriptor, error) {
			desc := content.NewDescriptorFromBytes(mediaType, data)
			err := repo.Push(ctx, desc, bytes.NewReader(data))
			if errors.Is(err, errdef.ErrAlreadyExists) {
				err = nil
			}
			if !known[desc.Digest.String()] {
				known[desc.Digest.String()] = true
				all.Bytes += desc.Size
				if mediaType != ocispec.MediaTypeImageManifest && mediaType != ocispec.MediaTypeImageIndex {
					all.Blobs = append(all.Blobs, desc.Digest.String())
				}
			}
			return desc, err
		}
		platforms := []string{"amd64"}
		if n%3 == 0 {
			platforms = append(platforms, "arm64")
		}
		index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
		for p, arch := range platforms {
			manifest, err := pushImage(push, arch, base[(n+5*p)%len(base)], n, p, scale)
			if err != nil {
				return nil, err
			}
			manifest.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
			index.Manifests = append(index.Manifests, manifest)
		}
		top := index.Manifests[0]
		if len(platforms) > 1 {
			data, err := json.Marshal(index)
			if err != nil {
				return nil, err
			}
			if top, err = push(ocispec.MediaTypeImageIndex, data); err != nil {
				return nil, err
			}
		}
		if err := oras.Target(repo).Tag(ctx, top, "1.0"); err != nil {
			return nil, err
		}
		all.References = append(all.References, fmt.Sprintf("%s/app/%d:1.0", host, n))
	}
	return &all, nil
}

// pushed is what was put into a registry.
type pushed struct {
	References, Blobs []string
	// Bytes are those of all distinct blobs and manifests.
	Bytes int64
}

// runCorpus is pushImages as a process of its own: what a process holds counts in the peak of
// those that it starts.
func runCorpus(ctx context.Context, host string, scale float64) error {
	all, err := pushImages(ctx, host, scale)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// pushImage returns an image of one shared layer and three of its own.
func pushImage(push func(string, []byte) (ocispec.Descriptor, error), arch string, base []byte, n, p int, scale float64) (ocispec.Descriptor, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, Author: fmt.Sprint("image ", n)}
	config.RootFS.Type = "layers"
	own := []float64{24, 9, 0.4}
	blobs := [][]byte{base}
	for i, size := range own {
		blobs = append(blobs, randomLayer(uint64(1000+10*n+3*p+i)*7919, int(size*scale*1e6*(0.7+0.6*float64(n%4)/3))))
	}
	for _, data := range blobs {
		desc, err := push(ocispec.MediaTypeImageLayerGzip, data)
		if err != nil {
			return desc, err
		}
		m.Layers = append(m.Layers, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, desc.Digest) // nobody unpacks them
	}
	data, err := json.Marshal(config)
	if err != nil {
		return m.Config, err
	}
	if m.Config, err = push(ocispec.MediaTypeImageConfig, data); err != nil {
		return m.Config, err
	}
	if data, err = json.Marshal(m); err != nil {
		return m.Config, err
	}
	return push(ocispec.MediaTypeImageManifest, data)
}

// randomLayer returns a gzip stream of about so many bytes, of which half compresses: blocks of noise,
// and blocks of text that is repeated.
func randomLayer(seed uint64, size int) []byte {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.NoCompression)
	noise := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	block := make([]byte, 64<<10)
	text := bytes.Repeat(fmt.Appendf(nil, "a line of layer %d, as files have them\n", seed), 1+len(block)/30)[:len(block)]
	for n := 0; n < size; n += 2 * len(block) {
		noise.Read(block)
		w.Write(block[:min(len(block), size-n)])
		w.Write(text[:max(0, min(len(text), size-n-len(block)))])
	}
	w.Close()
	return out.Bytes()
}
