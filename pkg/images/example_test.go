package images_test

import (
	"fmt"
	"log"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// What a container names is an image. What only looks like one is a suspect, which a definition settles.
func ExampleFinder_Find() {
	file, err := manifest.Parse("web.yaml", []byte(`apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - image: ghcr.io/example/web:1.0
    env:
    - {name: SIDECAR, value: quay.io/example/proxy}
`))
	if err != nil {
		log.Fatal(err)
	}
	finder := images.Finder{}
	found, err := finder.Find(file)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range found {
		fmt.Printf("%s:%d: %s (%v, %s)\n", f.File, f.Line, f.Image, f.State, f.How)
	}
	// Output:
	// web.yaml:6: ghcr.io/example/web:1.0 (image, container)
	// web.yaml:8: quay.io/example/proxy (suspect, environment)
}
