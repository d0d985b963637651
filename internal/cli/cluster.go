package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/result"
)

// clusterFlags are the flags of commands that go to a cluster.
type clusterFlags struct {
	deploy.Config
	yes         bool
	waitTimeout time.Duration
	lock        time.Duration
	parallel    int
	full        bool
	format      ui.Format
	// label is before what is told of one of several clusters.
	label string
}

func (f *clusterFlags) addKubeconfig(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.Kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, then ~/.kube/config)")
	flags.StringVar(&f.Context, "context", "", "context of the kubeconfig (default: the current one)")
	_ = cmd.RegisterFlagCompletionFunc("context", completeContexts(f))
	flags.DurationVar(&f.RetryTimeout, "retry-timeout", 2*time.Minute, "how long to retry when the API server does not answer; 0 for no retries")
}

func (f *clusterFlags) addConnection(cmd *cobra.Command) {
	f.addKubeconfig(cmd)
	cmd.Flags().StringVarP(&f.Namespace, "namespace", "n", "", "namespace for the records of kapp and krtpkg, and for resources without one (default: the context's)")
}

func (f *clusterFlags) addClusterFlags(cmd *cobra.Command) {
	f.addConnection(cmd)
	f.addParallel(cmd)
	outputFlag(cmd, &f.format)
}

func (f *clusterFlags) addParallel(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.parallel, "parallel", 8, "number of independent bundles to process in parallel")
}

// connectCluster returns the cluster. That its API server does not answer is said.
func (f *clusterFlags) connectCluster(a *app) (*deploy.Cluster, error) {
	config := f.Config
	if config.RetryTimeout <= 0 { // to the library 0 is the default
		config.RetryTimeout = -1
	}
	config.OnRetry = func(cause error, failing time.Duration) {
		a.ui.Note("%snote: no answer from the API server for %s, trying again: %v", f.label, failing.Round(time.Second), cause)
	}
	return deploy.Connect(config)
}

// addDiff adds what concerns the plan's text.
func (f *clusterFlags) addDiff(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.full, "full", false, "also print created and deleted resources, not only changes")
}

func (f *clusterFlags) addChanging(cmd *cobra.Command) {
	f.addClusterFlags(cmd)
	f.addWait(cmd)
}

func (f *clusterFlags) addWait(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVarP(&f.yes, "yes", "y", false, "skip the confirmation")
	flags.DurationVar(&f.waitTimeout, "wait-timeout", 15*time.Minute, "how long to wait without progress")
	flags.DurationVar(&f.lock, "lock-timeout", 30*time.Second, "lease duration: how long a lock without renewal blocks others")
}

// checkValues refuses values that cannot be, and a change that nobody could be asked about.
func (f *clusterFlags) checkValues(a *app) error {
	switch {
	case f.parallel < 1 || f.parallel > 64:
		return &usageError{fmt.Errorf("--parallel %d: want 1 to 64", f.parallel)}
	case f.waitTimeout < 0, f.lock < 0, f.lock > 0 && f.lock < time.Second:
		return &usageError{fmt.Errorf("--wait-timeout and --lock-timeout must be at least one second")}
	case f.lock > 0 && !f.yes && !a.ui.IsTerminal():
		return &usageError{fmt.Errorf("confirmation required, but there is no terminal: pass --yes")}
	}
	return nil
}

// deployOptions returns the flags for the library. What is worked on is told of until stop is called.
func (f *clusterFlags) deployOptions(a *app) (o deploy.Options, stop func()) {
	w := &progressWatch{app: a, label: f.label, waiting: map[string]deploy.Event{}, done: make(chan struct{})}
	go w.remindWaiting()
	return deploy.Options{
		WaitTimeout: f.waitTimeout, LockDuration: f.lock, Parallel: f.parallel, OnEvent: w.reportEvent,
	}, sync.OnceFunc(func() { close(w.done) })
}

