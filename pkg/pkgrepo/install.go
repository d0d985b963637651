package pkgrepo

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Site says how a cluster consumes a runtime.
type Site struct {
	// Reference is the runtime by digest, where the site has it: registry/repository@sha256:….
	Reference string
	// Namespace is that of the repository and of what is installed from it.
	Namespace string
	// SyncPeriod is how often the controller looks again, as Go writes durations; its own
	// default where it is empty.
	SyncPeriod string
	// PullSecret is the name of a Secret with the login of the registry; "" for none.
	PullSecret string
	// Constraints are the versions of each package that may be installed; exactly that of the
	// runtime where it is empty.
	Constraints string
	// Downgradable lets a package go back to an older version.
	Downgradable bool
}

// Install is a bundle to install.
type Install struct {
	*bundle.Bundle
	// Values are those of the site for this bundle; nil for none.
	Values *yaml.Node
	// Account is the name of the service account that deploys it.
	Account string
	// DefaultNamespace is where resources go that name no namespace; "" for that of the install.
	DefaultNamespace string
	// Access are the resources that make the account and what it may do.
	Access []*yaml.Node
}

// Document is a file of manifests.
type Document struct {
	Name string
	// Bundle is the name of the one that it installs; "" where it is for all.
	Bundle string
	// Resources are resources that yaml can write.
	Resources []any
}

// Encode returns the resources as YAML documents.
func (d Document) Encode() ([]byte, error) { return manifest.EncodeDocuments(d.Resources...) }

// The annotations of kapp by which it orders what it applies, and what it waits for.
const (
	changeGroup = "kapp.k14s.io/change-group"
	changeRule  = "kapp.k14s.io/change-rule"
)

// InstallDocuments returns the manifests that make kapp-controller install a runtime: a PackageRepository, and
// for each bundle, in the order to apply them, a PackageInstall with its values and its service
// account. Applied by kapp, or as one App, each waits for what it stands on; applied by anything
// else, what fails because something is not there yet is tried again by the controller.
func InstallDocuments(runtime *bundle.RuntimeLock, bundles []Install, site Site) ([]Document, error) {
	name := runtime.Metadata.Name
	documents := []Document{RepositoryDocument(name, site)}
	alone := make([]*bundle.Bundle, len(bundles))
	for i, b := range bundles {
		alone[i] = b.Bundle
	}
	needs, err := waitLists(runtime, alone)
	if err != nil {
		return nil, err
	}
	for i, b := range bundles {
		document := Document{Name: fmt.Sprintf("%02d-%s.yaml", i+1, b.Metadata.Name), Bundle: b.Metadata.Name}
		for _, node := range b.Access {
			addAnnotation(node, changeGroup, changeGroupName(name, b.Metadata.Name+"-access"))
			document.Resources = append(document.Resources, node)
		}
		install := apiResource[installSpec]{installVersion, "PackageInstall", objectMeta{Name: name + "." + b.Metadata.Name, Namespace: site.Namespace}, installSpec{
			ServiceAccountName: b.Account, SyncPeriod: site.SyncPeriod, DefaultNamespace: b.DefaultNamespace,
		}}
		install.Spec.PackageRef.RefName = RefName(b.Metadata.Name, name)
		install.Spec.PackageRef.VersionSelection.Constraints = cmp.Or(site.Constraints, b.Metadata.Version)
		if strings.Contains(b.Metadata.Version, "-") {
			install.Spec.PackageRef.VersionSelection.Prereleases = &struct{}{}
		}
		rules := []string{changeGroupName(name, "repository"), changeGroupName(name, b.Metadata.Name+"-access")}
		for _, other := range needs[i] {
			rules = append(rules, changeGroupName(name, other))
		}
		install.Metadata.Annotations = map[string]string{changeGroup: changeGroupName(name, b.Metadata.Name)}
		for k, rule := range rules {
			install.Metadata.Annotations[fmt.Sprintf("%s.after-%d", changeRule, k)] = "upsert after upserting " + rule
			install.Metadata.Annotations[fmt.Sprintf("%s.before-%d", changeRule, k)] = "delete before deleting " + rule
		}
		if site.Downgradable {
			install.Metadata.Annotations["packaging.carvel.dev/downgradable"] = ""
		}
		if site.PullSecret != "" {
			install.Metadata.Annotations["ext.packaging.carvel.dev/fetch-0-secret-name"] = site.PullSecret
		}
		if b.Values != nil {
			text, err := manifest.EncodeYAML(b.Values)
			if err != nil {
				return nil, err
			}
			secret := secretResource{"v1", "Secret", objectMeta{Name: name + "-" + b.Metadata.Name + "-values", Namespace: site.Namespace}, map[string]string{ownValues: string(text)}}
			secret.Metadata.Annotations = map[string]string{changeGroup: changeGroupName(name, b.Metadata.Name+"-access")}
			document.Resources = append(document.Resources, secret)
			install.Spec.Values = []valuesFrom{{secretRef{secret.Metadata.Name}}}
		}
		document.Resources = append(document.Resources, install)
		documents = append(documents, document)
	}
	return documents, nil
}

