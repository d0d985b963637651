package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// objectClient reads and writes resources of any kind.
type objectClient struct {
	cluster *Cluster
	client  dynamic.Interface
	mapper  meta.RESTMapper
	// namespace is where resources go that name none.
	namespace string
	poll      time.Duration
	limit     time.Duration
}

func (s *session) newObjectClient() (*objectClient, error) {
	client, err := dynamic.NewForConfig(s.cluster.config)
	if err != nil {
		return nil, err
	}
	discover, err := discovery.NewDiscoveryClientForConfig(s.cluster.config)
	if err != nil {
		return nil, err
	}
	return &objectClient{
		cluster: s.cluster, client: client, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discover)),
		namespace: s.cluster.namespace, poll: s.opts.PollInterval, limit: s.opts.WaitTimeout,
	}, nil
}

// resourceClient returns where a resource is read and written.
func (o *objectClient) resourceClient(apiVersion, kind, namespace string) (dynamic.ResourceInterface, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, err
	}
	mapping, err := o.mapper.RESTMapping(gv.WithKind(kind).GroupKind(), gv.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		return o.client.Resource(mapping.Resource), nil
	}
	if namespace == "" {
		namespace = o.namespace
	}
	return o.client.Resource(mapping.Resource).Namespace(namespace), nil
}