// progressWatch tells what is applied, and what it waits for.
type progressWatch struct {
	app     *app
	label   string
	mu      sync.Mutex
	waiting map[string]deploy.Event // by bundle and resource
	done    chan struct{}
}

func (w *progressWatch) reportEvent(e deploy.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := fmt.Sprintf("layer %d %s: %s", e.Layer, layers.LayerName(e.Layer), e.Bundle)
	name := strings.TrimSpace(at + " " + e.Version)
	switch {
	case e.Warning != "":
		w.sayLabelled("%s: API server warning: %s", at, w.app.ui.ErrorText(e.Warning))
	case e.Hook != "":
		w.sayLabelled("%s: hook %s", at, e.Hook)
	case e.Ready != "":
		delete(w.waiting, e.App+" "+e.Ready)
	case e.Waiting != nil:
		w.waiting[e.App+" "+e.Waiting.Resource] = e
		w.sayLabelled("%s", w.app.ui.ErrorText(formatWaiting(e)))
	case e.Phase == deploy.Applied, e.Phase == deploy.Deleted:
		w.sayLabelled("%s %s: %s, %s", name, e.Phase, e.Changes, e.Elapsed.Round(time.Millisecond*100))
	case e.Phase == deploy.Failed:
		w.sayLabelled("%s failed after %s", name, e.Elapsed.Round(time.Millisecond*100))
	case e.Phase == deploy.Blocked:
		w.sayLabelled("%s not begun: it needs %s", name, strings.Join(e.WaitsFor, ", "))
	default:
		w.sayLabelled("%s %s", name, e.Phase)
	}
	if e.Message == (deploy.Message{}) {
		for key := range w.waiting {
			if strings.HasPrefix(key, e.App+" ") {
				delete(w.waiting, key)
			}
		}
	}
}

func (w *progressWatch) sayLabelled(format string, args ...any) {
	w.app.ui.Say("%s", w.label+fmt.Sprintf(format, args...))
}

func formatWaiting(e deploy.Event) string {
	text := fmt.Sprintf("layer %d %s: %s waits for %s", e.Layer, layers.LayerName(e.Layer), e.Bundle, e.Waiting.Resource)
	if e.Waiting.Reason != "" {
		text += ": " + e.Waiting.Reason
	}
	if e.Waiting.Hint != "" {
		text += "; " + e.Waiting.Hint
	}
	if elapsed := time.Since(e.Waiting.Since); elapsed >= time.Second {
		text += " (" + elapsed.Round(time.Second).String() + " so far)"
	}
	return text
}

// remindEvery is how often it is said again what is waited for.
const remindEvery = 15 * time.Second

// remindWaiting says again, from time to time, what is waited for.
func (w *progressWatch) remindWaiting() {
	ticker := time.NewTicker(remindEvery)
	defer ticker.Stop()
	for {
		select {
		case <-w.done:
			return
		case now := <-ticker.C:
			w.mu.Lock()
			for _, key := range sortedKeys(w.waiting) {
				if e := w.waiting[key]; now.Sub(e.Waiting.Since) > 10*time.Second {
					w.sayLabelled("%s", w.app.ui.ErrorText(formatWaiting(e)))
				}
			}
			w.mu.Unlock()
		}
	}
}

// confirmPlan returns a function that shows a plan and asks for confirmation; nil with --yes.
func (f *clusterFlags) confirmPlan(a *app, cluster *deploy.Cluster, question string) func(context.Context, *deploy.Plan) (bool, error) {
	if f.yes {
		return nil
	}
	return func(ctx context.Context, p *deploy.Plan) (bool, error) {
		var text strings.Builder
		a.hideConfidential(p.Findings)
		planWriter{&text, f.full}.writePlan(p)
		fmt.Fprint(a.ui, text.String())
		answer, err := a.ui.Ask(ctx, ui.Sprintf("%s %s on %s, namespace %s: %s [y/N]", question, p.Runtime, cluster.Server(), cluster.Namespace(), p.CountChanges()))
		return answer == "y" || answer == "yes", err
	}
}

