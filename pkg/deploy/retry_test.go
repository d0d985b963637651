package deploy

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// fault is what a faulty proxy does to one request.
type fault int

const (
	passes      fault = iota
	busy              // 429
	unavailable       // 503
	cut               // the connection breaks before the API server sees the request
	unheard           // the connection breaks after the API server has carried it out
	expired           // 401
)

// faultyProxy stands in front of the API server.
type faultyProxy struct {
	*httptest.Server
	*rig
	fault func(*http.Request) fault
	seen  atomic.Int64
	hits  atomic.Int64
}

// newFaultyProxy puts a proxy in front of the API server of a rig. fault may be called by several
// goroutines.
func newFaultyProxy(r *rig, http2 bool, fault func(*http.Request) fault) *faultyProxy {
	r.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", r.kubeconfig)
	if err != nil {
		r.t.Fatal(err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		r.t.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		r.t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(target); p.Out.Header.Del("Authorization") },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			panic(http.ErrAbortHandler)
		},
	}
	p := &faultyProxy{rig: r, fault: fault}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p.seen.Add(1)
		what := p.fault(req)
		if what != passes {
			p.hits.Add(1)
		}
		switch what {
		case passes:
			forward.ServeHTTP(w, req)
		case busy:
			http.Error(w, "too many requests", http.StatusTooManyRequests)
		case unavailable:
			http.Error(w, "no server available", http.StatusServiceUnavailable)
		case expired:
			http.Error(w, "expired", http.StatusUnauthorized)
		case unheard:
			forward.ServeHTTP(httptest.NewRecorder(), req)
			panic(http.ErrAbortHandler)
		default:
			panic(http.ErrAbortHandler)
		}
	}))
	p.EnableHTTP2 = http2
	p.Config.ErrorLog = log.New(io.Discard, "", 0) // of handlers that break connections
	p.StartTLS()
	r.t.Cleanup(p.Close)
	return p
}

// connect returns a cluster that is reached through the proxy.
func (p *faultyProxy) connect(config Config, user *clientcmdapi.AuthInfo) *Cluster {
	p.t.Helper()
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["faulty"] = &clientcmdapi.Cluster{
		Server: p.URL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}),
	}
	kubeconfig.AuthInfos["faulty"] = user
	kubeconfig.Contexts["faulty"] = &clientcmdapi.Context{Cluster: "faulty", AuthInfo: "faulty"}
	kubeconfig.CurrentContext = "faulty"
	config.Kubeconfig, config.Namespace = filepath.Join(p.t.TempDir(), "kubeconfig"), p.namespace
	if err := clientcmd.WriteToFile(*kubeconfig, config.Kubeconfig); err != nil {
		p.t.Fatal(err)
	}
	c, err := Connect(config)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func outageRuntime(version string) Runtime {
	return Runtime{Name: "edge", Version: version, Digest: "sha256:" + version, Values: []byte("a: " + version), Units: []Unit{
		unit(1, "base", version, configMap("base", version), "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: runner}"),
		unit(2, "web", version, deployment("web", ""), configMap("settings", version), "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}"),
		unit(3, "last", version, configMap("last", version)),
	}}
}

