package deploy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"github.com/opencontainers/go-digest"
	"gopkg.in/yaml.v3"
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

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// The moments of Helm at which hooks run.
const (
	preInstall   = "pre-install"
	postInstall  = "post-install"
	preUpgrade   = "pre-upgrade"
	postUpgrade  = "post-upgrade"
	preDelete    = "pre-delete"
	postDelete   = "post-delete"
	preRollback  = "pre-rollback"
	postRollback = "post-rollback"
)

// The policies by which Helm deletes hooks.
const (
	beforeHookCreation = "before-hook-creation"
	hookSucceeded      = "hook-succeeded"
	hookFailed         = "hook-failed"
)

// alwaysReplace has kapp delete and create what it would change.
const alwaysReplace = "always-replace"

const (
	annotationHelmHook   = "helm.sh/hook"
	annotationHookDelete = "helm.sh/hook-delete-policy"

	// annotationReleases are the releases of which hooks are among what was applied, a line each:
	// RELEASE@DIGEST.
	annotationReleases = "krtpkg.dev/releases"
	// annotationHooks is the digest of the hooks that are kept for a deletion.
	annotationHooks = "krtpkg.dev/hooks"
	// labelHook is on what a hook of a deletion or a rollback has made, with the runtime's name.
	labelHook = "krtpkg.dev/hook-of"

	hooksKey    = "hooks.yaml"
	hooksSource = "krtpkg.dev/hooks"
	hooksLimit  = 1 << 20 // of a Secret
)

// Hook is a resource that is created at a moment of a bundle's life, and is not part of what is
// applied. Hooks of one moment stand in the order in which they run.
type Hook struct {
	// Events are the moments: pre-delete, post-delete, pre-rollback, post-rollback.
	Events []string `yaml:"events"`
	// Policies say when Helm deletes it.
	Policies []string `yaml:"policies,omitempty"`
	// Manifest is one resource.
	Manifest string `yaml:"manifest"`
}

func (h Hook) runsAt(events ...string) bool {
	return slices.ContainsFunc(h.Events, func(e string) bool { return slices.Contains(events, e) })
}

// SkippedHook is one that would have run if the call had been told to run hooks.
type SkippedHook struct {
	Bundle   string `json:"bundle"`
	Resource string `json:"resource"`
	Event    string `json:"event"`
}

// lifecycleMoment is what is known of a bundle's past when it is applied.
type lifecycleMoment struct {
	// isRollback tells that it goes back to an earlier revision.
	isRollback bool
	// wasComplete tells that an apply of it has ended well, isKnown that one recorded its releases.
	wasComplete, isKnown bool
	// releases are the digests that were applied, by the names of releases.
	releases map[string]string
}

func (j job) newMoment(isRollback bool) lifecycleMoment {
	m := lifecycleMoment{isRollback: isRollback, releases: map[string]string{}}
	if j.was == nil {
		return m
	}
	_, m.wasComplete = j.was.notes[annotationVersion]
	text, known := j.was.notes[annotationReleases]
	m.isKnown = known
	for line := range strings.Lines(text) {
		name, digest := cutRelease(strings.TrimSpace(line))
		m.releases[name] = digest
	}
	return m
}

func cutRelease(text string) (name, digest string) {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		return text[:i], text[i+1:]
	}
	return text, ""
}

// isHook reports whether a resource is a hook among what is applied.
func isHook(r kappres.Resource) bool { return r.Annotations()[bundle.HookAnnotation] != "" }

// runsNow reports whether a hook runs now: at the first apply of its release, at an upgrade, which is
// another digest, or not at all. Any other resource does.
func (m lifecycleMoment) runsNow(r kappres.Resource) bool {
	if !isHook(r) {
		return true
	}
	name, digest := cutRelease(r.Annotations()[bundle.HookAnnotation])
	last, applied := m.releases[name]
	switch {
	case m.isRollback, m.wasComplete && applied && last == digest:
		return false
	case !m.wasComplete, m.isKnown && !applied:
		return hasEvent(r, preInstall, postInstall)
	}
	return hasEvent(r, preUpgrade, postUpgrade)
}

func hasEvent(r kappres.Resource, events ...string) bool {
	return slices.ContainsFunc(splitWords(r.Annotations()[annotationHelmHook]), func(e string) bool { return slices.Contains(events, e) })
}

