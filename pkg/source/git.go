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

// FetchCommit picks files of a commit (by its full id) of a repository, over https or ssh. Ssh uses
// the agent's keys and known_hosts, https a name and a token in the URL of a mirror. A mirror may
// also be a folder with a repository. Each object is checked against its id. Submodules are not
// fetched: picking one is an error, and so is picking a file that Git LFS stores elsewhere.
func (f *Fetcher) FetchCommit(ctx context.Context, repository, commit string, pick Pick) (*Tree, error) {
	tree, err := f.readCommit(ctx, repository, commit, pick)
	if err != nil {
		return nil, fmt.Errorf("git %s at %s: %w", describeURL(repository, f.mirrorURL(repository)), commit, err)
	}
	return tree, nil
}

func (f *Fetcher) readCommit(ctx context.Context, repository, commit string, pick Pick) (tree *Tree, err error) {
	if !plumbing.IsHash(commit) || len(commit) != hash.HexSize {
		return nil, fmt.Errorf("want the full id of a commit, %d hexadecimal digits (SHA-256 repositories are not supported)", hash.HexSize)
	}
	from, isLocal, err := f.locateRepository(repository)
	if err != nil {
		return nil, err
	}
	var repo *git.Repository
	if isLocal {
		repo, err = openRepository(from)
	} else {
		// On disk, since packs can be large.
		dir, failed := os.MkdirTemp("", "krtpkg-git-*")
		if failed != nil {
			return nil, failed
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		repo, err = f.fetchCommitInto(ctx, dir, from, plumbing.NewHash(commit))
	}
	if err != nil {
		return nil, err
	}
	c := &gitCommit{ctx: ctx, store: repo.Storer, entryTree: newEntryTree(),
		folders: map[plumbing.Hash]*object.Tree{}, sizes: map[plumbing.Hash]int64{}}
	if err := c.listCommit(plumbing.NewHash(commit)); err != nil {
		return nil, err
	}
	if tree, err = c.pickFiles(pick); err != nil {
		return nil, err
	}
	kept := tree.Files[:0]
	for _, file := range tree.Files {
		if !bytes.HasPrefix(file.Data, lfsPrefix) {
			kept = append(kept, file)
			continue
		}
		err := fmt.Errorf("%s is stored in Git LFS, not in the repository: exclude it, or add it as a separate source", path.Join(pick.Root, file.Path))
		if err := tree.leaveOut(pick, file.Path, err); err != nil {
			return nil, err
		}
	}
	if len(kept) < len(tree.Files) {
		tree.Files, tree.SHA256 = kept, listingDigest(kept)
	}
	tree.Commit = commit
	return tree, nil
}

// locateRepository returns the URL or the folder of a repository, after mirrors.
func (f *Fetcher) locateRepository(repository string) (from string, isLocal bool, err error) {
	from = f.mirrorURL(repository)
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
	// folders and sizes cache what was read: a commit may name one folder a million times.
	folders map[plumbing.Hash]*object.Tree
	sizes   map[plumbing.Hash]int64
	*entryTree
}

func (c *gitCommit) listCommit(id plumbing.Hash) error {
	data, err := c.readObject(plumbing.CommitObject, id)
	if err != nil {
		return fmt.Errorf("commit not found: %w", err)
	}
	commit := &object.Commit{}
	if err := commit.Decode(data); err != nil {
		return err
	}
	return c.listFolder("", commit.TreeHash, 0)
}

// maxFolders limits the depth of folders.
const maxFolders = 100

func (c *gitCommit) listFolder(at string, id plumbing.Hash, depth int) error {
	if depth > maxFolders {
		return fmt.Errorf("%.100s: over %d folders deep", at, maxFolders)
	}
	if c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	tree, err := c.readFolder(id)
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
			if n.target, err = c.readLinkTarget(name, e.Hash); err != nil {
				return err
			}
			n.kind = isLink
		default:
			n.size = c.fileSize(e.Hash)
		}
		if err := c.addEntry(name, n); err != nil {
			return err
		}
		if n.kind == isFolder {
			if err := c.listFolder(name, e.Hash, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// readFolder reads a folder.
func (c *gitCommit) readFolder(id plumbing.Hash) (*object.Tree, error) {
	if tree := c.folders[id]; tree != nil {
		return tree, nil
	}
	data, err := c.readObject(plumbing.TreeObject, id)
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

// fileSize returns the size of a file, or 0 if it is missing, which is an error once it is picked.
func (c *gitCommit) fileSize(id plumbing.Hash) int64 {
	size, known := c.sizes[id]
	if !known {
		if there, err := c.store.EncodedObjectSize(id); err == nil {
			size = there
		}
		c.sizes[id] = size
	}
	return size
}

func (c *gitCommit) readLinkTarget(name string, id plumbing.Hash) (string, error) {
	if size, err := c.store.EncodedObjectSize(id); err != nil || size > maxName {
		return "", errors.Join(fmt.Errorf("%s is a link of %d bytes", name, size), err)
	}
	data, err := c.readBlob(id)
	return string(data), err
}

// lfsPrefix begins the pointer to a file that Git LFS stores elsewhere (git-lfs, docs/spec.md).
var lfsPrefix = []byte("version https://git-lfs.github.com/spec/")

// readFiles implements [contentReader]: the keys are the ids of blobs.
func (c *gitCommit) readFiles(files map[string][]byte, failed func(string, error) error) error {
	var size int64
	for id := range files {
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		data, err := c.readBlob(plumbing.NewHash(id))
		if err != nil {
			if err := failed(id, err); err != nil {
				return err
			}
			continue
		}
		if size += int64(len(data)); size > maxTree {
			return fmt.Errorf("picked files are over the limit of %d bytes", maxTree)
		}
		files[id] = data
	}
	return nil
}

func (c *gitCommit) readBlob(id plumbing.Hash) ([]byte, error) {
	encoded, err := c.readObject(plumbing.BlobObject, id)
	if err != nil {
		return nil, err
	}
	return readContent(encoded)
}

// readObject reads an object and checks it against its id.
func (c *gitCommit) readObject(kind plumbing.ObjectType, id plumbing.Hash) (plumbing.EncodedObject, error) {
	encoded, err := c.store.EncodedObject(kind, id)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", id, err)
	}
	if encoded.Size() > maxFile {
		return nil, fmt.Errorf("object %s: %d bytes are over the limit of %d", id, encoded.Size(), maxFile)
	}
	data, err := readContent(encoded)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", id, err)
	}
	if got := plumbing.ComputeHash(kind, data); got != id {
		return nil, &DigestError{Source: "git object", Got: got.String(), Want: id.String()}
	}
	// Return the checked bytes: the store may return others the next time.
	checked := &plumbing.MemoryObject{}
	checked.SetType(kind)
	_, err = checked.Write(data)
	return checked, err
}

func readContent(encoded plumbing.EncodedObject) (data []byte, err error) {
	r, err := encoded.Reader()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return readAll("it", r)
}