// What operators see of API servers: each is lived through by an apply, an upgrade, a look and a
// delete, and nothing is left of it.
func TestOutages(t *testing.T) {
	shares := func(of map[fault]int) func(*http.Request) fault {
		var mu sync.Mutex
		dice := rand.New(rand.NewPCG(1, 2))
		return func(*http.Request) fault {
			mu.Lock()
			defer mu.Unlock()
			at := dice.IntN(100)
			for what, percent := range of {
				if at -= percent; at < 0 {
					return what
				}
			}
			return passes
		}
	}
	for _, test := range []struct {
		name  string
		http2 bool
		fault func(*http.Request) fault
	}{
		{"Busy", true, shares(map[fault]int{busy: 15, unavailable: 2})},
		{"Cut", false, shares(map[fault]int{cut: 10})},
		{"Unheard", false, shares(map[fault]int{unheard: 10})},
		{"Streams", true, shares(map[fault]int{cut: 5, unheard: 5})},
		{"Latency", true, func(*http.Request) fault { time.Sleep(200 * time.Millisecond); return passes }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			before := r.objects()
			p := newFaultyProxy(r, test.http2, test.fault)
			c := p.connect(Config{}, &clientcmdapi.AuthInfo{})
			for _, version := range []string{"1.0.0", "2.0.0"} {
				rt := outageRuntime(version)
				if test.name == "Latency" {
					rt.Units = rt.Units[1:2] // it takes long enough
				}
				if _, err := c.Apply(t.Context(), rt, ApplyOptions{Options: quick()}); err != nil {
					t.Fatalf("apply %s: %v", version, err)
				}
			}
			history, err := c.History(t.Context(), "edge")
			if err != nil || len(history) != 2 || history[0].State != Complete || history[1].State != Complete {
				t.Errorf("history %+v, %v", history, err)
			}
			if all, err := c.Status(t.Context(), "edge", quick()); err != nil || all[0].Health() != Healthy || all[0].HasDrifted() {
				t.Errorf("status %+v, %v", all, err)
			}
			if _, err := c.Delete(t.Context(), "edge", DeleteOptions{Options: quick()}); err != nil {
				t.Errorf("delete: %v", err)
			}
			if _, err := r.client.CoordinationV1().Leases(r.namespace).Get(t.Context(), records.ObjectName("edge"), metav1.GetOptions{}); err == nil {
				t.Error("the lock is still there")
			}
			r.wantBack(before)
			t.Logf("%d of %d requests were hit", p.hits.Load(), p.seen.Load())
		})
	}
}

// The real API server is killed again and again while bundles are applied.
func TestKilledServer(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	rt := Runtime{Name: "edge", Version: "1.0.0"}
	for i := range 12 {
		rt.Units = append(rt.Units, unit(i, fmt.Sprintf("b%d", i), "1", configMap(fmt.Sprintf("a%d", i), "1"), configMap(fmt.Sprintf("b%d", i), "1")))
	}
	options := quick()
	begun := 0
	options.OnEvent = func(e Event) {
		if e.Phase != Applying || e.Message != (Message{}) {
			return
		}
		if begun++; begun%4 == 0 {
			time.AfterFunc(50*time.Millisecond, func() {
				if err := r.controlPlane.Signal("kube-apiserver", syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: options}); err != nil {
		t.Fatal(err)
	}
	if history, err := r.History(t.Context(), "edge"); err != nil || history[0].State != Complete {
		t.Errorf("history %+v, %v", history, err)
	}
	r.deleted("edge")
	r.wantBack(before)
}

// A server that stays away ends the call after the time that was given, a server that comes back
// finds the lock's holder alive, and one that was away while someone else took the lock is written
// nothing more.
func TestLongOutage(t *testing.T) {
	r := newRig(t)
	var away atomic.Bool
	var writes atomic.Int64
	p := newFaultyProxy(r, true, func(req *http.Request) fault {
		if away.Load() {
			return cut
		}
		if req.Method != http.MethodGet && !strings.Contains(req.URL.Path, "/leases/") {
			writes.Add(1)
		}
		return passes
	})
	var told atomic.Int64
	c := p.connect(Config{RetryTimeout: 4 * time.Second, OnRetry: func(error, time.Duration) { told.Add(1) }}, &clientcmdapi.AuthInfo{})
	options := quick()
	options.LockDuration = time.Second
	at := func(bundle string, do func()) func(Event) {
		return func(e Event) {
			if e.Phase == Applying && e.Bundle == bundle && e.Message == (Message{}) {
				do()
			}
		}
	}

	options.OnEvent = at("web", func() { away.Store(true) })
	began := time.Now()
	_, err := c.Apply(t.Context(), outageRuntime("1.0.0"), ApplyOptions{Options: options})
	if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "no answer") || took > 30*time.Second {
		t.Errorf("apply with a server that stays away, after %s: %v", took, err)
	}
	if told.Load() == 0 {
		t.Error("nobody was told that the server is away")
	}
	away.Store(false)
	time.Sleep(1100 * time.Millisecond) // the lock ends

	options.OnEvent = at("web", func() { away.Store(true); time.AfterFunc(2500*time.Millisecond, func() { away.Store(false) }) })
	if _, err := c.Apply(t.Context(), outageRuntime("2.0.0"), ApplyOptions{Options: options}); err != nil {
		t.Errorf("apply with a server that was away for longer than the lock lasts: %v", err)
	}

	var after int64
	options.OnEvent = at("web", func() {
		away.Store(true)
		go func() {
			time.Sleep(1500 * time.Millisecond)
			held, err := r.records().AcquireLock(t.Context(), "edge", time.Minute, func(error) {})
			if err != nil {
				t.Error(err)
			}
			after = writes.Load()
			away.Store(false)
			time.Sleep(2 * time.Second)
			held.Release()
		}()
	})
	if _, err := c.Apply(t.Context(), outageRuntime("3.0.0"), ApplyOptions{Options: options}); !errors.Is(err, ErrLockLost) {
		t.Errorf("apply while somebody else has taken the lock: %v", err)
	}
	time.Sleep(3 * time.Second)
	if extra := writes.Load() - after; extra > 1 { // that it ended
		t.Errorf("%d writes after the lock was lost", extra)
	}
	r.apply(outageRuntime("3.0.0"))
	r.deleted("edge")
}

// What serves an API group may be down for good: the server answers for all others.
func TestBrokenGroup(t *testing.T) {
	r := newRig(t)
	services := r.dynamic.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	service := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": "v1.nowhere.example"},
		"spec": map[string]any{"group": "nowhere.example", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
			"insecureSkipTLSVerify": true, "service": map[string]any{"name": "nobody", "namespace": r.namespace}},
	}}
	if _, err := services.Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = services.Delete(context.Background(), "v1.nowhere.example", metav1.DeleteOptions{}) })
	list := func() error {
		return r.client.Discovery().RESTClient().Get().AbsPath("/apis/nowhere.example/v1/things").Do(t.Context()).Error()
	}
	began := time.Now()
	r.eventually("the group is unavailable", func() error {
		if err := list(); !apierrors.IsServiceUnavailable(err) {
			return err
		}
		return nil
	})
	if took := time.Since(began); took > 3*8*time.Second {
		t.Errorf("found out after %s", took)
	}
	began = time.Now()
	if err := list(); !apierrors.IsServiceUnavailable(err) || time.Since(began) > time.Second {
		t.Errorf("a group that is known to be unavailable, after %s: %v", time.Since(began), err)
	}
}

