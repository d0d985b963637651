package serve

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Who takes nothing of an answer is let go, with HTTP 1 and 2, and of memory and files alike. Who is slow but takes
// something gets all of it, and a connection that was quiet for longer than that works on.
func TestStalledClients(t *testing.T) {
	t.Parallel()
	const within = 600 * time.Millisecond
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB: more than the system holds
	name := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/file":
			file, err := os.Open(name)
			if err != nil {
				t.Error(err)
				return
			}
			defer file.Close()
			n, err := io.Copy(w, io.LimitReader(file, int64(len(data))))
			if err == nil && n < int64(len(data)) {
				err = io.ErrShortWrite
			}
			ended <- err
		case "/memory":
			_, err := w.Write(data)
			ended <- err
		case "/late":
			time.Sleep(within * 5 / 4)
		case "/nothing":
			w.WriteHeader(http.StatusNotModified)
		}
	})
	for _, http2 := range []bool{false, true} {
		server := httptest.NewUnstartedServer(limitStalls(handler, within))
		server.EnableHTTP2 = http2
		if http2 {
			server.StartTLS()
		} else {
			server.Start()
		}
		t.Cleanup(server.Close)
		get := func(path string) *http.Response {
			t.Helper()
			response, err := server.Client().Get(server.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			return response
		}
		for _, path := range []string{"/file", "/memory"} {
			stalled := get(path)
			select {
			case err := <-ended:
				if err == nil || errors.Is(err, io.ErrShortWrite) {
					t.Errorf("HTTP 2 %t, %s: nothing is taken, and it ends with %v", http2, path, err)
				}
			case <-time.After(20 * within):
				t.Errorf("HTTP 2 %t, %s: it waits for a client that takes nothing", http2, path)
			}
			stalled.Body.Close()

			slow := get(path)
			took := 0
			buffer := make([]byte, 2<<20)
			for {
				n, err := io.ReadFull(slow.Body, buffer)
				if !bytes.Equal(buffer[:n], data[took:took+n]) {
					t.Fatal("other content")
				}
				took += n
				if err != nil {
					break
				}
				time.Sleep(within / 8)
			}
			slow.Body.Close()
			if took != len(data) {
				t.Errorf("HTTP 2 %t, %s: who is slow gets %d bytes of %d", http2, path, took, len(data))
			}
			if err := <-ended; err != nil {
				t.Errorf("HTTP 2 %t, %s: %v", http2, path, err)
			}
		}
		for _, path := range []string{"/nothing", "/late", "/nothing"} {
			get(path).Body.Close()
			time.Sleep(within * 5 / 4)
		}
	}
}
