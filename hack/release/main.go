// Command release builds what a release of krtpkg consists of: static programs for each platform, their
// checksums, a bill of materials, and krtpkg's own image in an OCI layout. With a key it signs the image and
// attests the checksums on it. The same commit and version give the same bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
)

// platforms are those that programs are built for.
const platforms = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64,windows/arm64"

// release is what to build.
type release struct {
	version string
	// program is the package of the program, and variable the one that the linker sets to the version.
	program, variable string
	platforms         []string
	// dir is where everything goes.
	dir string
	// key is a file with a private key, for which COSIGN_PASSWORD holds the passphrase. Default: nothing is signed.
	key string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var r release
	var list string
	flag.StringVar(&r.version, "version", "", "version of the release, such as 1.2.3")
	flag.StringVar(&list, "platforms", platforms, "platforms to build for")
	flag.StringVar(&r.program, "program", "./cmd/krtpkg", "package of the program")
	flag.StringVar(&r.variable, "variable", "krtpkg.dev/krtpkg/internal/cli.released", "variable that holds the version")
	flag.StringVar(&r.dir, "out", "dist/release", "directory to write, which must not exist or be empty")
	flag.StringVar(&r.key, "key", "", "private key to sign with (COSIGN_PASSWORD: its passphrase)")
	flag.Parse()
	r.platforms = strings.Split(list, ",")
	if err := r.build(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func (r *release) build(ctx context.Context) error {
	if r.version == "" || strings.HasPrefix(r.version, "v") {
		return fmt.Errorf("-version %q: want one such as 1.2.3", r.version)
	}
	switch left, err := os.ReadDir(r.dir); {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	case len(left) > 0:
		return fmt.Errorf("%s is not empty: remove it first", r.dir)
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	var programs []program
	for _, platform := range r.platforms {
		one, err := r.compile(ctx, platform)
		if err != nil {
			return err
		}
		programs = append(programs, one)
		fmt.Println(one.path)
	}
	if err := r.writeBOM(programs[0]); err != nil {
		return err
	}
	sums, err := r.writeChecksums()
	if err != nil {
		return err
	}
	image, err := r.writeImage(programs)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	fmt.Printf("%s: %s@%s\n", r.imageDir(), r.version, image.Digest)
	if r.key == "" {
		fmt.Println("not signed: pass -key")
		return nil
	}
	if err := r.sign(ctx, image, sums); err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	fmt.Println("signed, with the checksums attested")
	return nil
}

// fileName returns the name of a file of the release.
func (r *release) fileName(suffix string) string {
	return fmt.Sprintf("%s-%s-%s", filepath.Base(r.program), r.version, suffix)
}

func (r *release) imageDir() string { return filepath.Join(r.dir, "image") }