// A token that expires on the way: the proxy takes another one from the middle of an apply on.
func TestExpiredToken(t *testing.T) {
	for name, user := range map[string]func(file string) *clientcmdapi.AuthInfo{
		"File": func(file string) *clientcmdapi.AuthInfo { return &clientcmdapi.AuthInfo{TokenFile: file} },
		"Exec": func(file string) *clientcmdapi.AuthInfo {
			return &clientcmdapi.AuthInfo{Exec: &clientcmdapi.ExecConfig{
				APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: clientcmdapi.NeverExecInteractiveMode, Command: "sh",
				Args: []string{"-c", `printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}' "$(cat "$0")"`, file},
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			file := filepath.Join(t.TempDir(), "token")
			token := func(text string) {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Error(err)
				}
			}
			token("one")
			var mu sync.Mutex
			valid := "one"
			p := newFaultyProxy(r, true, func(req *http.Request) fault {
				mu.Lock()
				defer mu.Unlock()
				if req.Header.Get("Authorization") != "Bearer "+valid {
					return expired
				}
				return passes
			})
			c := p.connect(Config{}, user(file))
			options := quick()
			options.OnEvent = func(e Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Bundle == "web" && valid == "one" {
					valid = "two"
					token(valid)
				}
			}
			if _, err := c.Apply(t.Context(), outageRuntime("1.0.0"), ApplyOptions{Options: options}); err != nil {
				t.Errorf("apply: %v", err)
			}
			if p.hits.Load() == 0 {
				t.Error("the token did not expire")
			}
			// One that stays wrong is an error, and soon.
			mu.Lock()
			valid = "three"
			mu.Unlock()
			began := time.Now()
			if _, err := c.History(t.Context(), "edge"); err == nil || time.Since(began) > 10*time.Second {
				t.Errorf("history with an expired token, after %s: %v", time.Since(began), err)
			}
			r.deleted("edge")
		})
	}
}
