package serve

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// MetricsText is metrics in Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats).
type MetricsText struct{ text strings.Builder }

// Add adds a metric. Each sample is labels in braces, if any, a space and the value.
func (m *MetricsText) Add(name, kind, help string, samples ...string) {
	fmt.Fprintf(&m.text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	for _, s := range samples {
		fmt.Fprintf(&m.text, "%s%s\n", name, s)
	}
}

func (m *MetricsText) String() string { return m.text.String() }

// Reply answers a request for the metrics.
func (m *MetricsText) Reply(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	io.WriteString(w, m.String()) // who went away needs no answer
}

// Recorder records the status and the size of an answer.
type Recorder struct {
	http.ResponseWriter
	// Status is what the client was told, and Bytes how much of the content was sent.
	Status int
	Bytes  int64
	begun  bool
}

// NewRecorder records what is written to w.
func NewRecorder(w http.ResponseWriter) *Recorder {
	return &Recorder{ResponseWriter: w, Status: http.StatusOK}
}

// WriteHeader implements [http.ResponseWriter].
func (w *Recorder) WriteHeader(status int) {
	if !w.begun {
		w.Status, w.begun = status, true
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *Recorder) Write(p []byte) (int, error) {
	w.begun = true
	n, err := w.ResponseWriter.Write(p)
	w.Bytes += int64(n)
	return n, err
}

// ReadFrom lets the system send files by itself.
func (w *Recorder) ReadFrom(r io.Reader) (n int64, err error) {
	w.begun = true
	if to, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		n, err = to.ReadFrom(r)
	} else {
		n, err = io.Copy(struct{ io.Writer }{w.ResponseWriter}, r)
	}
	w.Bytes += n
	return n, err
}

// Unwrap is for [http.ResponseController].
func (w *Recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Monitor is a registry that also tells how it is: /healthz answers ok, and /metrics has how often what was answered.
type Monitor struct {
	// Registry answers everything else.
	Registry http.Handler
	// Report is called after each of its answers, from many goroutines. Default: nothing.
	Report func(r *http.Request, answer *Recorder)

	mu      sync.Mutex
	answers map[[2]string]int64
	bytes   int64
}

// ServeHTTP answers a request.
func (m *Monitor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		io.WriteString(w, "ok\n") // who went away needs no answer
		return
	case "/metrics":
		m.replyMetrics(w)
		return
	}
	recorder := NewRecorder(w)
	defer func() {
		m.countAnswer(r, recorder)
		if m.Report != nil {
			m.Report(r, recorder)
		}
	}()
	m.Registry.ServeHTTP(recorder, r)
}

func (m *Monitor) countAnswer(r *http.Request, answer *Recorder) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answers == nil {
		m.answers = map[[2]string]int64{}
	}
	m.answers[[2]string{kindOf(r.URL.Path), fmt.Sprint(answer.Status)}]++
	m.bytes += answer.Bytes
}

// kindOf returns what a path of the distribution-spec asks for. Nothing that clients choose becomes a label, or they could make
// as many metrics as they like.
func kindOf(path string) string {
	parts := strings.Split(path, "/")
	for _, kind := range []string{"manifests", "blobs", "referrers", "tags"} {
		if len(parts) > 3 && parts[1] == "v2" && slices.Contains(parts[3:], kind) {
			return kind
		}
	}
	return "other"
}

func (m *Monitor) replyMetrics(w http.ResponseWriter) {
	m.mu.Lock()
	var answers []string
	for key, n := range m.answers {
		answers = append(answers, fmt.Sprintf("{kind=%q,status=%q} %d", key[0], key[1], n))
	}
	sent := m.bytes
	m.mu.Unlock()
	slices.Sort(answers)
	var text MetricsText
	text.Add("krtpkg_serve_answers_total", "counter", "Answers by kind of request and HTTP status.", answers...)
	text.Add("krtpkg_serve_bytes_total", "counter", "Bytes of content that were sent.", fmt.Sprintf(" %d", sent))
	text.Reply(w)
}
