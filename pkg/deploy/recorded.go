package deploy

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// RecordedRuntime is the history of a runtime, as it is recorded in a namespace.
type RecordedRuntime = records.Runtime

// AllNamespaces is what [Cluster.RecordedRuntimes] takes for every namespace.
const AllNamespaces = corev1.NamespaceAll

// RecordedRuntimes returns the histories of all runtimes in a namespace, or in [AllNamespaces], by namespace and
// name. A record that cannot be read is an error: nothing is known of what it names.
func (c *Cluster) RecordedRuntimes(ctx context.Context, namespace string) ([]RecordedRuntime, error) {
	store := c.records()
	store.Namespace = namespace
	return store.List(ctx)
}

// IsForbidden reports whether the API server refused a request because the user lacks a permission, by the reason that it
// gave.
func IsForbidden(err error) bool { return apierrors.IsForbidden(err) }

// ReadableRuntimes is [Cluster.RecordedRuntimes] of all namespaces, or of one where others may not be read. Without a
// namespace, that they may not be read is an error.
func (c *Cluster) ReadableRuntimes(ctx context.Context, namespace string) ([]RecordedRuntime, error) {
	all, err := c.RecordedRuntimes(ctx, AllNamespaces)
	if apierrors.IsForbidden(err) && namespace != AllNamespaces {
		return c.RecordedRuntimes(ctx, namespace)
	}
	return all, err
}
