package deploy

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

// ID returns what identifies the cluster for as long as it exists, wherever its API server is reached: the UID of its
// namespace kube-system.
func (c *Cluster) ID(ctx context.Context) (string, error) {
	namespace, err := c.client.CoreV1().Namespaces().Get(apiserver.WithoutLogs(ctx), metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read the id of the cluster, the UID of namespace %s: %w", metav1.NamespaceSystem, err)
	}
	return string(namespace.UID), nil
}
