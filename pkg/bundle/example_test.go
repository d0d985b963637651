package bundle_test

import (
	"fmt"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// Every mistake has its place.
func ExampleParse() {
	_, err := bundle.Parse("bundle.yaml", []byte(`apiVersion: krtpkg.dev/v1alpha1
kind: Bundle
metadata: {name: web, version: one}
spec:
  layer: 6
  sources: [{dir: manifests}]
`))
	fmt.Println(err)
	// Output:
	// bundle.yaml:3:32: metadata.version "one" is not a semantic version: want MAJOR.MINOR.PATCH, as in 1.2.3 or 2.0.0-rc.1
}

func ExampleVersionTag() {
	fmt.Println(bundle.VersionTag("1.0.0+build.5"))
	fmt.Println(bundle.TaggedVersion("1.0.0_build.5"))
	// Output:
	// 1.0.0_build.5
	// 1.0.0+build.5 true
}
