package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/hash"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// Git picks files of a commit (its whole id) of a repository, over https or ssh. For ssh the
// agent's keys and known_hosts count; for https a name and a token in the URL of a mirror. A
// mirror may be a folder with a repository, too. Each object is checked against its id.
// Submodules are not fetched: one that is picked is an error, and so is a file that Git LFS keeps
// elsewhere.
func (f *Fetcher) Git(ctx context.Context, repository, commit string, pick Pick) (*Tree, error) {
	tree, err := f.git(ctx, repository, commit, pick)
	if err != nil {
		return nil, fmt.Errorf("git %s at %s: %w", describe(repository, f.mirrored(repository)), commit, err)
	}
	return tree, nil
}

func (f *Fetcher) git(ctx context.Context, repository, commit string, pick Pick) (tree *Tree, err error) {
	if !plumbing.IsHash(commit) || len(commit) != hash.HexSize {
		return nil, fmt.Errorf("want the whole id of a commit, %d hexadecimal digits: repositories with SHA-256 are not supported", hash.HexSize)
	}
	from, isLocal, err := f.gitOrigin(repository)
	if err != nil {
		return nil, err
	}
	var repo *git.Repository
	if isLocal {
		repo, err = openRepository(from)
	} else {
		// On the disk: packs are as large as they are.
		dir, failed := os.MkdirTemp("", "krtpkg-git-*")
		if failed != nil {
			return nil, failed
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		repo, err = f.fetchCommit(ctx, dir, from, plumbing.NewHash(commit))
	}
	if err != nil {
		return nil, err
	}
	c := &gitCommit{ctx: ctx, store: repo.Storer, nodes: newNodes(),
		folders: map[plumbing.Hash]*object.Tree{}, sizes: map[plumbing.Hash]int64{}}
	if err := c.list(plumbing.NewHash(commit)); err != nil {
		return nil, err
	}
	if tree, err = c.pick(pick); err != nil {
		return nil, err
	}
	kept := tree.Files[:0]
	for _, file := range tree.Files {
		if !bytes.HasPrefix(file.Data, lfs) {
			kept = append(kept, file)
			continue
		}
		err := fmt.Errorf("%s is kept by Git LFS and is not in the repository: exclude it, or bring it as a source of its own", path.Join(pick.Root, file.Path))
		if err := tree.leave(pick, file.Path, err); err != nil {
			return nil, err
		}
	}
	if len(kept) < len(tree.Files) {
		tree.Files, tree.SHA256 = kept, listing(kept)
	}
	tree.Commit = commit
	return tree, nil
}

// gitOrigin is where a repository is: an URL, or a folder.
func (f *Fetcher) gitOrigin(repository string) (from string, isLocal bool, err error) {
	from = f.mirrored(repository)
	switch {
	case isSCP.MatchString(from):
		return from, false, nil
	case from != repository:
		local, isLocal := localPath(from)
		return local, isLocal, nil
	case strings.HasPrefix(from, "https://"), strings.HasPrefix(from, "ssh://"):
		return from, false, nil
	}
	return "", false, errors.New("only https and ssh are allowed")
}

// isSCP matches user@host:path, as ssh takes it.
var isSCP = regexp.MustCompile(`^[^@:/]+@[^@:/]+:[^:]`)

// gitCommit reads the files of a commit.
type gitCommit struct {
	ctx   context.Context
	store storer.EncodedObjectStorer
	// folders and sizes are what was read before: a commit may name one folder a million times.
	folders map[plumbing.Hash]*object.Tree
	sizes   map[plumbing.Hash]int64
	*nodes
}

func (c *gitCommit) list(id plumbing.Hash) error {
	data, err := c.object(plumbing.CommitObject, id)
	if err != nil {
		return fmt.Errorf("there is no such commit: %w", err)
	}
	commit := &object.Commit{}
	if err := commit.Decode(data); err != nil {
		return err
	}
	return c.folder("", commit.TreeHash, 0)
}

// maxFolders is how deep folders are followed.
const maxFolders = 100

func (c *gitCommit) folder(at string, id plumbing.Hash, depth int) error {
	if depth > maxFolders {
		return fmt.Errorf("%.100s: over %d folders deep", at, maxFolders)
	}
	if c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	tree, err := c.entries(id)
	if err != nil && at != "" {
		return fmt.Errorf("folder %s: %w", at, err)
	}
	if err != nil {
		return err
	}
	for _, e := range tree.Entries {
		if strings.Contains(e.Name, "/") || e.Name == "." || e.Name == "" {
			return fmt.Errorf("entry %q leaves the tree", e.Name)
		}
		name := strings.TrimPrefix(at+"/"+e.Name, "/")
		n := &node{kind: isFile, pack: c, key: e.Hash.String()}
		switch e.Mode {
		case filemode.Dir:
			n = newFolder()
		case filemode.Submodule:
			n.kind = isSubmodule
		case filemode.Symlink:
			if n.target, err = c.linkTarget(name, e.Hash); err != nil {
				return err
			}
			n.kind = isLink
		default:
			n.size = c.size(e.Hash)
		}
		if err := c.add(name, n); err != nil {
			return err
		}
		if n.kind == isFolder {
			if err := c.folder(name, e.Hash, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// entries reads a folder.
func (c *gitCommit) entries(id plumbing.Hash) (*object.Tree, error) {
	if tree := c.folders[id]; tree != nil {
		return tree, nil
	}
	data, err := c.object(plumbing.TreeObject, id)
	if err != nil {
		return nil, err
	}
	tree := &object.Tree{}
	if err := tree.Decode(data); err != nil {
		return nil, err
	}
	c.folders[id] = tree
	return tree, nil
}

// size is a file's size; 0 for one that is not there, which is an error when it is picked.
func (c *gitCommit) size(id plumbing.Hash) int64 {
	size, known := c.sizes[id]
	if !known {
		if there, err := c.store.EncodedObjectSize(id); err == nil {
			size = there
		}
		c.sizes[id] = size
	}
	return size
}

func (c *gitCommit) linkTarget(name string, id plumbing.Hash) (string, error) {
	if size, err := c.store.EncodedObjectSize(id); err != nil || size > maxName {
		return "", errors.Join(fmt.Errorf("%s is a link of %d bytes", name, size), err)
	}
	data, err := c.blob(id)
	return string(data), err
}

// lfs begins a file that Git LFS keeps elsewhere (git-lfs, docs/spec.md).
var lfs = []byte("version https://git-lfs.github.com/spec/")

// read implements [pack]: the keys are the ids of blobs.
func (c *gitCommit) read(files map[string][]byte, failed func(string, error) error) error {
	var size int64
	for id := range files {
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		data, err := c.blob(plumbing.NewHash(id))
		if err != nil {
			if err := failed(id, err); err != nil {
				return err
			}
			continue
		}
		if size += int64(len(data)); size > maxTree {
			return fmt.Errorf("the files that are picked are over the limit of %d bytes", maxTree)
		}
		files[id] = data
	}
	return nil
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
	// What was checked, should the store give something else the next time.
	checked := &plumbing.MemoryObject{}
	checked.SetType(kind)
	_, err = checked.Write(data)
	return checked, err
}

func content(encoded plumbing.EncodedObject) (data []byte, err error) {
	r, err := encoded.Reader()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return readAll("it", r)
}
