package registry_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// A client finds the digests of images for a build, is where a copy finds images, and opens the repository
// to copy to. It logs in as docker and podman do.
func ExampleClient() {
	ctx := context.Background()
	server, err := registrytest.RunRegistry(ctx, registrytest.Options{}) // stands in for registry.example
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "bundle.yaml"), []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\n"+
			"metadata: {name: settings, version: 1.0.0}\nspec: {layer: 2, sources: [{file: settings.yaml}]}\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "settings.yaml"), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n"), 0o644),
	)
	if err != nil {
		log.Fatal(err)
	}

	client, err := registry.New(registry.Options{
		Mirrors:   []registry.Mirror{{Prefix: "docker.io", Replacement: "mirror.example/hub"}},
		UserAgent: "example/1.0",
	})
	if err != nil {
		log.Fatal(err)
	}
	store := memory.New()
	built, err := assemble.Build(ctx, dir, assemble.Options{Store: store, Images: client})
	if err != nil {
		log.Fatal(err)
	}
	repository, err := client.Repository(ctx, server.Host+"/krt/settings")
	if err != nil {
		log.Fatal(err)
	}
	source := transfer.Source{Store: store, Root: built.Descriptor, Tags: []string{"1.0.0"}}
	if _, err := transfer.Copy(ctx, []transfer.Source{source}, repository, transfer.Options{Origins: client}); err != nil {
		log.Fatal(err)
	}
	published, err := repository.Resolve(ctx, "1.0.0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(published.Digest == built.Descriptor.Digest)
	// Output: true
}
