// Package gate is a read-only registry in front of others that answers only what a trust policy accepts: what a
// verified root is, what its lock names, and what is attached to that.
//
// Call [New] and serve the gate, which is an [net/http.Handler]. It keeps what tags lead to in a folder, so that they do
// not go back over a restart, and blobs in another if one is given. [Gate.Close] ends it.
//
// # Promises
//
// A manifest is answered only if a verdict on it stands under the policy as it is now. Content is hashed by the gate before the last
// of it is sent. The media type, the size and the digest of an answer come from the content, never from upstream's
// headers. What cannot be decided, for whatever reason, is not answered.
package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/serve"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// Repository is a repository of a registry behind the gate. What it returns is not trusted.
type Repository interface {
	oras.ReadOnlyGraphTarget
	// Tags calls fn with the tags after last, a page at a time.
	Tags(ctx context.Context, last string, fn func(tags []string) error) error
}

// Upstream is a registry, or a part of one, behind the gate.
type Upstream struct {
	// Name is the first part of the names of its repositories at the gate; all names are of a single upstream
	// without one.
	Name string
	// Prefix is REGISTRY[/PATH], to which the rest of the name is added.
	Prefix string
	// Open returns a repository, named REGISTRY/PATH.
	Open func(ctx context.Context, repository string) (Repository, error)
}

// Options are the parameters of a gate.
type Options struct {
	// Upstreams are the registries behind the gate; at least one.
	Upstreams []Upstream
	// LoadPolicy loads the policy. It is called at the start, and again when one of the policy's files has changed. While
	// it returns an error, or no policy, everything is refused.
	LoadPolicy func(ctx context.Context) (*trust.Policy, error)
	// PolicyFiles are watched in addition to the policy's own file and those that it names.
	PolicyFiles []string
	// StateDir is the folder for what tags lead to.
	StateDir string
	// CacheDir is the folder for blobs and manifests, CacheBytes its limit; nothing is kept on disk when empty.
	CacheDir   string
	CacheBytes int64
	// Images also enforces the policy's rules for images.
	Images bool
	// AllowRenamedTags lets a tag that is a version lead to another one.
	AllowRenamedTags bool
	// AllowDowngrade lets a tag go back to an older version, or over to other content of the same version or to
	// another name.
	AllowDowngrade bool
	// Login is who may ask; everybody when nil.
	Login serve.Login
	// Refresh is how long answers of upstream that may change are kept, and refusals; 10 seconds when zero.
	Refresh time.Duration
	// Recheck is how long a verdict holds at most; 10 minutes when zero.
	Recheck time.Duration
	// Watch is how often the policy's files are looked at; 2 seconds when zero.
	Watch time.Duration
	// Timeout is how long upstream may take for an answer other than a blob; 10 seconds when zero.
	Timeout time.Duration
	// MemoryBytes is about how much memory is used for manifests, verdicts, refusals, tags and the like, of all
	// repositories together; 256 MiB when zero. What does not fit is found again when it is asked for.
	MemoryBytes int64
	// Report receives what happens; nil drops it. It is called from many goroutines.
	Report func(Event)
}

// The kinds of events.
const (
	EventRefused  = "refused"  // something was asked for and not answered
	EventVerified = "verified" // a root was verified
	EventKept     = "kept"     // a tag stays where it was
	EventMoved    = "moved"    // a tag leads to something new
	EventPolicy   = "policy"   // the policy was loaded, or cannot be
	EventUpstream = "upstream" // upstream fails, or answers again
	EventState    = "state"    // the state or the cache cannot be written
)

// Event is something that happened.
type Event struct {
	Kind string
	// Repository is the name upstream, Reference a tag or a digest, Digest what it leads to. Any may be empty.
	Repository, Reference, Digest string
	// Client is the address of who asked; empty where nobody did.
	Client string
	// Name and Version are the root's, Signers who signed it.
	Name, Version, Signers string
	// Err is why; nil for what went well.
	Err error
}

// Gate answers requests. It is safe for concurrent use.
type Gate struct {
	o      Options
	policy atomic.Pointer[loadedPolicy]
	// manifests are those that were read, lookups what upstream said of names, subjects to what manifests are attached by tags.
	manifests manifestMemory
	lookups   *memory[place, lookup]
	subjects  *memory[place, digest.Digest]
	// repositories are by their names upstream. What is forgotten is made again.
	repositories *memory[string, *repository]
	flights      singleflight.Group
	cache        *blobCache
	state        *stateFolder
	metrics      metrics
	// health has that of each upstream.
	health  []health
	handler http.Handler
	// verifying limits new roots, renewing those that were accepted before and are not to wait for new ones.
	verifying, renewing *verifyLimit

	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup
}

