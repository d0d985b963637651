package deploy

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// What is recorded of a runtime.
type (
	Revision       = records.Revision
	RevisionBundle = records.RevisionBundle
	Origin         = records.Origin
	State          = records.State
	LockedError    = records.LockedError
)

// The states of a revision.
const (
	InProgress  = records.InProgress
	Complete    = records.Complete
	Incomplete  = records.Incomplete
	Paused      = records.Paused
	Interrupted = records.Interrupted
)

// ErrLockLost means that the lock could not be renewed, so that someone else may have it.
var ErrLockLost = records.ErrLockLost

// records returns where the records of the cluster's runtimes are.
func (c *Cluster) records() records.Store {
	return records.Store{Client: c.client, Namespace: c.namespace, RetryTimeout: c.retryTimeout}
}

// History returns the revisions of a runtime, the newest first, at most ten.
//
// Errors: [ErrNotInstalled].
func (c *Cluster) History(ctx context.Context, runtime string) ([]Revision, error) {
	r, err := c.records().Read(ctx, runtime)
	if err == nil && len(r.Revisions) == 0 {
		err = c.notInstalled(ctx, runtime)
	}
	if err != nil {
		return nil, err
	}
	if r.Revisions[0], err = c.records().SettleState(ctx, runtime, r.Revisions[0]); err != nil {
		return nil, err
	}
	return r.Revisions, nil
}

// Runtimes returns the newest revision of every runtime in the namespace, by name.
func (c *Cluster) Runtimes(ctx context.Context) (map[string]Revision, error) {
	return c.records().Runtimes(ctx)
}

// ListNamespaces returns the namespaces that a runtime is in, or any runtime for "", in order. The user must be allowed to list
// ConfigMaps in all namespaces.
func (c *Cluster) ListNamespaces(ctx context.Context, runtime string) ([]string, error) {
	return c.records().ListNamespaces(ctx, runtime)
}

// WithNamespace returns the cluster with another namespace for records, and for resources without one.
func (c *Cluster) WithNamespace(namespace string) *Cluster {
	other := *c
	other.namespace = namespace
	return &other
}

// Values returns the values of a revision of a runtime, as they were written; of the newest for
// 0. It returns nothing for a revision without values, and for a runtime that is not installed.
func (c *Cluster) Values(ctx context.Context, runtime string, revision int) ([]byte, error) {
	return c.records().Values(ctx, runtime, revision)
}

// notInstalled says where a runtime is that is not in this namespace.
func (c *Cluster) notInstalled(ctx context.Context, runtime string) error {
	err := fmt.Errorf("%s, namespace %s: %w", runtime, c.namespace, ErrNotInstalled)
	if others := c.records().OtherNamespaces(ctx, runtime); len(others) > 0 {
		err = fmt.Errorf("%w: found in namespace %s (--namespace %s)", err, records.NameSome(others), others[0])
	}
	return err
}

// Read reads a key of a ConfigMap or, if kind is "secret", of a Secret in the cluster's namespace.
func (c *Cluster) Read(ctx context.Context, kind, name, key string) ([]byte, error) {
	var data map[string][]byte
	if kind == "secret" {
		secret, err := c.client.CoreV1().Secrets(c.namespace).Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		data = secret.Data
	} else {
		cm, err := c.configMaps().Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		data = cm.BinaryData
		if text, there := cm.Data[key]; there {
			return []byte(text), nil
		}
	}
	if _, there := data[key]; !there {
		return nil, fmt.Errorf("%s %s/%s has no key %s", kind, c.namespace, name, key)
	}
	return data[key], nil
}
