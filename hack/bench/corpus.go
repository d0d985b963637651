package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/resources"
	"krtpkg.dev/krtpkg/pkg/result"
)

// assemblyContests returns the job of building one bundle of all the manifests of the upstream corpus, with
// every image that they name locked from a layout of stand-ins.
func (b *bench) assemblyContests(ctx context.Context) ([]contest, error) {
	all, err := corpus.ReadFiles()
	if err != nil {
		return nil, err
	}
	count, size, assembled := 0, 0, 0
	taken := map[string]bool{}
	for i := range b.share(len(all)) {
		f := all[i*len(all)/b.share(len(all))]
		if !f.IsManifests() {
			continue
		}
		count, size = count+1, size+len(f.Data)
		file := b.filePath("corpus/manifests/" + f.Path + ".yaml")
		if err := writeCorpusFile(file, f.Data); err != nil {
			return nil, err
		}
		if f.IsForCluster() && takeResources(f, taken) {
			assembled++
			if err := writeCorpusFile(b.filePath("corpus/bundle/manifests/"+f.Path+".yaml"), f.Data); err != nil {
				return nil, err
			}
		}
	}
	references, err := b.findCorpusImages(ctx)
	if err != nil {
		return nil, err
	}
	args := []string{b.krtpkg, "build", "-q", "-f", b.filePath("corpus/bundle"), "--image-mirror", "*=oci:" + b.filePath("images")}
	return []contest{
		{fmt.Sprintf("list the images of %d upstream files, %.1f MB", count, float64(size)/1e6), func(int) []string {
			return []string{b.krtpkg, "images", "--offline", "-f", b.filePath("corpus/manifests")}
		}, nil},
		{fmt.Sprintf("assemble %d of them and lock %d references", assembled, references), func(round int) []string {
			return append(args, "--to", fmt.Sprintf("oci:%s/corpus-%d", b.dir, round))
		}, nil},
	}, nil
}

func writeCorpusFile(file string, data []byte) error {
	return errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o644))
}

// takeResources reports whether a bundle may have a file next to those that it has, whose resources are taken, and takes
// those of this one. Rules of order are about all that is applied, and those of several products make circles; a digest
// cannot be stood in for.
func takeResources(f corpus.File, taken map[string]bool) bool {
	if bytes.Contains(f.Data, []byte("kapp.k14s.io/change-")) || bytes.Contains(f.Data, []byte("@sha256:")) {
		return false
	}
	parsed, err := manifest.Parse(f.Path, f.Data)
	if err != nil || resources.CheckFiles([]resources.File{{File: parsed, Data: f.Data}}) != nil {
		return false
	}
	var names []string
	for _, doc := range parsed.Documents {
		for _, item := range manifest.ListItems(doc) {
			metadata := manifest.GetValue(item, "metadata")
			names = append(names, manifest.GetText(item, "kind")+" "+manifest.GetText(metadata, "name"))
		}
	}
	if slices.ContainsFunc(names, func(name string) bool { return taken[name] }) {
		return false
	}
	for _, name := range names {
		taken[name] = true
	}
	return true
}

// findCorpusImages asks krtpkg for the images of the corpus, puts stand-ins for them into a layout, and
// writes the definition, which allows what only looks like one.
func (b *bench) findCorpusImages(ctx context.Context) (int, error) {
	out, err := exec.CommandContext(ctx, b.krtpkg, "images", "--offline", "-o", "json", "-f", b.filePath("corpus/bundle/manifests")).Output()
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
		reference, err := images.ParseReference(f.Image)
		switch state := images.State(f.State); {
		case state == images.Image && err == nil:
			references[reference.Name()] = true
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
	return len(references), os.WriteFile(b.filePath("corpus/bundle/bundle.yaml"), definition, 0o644)
}
