// Package mirror writes what the nodes of a site need so that images are pulled, by upstream's
// own names, from a mirror that keeps those names as paths ([krtpkg.dev/krtpkg/pkg/transfer.UpstreamPath]):
// quay.io/jetstack/app:v1 from MIRROR/quay.io/jetstack/app:v1. Call [ConfigFiles].
//
// It also reads lists of what to mirror: [ParseList] and [ListItem.PickTags].
package mirror

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Config is what nodes are to do.
type Config struct {
	// Mirror is the mirror's registry with the path below which it keeps upstream's names.
	Mirror string
	// Registries are upstream's, as references name them: docker.io, quay.io, HOST:PORT.
	Registries []string
	// PlainHTTP speaks HTTP without TLS to the mirror; CAFile, on the nodes, holds the
	// authority of its certificate, if that is not a public one.
	PlainHTTP bool
	CAFile    string
	// Fallback lets nodes ask upstream for what the mirror lacks. Behind an air gap nodes
	// would only wait for that.
	Fallback bool
}

// File is one file of a configuration.
type File struct {
	// Name is the path below the folder where the runtime looks.
	Name string
	Data []byte
}

// Runtimes are what [ConfigFiles] writes for, each with the folder that its files belong into.
var Runtimes = map[string]string{
	"containerd": "/etc/containerd/certs.d",
	"cri-o":      "/etc/containers/registries.conf.d",
	"k3s":        "/etc/rancher/k3s",
	"rke2":       "/etc/rancher/rke2",
	"openshift":  "the cluster, by kubectl apply -f",
}

var (
	// isHost holds for a name or an address, with or without a port.
	isHost = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
	// isMirrorPath holds for what repositories are called (distribution-spec v1.1, pulling manifests).
	isMirrorPath = regexp.MustCompile(`^(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*/?$`)
)

// ConfigFiles returns the configuration for a runtime. Names that are none of registries are errors.
func ConfigFiles(runtime string, c Config) ([]File, error) {
	host, _, _ := strings.Cut(c.Mirror, "/")
	if !isHost.MatchString(host) || !isMirrorPath.MatchString(strings.TrimPrefix(c.Mirror, host)) {
		return nil, fmt.Errorf("mirror %q: want REGISTRY or REGISTRY/PATH", c.Mirror)
	}
	if len(c.Registries) == 0 {
		return nil, fmt.Errorf("no registries to mirror")
	}
	c.Registries = slices.Clone(c.Registries)
	slices.Sort(c.Registries)
	c.Registries = slices.Compact(c.Registries)
	// Their names come from the locks of bundles, and become names of folders on nodes.
	for _, registry := range c.Registries {
		if !isHost.MatchString(registry) {
			return nil, fmt.Errorf("registry %q: want HOST or HOST:PORT", registry)
		}
	}
	switch runtime {
	case "containerd":
		return c.containerdFiles()
	case "cri-o":
		return c.crioFiles()
	case "k3s", "rke2":
		return c.rancherFiles()
	case "openshift":
		return c.openshiftFiles()
	}
	return nil, fmt.Errorf("unknown runtime %q", runtime)
}

// registryPath returns where the mirror keeps a registry's images, without the mirror's host.
func (c Config) registryPath(registry string) string {
	_, path, _ := strings.Cut(c.Mirror, "/")
	return strings.TrimPrefix(path+"/"+strings.ReplaceAll(registry, ":", "_"), "/")
}

func (c Config) mirrorHost() string {
	host, _, _ := strings.Cut(c.Mirror, "/")
	return host
}

func (c Config) mirrorURL() string {
	if c.PlainHTTP {
		return "http://" + c.mirrorHost()
	}
	return "https://" + c.mirrorHost()
}

// hostsFile is containerd's hosts.toml (github.com/containerd/containerd: docs/hosts.md).
type hostsFile struct {
	Server       string               `toml:"server"`
	Capabilities []string             `toml:"capabilities,omitempty"`
	OverridePath bool                 `toml:"override_path,omitempty"`
	CA           string               `toml:"ca,omitempty"`
	Host         map[string]hostTable `toml:"host,omitempty"`
}

type hostTable struct {
	Capabilities []string `toml:"capabilities"`
	OverridePath bool     `toml:"override_path"`
	CA           string   `toml:"ca,omitempty"`
}

// containerdFiles returns a hosts.toml for each registry. Without a fallback the mirror is the server
// itself: containerd asks the server when all hosts have failed.
func (c Config) containerdFiles() (files []File, err error) {
	capabilities := []string{"pull", "resolve"}
	for _, registry := range c.Registries {
		mirror := c.mirrorURL() + "/v2/" + c.registryPath(registry)
		f := hostsFile{Server: mirror, Capabilities: capabilities, OverridePath: true, CA: c.CAFile}
		if c.Fallback {
			upstream := "https://" + registry
			if registry == "docker.io" {
				upstream = "https://registry-1.docker.io"
			}
			f = hostsFile{Server: upstream, Host: map[string]hostTable{mirror: {capabilities, true, c.CAFile}}}
		}
		data, err := encodeTOML(f)
		if err != nil {
			return nil, err
		}
		files = append(files, File{registry + "/hosts.toml", data})
	}
	return files, nil
}

