package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	neturl "net/url"
	"os"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
)

// Limits on what a git server sends.
const (
	maxPack    = 4 << 30
	maxObject  = 512 << 20
	maxObjects = 64 << 30 // all of them, unpacked
)

// openSession asks a git server for its refs. The login is sent, but never appears in errors.
func (f *Fetcher) openSession(ctx context.Context, from string) (transport.UploadPackSession, *packp.AdvRefs, *answerGuard, error) {
	endpoint, client, guard, err := f.newEndpoint(from)
	if err != nil {
		return nil, nil, nil, redactError(err)
	}
	var s transport.UploadPackSession
	switch endpoint.Protocol {
	case "http", "https":
		s, err = githttp.NewClient(client).NewUploadPackSession(endpoint, nil)
	case "ssh":
		s, err = gitssh.DefaultClient.NewUploadPackSession(endpoint, nil)
	default:
		err = errors.New("only https and ssh are allowed")
	}
	if err != nil {
		return nil, nil, nil, err
	}
	refs, err := s.AdvertisedReferencesContext(ctx)
	if errors.Is(err, transport.ErrAuthenticationRequired) {
		err = fmt.Errorf("%w: %w", transport.ErrAuthenticationRequired, errLoginRequired)
	}
	if err != nil {
		return nil, nil, nil, errors.Join(redactError(err), s.Close())
	}
	return s, refs, guard, nil
}

// newEndpoint returns the place of a repository, and for http and https the client for it, which has the login, and the
// guard of its answers.
func (f *Fetcher) newEndpoint(from string) (*transport.Endpoint, *http.Client, *answerGuard, error) {
	url, err := neturl.Parse(from)
	if err != nil || !strings.HasPrefix(url.Scheme, "http") {
		endpoint, err := transport.NewEndpoint(from)
		return endpoint, nil, &answerGuard{}, err
	}
	client, bare, guard := f.newClient(url)
	guard.limit.Store(maxAnswer)
	endpoint, err := transport.NewEndpoint(bare.String())
	return endpoint, client, guard, err
}

// isTransient reports whether a retry may succeed after a git server's failure.
func isTransient(err error) bool {
	var status *githttp.Err
	var network *neturl.Error
	if errors.Is(err, errSlow) || errors.Is(err, errTooLong) {
		return false
	}
	var wrapped *plumbing.UnexpectedError
	if errors.As(err, &wrapped) {
		err = wrapped.Err // it does not unwrap
	}
	if errors.As(err, &status) {
		return status.StatusCode() >= 500 || status.StatusCode() == http.StatusTooManyRequests
	}
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF)
}

// fetchCommitInto fetches one commit into a new repository, or all commits where the server serves
// only branches and tags.
func (f *Fetcher) fetchCommitInto(ctx context.Context, dir, from string, commit plumbing.Hash) (*git.Repository, error) {
	repo, err := git.PlainInit(dir, true)
	if err != nil {
		return nil, err
	}
	for _, whole := range []bool{false, true} {
		err = requestPolicy.Do(ctx, isTransient, func() error { return f.fetchPack(ctx, repo, from, commit, whole) })
		if err == nil || ctx.Err() != nil || !errors.Is(err, errCommitRefused) {
			break
		}
	}
	return repo, err
}

// errCommitRefused is the error of a server that does not serve commits by id.
var errCommitRefused = errors.New("the server serves only branches and tags")

func (f *Fetcher) fetchPack(ctx context.Context, repo *git.Repository, from string, commit plumbing.Hash, whole bool) (err error) {
	s, refs, guard, err := f.openSession(ctx, from)
	if err != nil {
		return err
	}
	defer func() {
		// An error of Close only follows from an earlier one.
		if closed := s.Close(); err == nil {
			err = redactError(closed)
		}
	}()
	request := packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
	byID := false
	switch tip := findAdvertised(refs, commit); {
	case whole:
		request.Wants = slices.Collect(maps.Values(refs.References))
	case !tip.IsZero():
		request.Wants = []plumbing.Hash{tip}
	case refs.Capabilities.Supports(capability.AllowReachableSHA1InWant):
		request.Wants, byID = []plumbing.Hash{commit}, true
	default:
		return errCommitRefused
	}
	if !whole && refs.Capabilities.Supports(capability.Shallow) {
		request.Depth = packp.DepthCommits(1)
		if err := request.Capabilities.Set(capability.Shallow); err != nil {
			return err
		}
	}
	if refs.Capabilities.Supports(capability.NoProgress) {
		if err := request.Capabilities.Set(capability.NoProgress); err != nil {
			return err
		}
	}
	guard.limit.Store(maxBeforePack)
	response, err := s.UploadPack(ctx, request)
	if err == nil {
		defer response.Close()
		guard.limit.Store(maxPack + maxPack/64) // what a channel takes besides, and messages
		err = storePack(repo, demuxSideband(request.Capabilities, response))
	}
	if byID && err != nil && !isTransient(err) {
		return fmt.Errorf("%w: %w", errCommitRefused, redactError(err))
	}
	return redactError(err)
}