// planWriter writes a plan for people, without what its counts say unless all of it is wanted.
type planWriter struct {
	io.Writer
	full bool
}

// writePlan writes a plan, bundle by bundle.
func (w planWriter) writePlan(p *deploy.Plan) {
	if p.From != "" && p.From != p.Version {
		ui.Fprintf(w, "%s %s → %s\n", p.Runtime, p.From, p.Version)
	}
	for _, b := range p.Bundles {
		version := b.Version
		if b.From != "" && b.From != b.Version {
			version = strings.TrimSuffix(b.From+" → "+b.Version, " → ")
		}
		outcome := deploy.CountChanges(b.Changes).String()
		if b.Action == deploy.ActionUnplanned {
			outcome = "changes unknown"
		}
		ui.Fprintf(w, "layer %d %s: %s %s %s: %s\n", b.Layer, layers.LayerName(b.Layer), b.Action, b.Bundle, version, outcome)
		for _, c := range b.Changes {
			whole := c.Op == deploy.OpCreate || c.Op == deploy.OpDelete || c.Op == deploy.OpRelease
			if c.Op == deploy.OpCreate && b.Action != deploy.ActionChange && !w.full {
				continue // the count says it
			}
			ui.Fprintf(w, "  %s %s\n", describeOperation(c), c.ResourceID)
			if c.Diff != "" && (!whole || w.full) {
				ui.WriteIndented(w, "    ", c.Diff)
			}
		}
	}
	for _, f := range p.Findings {
		if f.Severity != preflight.SeverityError { // which the error says
			ui.WriteIndented(w, "", f.String())
		}
	}
}

// summarizePlan returns the last line of a plan. A version without another resource is still a change: it
// is recorded.
func summarizePlan(p *deploy.Plan) string {
	count := p.CountChanges()
	if p.HasChanges() && !count.HasAny() {
		return "no resource changes, only the record of what is applied"
	}
	return count.String()
}

// describeOperation returns what is done to a resource, in a word or a few.
func describeOperation(c deploy.ResourceChange) string {
	switch {
	case c.Replace:
		return "replace (delete and create)"
	case c.Op == deploy.OpRelease:
		return "release (keep on the cluster)"
	}
	return string(c.Op)
}

// describePlan returns what results say of a plan.
func describePlan(p *deploy.Plan) *result.Plan {
	r := &result.Plan{
		Name: p.Runtime, Version: p.Version, Digest: p.Digest, From: p.From, Changes: p.HasChanges(),
		Bundles: []result.PlannedBundle{}, Findings: append([]preflight.Finding{}, p.Findings...), ChangeCounts: result.ChangeCounts(p.CountChanges()),
	}
	for _, b := range p.Bundles {
		r.Bundles = append(r.Bundles, result.PlannedBundle{
			Name: b.Bundle, Layer: b.Layer, Action: b.Action, Version: b.Version, From: b.From,
			Resources: append([]deploy.ResourceChange{}, b.Changes...), ChangeCounts: result.ChangeCounts(deploy.CountChanges(b.Changes)),
		})
	}
	return r
}

// hideConfidential takes out of findings what errors must not quote.
func (a *app) hideConfidential(findings []preflight.Finding) {
	for i := range findings {
		findings[i].Message = a.ui.ErrorText(findings[i].Message)
	}
}

// sayFindings notes warnings, and gives what is wrong as an error.
func (a *app) sayFindings(findings []preflight.Finding) error {
	slices.SortStableFunc(findings, func(x, y preflight.Finding) int { return cmp.Compare(x.Check, y.Check) })
	for _, f := range findings {
		if f.Severity == preflight.SeverityWarning {
			a.ui.Note("%s", a.ui.ErrorText(f.String()))
		}
	}
	return preflight.RefuseFindings(findings)
}
