package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/internal/argocdtest"
	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/fluxtest"
	"krtpkg.dev/krtpkg/internal/kappctrltest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

const (
	fleetSites   = 1000
	fleetBundles = 10
	// fleetPeriod is how often a controller looks again.
	fleetPeriod = 30 * time.Second
	// fleetAtOnce is how many sites ask at the same time: in reality their periods spread them.
	fleetAtOnce = 50
)

// asked is a request of a client, as it can be asked again.
type asked struct {
	method, uri string
	accept      []string
}

// requestLog keeps requests, and counts them and the bytes of their answers.
type requestLog struct {
	mu       sync.Mutex
	keep     bool
	requests []asked
	count    atomic.Int64
	bytes    atomic.Int64
}

func (l *requestLog) countRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.count.Add(1)
		l.mu.Lock()
		if l.keep {
			l.requests = append(l.requests, asked{r.Method, r.URL.RequestURI(), r.Header.Values("Accept")})
		}
		l.mu.Unlock()
		next.ServeHTTP(counted{w, &l.bytes}, r)
	})
}

// takeRequests returns the requests since the last time.
func (l *requestLog) takeRequests() []asked {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.requests
	l.requests = nil
	return all
}

type counted struct {
	http.ResponseWriter
	bytes *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// engine is a controller that consumes runtimes.
type engine struct {
	name string
	// run starts it, with files in a folder.
	run func(ctx context.Context, cluster *clustertest.Cluster, dir string) (interface{ Stop() error }, error)
	// install is what krtpkg packages is told to write its manifests. follow makes them go by the tag.
	install, follow []string
}

var engines = []engine{
	{
		"kapp-controller 0.51", func(ctx context.Context, cluster *clustertest.Cluster, dir string) (interface{ Stop() error }, error) {
			return kappctrltest.Run(ctx, cluster, dir)
		}, []string{"install", "--sync-period", fleetPeriod.String()}, nil,
	},
	{
		"Flux, source-controller 1.9.6", func(ctx context.Context, cluster *clustertest.Cluster, dir string) (interface{ Stop() error }, error) {
			return fluxtest.Run(ctx, cluster, dir)
		}, []string{"flux", "--interval", fleetPeriod.String()}, []string{"--follow"},
	},
	{
		"Argo CD 3.2.0", func(ctx context.Context, cluster *clustertest.Cluster, dir string) (interface{ Stop() error }, error) {
			return argocdtest.Run(ctx, cluster, dir, fleetPeriod)
		}, []string{"argocd"}, []string{"--follow"},
	},
}

// learned is what an engine asks of the registry: when it first sees a runtime, and each time it looks
// again, by the digest and by a tag.
type learned struct {
	engine                 string
	first, byDigest, byTag []asked
	// sent are the bytes of the answers to each.
	sent [3]int64
}

// benchFleet plays many sites whose controllers poll one registry: what each asks is taken from the real one,
// when it first sees a runtime and when nothing is new, and asked again by as many sites, of the
// registry and of a pull-through cache before it.
func benchFleet(ctx context.Context, b *bench) (err error) {
	l := &requestLog{keep: true}
	origin, err := registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Distribution3, Middleware: l.countRequests})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, origin.Close()) }()
	reference := origin.Host + "/krt/edge:1.0.0"
	if err := b.prepareFleet(reference, fleetBundles); err != nil {
		return err
	}
	fmt.Printf("%s, %d cores, %s; %d sites, %d at once, distribution 3.1.2 on loopback; a runtime of %d bundles. What a site asks is what its controller asked.\n\n",
		runtime.Version(), runtime.NumCPU(), processorName(), fleetSites, fleetAtOnce, fleetBundles)
	fmt.Println("| one site, with | a new version | each look, by digest | each look, by tag |")
	fmt.Println("|---|---|---|---|")
	var all []learned
	for i := range engines {
		one, err := b.learnRequests(ctx, l, &engines[i], reference)
		if err != nil {
			return fmt.Errorf("%s: %w", engines[i].name, err)
		}
		cell := func(k int, requests []asked) string {
			return fmt.Sprintf("%d requests, %.1f kB", len(requests), float64(one.sent[k])/1e3)
		}
		fmt.Printf("| %s | %s | %s | %s |\n", one.engine, cell(0, one.first), cell(1, one.byDigest), cell(2, one.byTag))
		all = append(all, *one)
	}
	l.keep = false
	fmt.Println("\n| all sites, with | do what | by way of | all sites took | requests at the registry | sent by it |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, one := range all {
		for _, way := range []string{"the registry", "a cache, empty", "a cache, filled"} {
			if err := one.replaySites(ctx, l, origin.Host, way); err != nil {
				return err
			}
		}
	}
	return nil
}

// replaySites has all sites do what one has done, by way of the registry or of a cache before it.
func (one *learned) replaySites(ctx context.Context, l *requestLog, origin, way string) (err error) {
	host := origin
	if way != "the registry" {
		cache, err := registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Distribution3, Proxy: "http://" + origin})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, cache.Close()) }()
		host = cache.Host
		if way == "a cache, filled" {
			if err := sendRequests(ctx, http.DefaultClient, host, slices.Concat(one.first, one.byTag)); err != nil {
				return err
			}
		}
	}
	for _, round := range []struct {
		name     string
		requests []asked
	}{{"take a new version", one.first}, {"look, by digest", one.byDigest}, {"look, by tag", one.byTag}} {
		if len(round.requests) == 0 || way == "a cache, empty" && round.name != "take a new version" {
			continue
		}
		requests, bytes, began := l.count.Load(), l.bytes.Load(), time.Now()
		if err := askForAll(ctx, host, round.requests); err != nil {
			return err
		}
		fmt.Printf("| %s | %s | %s | %.1f s | %d | %.1f MB |\n", one.engine, round.name, way, time.Since(began).Seconds(),
			l.count.Load()-requests, float64(l.bytes.Load()-bytes)/1e6)
	}
	return nil
}

