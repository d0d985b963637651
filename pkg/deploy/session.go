package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	"github.com/opencontainers/go-digest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// session is one call that holds a runtime against the cluster.
type session struct {
	cluster *Cluster
	opts    Options
	engine  *engine
	runtime Runtime
	record  *records.History
	jobs    []job
	leaving []Installed
	foreign []Foreign // what is deleted although it is not of the runtime
	// assumeKinds takes it that the cluster has kinds by the time they are needed, which it does
	// not serve now and no bundle brings: what an operator defines when it starts.
	assumeKinds bool

	isRunningHooks, isRollback bool
	// withDiffs has the plan come with diffs.
	withDiffs bool
	skipped   []SkippedHook

	mu sync.Mutex // of events, and of the report
}

func (c *Cluster) newSession(ctx context.Context, rt Runtime, opts Options) (*session, error) {
	opts.setDefaults()
	s := &session{cluster: c, opts: opts, runtime: rt, engine: &engine{cluster: c, served: &servedKinds{}, options: opts}}
	if err := rt.validate(); err != nil {
		return nil, err
	}
	installed, err := c.List(ctx, rt.Name)
	if err != nil {
		return nil, err
	}
	if s.engine.records, err = c.checkNames(ctx, rt, installed); err != nil {
		return nil, err
	}
	if s.record, err = c.records().Read(ctx, rt.Name); err != nil {
		return nil, err
	}
	if rt.Units, err = s.placeResources(ctx, rt.Units); err != nil {
		return nil, err
	}
	rt.Units = slices.Clone(rt.Units)
	for i, u := range rt.Units {
		rt.Units[i].Manifests = resources.CacheParsed(u.Manifests)
	}
	s.runtime = rt
	s.jobs, s.leaving = assignJobs(rt, installed)
	for _, i := range installed {
		s.engine.family = append(s.engine.family, i.App)
	}
	if s.engine.claims, err = s.claimResources(); err != nil {
		return nil, err
	}
	return s, nil
}

// recordedRevision returns what is recorded of the runtime.
func (s *session) recordedRevision() Revision {
	r := Revision{Version: s.runtime.Version, Digest: s.runtime.Digest, Origin: s.runtime.Origin, Alone: s.runtime.isSingleBundle()}
	r.Values = s.runtime.valuesDigest()
	for _, j := range s.jobs {
		o := j.newOutcome()
		r.Bundles = append(r.Bundles, RevisionBundle{Bundle: o.Bundle, App: o.App, Layer: o.Layer, Version: o.Version, Digest: j.unit.Digest})
	}
	return r
}

// valuesDigest returns the digest of the site's values, "" without any.
func (r Runtime) valuesDigest() string {
	if len(r.Values) == 0 {
		return ""
	}
	return digest.FromBytes(r.Values).String()
}

// job is a unit in its runtime.
type job struct {
	unit    Unit
	runtime Runtime
	order   int
	was     *Installed // nil if it is new
	// idle is what the plan has found, if there is nothing to do and nothing else in the plan can
	// have changed that. Default: the apply looks for itself.
	idle *callResult
}

// assignJobs holds the runtime against what is installed of it.
func assignJobs(rt Runtime, installed []Installed) (jobs []job, leaving []Installed) {
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
	leaving = slices.DeleteFunc(slices.Clone(installed), func(i Installed) bool { return staying[i.App] })
	return jobs, leaving
}

// prerequisites returns the jobs that must be done before job i.
func (s *session) prerequisites(i int) (before []int) {
	for k, other := range s.jobs {
		lower := other.unit.Layer < s.jobs[i].unit.Layer
		if k != i && (lower || slices.Contains(s.jobs[i].unit.Needs, other.unit.Bundle)) {
			before = append(before, k)
		}
	}
	return before
}

func (j job) newOutcome() Outcome {
	return Outcome{
		Bundle:  cmp.Or(j.unit.Bundle, j.runtime.Name),
		App:     j.runtime.appName(j.unit),
		Version: j.unit.Version,
		Layer:   j.unit.Layer,
	}
}

// appName is unambiguous because names have no dots. That of a lone bundle is not its own name,
// which is often that of a ConfigMap that it has.
func (r Runtime) appName(u Unit) string {
	return r.Name + "." + cmp.Or(u.Bundle, "bundle")
}