// RepositoryDocument returns the PackageRepository of a runtime, or of a catalogue of its versions.
func RepositoryDocument(name string, site Site) Document {
	repository := apiResource[repositorySpec]{installVersion, "PackageRepository", objectMeta{Name: name, Namespace: site.Namespace}, repositorySpec{SyncPeriod: site.SyncPeriod}}
	repository.Metadata.Annotations = map[string]string{changeGroup: changeGroupName(name, "repository")}
	repository.Spec.Fetch.ImgpkgBundle.Image = site.Reference
	if site.PullSecret != "" {
		repository.Spec.Fetch.ImgpkgBundle.SecretRef = &secretRef{site.PullSecret}
	}
	return Document{Name: "00-repository.yaml", Resources: []any{repository}}
}

// changeGroupName names a change group of kapp.
func changeGroupName(runtime, what string) string { return runtime + "." + domain + "/" + what }

// waitLists returns the names of those that each bundle waits for: of the nearest layer below that has
// any, since these wait in turn, and of its own what it requires.
func waitLists(runtime *bundle.RuntimeLock, bundles []*bundle.Bundle) ([][]string, error) {
	components := make([]layers.Component, len(bundles))
	for i, b := range bundles {
		components[i] = b.Component()
	}
	provided := slices.Clone(runtime.Provided)
	for _, b := range runtime.Bundles { // also what is not a package
		provided = append(append(provided, b.Name), b.Provides...)
	}
	needs, err := layers.RequiredIndexes(components, provided...)
	if err != nil {
		return nil, err
	}
	all := make([][]string, len(bundles))
	for i, b := range bundles {
		below := -1
		for _, other := range bundles {
			if other.Spec.Layer < b.Spec.Layer {
				below = max(below, other.Spec.Layer)
			}
		}
		for k, other := range bundles {
			if other.Spec.Layer == below || other.Spec.Layer == b.Spec.Layer && slices.Contains(needs[i], k) {
				all[i] = append(all[i], other.Metadata.Name)
			}
		}
	}
	return all, nil
}

// addAnnotation adds an annotation to a resource.
func addAnnotation(resource *yaml.Node, key, value string) {
	metadata := ensureMapping(ensureMapping(resource, "metadata"), "annotations")
	metadata.Content = append(metadata.Content, textNode(key), textNode(value))
}

// ensureMapping returns a mapping in a mapping, made where it is not there.
func ensureMapping(in *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(in.Content); i += 2 {
		if in.Content[i].Value == key {
			return in.Content[i+1]
		}
	}
	made := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	in.Content = append(in.Content, textNode(key), made)
	return made
}

func textNode(value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
}

// installVersion is the API version of what a cluster is given.
const installVersion = "packaging.carvel.dev/v1alpha1"

type secretRef struct {
	Name string `yaml:"name"`
}

type repositorySpec struct {
	SyncPeriod string `yaml:"syncPeriod,omitempty"`
	Fetch      struct {
		ImgpkgBundle struct {
			Image     string     `yaml:"image"`
			SecretRef *secretRef `yaml:"secretRef,omitempty"`
		} `yaml:"imgpkgBundle"`
	} `yaml:"fetch"`
}

type installSpec struct {
	ServiceAccountName string `yaml:"serviceAccountName"`
	SyncPeriod         string `yaml:"syncPeriod,omitempty"`
	DefaultNamespace   string `yaml:"defaultNamespace,omitempty"`
	PackageRef         struct {
		RefName          string `yaml:"refName"`
		VersionSelection struct {
			Constraints string    `yaml:"constraints"`
			Prereleases *struct{} `yaml:"prereleases,omitempty"`
		} `yaml:"versionSelection"`
	} `yaml:"packageRef"`
	Values []valuesFrom `yaml:"values,omitempty"`
}

type valuesFrom struct {
	SecretRef secretRef `yaml:"secretRef"`
}

type secretResource struct {
	APIVersion string            `yaml:"apiVersion"`
	Kind       string            `yaml:"kind"`
	Metadata   objectMeta        `yaml:"metadata"`
	StringData map[string]string `yaml:"stringData"`
}

// ControllerConfig is kapp-controller's own configuration with the certificate authorities of a registry, in
// PEM. It is one for the whole controller.
func ControllerConfig(authorities string) any {
	return secretResource{"v1", "Secret", objectMeta{Name: "kapp-controller-config", Namespace: "kapp-controller"}, map[string]string{"caCerts": authorities}}
}
