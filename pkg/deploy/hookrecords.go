package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hooksName returns that of the Secret with the hooks of a bundle that run when it is deleted.
func hooksName(runtime, bundle string) string { return stateName(runtime) + ".hooks." + bundle }

// encodeHooks returns the hooks that run at a deletion as they are kept, and the digest of that; nothing
// where there are none.
func encodeHooks(hooks []Hook) (data []byte, sum string, err error) {
	hooks = slices.DeleteFunc(slices.Clone(hooks), func(h Hook) bool { return !h.runsAt(preDelete, postDelete) })
	if len(hooks) == 0 {
		return nil, "", nil
	}
	if data, err = yaml.Marshal(hooks); err != nil {
		return nil, "", err
	}
	if len(data) > hooksLimit {
		return nil, "", fmt.Errorf("store the deletion hooks: %d bytes do not fit into a Secret", len(data))
	}
	return data, digest.FromBytes(data).String(), nil
}

// keepHooks makes sure that a bundle's hooks of a deletion are on the cluster: it is deleted without the
// artifact that it came from.
func (c *Cluster) keepHooks(ctx context.Context, runtime, bundle string, data []byte) error {
	secrets, name := c.client.CoreV1().Secrets(c.namespace), hooksName(runtime, bundle)
	if data == nil {
		return ignoreNotFound(secrets.Delete(withoutLogs(ctx), name, metav1.DeleteOptions{}))
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelRuntime: runtime, labelBundle: bundle, labelRecord: "hooks"}},
		Type:       hooksSource, Data: map[string][]byte{hooksKey: data},
	}
	_, err := secrets.Create(withoutLogs(ctx), secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		patch, marshalled := json.Marshal(map[string]any{"data": secret.Data})
		if marshalled != nil {
			return marshalled
		}
		_, err = secrets.Patch(withoutLogs(ctx), name, "application/merge-patch+json", patch, metav1.PatchOptions{})
	}
	if err != nil {
		return fmt.Errorf("store the hooks of bundle %s in secret %s/%s: %w", bundle, c.namespace, name, err)
	}
	return nil
}

// forgetHooks removes the hooks of all bundles of a runtime.
func (c *Cluster) forgetHooks(ctx context.Context, runtime string) error {
	secrets := c.client.CoreV1().Secrets(c.namespace)
	all, err := secrets.List(withoutLogs(ctx), metav1.ListOptions{LabelSelector: labelRuntime + "=" + runtime + "," + labelRecord + "=hooks"})
	if err != nil {
		return fmt.Errorf("list the hooks of runtime %s: %w", runtime, err)
	}
	var errs []error
	for _, s := range all.Items {
		errs = append(errs, ignoreNotFound(secrets.Delete(withoutLogs(ctx), s.Name, metav1.DeleteOptions{})))
	}
	return errors.Join(errs...)
}

// keptHooks returns the hooks of a bundle that run when it is deleted.
func (c *Cluster) keptHooks(ctx context.Context, runtime, bundle string) ([]Hook, error) {
	name := hooksName(runtime, bundle)
	secret, err := c.client.CoreV1().Secrets(c.namespace).Get(withoutLogs(ctx), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the hooks of bundle %s: %w", bundle, err)
	}
	var hooks []Hook
	if err := yaml.Unmarshal(secret.Data[hooksKey], &hooks); err != nil {
		return nil, fmt.Errorf("secret %s/%s, %s: %w", c.namespace, name, hooksKey, err)
	}
	return hooks, nil
}
