package deploy

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// sharedListings are the resources of all apps of a runtime, listed once for each kind while nothing is
// written: kapp lists each kind once for each app.
type sharedListings struct {
	ctx     context.Context // of the one look that they are for
	objects dynamic.Interface
	labels  []string // values of marks.App, in order

	mu     sync.Mutex
	listed map[listingKey]func() (map[string][]unstructured.Unstructured, error)
}

// listingKey is a kind, and which part of the labels it was listed for.
type listingKey struct {
	schema.GroupVersionResource
	part int
}

const (
	// listingLabels is how many apps are listed in one request, whose URL has a limit.
	listingLabels = 100
	listingPage   = 500
)

// shareListings lists each kind once for some apps until the returned function is called, which must
// be before anything is written that one app sees of another. Where it cannot, kapp lists for each app.
func (e *engine) shareListings(ctx context.Context, apps []Installed) (end func()) {
	objects, err := dynamic.NewForConfig(e.cluster.config)
	if err != nil || len(apps) < 2 {
		return func() {} // kapp meets the error too, and returns it
	}
	l := &sharedListings{ctx: ctx, objects: objects, listed: map[listingKey]func() (map[string][]unstructured.Unstructured, error){}}
	for _, app := range apps {
		l.labels = append(l.labels, app.label)
	}
	slices.Sort(l.labels)
	l.labels = slices.Compact(l.labels)
	e.listings = l
	return func() { e.listings = nil }
}

// findListed returns an app's resources of a kind. It reports false where only kapp's own way may find
// them: for a user who is not allowed to list a kind everywhere, namespace by namespace.
func (l *sharedListings) findListed(kind schema.GroupVersionResource, label string) ([]unstructured.Unstructured, bool) {
	i, known := slices.BinarySearch(l.labels, label)
	if !known {
		return nil, false
	}
	key := listingKey{kind, i / listingLabels}
	l.mu.Lock()
	list := l.listed[key]
	if list == nil {
		list = sync.OnceValues(func() (map[string][]unstructured.Unstructured, error) { return l.listKind(key) })
		l.listed[key] = list
	}
	l.mu.Unlock()
	byLabel, err := list()
	return byLabel[label], err == nil
}

func (l *sharedListings) listKind(key listingKey) (map[string][]unstructured.Unstructured, error) {
	first := key.part * listingLabels
	values := l.labels[first:min(first+listingLabels, len(l.labels))]
	options := metav1.ListOptions{LabelSelector: marks.App + " in (" + strings.Join(values, ",") + ")", Limit: listingPage}
	byLabel := map[string][]unstructured.Unstructured{}
	for {
		page, err := l.objects.Resource(key.GroupVersionResource).List(apiserver.WithoutLogs(l.ctx), options)
		if err != nil {
			return nil, err
		}
		for _, item := range page.Items {
			label := item.GetLabels()[marks.App]
			byLabel[label] = append(byLabel[label], item)
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return byLabel, nil
		}
	}
}

// listedResources takes from listings what they have.
type listedResources struct {
	kappres.Resources
	listings *sharedListings
}

// All lists resources by the label of an app, as kapp does to see which an app has.
func (l listedResources) All(types []kappres.ResourceType, opts kappres.AllOpts) ([]kappres.Resource, error) {
	label, byApp := "", false
	if opts.ListOpts != nil {
		label, byApp = strings.CutPrefix(opts.ListOpts.LabelSelector, marks.App+"=")
	}
	if !byApp {
		return l.Resources.All(types, opts)
	}
	var (
		mu     sync.Mutex
		group  errgroup.Group
		shared []kappres.Resource
		others []kappres.ResourceType
	)
	for _, kind := range types {
		group.Go(func() error {
			items, found := l.listings.findListed(kind.GroupVersionResource, label)
			mu.Lock()
			defer mu.Unlock()
			if !found {
				others = append(others, kind)
			}
			for _, item := range items {
				shared = append(shared, kappres.NewResourceUnstructured(*item.DeepCopy(), kind))
			}
			return nil
		})
	}
	_ = group.Wait() // no error: kapp's own way tells
	if len(others) == 0 {
		return shared, nil
	}
	slices.SortFunc(others, func(a, b kappres.ResourceType) int {
		return cmp.Compare(a.GroupVersionResource.String(), b.GroupVersionResource.String())
	})
	rest, err := l.Resources.All(others, opts)
	return append(shared, rest...), err
}
