package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/memory"
)

// Git picks files of a commit (its whole id) of a repository, over https or ssh. For ssh the
// agent's keys and known_hosts count; for https a name and a token in the URL of a mirror. A
// mirror may be a folder with a repository, too. Each object is checked against its id.
// Submodules are not fetched: one that is picked is an error, and so is a file that Git LFS keeps
// elsewhere.
func (f *Fetcher) Git(ctx context.Context, repository, commit string, pick Pick) (*Tree, error) {
	tree, err := f.git(ctx, repository, commit, pick)
	if err != nil {
		return nil, fmt.Errorf("git %s at %s: %w", redacted(repository), commit, err)
	}
	return tree, nil
}

func (f *Fetcher) git(ctx context.Context, repository, commit string, pick Pick) (tree *Tree, err error) {
	from, isLocal, err := f.gitOrigin(repository)
	if err != nil {
		return nil, err
	}
	var repo *git.Repository
	if isLocal {
		repo, err = git.PlainOpen(from)
	} else {
		// On the disk: packs are as large as they are.
		dir, failed := os.MkdirTemp("", "krtpkg-git-*")
		if failed != nil {
			return nil, failed
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		repo, err = fetchCommit(ctx, dir, from, commit)
	}
	if err != nil {
		return nil, err
	}
	g, err := newGatherer(pick)
	if err != nil {
		return nil, err
	}
	c := &gitCommit{store: repo.Storer, g: g, blobs: map[string]plumbing.Hash{}}
	if err := c.gather(plumbing.NewHash(commit)); err != nil {
		return nil, err
	}
	if tree, err = g.tree(c.file); err != nil {
		return nil, err
	}
	tree.Commit = commit
	return tree, nil
}

// gitOrigin is where a repository is: an URL, or a folder.
func (f *Fetcher) gitOrigin(repository string) (from string, isLocal bool, err error) {
	from = f.mirrored(repository)
	if from != repository {
		local, isLocal := localPath(from)
		return local, isLocal, nil
	}
	scheme, _, hasScheme := strings.Cut(from, "://")
	isSCP := !hasScheme && strings.Contains(from, "@") && strings.Contains(from, ":")
	if !isSCP && scheme != "https" && scheme != "ssh" {
		return "", false, errors.New("only https and ssh are allowed")
	}
	return from, false, nil
}

// fetchCommit brings one commit into a new repository; all there is, where the server gives out
// branches and tags alone.
func fetchCommit(ctx context.Context, dir, from, commit string) (*git.Repository, error) {
	repo, err := git.PlainInit(dir, true)
	if err != nil {
		return nil, err
	}
	remote, err := repo.CreateRemote(&config.RemoteConfig{Name: "origin", URLs: []string{from}})
	if err != nil {
		return nil, err
	}
	err = remote.FetchContext(ctx, &git.FetchOptions{
		Depth: 1, Tags: git.NoTags,
		RefSpecs: []config.RefSpec{config.RefSpec(commit + ":refs/heads/krtpkg")},
	})
	if err == nil || ctx.Err() != nil || errors.Is(err, git.NoErrAlreadyUpToDate) {
		return repo, ctx.Err()
	}
	whole := remote.FetchContext(ctx, &git.FetchOptions{
		Tags:     git.AllTags,
		RefSpecs: []config.RefSpec{"+refs/heads/*:refs/heads/*"},
	})
	if whole != nil {
		return nil, err // the first failure says more
	}
	return repo, nil
}

// redacted is an URL without the secret in it.
func redacted(repository string) string {
	if u, err := url.Parse(repository); err == nil && u.User != nil {
		return u.Redacted()
	}
	return repository
}

// gitCommit reads the files of a commit.
type gitCommit struct {
	store storer.EncodedObjectStorer
	g     *gatherer
	blobs map[string]plumbing.Hash
}

func (c *gitCommit) gather(id plumbing.Hash) error {
	encoded, err := c.object(plumbing.CommitObject, id)
	if err != nil {
		return fmt.Errorf("there is no such commit: %w", err)
	}
	commit := &object.Commit{}
	if err := commit.Decode(encoded); err != nil {
		return err
	}
	return c.folder("", commit.TreeHash, 0)
}

// maxFolders is how deep folders are followed.
const maxFolders = 100

func (c *gitCommit) folder(at string, id plumbing.Hash, depth int) error {
	if depth > maxFolders {
		return fmt.Errorf("%s: over %d folders deep", at, maxFolders)
	}
	encoded, err := c.object(plumbing.TreeObject, id)
	if err != nil {
		return err
	}
	tree := &object.Tree{}
	if err := tree.Decode(encoded); err != nil {
		return err
	}
	for _, e := range tree.Entries {
		if strings.Contains(e.Name, "/") {
			return fmt.Errorf("entry %q leaves the tree", e.Name)
		}
		name, picked, err := c.g.enter(path.Join(at, e.Name))
		if err != nil {
			return err
		}
		switch e.Mode {
		case filemode.Dir:
			err = c.folder(name, e.Hash, depth+1)
		case filemode.Submodule:
			if rel, below := c.g.pick.below(name + "/"); below && !matches(strings.TrimSuffix(rel, "/"), c.g.pick.Exclude) {
				err = fmt.Errorf("%s is a submodule, which is not fetched: make it a source of its own, or exclude it", name)
			}
		case filemode.Symlink:
			var data []byte
			if data, err = c.blob(e.Hash); err == nil {
				c.g.links[name] = string(data)
			}
		default:
			c.blobs[name] = e.Hash
			if picked {
				var data []byte
				if data, err = c.file(name); err == nil {
					err = c.g.add(name, data)
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lfs begins a file that Git LFS keeps elsewhere (git-lfs, docs/spec.md).
var lfs = []byte("version https://git-lfs.github.com/spec/")

// file reads a file of the commit.
func (c *gitCommit) file(name string) ([]byte, error) {
	id, ok := c.blobs[name]
	if !ok {
		return nil, errors.New("it is not there")
	}
	data, err := c.blob(id)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if bytes.HasPrefix(data, lfs) {
		return nil, fmt.Errorf("%s is kept by Git LFS and is not in the repository: exclude it, or bring it as a source of its own", name)
	}
	return data, nil
}

func (c *gitCommit) blob(id plumbing.Hash) ([]byte, error) {
	encoded, err := c.object(plumbing.BlobObject, id)
	if err != nil {
		return nil, err
	}
	return content(encoded)
}

// object reads an object and checks it against its id.
func (c *gitCommit) object(kind plumbing.ObjectType, id plumbing.Hash) (plumbing.EncodedObject, error) {
	encoded, err := c.store.EncodedObject(kind, id)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", id, err)
	}
	if encoded.Size() > maxFile {
		return nil, fmt.Errorf("object %s: %d bytes are over the limit of %d", id, encoded.Size(), maxFile)
	}
	data, err := content(encoded)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", id, err)
	}
	if got := plumbing.ComputeHash(kind, data); got != id {
		return nil, &DigestError{Source: "git object", Got: got.String(), Want: id.String()}
	}
	return encoded, nil
}

func content(encoded plumbing.EncodedObject) (data []byte, err error) {
	r, err := encoded.Reader()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.ReadAll(r)
}

// GitRefs are the refs of a repository, by their whole names, and the commits they stand for.
func (f *Fetcher) GitRefs(ctx context.Context, repository string) (map[string]string, error) {
	refs, err := f.gitRefs(ctx, repository)
	if err != nil {
		return nil, fmt.Errorf("git %s: %w", redacted(repository), err)
	}
	commits := map[string]string{}
	// What an annotated tag points to comes after it, as TAG^{}.
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		commits[strings.TrimSuffix(name, "^{}")] = refs[name]
	}
	return commits, nil
}

func (f *Fetcher) gitRefs(ctx context.Context, repository string) (map[string]string, error) {
	from, isLocal, err := f.gitOrigin(repository)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	if !isLocal {
		remote := git.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{from}})
		refs, err := remote.ListContext(ctx, &git.ListOptions{PeelingOption: git.AppendPeeled})
		for _, ref := range refs {
			if ref.Type() == plumbing.HashReference {
				found[ref.Name().String()] = ref.Hash().String()
			}
		}
		return found, err
	}
	repo, err := git.PlainOpen(from)
	if err != nil {
		return nil, err
	}
	refs, err := repo.References()
	if err != nil {
		return nil, err
	}
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		if ref.Type() != plumbing.HashReference {
			return nil
		}
		id := ref.Hash()
		if commit, err := repo.ResolveRevision(plumbing.Revision(ref.Name().String() + "^{commit}")); err == nil {
			id = *commit
		}
		found[ref.Name().String()] = id.String()
		return nil
	})
	return found, err
}
