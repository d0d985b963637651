package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"krtpkg.dev/krtpkg/internal/imagetest"
)

// addHello compiles a version of hack/demo/hello for each platform and adds it as an image
// to the layout in a folder.
func addHello(ctx context.Context, dir, version string) error {
	index, err := imagetest.NewIndex(func(p v1.Platform) (v1.Image, error) {
		program, err := compileHello(ctx, p, version)
		if err != nil {
			return nil, err
		}
		return imagetest.NewImage(p, "hello", 0o755, program, v1.Config{Entrypoint: []string{"/hello"}, User: "65532"})
	})
	if err != nil {
		return err
	}
	return imagetest.AddToLayout(dir, "registry.krtpkg.dev/demo/hello:"+version, index)
}

func compileHello(ctx context.Context, p v1.Platform, version string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "krtpkg-hello-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "hello")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+version, "-o", out, "./hack/demo/hello")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Architecture)
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile hello for %s: %w\n%s", p, err, said)
	}
	return os.ReadFile(out)
}
