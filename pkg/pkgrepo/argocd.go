package pkgrepo

import (
	_ "embed"
	"net/url"
	"path"
	"slices"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// applications is the template of the chart in a runtime that makes an Application of each bundle.
//
//go:embed applications.yaml
var applications string

// ArgoCDFiles returns the files below argocd/ of a runtime: a chart that makes an Application of each
// bundle, by the digest of its second manifest, in waves by which those that it stands on come
// before it. Bundles that Argo CD cannot apply are left out, and returned with the reason.
func ArgoCDFiles(runtime *bundle.RuntimeLock, bundles []Bundle) ([]bundle.File, []LeftOut, error) {
	contents, err := readAllPlain(bundles)
	if err != nil {
		return nil, nil, err
	}
	return argoCDFiles(runtime, contents)
}

func argoCDFiles(runtime *bundle.RuntimeLock, contents []plainContent) ([]bundle.File, []LeftOut, error) {
	plain, left, err := selectPlain(runtime, contents, func(c *plainContent) string { return c.argoCDReason })
	if err != nil || len(plain) == 0 {
		return nil, left, err
	}
	var all struct {
		Bundles []argoBundle `yaml:"bundles"`
	}
	waves := map[string]int{}
	for _, b := range plain {
		desc, _, err := bundle.ForArgoCD(b.Manifest)
		if err != nil {
			return nil, nil, err
		}
		one := argoBundle{Name: b.Metadata().Name, Revision: desc.Digest.String(), Patches: slices.Concat(b.patches, b.argoCDHooks)}
		for _, other := range b.needs { // which come before it
			one.Wave = max(one.Wave, waves[other]+1)
		}
		waves[one.Name] = one.Wave
		all.Bundles = append(all.Bundles, one)
	}
	m := runtime.Metadata
	chart := argoChart{"v2", m.Name, m.Version, "The Applications of a runtime's bundles"}
	values := argoValues{Repository: siteRepository, Project: argoProject, Server: argoServer}
	var files []bundle.File
	for _, f := range []struct {
		name  string
		value any
	}{{"Chart.yaml", chart}, {"bundles.yaml", all}, {"values.yaml", values}} {
		data, err := manifest.EncodeYAML(f.value)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, bundle.File{Path: path.Join(bundle.ArgoCDDir, f.name), Data: data})
	}
	return append(files, bundle.File{Path: path.Join(bundle.ArgoCDDir, "templates/applications.yaml"), Data: []byte(applications)}), left, nil
}

// argoCDHooks make hooks of the Jobs of a bundle that delete themselves when they are done: Argo CD would
// make them again for ever (argo-cd.readthedocs.io/en/stable/user-guide/resource_hooks).
func argoCDHooks(files []*manifest.File) (hooks []patch, err error) {
	for job := range allResources(files) {
		if manifest.GetText(job, "kind") != "Job" || manifest.GetValue(manifest.GetValue(job, "spec"), "ttlSecondsAfterFinished") == nil {
			continue
		}
		if manifest.GetText(manifest.GetValue(manifest.GetValue(job, "metadata"), "annotations"), bundle.HookAnnotation) != "" {
			continue // one of Helm, which Argo CD knows
		}
		add := []patchOperation{{"add", "/metadata/annotations", map[string]string{argoHook: "Sync"}}}
		if there := manifest.GetValue(manifest.GetValue(job, "metadata"), "annotations"); there != nil && len(there.Content) > 0 {
			add = []patchOperation{{"add", "/metadata/annotations/" + escape.Replace(argoHook), "Sync"}}
		}
		text, err := encodeCompact(add)
		if err != nil {
			return nil, err
		}
		hooks = append(hooks, patch{targetOf(job), text})
	}
	return hooks, err
}

const argoHook = "argocd.argoproj.io/hook"

// What a site has that says nothing else.
const (
	argoProject = "default"
	argoServer  = "https://kubernetes.default.svc"
)

type argoChart struct {
	APIVersion  string `yaml:"apiVersion"`
	Name        string `yaml:"name"`
	Version     string `yaml:"version"`
	Description string `yaml:"description"`
}

type argoBundle struct {
	Name     string  `yaml:"name"`
	Wave     int     `yaml:"wave"`
	Revision string  `yaml:"revision"`
	Patches  []patch `yaml:"patches,omitempty"`
}

// argoValues are the values of the chart.
type argoValues struct {
	// Repository is that of the runtime at the site, registry/repository.
	Repository string `yaml:"repository"`
	// Project is the project of the Applications.
	Project string `yaml:"project"`
	// Server is the API server of the cluster, as Argo CD knows it.
	Server string `yaml:"server"`
}

// ArgoCDSite says how Argo CD installs a runtime.
type ArgoCDSite struct {
	// Repository is that of the runtime at the site, registry/repository.
	Repository string
	// Revision is the second manifest of the runtime there, by digest or by tag.
	Revision string
	// Namespace is that of Argo CD.
	Namespace string
	// Project is the project of the Applications, and Server the API server of the cluster.
	Project, Server string
	// Insecure says that the registry speaks HTTP.
	Insecure bool
}

