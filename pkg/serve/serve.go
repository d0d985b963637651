// Package serve is a read-only registry (OCI distribution-spec v1.1, pull and content
// discovery) of archives and layouts: [NewServer] creates it, [RequireLogin] adds logins, and [Run]
// serves it on a listener.
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

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// Options are the parameters of serving.
type Options struct {
	// Repository is the name under which roots are found; each root's own when empty.
	Repository string
	// Verify is called for every root before anything is served, and nothing but what belongs to them is served then;
	// nil verifies nothing, and serves all that the stores hold.
	Verify func(ctx context.Context, source transfer.Source) error
	// AllowRenamedTags lets a tag that is a version lead to another one.
	AllowRenamedTags bool
	// TemporaryDir is the folder in which layers are made that archives have as deltas; the system's
	// when empty.
	TemporaryDir string
}

// Root is a bundle or a runtime that is served.
type Root struct {
	// Repository and Tag are its name, Digest what it stands for.
	Repository, Tag string
	Digest          digest.Digest
}

// Server serves what stores hold. It is an [net/http.Handler].
//
// Tags are those that the stores had when it was made. All content is found under each of its
// repositories, by digest, as it is at the moment of the request; if roots were verified, of what belonged to them
// when it was made.
type Server struct {
	stores storeList
	roots  []Root
	// verified is what belongs to roots that were verified; nil if nothing was.
	verified closure
	// layers has the layers that deltas made; nil if there are none.
	layers *layerFile
	// repositories are those of the roots, and of images by upstream's names.
	repositories map[string]*repository
	// short are those of images by upstream's names without the registry.
	short map[string]*repository
}

// repository is what is known by one name.
type repository struct {
	// tags are what they stand for; "" for one that stands for different things.
	tags map[string]digest.Digest
	// stores are those with roots of this name.
	stores storeList
}

// NewServer returns a server of stores, each of which must name a bundle or a runtime. What one
// leaves out must be in another. If two locks have different digests for an image's tag, the first
// one counts. The caller closes it. It returns [*LackingError].
func NewServer(ctx context.Context, list []Store, o Options) (*Server, error) {
	for i, store := range list {
		if store == nil {
			return nil, fmt.Errorf("serve: store %d of %d is nil", i+1, len(list))
		}
	}
	s := &Server{stores: slices.Clone(list), repositories: map[string]*repository{}, short: map[string]*repository{}}
	if err := s.open(ctx, o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close removes the layers that were made.
func (s *Server) Close() error {
	if s.layers == nil {
		return nil
	}
	return s.layers.Close()
}

func (s *Server) open(ctx context.Context, o Options) error {
	deltas, err := s.stores.listDeltas(ctx)
	if err != nil {
		return err
	}
	if err := s.stores.checkComplete(ctx, deltas); err != nil {
		return err
	}
	opened, err := s.openRoots(ctx, o)
	if err != nil {
		return err
	}
	// Deltas write to disk, so they come after verification.
	if len(deltas) > 0 {
		if err := s.unpackDeltas(ctx, o, opened); err != nil {
			return err
		}
		if err := s.stores.checkComplete(ctx, nil); err != nil {
			return err
		}
	}
	if o.Verify != nil {
		s.verified = closure{}
	}
	for _, root := range opened {
		if err := s.addRoot(s.stores[root.store], root.source, cmp.Or(o.Repository, root.set.Name())); err != nil {
			return err
		}
		if s.verified == nil {
			continue
		}
		if err := s.addSet(ctx, s.verified, root.set); err != nil {
			return err
		}
	}
	// Roots come first: their names are theirs, whatever images are called.
	for _, root := range opened {
		for _, b := range root.set.Bundles {
			s.addImages(b.Images.Merge(b.Cargo))
		}
	}
	slices.SortFunc(s.roots, func(a, b Root) int {
		return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Tag, b.Tag))
	})
	return nil
}

// openedRoot is a root that was verified, if that was asked for.
type openedRoot struct {
	// store is the number of the store that names it.
	store  int
	source transfer.Source
	set    *bundle.Set
}

