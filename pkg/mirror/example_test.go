package mirror_test

import (
	"fmt"
	"log"

	"krtpkg.dev/krtpkg/pkg/mirror"
)

// A node pulls upstream's names from the site's registry.
func ExampleConfigFiles() {
	files, err := mirror.ConfigFiles("containerd", mirror.Config{Mirror: "site.example/mirror", Registries: []string{"quay.io"}})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range files {
		fmt.Printf("%s\n%s", f.Name, f.Data)
	}
	// Output:
	// quay.io/hosts.toml
	// server = "https://site.example/v2/mirror/quay.io"
	// capabilities = ["pull", "resolve"]
	// override_path = true
}