// ArgoCDDocuments returns the manifests that make Argo CD install a runtime: an Application of the chart
// that lies in it.
func ArgoCDDocuments(runtime *bundle.RuntimeLock, site ArgoCDSite) []Document {
	name := runtime.Metadata.Name
	app := apiResource[argoSpec]{"argoproj.io/v1alpha1", "Application", objectMeta{Name: name, Namespace: site.Namespace}, argoSpec{
		Project: site.Project, Destination: argoDestination{argoServer, site.Namespace},
		Source: argoSource{
			RepoURL: "oci://" + site.Repository, TargetRevision: site.Revision, Path: bundle.ArgoCDDir,
			Helm: argoHelm{argoValues{site.Repository, site.Project, site.Server}},
		},
	}}
	app.Metadata.Finalizers = []string{"resources-finalizer.argocd.argoproj.io"}
	app.Spec.SyncPolicy.Automated.Prune, app.Spec.SyncPolicy.Automated.SelfHeal = true, true
	// A bundle that is degraded for a moment, as it starts, is no reason to give up.
	app.Spec.SyncPolicy.Retry.Limit = -1
	app.Spec.SyncPolicy.Retry.Backoff = argoBackoff{"10s", 2, "1m"}
	resources := []any{app}
	if site.Insecure {
		resources = append([]any{secretResource{
			"v1", "Secret", objectMeta{Name: name + "-repository", Namespace: site.Namespace, Labels: map[string]string{"argocd.argoproj.io/secret-type": "repository"}},
			map[string]string{"type": "oci", "url": app.Spec.Source.RepoURL, "insecureOCIForceHttp": "true"},
		}}, resources...)
	}
	return []Document{{Name: name + "-argocd.yaml", Resources: resources}}
}

// ArgoCDConfig returns the part of the configuration of Argo CD by which an Application is as healthy as
// what it applies, without which no wave waits for the one before
// (argo-cd.readthedocs.io/en/stable/operator-manual/health/#argocd-app).
func ArgoCDConfig(namespace string) any {
	return configMapResource{"v1", "ConfigMap", objectMeta{Name: "argocd-cm", Namespace: namespace, Labels: map[string]string{"app.kubernetes.io/part-of": "argocd"}}, map[string]string{
		"resource.customizations.health.argoproj.io_Application": argoHealth,
	}}
}

// ArgoCDAuthorities returns the configuration of Argo CD with the certificate authorities, in PEM, of the
// registry HOST[:PORT]; it knows them by the host alone
// (argo-cd.readthedocs.io/en/stable/operator-manual/declarative-setup/#repositories-using-self-signed-tls-certificates-or-are-signed-by-custom-ca).
func ArgoCDAuthorities(namespace, registry, authorities string) any {
	host := (&url.URL{Host: registry}).Hostname()
	return configMapResource{"v1", "ConfigMap", objectMeta{Name: "argocd-tls-certs-cm", Namespace: namespace, Labels: map[string]string{"app.kubernetes.io/part-of": "argocd"}}, map[string]string{host: authorities}}
}

type configMapResource struct {
	APIVersion string            `yaml:"apiVersion"`
	Kind       string            `yaml:"kind"`
	Metadata   objectMeta        `yaml:"metadata"`
	Data       map[string]string `yaml:"data"`
}

const argoHealth = `hs = {}
hs.status = "Progressing"
hs.message = ""
if obj.status ~= nil then
  if obj.status.health ~= nil then
    hs.status = obj.status.health.status
    if obj.status.health.message ~= nil then
      hs.message = obj.status.health.message
    end
  end
end
return hs
`

type argoSpec struct {
	Project     string          `yaml:"project"`
	Destination argoDestination `yaml:"destination"`
	Source      argoSource      `yaml:"source"`
	SyncPolicy  struct {
		Automated struct {
			Prune    bool `yaml:"prune"`
			SelfHeal bool `yaml:"selfHeal"`
		} `yaml:"automated"`
		Retry struct {
			Limit   int         `yaml:"limit"` // none where it is negative
			Backoff argoBackoff `yaml:"backoff"`
		} `yaml:"retry"`
	} `yaml:"syncPolicy"`
}

type argoBackoff struct {
	Duration    string `yaml:"duration"`
	Factor      int    `yaml:"factor"`
	MaxDuration string `yaml:"maxDuration"`
}

type argoDestination struct {
	Server    string `yaml:"server"`
	Namespace string `yaml:"namespace"`
}

type argoSource struct {
	RepoURL        string   `yaml:"repoURL"`
	TargetRevision string   `yaml:"targetRevision"`
	Path           string   `yaml:"path"`
	Helm           argoHelm `yaml:"helm"`
}

type argoHelm struct {
	Values argoValues `yaml:"valuesObject"`
}
