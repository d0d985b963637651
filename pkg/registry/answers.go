package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"

	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// maxManifest is the size up to which registries take manifests (distribution-spec v1.1,
// pushing manifests).
const maxManifest = oci.MaxManifest

// deviationLog collects observed deviations of a registry from the specification. The zero value is
// ready.
type deviationLog struct {
	mu   sync.Mutex
	seen map[string]bool
	// noParts is set if of an upload in parts all but the first one are dropped.
	noParts atomic.Bool
	// singlePost is whether small blobs are taken with one request.
	singlePost singlePost
}

// takeNoParts records that uploads are to be sent in one piece.
func (d *deviationLog) takeNoParts() {
	d.noParts.Store(true)
	d.record("parts of an upload are dropped but for the first: blobs are sent in one piece")
}

func (d *deviationLog) takesNoParts() bool { return d.noParts.Load() }

func (d *deviationLog) record(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen == nil {
		d.seen = map[string]bool{}
	}
	d.seen[fmt.Sprintf(format, args...)] = true
}

// Deviations lists the observed deviations from the specification and how they are handled, sorted.
func (r *Repository) Deviations() []string {
	r.deviations.mu.Lock()
	defer r.deviations.mu.Unlock()
	list := []string{}
	for text := range r.deviations.seen {
		list = append(list, text)
	}
	slices.Sort(list)
	return list
}

// tolerantClient sends requests and returns answers as the specification defines them, however the
// registry deviates, so that its callers need not know.
type tolerantClient struct {
	*auth.Client
	deviations *deviationLog
}

// Do sends a request.
func (c *tolerantClient) Do(request *http.Request) (*http.Response, error) {
	isManifest := strings.Contains(request.URL.Path, "/manifests/")
	response, err := c.Client.Do(request)
	if err != nil {
		return nil, err
	}
	switch {
	case isManifest && request.Method == http.MethodHead:
		return c.completeHead(request, response)
	case isManifest && request.Method == http.MethodGet:
		return c.completeManifest(request, response)
	case isManifest && request.Method == http.MethodPut:
		c.replaceStatus(response, http.StatusCreated)
	case request.Method == http.MethodDelete:
		c.replaceStatus(response, http.StatusAccepted)
	case request.Method == http.MethodGet:
		c.completeLink(response)
	}
	return response, nil
}

// replaceStatus replaces any success status by the usual one.
func (c *tolerantClient) replaceStatus(response *http.Response, usual int) {
	switch response.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent:
		c.noteStatus(response.Request.Method, response.StatusCode, usual)
		response.StatusCode = usual
	}
}

func (c *tolerantClient) noteStatus(method string, status, usual int) {
	if status != usual {
		c.deviations.record("%s is answered with %d instead of %d: accepted", method, status, usual)
	}
}

// completeHead reads a manifest if the answer to HEAD does not describe it.
func (c *tolerantClient) completeHead(request *http.Request, response *http.Response) (*http.Response, error) {
	switch response.StatusCode {
	case http.StatusOK:
		if isDescribed(request, response) {
			return response, nil
		}
		c.deviations.record("HEAD of a manifest lacks its media type, size or digest: the manifest is read instead")
	case http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		// The answer to GET also has the reason, for which HEAD has no body.
	default:
		return response, nil
	}
	refused := response.StatusCode
	response.Body.Close()
	for reread := false; ; reread = true {
		get := request.Clone(request.Context())
		get.Method = http.MethodGet
		response, err := c.Client.Do(get)
		if err != nil || response.StatusCode != http.StatusOK {
			return response, err
		}
		if refused != http.StatusOK {
			c.deviations.record("HEAD of a manifest is refused with %d: the manifest is read instead", refused)
		}
		described, err := c.completeDescription(request, response)
		if reread || !errors.Is(err, content.ErrMismatchedDigest) && !isBrokenConnection(err) {
			return described, err
		}
	}
}

// completeManifest makes an answer describe its manifest.
func (c *tolerantClient) completeManifest(request *http.Request, response *http.Response) (*http.Response, error) {
	if response.StatusCode != http.StatusOK {
		return response, nil
	}
	if !hasMediaType(response) {
		c.deviations.record("manifests are served as %q: the media type is taken from the content", response.Header.Get("Content-Type"))
		return c.completeDescription(request, response)
	}
	if response.ContentLength < 0 {
		return c.completeDescription(request, response)
	}
	return response, nil
}

// isDescribed reports whether the headers of an answer describe its manifest.
func isDescribed(request *http.Request, response *http.Response) bool {
	_, err := digest.Parse(response.Header.Get("Docker-Content-Digest"))
	return hasMediaType(response) && response.ContentLength >= 0 && (err == nil || requestedDigest(request) != "")
}

// requestedDigest returns the digest that a request names, or "".
func requestedDigest(request *http.Request) digest.Digest {
	at := strings.LastIndexByte(request.URL.Path, '/')
	d, err := digest.Parse(request.URL.Path[at+1:])
	if err != nil {
		return ""
	}
	return d
}

// hasMediaType reports whether an answer names a manifest's media type. Some registries and
// proxies call everything application/json or application/octet-stream.
func hasMediaType(response *http.Response) bool {
	mediaType, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	return err == nil && strings.HasPrefix(mediaType, "application/vnd.")
}

