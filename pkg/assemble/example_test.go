package assemble_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/assemble"
)

const examplePod = `apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: web, image: "ghcr.io/example/web:1.0"}]}
`

// The same definition gives the same bytes, and the lock names each image by digest.
func ExampleBuild() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string]string{
		"web.yaml":    examplePod,
		"bundle.yaml": "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\nspec: {layer: 6, sources: [{file: web.yaml}]}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			log.Fatal(err)
		}
	}
	ctx := context.Background()
	var digests []string
	for range 2 {
		built, err := assemble.Build(ctx, dir, assemble.Options{Store: memory.New(), Images: resolver{}})
		if err != nil {
			log.Fatal(err)
		}
		digests = append(digests, built.Descriptor.Digest.String())
		for _, image := range built.Images {
			fmt.Println(image.Reference, "is locked as", image.Image.Context())
		}
	}
	fmt.Println(digests[0] == digests[1])
	// Output:
	// ghcr.io/example/web:1.0 is locked as ghcr.io/example/web
	// ghcr.io/example/web:1.0 is locked as ghcr.io/example/web
	// true
}