// isSingleBundle reports whether this is a bundle that is applied without a runtime.
func (r Runtime) isSingleBundle() bool { return r.Units[0].Bundle == "" }

// validate refuses what would go wrong after the first bundles have been applied.
func (r Runtime) validate() error {
	if problems := validation.IsDNS1123Label(r.Name); problems != nil {
		return fmt.Errorf("runtime name %q: %s", r.Name, problems[0])
	}
	if len(r.Units) == 0 {
		return fmt.Errorf("runtime %s has no bundles; use Delete to delete it", r.Name)
	}
	if !slices.IsSortedFunc(r.Units, func(a, b Unit) int { return a.Layer - b.Layer }) {
		return fmt.Errorf("runtime %s: bundles are not in the order of their layers", r.Name)
	}
	seen := map[string]bool{}
	for _, u := range r.Units {
		if err := u.validate(len(r.Units) == 1); err != nil {
			return fmt.Errorf("runtime %s: bundle %q: %w", r.Name, u.Bundle, err)
		}
		for _, need := range u.Needs {
			if !seen[need] {
				return fmt.Errorf("runtime %s: bundle %q needs %q, which does not come before it", r.Name, u.Bundle, need)
			}
		}
		if seen[u.Bundle] {
			return fmt.Errorf("runtime %s has two bundles named %q", r.Name, u.Bundle)
		}
		seen[u.Bundle] = true
	}
	return nil
}

func (u Unit) validate(only bool) error {
	if u.Manifests == nil {
		return errors.New("no manifests")
	}
	if u.Layer < 0 {
		return fmt.Errorf("layer %d: want 0 or more", u.Layer)
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
// of a runtime of its name leave. It returns what it has found out of kapp's records.
func (c *Cluster) checkNames(ctx context.Context, rt Runtime, installed []Installed) (*appRecords, error) {
	known := newAppRecords(installed)
	apps := sets.New[string]()
	for _, i := range installed {
		apps.Insert(i.App)
		if i.alone && !rt.isSingleBundle() {
			return nil, fmt.Errorf("%s is installed as a single bundle, not as a runtime: delete it or use another name", rt.Name)
		}
		if !i.alone && rt.isSingleBundle() {
			return nil, fmt.Errorf("%s is installed as a runtime, not as a single bundle: delete it or use another name", rt.Name)
		}
	}
	var err error
	if known.names, err = c.listNamesOf(ctx, "configmaps", c.namespace); err != nil {
		return nil, err
	}
	for _, u := range rt.Units {
		name := rt.appName(u)
		if apps.Has(name) {
			continue
		}
		if err := c.checkFree(ctx, name, known.names); err != nil {
			return nil, err
		}
	}
	return known, nil
}

// checkFree looks for both names that kapp may give an app's ConfigMap: among the names of all, or without these on the
// cluster.
func (c *Cluster) checkFree(ctx context.Context, app string, names sets.Set[string]) error {
	for _, name := range []string{app, app + kapp.AppSuffix} {
		if names != nil && !names.Has(name) {
			continue
		}
		_, err := c.configMaps().Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
		if err == nil {
			return fmt.Errorf("configmap %s/%s, which kapp needs for its state, exists, but krtpkg did not create it: delete it or use another name", c.namespace, name)
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("look for a kapp app named %s: %w", app, err)
		}
	}
	return nil
}

// appLabels hold the order with leading zeros so that kubectl sorts by it.
func (j job) appLabels() map[string]string {
	labels := map[string]string{
		marks.Runtime: j.runtime.Name,
		labelLayer:    fmt.Sprint(j.unit.Layer),
		labelOrder:    fmt.Sprintf("%04d", j.order),
	}
	if j.unit.Bundle != "" {
		labels[marks.Bundle] = j.unit.Bundle
	}
	return labels
}

func (j job) appAnnotations() map[string]string {
	return map[string]string{
		annotationNeeds:          strings.Join(j.unit.Needs, ","),
		annotationVersion:        j.unit.Version,
		annotationDigest:         j.unit.Digest,
		annotationRuntimeVersion: j.runtime.Version,
		annotationRuntimeDigest:  j.runtime.Digest,
		annotationRuntimeValues:  j.runtime.valuesDigest(),
	}
}
