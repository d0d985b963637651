package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registry"
)

// corpusImages is how many images there are to carry; every third is for two platforms.
const corpusImages = 30

// The layers that images share, and those that each has for itself, in MB at full scale.
var (
	sharedLayers = []float64{110, 60, 45, 35, 25, 20, 18, 12}
	ownLayers    = []float64{26, 10, 0.9, 0.01}
)

// pushed is what was put into a registry.
type pushed struct {
	// Images are NAME:TAG below the registry's address.
	Images []string
	// Blobs are the distinct ones, the largest first, without manifests.
	Blobs []ocispec.Descriptor
	// Distinct is the size of all distinct blobs and manifests, Sum that of all images, each
	// with all of its own.
	Distinct, Sum int64
}

// runCorpus puts the images into a registry and prints what they are, as a process of its own:
// what a process holds counts in the peak of those that it starts.
func runCorpus(ctx context.Context, host string, scale float64) error {
	all, err := pushImages(ctx, host, scale)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// pushImages puts images into a registry, at HOST/app/N:1.0 each. Half of every layer
// compresses. The same scale gives the same bytes.
func pushImages(ctx context.Context, host string, scale float64) (*pushed, error) {
	client, err := registry.New(registry.Options{})
	if err != nil {
		return nil, err
	}
	c := &pusher{scale: scale, known: map[digest.Digest]bool{}}
	for i, size := range sharedLayers {
		c.shared = append(c.shared, layer(uint64(i), megabytes(size, scale)))
	}
	for n := range corpusImages {
		name := fmt.Sprintf("app/%d", n)
		repo, err := client.Repository(ctx, host+"/"+name)
		if err != nil {
			return nil, err
		}
		c.repo = repo
		top, err := c.pushImage(ctx, n)
		if err != nil {
			return nil, err
		}
		if err := c.repo.Tag(ctx, top, "1.0"); err != nil {
			return nil, err
		}
		c.Images = append(c.Images, name+":1.0")
	}
	slices.SortFunc(c.Blobs, func(a, b ocispec.Descriptor) int { return cmp.Compare(b.Size, a.Size) })
	return &c.pushed, nil
}

// pusher fills a registry, one repository after the other.
type pusher struct {
	pushed
	scale  float64
	repo   oras.Target
	shared [][]byte
	known  map[digest.Digest]bool
}

// pushImage pushes one image, or an index of two.
func (c *pusher) pushImage(ctx context.Context, n int) (ocispec.Descriptor, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for p, arch := range []string{"amd64", "arm64"} {
		if p > 0 && n%3 > 0 {
			break
		}
		manifest, err := c.pushPlatform(ctx, n, p, arch)
		if err != nil {
			return manifest, err
		}
		manifest.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests = append(index.Manifests, manifest)
	}
	if len(index.Manifests) == 1 {
		return index.Manifests[0], nil
	}
	return c.pushJSON(ctx, index.MediaType, index)
}

// pushPlatform pushes one manifest, of a layer that is shared and some of its own.
func (c *pusher) pushPlatform(ctx context.Context, n, p int, arch string) (ocispec.Descriptor, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, Author: fmt.Sprint("image ", n)}
	config.RootFS.Type = "layers"
	layers := [][]byte{c.shared[(n+5*p)%len(c.shared)]}
	for i, size := range ownLayers {
		// From 0.7 to 1.3 of the size, so that no two images take the same time.
		varied := size * (0.7 + 0.2*float64(n%4))
		layers = append(layers, layer(uint64(1000+10*n+5*p+i), megabytes(varied, c.scale)))
	}
	for _, data := range layers {
		desc, err := c.push(ctx, ocispec.MediaTypeImageLayerGzip, data)
		if err != nil {
			return desc, err
		}
		m.Layers = append(m.Layers, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, desc.Digest) // nobody unpacks them
	}
	var err error
	if m.Config, err = c.pushJSON(ctx, ocispec.MediaTypeImageConfig, config); err != nil {
		return m.Config, err
	}
	return c.pushJSON(ctx, m.MediaType, m)
}

func (c *pusher) pushJSON(ctx context.Context, mediaType string, value any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return c.push(ctx, mediaType, data)
}

func (c *pusher) push(ctx context.Context, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := content.NewDescriptorFromBytes(mediaType, data)
	c.Sum += desc.Size
	if !c.known[desc.Digest] {
		c.known[desc.Digest] = true
		c.Distinct += desc.Size
		if mediaType != ocispec.MediaTypeImageManifest && mediaType != ocispec.MediaTypeImageIndex {
			c.Blobs = append(c.Blobs, desc)
		}
	}
	err := c.repo.Push(ctx, desc, bytes.NewReader(data))
	if errors.Is(err, errdef.ErrAlreadyExists) {
		err = nil
	}
	return desc, err
}

func megabytes(size, scale float64) int { return int(size * scale * 1e6) }

// layer is a gzip stream of about so many bytes: blocks of noise, and blocks of text that is
// repeated. Its blocks are stored, which is as good to carry, and made in no time.
func layer(seed uint64, size int) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		panic(err) // no such level
	}
	noise := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	block := make([]byte, 64<<10)
	line := fmt.Appendf(nil, "a line of layer %d, as files have them\n", seed)
	text := bytes.Repeat(line, 1+len(block)/len(line))
	for left := size; left > 0; left -= 2 * len(block) {
		half := min(len(block), (left+1)/2)
		noise.Read(block[:half])
		w.Write(block[:half]) // a buffer takes all
		w.Write(text[:min(half, left-half)])
	}
	w.Close()
	return out.Bytes()
}