// removeAndWait deletes a resource and its dependents and waits until it is gone. CustomResourceDefinitions
// stay, as with Helm: all their resources would be deleted, too.
func (o *objectClient) removeAndWait(ctx context.Context, id ResourceID) error {
	if id.Kind == "CustomResourceDefinition" {
		return nil
	}
	at, err := o.resourceClient(id.APIVersion, id.Kind, id.Namespace)
	if err != nil {
		return err
	}
	policy := metav1.DeletePropagationBackground
	err = at.Delete(apiserver.WithoutLogs(ctx), id.Name, metav1.DeleteOptions{PropagationPolicy: &policy})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete hook %s: %w", id, err)
	}
	return o.waitFor(ctx, "delete hook "+id.String()+": still exists", func() (bool, error) {
		_, err := at.Get(apiserver.WithoutLogs(ctx), id.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

func (o *objectClient) waitFor(ctx context.Context, what string, done func() (bool, error)) error {
	for began := time.Now(); ; {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Since(began) > o.limit {
			return fmt.Errorf("%s after %s", what, o.limit)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(o.poll):
		}
	}
}

// hasEnded reports whether a hook is done: a Job or a Pod when it has ended, all else at once.
func hasEnded(u *unstructured.Unstructured) (bool, error) {
	switch {
	case u.GetKind() == "Job" && strings.HasPrefix(u.GetAPIVersion(), "batch/"):
		var job batchv1.Job
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &job); err != nil {
			return false, err
		}
		for _, c := range job.Status.Conditions {
			if c.Status == corev1.ConditionTrue && c.Type == batchv1.JobFailed {
				return true, fmt.Errorf("%w: %s: %s", errHookFailed, c.Reason, c.Message)
			}
			if c.Status == corev1.ConditionTrue && c.Type == batchv1.JobComplete {
				return true, nil
			}
		}
		return false, nil
	case u.GetKind() == "Pod" && u.GetAPIVersion() == "v1":
		phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
		if phase == string(corev1.PodFailed) {
			return true, errHookFailed
		}
		return phase == string(corev1.PodSucceeded), nil
	}
	return true, nil
}

// endHooks deletes the hooks that were applied with the rest and whose policies say so.
func (s *session) endHooks(ctx context.Context, ran []ranHook, failed bool) error {
	ran = slices.DeleteFunc(slices.Clone(ran), func(h ranHook) bool {
		return !slices.Contains(h.policies, hookSucceeded) && (!failed || !slices.Contains(h.policies, hookFailed))
	})
	if len(ran) == 0 {
		return nil
	}
	o, err := s.newObjectClient()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range ran {
		if failed {
			at, err := o.resourceClient(h.APIVersion, h.Kind, h.Namespace)
			if err != nil {
				continue // its kind was not there yet
			}
			u, err := at.Get(apiserver.WithoutLogs(ctx), h.Name, metav1.GetOptions{})
			if err != nil || h.Kind != "Job" && h.Kind != "Pod" {
				continue
			}
			done, problem := hasEnded(u)
			policy := hookSucceeded
			if problem != nil {
				policy = hookFailed
			}
			if !done || !slices.Contains(h.policies, policy) {
				continue
			}
		}
		errs = append(errs, o.removeAndWait(ctx, h.ResourceID))
	}
	return errors.Join(errs...)
}

// runHooks runs the hooks of a moment of a deletion or a rollback one after the other, and deletes what
// they made when all have ended well. One that fails stays, unless its policy says otherwise.
func (s *session) runHooks(ctx context.Context, outcome Outcome, phase Phase, hooks []Hook, event string, namespaces map[string]*corev1.Namespace) error {
	hooks = slices.DeleteFunc(slices.Clone(hooks), func(h Hook) bool { return !h.runsAt(event) })
	if len(hooks) == 0 {
		return nil
	}
	o, err := s.newObjectClient()
	if err != nil {
		return err
	}
	var made []ranHook
	var lent []string
	for _, h := range hooks {
		u, err := h.newObject(s.runtime.Name)
		if err != nil {
			return fmt.Errorf("%s hook: %w", event, err)
		}
		id := ResourceID{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}
		s.emitEvent(Event{Phase: phase, Outcome: outcome, Message: Message{Hook: fmt.Sprintf("%s %s (%s)", id.Kind, id.Name, event)}})
		if ns := namespaces[id.Namespace]; ns != nil {
			is, err := s.recreateNamespace(ctx, ns)
			if err != nil {
				return fmt.Errorf("%s hook %s: %w", event, id, err)
			}
			if is && !slices.Contains(lent, ns.Name) {
				lent = append(lent, ns.Name)
			}
		}
		if err := o.runHook(ctx, h, u, id); err != nil {
			err = fmt.Errorf("%s hook %s: %w", event, id, err)
			for _, m := range slices.Backward(made) {
				if slices.Contains(m.policies, hookSucceeded) {
					err = errors.Join(err, o.removeAndWait(ctx, m.ResourceID))
				}
			}
			if slices.Contains(h.Policies, hookFailed) {
				err = errors.Join(err, o.removeAndWait(ctx, id))
			}
			return err
		}
		made = append(made, ranHook{id, h.Policies})
	}
	var errs []error
	for _, m := range slices.Backward(made) {
		errs = append(errs, o.removeAndWait(ctx, m.ResourceID))
	}
	for _, name := range lent {
		errs = append(errs, o.removeAndWait(ctx, ResourceID{APIVersion: "v1", Kind: "Namespace", Name: name}))
	}
	return errors.Join(errs...)
}

// runHook creates a hook, in the place of one of before, and waits until it has ended.
func (o *objectClient) runHook(ctx context.Context, h Hook, u *unstructured.Unstructured, id ResourceID) error {
	began := time.Now().Add(-time.Second) // events have whole seconds
	if len(h.Policies) == 0 || slices.Contains(h.Policies, beforeHookCreation) {
		if err := o.removeAndWait(ctx, id); err != nil {
			return err
		}
	}
	at, err := o.resourceClient(id.APIVersion, id.Kind, id.Namespace)
	if err != nil {
		return err
	}
	if _, err := at.Create(apiserver.WithoutLogs(ctx), u, metav1.CreateOptions{FieldManager: "krtpkg"}); err != nil {
		return err
	}
	job, err := kappres.NewResourceFromBytes([]byte(h.Manifest))
	if err != nil {
		return err
	}
	job.SetNamespace(cmp.Or(id.Namespace, o.namespace))
	var gone time.Time
	return o.waitFor(ctx, "has not ended", func() (bool, error) {
		now, err := at.Get(apiserver.WithoutLogs(ctx), id.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && hasTTL(job) {
			if gone.IsZero() {
				gone = time.Now()
			}
			if finished := (finishedJobs{cluster: o.cluster, since: began}); finished.hasCompleted(job) {
				return true, nil
			}
			if time.Since(gone) < eventTimeout {
				return false, nil
			}
			return false, errors.New("was deleted, but no event reports that it completed")
		}
		if err != nil {
			return false, err
		}
		return hasEnded(now)
	})
}

// recreateNamespace makes a namespace again that a hook needs and that has been deleted; it reports whether it has.
func (s *session) recreateNamespace(ctx context.Context, was *corev1.Namespace) (bool, error) {
	again := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: was.Name, Labels: map[string]string{labelHook: s.runtime.Name}, Annotations: was.Annotations}}
	for key, value := range was.Labels {
		if key != marks.App && !strings.HasPrefix(key, "kapp.k14s.io/") {
			again.Labels[key] = value
		}
	}
	_, err := s.cluster.client.CoreV1().Namespaces().Create(apiserver.WithoutLogs(ctx), again, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	return err == nil, err
}

// newObject returns the hook's resource, with a label that names its runtime.
func (h Hook) newObject(runtime string) (*unstructured.Unstructured, error) {
	r, err := kappres.NewResourceFromBytes([]byte(h.Manifest))
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: r.DeepCopyRaw()}
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelHook] = runtime
	u.SetLabels(labels)
	return u, nil
}
