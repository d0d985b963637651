package apiserver

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// An answer of the API server that does not come to an end, in bytes or in time, is an error and no
// more memory; one that is slow for a while and goes on is not an error.
func TestAnswersWithoutEnd(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		flush := http.NewResponseController(w).Flush
		switch req.URL.Path {
		case "/endless":
			for flush() == nil && req.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		case "/drip":
			for flush() == nil && req.Context().Err() == nil {
				if _, err := io.WriteString(w, " "); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		case "/silent":
			<-req.Context().Done()
		case "/pauses":
			for range 3 {
				w.Write(make([]byte, 1<<10))
				flush()
				time.Sleep(150 * time.Millisecond)
			}
		}
	}))
	t.Cleanup(server.Close)
	for path, want := range map[string]string{
		"/endless": "an answer of the API server has more than 4194304 bytes",
		"/drip":    "the API server sent ",
		"/silent":  "the API server sent 0 bytes in 900ms: too slow",
		"/pauses":  "",
	} {
		transport := &Transport{
			next: http.DefaultTransport, limit: time.Second, broken: map[string]time.Time{}, maxAnswer: 4 << 20, answerWindow: 300 * time.Millisecond,
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		resp, err := transport.RoundTrip(request)
		if err == nil {
			resp.Body.Close()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: it takes %s", path, took)
		}
	}
}
