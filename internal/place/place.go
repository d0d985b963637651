// Package place reads what users type for where an artifact is: a registry's repository, an
// OCI layout or an archive. [Parse] reads it, [Place.Open] gives the store behind it.
package place

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	remote "oras.land/oras-go/v2/registry"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/registry"
)

// Place is a parsed reference:
//
//	registry.example/krt/edge:1.4.0     a registry's repository
//	oci:./dist:1.4.0                    an OCI layout's folder
//	./edge-1.4.0.tar                    an archive
//
// each with a tag, a digest (@sha256:…) or neither.
type Place struct {
	// One of these is set: a repository as host/path, a layout's folder, an archive's file.
	Repository, Dir, File string
	// Tag and Digest are what is meant there; the digest wins.
	Tag    string
	Digest digest.Digest
}

// Store is the content of a place, to read.
type Store interface {
	oras.ReadOnlyGraphTarget
	// Tags calls fn with the tags after last, in order, a page at a time.
	Tags(ctx context.Context, last string, fn func(tags []string) error) error
}

// manifestResolver is a store that returns what a reference names and its manifest in one answer.
type manifestResolver interface {
	ResolveToRead(ctx context.Context, reference string) (ocispec.Descriptor, error)
}

// Target is the content of a place that can be written to.
type Target interface {
	Store
	content.Pusher
	content.Tagger
}

// What references are, for who writes something else.
const (
	anyForm    = "REGISTRY/REPOSITORY:TAG, oci:FOLDER:TAG or FILE.tar"
	targetForm = "oci:FOLDER[:TAG] or REGISTRY/REPOSITORY[:TAG]"
)

// Parse reads a reference.
func Parse(s string) (Place, error) { return parse(s, anyForm) }

// ParseTarget reads where to put what is built: a registry's repository or a folder, with or without a tag.
func ParseTarget(s string) (Place, error) {
	p, err := parse(s, targetForm)
	switch {
	case err != nil:
		return Place{}, err
	case p.File != "":
		return Place{}, fmt.Errorf("%q is an archive: want %s; krtpkg export writes archives", s, targetForm)
	case p.Digest != "":
		return Place{}, fmt.Errorf("%q has a digest: want %s", s, targetForm)
	}
	return p, nil
}

func parse(s, form string) (Place, error) {
	if rest, ok := strings.CutPrefix(s, "oci://"); ok {
		return Place{}, fmt.Errorf("%q is a URL: write %s for a registry; a folder is oci:FOLDER, with one slash if it is absolute", s, rest)
	}
	if rest, ok := strings.CutPrefix(s, "oci:"); ok {
		return parseLayout(s, rest)
	}
	if file, p, err := splitReference(s); err == nil && isArchive(file) {
		p.File = filepath.Clean(file)
		return p, nil
	}
	if file, _, err := splitReference(s); err == nil && isFile(file, ".tar.gz", ".tgz") {
		return Place{}, fmt.Errorf("%q is compressed by gzip, and archives are not: gunzip it to FILE.tar, or compress by zstd to FILE.tar.zst", s)
	}
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "/") {
		return Place{}, fmt.Errorf("%q is a path: write oci:%s for an OCI layout; archives end in .tar", s, s)
	}
	if _, rest, ok := strings.Cut(s, "://"); ok {
		return Place{}, fmt.Errorf("%q is a URL: write it without the scheme, %s", s, rest)
	}
	host, _, hasPath := strings.Cut(s, "/")
	if !hasPath || !isHost(host) {
		return Place{}, fmt.Errorf("%q is not a reference: want %s", s, form)
	}
	repository, p, err := splitReference(s)
	if err != nil {
		return Place{}, fmt.Errorf("%q is not a reference: %w", s, err)
	}
	repo, err := name.NewRepository(repository, name.StrictValidation)
	if err != nil {
		return Place{}, fmt.Errorf("%q is not a reference: %w", s, err)
	}
	ref := remote.Reference{Registry: repo.RegistryStr(), Repository: repo.RepositoryStr(), Reference: p.Tag}
	if err := ref.Validate(); err != nil {
		return Place{}, fmt.Errorf("%q is not a reference: %w", s, err)
	}
	p.Repository = repo.Name()
	return p, nil
}

// isArchive reports whether a name is an archive's.
func isArchive(name string) bool { return isFile(name, ".tar", ".tar.zst") }

// isFile reports whether a name is a file's by its ending, unless it is a repository's.
func isFile(name string, endings ...string) bool {
	if !slices.ContainsFunc(endings, func(ending string) bool { return strings.HasSuffix(name, ending) }) {
		return false
	}
	host, _, hasPath := strings.Cut(filepath.ToSlash(name), "/")
	return !hasPath || strings.HasPrefix(name, ".") || !isHost(host)
}

// isHost reports whether the first part of a name is a registry: container runtimes look for
// krt/edge on Docker Hub, but nobody who forgets the registry means to publish there.
func isHost(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:")
}

