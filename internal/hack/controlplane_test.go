package hack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/clustertest"
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

// packPrograms returns a gzipped tar of scripts that run components of the compiled program.
func packPrograms(t *testing.T, compiled string, names []string) []byte {
	t.Helper()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	entries := tar.NewWriter(zipped)
	for _, name := range names {
		script := fmt.Sprintf("#!/bin/sh\nexec %s %s \"$@\"\n", compiled, path.Base(name))
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

// A control plane of published programs runs as one that was compiled, and is downloaded once.
func TestPublishedControlPlane(t *testing.T) {
	hack.SkipIfShort(t)
	if runtime.GOOS != "linux" {
		t.Skip("nothing is published for other systems")
	}
	compiled := hack.BuildForTest(t, "cluster")
	p := publish(t, "", map[string][]byte{
		serverArchive: packPrograms(t, compiled, inServerArchive), etcdArchive: packPrograms(t, compiled, inEtcdArchive),
	}, nil)
	cache := t.TempDir()
	var reports []string
	prepare := func() *hack.ControlPlane {
		plane, err := hack.PrepareFrom(t.Context(), p.index, "linux-amd64", cache, "download", func(what string) { reports = append(reports, what) })
		if err != nil {
			t.Fatal(err)
		}
		return plane
	}
	plane := prepare()
	if command := plane.Command("kubelet"); len(command) != 1 || path.Dir(command[0]) != plane.Components {
		t.Errorf("the kubelet is %q", command)
	}
	c, err := clustertest.RunControlPlane(t.Context(), plane, filepath.Join(t.TempDir(), "run"), 2)
	if err != nil {
		t.Fatal(err)
	}
	running, err := os.ReadFile(filepath.Join(c.Dir, "pids", "kube-apiserver"))
	if err != nil {
		t.Fatal(err)
	}
	command, err := os.ReadFile(filepath.Join("/proc", string(running), "cmdline"))
	if err != nil || !bytes.HasPrefix(command, []byte(compiled+"\x00kube-apiserver\x00")) {
		t.Errorf("the API server is %q, %v", command, err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if prepare(); len(reports) != 2 || len(p.asked) != 2 {
		t.Errorf("reports %q, requests %q; want two of each", reports, p.asked)
	}
}

// What is not as published is not kept, and an attempt later is not hindered by it.
func TestDownloadsThatFail(t *testing.T) {
	hack.SetStallLimit(t, 200*time.Millisecond)
	good := map[string][]byte{serverArchive: packPrograms(t, "true", inServerArchive), etcdArchive: packPrograms(t, "true", inEtcdArchive)}
	part := map[string][]byte{serverArchive: packPrograms(t, "true", inServerArchive[:3]), etcdArchive: good[etcdArchive]}
	for _, c := range []struct {
		name     string
		archives map[string][]byte
		platform string
		serve    func(w http.ResponseWriter, name string)
		want     string
	}{
		{"other bytes", good, "linux-amd64", func(w http.ResponseWriter, name string) { w.Write(part[serverArchive]) }, "its SHA-512 is "},
		{"a page of a portal", good, "linux-amd64", func(w http.ResponseWriter, name string) { fmt.Fprint(w, "<html>log in</html>") }, "its SHA-512 is "},
		{"more behind it", good, "linux-amd64", func(w http.ResponseWriter, name string) { w.Write(append(slices.Clone(good[name]), 0)) }, "its SHA-512 is "},
		{"cut off", good, "linux-amd64", func(w http.ResponseWriter, name string) {
			w.Header().Set("Content-Length", fmt.Sprint(len(good[name])))
			w.Write(good[name][:len(good[name])/2])
		}, "unexpected EOF"},
		{"stalled", good, "linux-amd64", func(w http.ResponseWriter, name string) {
			w.Write(good[name][:20])
			w.(http.Flusher).Flush()
			time.Sleep(2 * time.Second)
		}, "nothing came for 200ms"},
		{"not there", good, "linux-amd64", func(w http.ResponseWriter, name string) { http.NotFound(w, nil) }, "404 Not Found"},
		{"a program is missing", part, "linux-amd64", nil, "the archive has not all of"},
		{"another platform", good, "plan9-mips", nil, "no programs of a control plane are published for plan9-mips"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := publish(t, "", c.archives, c.serve)
			cache := t.TempDir()
			_, err := hack.PrepareFrom(t.Context(), p.index, c.platform, cache, "download", func(string) {})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want %q in it", err, c.want)
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
		serverArchive: packPrograms(t, "true", inServerArchive), etcdArchive: {},
	}, func(w http.ResponseWriter, name string) { http.Error(w, "not here", http.StatusForbidden) })
	t.Setenv("HTTP_PROXY", p.URL)
	_, err := hack.PrepareFrom(t.Context(), p.index, "linux-amd64", t.TempDir(), "download", func(string) {})
	if err == nil || !strings.Contains(err.Error(), "403 Forbidden") || !slices.Equal(p.asked, []string{"downloads.example/kubernetes/" + serverArchive}) {
		t.Errorf("the error is %v, the proxy was asked for %q", err, p.asked)
	}
}

// Where nothing can be downloaded, Kubernetes is compiled, and that is said.
func TestCompiledWithoutNetwork(t *testing.T) {
	p := publish(t, "", map[string][]byte{serverArchive: {}, etcdArchive: {}}, nil)
	p.Close()
	builds, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOCACHE", strings.TrimSpace(string(builds)))
	t.Setenv("XDG_CACHE_HOME", t.TempDir()) // nothing is built there
	t.Setenv("GOFLAGS", "-n")               // and nothing will be
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var reports []string
	_, err = hack.PrepareFrom(ctx, p.index, "linux-amd64", t.TempDir(), "", func(what string) { reports = append(reports, what) })
	if err == nil || !strings.HasPrefix(err.Error(), "hack/cluster: ") {
		t.Errorf("the error is %v, want that of a build that builds nothing", err)
	}
	if len(reports) != 3 || !strings.Contains(reports[1], "connection refused") || reports[2] != "Kubernetes is compiled, which takes some minutes" {
		t.Errorf("it reported %q", reports)
	}
}
