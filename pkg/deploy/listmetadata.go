package deploy

import (
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/metadata"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// listMetadata lists the metadata of all objects. A kind that is gone, or cannot be listed, has none.
func listMetadata(ctx context.Context, client metadata.ResourceInterface, options metav1.ListOptions) ([]metav1.PartialObjectMetadata, error) {
	items, _, err := listPages(ctx, client, options, 0)
	return items, err
}

// listPages lists objects until all, or a number of pages, have been read. 0 pages are all.
func listPages(ctx context.Context, client metadata.ResourceInterface, options metav1.ListOptions, pages int) (items []metav1.PartialObjectMetadata, complete bool, err error) {
	options.Limit = preflight.ListPage
	for read := 1; ; read++ {
		list, err := client.List(apiserver.WithoutLogs(ctx), options)
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			return items, true, nil
		}
		if err != nil {
			return nil, false, err
		}
		items = append(items, list.Items...)
		if options.Continue = list.Continue; options.Continue == "" {
			return items, true, nil
		}
		if read == pages {
			return items, false, nil
		}
	}
}

// foreignPages is how many pages of a kind are read to find what is in several namespaces. Where
// there are more, the namespaces are listed one by one.
const foreignPages = 4

// listNamespaces lists the metadata of all objects of a kind in some namespaces, in few requests.
func listNamespaces(ctx context.Context, client metadata.Getter, namespaces sets.Set[string]) ([]metav1.PartialObjectMetadata, error) {
	if namespaces.Len() > foreignPages {
		items, complete, err := listPages(ctx, client.Namespace(metav1.NamespaceAll), metav1.ListOptions{}, foreignPages)
		if err != nil && !apierrors.IsForbidden(err) {
			return nil, err
		}
		if complete {
			return slices.DeleteFunc(items, func(m metav1.PartialObjectMetadata) bool { return !namespaces.Has(m.Namespace) }), nil
		}
	}
	var all []metav1.PartialObjectMetadata
	for _, namespace := range sets.List(namespaces) {
		items, err := listMetadata(ctx, client.Namespace(namespace), metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
	}
	return all, nil
}
