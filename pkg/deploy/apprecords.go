package deploy

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// appRecords are the ConfigMaps in which kapp keeps its state, and the namespaces, as they were when a session began: for
// calls that only look, so that these ask for none of them again.
type appRecords struct {
	// found are those of the runtime's apps, by name.
	found map[string]*corev1.ConfigMap
	// names are those of all ConfigMaps in the namespace; nil if there are too many to list.
	names sets.Set[string]
	// namespaces returns the names of all namespaces, or nil if they are not known. Optional.
	namespaces func() sets.Set[string]
}

func newAppRecords(installed []Installed) *appRecords {
	r := &appRecords{found: make(map[string]*corev1.ConfigMap, len(installed))}
	for _, i := range installed {
		r.found[i.configMap] = i.record
	}
	return r
}

// find returns a ConfigMap, or nil if it does not exist. It reports false if the names could not be listed.
func (r *appRecords) find(name string) (*corev1.ConfigMap, bool) {
	if r == nil {
		return nil, false
	}
	if found := r.found[name]; found != nil {
		return found.DeepCopy(), true
	}
	return nil, r.names != nil && !r.names.Has(name)
}

// hasNamespace reports whether there is a namespace, and whether that is known.
func (r *appRecords) hasNamespace(name string) (exists, known bool) {
	if r == nil || r.namespaces == nil {
		return false, false
	}
	names := r.namespaces()
	return names.Has(name), names != nil
}

// listNamesOf returns the names of the objects of a kind in a namespace, or nil if there are more than a few requests
// can list.
func (c *Cluster) listNamesOf(ctx context.Context, plural, namespace string) (sets.Set[string], error) {
	client, err := metadata.NewForConfig(c.config)
	if err != nil {
		return nil, err
	}
	objects := client.Resource(corev1.SchemeGroupVersion.WithResource(plural)).Namespace(namespace)
	all, complete, err := listPages(ctx, objects, metav1.ListOptions{}, namePages)
	if err != nil {
		return nil, fmt.Errorf("list %s in namespace %q: %w", plural, namespace, err)
	}
	if !complete {
		return nil, nil
	}
	names := sets.New[string]()
	for _, one := range all {
		names.Insert(one.Name)
	}
	return names, nil
}

// namePages is how many pages of names are read. Where there are more, each name is asked for.
const namePages = 2

// shareNamespaces has calls that only look share one list of all namespaces, if they would ask for more than a few that
// the runtime brings. Who may not list them asks for each.
func (e *engine) shareNamespaces(ctx context.Context) {
	if e.records == nil || e.claims.newNamespaces().Len() <= preflight.FewNamespaces {
		return
	}
	e.records.namespaces = sync.OnceValue(func() sets.Set[string] {
		names, err := e.cluster.listNamesOf(ctx, "namespaces", metav1.NamespaceAll)
		if err != nil {
			return nil
		}
		return names
	})
}

// rememberingClient answers the first question for what is served from memory, and those that
// come after it, which kapp asks when it misses something, from the server.
// It does not ask again for a ConfigMap that is not there, nor for what is known from before.
type rememberingClient struct {
	kubernetes.Interface
	discovery *rememberingDiscovery
	core      rememberingCore
}

func newRememberingClient(client kubernetes.Interface, s *servedKinds, records *appRecords) kubernetes.Interface {
	return &rememberingClient{
		client, &rememberingDiscovery{DiscoveryInterfaces: client.Discovery(), served: s},
		rememberingCore{client.CoreV1(), &missingNames{}, records},
	}
}

// CoreV1 is for ConfigMaps, in which kapp keeps its state.
func (c *rememberingClient) CoreV1() typedcorev1.CoreV1Interface { return c.core }

func (c *rememberingClient) Discovery() discovery.DiscoveryInterfaces { return c.discovery }

// missingNames are ConfigMaps that a call has not found: kapp looks for an app under two names, at
// each step again.
type missingNames struct {
	mu    sync.Mutex
	names sets.Set[string]
}

func (m *missingNames) hasName(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names.Has(name)
}

func (m *missingNames) addName(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names == nil {
		m.names = sets.New[string]()
	}
	m.names.Insert(name)
}

func (m *missingNames) forgetNames() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names = nil
}

type rememberingCore struct {
	typedcorev1.CoreV1Interface
	missing *missingNames
	records *appRecords // nil in a call that may write
}

// ConfigMaps returns a client that does not ask twice for what is not there.
func (c rememberingCore) ConfigMaps(namespace string) typedcorev1.ConfigMapInterface {
	return rememberingConfigMaps{c.CoreV1Interface.ConfigMaps(namespace), namespace, c.missing, c.records}
}

type rememberingConfigMaps struct {
	typedcorev1.ConfigMapInterface
	namespace string
	missing   *missingNames
	records   *appRecords
}

func (c rememberingConfigMaps) Get(ctx context.Context, name string, opts metav1.GetOptions) (*corev1.ConfigMap, error) {
	key := c.namespace + "/" + name
	found, known := c.records.find(name) // kapp asks in the namespace of its apps alone
	if found != nil {
		return found, nil
	}
	if known || c.missing.hasName(key) {
		return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), name)
	}
	found, err := c.ConfigMapInterface.Get(ctx, name, opts)
	if apierrors.IsNotFound(err) {
		c.missing.addName(key)
	}
	return found, err
}

// List lists kapp's apps, but for those of all namespaces: kapp looks there, once for each app that is not there yet, for
// a hint in a message that is not shown.
func (c rememberingConfigMaps) List(ctx context.Context, opts metav1.ListOptions) (*corev1.ConfigMapList, error) {
	if c.namespace == metav1.NamespaceAll {
		return &corev1.ConfigMapList{}, nil
	}
	return c.ConfigMapInterface.List(ctx, opts)
}

func (c rememberingConfigMaps) Create(ctx context.Context, configMap *corev1.ConfigMap, opts metav1.CreateOptions) (*corev1.ConfigMap, error) {
	c.missing.forgetNames()
	return c.ConfigMapInterface.Create(ctx, configMap, opts)
}