// openRoots verifies and opens the roots of all stores.
func (s *Server) openRoots(ctx context.Context, o Options) (opened []openedRoot, err error) {
	for i, store := range s.stores {
		sources, err := transfer.FindRoots(ctx, store)
		if err != nil {
			return nil, err
		}
		for _, source := range sources {
			if o.Verify != nil {
				if err := o.Verify(ctx, source); err != nil {
					return nil, err
				}
			}
			set, err := bundle.OpenSet(ctx, s.stores, source.Root)
			if err != nil {
				return nil, err
			}
			for _, tag := range source.Tags {
				if err := set.Root.Metadata().CheckTag(tag); err != nil && !o.AllowRenamedTags {
					return nil, err
				}
			}
			opened = append(opened, openedRoot{i, source, set})
		}
	}
	return opened, nil
}

// Roots returns what is served, by name.
func (s *Server) Roots() []Root { return s.roots }

func (s *Server) addRoot(store Store, source transfer.Source, name string) error {
	if !IsRepository(name) {
		return fmt.Errorf("%q is not a repository name", name)
	}
	r := repositoryNamed(s.repositories, name)
	if !slices.Contains(r.stores, store) {
		r.stores = append(r.stores, store)
	}
	for _, tag := range source.Tags {
		switch other, taken := r.tags[tag]; {
		case !taken:
			r.tags[tag] = source.Root.Digest
			s.roots = append(s.roots, Root{name, tag, source.Root.Digest})
		case other != source.Root.Digest:
			return fmt.Errorf("%s:%s is both %s and %s", name, tag, other, source.Root.Digest)
		}
	}
	return nil
}

// addImages registers images under their upstream names, with the registry (as in a mirror that keeps upstream's
// paths) and without (for users who leave the registry out).
func (s *Server) addImages(lock images.Lock) {
	for _, locked := range lock {
		if bundle.IsFile(locked.Image) {
			continue // nobody asks for it by a name
		}
		repository, tag := locked.CalledBy()
		full := repositoryNamed(s.repositories, transfer.UpstreamPath(repository))
		short := repositoryNamed(s.short, repository.RepositoryStr())
		if tag == "" {
			continue
		}
		d := digest.Digest(locked.Image.DigestStr())
		if _, taken := full.tags[tag]; !taken {
			full.tags[tag] = d
		}
		if other, taken := short.tags[tag]; taken && other != full.tags[tag] {
			d = "" // two registries have it, and the name does not say which
		} else {
			d = full.tags[tag]
		}
		short.tags[tag] = d
	}
}

func repositoryNamed(all map[string]*repository, name string) *repository {
	if all[name] == nil {
		all[name] = &repository{tags: map[string]digest.Digest{}}
	}
	return all[name]
}

// findRepository finds a repository by the name that it is asked for. containerd asks a mirror for
// the path alone, and says by ns which registry's it is (containerd: docs/hosts.md): what
// another registry has by that path is not it. Roots are found whatever ns is, since where
// bundles are relocated to is the site's choice.
func (s *Server) findRepository(name, ns string) *repository {
	if ns == "" {
		return cmp.Or(s.repositories[name], s.short[name])
	}
	return cmp.Or(s.repositories[strings.ReplaceAll(ns, ":", "_")+"/"+name], s.repositories[name])
}

// listTags returns the tags in order, also those by which signatures are attached.
func (s *Server) listTags(ctx context.Context, r *repository) ([]string, error) {
	all := maps.Clone(r.tags)
	maps.DeleteFunc(all, func(_ string, d digest.Digest) bool { return d == "" })
	for _, store := range r.stores {
		err := store.Tags(ctx, "", func(page []string) error {
			for _, tag := range page {
				if isAttached(tag) && s.isServedTag(tag) {
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

// isAttached is true of tags that attach something to a digest: cosign's, and the referrers
// tag schema's. They mean the same in every repository.
func isAttached(tag string) bool { return strings.HasPrefix(tag, "sha256-") }
