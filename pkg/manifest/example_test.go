package manifest_test

import (
	"fmt"
	"log"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// A scalar is replaced where it stands; every other byte stays.
func ExampleFile_ReplaceScalar() {
	file, err := manifest.Parse("pod.yaml", []byte("kind: Pod   # keep me\nspec: {nodeName:  'old' }\n"))
	if err != nil {
		log.Fatal(err)
	}
	spec := manifest.GetValue(file.Documents[0], "spec")
	if err := file.ReplaceScalar(manifest.GetValue(spec, "nodeName"), "new"); err != nil {
		log.Fatal(err)
	}
	data, err := file.EditedBytes()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(data))
	// Output:
	// kind: Pod   # keep me
	// spec: {nodeName:  'new' }
}
