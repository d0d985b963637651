package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// Locked is one image of a [Lock].
type Locked struct {
	// Image is the image by digest, repository@sha256:….
	Image name.Digest
	// Reference is the reference as the author wrote it.
	Reference string
}

// CalledBy returns the repository and the tag that the reference names. The tag is "" where there is a
// digest and no tag: nobody asked for latest then.
func (l Locked) CalledBy() (repository name.Repository, tag string) {
	text, _, pinned := strings.Cut(l.Reference, "@")
	ref, err := ParseReference(text)
	if err != nil {
		return l.Image.Context(), ""
	}
	tag = ref.Identifier()
	if pinned && !strings.HasSuffix(text, ":"+tag) {
		tag = ""
	}
	return ref.Context(), tag
}

// Lock names images by digest, ordered by Reference. On the wire it is imgpkg's ImagesLock
// (imgpkg.carvel.dev/v1alpha1, carvel.dev/imgpkg/docs/latest/resources).
type Lock []Locked

// Resolver knows the digest that a reference stands for now.
type Resolver interface {
	Resolve(ctx context.Context, ref name.Reference) (ocispec.Descriptor, error)
}

// WantedImage is a reference to lock and where it was found, for errors.
type WantedImage struct {
	Image string
	Where string
}

// ParseReference reads a reference as container runtimes do: without a registry it is
// Docker Hub's, without a tag :latest.
func ParseReference(image string) (name.Reference, error) {
	ref, err := name.ParseReference(image)
	if strings.HasPrefix(image, "/") {
		return nil, fmt.Errorf("%q is not an image reference: it begins with a slash", image)
	}
	if scheme, _, is := strings.Cut(image, "://"); is {
		return nil, fmt.Errorf("%q is not an image reference: unexpected scheme %s", image, scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not an image reference: %w", image, err)
	}
	if err := checkRepository(ref.Context()); err != nil {
		return nil, fmt.Errorf("%q is not an image reference: %w", image, err)
	}
	return ref, nil
}

// repositoryPath is how registries name repositories (distribution-spec v1.1, "Pulling manifests"). The parser of
// references takes any of these characters in any order, such as two dots that lead out of a folder.
var repositoryPath = lazyregexp.New(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)

// registryHost is a host that a reference may name.
var registryHost = lazyregexp.New(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?$`)

func checkRepository(repository name.Repository) error {
	if host := repository.RegistryStr(); !registryHost.MatchString(host) || strings.Contains(host, "..") {
		return fmt.Errorf("%q: not a registry", host)
	}
	if path := repository.RepositoryStr(); !repositoryPath.MatchString(path) {
		return fmt.Errorf("%q is not a repository", path)
	}
	return nil
}

// ResolveLock locks every wanted reference, each distinct one once and several at a time. Its error
// is about all that cannot be locked, in the order of the references.
func ResolveLock(ctx context.Context, wanted []WantedImage, resolver Resolver) (Lock, error) {
	if resolver == nil && len(wanted) > 0 {
		return nil, errors.New("lock images: resolver is nil")
	}
	first := map[string]string{}
	for _, w := range wanted {
		if _, known := first[w.Image]; !known {
			first[w.Image] = w.Where
		}
	}
	lock := make(Lock, 0, len(first))
	for image := range first {
		lock = append(lock, Locked{Reference: image})
	}
	lock.sortByReference()
	failed := make([]error, len(lock))
	group, resolving := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range lock {
		group.Go(func() error {
			if err := lock[i].resolveImage(resolving, resolver); err != nil {
				failed[i] = fmt.Errorf("%s: %w", first[lock[i].Reference], err)
			}
			return resolving.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return lock, errors.Join(failed...)
}

func (l *Locked) resolveImage(ctx context.Context, resolver Resolver) error {
	ref, err := ParseReference(l.Reference)
	if err != nil {
		return err
	}
	desc, err := resolver.Resolve(ctx, ref)
	if err != nil {
		return fmt.Errorf("image %s: %w", l.Reference, err)
	}
	if kind := oldManifests[desc.MediaType]; kind != "" {
		return fmt.Errorf("image %s: %s is %s (%s), which registries no longer accept: push it again with a current tool", l.Reference, desc.Digest, kind, desc.MediaType)
	}
	l.Image = ref.Context().Digest(desc.Digest.String())
	return l.checkDigest()
}

// oldManifests are the kinds that no registry of today takes in, and some still give.
var oldManifests = map[string]string{
	oci.MediaTypeDockerSchema1:                      "a manifest of Docker's schema 1",
	oci.MediaTypeDockerSchema1Unsigned:              "a manifest of Docker's schema 1",
	"application/vnd.oci.artifact.manifest.v1+json": "an artifact manifest, which OCI took back",
}

// checkDigest holds a reference that has a digest to it: it is that image and no other.
func (l Locked) checkDigest() error {
	_, digest, pinned := strings.Cut(l.Reference, "@")
	if pinned && digest != l.Image.DigestStr() {
		return fmt.Errorf("image %s is locked to %s, which contradicts its digest", l.Reference, l.Image.DigestStr())
	}
	return nil
}

func (l Lock) sortByReference() {
	slices.SortFunc(l, func(a, b Locked) int { return cmp.Compare(a.Reference, b.Reference) })
}

// Merge returns the lock with what another one has, ordered by Reference.
func (l Lock) Merge(other Lock) Lock {
	if len(other) == 0 {
		return l
	}
	all := slices.Concat(l, other)
	all.sortByReference()
	return all
}

// DistinctImages returns the distinct images, in order of their names.
func (l Lock) DistinctImages() []name.Digest {
	var digests []name.Digest
	seen := map[string]bool{}
	for _, locked := range l {
		if d := locked.Image.DigestStr(); !seen[d] {
			seen[d] = true
			digests = append(digests, locked.Image)
		}
	}
	return digests
}

// The wire format. It is parsed strictly by imgpkg: not one field more.
type imagesLock struct {
	APIVersion string        `yaml:"apiVersion"`
	Kind       string        `yaml:"kind"`
	Images     []lockedImage `yaml:"images"`
}

type lockedImage struct {
	Image       string            `yaml:"image"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

const (
	lockAPIVersion = "imgpkg.carvel.dev/v1alpha1"
	lockKind       = "ImagesLock"
	// idAnnotation holds the reference that kbld and krtpkg replace.
	idAnnotation = "kbld.carvel.dev/id"
)

// Marshal writes the lock as an ImagesLock.
func (l Lock) Marshal() ([]byte, error) {
	wire := imagesLock{APIVersion: lockAPIVersion, Kind: lockKind, Images: []lockedImage{}}
	for _, locked := range l {
		wire.Images = append(wire.Images, lockedImage{
			Image:       locked.Image.Name(),
			Annotations: map[string]string{idAnnotation: locked.Reference},
		})
	}
	return manifest.EncodeYAML(wire)
}

// UnmarshalLock reads an ImagesLock. An image without a digest is an error, and so is a reference
// with two, in the lock or in itself and the lock: which of them would run?
func UnmarshalLock(file string, data []byte) (Lock, error) {
	var wire imagesLock
	if err := manifest.DecodeMetadata(file, data, &wire); err != nil && err != io.EOF {
		var placed *manifest.Error
		if errors.As(err, &placed) {
			return nil, placed
		}
		return nil, &manifest.Error{File: file, Problem: err.Error()}
	}
	if wire.APIVersion != lockAPIVersion || wire.Kind != lockKind {
		return nil, &manifest.Error{File: file, Problem: fmt.Sprintf("is %s %s, want %s %s", wire.APIVersion, wire.Kind, lockAPIVersion, lockKind)}
	}
	lock := make(Lock, 0, len(wire.Images))
	locked := make(map[string]string, len(wire.Images))
	for _, image := range wire.Images {
		digest, err := name.NewDigest(image.Image)
		if err != nil {
			return nil, &manifest.Error{File: file, Problem: fmt.Sprintf("image %q is not pinned by digest: %v", image.Image, err)}
		}
		if err := checkRepository(digest.Context()); err != nil {
			return nil, &manifest.Error{File: file, Problem: fmt.Sprintf("image %q: %v", image.Image, err)}
		}
		reference := cmp.Or(image.Annotations[idAnnotation], image.Image)
		if named, _, _ := strings.Cut(reference, "@"); named != "" {
			if _, err := ParseReference(named); err != nil {
				return nil, &manifest.Error{File: file, Problem: err.Error()}
			}
		}
		if first, twice := locked[reference]; twice && first != digest.DigestStr() {
			return nil, &manifest.Error{File: file, Problem: fmt.Sprintf("reference %q is locked to two images", reference)}
		}
		locked[reference] = digest.DigestStr()
		one := Locked{Image: digest, Reference: reference}
		if err := one.checkDigest(); err != nil {
			return nil, &manifest.Error{File: file, Problem: err.Error()}
		}
		lock = append(lock, one)
	}
	lock.sortByReference()
	return lock, nil
}

// Relocate replaces each image that a finder finds in the file by what the lock names, at the
// place that locate gives for it, and returns the new bytes. An image that is not locked
// is an error: nothing outside the lock is ever run.
func (l Lock) Relocate(f *manifest.File, finder *Finder, locate func(name.Digest) string) ([]byte, error) {
	found, err := finder.Find(f)
	if err != nil {
		return nil, err
	}
	return l.RelocateFound(f, found, locate)
}

// RelocateFound is [Lock.Relocate] for all that was found in the file.
func (l Lock) RelocateFound(f *manifest.File, found []Found, locate func(name.Digest) string) ([]byte, error) {
	byReference := make(map[string]name.Digest, len(l))
	for _, locked := range l {
		byReference[locked.Reference] = locked.Image
	}
	for _, image := range found {
		switch {
		case image.State == Suspect && image.IsRun():
			return nil, image.Errorf("image %q is not a valid reference, so it cannot be in the image lock", image.Image)
		case image.State != Image:
			continue
		}
		locked, ok := byReference[image.Image]
		if !ok {
			return nil, image.Errorf("image %q is not in the image lock", image.Image)
		}
		values, err := image.rewriteParts(locate(locked))
		if err != nil {
			return nil, err
		}
		for i, value := range values {
			if err := f.ReplaceSpan(image.parts[i].span, value); err != nil {
				return nil, image.Errorf("image %q: %v", image.Image, err)
			}
		}
	}
	return f.EditedBytes()
}
