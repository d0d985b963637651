package hack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/hack"
)

const (
	serverArchive = "kubernetes-server-linux-amd64.tar.gz"
	etcdArchive   = "envtest-v1.36.2-linux-amd64.tar.gz"
)

// inServerArchive and inEtcdArchive are what the published archives have, and what else is in them.
var (
	inServerArchive = []string{
		"kubernetes/LICENSES", "kubernetes/server/bin/kube-apiserver", "kubernetes/server/bin/kube-apiserver.docker_tag",
		"kubernetes/server/bin/kube-controller-manager", "kubernetes/server/bin/kube-scheduler", "kubernetes/server/bin/kubelet",
	}
	inEtcdArchive = []string{"controller-tools/envtest/etcd", "controller-tools/envtest/kubectl"}
)

// runTrue is the command of programs that no test runs.
func runTrue(string) []string { return []string{"true"} }

// packPrograms returns a gzipped tar of scripts that run the command of the component that they are named after.
func packPrograms(t *testing.T, command func(component string) []string, names []string) []byte {
	t.Helper()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	entries := tar.NewWriter(zipped)
	for _, name := range names {
		script := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", strings.Join(command(path.Base(name)), " "))
		if err := entries.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(script))}); err != nil {
			t.Fatal(err)
		}
		if _, err := entries.Write([]byte(script)); err != nil {
			t.Fatal(err)
		}
	}
	if err := entries.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// publisher is a web server with archives, and the index of what they should be.
type publisher struct {
	*httptest.Server
	index string
	asked []string
}

// publish serves archives; the index has the digests of them, and their URLs below base, or at the server itself.
func publish(t *testing.T, base string, archives map[string][]byte, serve func(w http.ResponseWriter, name string)) *publisher {
	t.Helper()
	p := &publisher{index: filepath.Join(t.TempDir(), "releases.yaml")}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked = append(p.asked, r.Host+r.URL.Path)
		if serve != nil {
			serve(w, path.Base(r.URL.Path))
			return
		}
		w.Write(archives[path.Base(r.URL.Path)])
	}))
	t.Cleanup(p.Close)
	if base == "" {
		base = p.URL
	}
	index := "releases:\n  v1.36.2:\n"
	for name, data := range archives {
		index += fmt.Sprintf("    %s:\n      hash: %x\n      selfLink: %s/%s\n", name, sha512.Sum512(data), base, name)
	}
	if err := os.WriteFile(p.index, []byte(index), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// What is not as published is not kept, and an attempt later is not hindered by it.
func TestDownloadsThatFail(t *testing.T) {
	good := map[string][]byte{serverArchive: packPrograms(t, runTrue, inServerArchive), etcdArchive: packPrograms(t, runTrue, inEtcdArchive)}
	part := map[string][]byte{serverArchive: packPrograms(t, runTrue, inServerArchive[:3]), etcdArchive: good[etcdArchive]}
	for _, c := range []struct {
		name     string
		archives map[string][]byte
		platform string
		serve    func(w http.ResponseWriter, name string)
		want     string
		limit    func(*testing.T, time.Duration)
	}{
		{"other bytes", good, "linux-amd64", func(w http.ResponseWriter, name string) { w.Write(part[serverArchive]) }, "its SHA-512 is ", nil},
		{"a page of a portal", good, "linux-amd64", func(w http.ResponseWriter, name string) { fmt.Fprint(w, "<html>log in</html>") }, "its SHA-512 is ", nil},
		{"more behind it", good, "linux-amd64", func(w http.ResponseWriter, name string) { w.Write(append(slices.Clone(good[name]), 0)) }, "its SHA-512 is ", nil},
		{"cut off", good, "linux-amd64", func(w http.ResponseWriter, name string) {
			w.Header().Set("Content-Length", fmt.Sprint(len(good[name])))
			w.Write(good[name][:len(good[name])/2])
		}, "unexpected EOF", nil},
		{"stalled", good, "linux-amd64", func(w http.ResponseWriter, name string) {
			w.Write(good[name][:20])
			w.(http.Flusher).Flush()
			time.Sleep(2 * time.Second)
		}, ": nothing came for 200ms", hack.SetStallLimit},
		{"slow", good, "linux-amd64", func(w http.ResponseWriter, name string) {
			for i := range 40 {
				w.Write(good[name][i:][:1])
				w.(http.Flusher).Flush()
				time.Sleep(50 * time.Millisecond)
			}
		}, ": it takes more than 200ms", hack.SetDownloadLimit},
		{"not there", good, "linux-amd64", func(w http.ResponseWriter, name string) { http.NotFound(w, nil) }, "404 Not Found", nil},
		{"a program is missing", part, "linux-amd64", nil, "the archive has not all of", nil},
		{"another platform", good, "plan9-mips", nil, "no programs of a control plane are published for plan9-mips", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.limit != nil {
				c.limit(t, 200*time.Millisecond)
			}
			p := publish(t, "", c.archives, c.serve)
			cache := t.TempDir()
			// A download that was killed has left this.
			if err := os.MkdirAll(filepath.Join(cache, ".download-1/programs"), 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := hack.PrepareFrom(t.Context(), p.index, c.platform, cache, "download", func(string) {})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want %q in it", err, c.want)
			}
			if c.platform == "plan9-mips" {
				return // nothing was begun
			}
			kept, globErr := filepath.Glob(filepath.Join(cache, "*", "*"))
			hidden, hiddenErr := filepath.Glob(filepath.Join(cache, ".*"))
			if len(kept)+len(hidden) > 0 || globErr != nil || hiddenErr != nil {
				t.Errorf("%q are kept", append(kept, hidden...))
			}
		})
	}
}

