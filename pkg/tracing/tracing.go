// Package tracing tells of work as OpenTelemetry spans. Call [Start] where something begins that takes time, and what it
// returns when that ends.
//
// There is no global state: spans are made only below one that the context holds, by the provider of that one. A program
// that embeds krtpkg starts a span with its SDK and passes the context on; without one, Start costs a lookup in
// the context, and nothing is recorded.
package tracing

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// scope is the instrumentation scope of all spans.
const scope = "krtpkg.dev/krtpkg"

// The keys of attributes.
const (
	keyDigest = attribute.Key("krtpkg.digest")
	keyBytes  = attribute.Key("krtpkg.bytes")
	keyItems  = attribute.Key("krtpkg.items")
	keyBundle = attribute.Key("krtpkg.bundle")
	keyApp    = attribute.Key("krtpkg.app")
)

// Digest says what a span is about.
func Digest(d digest.Digest) attribute.KeyValue { return keyDigest.String(string(d)) }

// Bytes is the size of what a span is about.
func Bytes(n int64) attribute.KeyValue { return keyBytes.Int64(n) }

// Items is how many manifests and blobs a span is about.
func Items(n int) attribute.KeyValue { return keyItems.Int(n) }

// Bundle is the name of a bundle.
func Bundle(name string) attribute.KeyValue { return keyBundle.String(name) }

// App is the name of an app of kapp's.
func App(name string) attribute.KeyValue { return keyApp.String(name) }

// Start begins a span below that of ctx, if that is recorded. The context it returns is for all that belongs to the span, and
// end is called once, with the error that it ended with. A span has the type of its error and not the text, which may quote
// what is confidential.
func Start(ctx context.Context, name string, attributes ...attribute.KeyValue) (_ context.Context, end func(error)) {
	return startSpan(ctx, name, trace.WithAttributes(attributes...))
}

func startSpan(ctx context.Context, name string, options ...trace.SpanStartOption) (_ context.Context, end func(error)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, func(error) {}
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(ctx, name, options...)
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, "")
			span.SetAttributes(attribute.String("error.type", fmt.Sprintf("%T", err)))
		}
		span.End()
	}
}
