// Command skopeo copies images with skopeo's library, as "skopeo copy --all" does:
//
//	skopeo SOURCE TARGET
//
// Either is docker://REFERENCE, a registry without TLS or with a certificate that nobody
// checks, or oci-archive:FILE:NAME. It is not the program itself, whose module no checksum
// database vouches for: what a copy costs is decided below it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	ociarchive "go.podman.io/image/v5/oci/archive"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "skopeo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	if len(args) != 2 {
		return errors.New("usage: skopeo SOURCE TARGET")
	}
	source, err := parse(args[0])
	if err != nil {
		return err
	}
	target, err := parse(args[1])
	if err != nil {
		return err
	}
	// Signatures are not what is measured: this is --insecure-policy.
	policy, err := signature.NewPolicyContext(&signature.Policy{
		Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, policy.Destroy()) }()
	anyone := &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue}
	_, err = copy.Image(ctx, policy, target, source, &copy.Options{
		SourceCtx:          anyone,
		DestinationCtx:     anyone,
		ImageListSelection: copy.CopyAllImages,
	})
	return err
}

// parse knows the two transports that are measured. The library's own list of all of them
// would need C libraries.
func parse(place string) (types.ImageReference, error) {
	transport, rest, _ := strings.Cut(place, ":")
	switch transport {
	case docker.Transport.Name():
		return docker.Transport.ParseReference(rest)
	case ociarchive.Transport.Name():
		return ociarchive.Transport.ParseReference(rest)
	}
	return nil, fmt.Errorf("%s: neither docker:// nor oci-archive:", place)
}
