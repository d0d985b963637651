package serve_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/serve"
)

// A folder, or an archive, is a read-only registry. Nothing is unpacked.
func ExampleNewServer() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	store, err := layout.Create(filepath.Join(dir, "dist"))
	if err != nil {
		log.Fatal(err)
	}
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
	if err := store.Tag(ctx, root, "1.0.0"); err != nil {
		log.Fatal(err)
	}
	server, err := serve.NewServer(ctx, []serve.Store{store}, serve.Options{})
	if err != nil {
		log.Fatal(err)
	}
	response := httptest.NewRecorder()
	server.ServeHTTP(response, httptest.NewRequest("GET", "/v2/settings/manifests/1.0.0", nil))
	fmt.Println(response.Code, response.Header().Get("Docker-Content-Digest") == root.Digest.String())
	// Output:
	// 200 true
}
