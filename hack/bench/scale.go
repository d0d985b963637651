package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layout"
)

// The largest runtime of the scale job.
const (
	scaleBundles    = 200
	imagesPerBundle = 10
	blobsPerImage   = 10
)

// writeSynthetic is a runtime of tiny images in a folder.
func writeSynthetic(ctx context.Context, dir string, bundles int) error {
	store, err := layout.Create(dir)
	if err != nil {
		return err
	}
	put := func(mediaType string, data []byte) (ocispec.Descriptor, error) {
		desc := content.NewDescriptorFromBytes(mediaType, data)
		err := store.Push(ctx, desc, bytes.NewReader(data))
		if errors.Is(err, errdef.ErrAlreadyExists) {
			err = nil
		}
		return desc, err
	}
	lock := func(repository string, descs []ocispec.Descriptor) (l images.Lock, err error) {
		for i, d := range descs {
			image, err := name.NewDigest(repository + "@" + d.Digest.String())
			if err != nil {
				return nil, err
			}
			l = append(l, images.Locked{Image: image, Reference: fmt.Sprintf("%s:%d", repository, i)})
		}
		return l, nil
	}
	var packed []ocispec.Descriptor
	for b := range bundles {
		var made []ocispec.Descriptor
		for i := range imagesPerBundle {
			m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
			for n := range blobsPerImage {
				mediaType := ocispec.MediaTypeImageLayerGzip
				if n == 0 {
					mediaType = ocispec.MediaTypeImageConfig
				}
				desc, err := put(mediaType, fmt.Appendf(nil, `{"bundle":%d,"image":%d,"blob":%d}`, b, i, n))
				if err != nil {
					return err
				}
				if n == 0 {
					m.Config = desc
				} else {
					m.Layers = append(m.Layers, desc)
				}
			}
			data, err := json.Marshal(m)
			if err != nil {
				return err
			}
			desc, err := put(ocispec.MediaTypeImageManifest, data)
			if err != nil {
				return err
			}
			made = append(made, desc)
		}
		locked, err := lock(fmt.Sprintf("registry.example/app/%d", b), made)
		if err != nil {
			return err
		}
		c := &bundle.Content{
			Bundle: &bundle.Bundle{
				APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
				Metadata: bundle.Metadata{Name: fmt.Sprintf("bundle-%d", b), Version: "1.0.0"}, Spec: bundle.BundleSpec{Layer: 6, Sources: []bundle.Source{{Dir: "config"}}},
			},
			Images: locked,
		}
		desc, err := c.Pack(ctx, store, time.Time{})
		if err != nil {
			return err
		}
		packed = append(packed, desc)
	}
	locked, err := lock("krtpkg.invalid/bundles/any", packed)
	if err != nil {
		return err
	}
	runtime := &bundle.Content{
		Runtime: &bundle.RuntimeLock{APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock, Metadata: bundle.Metadata{Name: "scale", Version: "1.0.0"}},
		Images:  locked,
	}
	root, err := runtime.Pack(ctx, store, time.Time{})
	if err != nil {
		return err
	}
	return store.Tag(ctx, root, "1.0.0")
}

// point is one figure of the curve.
type point struct {
	images  int
	seconds map[string]float64
}

