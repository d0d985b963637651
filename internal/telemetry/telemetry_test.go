package telemetry

import (
	"runtime"
	"testing"
)

// Without an endpoint, or switched off, nothing is started: the context is the caller's, and no goroutine is left.
func TestNothingIsStarted(t *testing.T) {
	for _, environment := range []map[string]string{
		{},
		{"OTEL_SERVICE_NAME": "x", "TRACEPARENT": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		{endpointVariable: "http://127.0.0.1:1", disabledVariable: "true"},
		{tracesEndpointVariable: "http://127.0.0.1:1", exporterVariable: "none"},
	} {
		before := runtime.NumGoroutine()
		ctx, session, err := Start(t.Context(), func(name string) string { return environment[name] }, "1.0.0")
		if err != nil || session != nil || ctx != t.Context() {
			t.Errorf("%v: session %v, %v", environment, session, err)
		}
		session.SetCommand("krtpkg copy")
		if err := session.End(ctx, 0, ""); err != nil {
			t.Error(err)
		}
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%v: %d goroutines, before %d", environment, after, before)
		}
	}
}

func TestProtocol(t *testing.T) {
	for environment, want := range map[[2]string]string{
		{protocolVariable, "grpc"}:            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: want http/protobuf, whose port is 4318 by default",
		{tracesProtocolVariable, "http/json"}: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json: want http/protobuf, whose port is 4318 by default",
	} {
		_, session, err := Start(t.Context(), func(name string) string {
			return map[string]string{endpointVariable: "http://127.0.0.1:1", environment[0]: environment[1]}[name]
		}, "1.0.0")
		if session != nil || err == nil || err.Error() != want {
			t.Errorf("%v", err)
		}
	}
}
