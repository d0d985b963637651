// Package apiserver makes clients of an API server that get along with its outages: [WithRetries] sends requests again,
// bounds answers in size and time, and holds writes back while a lock may be lost ([WithFence]); [BindContext] ends all
// requests with a context.
package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"krtpkg.dev/krtpkg/pkg/retry"
)

// requestPauses are the pauses between attempts of a request.
var requestPauses = retry.Policy{First: 100 * time.Millisecond, Longest: 5 * time.Second}

const (
	// longestPause is how long the server may ask to stay away.
	longestPause = 15 * time.Second
	// kindTime is how long one kind may be unavailable on a server that answers otherwise.
	kindTime = 8 * time.Second
	// maxAnswer is how many bytes an answer has: a list of 10,000 large Pods stays below.
	maxAnswer = 128 << 20
	// answerWindow is the time in which an answer must go on by answerRate bytes a second on average.
	answerWindow = 30 * time.Second
	answerRate   = 1 << 10
	// tokenTries is how often a request is sent again with another token.
	tokenTries = 3
	// toldEvery is how often it is told that the server does not answer.
	toldEvery = 10 * time.Second
)

// Transport repeats a request while the API server does not answer or asks to come back: it restarts or is overloaded, a
// connection breaks, a token expires. It gives up when a request, or all requests, have failed for limit. It does not
// wait for a server that has never answered.
//
// A request that may have been carried out is repeated only if that does no harm. If the server then reports a conflict
// because the first attempt succeeded, the caller gets a success.
type Transport struct {
	next  http.RoundTripper
	limit time.Duration
	told  func(cause error, failing time.Duration)
	// renews is set if a request that is sent again may get another token.
	renews bool
	// maxAnswer and answerWindow bound answers.
	maxAnswer    int64
	answerWindow time.Duration

	mu       sync.Mutex
	answered bool
	failing  time.Time // since when nothing was answered; zero if the last request was
	failed   time.Time // when a request failed last
	toldAt   time.Time
	broken   map[string]time.Time // kinds that were unavailable, and when
}

// WithRetries returns the configuration of clients that repeat requests for up to limit ([Transport]); told, which may be
// nil, is called from time to time while nothing is answered. Authentication is below that, so that each attempt gets
// the current token.
func WithRetries(config *rest.Config, limit time.Duration, told func(error, time.Duration)) (*rest.Config, *Transport, error) {
	inner := rest.CopyConfig(config)
	if file := config.BearerTokenFile; file != "" {
		// client-go's own way reads the file once a minute; this one does so when a token is refused, too.
		inner.BearerToken, inner.BearerTokenFile = "", ""
		inner.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedFileTokenSource(file)))
	}
	next, err := rest.TransportFor(inner)
	if err != nil {
		return nil, nil, err
	}
	host, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, nil, err
	}
	retrying := &Transport{
		next: next, limit: limit, told: told, broken: map[string]time.Time{}, maxAnswer: maxAnswer, answerWindow: answerWindow,
		renews: config.ExecProvider != nil || config.AuthProvider != nil || config.BearerTokenFile != "",
	}
	return &rest.Config{
		Host: host.String(), UserAgent: config.UserAgent, QPS: config.QPS, Burst: config.Burst,
		ContentConfig: rest.ContentConfig{ContentType: "application/json"}, // which can be compared, see confirmEarlierAttempt
		Timeout:       config.Timeout, WarningHandler: config.WarningHandler, WarningHandlerWithContext: config.WarningHandlerWithContext,
		Transport: retrying,
	}, retrying, nil
}

// IsFailing reports whether no request is answered just now.
func (t *Transport) IsFailing() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.failing.IsZero()
}

// attemptVerdict is what an attempt came to.
type attemptVerdict int

