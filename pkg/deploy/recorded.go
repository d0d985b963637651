package deploy

import (
	"context"

	corev1 "k8s.io/api/core/v1"

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
