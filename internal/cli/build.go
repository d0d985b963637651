package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

func (a *app) buildCommand() *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build -f DEFINITION",
		Short: "build a bundle or a runtime from its definition",
		Long: `Build fetches the sources of a definition, finds and locks the images, and packs everything
into an artifact that has the same bytes on every machine.

It tags the result with its version and prints its reference with the digest. To a folder it copies
no images: push and copy do; to a registry it copies them too.`,
		Example: `  krtpkg build -f runtime.yaml
  krtpkg build -f bundles/contour --to oci:dist
  krtpkg build -f runtime.yaml --to registry.example/krt/edge
  krtpkg build -f runtime.yaml --source-mirror https://github.com/=./mirror/`,
		GroupID: groupMake,
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runBuild(cmd.Context(), o) },
	}
	flags := cmd.Flags()
	fileFlag(cmd, &o.definition)
	flags.StringVar(&o.to, "to", "oci:dist", "target: oci:FOLDER[:TAG] or REGISTRY/REPOSITORY[:TAG]")
	flags.StringSliceVar(&o.platforms, "platform", nil, "lock images for these platforms only, as os/arch[/variant]; this changes digests (see the notes it prints), and images with a digest keep all platforms")
	flags.BoolVar(&o.locked, "locked", false, "fail if a source or an image differs from the lock file")
	outputFlag(cmd, &o.format)
	return cmd
}

type buildOptions struct {
	definition, to string
	platforms      []string
	locked         bool
	format         ui.Format
}

func (a *app) runBuild(ctx context.Context, o buildOptions) (err error) {
	to, err := place.ParseTarget(o.to)
	if err != nil {
		return &usageError{fmt.Errorf("--to %w", err)}
	}
	client, err := a.newClient()
	if err != nil {
		return err
	}
	when, err := createdTime(os.Getenv)
	if err != nil {
		return err
	}
	metadata, err := assemble.ReadMetadata(o.definition)
	if err != nil {
		return err
	}
	if err := metadata.CheckTag(to.Tag); err != nil && !a.settings.allowRenamed {
		return fmt.Errorf("build %s: %w", o.definition, err)
	}
	if to.Tag == "" {
		to.Tag = bundle.VersionTag(metadata.Version)
	}
	dir := to.Dir
	if to.IsRegistry() {
		if dir, err = os.MkdirTemp("", "krtpkg-build-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	store, err := layout.Create(dir)
	if err != nil {
		return err
	}
	if !to.IsRegistry() {
		if err := checkOwner(ctx, store, to, metadata.Name); err != nil {
			return err
		}
	}
	resolver, err := images.ForPlatforms(client, client, store, o.platforms, a.ui.Progress("lock"))
	if err != nil {
		return &usageError{err}
	}
	options := a.buildOptionsWith(client)
	options.Store, options.Images, options.Created, options.Locked = store, resolver, when, o.locked
	built, err := assemble.Build(ctx, o.definition, options)
	if err != nil {
		return err
	}
	if to.IsRegistry() {
		target, err := to.Create(ctx, client)
		if err != nil {
			return err
		}
		_, err = transfer.Copy(ctx, []transfer.Source{{Store: store, Root: built.Descriptor, Tags: []string{to.Tag}}}, target, transfer.Options{
			Origins: client, Progress: a.ui.Progress("push"),
		})
		if err != nil {
			return err
		}
	} else if err := store.Tag(ctx, built.Descriptor, to.Tag); err != nil {
		return err
	}
	for _, l := range built.LeftOut {
		a.ui.Say("note: %s is not a package for kapp-controller: %s", l.Bundle, l.Reason)
	}
	return a.printResult(ctx, o.format, newBuildResult(to, built), nil, func(w io.Writer) {
		ui.Fprintf(w, "%s@%s\n", to, built.Descriptor.Digest)
	})
}

// buildOptions returns the options of everything that reads a definition.
func (a *app) buildOptions() (assemble.Options, error) {
	client, err := a.newClient()
	if err != nil {
		return assemble.Options{}, err
	}
	return a.buildOptionsWith(client), nil
}

func (a *app) buildOptionsWith(client *registry.Client) assemble.Options {
	sources := a.settings.sources
	sources.Registry = client
	return assemble.Options{
		Store: memory.New(), Images: client, Upstream: client, Origins: client, Open: bundleOpener(client),
		Sources: sources, Progress: a.ui.Progress("built"),
	}
}

// checkOwner takes no tag of a folder from another product: definitions that are built into one folder
// often have equal versions.
func checkOwner(ctx context.Context, store *layout.Store, to place.Place, name string) error {
	at, err := store.Resolve(ctx, to.Tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := bundle.ReadManifest(ctx, store, at)
	if err != nil && !errors.Is(err, bundle.ErrNotOurs) {
		return err
	}
	if other := titleOf(m); other != name {
		return fmt.Errorf("%s belongs to %s: build %s to another target, such as --to oci:%s:%s-%s", to, other, name, to.Dir, name, to.Tag)
	}
	return nil
}

func titleOf(m *ocispec.Manifest) string {
	if m == nil {
		return "something else"
	}
	return m.Annotations[ocispec.AnnotationTitle]
}

// bundleOpener opens bundles that a runtime names by reference; folders are relative to the
// runtime's definition.
func bundleOpener(client *registry.Client) func(context.Context, string, string) (content.Fetcher, ocispec.Descriptor, error) {
	return func(ctx context.Context, ref, relativeTo string) (content.Fetcher, ocispec.Descriptor, error) {
		p, err := place.Parse(ref)
		if err != nil {
			return nil, ocispec.Descriptor{}, err
		}
		if p.Dir != "" && !filepath.IsAbs(p.Dir) {
			p.Dir = filepath.Join(relativeTo, p.Dir)
		}
		store, err := p.Open(ctx, client)
		if err != nil {
			return nil, ocispec.Descriptor{}, err
		}
		desc, err := p.Resolve(ctx, store)
		return store, desc, err
	}
}

func newBuildResult(at place.Place, b *assemble.Built) *result.Build {
	at.Digest = b.Descriptor.Digest
	r := &result.Build{Artifact: describeArtifact(b.Content, b.Descriptor.Digest, at.String()), Bundles: []result.BuiltBundle{}, LeftOut: []result.LeftOut{}}
	if b.Runtime == nil {
		r.ImageCount, r.CargoCount = len(b.Images.DistinctImages()), len(b.ListCargo())
		return r
	}
	seen := map[string]bool{}
	withoutManifests := 0
	for _, nested := range b.Bundles {
		if !nested.Bundle.HasManifests() {
			withoutManifests++
		}
		inner := at
		inner.Tag, inner.Digest = "", nested.Descriptor.Digest
		locked := nested.Images.DistinctImages()
		r.Bundles = append(r.Bundles, result.BuiltBundle{Artifact: describeArtifact(nested.Content, nested.Descriptor.Digest, inner.String()), ImageCount: len(locked)})
		r.CargoCount += len(nested.ListCargo())
		for _, d := range locked {
			seen[d.DigestStr()] = true
		}
	}
	r.ImageCount, r.PackageCount = len(seen), len(b.Bundles)-len(b.LeftOut)-withoutManifests
	for _, l := range b.LeftOut {
		r.LeftOut = append(r.LeftOut, result.LeftOut(l))
	}
	return r
}

// describeArtifact returns what results say of a bundle or a runtime.
func describeArtifact(c *bundle.Content, digest digest.Digest, reference string) result.Artifact {
	return catalog.DescribeArtifact(c, digest, reference)
}
