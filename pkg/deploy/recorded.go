package deploy

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RecordedRuntime is the history of a runtime, as it is recorded in a namespace.
type RecordedRuntime struct {
	Namespace, Name string
	// Revisions are the newest first.
	Revisions []Revision
}

// AllNamespaces is what [Cluster.RecordedRuntimes] takes for every namespace.
const AllNamespaces = corev1.NamespaceAll

// RecordedRuntimes returns the histories of all runtimes in a namespace, or in [AllNamespaces], by namespace and
// name. A record that cannot be read is an error: what it names is not known.
func (c *Cluster) RecordedRuntimes(ctx context.Context, namespace string) ([]RecordedRuntime, error) {
	all, err := c.client.CoreV1().ConfigMaps(namespace).List(withoutLogs(ctx), metav1.ListOptions{LabelSelector: labelRecord + "=runtime"})
	if err != nil {
		where := "all namespaces"
		if namespace != AllNamespaces {
			where = "namespace " + namespace
		}
		return nil, fmt.Errorf("list the records of runtimes in %s: %w", where, err)
	}
	found := make([]RecordedRuntime, len(all.Items))
	for i, cm := range all.Items {
		r, err := readRecord(&cm)
		if err != nil {
			return nil, err
		}
		found[i] = RecordedRuntime{cm.Namespace, cm.Labels[labelRuntime], r.revisions}
	}
	slices.SortFunc(found, func(a, b RecordedRuntime) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return found, nil
}
