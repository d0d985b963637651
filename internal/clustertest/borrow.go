package clustertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
)

// Borrow returns a cluster that no other test uses until this one ends, and that holds what a new one does. A new one is
// started only if all others are borrowed. What a test leaves there is deleted after it, but what it changes in
// objects of a new cluster stays: a test that does, or that ends a component, calls [Start] instead.
//
// The package's TestMain is as for [Reserve].
func Borrow(t testing.TB) *Cluster {
	t.Helper()
	checkMain(t)
	b := lent.takeUnused()
	if b == nil {
		var err error
		if b, err = startBorrowed(t); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		err := b.deleteLeftovers()
		if err == nil {
			lent.giveBack(b)
			return
		}
		// Whether what was left goes away in time is not what the test is about.
		t.Logf("cluster in %s is not lent again: %v", b.Dir, err)
		if err := errors.Join(b.Stop(), os.RemoveAll(b.Dir)); err != nil {
			t.Errorf("stop cluster in %s: %v", b.Dir, err)
		}
	})
	return b.Cluster
}

// lent are the clusters that [Borrow] started.
var lent lending

type lending struct {
	sync.Mutex
	unused   []*borrowed
	problems []error
	ending   sync.WaitGroup
}

// unusedLimit is how long a cluster waits for the next test: even if nobody uses it, it takes processor time, in forty seconds
// as much as the start of another one.
const unusedLimit = 30 * time.Second

func (l *lending) takeUnused() *borrowed {
	l.Lock()
	defer l.Unlock()
	if len(l.unused) == 0 {
		return nil
	}
	last := len(l.unused) - 1
	b := l.unused[last]
	l.unused = l.unused[:last]
	b.limit.Stop()
	return b
}

func (l *lending) giveBack(b *borrowed) {
	l.Lock()
	defer l.Unlock()
	l.unused = append(l.unused, b)
	b.limit = time.AfterFunc(unusedLimit, func() { l.endUnused(b) })
}

// endUnused ends a cluster, if nobody has taken it meanwhile.
func (l *lending) endUnused(b *borrowed) {
	l.Lock()
	i := slices.Index(l.unused, b)
	if i < 0 {
		l.Unlock()
		return
	}
	l.unused = slices.Delete(l.unused, i, i+1)
	l.ending.Add(1)
	l.Unlock()
	defer l.ending.Done()
	err := errors.Join(b.Stop(), os.RemoveAll(b.Dir))
	l.Lock()
	defer l.Unlock()
	l.problems = append(l.problems, err)
}

// endAll ends the clusters that nobody has borrowed, and returns when all have ended.
func (l *lending) endAll() error {
	l.Lock()
	unused := slices.Clone(l.unused)
	l.Unlock()
	for _, b := range unused {
		b.limit.Stop()
		l.endUnused(b)
	}
	l.ending.Wait()
	return errors.Join(l.problems...)
}

// borrowed is a cluster for one test after the other.
type borrowed struct {
	*Cluster
	discovery discovery.DiscoveryInterface
	objects   metadata.Interface
	// own are the objects of a new cluster.
	own map[Object]bool
	// limit ends it if nobody uses it.
	limit *time.Timer
}

func startBorrowed(t testing.TB) (*borrowed, error) {
	c, err := runShared(t)
	if err != nil {
		return nil, err
	}
	b := &borrowed{Cluster: c, own: map[Object]bool{}}
	err = b.connect()
	if err == nil {
		var found map[Object]metav1.PartialObjectMetadata
		if found, err = b.listObjects(t.Context()); err == nil {
			for o := range found {
				b.own[o] = true
			}
			return b, nil
		}
	}
	return nil, errors.Join(err, b.Stop(), os.RemoveAll(b.Dir))
}

func (b *borrowed) connect() error {
	config, err := b.RESTConfig()
	if err != nil {
		return err
	}
	if b.discovery, err = discovery.NewDiscoveryClientForConfig(config); err != nil {
		return err
	}
	b.objects, err = metadata.NewForConfig(config)
	return err
}

// leftoversLimit is how long what a test leaves may take to be gone.
const leftoversLimit = time.Minute

