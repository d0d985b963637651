// Package deploy applies runtimes to a cluster and deletes them, with kapp, in process.
//
// Call [Connect] first, then [Cluster.Plan], [Cluster.Apply], [Cluster.Status] or
// [Cluster.Delete]. The manifests must be ready to apply: verified, rendered, and with their
// images' references relocated. This package trusts them.
//
// Each bundle of a runtime becomes one kapp app, "<runtime>.<bundle>", which kapp's own CLI
// lists, inspects and deletes like any other. What kapp does not know (the runtime, the
// layer, the order, version and digest) is in labels and annotations of the app's
// ConfigMap, where any kubectl can read it; what was applied when, and by whom, is in a ConfigMap
// "<runtime>.krtpkg.dev", and the values in Secrets next to it. Change groups, change rules, wait rules and
// whatever else kapp reads from annotations and Config documents stay as the bundle's author
// wrote them; only kapp.k14s.io/deploy-logs has no effect, since kapp would print on the
// standard output of the process.
//
// This package and those below it are the only ones that import kapp or client-go. Types such as [Revision] are defined
// in pkg/deploy/records; programs read them with [Cluster.History], [Cluster.Values] and [Cluster.Runtimes]. What is checked
// before an apply is in pkg/deploy/preflight; [Cluster.Check] and [Cluster.Plan] return its findings.
package deploy

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // a kubeconfig may ask for any of them
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// Config says which cluster, by kubectl's rules: the zero value is the current context of
// the files that KUBECONFIG names, or of ~/.kube/config, or the cluster around this process.
type Config struct {
	// Kubeconfig is the path of the one file to read. Default: kubectl's search.
	Kubeconfig string
	// Context is the context in it. Default: the current one.
	Context string
	// Namespace is where kapp keeps its state and where resources go that name no
	// namespace. It must exist. Default: the context's, or "default".
	Namespace string
	// RetryTimeout is how long a request is sent again that the API server does not answer, or
	// refuses for now. Only a server that has answered once is waited for. Whole seconds make
	// sense. Default: two minutes; less than zero: requests are sent once.
	RetryTimeout time.Duration
	// OnRetry is called every few seconds while the API server does not answer, with the last
	// reason and the time since the last answer. Optional.
	OnRetry func(cause error, failing time.Duration)
}

// Cluster applies to one cluster and one namespace for kapp's state. It may be used by
// several goroutines.
type Cluster struct {
	config    *rest.Config
	client    kubernetes.Interface
	namespace string
	retry     *apiserver.Transport
	// retryTimeout is how long an API server that does not answer is waited for.
	retryTimeout time.Duration
}

// ListContexts returns the contexts of the kubeconfig, sorted; none if it cannot be read.
func ListContexts(cfg Config) []string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = cfg.Kubeconfig
	config, err := rules.Load()
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(config.Contexts))
}

// Connect reads the kubeconfig. It makes no request.
func Connect(cfg Config) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = cfg.Kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: cfg.Context}
	overrides.Context.Namespace = cfg.Namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)

	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, noClusterError(rules)
	}
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	// kapp is bursts of small requests, which the API server knows to queue; client-go's
	// default of 5 a second would slow it to a crawl.
	config.QPS = -1
	config.UserAgent = marks.FieldManager // the API server records it as the owner of fields
	// Without a handler client-go logs warnings on standard error.
	config.WarningHandler = rest.NoWarnings{}
	limit := max(cmp.Or(cfg.RetryTimeout, 2*time.Minute), 0)
	config, retry, err := apiserver.WithRetries(config, limit, cfg.OnRetry)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return &Cluster{config: config, client: client, namespace: namespace, retry: retry, retryTimeout: limit}, nil
}

// noClusterError returns where a cluster was looked for.
func noClusterError(rules *clientcmd.ClientConfigLoadingRules) error {
	files := os.Getenv(clientcmd.RecommendedConfigPathEnvVar)
	switch {
	case rules.ExplicitPath != "":
		return fmt.Errorf("kubeconfig %s: no cluster in it", rules.ExplicitPath)
	case files == "":
		return errors.New("no cluster configured: set KUBECONFIG or create ~/.kube/config")
	}
	for _, file := range filepath.SplitList(files) {
		if _, err := os.Stat(file); err != nil && file != "" {
			return fmt.Errorf("no cluster configured: KUBECONFIG names %s: %w", file, err)
		}
	}
	return fmt.Errorf("no cluster configured: KUBECONFIG names %s, which has none", files)
}

// Server returns the address of the API server.
func (c *Cluster) Server() string { return c.config.Host }

// Namespace returns where kapp keeps its state.
func (c *Cluster) Namespace() string { return c.namespace }

// Runtime is what Apply makes of the cluster.
type Runtime struct {
	// Name, a DNS label, is what later calls find the runtime by.
	Name string
	// Version and Digest are recorded with each bundle. Both may be empty.
	Version, Digest string
	Origin
	// Values are what the manifests were rendered with, as render.Kept.Encode writes them, which "krtpkg values" and
	// rollbacks read. They are kept in a Secret.
	Values []byte
	// Units are the bundles in the order to apply them.
	Units []Unit
}

// Unit is one bundle, to be one kapp app.
type Unit struct {
	// Bundle is its name, a DNS label. It is empty for a bundle that is applied without a
	// runtime: then it is the only unit, and the app is named as the Runtime.
	Bundle string
	// Version and Digest are recorded when it is applied. Both may be empty.
	Version, Digest string
	Layer           int
	// Needs are the bundles of its layer, by name, that must be ready before it. Those of
	// the layers below must be in any case.
	Needs []string
	// Kubernetes is the range of cluster versions that it runs on, as semver has it; "" for any.
	Kubernetes string
	// Hooks are those of a deletion and a rollback.
	Hooks []Hook
	// Namespaces are, by paths of Manifests, where resources belong that name no namespace. Default:
	// that of [Config].
	Namespaces map[string]string
	// Manifests are plain YAML or JSON; all files named *.yaml, *.yml and *.json are read.
	// That there is no resource at all is an error: to kapp it would mean to delete the
	// bundle's resources.
	Manifests fs.FS
}

// Options are how a call tells of itself and how long it waits. The zero value works.
type Options struct {
	// OnEvent is called with what happens, one call at a time. Optional.
	OnEvent func(Event)
	// Parallel is how many bundles are worked on at a time, as far as they are independent.
	// Default: 8.
	Parallel int
	// WaitTimeout is how long kapp waits while nothing of a bundle becomes ready or, in a
	// delete, goes away. For a limit to the whole call give ctx a deadline. Default: 15
	// minutes.
	WaitTimeout time.Duration
	// PollInterval is the longest time between two looks at what is not ready; the first follow each other faster.
	// Default: half a second.
	PollInterval time.Duration
	// LockDuration is the lease duration: how long a lock without renewal blocks
	// others. Whole seconds. Default: 30 seconds.
	LockDuration time.Duration
}

func (o *Options) setDefaults() {
	o.Parallel = cmp.Or(o.Parallel, 8)
	o.WaitTimeout = cmp.Or(o.WaitTimeout, 15*time.Minute)
	o.PollInterval = cmp.Or(o.PollInterval, 500*time.Millisecond)
	o.LockDuration = cmp.Or(o.LockDuration, 30*time.Second)
	if o.OnEvent == nil {
		o.OnEvent = func(Event) {}
	}
}
