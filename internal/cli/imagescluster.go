package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/site"
)

// runningImages are the flags of what is listed of clusters.
type runningImages struct {
	onCluster, fromCluster bool
	contexts               []string
	cluster                clusterFlags
	registries             []string
	exitCode               bool
}

func (r *runningImages) addClusterFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&r.onCluster, "cluster", false, "compare what pods run with the locks of what is applied")
	flags.BoolVar(&r.fromCluster, "from-cluster", false, "list what pods run, for a runtime that does not exist yet")
	flags.StringSliceVar(&r.contexts, "contexts", nil, "the clusters of these kubeconfig contexts (default: the current one)")
	flags.StringVar(&r.cluster.Kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, then ~/.kube/config)")
	flags.StringVarP(&r.cluster.Namespace, "namespace", "n", "", "look only at the pods of this namespace (default: all namespaces)")
	flags.DurationVar(&r.cluster.RetryTimeout, "retry-timeout", 2*time.Minute, "how long to retry when the API server does not answer; 0 for no retries")
	flags.StringSliceVar(&r.registries, "allow-registry", nil, "pods may also pull from this registry, HOST or HOST/PATH, such as upstream names that nodes take from a mirror")
	flags.BoolVar(&r.exitCode, "exit-code", false, "exit with code 5 if --cluster finds anything")
}

func (a *app) runRunningImages(ctx context.Context, list imageList) error {
	if list.withContext || list.offline {
		return &usageError{errors.New("--context and --offline require --file; --contexts names contexts of the kubeconfig")}
	}
	r := &result.Images{Images: []result.ImageUse{}}
	contexts := list.contexts
	if len(contexts) == 0 {
		contexts = []string{""}
	}
	var unread []error
	var none *unreadLocksError
	for _, name := range contexts {
		found, failures, err := a.listRunning(ctx, name, list.runningImages)
		if errors.As(err, &none) && len(contexts) > 1 {
			failures, err = []error{none.error}, nil
		}
		if err != nil {
			return err
		}
		unread = append(unread, failures...)
		for _, one := range found {
			r.Running = append(r.Running, describeRunning(one, name))
		}
	}
	findings := 0
	for _, one := range r.Running {
		if len(one.Findings) > 0 {
			findings++
		}
	}
	var failed error
	switch {
	case len(unread) > 0:
		failed = &unreadLocksError{errors.Join(unread...)}
	case findings > 0 && list.exitCode:
		failed = errChanges
	}
	shown := r.Running
	if !list.fromCluster {
		shown = slices.DeleteFunc(slices.Clone(shown), func(one result.RunningImage) bool { return len(one.Findings) == 0 })
	}
	err := a.printResult(ctx, list.format, r, failed, func(w io.Writer) { writeRunning(w, shown) })
	if list.onCluster {
		a.ui.Say("%s run, %d with findings", countNoun(len(r.Running), "image"), findings)
	}
	return err
}

// unreadLocksError is that of runtimes of which nobody could read the lock, and that nothing was compared with.
type unreadLocksError struct{ error }

func (e *unreadLocksError) Unwrap() error { return e.error }

// listRunning lists what runs on one cluster. What could not be compared is in failures, unless that is all.
func (a *app) listRunning(ctx context.Context, name string, r runningImages) (found []site.RunningImage, failures []error, err error) {
	flags := r.cluster
	flags.Context = name
	cluster, err := flags.connectCluster(a)
	if err != nil {
		return nil, nil, err
	}
	client, err := a.newClient()
	if err != nil {
		return nil, nil, err
	}
	options := site.CompareOptions{Registries: r.registries, WithoutLocks: r.fromCluster, Origins: client, Progress: a.ui.Progress("images")}
	var applied []site.Applied
	if !r.fromCluster {
		runtimes, err := cluster.ReadableRuntimes(ctx, r.cluster.Namespace) // pods of a namespace may be of any
		if err != nil {
			return nil, nil, err
		}
		if len(runtimes) == 0 {
			return nil, nil, fmt.Errorf("compare images on %s: nothing was applied there: pass --from-cluster to list what runs", cluster.Server())
		}
		for _, rt := range runtimes {
			opened, err := a.openApplied(ctx, rt)
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			if err != nil {
				failures = append(failures, fmt.Errorf("read the lock of runtime %s on %s: %w", rt.Name, cluster.Server(), err))
				continue
			}
			applied = append(applied, opened...)
		}
		if len(applied) == 0 {
			return nil, nil, &unreadLocksError{errors.Join(failures...)}
		}
	}
	containers, err := cluster.RunningContainers(ctx, r.cluster.Namespace)
	if err != nil {
		return nil, nil, err
	}
	found, err = site.CompareImages(ctx, containers, applied, options)
	return found, failures, err
}

