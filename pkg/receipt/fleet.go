package receipt

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// The apiVersion and the kind of a fleet file.
const (
	APIVersion = "krtpkg.dev/v1alpha1"
	Kind       = "Fleet"
)

// Fleet is a fleet file: the clusters that receipts are expected of.
type Fleet struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	// Clusters are all of them.
	Clusters []Cluster `yaml:"clusters"`

	file         string
	byName, byID map[string]*Cluster
}

// Cluster is a cluster of a fleet.
type Cluster struct {
	// Name is the name in results. A receipt in a file or a folder of this name must be of this cluster.
	Name string `yaml:"name"`
	// ID is the UID of its namespace kube-system.
	ID string `yaml:"id"`
	// Key is a public key, as PEM or as a file, relative to this one: only it signs receipts of this cluster. Any of
	// the verifier's keys does when empty.
	Key string `yaml:"key,omitempty"`
	// Runtimes are the names of those that it must have; any one when empty.
	Runtimes []string `yaml:"runtimes,omitempty"`

	key *sign.Key
}

// LoadFleet reads a fleet file and the keys that it names.
func LoadFleet(file string) (*Fleet, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	return ParseFleet(file, data, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		return readFile(name)
	})
}

// maxFleetFile is how many bytes a fleet file has, or a key: that of 100,000 clusters.
const maxFleetFile = 16 << 20

// readFile reads a file that is not too large.
func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFleetFile+1))
	if err == nil && len(data) > maxFleetFile {
		err = fmt.Errorf("%s: more than %d bytes", name, maxFleetFile)
	}
	return data, err
}

var clusterName = lazyregexp.New(`^[^\x00-\x1f]{1,253}$`)

// ParseFleet reads a fleet; read reads the files that it names.
func ParseFleet(file string, data []byte, read func(string) ([]byte, error)) (*Fleet, error) {
	f := &Fleet{file: file, byName: map[string]*Cluster{}, byID: map[string]*Cluster{}}
	parsed, err := manifest.ParseStrict(file, data, f)
	if err != nil {
		return nil, err
	}
	root := parsed.Documents[0]
	switch {
	case f.APIVersion != APIVersion:
		return nil, parsed.Errorf(fieldOr(root, "apiVersion"), "apiVersion is %q, want %s", f.APIVersion, APIVersion)
	case f.Kind != Kind:
		return nil, parsed.Errorf(fieldOr(root, "kind"), "kind is %q, want %s", f.Kind, Kind)
	case len(f.Clusters) == 0:
		return nil, parsed.Errorf(fieldOr(root, "clusters"), "clusters is empty")
	}
	for i := range f.Clusters {
		c, at := &f.Clusters[i], fieldOr(root, "clusters").Content[i]
		switch {
		case !clusterName.MatchString(c.Name) || f.byName[c.Name] != nil:
			return nil, parsed.Errorf(fieldOr(at, "name"), "cluster name %q: want each name once", c.Name)
		case !clusterID.MatchString(c.ID):
			return nil, parsed.Errorf(fieldOr(at, "id"), "cluster %s: id is %q, want the UID of its namespace kube-system", c.Name, c.ID)
		case f.byID[c.ID] != nil:
			return nil, parsed.Errorf(fieldOr(at, "id"), "cluster %s has the id of %s", c.Name, f.byID[c.ID].Name)
		}
		f.byName[c.Name], f.byID[c.ID] = c, c
		for j, runtime := range c.Runtimes {
			if !bundleName.MatchString(runtime) || slices.Contains(c.Runtimes[:j], runtime) {
				return nil, parsed.Errorf(fieldOr(at, "runtimes"), "cluster %s: runtime %q: want names of runtimes, each once", c.Name, runtime)
			}
		}
		if c.Key == "" {
			continue
		}
		pem := []byte(c.Key)
		if !strings.Contains(c.Key, "-----BEGIN") {
			pem, err = read(c.Key)
		}
		if err == nil {
			c.key, err = sign.LoadPublicKey(pem)
		}
		if err != nil {
			return nil, parsed.Errorf(fieldOr(at, "key"), "cluster %s: %v", c.Name, err)
		}
	}
	return f, nil
}

// fieldOr returns the value of a field, or the mapping itself if it does not have the field.
func fieldOr(node *yaml.Node, name string) *yaml.Node {
	if value := manifest.GetValue(node, name); value != nil {
		return value
	}
	return node
}

// findID returns the cluster of an id, or nil; f may be nil.
func (f *Fleet) findID(id string) *Cluster {
	if f == nil {
		return nil
	}
	return f.byID[id]
}

// findName returns the cluster of a name, or nil; f may be nil.
func (f *Fleet) findName(name string) *Cluster {
	if f == nil {
		return nil
	}
	return f.byName[name]
}
