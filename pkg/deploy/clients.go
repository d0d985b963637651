package deploy

import (
	"context"
	"io"

	cmdcore "carvel.dev/kapp/pkg/kapp/cmd/core"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

// configMaps returns where kapp keeps its state.
func (c *Cluster) configMaps() typedcorev1.ConfigMapInterface {
	return c.client.CoreV1().ConfigMaps(c.namespace)
}

// kappClients makes kapp's clients. kapp's own factory would read KAPP_* variables, and list
// all nodes only to print a line about them.
type kappClients struct {
	config   *rest.Config
	warnings rest.WarningHandler
	served   *servedKinds
	records  *appRecords
}

var _ cmdcore.DepsFactory = (*kappClients)(nil)

// newClients returns clients that work until ctx ends. Warnings of the API server go to out. With records they are for
// a call that only looks.
func newClients(ctx context.Context, config *rest.Config, out io.Writer, served *servedKinds, records *appRecords) *kappClients {
	config = apiserver.BindContext(ctx, config)
	warnings := rest.NewWarningWriter(out, rest.WarningWriterOptions{Deduplicate: true})
	return &kappClients{config: config, warnings: warnings, served: served, records: records}
}

func (c *kappClients) DynamicClient(opts cmdcore.DynamicClientOpts) (dynamic.Interface, error) {
	config := rest.CopyConfig(c.config)
	if opts.Warnings {
		config.WarningHandler = c.warnings
	}
	return dynamic.NewForConfig(config)
}

func (c *kappClients) CoreClient() (kubernetes.Interface, error) {
	client, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		return nil, err
	}
	return newRememberingClient(client, c.served, c.records), nil
}

func (c *kappClients) RESTMapper() (meta.RESTMapper, error) {
	client, err := discovery.NewDiscoveryClientForConfig(c.config)
	if err != nil {
		return nil, err
	}
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client)), nil
}

// ConfigureWarnings is for kapp's flag, which no one sets here.
func (c *kappClients) ConfigureWarnings(bool) {}
