package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// ErrEndless says that a registry's listing does not come to an end.
var ErrEndless = errors.New("listing without end")

// SlowError says that a registry answers too slowly to ever get done.
type SlowError struct {
	Host string
	// Bytes are what arrived within the time.
	Bytes  int64
	Within time.Duration
}

func (e *SlowError) Error() string {
	return fmt.Sprintf("registry %s sent %d bytes in %s: too slow", e.Host, e.Bytes, e.Within)
}

// maxEmptyPages is how many pages of a listing may hold nothing and still lead to another.
const maxEmptyPages = 10

// listing is what is known of a listing on its way through its pages.
type listing struct {
	pages, empty, entries int
	seen                  map[[sha256.Size]byte]bool
}

type listingKey struct{}

// listed bounds a listing: its time, its pages and what is in them.
func (r *Repository) listed(ctx context.Context, list func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*r.metadata, &SlowError{r.Reference.Host(), 0, 3 * r.metadata})
	defer cancel()
	err := list(context.WithValue(ctx, listingKey{}, &listing{seen: map[[sha256.Size]byte]bool{}}))
	var slow *SlowError
	if err != nil && errors.As(context.Cause(ctx), &slow) {
		return fmt.Errorf("listing of %s: %w", r, slow)
	}
	return err
}

// Tags lists the tags. A listing that goes in circles is [ErrEndless].
func (r *Repository) Tags(ctx context.Context, last string, fn func(tags []string) error) error {
	return r.listed(ctx, func(ctx context.Context) error { return r.Repository.Tags(ctx, last, fn) })
}

// guard is the client of a repository. It holds the pages of listings to what they may be.
type guard struct{ remote.Client }

// Do sends a request.
func (g *guard) Do(request *http.Request) (*http.Response, error) {
	response, err := g.Client.Do(request)
	if err != nil || response.StatusCode != http.StatusOK || !isListing(request.URL.Path) {
		return response, err
	}
	if err := page(request, response); err != nil {
		return nil, errors.Join(fmt.Errorf("list %s: %w", request.URL.Path, err), response.Body.Close())
	}
	return response, nil
}

// timedTransport holds answers that are no blobs to a time, those of token servers too.
type timedTransport struct {
	http.RoundTripper
	within time.Duration
}

// RoundTrip sends a request.
func (t *timedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	asked := request
	for asked.Response != nil { // it was redirected
		asked = asked.Response.Request
	}
	if strings.Contains(asked.URL.Path, "/blobs/") {
		return t.RoundTripper.RoundTrip(request)
	}
	ctx, cancel := context.WithCancelCause(request.Context())
	response, err := t.RoundTripper.RoundTrip(request.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	body := &timedBody{ReadCloser: response.Body, ctx: ctx, cancel: cancel}
	body.timer = time.AfterFunc(t.within, func() {
		cancel(&SlowError{request.URL.Host, body.count(0), t.within})
	})
	response.Body = body
	return response, nil
}

func isListing(path string) bool {
	return strings.HasSuffix(path, "/tags/list") || strings.Contains(path, "/referrers/")
}

// page reads a page of a listing, and refuses what would not end.
func page(request *http.Request, response *http.Response) error {
	data, err := io.ReadAll(oci.LimitJSON(response.Body, oci.MaxManifest, oci.MaxElements))
	if err != nil {
		return err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{bytes.NewReader(data), response.Body}
	l, ok := request.Context().Value(listingKey{}).(*listing)
	if !ok {
		return nil
	}
	var found struct{ Tags, Manifests []json.RawMessage }
	if err := json.Unmarshal(data, &found); err != nil {
		return nil // for the caller to say
	}
	n, sum := len(found.Tags)+len(found.Manifests), sha256.Sum256(data)
	l.pages++
	l.entries += n
	if n == 0 {
		l.empty++
	}
	switch {
	case l.entries > oci.MaxListed:
		return fmt.Errorf("more than %d entries: %w", oci.MaxListed, ErrEndless)
	case response.Header.Get("Link") == "":
		return nil
	case l.pages >= oci.MaxPages:
		return fmt.Errorf("more than %d pages: %w", oci.MaxPages, ErrEndless)
	case l.empty > maxEmptyPages:
		return fmt.Errorf("more than %d empty pages: %w", maxEmptyPages, ErrEndless)
	case n > 0 && l.seen[sum]:
		return fmt.Errorf("a page that was there before: %w", ErrEndless)
	}
	l.seen[sum] = true
	return nil
}

// timedBody is an answer that has to arrive within a time.
type timedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer

	mu   sync.Mutex
	read int64
}

func (b *timedBody) count(n int) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read += int64(n)
	return b.read
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.count(n)
	var slow *SlowError
	if err != nil && errors.As(context.Cause(b.ctx), &slow) {
		return n, slow
	}
	return n, err
}

func (b *timedBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// leastRate is how many bytes a second of a blob have to arrive, on average over a while.
const leastRate = 1 << 10

// pace measures how fast a blob arrives. Only the time counts for which its reader waits.
type pace struct {
	window, waited time.Duration
	bytes          int64
}

// add counts what arrived meanwhile, and says by an error that it is too little.
func (p *pace) add(host string, n int, waited time.Duration) error {
	p.bytes += int64(n)
	if p.waited += waited; p.waited < p.window {
		return nil
	}
	if float64(p.bytes) < leastRate*p.waited.Seconds() {
		return &SlowError{host, p.bytes, p.waited.Round(time.Second)}
	}
	p.waited, p.bytes = 0, 0
	return nil
}

// maxPatience is how long a registry may have itself waited for in all, by Retry-After.
const maxPatience = 15 * time.Minute

// patience is what is left of the time that a registry may have itself waited for. Requests that
// wait at once count once.
type patience struct {
	mu     sync.Mutex
	until  time.Time
	waited time.Duration
}

// allows counts a wait, or says that it would be too much.
func (p *patience) allows(after time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	from, to := now, now.Add(after)
	if p.until.After(now) {
		from = p.until
	}
	if !to.After(from) {
		return true
	}
	if p.waited+to.Sub(from) > maxPatience {
		return false
	}
	p.waited += to.Sub(from)
	p.until = to
	return true
}