// findAdvertised returns the id to ask for if a ref points to the commit; an annotated tag has an
// id of its own.
func findAdvertised(refs *packp.AdvRefs, commit plumbing.Hash) plumbing.Hash {
	for name, id := range refs.References {
		if id == commit || refs.Peeled[name] == commit {
			return id
		}
	}
	return plumbing.ZeroHash
}

func demuxSideband(capabilities *capability.List, r io.Reader) io.Reader {
	switch {
	case capabilities.Supports(capability.Sideband64k):
		return sideband.NewDemuxer(sideband.Sideband64k, r)
	case capabilities.Supports(capability.Sideband):
		return sideband.NewDemuxer(sideband.Sideband, r)
	}
	return r
}

// storePack adds a pack to a repository.
func storePack(repo *git.Repository, r io.Reader) (err error) {
	pack, err := createTemporary()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeTemporary(pack)) }()
	n, err := io.Copy(pack, io.LimitReader(r, maxPack+1))
	if err == nil && n > maxPack {
		err = fmt.Errorf("the repository %w of %d bytes", errTooLong, int64(maxPack))
	}
	if err == nil {
		err = checkPack(pack)
	}
	if err == nil {
		_, err = pack.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	return packfile.UpdateObjectStorage(repo.Storer, pack)
}

// checkPack refuses packs with objects that would not fit into memory, where each is read whole.
func checkPack(pack *os.File) error {
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return err
	}
	scanner := packfile.NewScanner(pack)
	_, count, err := scanner.Header()
	if err != nil {
		return err
	}
	var all int64
	for range count {
		header, err := scanner.NextObjectHeader()
		if err != nil {
			return err
		}
		size := header.Length
		if header.Type.IsDelta() && size <= maxObject {
			var delta deltaHeader
			if _, _, err := scanner.NextObject(&delta); err != nil {
				return err
			}
			size = max(size, delta.targetSize())
		}
		if all += size; size < 0 || size > maxObject || all > maxObjects {
			return fmt.Errorf("object of %d bytes: over the limit of %d, or all objects are over the limit of %d", size, maxObject, int64(maxObjects))
		}
	}
	return nil
}

// deltaHeader keeps the first bytes that are written to it.
type deltaHeader struct{ bytes.Buffer }

func (s *deltaHeader) Write(p []byte) (int, error) {
	s.Buffer.Write(p[:min(len(p), max(2*binary.MaxVarintLen64-s.Len(), 0))])
	return len(p), nil
}

// targetSize returns the size of the object that a delta produces, its second number.
func (s *deltaHeader) targetSize() int64 {
	var size uint64
	for range 2 {
		var err error
		if size, err = binary.ReadUvarint(s); err != nil {
			return 0 // the delta is damaged, which unpacking will report
		}
	}
	return int64(min(size, maxObject+1))
}

// openRepository opens the repository in a folder.
func openRepository(dir string) (*git.Repository, error) {
	repo, err := git.PlainOpenWithOptions(dir, &git.PlainOpenOptions{EnableDotGitCommonDir: true})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return repo, nil
}

// ListRefs returns the commits of a repository's refs, HEAD included, by their full names.
func (f *Fetcher) ListRefs(ctx context.Context, repository string) (map[string]string, error) {
	commits := map[string]string{}
	from, isLocal, err := f.locateRepository(repository)
	switch {
	case err != nil:
	case isLocal:
		err = readLocalRefs(from, commits)
	default:
		err = requestPolicy.Do(ctx, isTransient, func() error { return f.readRemoteRefs(ctx, from, commits) })
	}
	if err != nil {
		return nil, fmt.Errorf("git %s: %w", describeURL(repository, f.mirrorURL(repository)), err)
	}
	return commits, nil
}

func (f *Fetcher) readRemoteRefs(ctx context.Context, from string, commits map[string]string) error {
	s, refs, _, err := f.openSession(ctx, from)
	if err != nil {
		return err
	}
	for name, id := range refs.References {
		commits[name] = id.String()
	}
	for name, id := range refs.Peeled {
		commits[name] = id.String()
	}
	if refs.Head != nil {
		commits["HEAD"] = refs.Head.String()
	}
	return s.Close()
}

func readLocalRefs(dir string, commits map[string]string) error {
	repo, err := openRepository(dir)
	if err != nil {
		return err
	}
	refs, err := repo.References()
	if err != nil {
		return err
	}
	take := func(named *plumbing.Reference) error {
		ref, err := repo.Reference(named.Name(), true)
		if errors.Is(err, plumbing.ErrReferenceNotFound) {
			return nil // HEAD, before the first commit
		}
		if err != nil {
			return err
		}
		id := ref.Hash()
		for tag, err := repo.TagObject(id); err == nil; tag, err = repo.TagObject(id) {
			id = tag.Target
		}
		commits[named.Name().String()] = id.String()
		return nil
	}
	return errors.Join(refs.ForEach(take), take(plumbing.NewHashReference(plumbing.HEAD, plumbing.ZeroHash)))
}