// deleteLeftovers deletes what a new cluster does not have, and returns when it is gone.
func (b *borrowed) deleteLeftovers() error {
	ctx, cancel := context.WithTimeout(context.Background(), leftoversLimit)
	defer cancel()
	for {
		left, err := b.listLeftovers(ctx, nil)
		if err == nil && len(left) == 0 {
			return nil
		}
		// To look at all kinds again and again would be most of the work.
		for len(left) > 0 && err == nil {
			kinds := b.deleteOnce(ctx, left)
			if err = pause(ctx); err == nil {
				left, err = b.listLeftovers(ctx, kinds)
			}
		}
		if err != nil && cmp.Or(pause(ctx), ctx.Err()) != nil {
			return fmt.Errorf("left behind: %s: %w", slices.Collect(maps.Keys(left)), err)
		}
	}
}

// pause waits a moment, or returns the error of a context that has ended.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(200 * time.Millisecond):
		return nil
	}
}

// listLeftovers returns what a new cluster does not have of some kinds, or of all if kinds is nil.
func (b *borrowed) listLeftovers(ctx context.Context, kinds map[schema.GroupVersionResource]string) (map[Object]metav1.PartialObjectMetadata, error) {
	found := map[Object]metav1.PartialObjectMetadata{}
	if kinds == nil {
		all, err := b.listObjects(ctx)
		if err != nil {
			return nil, err
		}
		found = all
	}
	for resource, kind := range kinds {
		if err := listKind(ctx, b.objects, resource, kind, found); err != nil {
			return nil, err
		}
		maps.DeleteFunc(found, isMadeByItself)
	}
	maps.DeleteFunc(found, func(o Object, _ metav1.PartialObjectMetadata) bool { return b.own[o] })
	return found, nil
}

// deleteOnce has all that is left deleted, and returns the kinds of what to wait for: the rest goes with its namespace. What
// cannot be deleted now may be later.
func (b *borrowed) deleteOnce(ctx context.Context, left map[Object]metav1.PartialObjectMetadata) map[schema.GroupVersionResource]string {
	isWebhook := func(o Object) int {
		if o.Resource.Group == "admissionregistration.k8s.io" {
			return 0
		}
		return 1
	}
	// A webhook of a test may refuse that the rest is deleted.
	sorted := slices.SortedFunc(maps.Keys(left), func(x, y Object) int {
		return cmp.Or(cmp.Compare(isWebhook(x), isWebhook(y)), cmp.Compare(x.String(), y.String()))
	})
	kinds := map[schema.GroupVersionResource]string{}
	background := metav1.DeletePropagationBackground
	for _, o := range sorted {
		if _, goes := left[Object{namespaces, "Namespace", "", o.Namespace}]; goes {
			continue
		}
		kinds[o.Resource] = o.Kind
		if m := left[o]; m.DeletionTimestamp == nil && len(m.OwnerReferences) == 0 {
			_ = b.objects.Resource(o.Resource).Namespace(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{PropagationPolicy: &background})
		}
	}
	return kinds
}

// listObjects returns the objects of the cluster, without those that it makes by itself at any time.
func (b *borrowed) listObjects(ctx context.Context) (map[Object]metav1.PartialObjectMetadata, error) {
	found, err := ListObjects(ctx, b.discovery, b.objects, isVolatile)
	maps.DeleteFunc(found, isMadeByItself)
	return found, err
}

var namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}

func isVolatile(group string, r metav1.APIResource) bool {
	return !slices.Contains(r.Verbs, "delete") || slices.Contains([]string{"coordination.k8s.io", "discovery.k8s.io", "events.k8s.io", "flowcontrol.apiserver.k8s.io"}, group) ||
		slices.Contains([]string{"endpoints", "events", "ipaddresses", "nodes", "servicecidrs"}, r.Name)
}

// isMadeByItself reports whether controllers of Kubernetes make an object without being asked, maybe later than a cluster
// is ready.
func isMadeByItself(o Object, m metav1.PartialObjectMetadata) bool {
	_, isBootstrapped := m.Labels["kubernetes.io/bootstrapping"]
	_, isManaged := m.Labels["kube-aggregator.kubernetes.io/automanaged"]
	if isBootstrapped || isManaged || strings.HasPrefix(o.Name, "system:") {
		return true
	}
	switch o.Kind {
	case "ServiceAccount":
		return o.Name == "default"
	case "ConfigMap":
		return o.Name == "kube-root-ca.crt" || o.Name == "extension-apiserver-authentication" || o.Name == "kube-apiserver-legacy-service-account-token-tracking"
	case "Service":
		return o.Name == "kubernetes"
	case "PriorityClass":
		return strings.HasPrefix(o.Name, "system-")
	}
	return false
}
