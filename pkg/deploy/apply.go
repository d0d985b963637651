package deploy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// ApplyOptions are for Apply. The zero value works.
type ApplyOptions struct {
	Options
	// SummaryOnly leaves the text of kapp's diff out of Out; the table of changes stays.
	// The contents of Secrets are masked in either case.
	SummaryOnly bool
}

// Apply makes the cluster hold the runtime: it applies one unit after the other and waits
// until each is ready; at last it deletes, in reverse order, the bundles that the runtime had
// and has no more. Nothing is written if nothing differs. A resource that belongs to another
// kapp app, be it of the same runtime, is an error that names the owner.
//
// At the first error Apply stops, with an *Error if a bundle is at fault; what came before
// stays. Another Apply goes on from there. So it is when ctx ends: Apply returns promptly,
// wrapping ctx's error, and sends nothing more to the cluster, though goroutines may need a
// moment longer to end. It cannot undo a request that had been sent.
//
// The report is never nil.
func (c *Cluster) Apply(ctx context.Context, rt Runtime, opts ApplyOptions) (*Report, error) {
	report := &Report{Runtime: rt.Name}
	if err := rt.check(); err != nil {
		return report, err
	}
	installed, err := c.List(ctx, rt.Name)
	if err != nil {
		return report, err
	}
	if err := c.checkNames(ctx, rt, installed); err != nil {
		return report, err
	}

	s := c.newSession(opts.Options)
	jobs, leaving := plan(rt, installed)
	for _, j := range jobs {
		j.fullDiff = !opts.SummaryOnly
		outcome, err := s.apply(ctx, j)
		if err != nil {
			return report, err
		}
		report.Applied = append(report.Applied, outcome)
	}
	report.Deleted, err = s.deleteAll(ctx, leaving, "what left "+rt.Name)
	return report, err
}

// appName is unambiguous because names have no dots.
func (r Runtime) appName(u Unit) string {
	if u.Bundle == "" {
		return r.Name
	}
	return r.Name + "." + u.Bundle
}

// alone tells whether this is a bundle that is applied without a runtime.
func (r Runtime) alone() bool { return r.Units[0].Bundle == "" }

// check refuses what would go wrong after the first bundles have been applied.
func (r Runtime) check() error {
	if problems := validation.IsDNS1123Label(r.Name); problems != nil {
		return fmt.Errorf("runtime name %q: %s", r.Name, problems[0])
	}
	if len(r.Units) == 0 {
		return fmt.Errorf("runtime %s has no bundles; use Delete to delete it", r.Name)
	}
	seen := map[string]bool{}
	for _, u := range r.Units {
		if err := u.check(len(r.Units) == 1); err != nil {
			return fmt.Errorf("runtime %s: bundle %q: %w", r.Name, u.Bundle, err)
		}
		if seen[u.Bundle] {
			return fmt.Errorf("runtime %s has two bundles named %q", r.Name, u.Bundle)
		}
		seen[u.Bundle] = true
	}
	return nil
}

func (u Unit) check(only bool) error {
	if u.Manifests == nil {
		return errors.New("no manifests")
	}
	if u.Layer < 0 {
		return fmt.Errorf("layer %d", u.Layer)
	}
	if u.Bundle == "" && only {
		return nil
	}
	if problems := validation.IsDNS1123Label(u.Bundle); problems != nil {
		return errors.New(problems[0])
	}
	return nil
}

