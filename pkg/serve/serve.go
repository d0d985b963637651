// Package serve is a read-only registry (OCI distribution-spec v1.1, pull and content
// discovery) straight from archives and layouts: [New] makes it of what they hold.
//
// The handler is our own: registries that exist as libraries keep manifests in memory and know
// each repository by one name, and here nothing is unpacked, and an image is found under the
// root's name as well as under upstream's.
package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// Store is what is served: an archive or a layout.
type Store interface {
	oras.ReadOnlyGraphTarget
	Tags(ctx context.Context, last string, fn func(tags []string) error) error
	// Stat gives the size of content.
	Stat(d digest.Digest) (int64, error)
}

// Options are the parameters of serving.
type Options struct {
	// Repository is the name under which roots are found; each root's own when empty.
	Repository string
	// Authorize says who may read; nil lets everybody.
	Authorize func(username, password string) bool
}

// Root is a bundle or a runtime that is served.
type Root struct {
	// Repository and Tag are its name, Digest what it stands for.
	Repository, Tag string
	Digest          digest.Digest
}

// Server serves what stores hold. It is an [net/http.Handler].
type Server struct {
	options Options
	stores  []Store
	roots   []Root
	// names are the tags of each repository: of the roots, and of images by upstream's names.
	names map[string]map[string]digest.Digest
	// own are the repositories of the roots, with the stores that they are in.
	own map[string][]Store
}

// New makes a server of stores, each of which has to name a bundle or a runtime.
func New(ctx context.Context, stores []Store, o Options) (*Server, error) {
	s := &Server{options: o, stores: stores, names: map[string]map[string]digest.Digest{}, own: map[string][]Store{}}
	for _, store := range stores {
		sources, err := transfer.RootsOf(ctx, store)
		if err != nil {
			return nil, err
		}
		for _, source := range sources {
			if err := s.add(ctx, store, source); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(s.roots, func(a, b Root) int {
		return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Tag, b.Tag))
	})
	return s, nil
}

// Roots are what is served, by name.
func (s *Server) Roots() []Root { return s.roots }

func (s *Server) add(ctx context.Context, store Store, source transfer.Source) error {
	set, err := bundle.OpenSet(ctx, store, source.Root)
	if err != nil {
		return err
	}
	repository := cmp.Or(s.options.Repository, set.Name())
	if !repositoryName.MatchString(repository) {
		return fmt.Errorf("%q is no name of a repository", repository)
	}
	if !slices.Contains(s.own[repository], store) {
		s.own[repository] = append(s.own[repository], store)
	}
	for _, tag := range source.Tags {
		if other, taken := s.names[repository][tag]; taken && other != source.Root.Digest {
			return fmt.Errorf("%s:%s is %s, and %s too", repository, tag, other, source.Root.Digest)
		}
		s.name(repository, tag, source.Root.Digest)
		s.roots = append(s.roots, Root{repository, tag, source.Root.Digest})
	}
	for _, b := range set.Bundles {
		for _, locked := range b.Images {
			s.addImage(locked)
		}
	}
	return nil
}

// addImage makes an image known by upstream's name, with its registry (as a mirror that keeps
// upstream's paths has it) and without (as containerd asks a mirror, with ?ns=REGISTRY).
func (s *Server) addImage(locked images.Locked) {
	repository, tag := locked.Image.Context(), ""
	d := digest.Digest(locked.Image.DigestStr())
	reference, _, _ := strings.Cut(locked.Reference, "@")
	if ref, err := images.ParseReference(reference); err == nil {
		repository, tag = ref.Context(), ref.Identifier()
	}
	for _, name := range []string{transfer.UpstreamPath(repository), repository.RepositoryStr()} {
		s.name(name, tag, d)
	}
}

func (s *Server) name(repository, tag string, d digest.Digest) {
	if s.names[repository] == nil {
		s.names[repository] = map[string]digest.Digest{}
	}
	if tag != "" {
		s.names[repository][tag] = d
	}
}

// tags are those of a repository, in order.
func (s *Server) tags(ctx context.Context, repository string) ([]string, error) {
	all := maps.Clone(s.names[repository])
	for _, store := range s.own[repository] {
		err := store.Tags(ctx, "", func(page []string) error {
			for _, tag := range page {
				if strings.HasPrefix(tag, "sha256-") {
					all[tag] = ""
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// resolve finds a manifest, and the store that has it.
func (s *Server) resolve(ctx context.Context, repository, reference string) (Store, ocispec.Descriptor, error) {
	if d, ok := s.names[repository][reference]; ok {
		reference = d.String()
	} else if digest.Digest(reference).Validate() != nil {
		if !strings.HasPrefix(reference, "sha256-") {
			return nil, ocispec.Descriptor{}, errdef.ErrNotFound
		}
		return find(ctx, s.own[repository], reference) // what is attached by a tag
	}
	return find(ctx, s.stores, reference)
}

func find(ctx context.Context, stores []Store, reference string) (Store, ocispec.Descriptor, error) {
	for _, store := range stores {
		desc, err := store.Resolve(ctx, reference)
		if err == nil || !errors.Is(err, errdef.ErrNotFound) {
			return store, desc, err
		}
	}
	return nil, ocispec.Descriptor{}, errdef.ErrNotFound
}
