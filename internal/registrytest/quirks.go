package registrytest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Quirk is one thing in which registries in use differ from the distribution specification, or
// use a freedom that it leaves them.
type Quirk string

// The referrers API is answered by another status than 404 if it is not implemented. Each of these
// takes the API away, whatever the kind of the registry.
const (
	Referrers400  Quirk = "referrers-400"
	Referrers401  Quirk = "referrers-401"
	Referrers403  Quirk = "referrers-403"
	Referrers405  Quirk = "referrers-405"
	Referrers406  Quirk = "referrers-406"
	Referrers501  Quirk = "referrers-501"
	ReferrersHTML Quirk = "referrers-html" // 200, and a page for people
)

const (
	// UnknownSubjects has the referrers API, and answers 400 for a subject that is not there.
	UnknownSubjects Quirk = "unknown-subjects"
	// ForbiddenTags answers 403 for a tag that is not there.
	ForbiddenTags Quirk = "forbidden-tags"
	// HeadWithoutDigest leaves Docker-Content-Digest out of every answer.
	HeadWithoutDigest Quirk = "head-without-digest"
	// HeadWithoutLength leaves Content-Length out of answers to HEAD.
	HeadWithoutLength Quirk = "head-without-length"
	// HeadRefused answers HEAD by 405.
	HeadRefused Quirk = "head-refused"
	// PlainMediaTypes calls every manifest application/json.
	PlainMediaTypes Quirk = "plain-media-types"
	// OtherStatuses answers 200 or 202 where 201 is usual, and 200 for 202.
	OtherStatuses Quirk = "other-statuses"
	// RelativeLocations and LocationsWithoutScheme are of uploads.
	RelativeLocations      Quirk = "relative-locations"
	LocationsWithoutScheme Quirk = "locations-without-scheme"
	// BareLinks lists tags two a page, and names the next page without < and >.
	BareLinks Quirk = "bare-links"
	// NegotiateFirst offers Negotiate before the usual challenge in one header, and
	// NegotiateHeader in a header of its own. They need authentication.
	NegotiateFirst  Quirk = "negotiate-first"
	NegotiateHeader Quirk = "negotiate-header"
	// AnonymousPull asks for credentials only of those who write. It needs [Basic].
	AnonymousPull Quirk = "anonymous-pull"
	// ImmutableTags refuses to move a tag, or to set it again.
	ImmutableTags Quirk = "immutable-tags"
	// RepositoriesFirst takes pushes only to repositories below created/, as registries do
	// where repositories are created by other means.
	RepositoriesFirst Quirk = "repositories-first"
	// IPv6 listens at [::1].
	IPv6 Quirk = "ipv6"
)

// QuirkyOptions returns a registry for each quirk: olareg with what the quirk needs.
func QuirkyOptions() (all []Options) {
	for _, quirk := range []Quirk{
		Referrers400, Referrers401, Referrers403, Referrers405, Referrers406, Referrers501, ReferrersHTML,
		UnknownSubjects, ForbiddenTags, HeadWithoutDigest, HeadWithoutLength, HeadRefused, PlainMediaTypes, OtherStatuses,
		RelativeLocations, LocationsWithoutScheme, BareLinks, NegotiateFirst, NegotiateHeader, AnonymousPull,
		ImmutableTags, RepositoriesFirst, IPv6,
	} {
		o := Options{Quirks: []Quirk{quirk}}
		switch quirk {
		case NegotiateFirst, AnonymousPull:
			o.Auth = Basic
		case NegotiateHeader:
			o.Auth = Token
		}
		all = append(all, o)
	}
	return append(all, Options{NoReferrers: true, Quirks: []Quirk{ImmutableTags}})
}

func (o Options) hasQuirk(q Quirk) bool { return slices.Contains(o.Quirks, q) }

// refusesReferrers returns how the referrers API is answered that was taken away, or 0.
func (o Options) refusesReferrers() int {
	for _, q := range o.Quirks {
		if text, ok := strings.CutPrefix(string(q), "referrers-"); ok {
			if status, err := strconv.Atoi(text); err == nil {
				return status
			}
			return http.StatusOK
		}
	}
	return 0
}

// quirkyHandler changes what a registry is asked and what it answers.
type quirkyHandler struct {
	Options
	next http.Handler

	mu   sync.Mutex
	tags map[string]bool
}

func (q *quirkyHandler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if q.refuseRequest(w, req) {
		return
	}
	if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") && req.URL.Query().Get("digest") == "" {
		q.next.ServeHTTP(&quirkyWriter{ResponseWriter: w, quirks: q, req: req}, req)
		return
	}
	answer := httptest.NewRecorder()
	q.next.ServeHTTP(answer, req)
	status, header, body := answer.Code, answer.Header(), answer.Body.Bytes()
	if q.hasQuirk(BareLinks) && strings.HasSuffix(req.URL.Path, "/tags/list") && status == http.StatusOK {
		body = q.truncatePage(req, header, body)
	}
	status = q.changeHeader(req, status, header)
	if req.Method == http.MethodHead && q.hasQuirk(HeadWithoutLength) {
		answerWithoutLength(w, status, header)
		return
	}
	for key, values := range header {
		w.Header()[key] = values
	}
	w.WriteHeader(status)
	if req.Method != http.MethodHead {
		w.Write(body)
	}
}