// prepareFleet publishes a runtime of small bundles, signed.
func (b *bench) prepareFleet(reference string, count int) error {
	files, bundles := map[string]string{}, []string{}
	for n := range count {
		name := fmt.Sprintf("bundle-%02d", n)
		files[name+"/all.yaml"] = fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: default}\ndata: {a: %q}\n", name, strings.Repeat("settings ", 50))
		files[name+"/bundle.yaml"] = fmt.Sprintf("{apiVersion: krtpkg.dev/v1alpha1, kind: Bundle, metadata: {name: %s, version: 1.0.0}, spec: {layer: 6, sources: [{file: all.yaml}]}}\n", name)
		bundles = append(bundles, "{path: "+name+"}")
	}
	files["runtime.yaml"] = "{apiVersion: krtpkg.dev/v1alpha1, kind: Runtime, metadata: {name: edge, version: 1.0.0}, spec: {bundles: [" + strings.Join(bundles, ", ") + "]}}\n"
	for name, text := range files {
		at := b.filePath("def/" + name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"keygen", "-q"},
		{"build", "-q", "-f", "def"},
		{"push", "-q", "oci:dist:1.0.0", reference},
		{"sign", "-q", "--key", "cosign.key", reference},
	} {
		if err := b.mustRun(b.krtpkg, args...); err != nil {
			return err
		}
	}
	return nil
}

// learnRequests has a real controller, on a control plane of its own, take a runtime and look again: by the
// digest, as krtpkg writes it, and by a tag.
func (b *bench) learnRequests(ctx context.Context, l *requestLog, e *engine, reference string) (_ *learned, err error) {
	dir := b.filePath(e.install[0])
	if err := os.MkdirAll(filepath.Join(dir, "controller"), 0o700); err != nil {
		return nil, err
	}
	control, err := clustertest.Run(ctx, filepath.Join(dir, "control"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, control.Stop()) }()
	controller, err := e.run(ctx, control, filepath.Join(dir, "controller"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(controller.Stop(), err) }()
	one := &learned{engine: e.name}
	for k, more := range [][]string{nil, e.follow} {
		out := filepath.Join(dir, strconv.Itoa(k))
		if err := b.mustRun(b.krtpkg, slices.Concat([]string{"packages"}, e.install, more, []string{"-q", "--key", "cosign.pub", reference, "-o", out})...); err != nil {
			return nil, err
		}
		if k == 1 && more == nil { // which krtpkg does not write: whoever wants it changes the reference
			if err := byTag(filepath.Join(out, "00-repository.yaml"), reference); err != nil {
				return nil, err
			}
		}
		l.takeRequests()
		sent := l.bytes.Load()
		if err := control.Deploy(ctx, "fleet", "", out); err != nil {
			return nil, err
		}
		seen := l.waitForPause(ctx, 2*fleetPeriod, 10*time.Second, 5*time.Minute)
		if k == 0 {
			one.first, one.sent[0] = seen, l.bytes.Load()-sent
		}
		sent = l.bytes.Load()
		look := l.waitForPause(ctx, 2*fleetPeriod, fleetPeriod, fleetPeriod-time.Second) // each has its own moment in the period
		if one.sent[k+1] = l.bytes.Load() - sent; k == 0 {
			one.byDigest = look
		} else {
			one.byTag = look
		}
	}
	if len(one.first) == 0 || len(one.byTag) == 0 {
		return nil, fmt.Errorf("it asked %d times at first, and %d times for the tag", len(one.first), len(one.byTag))
	}
	return one, nil
}

// byTag makes a PackageRepository go by a tag.
func byTag(file, reference string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, regexp.MustCompile(`image: .*`).ReplaceAll(text, []byte("image: "+reference)), 0o600)
}

// waitForPause returns the requests from the next one on, if one comes in time, to the first pause in which none
// comes, or for a time at most.
func (l *requestLog) waitForPause(ctx context.Context, limit, pause, most time.Duration) (all []asked) {
	began, first, last := time.Now(), time.Time{}, time.Time{}
	for ctx.Err() == nil {
		time.Sleep(200 * time.Millisecond)
		if seen := l.takeRequests(); len(seen) > 0 {
			if last = time.Now(); len(all) == 0 {
				first = last
			}
			all = append(all, seen...)
		}
		if len(all) > 0 && (time.Since(last) > pause || time.Since(first) > most) || len(all) == 0 && time.Since(began) > limit {
			break
		}
	}
	return all
}

// askForAll asks for each site, over connections of its own.
func askForAll(ctx context.Context, host string, requests []asked) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fleetAtOnce)
	for range fleetSites {
		group.Go(func() error {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			return sendRequests(ctx, &http.Client{Transport: transport}, host, requests)
		})
	}
	return group.Wait()
}

func sendRequests(ctx context.Context, client *http.Client, host string, requests []asked) error {
	for _, a := range requests {
		r, err := http.NewRequestWithContext(ctx, a.method, "http://"+host+a.uri, nil)
		if err != nil {
			return err
		}
		r.Header["Accept"] = a.accept
		response, err := client.Do(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			return err
		}
		// What is asked for and is not there, as it was for kapp-controller, is not a failure.
		if response.StatusCode >= 400 && response.StatusCode != http.StatusNotFound {
			return fmt.Errorf("%s %s: %s", a.method, a.uri, response.Status)
		}
	}
	return nil
}
