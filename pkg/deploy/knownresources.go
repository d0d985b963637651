package deploy

import (
	"sync"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
)

// knownResources answers without a request what a call knows: that nothing is in a namespace which
// does not exist, and what the API server has just answered to the creation of an object.
type knownResources struct {
	kappres.Resources
	// newNamespaces are those that the runtime brings.
	newNamespaces sets.Set[string]
	records       *appRecords // nil in a call that may write

	mu sync.Mutex
	// namespaces are looked up once, until something is written.
	namespaces map[string]func() (bool, error)
	// created are answers that nobody has asked for yet.
	created map[string]kappres.Resource
}

func newKnownResources(asked kappres.Resources, newNamespaces sets.Set[string], records *appRecords) *knownResources {
	return &knownResources{Resources: asked, newNamespaces: newNamespaces, records: records, created: map[string]kappres.Resource{}}
}

// forgetNamespaces forgets what was found out of namespaces.
func (k *knownResources) forgetNamespaces() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.namespaces = map[string]func() (bool, error){}
}

// lacksNamespace reports whether a resource is to be in a namespace that the runtime brings and
// that is not there yet.
func (k *knownResources) lacksNamespace(r kappres.Resource) bool {
	return r.Namespace() != "" && k.isMissing(r.Namespace())
}

// isMissing looks for a namespace that the runtime brings. It reports false for others, and where
// that is not known.
func (k *knownResources) isMissing(namespace string) bool {
	if !k.newNamespaces.Has(namespace) {
		return false
	}
	if exists, known := k.records.hasNamespace(namespace); known {
		return !exists
	}
	k.mu.Lock()
	if k.namespaces == nil { // something has been written
		k.mu.Unlock()
		return false
	}
	exists := k.namespaces[namespace]
	if exists == nil {
		exists = sync.OnceValues(func() (bool, error) {
			_, found, err := k.Resources.Exists(newNamespace(namespace), kappres.ExistsOpts{})
			return found, err
		})
		k.namespaces[namespace] = exists
	}
	k.mu.Unlock()
	found, err := exists()
	return err == nil && !found
}

func newNamespace(name string) kappres.Resource {
	return kappres.NewResourceUnstructured(unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name},
	}}, kappres.ResourceType{
		GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "namespaces"},
		APIResource:          metav1.APIResource{Name: "namespaces", Kind: "Namespace"},
	})
}

func isNamespace(r kappres.Resource) bool { return r.Kind() == "Namespace" && r.APIGroup() == "" }

// Exists returns what kapp asks of each resource that the app does not have yet.
func (k *knownResources) Exists(r kappres.Resource, opts kappres.ExistsOpts) (kappres.Resource, bool, error) {
	if k.lacksNamespace(r) || isNamespace(r) && k.isMissing(r.Name()) {
		return nil, false, nil
	}
	return k.Resources.Exists(r, opts)
}

// Get returns what kapp waits by. Its first look at an object that it has created is the answer to that:
// what nobody must make ready needs no second one.
func (k *knownResources) Get(r kappres.Resource) (kappres.Resource, error) {
	key := kappres.NewUniqueResourceKey(r).String()
	k.mu.Lock()
	answer := k.created[key]
	delete(k.created, key)
	k.mu.Unlock()
	if answer != nil {
		return answer, nil
	}
	return k.Resources.Get(r)
}

// Create keeps the answer.
func (k *knownResources) Create(r kappres.Resource) (kappres.Resource, error) {
	k.markWritten()
	answer, err := k.Resources.Create(r)
	if err == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.created[kappres.NewUniqueResourceKey(answer).String()] = answer.DeepCopy()
	}
	return answer, err
}

// Update forgets what was known.
func (k *knownResources) Update(r kappres.Resource) (kappres.Resource, error) {
	k.markWritten()
	k.forgetResource(r)
	return k.Resources.Update(r)
}

// Delete forgets what was known.
func (k *knownResources) Delete(r kappres.Resource) error {
	k.markWritten()
	k.forgetResource(r)
	return k.Resources.Delete(r)
}

func (k *knownResources) markWritten() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.namespaces = nil
}

func (k *knownResources) forgetResource(r kappres.Resource) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.created, kappres.NewUniqueResourceKey(r).String())
}