// registriesConf is a drop-in for registries.conf (github.com/containers/image:
// docs/containers-registries.conf.5.md).
type registriesConf struct {
	Registry []registryTable `toml:"registry"`
}

type registryTable struct {
	Prefix   string        `toml:"prefix"`
	Location string        `toml:"location"`
	Insecure bool          `toml:"insecure,omitempty"`
	Mirror   []mirrorTable `toml:"mirror,omitempty"`
}

type mirrorTable struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure,omitempty"`
}

func (c Config) crioFiles() ([]File, error) {
	var conf registriesConf
	for _, registry := range c.Registries {
		at := c.mirrorHost() + "/" + c.registryPath(registry)
		table := registryTable{Prefix: registry, Location: at, Insecure: c.PlainHTTP}
		if c.Fallback {
			table = registryTable{Prefix: registry, Location: registry, Mirror: []mirrorTable{{at, c.PlainHTTP}}}
		}
		conf.Registry = append(conf.Registry, table)
	}
	data, err := encodeTOML(conf)
	if err == nil && c.CAFile != "" {
		data = append(fmt.Appendf(nil, "# The mirror's authority belongs to /etc/containers/certs.d/%s/ca.crt on each node.\n", c.mirrorHost()), data...)
	}
	return []File{{"50-krtpkg-mirror.conf", data}}, err
}

func encodeTOML(value any) ([]byte, error) {
	var out bytes.Buffer
	encoder := toml.NewEncoder(&out)
	encoder.Indent = ""
	err := encoder.Encode(value)
	return out.Bytes(), err
}

// rancherFile is registries.yaml of k3s and RKE2 (docs.k3s.io/installation/private-registry).
type rancherFile struct {
	Mirrors map[string]rancherMirror `yaml:"mirrors"`
	Configs map[string]rancherConfig `yaml:"configs,omitempty"`
}

type rancherMirror struct {
	Endpoint []string          `yaml:"endpoint"`
	Rewrite  map[string]string `yaml:"rewrite"`
}

type rancherConfig struct {
	TLS struct {
		CAFile string `yaml:"ca_file"`
	} `yaml:"tls"`
}

func (c Config) rancherFiles() ([]File, error) {
	file := rancherFile{Mirrors: map[string]rancherMirror{}}
	for _, registry := range c.Registries {
		file.Mirrors[registry] = rancherMirror{[]string{c.mirrorURL()}, map[string]string{"^(.*)$": c.registryPath(registry) + "/$1"}}
	}
	if c.CAFile != "" {
		config := rancherConfig{}
		config.TLS.CAFile = c.CAFile
		file.Configs = map[string]rancherConfig{c.mirrorHost(): config}
	}
	data, err := manifest.EncodeYAML(file)
	if err == nil && !c.Fallback {
		data = append([]byte("# So that nodes ask nobody else: disable-default-registry-endpoint: true in config.yaml.\n"), data...)
	}
	return []File{{"registries.yaml", data}}, err
}

// mirrorSet is OpenShift's (docs.openshift.com: ImageDigestMirrorSet and ImageTagMirrorSet
// [config.openshift.io/v1]).
type mirrorSet struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec map[string][]mirrorRule `yaml:"spec"`
}

type mirrorRule struct {
	Source  string   `yaml:"source"`
	Mirrors []string `yaml:"mirrors"`
	Policy  string   `yaml:"mirrorSourcePolicy"`
}

func (c Config) openshiftFiles() ([]File, error) {
	policy := "NeverContactSource"
	if c.Fallback {
		policy = "AllowContactingSource"
	}
	var rules []mirrorRule
	for _, registry := range c.Registries {
		rules = append(rules, mirrorRule{registry, []string{c.mirrorHost() + "/" + c.registryPath(registry)}, policy})
	}
	var out []byte
	for _, kind := range []struct{ kind, list string }{
		{"ImageDigestMirrorSet", "imageDigestMirrors"}, {"ImageTagMirrorSet", "imageTagMirrors"},
	} {
		set := mirrorSet{APIVersion: "config.openshift.io/v1", Kind: kind.kind, Spec: map[string][]mirrorRule{kind.list: rules}}
		set.Metadata.Name = "krtpkg"
		data, err := manifest.EncodeYAML(set)
		if err != nil {
			return nil, err
		}
		out = append(append(out, "---\n"...), data...)
	}
	return []File{{"mirrors.yaml", out}}, nil
}
