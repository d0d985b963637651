package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/kappctrltest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

const (
	fleetSites = 1000
	// fleetAtOnce is how many sites ask at the same time: in reality their periods spread them.
	fleetAtOnce = 50
)

// asked is a request of a client, as it can be asked again.
type asked struct {
	method, uri string
	accept      []string
}

// log keeps requests, and counts them and the bytes of their answers.
type log struct {
	mu       sync.Mutex
	keep     bool
	requests []asked
	count    atomic.Int64
	bytes    atomic.Int64
}

func (l *log) middleware(next http.Handler) http.Handler {
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

// taken are the requests since the last time.
func (l *log) taken() []asked {
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

// fleet plays many sites whose kapp-controllers poll one registry: what each asks is taken from the
// real one, when it first sees a runtime and when nothing is new, and asked again by as many sites,
// of the registry and of a pull-through cache before it.
func fleet(ctx context.Context, b *bench) (err error) {
	l := &log{keep: true}
	origin, err := registrytest.Run(ctx, registrytest.Options{Kind: registrytest.Distribution3, Middleware: l.middleware})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, origin.Close()) }()
	reference := origin.Host + "/krt/edge:1.0.0"
	if err := b.prepareCluster(); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"push", "-q", "oci:dist:1.0.0", reference, "--image-mirror", "*=oci:" + b.path("img")},
		{"packages", "install", "-q", "--key", "cosign.pub", reference, "--sync-period", "30s", "-o", "packages"},
	} {
		if err := b.prepared(b.krtpkg, args...); err != nil {
			return err
		}
	}
	first, byDigest, byTag, err := b.learn(ctx, l, reference)
	if err != nil {
		return err
	}
	l.keep = false
	fmt.Printf("%s, %d cores, %s; %d sites, %d at once, distribution 3.1.2 on loopback; a runtime of %d bundles. What a site asks is what kapp-controller 0.51 asked.\n\n",
		runtime.Version(), runtime.NumCPU(), cpu(), fleetSites, fleetAtOnce, clusterBundles)
	fmt.Println("| all sites | by way of | requests of a site | all sites took | requests at the registry | sent by it |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, way := range []string{"the registry", "a cache, empty", "a cache, filled"} {
		host := origin.Host
		if way != "the registry" {
			cache, err := registrytest.Run(ctx, registrytest.Options{Kind: registrytest.Distribution3, Proxy: "http://" + origin.Host})
			if err != nil {
				return err
			}
			host = cache.Host
			if way == "a cache, filled" {
				if err := ask(ctx, http.DefaultClient, host, append(first, byTag...)); err != nil {
					return errors.Join(err, cache.Close())
				}
			}
			defer func() { err = errors.Join(err, cache.Close()) }()
		}
		for _, round := range []struct {
			name     string
			requests []asked
		}{{"see a new version", first}, {"look, by digest", byDigest}, {"look, by tag", byTag}} {
			if way == "a cache, empty" && round.name != "see a new version" {
				continue
			}
			requests, bytes, began := l.count.Load(), l.bytes.Load(), time.Now()
			if err := everybody(ctx, host, round.requests); err != nil {
				return err
			}
			fmt.Printf("| %s | %s | %d | %.1f s | %d | %.1f MB |\n", round.name, way, len(round.requests), time.Since(began).Seconds(),
				l.count.Load()-requests, float64(l.bytes.Load()-bytes)/1e6)
		}
	}
	return nil
}

// learn has the real kapp-controller see a PackageRepository, and look again: by the digest, as krtpkg
// writes it, and by a tag.
func (b *bench) learn(ctx context.Context, l *log, reference string) (first, byDigest, byTag []asked, err error) {
	control, err := clustertest.Run(ctx, b.path("control"))
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() { err = errors.Join(err, control.Stop()) }()
	if err := os.Mkdir(b.path("controller"), 0o700); err != nil {
		return nil, nil, nil, err
	}
	controller, err := kappctrltest.Run(ctx, control, b.path("controller"))
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() { err = errors.Join(controller.Stop(), err) }()
	text, err := os.ReadFile(b.path("packages/00-repository.yaml"))
	if err != nil {
		return nil, nil, nil, err
	}
	tagged := regexp.MustCompile(`image: .*`).ReplaceAllString(strings.Replace(string(text), "name: ", "name: by-tag-", 1), "image: "+reference)
	l.taken()
	for _, repository := range []struct {
		app, manifests string
		idle           *[]asked
	}{{"by-digest", string(text), &byDigest}, {"by-tag", tagged, &byTag}} {
		// kapp waits for it to be reconciled.
		if err := control.Deploy(ctx, repository.app, repository.manifests); err != nil {
			return nil, nil, nil, err
		}
		if seen := l.taken(); first == nil {
			first = seen
		}
		// It looks each 30 seconds, give or take; once it has begun, a moment is enough to end.
		for deadline := time.Now().Add(50 * time.Second); len(*repository.idle) == 0 && time.Now().Before(deadline); {
			time.Sleep(time.Second)
			if *repository.idle = l.taken(); len(*repository.idle) > 0 {
				time.Sleep(3 * time.Second)
				*repository.idle = append(*repository.idle, l.taken()...)
			}
		}
	}
	if len(first) == 0 || len(byTag) == 0 {
		return nil, nil, nil, fmt.Errorf("kapp-controller asked %d times at first, and %d times for the tag", len(first), len(byTag))
	}
	return first, byDigest, byTag, nil
}

// everybody asks for each site, over connections of its own.
func everybody(ctx context.Context, host string, requests []asked) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fleetAtOnce)
	for range fleetSites {
		group.Go(func() error {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			return ask(ctx, &http.Client{Transport: transport}, host, requests)
		})
	}
	return group.Wait()
}

func ask(ctx context.Context, client *http.Client, host string, requests []asked) error {
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
		// What is asked for and is not there, as it was for kapp-controller, is no failure.
		if response.StatusCode >= 400 && response.StatusCode != http.StatusNotFound {
			return fmt.Errorf("%s %s: %s", a.method, a.uri, response.Status)
		}
	}
	return nil
}
