package render

import (
	"bytes"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Scopes reports of kinds, as KIND.GROUP, that manifests define whether they are in namespaces.
type Scopes map[string]bool

// ScopesOf returns the kinds that CustomResourceDefinitions in files define. What is not YAML defines none.
func ScopesOf(files []bundle.File) Scopes {
	all := Scopes{}
	for _, f := range files {
		if !bytes.Contains(f.Data, []byte("CustomResourceDefinition")) {
			continue
		}
		parsed, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			continue // a template
		}
		all.AddDefined(parsed)
	}
	return all
}

// AddDefined adds the kinds that CustomResourceDefinitions in a file define.
func (s Scopes) AddDefined(file *manifest.File) {
	for _, doc := range file.Documents {
		for _, item := range manifest.ListItems(doc) {
			if spec := manifest.GetValue(item, "spec"); manifest.GetText(item, "kind") == "CustomResourceDefinition" {
				s[manifest.GetText(manifest.GetValue(spec, "names"), "kind")+"."+manifest.GetText(spec, "group")] = manifest.GetText(spec, "scope") == "Namespaced"
			}
		}
	}
}

// ScopeOf reports whether a resource is in a namespace; known is false for a kind that is neither one of
// Kubernetes' own nor defined.
func (s Scopes) ScopeOf(resource *yaml.Node) (namespaced, known bool) {
	apiVersion, kind := manifest.GetText(resource, "apiVersion"), manifest.GetText(resource, "kind")
	if namespaced, known := ScopeOfKind(apiVersion, kind); known {
		return namespaced, true
	}
	group, _, _ := strings.Cut(apiVersion, "/")
	if namespaced, known = newerKinds[kind+"."+group]; known {
		return namespaced, true
	}
	namespaced, known = s[kind+"."+group]
	return namespaced, known
}

// newerKinds are those of Kubernetes' own, as KIND.GROUP, that kustomize's data lacks or has in older
// versions alone, with whether they are in namespaces.
var newerKinds = map[string]bool{
	"CSIStorageCapacity.storage.k8s.io":                           true,
	"DeviceClass.resource.k8s.io":                                 false,
	"FlowSchema.flowcontrol.apiserver.k8s.io":                     false,
	"HorizontalPodAutoscaler.autoscaling":                         true,
	"IPAddress.networking.k8s.io":                                 false,
	"MutatingAdmissionPolicy.admissionregistration.k8s.io":        false,
	"MutatingAdmissionPolicyBinding.admissionregistration.k8s.io": false,
	"PriorityLevelConfiguration.flowcontrol.apiserver.k8s.io":     false,
	"ResourceClaim.resource.k8s.io":                               true,
	"ResourceClaimTemplate.resource.k8s.io":                       true,
	"ResourceSlice.resource.k8s.io":                               false,
	"ServiceCIDR.networking.k8s.io":                               false,
	"VolumeAttributesClass.storage.k8s.io":                        false,
}

// placeFile puts resources that name no namespace into one, as Helm does with those of a release. Unknown
// reports whether there are resources left of whose kind is not known whether it is in namespaces.
func placeFile(f bundle.File, namespace string, scopes Scopes) (placed bundle.File, unknown bool, err error) {
	if !isManifest(f.Path) {
		return f, false, nil
	}
	parsed, err := manifest.Parse(f.Path, f.Data)
	if err != nil {
		return f, false, err
	}
	for _, doc := range parsed.Documents {
		for _, item := range manifest.ListItems(doc) {
			if manifest.GetText(manifest.GetValue(item, "metadata"), "namespace") != "" || isConfig(item) {
				continue
			}
			namespaced, known := scopes.ScopeOf(item)
			unknown = unknown || !known
			if !namespaced {
				continue
			}
			if err := parsed.SetMetadata(item, manifest.Metadata{Namespace: namespace}); err != nil {
				return f, unknown, err
			}
		}
	}
	f.Data = parsed.Bytes()
	return f, unknown, nil
}