// Downloads go through the proxy of the environment.
func TestDownloadByProxy(t *testing.T) {
	p := publish(t, "http://downloads.example/kubernetes", map[string][]byte{
		serverArchive: packPrograms(t, runTrue, inServerArchive), etcdArchive: {},
	}, func(w http.ResponseWriter, name string) { http.Error(w, "not here", http.StatusForbidden) })
	t.Setenv("HTTP_PROXY", p.URL)
	_, err := hack.PrepareFrom(t.Context(), p.index, "linux-amd64", t.TempDir(), "download", func(string) {})
	if err == nil || !strings.Contains(err.Error(), "403 Forbidden") || !slices.Equal(p.asked, []string{"downloads.example/kubernetes/" + serverArchive}) {
		t.Errorf("the error is %v, the proxy was asked for %q", err, p.asked)
	}
}

// replaceGo puts a script called go, which is in a folder, first on PATH: to build for real takes minutes. Nothing is in the
// cache of programs.
func replaceGo(t *testing.T, script string) (dir, cache string) {
	t.Helper()
	dir, cache = t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	t.Setenv("XDG_CACHE_HOME", cache)
	return dir, cache
}

// Where nothing can be downloaded, Kubernetes is compiled, and that is said.
func TestCompiledWithoutNetwork(t *testing.T) {
	p := publish(t, "", map[string][]byte{serverArchive: {}, etcdArchive: {}}, nil)
	p.Close()
	dir, cache := replaceGo(t, `printf '%s\n' "$PWD" "$@" >"${0%/*}/asked"; echo no room >&2; exit 1`)
	var reports []string
	_, err := hack.PrepareFrom(t.Context(), p.index, "linux-amd64", t.TempDir(), "", func(what string) { reports = append(reports, what) })
	if err == nil || !strings.HasPrefix(err.Error(), "hack/cluster: go build .: ") || !strings.HasSuffix(err.Error(), "\nno room\n") {
		t.Errorf("the error is %v, want that of the build", err)
	}
	if len(reports) != 3 || !strings.Contains(reports[1], "connection refused") || reports[2] != "Kubernetes is compiled, which takes some minutes" {
		t.Errorf("it reported %q", reports)
	}
	text, err := os.ReadFile(filepath.Join(dir, "asked"))
	if err != nil {
		t.Fatal(err)
	}
	asked := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	asked[6] = strings.Fields(asked[6])[0] // the linker's flags, which end with the versions
	root, err := hack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	program := asked[len(asked)-2]
	want := []string{filepath.Join(root, "hack/cluster"), "build", "-buildvcs=false", "-tags", "", "-ldflags", "-s", "-o", program, "."}
	if !slices.Equal(asked, want) || !strings.HasPrefix(program, cache) || filepath.Base(program) != "cluster.tmp" {
		t.Errorf("go was asked for %q, want %q", asked, want)
	}
}

// Whoever waits for a lock can be told not to, and does not take it later.
func TestLockFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	unlock, err := hack.LockFile(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := hack.LockFile(ctx, name); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v", err)
	}
	unlock()
	unlock, err = hack.LockFile(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// A program that is built is there while somebody has the lock of its build.
func TestBuiltWhileLocked(t *testing.T) {
	replaceGo(t, `while [ "$1" != -o ]; do shift; done; echo built >"$2"`)
	path, err := hack.BuildProgram(t.Context(), "resident/krtpkg")
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := hack.LockFile(t.Context(), filepath.Dir(path)+".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if again, err := hack.BuildProgram(ctx, "resident/krtpkg"); err != nil || again != path {
		t.Errorf("it is %s, %v; want %s", again, err, path)
	}
}