// repositorySize is about what a repository takes with what asks upstream for it.
const repositorySize = 8 << 10

// New returns a gate. It fails if the policy cannot be loaded; if a later reload fails, the gate refuses everything.
func New(ctx context.Context, o Options) (*Gate, error) {
	o.Refresh = cmp.Or(o.Refresh, 10*time.Second)
	o.Recheck = cmp.Or(o.Recheck, 10*time.Minute)
	o.Watch = cmp.Or(o.Watch, 2*time.Second)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	o.MemoryBytes = cmp.Or(o.MemoryBytes, 256<<20)
	if o.Report == nil {
		o.Report = func(Event) {}
	}
	if err := checkUpstreams(o.Upstreams); err != nil {
		return nil, err
	}
	if o.LoadPolicy == nil {
		return nil, errors.New("Options.LoadPolicy is nil: want a function that loads the trust policy")
	}
	g := &Gate{
		o: o, verifying: newRootLimit(), renewing: newRenewalLimit(), health: make([]health, len(o.Upstreams)),
		manifests: manifestMemory{newMemory[digest.Digest, storedManifest](o.MemoryBytes / 4)}, lookups: newMemory[place, lookup](o.MemoryBytes / 16),
		subjects: newMemory[place, digest.Digest](o.MemoryBytes / 32), repositories: newMemory[string, *repository](o.MemoryBytes / 32),
	}
	var err error
	if g.state, err = openState(o.StateDir, o.MemoryBytes/8); err != nil {
		return nil, err
	}
	if o.CacheDir != "" {
		if g.cache, err = openCache(o.CacheDir, o.CacheBytes); err != nil {
			return nil, err
		}
	}
	g.ctx, g.stop = context.WithCancel(context.WithoutCancel(ctx))
	first := g.loadPolicy(ctx)
	if first.err != nil {
		return nil, errors.Join(first.err, g.Close())
	}
	g.policy.Store(first)
	g.handler = serve.RequireLogin(http.HandlerFunc(g.serveRegistry), o.Login)
	g.done.Go(g.watchPolicy)
	return g, nil
}

// Close ends what runs in the background.
func (g *Gate) Close() error {
	g.stop()
	g.done.Wait()
	if g.cache != nil {
		g.cache.close()
	}
	return nil
}

func checkUpstreams(all []Upstream) error {
	if len(all) == 0 {
		return errors.New("no upstream registry")
	}
	seen := map[string]bool{}
	for _, u := range all {
		switch {
		case u.Open == nil:
			return fmt.Errorf("upstream %s: Upstream.Open is nil: want a function that opens its repositories", u.Prefix)
		case u.Name == "" && len(all) > 1:
			return fmt.Errorf("upstream %s: one of several needs a name", u.Prefix)
		case u.Name != "" && !serve.IsRepository(u.Name):
			return fmt.Errorf("upstream %s: %q is not a repository name", u.Prefix, u.Name)
		case seen[u.Name]:
			return fmt.Errorf("upstream %s: the name %s is taken", u.Prefix, u.Name)
		}
		seen[u.Name] = true
	}
	return nil
}

// findUpstream returns the number of the upstream of a name at the gate, -1 for none, that with the longest name if several match, and the
// name there.
func (g *Gate) findUpstream(name string) (number int, where string) {
	number = -1
	for i := range g.o.Upstreams {
		u := &g.o.Upstreams[i]
		rest := name
		if u.Name != "" {
			var matches bool
			if rest, matches = strings.CutPrefix(name, u.Name+"/"); !matches {
				continue
			}
		}
		if number < 0 || len(u.Name) > len(g.o.Upstreams[number].Name) {
			number, where = i, u.Prefix+"/"+rest
		}
	}
	return number, where
}

// findRepository returns the repository of a name at the gate, or nil if the name is of no upstream.
func (g *Gate) findRepository(name string) *repository {
	number, where := g.findUpstream(name)
	if number < 0 {
		return nil
	}
	if r, ok := g.repositories.find(where); ok {
		return r
	}
	r := newRepository(g, name, where, number)
	g.repositories.keep(where, r, repositorySize)
	return r
}

// countAccepted counts the roots that are accepted, also if they are to be looked at again.
func (g *Gate) countAccepted() (n int) {
	for _, v := range g.policy.Load().decided.verdicts.listVerdicts("") {
		if v.err == nil {
			n++
		}
	}
	return n
}

// memorySize returns about how many bytes are used for what is known.
func (g *Gate) memorySize() int64 {
	return g.policy.Load().decided.totalSize() + g.manifests.totalSize() + g.lookups.totalSize() + g.subjects.totalSize() +
		g.repositories.totalSize() + g.state.known.totalSize()
}
