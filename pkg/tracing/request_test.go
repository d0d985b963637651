package tracing_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"krtpkg.dev/krtpkg/pkg/tracing"
)

// startRecording returns a context with a span, and what ends and records those below it.
func startRecording(t *testing.T) (context.Context, *tracetest.SpanRecorder) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	ctx, _ := provider.Tracer("test").Start(t.Context(), "command")
	return ctx, recorder
}

// Each request is a span with what it was for, and without what may be a credential.
func TestRequests(t *testing.T) {
	t.Parallel()
	const digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "content") }))
	t.Cleanup(storage.Close)
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/absent") {
			http.NotFound(w, r)
			return
		}
		http.Redirect(w, r, storage.URL+"/downloads/SECRET-TOKEN?X-Signature=SECRET-SIGNATURE", http.StatusTemporaryRedirect)
	}))
	t.Cleanup(registry.Close)
	ctx, recorder := startRecording(t)
	client := &http.Client{Transport: &tracing.Attempts{Base: &tracing.Transport{Base: http.DefaultTransport}}}
	for _, path := range []string{"/v2/krt/edge/blobs/" + digest, "/v2/krt/edge/manifests/absent"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, registry.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer SECRET-HEADER")
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	var all []map[string]string
	for _, span := range recorder.Ended() {
		attributes := map[string]string{}
		for _, a := range span.Attributes() {
			attributes[string(a.Key)] = a.Value.String()
			if strings.Contains(a.Value.String(), "SECRET") {
				t.Errorf("%s is %s", a.Key, a.Value.String())
			}
		}
		if span.SpanKind() != trace.SpanKindClient || attributes["server.address"] != "127.0.0.1" || attributes["server.port"] == "" {
			t.Errorf("%s: %v", span.Name(), attributes)
		}
		all = append(all, attributes)
	}
	if len(all) != 3 {
		t.Fatalf("%d spans", len(all))
	}
	for i, want := range []map[string]string{
		{"http.response.status_code": "307", "krtpkg.digest": digest, "url.path": "/v2/krt/edge/blobs/" + digest},
		{"http.response.status_code": "200", "http.response.body.size": "7", "url.path": ""},
		{"http.response.status_code": "404", "error.type": "404"},
	} {
		for key, value := range want {
			if all[i][key] != value {
				t.Errorf("span %d: %s is %q, want %q", i, key, all[i][key], value)
			}
		}
	}
}

// Below no span nothing is recorded, and nothing changes.
func TestWithoutSpan(t *testing.T) {
	t.Parallel()
	ctx, end := tracing.Start(t.Context(), "work")
	end(io.ErrUnexpectedEOF)
	if ctx != t.Context() {
		t.Error("another context")
	}
}
