package catalog_test

import (
	"fmt"
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/result"
)

// largeDocument is of ten versions of a runtime with 60 bundles and 500 images, each of which is another in each version.
func largeDocument() *result.Catalog {
	const versions, bundles, images = 10, 60, 500
	r := result.CatalogRuntime{Name: "large", Place: "registry.example/krt/large"}
	for v := range versions {
		size := int64(4 << 30)
		one := result.CatalogVersion{Graph: &graph.Graph{Name: "large", Bytes: &size}, Tags: []string{fmt.Sprintf("1.%d.0", v)}}
		one.Name, one.Kind, one.Version, one.Digest = "large", bundle.KindRuntime, fmt.Sprintf("1.%d.0", v), fmt.Sprintf("sha256:%064x", v)
		one.Metadata.Description = "A runtime for whatever there is to run, with all that this needs"
		for b := range bundles {
			part := result.Bundle{Layer: b/10 + 1}
			part.Name, part.Version, part.Digest = fmt.Sprintf("part-%d", b), one.Version, fmt.Sprintf("sha256:%062x%02x", b, v)
			for i := b * images / bundles; i < (b+1)*images/bundles; i++ {
				digest := fmt.Sprintf("sha256:%060x%04x", i, v)
				part.Images = append(part.Images, result.LockedImage{Reference: fmt.Sprintf("ghcr.io/example/image-%d:1.%d.0", i, v), Image: fmt.Sprintf("ghcr.io/example/image-%d@%s", i, digest), Digest: digest})
				r.Images = append(r.Images, result.CatalogImage{Digest: digest, Platforms: []string{"linux/amd64", "linux/arm64"}, Bytes: 8 << 20})
			}
			r.Bundles = append(r.Bundles, result.CatalogBundle{Digest: part.Digest, Metadata: bundle.Metadata{Name: part.Name, Version: part.Version, Description: "A part of it"}})
			one.Bundles = append(one.Bundles, part)
			one.Graph.Nodes = append(one.Graph.Nodes, graph.Node{Name: part.Name, Version: part.Version, Layer: part.Layer})
		}
		r.Versions = append(r.Versions, one)
	}
	return &result.Catalog{Runtimes: []result.CatalogRuntime{r}}
}

// The first page of a large runtime is small, with all that it loads before somebody searches.
func TestFirstPageIsSmall(t *testing.T) {
	files := writeSite(t, largeDocument())
	checkLinks(t, files)
	first := len(files["index.html"]) + len(files["catalog.css"]) + len(files["catalog.js"])
	if first > 200_000 || len(files) != 5+10+600 {
		t.Errorf("the first page has %d bytes, of %d files", first, len(files))
	}
}