func splitWords(list string) []string {
	var all []string
	for word := range strings.SplitSeq(list, ",") {
		if word = strings.ToLower(strings.TrimSpace(word)); word != "" {
			all = append(all, word)
		}
	}
	return all
}

// armHooks makes kapp run the hooks that are due again, although what it finds of them may be the same.
func (m lifecycleMoment) armHooks(resources []kappres.Resource) error {
	for _, r := range resources {
		if !isHook(r) || !m.runsNow(r) {
			continue
		}
		set := map[string]string{updateStrategy: fallbackOnReplace}
		if r.Kind() == "Job" || r.Kind() == "Pod" {
			set = map[string]string{updateStrategy: alwaysReplace, "kapp.k14s.io/nonce": ""}
		}
		add := kappres.StringMapAppendMod{
			ResourceMatcher: kappres.AllMatcher{}, Path: kappres.NewPathFromStrings([]string{"metadata", "annotations"}), KVs: set,
		}
		if err := add.Apply(r); err != nil {
			return err
		}
	}
	return nil
}

// splitResting takes out the hooks that do not run now. What is there of them stays as it is.
func (m lifecycleMoment) splitResting(resources []kappres.Resource) (now []kappres.Resource, resting []ResourceID) {
	for _, r := range resources {
		if m.runsNow(r) {
			now = append(now, r)
		} else {
			resting = append(resting, idOf(r))
		}
	}
	return now, resting
}

// excludeResources leaves out the resources that are meant.
func excludeResources(resources []kappres.Resource, ids []ResourceID) []kappres.Resource {
	if len(ids) == 0 {
		return resources
	}
	return slices.DeleteFunc(slices.Clone(resources), func(r kappres.Resource) bool {
		return slices.ContainsFunc(ids, idOf(r).sameAs)
	})
}

// releasesOf returns the releases that resources have hooks of, as they are recorded.
func releasesOf(resources []kappres.Resource) string {
	all := map[string]bool{}
	for _, r := range resources {
		if isHook(r) {
			all[r.Annotations()[bundle.HookAnnotation]] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(all)), "\n")
}

// ranHook is a hook that was applied with the rest.
type ranHook struct {
	ResourceID
	policies []string
}

// ranHooks returns those among resources, in any order.
func ranHooks(resources []kappres.Resource) (ran []ranHook) {
	for _, r := range resources {
		if isHook(r) {
			ran = append(ran, ranHook{idOf(r), splitWords(r.Annotations()[annotationHookDelete])})
		}
	}
	return ran
}

// notHooks returns the resources that are there to stay.
func notHooks(resources []kappres.Resource) []kappres.Resource {
	return slices.DeleteFunc(slices.Clone(resources), isHook)
}

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

