package layout_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/layout"
)

// A folder is a target of oras-go like any other, and the same content gives the same files.
func Example() {
	ctx := context.Background()
	source := memory.New() // or a repository of a registry
	root, err := oras.PackManifest(ctx, source, oras.PackManifestVersion1_1, "application/vnd.example.note", oras.PackManifestOptions{})
	if err != nil {
		log.Fatal(err)
	}
	if err := source.Tag(ctx, root, "1.0.0"); err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	folder, err := layout.Create(dir)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := oras.Copy(ctx, source, "1.0.0", folder, "", oras.DefaultCopyOptions); err != nil {
		log.Fatal(err)
	}

	opened, err := layout.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	err = opened.Tags(ctx, "", func(tags []string) error {
		fmt.Println(tags)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: [1.0.0]
}
