package source_test

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"krtpkg.dev/krtpkg/pkg/source"
)

// pkt is a line of git's protocol.
func pkt(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }

// object is an object of a pack: a kind, a size that it claims, and content.
type object struct {
	kind    byte // 1 commit, 2 tree, 3 blob, 6 ofs-delta
	claimed int
	data    []byte
	back    int // of a delta: how far before it its base is
}

// packOf is a pack of objects.
func packOf(t *testing.T, count int, objects ...object) []byte {
	t.Helper()
	var out bytes.Buffer
	out.WriteString("PACK")
	out.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 2), uint32(count)))
	for _, o := range objects {
		size := o.claimed
		first := o.kind<<4 | byte(size&15)
		for size >>= 4; size > 0; size >>= 7 {
			out.WriteByte(first | 0x80)
			first = byte(size & 127)
		}
		out.WriteByte(first)
		if o.kind == 6 {
			out.WriteByte(byte(o.back))
		}
		z := zlib.NewWriter(&out)
		if _, err := z.Write(o.data); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha1.Sum(out.Bytes())
	out.Write(sum[:])
	return out.Bytes()
}

func gitID(kind string, data []byte) string {
	return fmt.Sprintf("%x", sha1.Sum(append(fmt.Appendf(nil, "%s %d\x00", kind, len(data)), data...)))
}

// treeOf is a tree with entries of one blob.
func treeOf(blob string, names ...string) []byte {
	var raw []byte
	for _, name := range names {
		raw = append(raw, "100644 "+name+"\x00"...)
		for i := 0; i < len(blob); i += 2 {
			var b byte
			fmt.Sscanf(blob[i:i+2], "%02x", &b)
			raw = append(raw, b)
		}
	}
	return raw
}

