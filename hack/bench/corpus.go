package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/result"
)

// assemblyContests returns the job of building one bundle of all the manifests of the upstream corpus, with
// every image that they name locked from a layout of stand-ins.
func (b *bench) assemblyContests(ctx context.Context) ([]contest, error) {
	all, err := corpus.ReadFiles()
	if err != nil {
		return nil, err
	}
	count, size := 0, 0
	for i := range b.share(len(all)) {
		f := all[i*len(all)/b.share(len(all))]
		if !f.IsForCluster() {
			continue
		}
		count, size = count+1, size+len(f.Data)
		file := b.filePath("corpus/manifests/" + f.Path + ".yaml")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, f.Data, 0o644); err != nil {
			return nil, err
		}
	}
	references, err := b.findCorpusImages(ctx)
	if err != nil {
		return nil, err
	}
	args := []string{b.krtpkg, "build", "-q", "-f", b.filePath("corpus"), "--image-mirror", "*=oci:" + b.filePath("images")}
	return []contest{
		{fmt.Sprintf("list the images of %d upstream files, %.1f MB", count, float64(size)/1e6), func(int) []string {
			return []string{b.krtpkg, "images", "--offline", "-f", b.filePath("corpus/manifests")}
		}, nil},
		{fmt.Sprintf("assemble them and lock %d references", references), func(round int) []string {
			return append(args, "--to", fmt.Sprintf("oci:%s/corpus-%d", b.dir, round))
		}, nil},
	}, nil
}

// findCorpusImages asks krtpkg for the images of the corpus, puts stand-ins for them into a layout, and
// writes the definition, which allows what only looks like one.
func (b *bench) findCorpusImages(ctx context.Context) (int, error) {
	out, err := exec.CommandContext(ctx, b.krtpkg, "images", "--offline", "-o", "json", "-f", b.filePath("corpus/manifests")).Output()
	if err != nil {
		return 0, err
	}
	var found result.Images
	if err := json.Unmarshal(out, &found); err != nil {
		return 0, fmt.Errorf("decode images: %w", err)
	}
	spec := bundle.BundleSpec{Sources: []bundle.Source{{Dir: "manifests"}}}
	references := map[string]bool{}
	for _, f := range found.Images {
		// A digest cannot be stood in for.
		isTag := !strings.Contains(f.Image, "@")
		switch state := images.State(f.State); {
		case state == images.Image && isTag:
			references[f.Image] = true
		case state != images.Ignored:
			spec.NotImages = append(spec.NotImages, images.NotImage{Value: f.Image, Reason: "only for this measurement"})
		}
	}
	for reference := range references {
		if err := imagetest.FillLayout(b.filePath("images"), reference); err != nil {
			return 0, err
		}
	}
	definition, err := yaml.Marshal(bundle.Bundle{
		APIVersion: bundle.APIVersion, Kind: bundle.KindBundle, Spec: spec,
		Metadata: bundle.Metadata{Name: "corpus", Version: "1.0.0"},
	})
	if err != nil {
		return 0, err
	}
	return len(references), os.WriteFile(b.filePath("corpus/bundle.yaml"), definition, 0o644)
}
