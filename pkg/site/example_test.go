package site_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// inventedDigests stands in for a registry: each name has a digest made of it.
type inventedDigests struct{}

func (inventedDigests) Resolve(_ context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.NewDigestFromBytes(digest.SHA256, hash(ref.Name())), Size: 1}, nil
}

func hash(text string) []byte { sum := sha256.Sum256([]byte(text)); return sum[:] }

// writeDefinition writes a bundle of a chart, and returns its folder.
func writeDefinition() string {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	for path, text := range map[string]string{
		"bundle.yaml": `apiVersion: krtpkg.dev/v1alpha1
kind: Bundle
metadata: {name: web, version: 1.0.0}
spec:
  layer: 6
  sources:
    - dir: chart
      template: helm
      render: target
`,
		"chart/Chart.yaml":  "apiVersion: v2\nname: web\nversion: 1.0.0\n",
		"chart/values.yaml": "replicas: 1\n",
		"chart/templates/web.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "ghcr.io/example/web:1.0"}]}
`,
	} {
		file := filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			log.Fatal(err)
		}
	}
	return dir
}

// The whole way of a runtime: built, signed, verified, rendered with a site's values, and what is left to do on a
// cluster. With a repository of a registry as the store it is what krtpkg build, sign and apply do.
func Example() {
	ctx := context.Background()
	dir := writeDefinition()
	defer os.RemoveAll(dir)

	// A release engineer builds and signs.
	store := memory.New()
	built, err := assemble.Build(ctx, dir, assemble.Options{Store: store, Images: inventedDigests{}})
	if err != nil {
		log.Fatal(err)
	}
	private, public, err := sign.GenerateKeyPair(nil)
	if err != nil {
		log.Fatal(err)
	}
	signer, err := sign.LoadSigner(private, func() ([]byte, error) { return nil, nil })
	if err != nil {
		log.Fatal(err)
	}
	if _, err := sign.Sign(ctx, store, built.Descriptor, sign.SignOptions{Signer: signer}); err != nil {
		log.Fatal(err)
	}

	// A site verifies, and renders with its own values.
	key, err := sign.LoadPublicKey(public)
	if err != nil {
		log.Fatal(err)
	}
	policy, err := trust.NewPolicy(sign.Authority{Key: key})
	if err != nil {
		log.Fatal(err)
	}
	root, err := site.Open(ctx, site.Source{Store: store, Root: built.Descriptor}, site.OpenOptions{Policy: policy})
	if err != nil {
		log.Fatal(err)
	}
	values, err := render.ParseValues("site.yaml", []byte("web: {replicas: 3}"))
	if err != nil {
		log.Fatal(err)
	}
	images, err := site.LocateImages(ctx, store, "", root.Set)
	if err != nil {
		log.Fatal(err)
	}
	rendered, err := site.Render(ctx, root.Set, values, images)
	if err != nil {
		log.Fatal(err)
	}
	runtime, err := rendered.Runtime()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(runtime.Name, runtime.Version, "signed:", len(root.Verified.Verified) > 0)
	for _, f := range rendered.Bundles[0].Manifests.Files {
		fmt.Printf("%s\n%s", f.Path, f.Data)
	}

	// What is left needs a cluster.
	apply := func(cluster *deploy.Cluster) (*deploy.Report, error) {
		return cluster.Apply(ctx, runtime, deploy.ApplyOptions{})
	}
	_ = apply
	// Output:
	// web 1.0.0 signed: true
	// config/chart/manifests.yaml
	// ---
	// # Source: web/templates/web.yaml
	// apiVersion: apps/v1
	// kind: Deployment
	// metadata: {name: web}
	// spec:
	//   replicas: 3
	//   selector: {matchLabels: {app: web}}
	//   template:
	//     metadata: {labels: {app: web}}
	//     spec: {containers: [{name: web, image: "ghcr.io/example/web@sha256:7111b0ebbcbdaa40cc2129da6b68850f881008686cdb59c2bcbb5b929801c8f3"}]}
}

func ExampleOpen_unverified() {
	_, err := site.Open(context.Background(), site.Source{Store: memory.New()}, site.OpenOptions{})
	fmt.Println(errors.Is(err, site.ErrVerificationRequired))
	// Output: true
}
