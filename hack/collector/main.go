// Command collector is the OTLP receiver of the OpenTelemetry collector, for tests. It prints the address that it listens on, and
// then each batch of spans that it gets as a line of OTLP's JSON, until its standard input ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	printer, err := consumer.NewTraces(printSpans)
	if err != nil {
		return err
	}
	address, traces, err := start(ctx, printer)
	for attempt := 1; err != nil && attempt < attempts; attempt++ {
		address, traces, err = start(ctx, printer) // someone else took the port
	}
	if err != nil {
		return err
	}
	fmt.Println(address)
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, traces.Shutdown(ctx))
}

// attempts is how often a free port is looked for.
const attempts = 5

// start starts a receiver on a port that was free a moment ago: the receiver does not tell which one it got.
func start(ctx context.Context, next consumer.Traces) (address string, _ receiver.Traces, err error) {
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	address = probe.Addr().String()
	if err := probe.Close(); err != nil {
		return "", nil, err
	}
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	settings := confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{"http": map[string]any{"endpoint": address}}})
	if err := settings.Unmarshal(config); err != nil {
		return "", nil, err
	}
	traces, err := factory.CreateTraces(ctx, receiver.Settings{ID: component.NewID(factory.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}, config, next)
	if err == nil {
		err = traces.Start(ctx, componenttest.NewNopHost())
	}
	return address, traces, err
}

func printSpans(_ context.Context, spans ptrace.Traces) error {
	line, err := (&ptrace.JSONMarshaler{}).MarshalTraces(spans)
	if err == nil {
		_, err = fmt.Println(string(line))
	}
	return err
}
