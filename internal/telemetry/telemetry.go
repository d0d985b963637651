// Package telemetry sends what a command does to an OpenTelemetry collector. Call [Start] with the environment at the
// beginning, use the context of the session for all work, and end the session with [Session.End]. Without an endpoint
// in the environment nothing is started.
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Environment variables (OpenTelemetry specification, "Environment Variable Specification" and "OpenTelemetry Protocol
// Exporter"). The SDK and the exporter read the others by themselves: headers, timeouts, certificates, samplers, limits.
const (
	endpointVariable       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tracesEndpointVariable = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	protocolVariable       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	tracesProtocolVariable = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	exporterVariable       = "OTEL_TRACES_EXPORTER"
	disabledVariable       = "OTEL_SDK_DISABLED"
)

const httpProtocol = "http/protobuf"

// endTimeout is how long what was recorded may take to be sent once the command has ended.
const endTimeout = 5 * time.Second

// Session is one command that is told of. A nil session tells nothing.
type Session struct {
	provider *sdktrace.TracerProvider
	root     trace.Span

	mu     sync.Mutex
	failed error
}

// Start begins the span of a command, and returns the context for its work. It returns a nil session if the environment
// names no endpoint. The parent of the span is that of TRACEPARENT and TRACESTATE, as set by CI systems (W3C Trace Context).
func Start(ctx context.Context, getenv func(string) string, version string) (context.Context, *Session, error) {
	if !isEnabled(getenv) {
		return ctx, nil, nil
	}
	for _, variable := range []string{tracesProtocolVariable, protocolVariable} {
		switch protocol := getenv(variable); protocol {
		case "":
			continue
		case httpProtocol:
		default:
			return ctx, nil, fmt.Errorf("%s=%s: want %s, whose port is 4318 by default", variable, protocol, httpProtocol)
		}
		break
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "krtpkg"), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return ctx, nil, err
	}
	s := &Session{}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(s.noteError)) // the SDK has no other way to tell
	exporter := otlptrace.NewUnstarted(otlptracehttp.NewClient())
	if err := exporter.Start(ctx); err != nil {
		return ctx, nil, err
	}
	s.provider = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	parent := propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": getenv("TRACEPARENT"), "tracestate": getenv("TRACESTATE")})
	ctx, s.root = s.provider.Tracer("krtpkg.dev/krtpkg").Start(parent, "krtpkg")
	return ctx, s, nil
}

func isEnabled(getenv func(string) string) bool {
	switch {
	case strings.EqualFold(getenv(disabledVariable), "true"), getenv(exporterVariable) == "none":
		return false
	}
	return getenv(endpointVariable) != "" || getenv(tracesEndpointVariable) != ""
}

func (s *Session) noteError(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
}

// SetCommand names the span after the command.
func (s *Session) SetCommand(path string) {
	if s != nil {
		s.root.SetName(path)
	}
}

// End ends the span and sends what is left. problem is what the command failed with, in words that may be shown, empty if it
// did not. It returns why something could not be sent.
func (s *Session) End(ctx context.Context, code int, problem string) error {
	if s == nil {
		return nil
	}
	s.root.SetAttributes(attribute.Int("process.exit.code", code))
	if code != 0 {
		s.root.SetStatus(codes.Error, problem)
	}
	s.root.End()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	err := s.provider.Shutdown(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(err, s.failed)
}
