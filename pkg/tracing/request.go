package tracing

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// attemptsKey is the key of the number of attempts at a request.
type attemptsKey struct{}

// Attempts counts the attempts at each request that Base makes, which retries, for a [Transport] below it.
type Attempts struct{ Base http.RoundTripper }

// RoundTrip sends a request.
func (t *Attempts) RoundTrip(r *http.Request) (*http.Response, error) {
	if trace.SpanFromContext(r.Context()).IsRecording() {
		r = r.WithContext(context.WithValue(r.Context(), attemptsKey{}, new(atomic.Int64)))
	}
	return t.Base.RoundTrip(r)
}

// Transport makes a span of each request, which ends with the content of its answer. Attributes are those of HTTP clients
// (OpenTelemetry semantic conventions 1.43), but of a URL only the host, and the path of the distribution-spec: where a registry
// redirects to, the path or the query is a credential. Nothing of the trace is sent along: registries have no business with it.
type Transport struct{ Base http.RoundTripper }

// blobOrManifest finds the digest in the path of a request to a registry.
var blobOrManifest = regexp.MustCompile(`/(?:blobs|manifests|referrers)/([a-z0-9]+:[0-9a-f]+)$`)

// RoundTrip sends a request.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !trace.SpanFromContext(r.Context()).IsRecording() {
		return t.Base.RoundTrip(r)
	}
	attributes := []attribute.KeyValue{attribute.String("http.request.method", r.Method), attribute.String("server.address", r.URL.Hostname())}
	if port, err := strconv.Atoi(r.URL.Port()); err == nil {
		attributes = append(attributes, attribute.Int("server.port", port))
	}
	if strings.HasPrefix(r.URL.Path, "/v2/") {
		attributes = append(attributes, attribute.String("url.path", r.URL.Path))
	}
	if found := blobOrManifest.FindStringSubmatch(r.URL.Path); found != nil {
		attributes = append(attributes, Digest(digest.Digest(found[1])))
	}
	if attempts, ok := r.Context().Value(attemptsKey{}).(*atomic.Int64); ok {
		if before := attempts.Add(1) - 1; before > 0 {
			attributes = append(attributes, attribute.Int64("http.request.resend_count", before))
		}
	}
	if r.ContentLength > 0 {
		attributes = append(attributes, attribute.Int64("http.request.body.size", r.ContentLength))
	}
	ctx, end := startSpan(r.Context(), "HTTP "+r.Method, trace.WithAttributes(attributes...), trace.WithSpanKind(trace.SpanKindClient))
	response, err := t.Base.RoundTrip(r.WithContext(ctx))
	if err != nil {
		end(err)
		return response, err
	}
	span := trace.SpanFromContext(ctx)
	span.SetAttributes(attribute.Int("http.response.status_code", response.StatusCode))
	response.Body = &tracedBody{ReadCloser: response.Body, span: span, end: end, status: response.StatusCode}
	return response, nil
}

// tracedBody ends a span with the content of an answer.
type tracedBody struct {
	io.ReadCloser
	span   trace.Span
	end    func(error)
	status int
	read   int64
	once   sync.Once
}

func (b *tracedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if err != nil {
		b.endSpan(err)
	}
	return n, err
}

func (b *tracedBody) Close() error {
	err := b.ReadCloser.Close()
	b.endSpan(err)
	return err
}

func (b *tracedBody) endSpan(err error) {
	b.once.Do(func() {
		b.span.SetAttributes(attribute.Int64("http.response.body.size", b.read))
		if b.status >= http.StatusBadRequest {
			b.span.SetAttributes(attribute.String("error.type", strconv.Itoa(b.status)))
		}
		if err == io.EOF {
			err = nil
		}
		b.end(err)
	})
}