// completeDescription reads the manifest of an answer and adds the missing headers. A digest that the registry
// or the request names stays, for the reader to hold the content against.
func (c *tolerantClient) completeDescription(request *http.Request, response *http.Response) (*http.Response, error) {
	data, err := io.ReadAll(io.LimitReader(response.Body, maxManifest+1))
	if err != nil {
		err = markBroken(request.Context(), err)
	}
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return nil, fmt.Errorf("%s %q: %w", request.Method, request.URL, err)
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("%s %q: the manifest has more than %d bytes: %w", request.Method, request.URL, maxManifest, errdef.ErrSizeExceedsLimit)
	}
	named := requestedDigest(request)
	if d, err := digest.Parse(response.Header.Get("Docker-Content-Digest")); named == "" && err == nil {
		named = d
	}
	isRight := named == "" || named.Algorithm().FromBytes(data) == named
	if !isRight && request.Method == http.MethodHead {
		return nil, fmt.Errorf("%s %q: %s: %w", request.Method, request.URL, named, content.ErrMismatchedDigest)
	}
	if !hasMediaType(response) {
		mediaType := layout.MediaTypeOf(data)
		if !isRight {
			mediaType, _, _ = strings.Cut(request.Header.Get("Accept"), ",") // the content says nothing
		}
		if mediaType != "" {
			response.Header.Set("Content-Type", mediaType)
		}
	}
	if named == "" {
		named = digest.FromBytes(data)
	}
	response.Header.Set("Docker-Content-Digest", named.String())
	response.Header.Set("Content-Length", strconv.Itoa(len(data)))
	response.ContentLength = int64(len(data))
	response.Body = io.NopCloser(bytes.NewReader(data))
	if request.Method == http.MethodHead {
		response.Body = http.NoBody
	}
	return response, nil
}

// completeLink rewrites a link to the next page as in RFC 8288, on the registry's own address.
func (c *tolerantClient) completeLink(response *http.Response) {
	values := response.Header.Values("Link")
	if len(values) == 0 {
		return
	}
	next, ok := nextPage(response.Request.URL, values)
	if !ok {
		response.Header.Del("Link")
		return
	}
	if fixed := "<" + next + `>; rel="next"`; values[0] != fixed {
		if !strings.HasPrefix(values[0], "<") {
			c.deviations.record("links to further pages lack < and >: they are followed")
		}
		response.Header.Set("Link", fixed)
	}
}

// nextPage finds the link to the next page among the values of Link headers.
func nextPage(asked *url.URL, values []string) (string, bool) {
	for _, value := range values {
		for _, link := range splitList(value) {
			target, parameters, _ := strings.Cut(link, ";")
			if rest, ok := strings.CutPrefix(link, "<"); ok {
				if target, parameters, ok = strings.Cut(rest, ">"); !ok {
					continue
				}
			}
			rel := strings.ToLower(strings.ReplaceAll(parameters, `"`, ""))
			if strings.Contains(rel, "rel=") && !strings.Contains(rel, "rel=next") {
				continue
			}
			if u, err := resolveLocation(asked, strings.TrimSpace(target)); err == nil {
				return u.String(), true
			}
		}
	}
	return "", false
}

// Location returns the address in an answer's Location header, in whichever spelling.
func Location(response *http.Response) (*url.URL, error) {
	text := response.Header.Get("Location")
	if text == "" {
		return nil, http.ErrNoLocation
	}
	return resolveLocation(response.Request.URL, text)
}

// resolveLocation resolves an address of a header: absolute, without a scheme, a path, or relative
// to the request.
func resolveLocation(asked *url.URL, location string) (*url.URL, error) {
	for _, host := range []string{asked.Host, asked.Hostname()} {
		if rest, ok := strings.CutPrefix(location, host); ok && (rest == "" || rest[0] == '/' || rest[0] == ':') {
			location = "//" + location
			break
		}
	}
	return asked.Parse(location)
}

// splitList splits at commas, except in quotes and in < >.
func splitList(value string) (items []string) {
	quoted, angled, from := false, false, 0
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == '<':
			angled = true
		case !quoted && c == '>':
			angled = false
		case !quoted && !angled && c == ',':
			items = append(items, strings.TrimSpace(value[from:i]))
			from = i + 1
		}
	}
	return append(items, strings.TrimSpace(value[from:]))
}

// challengeTransport keeps only the challenge that can be met: oras-go reads the first one, which
// may be Negotiate.
type challengeTransport struct {
	base       http.RoundTripper
	deviations *deviationLog
}

// RoundTrip sends a request.
func (t *challengeTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.base.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	values := response.Header.Values("Www-Authenticate")
	if chosen := chooseChallenge(values); chosen != "" && (len(values) > 1 || values[0] != chosen) {
		t.deviations.record("several challenges are offered and Basic or Bearer is not the first: it is used")
		response.Header.Set("Www-Authenticate", chosen)
	}
	return response, nil
}

// chooseChallenge picks Bearer, or else Basic, from the values of WWW-Authenticate headers
// (RFC 9110, 11.6.1), or nothing.
func chooseChallenge(values []string) (chosen string) {
	for _, challenge := range splitChallenges(values) {
		scheme, parameters, _ := strings.Cut(challenge, " ")
		switch {
		case strings.EqualFold(scheme, "bearer") && strings.Contains(strings.ToLower(parameters), "realm"):
			return challenge
		case strings.EqualFold(scheme, "basic") && chosen == "":
			chosen = challenge
		}
	}
	return chosen
}

// splitChallenges splits challenges, whose parameters are separated by commas as they are.
func splitChallenges(values []string) (all []string) {
	for _, value := range values {
		for i, item := range splitList(value) {
			word := item
			if end := strings.IndexAny(item, " \t="); end >= 0 {
				word = item[:end]
			}
			rest := strings.TrimSpace(item[len(word):])
			if isParameter := strings.HasPrefix(rest, "="); isParameter && i > 0 {
				all[len(all)-1] += "," + item
			} else if item != "" {
				all = append(all, item)
			}
		}
	}
	return all
}
