package deploy

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
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

// splitResting takes out the hooks that do not run now. Their objects on the cluster stay as they are.
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
		return slices.ContainsFunc(ids, idOf(r).IsSame)
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

// eventTimeout is how long the event of a Job that has deleted itself is waited for.
const eventTimeout = 5 * time.Second

// errHookFailed means that a Job or a Pod of a hook ended badly.
var errHookFailed = errors.New("hook failed")

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
			if ns, err := s.cluster.client.CoreV1().Namespaces().Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{}); err == nil {
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
		s.cluster.records().RemoveHooks(ctx, s.runtime.Name, d.outcome.Bundle),
	)
}

// rollBack applies a job between the hooks of a rollback, if there is anything to do.
func (s *session) rollBack(ctx context.Context, j job, a kappApp, journal *records.Journal, apply func() (callResult, error)) (callResult, error) {
	hooks := slices.DeleteFunc(slices.Clone(j.unit.Hooks), func(h Hook) bool { return !h.runsAt(preRollback, postRollback) })
	if !s.isRollback || len(hooks) == 0 {
		return apply()
	}
	looked, err := s.engine.planDeploy(ctx, a)
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
	if err := journal.Begin(ctx); err != nil {
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
