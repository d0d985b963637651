package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Who takes nothing of an answer is let go, with HTTP 1 and 2, and of memory and files alike. Who is slow but takes
// something gets all of it, as does who waits for a handler that pauses, and a connection that was quiet for longer than
// that works on.
func TestStalledClients(t *testing.T) {
	t.Parallel()
	const within = 3 * time.Second
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB: more than the system holds
	name := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	send := map[string]func(w http.ResponseWriter) error{
		"file": func(w http.ResponseWriter) error {
			file, err := os.Open(name)
			if err != nil {
				return err
			}
			defer file.Close()
			_, err = io.CopyN(w, file, int64(len(data)))
			return err
		},
		"memory": func(w http.ResponseWriter) error {
			_, err := w.Write(data)
			return err
		},
		"pause": func(w http.ResponseWriter) error {
			_, err := w.Write(data[:len(data)/2])
			time.Sleep(within * 5 / 4)
			_, next := w.Write(data[len(data)/2:])
			return errors.Join(err, next)
		},
		"flush": func(w http.ResponseWriter) error {
			_, err := w.Write(data[:10])
			err = errors.Join(err, http.NewResponseController(w).Flush())
			time.Sleep(within * 5 / 4)
			_, next := w.Write(data[10:])
			return errors.Join(err, next)
		},
	}
	var group sync.WaitGroup // they only wait, so all at once
	defer group.Wait()
	for _, http2 := range []bool{false, true} {
		// start serves what is asked for, and returns how each answer ended.
		start := func(t *testing.T) (get func(path string) *http.Response, ended chan error) {
			ended = make(chan error, 10)
			server := httptest.NewUnstartedServer(limitStalls(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/late":
					time.Sleep(within * 5 / 4)
				case "/nothing":
					w.WriteHeader(http.StatusNotModified)
				default:
					ended <- send[r.URL.Path[1:]](w)
				}
			}), within))
			server.EnableHTTP2 = http2
			if http2 {
				server.StartTLS()
			} else {
				server.Start()
			}
			t.Cleanup(server.Close)
			return func(path string) *http.Response {
				t.Helper()
				response, err := server.Client().Get(server.URL + path)
				if err != nil {
					t.Fatal(err)
				}
				return response
			}, ended
		}
		run := func(what string, test func(t *testing.T)) {
			group.Go(func() { t.Run(fmt.Sprintf("HTTP 2 %t, %s", http2, what), test) })
		}
		for _, path := range []string{"file", "memory"} {
			run("nothing is taken of a "+path, func(t *testing.T) {
				get, ended := start(t)
				defer get("/" + path).Body.Close()
				select {
				case err := <-ended:
					if err == nil {
						t.Error("it ends well")
					}
				case <-time.After(10 * within):
					t.Error("it waits for a client that takes nothing")
				}
			})
		}
		for path, pause := range map[string]time.Duration{"file": within / 6, "memory": within / 6, "pause": 0, "flush": 0} {
			run("all is taken of a "+path, func(t *testing.T) {
				get, ended := start(t)
				body := get("/" + path).Body
				defer body.Close()
				var took bytes.Buffer
				for {
					if _, err := io.CopyN(&took, body, 2<<20); err != nil {
						break
					}
					time.Sleep(pause)
				}
				if !bytes.Equal(took.Bytes(), data) {
					t.Errorf("%d bytes of %d arrive", took.Len(), len(data))
				}
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		}
		run("quiet", func(t *testing.T) {
			get, _ := start(t)
			get("/nothing").Body.Close()
			time.Sleep(within * 5 / 4)
			for _, path := range []string{"/late", "/nothing"} {
				get(path).Body.Close()
			}
		})
	}
}
