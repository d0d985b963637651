package sbom_test

import (
	"fmt"
	"log"

	"github.com/google/go-containerregistry/pkg/name"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/sbom"
)

// An image's package URL names where it is and what its author called it.
func ExampleImageURL() {
	image, err := name.NewDigest("ghcr.io/example/web@sha256:7111b0ebbcbdaa40cc2129da6b68850f881008686cdb59c2bcbb5b929801c8f3")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sbom.ImageURL(images.Locked{Image: image, Reference: "ghcr.io/example/web:1.0"}))
	// Output:
	// pkg:oci/web@sha256%3A7111b0ebbcbdaa40cc2129da6b68850f881008686cdb59c2bcbb5b929801c8f3?repository_url=ghcr.io%2Fexample%2Fweb&tag=1.0
}