// A git server that lies, or does not come to an end, is an error that names it, before it has filled the memory.
func TestGitServersThatLie(t *testing.T) {
	t.Parallel()
	const some = "1111111111111111111111111111111111111111"
	blob := gitID("blob", []byte("a: 1\n"))
	repositoryOf := func(names ...string) (commit string, pack []byte) {
		tree := treeOf(blob, names...)
		text := []byte("tree " + gitID("tree", tree) + "\nauthor a <a> 0 +0000\ncommitter a <a> 0 +0000\n\nm\n")
		return gitID("commit", text), packOf(t, 3, object{kind: 1, claimed: len(text), data: text}, object{kind: 2, claimed: len(tree), data: tree}, object{kind: 3, claimed: 5, data: []byte("a: 1\n")})
	}
	right, rightPack := repositoryOf("a.yaml")
	refs := func(commit string) string {
		return pkt("# service=git-upload-pack\n") + "0000" + pkt(commit+" HEAD\x00 shallow side-band-64k no-progress allow-reachable-sha1-in-want\n") + pkt(commit+" refs/heads/main\n") + "0000"
	}
	band := func(channel string, data []byte) string {
		var out strings.Builder
		for len(data) > 0 {
			n := min(len(data), 60_000)
			out.WriteString(pkt(channel + string(data[:n])))
			data = data[n:]
		}
		return out.String()
	}
	sent := func(pack []byte) string { return "0000" + pkt("NAK\n") + band("\x01", pack) + "0000" }
	zeros := make([]byte, 64<<20)
	for _, c := range []struct {
		name, commit string
		// refs and pack are what the server says, and then again and again the endless ones.
		refs, endlessRefs, pack, endlessPack string
		status                               int
		want                                 string
	}{
		{name: "honest", commit: right, refs: refs(right), pack: sent(rightPack)},
		{name: "another commit", commit: some, refs: refs(some), pack: sent(rightPack), want: "commit not found"},
		{name: "no such object", commit: right, refs: refs(right), pack: sent(packOf(t, 1, object{kind: 3, claimed: 5, data: []byte("a: 1\n")})), want: "commit not found"},
		{name: "refs without an end", commit: right, refs: strings.TrimSuffix(refs(right), "0000"), endlessRefs: pkt(some + " refs/heads/" + strings.Repeat("x", 900) + "\n"), want: "is over the limit of 134217728 bytes"},
		{name: "error without an end", commit: right, status: 403, endlessRefs: strings.Repeat("no ", 20_000), want: "authorization failed"},
		{name: "shallow commits without an end", commit: right, refs: refs(right), endlessPack: strings.Repeat(pkt("shallow "+some), 1000), want: "is over the limit of 16777216 bytes"},
		{name: "acknowledgements without an end", commit: right, refs: refs(right), pack: "0000", endlessPack: strings.Repeat(pkt("ACK "+some+"\n"), 1000), want: "is over the limit of 16777216 bytes"},
		{name: "object larger than it says", commit: right, refs: refs(right), pack: sent(packOf(t, 1, object{kind: 3, claimed: 5, data: zeros})), want: "git "},
		{name: "object larger than the limit", commit: right, refs: refs(right), pack: sent(packOf(t, 1, object{kind: 3, claimed: 1 << 30, data: zeros})), want: "object of 1073741824 bytes: over the limit of 536870912"},
		{name: "delta of itself", commit: right, refs: refs(right), pack: sent(packOf(t, 1, object{kind: 6, claimed: 4, data: []byte{5, 5, 0x90, 5}})), want: "git "},
		{name: "fewer objects than it says", commit: right, refs: refs(right), pack: sent(packOf(t, 1<<31-1, object{kind: 3, claimed: 5, data: []byte("a: 1\n")})), want: "git "},
	} {
		t.Run(c.name, func(t *testing.T) {
			var written atomic.Int64
			send := func(w http.ResponseWriter, once, forever string) {
				n, _ := io.WriteString(w, once)
				written.Add(int64(n))
				for forever != "" {
					n, err := io.WriteString(w, forever)
					if written.Add(int64(n)); err != nil || written.Load() > 1<<30 {
						return
					}
				}
			}
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case c.status != 0:
					w.WriteHeader(c.status)
					send(w, c.refs, c.endlessRefs)
				case strings.HasSuffix(r.URL.Path, "/info/refs"):
					w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
					send(w, c.refs, c.endlessRefs)
				default:
					send(w, c.pack, c.endlessPack)
				}
			}))
			t.Cleanup(server.Close)
			fetcher := &source.Fetcher{Client: server.Client()}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := fetcher.FetchCommit(t.Context(), server.URL+"/x", c.commit, source.Pick{})
			runtime.ReadMemStats(&after)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 100_000) {
				t.Errorf("got %.500v, want %s", err, c.want)
			}
			if n := written.Load(); n > 300<<20 {
				t.Errorf("the server sent %d bytes", n)
			}
			if n := after.HeapSys - min(after.HeapSys, before.HeapSys); n > 512<<20 {
				t.Errorf("the heap grew by %d bytes", n)
			}
		})
	}
	for name, want := range map[string]string{
		"..": "leaves the tree", ".": "leaves the tree", "a/b.yaml": "leaves the tree", `a\b.yaml`: "leaves the tree",
		"a\nb.yaml": "not printable", "a\x1b[2K.yaml": "not printable", "\u202ea.yaml": "not printable", "\xff.yaml": "not printable",
		strings.Repeat("x", 5000) + ".yaml": "has a name of over 4096 bytes",
	} {
		commit, pack := repositoryOf(name)
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/info/refs") {
				fmt.Fprint(w, refs(commit))
			} else {
				fmt.Fprint(w, sent(pack))
			}
		}))
		_, err := (&source.Fetcher{Client: server.Client()}).FetchCommit(t.Context(), server.URL+"/x", commit, source.Pick{})
		server.Close()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %s", name, err, want)
		}
	}
	commit, pack := repositoryOf("a.yaml", "a.yaml")
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, map[bool]string{true: refs(commit), false: sent(pack)}[strings.HasSuffix(r.URL.Path, "/info/refs")])
	}))
	t.Cleanup(server.Close)
	if _, err := (&source.Fetcher{Client: server.Client()}).FetchCommit(t.Context(), server.URL+"/x", commit, source.Pick{}); err == nil || !strings.Contains(err.Error(), `duplicate entry "a.yaml"`) {
		t.Errorf("an entry twice: %v", err)
	}
}

// A server that says nothing, or a byte now and then, is not waited for without an end.
func TestSlowServers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		transport http.RoundTripper
		within    time.Duration
		want      string
	}{
		"no answer": {trip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}), 25 * time.Minute, "the server is too slow: no answer from h.example in 5m0s"},
		"a byte per second": {trip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Status: "200 OK", Request: r, Body: io.NopCloser(drip{time.Second})}, nil
		}), time.Hour, "the server is too slow: 600 bytes from h.example in 10m0s"},
		"nothing any more": {trip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Status: "200 OK", Request: r, Body: io.NopCloser(silence{r.Context().Done()})}, nil
		}), time.Hour, "the server is too slow: nothing from h.example in 10m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				fetcher := &source.Fetcher{Client: &http.Client{Transport: c.transport}}
				_, err := fetcher.FetchURL(t.Context(), "https://h.example/a", sum(""))
				if err == nil || !strings.Contains(err.Error(), c.want) || time.Since(began) > c.within {
					t.Errorf("got %v after %s", err, time.Since(began))
				}
			})
		})
	}
}

type drip struct{ every time.Duration }

func (d drip) Read(p []byte) (int, error) {
	time.Sleep(d.every)
	p[0] = 'x'
	return 1, nil
}

type silence struct{ done <-chan struct{} }

func (s silence) Read([]byte) (int, error) {
	<-s.done
	return 0, io.ErrUnexpectedEOF
}
