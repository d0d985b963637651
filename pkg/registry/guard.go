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

// ErrEndless is the error of a listing that does not end.
var ErrEndless = errors.New("listing without end")

// SlowError is the error of a registry that answers too slowly.
type SlowError struct {
	Host string
	// Bytes is the number of bytes that arrived in that time.
	Bytes  int64
	Within time.Duration
}

func (e *SlowError) Error() string {
	return fmt.Sprintf("registry %s sent %d bytes in %s: too slow", e.Host, e.Bytes, e.Within)
}

// maxEmptyPages limits the empty pages of a listing that lead to another one.
const maxEmptyPages = 10

// listingState tracks a listing through its pages.
type listingState struct {
	pages, empty, entries int
	seen                  map[[sha256.Size]byte]bool
}

type listingKey struct{}

// limitListing limits the time, the pages and the entries of a listing.
func (r *Repository) limitListing(ctx context.Context, list func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*r.metadataTimeout, &SlowError{r.Reference.Host(), 0, 3 * r.metadataTimeout})
	defer cancel()
	err := list(context.WithValue(ctx, listingKey{}, &listingState{seen: map[[sha256.Size]byte]bool{}}))
	var slow *SlowError
	if err != nil && errors.As(context.Cause(ctx), &slow) {
		return fmt.Errorf("listing of %s: %w", r, slow)
	}
	return err
}

// Tags lists the tags. A listing that goes in circles is [ErrEndless].
func (r *Repository) Tags(ctx context.Context, last string, fn func(tags []string) error) error {
	return r.limitListing(ctx, func(ctx context.Context) error { return r.Repository.Tags(ctx, last, fn) })
}

// listingGuard is a repository's client that enforces the limits on listings.
type listingGuard struct{ remote.Client }

// Do sends a request.
func (g *listingGuard) Do(request *http.Request) (*http.Response, error) {
	response, err := g.Client.Do(request)
	if err != nil || response.StatusCode != http.StatusOK || !isListing(request.URL.Path) {
		return response, err
	}
	if err := checkPage(request, response); err != nil {
		return nil, errors.Join(fmt.Errorf("list %s: %w", request.URL.Path, err), response.Body.Close())
	}
	return response, nil
}

// timedTransport limits the time of answers other than blobs, including those of token servers.
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
		cancel(&SlowError{request.URL.Host, body.addRead(0), t.within})
	})
	response.Body = body
	return response, nil
}

func isListing(path string) bool {
	return strings.HasSuffix(path, "/tags/list") || strings.Contains(path, "/referrers/")
}

// checkPage reads a page of a listing and refuses one that would not end.
func checkPage(request *http.Request, response *http.Response) error {
	data, err := io.ReadAll(oci.LimitJSON(response.Body, oci.MaxManifest, oci.MaxElements))
	if err != nil {
		return err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{bytes.NewReader(data), response.Body}
	l, ok := request.Context().Value(listingKey{}).(*listingState)
	if !ok {
		return nil
	}
	var found struct{ Tags, Manifests []json.RawMessage }
	if err := json.Unmarshal(data, &found); err != nil {
		return nil // the caller reports it
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
		return fmt.Errorf("repeated page: %w", ErrEndless)
	}
	l.seen[sum] = true
	return nil
}

// timedBody is the body of an answer that must arrive in time.
type timedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer

	mu        sync.Mutex
	bytesRead int64
}

func (b *timedBody) addRead(n int) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytesRead += int64(n)
	return b.bytesRead
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.addRead(n)
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

// minBytesPerSecond is the least rate of a blob, averaged over a while.
const minBytesPerSecond = 1 << 10

// paceMeter measures how fast a blob arrives. Only the time that its reader waits counts.
type paceMeter struct {
	window, waited time.Duration
	bytes          int64
}

// addRead counts bytes that arrived, and returns an error if they are too few.
func (p *paceMeter) addRead(host string, n int, waited time.Duration) error {
	p.bytes += int64(n)
	if p.waited += waited; p.waited < p.window {
		return nil
	}
	if float64(p.bytes) < minBytesPerSecond*p.waited.Seconds() {
		return &SlowError{host, p.bytes, p.waited.Round(time.Second)}
	}
	p.waited, p.bytes = 0, 0
	return nil
}

// maxTotalWait limits the sum of the waits that a registry asks for by Retry-After.
const maxTotalWait = 15 * time.Minute

// waitBudget is the rest of the time that a registry may ask to wait. Requests that wait at the same
// time count once.
type waitBudget struct {
	mu     sync.Mutex
	until  time.Time
	waited time.Duration
}

// allowWait counts a wait and reports whether it is allowed.
func (p *waitBudget) allowWait(after time.Duration) bool {
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
	if p.waited+to.Sub(from) > maxTotalWait {
		return false
	}
	p.waited += to.Sub(from)
	p.until = to
	return true
}