const (
	settled   attemptVerdict = iota // the answer counts
	untouched                       // the request was not carried out
	doubtful                        // nobody knows
)

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var (
		ctx     = req.Context()
		began   = time.Now()
		doubt   bool
		denials int
	)
	for attempt := 0; ; attempt++ {
		if isWrite(req) {
			if err := passFence(ctx); err != nil {
				return nil, err
			}
		}
		one, err := cloneForAttempt(req, attempt)
		if err != nil {
			return nil, err
		}
		resp, err := t.sendBounded(one)
		what, cause := t.judgeAttempt(req, resp, err, denials)
		if what == settled {
			if err == nil && doubt {
				return t.confirmEarlierAttempt(req, resp)
			}
			return resp, err
		}
		if resp != nil && resp.StatusCode == http.StatusUnauthorized {
			denials++
		}
		repeatable := req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
		if what == doubtful {
			doubt, repeatable = true, repeatable && isRepeatable(req)
		}
		if !repeatable || t.givesUp(began, cause) || resp != nil && t.isKindBroken(ctx, req, resp, began) {
			return t.finalAnswer(resp, err, attempt, time.Since(began))
		}
		if err := retry.Wait(ctx, max(requestPauses.Pause(attempt), requestedPause(resp))); err != nil {
			return nil, err
		}
	}
}