// checkNames refuses to make something of what is not ours: kapp would take a foreign app of
// that name and delete what it has; and a bundle that is applied alone would make all bundles
// of a runtime of its name leave.
func (c *Cluster) checkNames(ctx context.Context, rt Runtime, installed []Installed) error {
	known := map[string]bool{}
	for _, i := range installed {
		known[i.App] = true
		if i.alone && !rt.alone() {
			return fmt.Errorf("%s is installed as a bundle of its own, not as a runtime: delete it or use another name", rt.Name)
		}
		if !i.alone && rt.alone() {
			return fmt.Errorf("%s is installed as a runtime, not as a bundle of its own: delete it or use another name", rt.Name)
		}
	}
	for _, u := range rt.Units {
		name := rt.appName(u)
		if known[name] {
			continue
		}
		if err := c.checkFree(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// checkFree looks for both names that kapp may give an app's ConfigMap.
func (c *Cluster) checkFree(ctx context.Context, app string) error {
	for _, name := range []string{app, app + kapp.AppSuffix} {
		_, err := c.configMaps().Get(quiet(ctx), name, metav1.GetOptions{})
		if err == nil {
			return fmt.Errorf("configmap %s/%s, which kapp needs for its state, exists and is not krtpkg's: delete it or use another name", c.namespace, name)
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("look for a kapp app named %s: %w", app, err)
		}
	}
	return nil
}

// session is one call of Apply or Delete.
type session struct {
	cluster *Cluster
	opts    Options
	engine  *engine
}

func (c *Cluster) newSession(opts Options) *session {
	opts.setDefaults()
	return &session{cluster: c, opts: opts, engine: &engine{
		config:    c.config,
		namespace: c.namespace,
		out:       opts.Out,
		color:     opts.Color,
		timeout:   opts.WaitTimeout,
		poll:      opts.PollInterval,
	}}
}

// job is a unit in its runtime.
type job struct {
	unit     Unit
	runtime  Runtime
	order    int
	was      *Installed // nil if it is new
	fullDiff bool
}

// plan holds the runtime against what is installed of it.
func plan(rt Runtime, installed []Installed) (jobs []job, leaving []Installed) {
	was := map[string]*Installed{}
	for _, i := range installed {
		was[i.App] = &i
	}
	staying := map[string]bool{}
	for order, unit := range rt.Units {
		name := rt.appName(unit)
		staying[name] = true
		jobs = append(jobs, job{unit: unit, runtime: rt, order: order, was: was[name]})
	}
	leaving = slices.DeleteFunc(installed, func(i Installed) bool { return staying[i.App] })
	return jobs, leaving
}

func (j job) outcome() Outcome {
	return Outcome{
		Bundle:  cmp.Or(j.unit.Bundle, j.runtime.Name),
		App:     j.runtime.appName(j.unit),
		Version: j.unit.Version,
		Layer:   j.unit.Layer,
	}
}

// labels hold the order with leading zeros so that kubectl sorts by it.
func (j job) labels() map[string]string {
	labels := map[string]string{
		labelRuntime: j.runtime.Name,
		labelLayer:   fmt.Sprint(j.unit.Layer),
		labelOrder:   fmt.Sprintf("%04d", j.order),
	}
	if j.unit.Bundle != "" {
		labels[labelBundle] = j.unit.Bundle
	}
	return labels
}

func (j job) annotations() map[string]string {
	return map[string]string{
		annotationVersion:        j.unit.Version,
		annotationDigest:         j.unit.Digest,
		annotationRuntimeVersion: j.runtime.Version,
		annotationRuntimeDigest:  j.runtime.Digest,
	}
}

func (s *session) apply(ctx context.Context, j job) (Outcome, error) {
	return s.track("apply", Applying, j.outcome(), func() (Changes, Phase, error) {
		changes, err := s.applyJob(ctx, j)
		if changes.Any() {
			return changes, Applied, err
		}
		return changes, Unchanged, err
	})
}

// track tells of the phases of what do does to one bundle.
func (s *session) track(op string, begin Phase, o Outcome, do func() (Changes, Phase, error)) (Outcome, error) {
	started := time.Now()
	s.opts.OnEvent(Event{Phase: begin, Outcome: o})
	changes, end, err := do()
	o.Changes, o.Elapsed = changes, time.Since(started)
	if err != nil {
		s.opts.OnEvent(Event{Phase: Failed, Outcome: o, Err: err})
		return o, &Error{Op: op, Bundle: o.Bundle, Layer: o.Layer, Err: err}
	}
	s.opts.OnEvent(Event{Phase: end, Outcome: o})
	return o, nil
}

func (s *session) applyJob(ctx context.Context, j job) (Changes, error) {
	a := app{
		name:      j.runtime.appName(j.unit),
		labels:    j.labels(),
		manifests: j.unit.Manifests,
	}
	mode, err := s.confirm(ctx, func() (Changes, error) {
		return s.engine.deploy(ctx, a, preview, j.fullDiff)
	}, j.question)
	if err != nil {
		return Changes{}, err
	}
	if err := s.cluster.relabel(ctx, j.was, a.labels); err != nil {
		return Changes{}, err
	}
	changes, err := s.engine.deploy(ctx, a, mode, j.fullDiff)
	if err != nil {
		return changes, err
	}
	return changes, s.cluster.annotate(ctx, j, changes)
}

// question is empty if there is nothing to ask.
func (j job) question(changes Changes) string {
	if !changes.Any() {
		return ""
	}
	o := j.outcome()
	name := o.Bundle
	if o.Version != "" {
		name += " " + o.Version
	}
	return fmt.Sprintf("apply bundle %s (layer %d): %v", name, o.Layer, changes)
}

// confirm returns how to go on after looking at the changes and asking, if there is someone
// to ask and a question.
func (s *session) confirm(ctx context.Context, look func() (Changes, error), question func(Changes) string) (mode, error) {
	if s.opts.Confirm == nil {
		return direct, nil
	}
	changes, err := look()
	if err != nil {
		return preview, err
	}
	text := question(changes)
	if text == "" {
		return asPreviewed, nil
	}
	ok, err := s.opts.Confirm(ctx, text)
	if err != nil {
		return preview, err
	}
	if !ok {
		return preview, ErrNotConfirmed
	}
	return asPreviewed, nil
}

// relabel moves an app to another place: kapp refuses to change the value of a label, and
// places move when a runtime gets another bundle.
func (c *Cluster) relabel(ctx context.Context, was *Installed, labels map[string]string) error {
	if was == nil || contains(was.labels, labels) {
		return nil
	}
	return c.patch(ctx, was.configMap, map[string]any{"labels": labels})
}

// annotate records what has been applied, if that is news.
func (c *Cluster) annotate(ctx context.Context, j job, changes Changes) error {
	news := j.annotations()
	if changes == (Changes{}) && j.was != nil && j.was.Complete && contains(j.was.notes, news) {
		return nil
	}
	// Not j.was: kapp has created or renamed it, or begun a change.
	installed, err := c.List(ctx, j.runtime.Name)
	if err != nil {
		return err
	}
	for _, i := range installed {
		if i.App == j.runtime.appName(j.unit) {
			news[annotationChange] = i.change
			return c.patch(ctx, i.configMap, map[string]any{"annotations": news})
		}
	}
	return errors.New("kapp has deployed it, but its app is not on the cluster")
}

func (c *Cluster) patch(ctx context.Context, configMap string, metadata map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = c.configMaps().Patch(quiet(ctx), configMap, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("record on configmap %s/%s: %w", c.namespace, configMap, err)
	}
	return nil
}

func contains(all, some map[string]string) bool {
	for key, value := range some {
		if all[key] != value {
			return false
		}
	}
	return true
}