// openApplied opens the newest revision of a runtime, and the last complete one if that is another: pods of both run.
func (a *app) openApplied(ctx context.Context, rt deploy.RecordedRuntime) (applied []site.Applied, err error) {
	for i, r := range rt.Revisions {
		if i > 0 && r.State != deploy.Complete {
			continue
		}
		if r.Reference == "" {
			return nil, fmt.Errorf("revision %d has no recorded place", r.Number)
		}
		at, err := a.openReference(ctx, r.Reference)
		if err != nil {
			return nil, err
		}
		if at.root.Digest.String() != r.Digest {
			return nil, fmt.Errorf("%s is %s, but revision %d was %s", r.Reference, at.root.Digest, r.Number, r.Digest)
		}
		set, err := bundle.OpenSet(ctx, at.store, at.root)
		if err != nil {
			return nil, err
		}
		applied = append(applied, site.Applied{Set: set, Repository: at.Repository, Store: at.store})
		if r.State == deploy.Complete {
			break
		}
	}
	return applied, nil
}

func describeRunning(one site.RunningImage, cluster string) result.RunningImage {
	r := result.RunningImage{
		Image: one.Image, Digest: one.Digest.String(), Findings: []string{}, Locked: one.Locked.String(), Runtime: one.Runtime, Bundle: one.Bundle,
		Cluster: cluster, Owner: one.Owner, Containers: []result.RunningContainer{},
	}
	if one.Field != "" {
		r.Settle = fmt.Sprintf("%s: [%s]", one.Field, one.Entry)
	}
	for _, finding := range one.Findings {
		r.Findings = append(r.Findings, string(finding))
	}
	for _, c := range one.Containers {
		owners := make([]string, len(c.Owners))
		for i, owner := range c.Owners {
			owners[i] = owner.String()
		}
		r.Containers = append(r.Containers, result.RunningContainer{Namespace: c.Namespace, Pod: c.Pod, Name: c.Name, Kind: c.Kind, Owners: owners})
	}
	return r
}

// writeRunning writes images with what is to be looked at.
func writeRunning(w io.Writer, all []result.RunningImage) {
	for _, one := range all {
		ui.Fprintf(w, "%s\n", one.Image)
		line := func(label, text string) {
			if text != "" {
				ui.Fprintf(w, "  %s\t%s\n", label, text)
			}
		}
		line("found", strings.Join(one.Findings, ", "))
		line("digest", one.Digest)
		line("locked", one.Locked)
		line("cluster", one.Cluster)
		line("owner", cmp.Or(chainOf(one), one.Owner))
		line("bundle", one.Bundle)
		first := one.Containers[0]
		where := fmt.Sprintf("%s %s of pod %s/%s", first.Kind, first.Name, first.Namespace, first.Pod)
		if more := len(one.Containers) - 1; more > 0 {
			where += fmt.Sprintf(" and %d more", more)
		}
		line("runs as", where)
		line("settle", one.Settle)
	}
	if len(all) == 0 {
		ui.Fprintln(w, "all images run as they were locked")
	}
}

// chainOf returns the owners of the first container, as one reads them from the top.
func chainOf(one result.RunningImage) string {
	owners := one.Containers[0].Owners
	names := make([]string, 0, len(owners))
	for i := len(owners) - 1; i >= 0; i-- {
		names = append(names, owners[i])
	}
	return strings.Join(names, " > ")
}
