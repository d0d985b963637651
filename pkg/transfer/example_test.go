package transfer_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// packExample packs a bundle of one ConfigMap, which runs no image, into a store in memory.
func packExample(ctx context.Context) (*memory.Store, ocispec.Descriptor) {
	settings := bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
			Metadata: bundle.Metadata{Name: "settings", Version: "1.0.0"},
			Spec:     bundle.BundleSpec{Layer: 2, Sources: []bundle.Source{{File: "settings.yaml"}}},
		},
		Files: []bundle.File{{Path: "config/settings.yaml", Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n")}},
	}
	store := memory.New()
	root, err := settings.Pack(ctx, store, time.Time{})
	if err != nil {
		log.Fatal(err)
	}
	return store, root
}

// A copy moves what is missing, the tag at last; the second one finds nothing to do.
func ExampleCopy() {
	ctx := context.Background()
	store, root := packExample(ctx)
	target := memory.New() // or a repository of a registry, or a layout
	for range 2 {
		report, err := transfer.Copy(ctx, []transfer.Source{{Store: store, Root: root, Tags: []string{"1.0.0"}}}, target, transfer.Options{})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("copied %d, present %d\n", report.Copied, report.Present)
	}
	tagged, err := target.Resolve(ctx, "1.0.0")
	fmt.Println(tagged.Digest == root.Digest, err)
	// Output:
	// copied 4, present 0
	// copied 0, present 4
	// true <nil>
}

// An air gap: a plan becomes an archive, and the archive fills a store behind the gap.
func ExampleImport() {
	ctx := context.Background()
	store, root := packExample(ctx)
	plan, err := transfer.NewPlan(ctx, []transfer.Source{{Store: store, Root: root, Tags: []string{"1.0.0"}}}, transfer.Options{})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "settings-1.0.0.tar")
	nothing := func(d digest.Digest) bool { return false } // is at the site
	if _, err := archive.WriteFile(ctx, file, plan.ArchiveContents(nothing, nil), plan, archive.Options{}); err != nil {
		log.Fatal(err)
	}
	checked, err := archive.CheckFile(ctx, file, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d manifests, %d blobs, %d absent\n", checked.Manifests, checked.Blobs, checked.Absent)

	opened, err := archive.Open(ctx, file)
	if err != nil {
		log.Fatal(err)
	}
	defer opened.Close()
	site := memory.New()
	imported, err := transfer.Import(ctx, opened, site, transfer.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(imported.Roots[0].Tags, imported.Roots[0].Root.Digest == root.Digest)
	// Output:
	// 2 manifests, 2 blobs, 0 absent
	// [1.0.0] true
}
