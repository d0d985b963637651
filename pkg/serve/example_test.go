package serve_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/serve"
)

// noImages resolves none: the example runs none.
type noImages struct{}

func (noImages) Resolve(_ context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, fmt.Errorf("%s is unexpected", ref)
}

// A folder, or an archive, is a read-only registry. Nothing is unpacked.
func ExampleNewServer() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	settings := filepath.Join(dir, "bundle.yaml")
	definition := "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: settings, version: 1.0.0}\n" +
		"spec: {layer: 2, sources: [{file: settings.yaml}]}\n"
	err = errors.Join(
		os.WriteFile(settings, []byte(definition), 0o644),
		os.WriteFile(filepath.Join(dir, "settings.yaml"), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n"), 0o644),
	)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	store, err := layout.Create(filepath.Join(dir, "dist"))
	if err != nil {
		log.Fatal(err)
	}
	built, err := assemble.Build(ctx, settings, assemble.Options{Store: store, Images: noImages{}})
	if err != nil {
		log.Fatal(err)
	}
	if err := store.Tag(ctx, built.Descriptor, "1.0.0"); err != nil {
		log.Fatal(err)
	}
	server, err := serve.NewServer(ctx, []serve.Store{store}, serve.Options{})
	if err != nil {
		log.Fatal(err)
	}
	response := httptest.NewRecorder()
	server.ServeHTTP(response, httptest.NewRequest("GET", "/v2/settings/manifests/1.0.0", nil))
	fmt.Println(response.Code, response.Header().Get("Docker-Content-Digest") == built.Descriptor.Digest.String())
	// Output:
	// 200 true
}
