package records

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

const (
	hooksKey  = "hooks.yaml"
	hooksType = "krtpkg.dev/hooks" // of the Secrets
)

// MaxHooksSize is the largest size of a bundle's hooks, that of a Secret.
const MaxHooksSize = 1 << 20

// hooksName returns the name of the Secret with the hooks of a bundle that run when it is deleted.
func hooksName(runtime, bundle string) string { return ObjectName(runtime) + ".hooks." + bundle }

// StoreHooks keeps a bundle's hooks of a deletion on the cluster: it is deleted without the artifact that it came
// from.
func (s Store) StoreHooks(ctx context.Context, runtime, bundle string, data []byte) error {
	secrets, name := s.Client.CoreV1().Secrets(s.Namespace), hooksName(runtime, bundle)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{marks.Runtime: runtime, marks.Bundle: bundle, labelRecord: "hooks"}},
		Type:       hooksType, Data: map[string][]byte{hooksKey: data},
	}
	_, err := secrets.Create(apiserver.WithoutLogs(ctx), secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		patch, marshalled := json.Marshal(map[string]any{"data": secret.Data})
		if marshalled != nil {
			return marshalled
		}
		_, err = secrets.Patch(apiserver.WithoutLogs(ctx), name, "application/merge-patch+json", patch, metav1.PatchOptions{})
	}
	if err != nil {
		return fmt.Errorf("store the hooks of bundle %s in secret %s/%s: %w", bundle, s.Namespace, name, err)
	}
	return nil
}

// RemoveHooks removes the hooks of a bundle, if it has any.
func (s Store) RemoveHooks(ctx context.Context, runtime, bundle string) error {
	secrets := s.Client.CoreV1().Secrets(s.Namespace)
	return apiserver.IgnoreNotFound(secrets.Delete(apiserver.WithoutLogs(ctx), hooksName(runtime, bundle), metav1.DeleteOptions{}))
}

// removeAllHooks removes the hooks of all bundles of a runtime.
func (s Store) removeAllHooks(ctx context.Context, runtime string) error {
	secrets := s.Client.CoreV1().Secrets(s.Namespace)
	all, err := secrets.List(apiserver.WithoutLogs(ctx), metav1.ListOptions{LabelSelector: marks.Runtime + "=" + runtime + "," + labelRecord + "=hooks"})
	if err != nil {
		return fmt.Errorf("list the hooks of runtime %s: %w", runtime, err)
	}
	var errs []error
	for _, secret := range all.Items {
		errs = append(errs, apiserver.IgnoreNotFound(secrets.Delete(apiserver.WithoutLogs(ctx), secret.Name, metav1.DeleteOptions{})))
	}
	return errors.Join(errs...)
}

// ReadHooks returns the hooks of a bundle that run when it is deleted, as they were given to [Store.StoreHooks], and the
// name of the object that has them; nothing for a bundle without hooks.
func (s Store) ReadHooks(ctx context.Context, runtime, bundle string) (data []byte, object string, err error) {
	name := hooksName(runtime, bundle)
	secret, err := s.Client.CoreV1().Secrets(s.Namespace).Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read the hooks of bundle %s: %w", bundle, err)
	}
	return secret.Data[hooksKey], fmt.Sprintf("secret %s/%s, %s", s.Namespace, name, hooksKey), nil
}
