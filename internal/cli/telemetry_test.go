package cli_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// collector is a real OTLP receiver and the spans that it got.
type collector struct {
	address string
	stdin   io.Closer
	// batches are sent what was read once the collector has ended: until then someone has to read, or it stands still.
	batches chan [][]byte
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	cmd := exec.Command(hack.BuildForTest(t, "collector"))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 64<<20)
	if !lines.Scan() {
		t.Fatal("the collector has not started")
	}
	c := &collector{address: lines.Text(), stdin: stdin, batches: make(chan [][]byte, 1)}
	go func() {
		var all [][]byte
		for lines.Scan() {
			all = append(all, bytes.Clone(lines.Bytes()))
		}
		c.batches <- all
	}()
	return c
}

// span is a span in OTLP's JSON.
type span struct {
	TraceID      string `json:"traceId"`
	SpanID       string `json:"spanId"`
	ParentSpanID string `json:"parentSpanId"`
	Name         string `json:"name"`
	Status       struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"status"`
	Attributes []struct {
		Key   string `json:"key"`
		Value struct {
			StringValue string `json:"stringValue"`
			IntValue    string `json:"intValue"`
		} `json:"value"`
	} `json:"attributes"`
}

func (s span) attribute(key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.StringValue + a.Value.IntValue
		}
	}
	return ""
}

// readSpans returns the spans of all commands that have ended, by their ids.
func (c *collector) readSpans(t *testing.T) map[string]span {
	t.Helper()
	c.stdin.Close()
	spans := map[string]span{}
	for _, line := range <-c.batches {
		var batch struct {
			ResourceSpans []struct {
				ScopeSpans []struct {
					Spans []span `json:"spans"`
				} `json:"scopeSpans"`
			} `json:"resourceSpans"`
		}
		if err := json.Unmarshal(line, &batch); err != nil {
			t.Fatal(err)
		}
		for _, r := range batch.ResourceSpans {
			for _, s := range r.ScopeSpans {
				for _, one := range s.Spans {
					spans[one.SpanID] = one
				}
			}
		}
	}
	return spans
}

// A collector gets a span of each command, of each root, bundle and blob, and of each request, every one below the one
// that it is a part of.
func TestTraces(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	s := newSite(t, "ghcr.io/example/web:1.0")
	registry := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg})
	s.write(web...)
	s.ok("build", "-f", ".")
	s.ok("sign", "--key", "cosign.key", "oci:dist:1.0.0")
	s.write("note/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: note, version: 1.0.0}\nspec: {layer: 2, sources: [{file: note.yaml}]}\n",
		"note/note.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: note}\n")
	s.ok("build", "-f", "note", "--to", "oci:notes")
	s.ok("sign", "--key", "cosign.key", "oci:notes:1.0.0")
	cluster := clustertest.Borrow(t)

	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	s.env = append(s.env, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.address, "TRACEPARENT=00-"+trace+"-"+parent+"-01", "OTEL_BSP_SCHEDULE_DELAY=50")
	at := registry.Host + "/krt/edge:1.0.0"
	s.ok("copy", "--key", "cosign.pub", "oci:dist:1.0.0", at)
	s.ok("export", "--key", "cosign.pub", at, "edge.tar")
	s.ok("verify", "--key", "cosign.pub", at)
	s.ok("import", "--key", "cosign.pub", "edge.tar", registry.Host+"/site/edge")
	s.ok("render", "--key", "cosign.pub", at)
	s.ok("apply", "--key", "cosign.pub", "oci:notes:1.0.0", "--yes", "--kubeconfig", cluster.Kubeconfig)
	s.ok("delete", "note", "--yes", "--kubeconfig", cluster.Kubeconfig)
	s.refused(1, "not found", "verify", "--key", "cosign.pub", registry.Host+"/krt/edge:9.9.9")

	spans := c.readSpans(t)
	var paths []string
	for _, one := range spans {
		path := []string{one.Name}
		for up := one; up.ParentSpanID != parent; {
			above, ok := spans[up.ParentSpanID]
			if !ok || up.TraceID != trace {
				t.Fatalf("%+v is below nothing", up)
			}
			path, up = append([]string{above.Name}, path...), above
		}
		if line := strings.Join(path, " > "); !slices.Contains(paths, line) {
			paths = append(paths, line)
		}
	}
	slices.Sort(paths)
	for _, want := range []string{
		"krtpkg copy > verify", "krtpkg copy > plan root > open bundle", "krtpkg copy > copy plan > copy blob > HTTP PUT", "krtpkg copy > copy plan > copy manifest > HTTP PUT",
		"krtpkg export > plan root > open bundle > HTTP GET", "krtpkg export > write archive > read blob > HTTP GET",
		"krtpkg verify > verify > HTTP GET", "krtpkg import > ", "krtpkg import > copy plan > copy blob > HTTP PUT", "krtpkg render > render bundle",
		"krtpkg apply > verify", "krtpkg apply > render bundle", "krtpkg apply > plan app", "krtpkg apply > apply app", "krtpkg delete > delete app",
	} {
		if !slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(p, want) }) {
			t.Errorf("no span %s in\n%s", want, strings.Join(paths, "\n"))
		}
	}
	for _, one := range spans {
		switch {
		case one.Name == "copy blob" && (!strings.HasPrefix(one.attribute("krtpkg.digest"), "sha256:") || one.attribute("krtpkg.bytes") == ""),
			one.Name == "HTTP GET" && (one.attribute("http.response.status_code") == "" || one.attribute("url.path") == ""):
			t.Errorf("%+v", one)
		}
	}
	failed := 0
	for _, one := range spans {
		if one.Name == "krtpkg verify" && one.attribute("process.exit.code") == "1" && one.Status.Code == 2 && one.Status.Message == "notFound" {
			failed++
		}
	}
	if failed != 1 {
		t.Error("the failure is not told")
	}

	// Nobody listens: the command does its work and says so.
	s.env = append(s.env, "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_TIMEOUT=1000")
	if r := s.run("list", "oci:dist"); r.code != 0 || !strings.Contains(r.stderr, "WARNING: traces were not sent: ") {
		t.Errorf("%d %s", r.code, r.stderr)
	}
	s.env = append(s.env, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
	if r := s.run("list", "oci:dist"); r.code != 0 || !strings.Contains(r.stderr, "WARNING: traces are not sent: OTEL_EXPORTER_OTLP_PROTOCOL=grpc: want http/protobuf") {
		t.Errorf("%d %s", r.code, r.stderr)
	}
}
