package registry_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// A client finds the digests of images, is where a copy finds images, and opens the repository
// to copy to. It logs in as docker and podman do.
func ExampleClient() {
	ctx := context.Background()
	server, err := registrytest.RunRegistry(ctx, registrytest.Options{}) // stands in for registry.example
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := registry.New(registry.Options{
		Mirrors:   []registry.Mirror{{Prefix: "docker.io", Replacement: "mirror.example/hub"}},
		UserAgent: "example/1.0",
	})
	if err != nil {
		log.Fatal(err)
	}
	store := memory.New()
	settings := bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
			Metadata: bundle.Metadata{Name: "settings", Version: "1.0.0"},
			Spec:     bundle.BundleSpec{Layer: 2, Sources: []bundle.Source{{File: "settings.yaml"}}},
		},
		Files: []bundle.File{{Path: "config/settings.yaml", Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n")}},
	}
	root, err := settings.Pack(ctx, store, time.Time{})
	if err != nil {
		log.Fatal(err)
	}
	repository, err := client.Repository(ctx, server.Host+"/krt/settings")
	if err != nil {
		log.Fatal(err)
	}
	source := transfer.Source{Store: store, Root: root, Tags: []string{"1.0.0"}}
	if _, err := transfer.Copy(ctx, []transfer.Source{source}, repository, transfer.Options{Origins: client}); err != nil {
		log.Fatal(err)
	}
	published, err := name.NewTag(server.Host + "/krt/settings:1.0.0")
	if err != nil {
		log.Fatal(err)
	}
	found, err := client.Resolve(ctx, published)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found.Digest == root.Digest)
	// Output: true
}