// sendBounded sends a request and reads the answer, unless that may have no end. An answer must begin within
// three windows: the API server itself ends a request after a minute.
func (t *Transport) sendBounded(req *http.Request) (*http.Response, error) {
	if isStream(req) {
		return t.next.RoundTrip(req)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	silent := &slowAnswerError{0, 3 * t.answerWindow}
	timer := time.AfterFunc(silent.within, func() { cancel(silent) })
	defer timer.Stop()
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if err == nil {
		timer.Stop()
		err = t.readAll(resp)
	}
	if err != nil && errors.Is(context.Cause(ctx), silent) {
		err = silent
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// judgeAttempt tells what an attempt came to, and why it is not settled.
func (t *Transport) judgeAttempt(req *http.Request, resp *http.Response, err error, denials int) (attemptVerdict, error) {
	if err != nil {
		what := judgeError(req, err)
		t.mu.Lock()
		defer t.mu.Unlock()
		if what == untouched && !t.answered {
			what = settled // is there a server at all?
		}
		return what, err
	}
	cause := errors.New(resp.Status)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answered = true
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return untouched, cause
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return doubtful, cause
	case http.StatusUnauthorized:
		if t.renews && denials < tokenTries {
			return untouched, cause
		}
	}
	t.failing = time.Time{}
	delete(t.broken, kindOf(req))
	return settled, nil
}

// judgeError looks for what comes from connections: all else, such as a certificate that is wrong,
// stays as it is.
func judgeError(req *http.Request, err error) attemptVerdict {
	var (
		dial *net.OpError
		//lint:ignore SA1019 client-go's transport still returns it
		away   http2.GoAwayError
		slow   *slowAnswerError
		stream http2.StreamError
		broken http2.ConnectionError
	)
	switch {
	case req.Context().Err() != nil:
		return settled
	case errors.As(err, &dial) && dial.Op == "dial":
		return untouched
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), utilnet.IsProbableEOF(err), utilnet.IsConnectionReset(err),
		utilnet.IsHTTP2ConnectionLost(err), utilnet.IsTimeout(err), errors.As(err, &dial),
		errors.As(err, &slow), errors.As(err, &away), errors.As(err, &stream), errors.As(err, &broken):
		return doubtful
	}
	return settled
}

// givesUp reports whether a request, or the server, has failed for too long; if not, it tells
// about it from time to time.
func (t *Transport) givesUp(began time.Time, cause error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.failing.IsZero() || now.Sub(t.failed) > time.Minute {
		t.failing = now
	}
	t.failed = now
	if now.Sub(began) >= t.limit || now.Sub(t.failing) >= t.limit {
		return true
	}
	if failing := now.Sub(t.failing); t.told != nil && failing > time.Second && now.Sub(t.toldAt) > toldEvery {
		t.toldAt = now
		t.told(cause, failing)
	}
	return false
}

// isKindBroken reports whether the request is for a kind that is unavailable while the server itself
// answers: the server behind an API group may be down for good, or the webhook that converts a
// kind.
func (t *Transport) isKindBroken(ctx context.Context, req *http.Request, resp *http.Response, began time.Time) bool {
	kind := kindOf(req)
	if kind == "" || resp.StatusCode == http.StatusUnauthorized {
		return false
	}
	t.mu.Lock()
	known := time.Since(t.broken[kind]) < t.limit
	t.mu.Unlock()
	if known {
		return true
	}
	if time.Since(began) < kindTime {
		return false
	}
	probe := req.Clone(ctx)
	probe.Method, probe.Body, probe.GetBody, probe.ContentLength = http.MethodGet, nil, nil, 0
	probe.URL.Path, probe.URL.RawQuery = req.URL.Path[:strings.Index(req.URL.Path, "/apis/")]+"/version", ""
	answer, err := t.sendBounded(probe)
	if err != nil {
		return false
	}
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusForbidden {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken[kind], t.failing = time.Now(), time.Time{}
	return true
}

// kindOf returns the group, version and resource of a request, "" for the core group, which nothing
// but the API server itself serves.
func kindOf(req *http.Request) string {
	_, rest, found := strings.Cut(req.URL.Path, "/apis/")
	parts := strings.Split(rest, "/")
	if !found || len(parts) < 2 {
		return ""
	}
	if len(parts) > 4 && parts[2] == "namespaces" {
		parts = append(parts[:2:2], parts[4])
	}
	return strings.Join(parts[:min(len(parts), 3)], "/")
}

// finalAnswer returns the last answer, which is not to be asked for again by client-go.
func (t *Transport) finalAnswer(resp *http.Response, err error, attempts int, after time.Duration) (*http.Response, error) {
	if err == nil {
		if t.limit > 0 {
			resp.Header.Del("Retry-After")
		}
		return resp, nil
	}
	if attempts == 0 {
		return nil, err
	}
	return nil, fmt.Errorf("no answer for %s: %w", after.Round(time.Second), err)
}

// cloneForAttempt returns the request for an attempt: a copy, since some of client-go leave their token on it.
func cloneForAttempt(req *http.Request, attempt int) (*http.Request, error) {
	again := req.Clone(req.Context())
	if attempt > 0 && req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		again.Body = body
	}
	return again, nil
}

// slowAnswerError reports that an answer of the API server arrives too slowly to ever get done.
type slowAnswerError struct {
	bytes  int64
	within time.Duration
}

func (e *slowAnswerError) Error() string {
	return fmt.Sprintf("the API server sent %d bytes in %s: too slow", e.bytes, e.within)
}

// readAll reads the body, so that a connection that breaks in it is a failure like any other. A body
// that is too large or too slow is one, too.
func (t *Transport) readAll(resp *http.Response) error {
	var received atomic.Int64
	var slow atomic.Pointer[slowAnswerError]
	read := make(chan struct{})
	defer close(read)
	go func() {
		tick := time.NewTicker(t.answerWindow)
		defer tick.Stop()
		for last := int64(0); ; last = received.Load() {
			select {
			case <-read:
				return
			case <-tick.C:
			}
			if arrived := received.Load() - last; float64(arrived) < answerRate*t.answerWindow.Seconds() {
				slow.Store(&slowAnswerError{arrived, t.answerWindow})
				resp.Body.Close()
				return
			}
		}
	}()
	data, err := io.ReadAll(io.LimitReader(&countingReader{resp.Body, &received}, t.maxAnswer+1))
	resp.Body.Close()
	switch {
	case err != nil && slow.Load() != nil:
		return slow.Load()
	case err != nil:
		return err
	case int64(len(data)) > t.maxAnswer:
		return fmt.Errorf("an answer of the API server has more than %d bytes", t.maxAnswer)
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	return nil
}

// countingReader counts the bytes that are read.
type countingReader struct {
	io.Reader
	count *atomic.Int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.count.Add(int64(n))
	return n, err
}

// isStream tells of answers that may have no end.
func isStream(req *http.Request) bool {
	return strings.HasSuffix(req.URL.Path, "/log") || req.URL.Query().Get("watch") != ""
}

// requestedPause returns how long the server asks to stay away, up to a limit.
func requestedPause(resp *http.Response) time.Duration {
	if resp == nil {
		return 0
	}
	return retry.AddJitter(min(retry.ParseAfter(resp.Header), longestPause))
}

func isWrite(req *http.Request) bool {
	return req.Method != http.MethodGet && req.Method != http.MethodHead
}

// isRepeatable reports whether a request may be carried out twice. A creation is refused the second
// time, or, if the server chooses the name, is one of kapp's records, which goes with its app; an
// update holds the version that it is for; a deletion finds nothing more. A JSON patch may remove
// what is no longer there.
func isRepeatable(req *http.Request) bool {
	return req.Method != http.MethodPatch || req.Header.Get("Content-Type") != string(types.JSONPatchType)
}

// confirmEarlierAttempt returns the response to a retried request that an earlier attempt may have carried out: if
// the cluster holds what the request writes, that attempt succeeded.
func (t *Transport) confirmEarlierAttempt(req *http.Request, resp *http.Response) (*http.Response, error) {
	switch {
	case req.Method == http.MethodDelete && resp.StatusCode == http.StatusNotFound:
		body, err := json.Marshal(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
		if err != nil {
			return nil, err
		}
		return newResponse(resp, http.StatusOK, body), nil
	case resp.StatusCode != http.StatusConflict || req.Method != http.MethodPost && req.Method != http.MethodPut || req.GetBody == nil:
		return resp, nil
	}
	sent, err := readSent(req)
	if err != nil {
		return resp, nil // not JSON: the server's answer has to do
	}
	get := req.Clone(req.Context())
	get.Method, get.Body, get.GetBody, get.ContentLength = http.MethodGet, nil, nil, 0
	get.URL.RawQuery = ""
	if req.Method == http.MethodPost {
		metadata, _ := sent["metadata"].(map[string]any)
		name, _ := metadata["name"].(string)
		if name == "" {
			return resp, nil
		}
		get.URL.Path = path.Join(req.URL.Path, name)
	}
	there, err := t.RoundTrip(get)
	if err != nil || there.StatusCode != http.StatusOK {
		return resp, nil
	}
	data, err := io.ReadAll(there.Body)
	if err != nil {
		return nil, err
	}
	var stored map[string]any
	if json.Unmarshal(data, &stored) != nil || !includesValue(stored, sent) {
		return resp, nil
	}
	return newResponse(there, http.StatusOK, data), nil
}

func readSent(req *http.Request) (map[string]any, error) {
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var sent map[string]any
	if err := json.NewDecoder(body).Decode(&sent); err != nil {
		return nil, err
	}
	// What the server decides, and what it does not give back.
	delete(sent, "status")
	if sent["kind"] == "Secret" {
		delete(sent, "stringData")
	}
	if metadata, is := sent["metadata"].(map[string]any); is {
		for _, key := range []string{"resourceVersion", "managedFields", "creationTimestamp", "generation", "uid", "selfLink"} {
			delete(metadata, key)
		}
	}
	return sent, nil
}

// includesValue reports whether a value has all of another one.
func includesValue(all, some any) bool {
	switch want := some.(type) {
	case nil:
		return true
	case map[string]any:
		have, is := all.(map[string]any)
		for key, value := range want {
			if !includesValue(have[key], value) {
				return false
			}
		}
		return is || len(want) == 0
	case []any:
		have, _ := all.([]any)
		if len(have) != len(want) {
			return false
		}
		for i := range want {
			if !includesValue(have[i], want[i]) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(all, some)
}

func newResponse(like *http.Response, status int, body []byte) *http.Response {
	made := *like
	made.StatusCode, made.Status = status, fmt.Sprintf("%d %s", status, http.StatusText(status))
	made.Header = http.Header{"Content-Type": {"application/json"}}
	made.Body, made.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return &made
}