// benchScale measures how time and memory grow with the number of images.
func benchScale(ctx context.Context, b *bench) error {
	b.rounds = 1
	c := &mirrorBench{bench: b}
	fmt.Println("| bundles | images | blobs | job | wall | CPU | peak memory | requests |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	var curve []point
	for _, bundles := range []int{b.share(scaleBundles / 4), b.share(scaleBundles / 2), b.share(scaleBundles)} {
		p, err := c.measureSize(ctx, bundles)
		if err != nil {
			return err
		}
		curve = append(curve, *p)
	}
	if c.svg == "" {
		return nil
	}
	return os.WriteFile(c.svg, []byte(drawCurve(curve)), 0o644)
}

func (c *mirrorBench) measureSize(ctx context.Context, bundles int) (_ *point, err error) {
	dir := c.filePath(fmt.Sprint(bundles))
	defer os.RemoveAll(dir)
	if err := writeSynthetic(ctx, filepath.Join(dir, "layout"), bundles); err != nil {
		return nil, err
	}
	var hosts []string
	for _, name := range []string{"source", "target"} {
		r, err := registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Distribution3, Dir: filepath.Join(dir, name), Middleware: c.countHandler})
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		hosts = append(hosts, r.Host)
	}
	p := &point{bundles * imagesPerBundle, map[string]float64{}}
	source, target := hosts[0]+"/krt/scale", hosts[1]+"/krt/scale"
	for _, job := range []struct {
		name string
		args []string
	}{
		{"push from a folder", []string{"copy", "oci:" + filepath.Join(dir, "layout") + ":1.0.0", source}},
		{"copy", []string{"copy", source + ":1.0.0", target}},
		{"nothing to do", []string{"copy", source + ":1.0.0", target}},
		{"export", []string{"export", source + ":1.0.0", filepath.Join(dir, "x.tar")}},
	} {
		var m measured
		if err := c.runOnce(ctx, append([]string{c.krtpkg, "-q", "-j", "8"}, job.args...), &m); err != nil {
			return nil, err
		}
		p.seconds[job.name] = m.wall[0].Seconds()
		fmt.Printf("| %d | %d | %d | %s | %.2f s | %.2f s | %d MiB | %d |\n", bundles, p.images, p.images*blobsPerImage, job.name,
			m.wall[0].Seconds(), m.cpu[0].Seconds(), m.memory[0]/1024, m.requests[0])
	}
	return p, nil
}

// drawCurve draws the curve; its text is text, and its colours follow the reader's.
func drawCurve(curve []point) string {
	const width, height, left, bottom = 640, 320, 60, 280
	last := curve[len(curve)-1]
	most := 0.0
	for _, s := range last.seconds {
		most = max(most, s)
	}
	x := func(images int) float64 { return left + float64(images)/float64(last.images)*(width-left-150) }
	y := func(seconds float64) float64 { return bottom - seconds/most*(bottom-30) }
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">
<style>:root{color:#222;background:#fff}@media (prefers-color-scheme:dark){:root{color:#ddd;background:#111}}text{fill:currentColor}path,line{stroke:currentColor;fill:none}</style>
<title>Wall time by the number of images</title>
<line x1="%d" y1="%d" x2="%d" y2="%d"/><line x1="%d" y1="30" x2="%d" y2="%d"/>
<text x="%d" y="%d">images</text><text x="8" y="20">seconds</text>
`, width, height, left, bottom, width-150, bottom, left, left, bottom, width-150-45, bottom+36)
	for _, p := range curve {
		fmt.Fprintf(&out, "<text x=\"%.0f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", x(p.images), bottom+18, p.images)
	}
	for i, job := range []struct{ name, dash string }{{"push from a folder", ""}, {"copy", "8 4"}, {"export", "2 4"}, {"nothing to do", "12 3 2 3"}} {
		path := fmt.Sprintf("M%d %d", left, bottom)
		for _, p := range curve {
			path += fmt.Sprintf(" L%.1f %.1f", x(p.images), y(p.seconds[job.name]))
		}
		end := last.seconds[job.name]
		fmt.Fprintf(&out, "<path d=%q stroke-dasharray=%q stroke-width=\"2\"/>\n<text x=\"%d\" y=\"%d\">%s: %.1f s</text>\n<path d=\"M%d %d h24\" stroke-dasharray=%q stroke-width=\"2\"/>\n",
			path, job.dash, left+50, 46+18*i, job.name, end, left+16, 42+18*i, job.dash)
	}
	return out.String() + "</svg>\n"
}