// removeAndWait deletes a resource with what was made of it and waits until it is gone. Kinds stay, as with
// Helm: all resources of theirs would go along.
func (o *objectClient) removeAndWait(ctx context.Context, id ResourceID) error {
	if id.Kind == "CustomResourceDefinition" {
		return nil
	}
	at, err := o.resourceClient(id.APIVersion, id.Kind, id.Namespace)
	if err != nil {
		return err
	}
	policy := metav1.DeletePropagationBackground
	err = at.Delete(withoutLogs(ctx), id.Name, metav1.DeleteOptions{PropagationPolicy: &policy})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete hook %s: %w", id, err)
	}
	return o.waitFor(ctx, "delete hook "+id.String()+": still exists", func() (bool, error) {
		_, err := at.Get(withoutLogs(ctx), id.Name, metav1.GetOptions{})
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

// eventTimeout is how long the event of a Job that has deleted itself is waited for.
const eventTimeout = 5 * time.Second

// errHookFailed means that a Job or a Pod of a hook ended badly.
var errHookFailed = errors.New("it failed")

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
			u, err := at.Get(withoutLogs(ctx), h.Name, metav1.GetOptions{})
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
		id := ResourceID{u.GetAPIVersion(), u.GetKind(), u.GetNamespace(), u.GetName()}
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
	if _, err := at.Create(withoutLogs(ctx), u, metav1.CreateOptions{FieldManager: "krtpkg"}); err != nil {
		return err
	}
	job, err := kappres.NewResourceFromBytes([]byte(h.Manifest))
	if err != nil {
		return err
	}
	job.SetNamespace(cmp.Or(id.Namespace, o.namespace))
	var gone time.Time
	return o.waitFor(ctx, "has not ended", func() (bool, error) {
		now, err := at.Get(withoutLogs(ctx), id.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && isPassing(job) {
			if gone.IsZero() {
				gone = time.Now()
			}
			if finished := (finishedJobs{cluster: o.cluster, since: began}); finished.hasCompleted(job) {
				return true, nil
			}
			if time.Since(gone) < eventTimeout {
				return false, nil
			}
			return false, errors.New("deleted itself without an event that it completed")
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
		if key != kappLabel && !strings.HasPrefix(key, "kapp.k14s.io/") {
			again.Labels[key] = value
		}
	}
	_, err := s.cluster.client.CoreV1().Namespaces().Create(withoutLogs(ctx), again, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	return err == nil, err
}

// newObject returns the hook's resource, with a label that tells of whom it is.
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

// names are the hooks of events, as they are told of.
func skippedHooks(bundle string, hooks []Hook, events ...string) (all []SkippedHook) {
	for _, event := range events {
		for _, h := range hooks {
			if !h.runsAt(event) {
				continue
			}
			what := "?"
			if u, err := h.newObject(""); err == nil {
				what = u.GetKind() + " " + u.GetName()
			}
			all = append(all, SkippedHook{bundle, what, event})
		}
	}
	return all
}

// skipHooks reports hooks that are not run.
func (s *session) skipHooks(bundle string, hooks []Hook, events ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skipped = append(s.skipped, skippedHooks(bundle, hooks, events...)...)
}

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

// beforeDeletion runs the hooks of a bundle that come before it is deleted, and sees to those that come
// after.
func (s *session) beforeDeletion(ctx context.Context, d *appDeletion) error {
	hooks, err := s.cluster.keptHooks(ctx, s.runtime.Name, d.outcome.Bundle)
	if err != nil || len(hooks) == 0 {
		return err
	}
	if !s.isRunningHooks {
		s.skipHooks(d.outcome.Bundle, hooks, preDelete, postDelete)
		return nil
	}
	d.hooks, d.namespaces = hooks, map[string]*corev1.Namespace{}
	for _, h := range hooks {
		u, err := h.newObject(s.runtime.Name)
		if err != nil {
			return err
		}
		if name := u.GetNamespace(); name != "" && h.runsAt(postDelete) {
			if ns, err := s.cluster.client.CoreV1().Namespaces().Get(withoutLogs(ctx), name, metav1.GetOptions{}); err == nil {
				d.namespaces[name] = ns
			}
		}
	}
	return s.runHooks(ctx, d.outcome, Deleting, hooks, preDelete, nil)
}

// afterDeletion runs the hooks of a bundle that come after, once, and forgets all of them.
func (s *session) afterDeletion(ctx context.Context, d *appDeletion) error {
	hooks := d.hooks
	d.hooks = nil
	return errors.Join(
		s.runHooks(ctx, d.outcome, Deleting, hooks, postDelete, d.namespaces),
		s.cluster.keepHooks(ctx, s.runtime.Name, d.outcome.Bundle, nil),
	)
}

// rollBack applies a job between the hooks of a rollback, if there is anything to do.
func (s *session) rollBack(ctx context.Context, j job, a kappApp, journal *applyJournal, apply func() (callResult, error)) (callResult, error) {
	hooks := slices.DeleteFunc(slices.Clone(j.unit.Hooks), func(h Hook) bool { return !h.runsAt(preRollback, postRollback) })
	if !s.isRollback || len(hooks) == 0 {
		return apply()
	}
	looked, err := s.engine.lookAhead(ctx, a)
	if err != nil {
		return looked, err
	}
	o := j.newOutcome()
	if !CountChanges(looked.changes).HasAny() {
		return apply()
	}
	if !s.isRunningHooks {
		s.skipHooks(o.Bundle, hooks, preRollback, postRollback)
		return apply()
	}
	if err := journal.beginChange(ctx); err != nil {
		return callResult{}, err
	}
	if err := s.runHooks(ctx, o, Applying, hooks, preRollback, nil); err != nil {
		return callResult{}, err
	}
	found, err := apply()
	if err != nil {
		return found, err
	}
	return found, s.runHooks(ctx, o, Applying, hooks, postRollback, nil)
}
