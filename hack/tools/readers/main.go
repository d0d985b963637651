// Command readers reads what krtpkg writes with the code of container runtimes: containerd's
// import of archives and its hosts.toml, and the image library of skopeo, Podman and CRI-O.
//
//	readers import ARCHIVE                 the images that "ctr images import" finds, each with its digest
//	readers copy ARCHIVE NAME DIR          "skopeo copy oci-archive:ARCHIVE:NAME dir:DIR"
//	readers pull IMAGE DIR                 "skopeo copy --all --src-tls-verify=false docker://IMAGE dir:DIR"
//	readers hosts DIR REGISTRY             where containerd looks for a registry's images
//	readers registries FILE IMAGE          where CRI-O and Podman look for an image
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/containerd/v2/plugins/content/local"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	ociarchive "go.podman.io/image/v5/oci/archive"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "readers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "import":
		return importArchive(ctx, args[1])
	case len(args) == 4 && args[0] == "copy":
		from, err := ociarchive.NewReference(args[1], args[2])
		if err != nil {
			return err
		}
		return copyImage(ctx, from, args[3])
	case len(args) == 3 && args[0] == "pull":
		from, err := docker.ParseReference("//" + args[1])
		if err != nil {
			return err
		}
		return copyImage(ctx, from, args[2])
	case len(args) == 3 && args[0] == "hosts":
		return hosts(args[1], args[2])
	case len(args) == 3 && args[0] == "registries":
		return registries(args[1], args[2])
	}
	return fmt.Errorf("unknown command %q", args)
}

// importArchive does what ctr does before it unpacks: it takes the archive into a content
// store, and lists what has containerd's annotation for names.
func importArchive(ctx context.Context, name string) error {
	dir, err := os.MkdirTemp("", "containerd-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := local.NewStore(dir)
	if err != nil {
		return err
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	index, err := archive.ImportIndex(ctx, store, file)
	if err != nil {
		return err
	}
	data, err := content.ReadBlob(ctx, store, index)
	if err != nil {
		return err
	}
	found, err := images.Children(ctx, store, index)
	if err != nil {
		return fmt.Errorf("%s: %w", data, err)
	}
	for _, desc := range found {
		name := desc.Annotations[images.AnnotationImageName]
		if name == "" {
			continue
		}
		// All of it is there: what is missing cannot be read.
		err := images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			if _, err := store.Info(ctx, d.Digest); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			return images.Children(ctx, store, d)
		}), desc)
		if err != nil {
			return err
		}
		fmt.Println(name, desc.Digest)
	}
	return nil
}

func copyImage(ctx context.Context, from types.ImageReference, dir string) error {
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	to, err := directory.NewReference(dir)
	if err != nil {
		return err
	}
	_, err = copy.Image(ctx, policy, to, from, &copy.Options{
		ImageListSelection: copy.CopyAllImages, PreserveDigests: true,
		SourceCtx: &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue, SystemRegistriesConfPath: os.DevNull, SystemRegistriesConfDirPath: os.DevNull},
	})
	return err
}

func hosts(dir, registry string) error {
	found, err := config.HostDirFromRoot(dir)(registry)
	if err != nil {
		return err
	}
	list, err := config.ConfigureHosts(context.Background(), config.HostOptions{HostDir: func(string) (string, error) { return found, nil }})(registry)
	if err != nil {
		return err
	}
	for _, h := range list {
		fmt.Printf("%s://%s%s %d\n", h.Scheme, h.Host, h.Path, h.Capabilities)
	}
	return nil
}

func registries(file, image string) error {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return err
	}
	registry, err := sysregistriesv2.FindRegistry(&types.SystemContext{SystemRegistriesConfPath: file, SystemRegistriesConfDirPath: os.DevNull}, named.Name())
	if err != nil {
		return err
	}
	if registry == nil {
		return fmt.Errorf("nothing is said of %s", image)
	}
	sources, err := registry.PullSourcesFromReference(named)
	if err != nil {
		return err
	}
	for _, s := range sources {
		fmt.Println(s.Reference, s.Endpoint.Insecure)
	}
	return nil
}