// splitReference takes the tag and the digest off a reference. Both are in its last part: folders may
// have : and @ in their names.
func splitReference(s string) (string, Place, error) {
	p := Place{}
	last := strings.LastIndexAny(s, `/\`) + 1
	if i := strings.Index(s[last:], "@"); i >= 0 {
		var err error
		if p.Digest, err = digest.Parse(s[last+i+1:]); err != nil {
			if errors.Is(err, digest.ErrDigestInvalidLength) {
				err = fmt.Errorf("%w: krtpkg inspect prints the whole digest", err)
			}
			return "", p, fmt.Errorf("digest %q: %w", s[last+i+1:], err)
		}
		s = s[:last+i]
	}
	if i := strings.LastIndex(s[last:], ":"); i >= 0 {
		// A version's + is _ in its tag, which has no +.
		if p.Tag = strings.ReplaceAll(s[last+i+1:], "+", "_"); p.Tag == "" {
			return "", p, errors.New("the tag is empty")
		}
		s = s[:last+i]
	}
	return s, p, nil
}

func parseLayout(s, rest string) (Place, error) {
	dir, p, err := splitReference(rest)
	if err != nil {
		return Place{}, fmt.Errorf("%q is not a reference: %w", s, err)
	}
	if dir == "" {
		return Place{}, fmt.Errorf("%q names no folder: want oci:FOLDER or oci:FOLDER:TAG", s)
	}
	p.Dir = filepath.Clean(dir)
	return p, nil
}

// NotFoundError is the error of a place where nothing is. It is [errdef.ErrNotFound].
type NotFoundError struct{ Place Place }

func (e *NotFoundError) Error() string { return e.Place.String() + ": " + errdef.ErrNotFound.Error() }

func (e *NotFoundError) Unwrap() error { return errdef.ErrNotFound }

// String returns the reference as one would type it.
func (p Place) String() string {
	s := p.Location()
	if p.Tag != "" {
		s += ":" + p.Tag
	}
	if p.Digest != "" {
		s += "@" + p.Digest.String()
	}
	return s
}

// Location returns the place without its tag and digest.
func (p Place) Location() string {
	switch {
	case p.Dir != "":
		return "oci:" + p.Dir
	case p.File != "":
		return p.File
	}
	return p.Repository
}

// WithTag returns the place with another tag, and no digest.
func (p Place) WithTag(tag string) Place {
	p.Tag, p.Digest = tag, ""
	return p
}

// IsRegistry reports whether the place is a registry's repository.
func (p Place) IsRegistry() bool { return p.Repository != "" }

// Open returns the store at a place that is there already.
func (p Place) Open(ctx context.Context, client *registry.Client) (Store, error) {
	switch {
	case p.Dir != "":
		return layout.Open(p.Dir)
	case p.File != "":
		return archive.OpenSet(ctx, p.File)
	}
	return client.Repository(ctx, p.Repository)
}

// Single returns the one reference among arguments. The volumes of one archive are one, as a shell
// expands edge.* to them; any of them may have the tag or digest. Parity volumes are found next to them.
func Single(args []string) (string, error) {
	if len(args) > 1 {
		args = slices.DeleteFunc(slices.Clone(args), archive.IsParityVolume)
	}
	if len(args) == 0 {
		return "", errors.New("only parity volumes: want a volume of the archive")
	}
	if len(args) == 1 {
		return args[0], nil
	}
	several := fmt.Errorf("%d references: want one, or the volumes of one archive", len(args))
	file, p, err := splitReference(args[0])
	if err != nil {
		return "", err
	}
	p.File = file
	siblings, isVolume := archive.Siblings(file)
	for _, arg := range args[1:] {
		name, other, err := splitReference(arg)
		if err != nil || !isVolume || !slices.Contains(siblings, name) {
			return "", several
		}
		if other.Tag != "" || other.Digest != "" {
			if p.Tag != "" || p.Digest != "" {
				return "", several
			}
			p.Tag, p.Digest = other.Tag, other.Digest
		}
	}
	return p.String(), nil
}

// Create returns the store at a place to write to; a layout is made if need be.
func (p Place) Create(ctx context.Context, client *registry.Client) (Target, error) {
	switch {
	case p.Dir != "":
		return layout.Create(p.Dir)
	case p.File != "":
		return nil, fmt.Errorf("%s is an archive, which cannot be changed: copy it to a folder (oci:FOLDER), and export that", p.File)
	}
	return client.Repository(ctx, p.Repository)
}

// Resolve finds the manifest that the place means. Without tag and digest that is the only
// tag there is, which becomes the place's.
func (p *Place) Resolve(ctx context.Context, store Store) (ocispec.Descriptor, error) {
	if p.Tag == "" && p.Digest == "" {
		only, err := p.onlyTag(ctx, store)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		p.Tag = only
	}
	reference := p.Tag
	if p.Digest != "" {
		reference = p.Digest.String()
	}
	resolve := store.Resolve
	if registry, is := store.(manifestResolver); is {
		resolve = registry.ResolveToRead
	}
	desc, err := resolve(ctx, reference)
	if errors.Is(err, errdef.ErrNotFound) {
		return ocispec.Descriptor{}, &NotFoundError{*p}
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve %s: %w", p, err)
	}
	if p.Digest != "" && desc.Digest != p.Digest {
		return ocispec.Descriptor{}, fmt.Errorf("%s: got %s: %w", p, desc.Digest, content.ErrMismatchedDigest)
	}
	return desc, nil
}

func (p Place) onlyTag(ctx context.Context, store Store) (string, error) {
	if p.IsRegistry() {
		return "", fmt.Errorf("%s has no version: want a tag or a digest, as in %s:1.0.0", p, path.Base(p.Repository))
	}
	var tags []string
	err := store.Tags(ctx, "", func(page []string) error {
		for _, tag := range page {
			// Not signatures and referrers, nor images by their full names.
			if !strings.HasPrefix(tag, "sha256-") && !strings.ContainsAny(tag, "/:") {
				tags = append(tags, tag)
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if len(tags) != 1 {
		return "", fmt.Errorf("%s has no version, want one of %d: %s", p, len(tags), strings.Join(tags, ", "))
	}
	return tags[0], nil
}
