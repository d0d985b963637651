package records

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

const (
	valuesKey  = "values.yaml"
	valuesType = "krtpkg.dev/values" // of the Secrets
)

// valuesName returns the name of the Secret with the values of a digest.
func valuesName(runtime string, d digest.Digest) string {
	return ObjectName(runtime) + ".values." + d.Encoded()[:16]
}

// Values returns the values of a revision of a runtime, as they were written; of the newest for
// 0. It returns nothing for a revision without values, and for a runtime that is not installed.
func (s Store) Values(ctx context.Context, runtime string, revision int) ([]byte, error) {
	r, err := s.Read(ctx, runtime)
	if err != nil {
		return nil, err
	}
	for _, v := range r.Revisions {
		if revision != 0 && v.Number != revision {
			continue
		}
		if v.Values == "" {
			return nil, nil
		}
		return s.readValues(ctx, runtime, digest.Digest(v.Values))
	}
	if revision != 0 {
		return nil, fmt.Errorf("runtime %s has no revision %d: see krtpkg history", runtime, revision)
	}
	return nil, nil
}

func (s Store) readValues(ctx context.Context, runtime string, d digest.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("the record of runtime %s: values %q: %w", runtime, d, err)
	}
	name := valuesName(runtime, d)
	secret, err := s.Client.CoreV1().Secrets(s.Namespace).Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the values of runtime %s: %w", runtime, err)
	}
	data := secret.Data[valuesKey]
	if digest.FromBytes(data) != d {
		return nil, fmt.Errorf("secret %s/%s does not hold the recorded values (%s): it was changed", s.Namespace, name, d)
	}
	return data, nil
}

// storeValues makes sure that values are on the cluster, in a Secret named by their digest.
func (s Store) storeValues(ctx context.Context, runtime string, values []byte) error {
	if len(values) == 0 {
		return nil
	}
	name := valuesName(runtime, digest.FromBytes(values))
	immutable := true
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{marks.Runtime: runtime, labelRecord: "values"}},
		Type:       valuesType, Immutable: &immutable, Data: map[string][]byte{valuesKey: values},
	}
	_, err := s.Client.CoreV1().Secrets(s.Namespace).Create(apiserver.WithoutLogs(ctx), secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = s.readValues(ctx, runtime, digest.FromBytes(values))
	}
	if err != nil {
		return fmt.Errorf("store the values of runtime %s in secret %s/%s: %w", runtime, s.Namespace, name, err)
	}
	return nil
}

func (s Store) removeValues(ctx context.Context, runtime string, needed func(digest string) bool) error {
	secrets := s.Client.CoreV1().Secrets(s.Namespace)
	all, err := secrets.List(apiserver.WithoutLogs(ctx), metav1.ListOptions{LabelSelector: marks.Runtime + "=" + runtime + "," + labelRecord + "=values"})
	if err != nil {
		return fmt.Errorf("list the values of runtime %s: %w", runtime, err)
	}
	var errs []error
	for _, secret := range all.Items {
		if !needed(digest.FromBytes(secret.Data[valuesKey]).String()) {
			errs = append(errs, apiserver.IgnoreNotFound(secrets.Delete(apiserver.WithoutLogs(ctx), secret.Name, metav1.DeleteOptions{})))
		}
	}
	return errors.Join(errs...)
}