// refuseRequest answers what the registry does not take.
func (q *quirkyHandler) refuseRequest(w http.ResponseWriter, req *http.Request) bool {
	switch {
	case strings.Contains(req.URL.Path, "/referrers/") && q.refusesReferrers() != 0:
		if status := q.refusesReferrers(); status != http.StatusOK {
			http.Error(w, "no such thing", status)
			return true
		}
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<html>Welcome</html>")
	case q.hasQuirk(UnknownSubjects) && strings.HasSuffix(req.URL.Path, "/referrers/sha256:"+strings.Repeat("0", 64)):
		writeError(w, http.StatusBadRequest, "MANIFEST_UNKNOWN", "manifest unknown")
	case req.Method == http.MethodHead && q.hasQuirk(HeadRefused):
		w.WriteHeader(http.StatusMethodNotAllowed)
	case q.hasQuirk(RepositoriesFirst) && req.Method != http.MethodGet && req.Method != http.MethodHead && !strings.HasPrefix(req.URL.Path, "/v2/created/"):
		writeError(w, http.StatusNotFound, "NAME_UNKNOWN", "the repository does not exist in the registry")
	case q.hasQuirk(ImmutableTags) && q.isSet(req):
		writeError(w, http.StatusBadRequest, "TAG_INVALID", "the tag already exists in the repository and cannot be overwritten because the repository is immutable")
	default:
		return false
	}
	return true
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// isSet reports whether a request writes a tag that was written before.
func (q *quirkyHandler) isSet(req *http.Request) bool {
	_, tag, ok := cutLast(req.URL.Path, "/manifests/")
	if !ok || req.Method != http.MethodPut || strings.Contains(tag, ":") {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	set := q.tags[req.URL.Path]
	if q.tags == nil {
		q.tags = map[string]bool{}
	}
	q.tags[req.URL.Path] = true
	return set
}

// changeHeader changes the header of an answer and returns its status.
func (q *quirkyHandler) changeHeader(req *http.Request, status int, header http.Header) int {
	isManifest := strings.Contains(req.URL.Path, "/manifests/")
	if q.hasQuirk(ForbiddenTags) && isManifest && status == http.StatusNotFound && !strings.Contains(req.URL.Path, "sha256:") && strings.Contains(req.URL.Path, "/sha256-") {
		return http.StatusForbidden
	}
	if q.hasQuirk(HeadWithoutDigest) {
		header.Del("Docker-Content-Digest")
	}
	if q.hasQuirk(PlainMediaTypes) && isManifest && status == http.StatusOK {
		header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if location := header.Get("Location"); location != "" && strings.Contains(req.URL.Path, "/blobs/uploads/") {
		if u, err := url.Parse(location); err == nil {
			switch {
			case q.hasQuirk(RelativeLocations):
				header.Set("Location", u.RequestURI())
			case q.hasQuirk(LocationsWithoutScheme):
				header.Set("Location", req.Host+u.RequestURI())
			}
		}
	}
	if q.hasQuirk(OtherStatuses) {
		switch {
		case status == http.StatusCreated && isManifest:
			return http.StatusOK
		case status == http.StatusCreated:
			return http.StatusAccepted
		case status == http.StatusAccepted:
			return http.StatusOK
		}
	}
	if challenge := header.Get("WWW-Authenticate"); status == http.StatusUnauthorized && challenge != "" {
		switch {
		case q.hasQuirk(NegotiateFirst):
			header.Set("WWW-Authenticate", "Negotiate, "+challenge)
		case q.hasQuirk(NegotiateHeader):
			header["Www-Authenticate"] = []string{"Negotiate", `NTLM realm="corp, inc"`, challenge}
		}
	}
	return status
}

// truncatePage cuts a list of tags to two of them.
func (q *quirkyHandler) truncatePage(req *http.Request, header http.Header, body []byte) []byte {
	var list struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}
	if json.Unmarshal(body, &list) != nil || len(list.Tags) <= 2 {
		return body
	}
	list.Tags = list.Tags[:2]
	header.Set("Link", req.URL.Path+"?last="+url.QueryEscape(list.Tags[1])+`; rel="next"`)
	header.Del("Content-Length")
	cut, err := json.Marshal(list)
	if err != nil {
		return body
	}
	return cut
}

// answerWithoutLength answers HEAD as a server does that sends what it has in chunks.
func answerWithoutLength(w http.ResponseWriter, status int, header http.Header) {
	for key, values := range header {
		w.Header()[key] = values
	}
	w.Header().Del("Content-Length")
	w.WriteHeader(status)
}

// quirkyWriter passes a blob on as it comes.
type quirkyWriter struct {
	http.ResponseWriter
	quirks *quirkyHandler
	req    *http.Request
}

func (w *quirkyWriter) WriteHeader(status int) {
	w.ResponseWriter.WriteHeader(w.quirks.changeHeader(w.req, status, w.Header()))
}

// Unwrap lets http.ResponseController flush through to the connection.
func (w *quirkyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// requireToWrite asks for credentials of those who write.
func requireToWrite(open, guarded http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet || req.Method == http.MethodHead {
			open.ServeHTTP(w, req)
			return
		}
		guarded.ServeHTTP(w, req)
	})
}
