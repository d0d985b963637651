package pkgrepo

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// The API versions of Flux, as of its 2.6.
const (
	fluxSource    = "source.toolkit.fluxcd.io/v1"
	fluxKustomize = "kustomize.toolkit.fluxcd.io/v1"
)

// fluxRepository is the variable of the site's repository, which Flux puts in
// (fluxcd.io/flux/components/kustomize/kustomizations/#post-build-variable-substitution).
const fluxRepository = "repository"

// What Flux takes for a time in which a bundle is there, or it is a failure.
const fluxTimeout = "10m"

// FluxFiles returns the files below flux/ of a runtime: of each bundle an OCIRepository, by its digest, and
// a Kustomization that applies it when those that it stands on are ready. Bundles that Flux cannot
// apply are left out, and returned with the reason.
func FluxFiles(runtime *bundle.RuntimeLock, bundles []Bundle) ([]bundle.File, []LeftOut, error) {
	contents, err := readAllPlain(bundles)
	if err != nil {
		return nil, nil, err
	}
	return fluxFiles(runtime, contents)
}

func fluxFiles(runtime *bundle.RuntimeLock, contents []plainContent) ([]bundle.File, []LeftOut, error) {
	plain, left, err := selectPlain(runtime, contents, func(c *plainContent) string { return c.fluxReason })
	if err != nil {
		return nil, nil, err
	}
	var files []bundle.File
	last := map[string]string{} // by names of bundles, the Kustomization after which all of one is there
	for _, b := range plain {
		name := fluxName(runtime, b.Metadata().Name)
		source := apiResource[fluxSourceSpec]{fluxSource, "OCIRepository", objectMeta{Name: name}, fluxSourceSpec{
			Interval: "1h", URL: "oci://${" + fluxRepository + "}", Ref: map[string]string{"digest": b.Image.DigestStr()},
		}}
		documents := []any{source}
		var after []nameReference
		for _, other := range b.needs {
			after = append(after, nameReference{last[other]})
		}
		for _, stage := range b.fluxStages {
			apply := apiResource[fluxKustomizeSpec]{fluxKustomize, "Kustomization", objectMeta{Name: name + stage.suffix}, fluxKustomizeSpec{
				Interval: "10m", RetryInterval: "1m", Timeout: fluxTimeout, Path: "./", Prune: true, Wait: true, Force: len(stage.hooks) > 0,
				SourceRef: fluxReference{"OCIRepository", name}, DependsOn: after,
			}}
			own, err := stage.stagePatches(b.fluxStages)
			if err != nil {
				return nil, nil, err
			}
			for _, p := range slices.Concat(own, b.patches) {
				// Whatever else has a dollar stays as it is.
				p.Patch = strings.ReplaceAll(strings.ReplaceAll(p.Patch, "$", "$$"), siteRepository, "${"+fluxRepository+"}")
				apply.Spec.Patches = append(apply.Spec.Patches, p)
			}
			documents = append(documents, apply)
			last[b.Metadata().Name], after = apply.Metadata.Name, []nameReference{{apply.Metadata.Name}}
		}
		data, err := encodeDocuments(documents...)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, bundle.File{Path: path.Join(bundle.FluxDir, b.Metadata().Name+".yaml"), Data: data})
	}
	return files, left, nil
}

func fluxName(runtime *bundle.RuntimeLock, bundle string) string {
	return runtime.Metadata.Name + "." + bundle
}

// FluxSite says how a cluster with Flux consumes a runtime.
type FluxSite struct {
	// Repository is that of the runtime at the site, registry/repository.
	Repository string
	// Ref is what of it: {digest: sha256:…}, {tag: …} or {semver: …}.
	Ref map[string]string
	// Namespace is that of Flux's resources.
	Namespace string
	// Interval is how often Flux looks whether a tag has moved, as Go writes durations.
	Interval string
	// PullSecret is the name of a Secret with the login of the registry; "" for none.
	PullSecret string
	// Authorities are certificate authorities of the registry, in PEM; "" for those of the image
	// of Flux.
	Authorities string
	// Insecure says that the registry speaks HTTP.
	Insecure bool
	// Keys are public keys in PEM, Identities are the identities in certificates of Sigstore. One key or identity
	// must have signed. With neither, Flux verifies nothing.
	Keys       []string
	Identities []FluxIdentity
	// TrustedRoot is that of Sigstore which issues the certificates, as JSON.
	TrustedRoot string
}

// FluxIdentity holds regular expressions for the issuer and the subject of a certificate.
type FluxIdentity struct {
	Issuer  string `yaml:"issuer"`
	Subject string `yaml:"subject"`
}

// FluxDocuments returns the manifests that make Flux install a runtime: an OCIRepository that verifies
// it, and a Kustomization over what lies in it for Flux.
func FluxDocuments(runtime *bundle.RuntimeLock, site FluxSite) []Document {
	name := runtime.Metadata.Name
	meta := objectMeta{Name: name, Namespace: site.Namespace}
	var secrets []any
	source := apiResource[fluxSourceSpec]{fluxSource, "OCIRepository", meta, fluxSourceSpec{
		Interval: site.Interval, URL: "oci://" + site.Repository, Ref: site.Ref, Insecure: site.Insecure,
	}}
	// What the runtime's registry needs, those of its bundles need as well.
	var each []patchOperation
	add := func(path string, value any) { each = append(each, patchOperation{"add", "/spec/" + path, value}) }
	if site.Insecure {
		add("insecure", true)
	}
	if site.PullSecret != "" {
		source.Spec.SecretRef = &nameReference{site.PullSecret}
		add("secretRef", source.Spec.SecretRef)
	}
	if site.Authorities != "" {
		secret := secretResource{"v1", "Secret", objectMeta{Name: name + "-registry", Namespace: site.Namespace}, map[string]string{"ca.crt": site.Authorities}}
		secrets = append(secrets, secret)
		source.Spec.CertSecretRef = &nameReference{secret.Metadata.Name}
		add("certSecretRef", source.Spec.CertSecretRef)
	}
	if len(site.Keys)+len(site.Identities) > 0 {
		source.Spec.Verify = &fluxVerify{Provider: "cosign", Identities: site.Identities}
	}
	if len(site.Keys) > 0 {
		secret := secretResource{"v1", "Secret", objectMeta{Name: name + "-signers", Namespace: site.Namespace}, map[string]string{}}
		for i, key := range site.Keys {
			secret.StringData[fmt.Sprintf("key-%d.pub", i+1)] = key
		}
		secrets = append(secrets, secret)
		source.Spec.Verify.SecretRef = &nameReference{secret.Metadata.Name}
	}
	if site.TrustedRoot != "" && len(site.Identities) > 0 {
		secret := secretResource{"v1", "Secret", objectMeta{Name: name + "-sigstore", Namespace: site.Namespace}, map[string]string{"trusted_root.json": site.TrustedRoot}}
		secrets = append(secrets, secret)
		source.Spec.Verify.TrustedRoot = &nameReference{secret.Metadata.Name}
	}
	apply := apiResource[fluxKustomizeSpec]{fluxKustomize, "Kustomization", meta, fluxKustomizeSpec{
		Interval: site.Interval, RetryInterval: "1m", Timeout: fluxTimeout, Path: "./" + bundle.FluxDir, Prune: true, Wait: true,
		SourceRef: fluxReference{"OCIRepository", name}, TargetNamespace: site.Namespace,
		PostBuild: &fluxPostBuild{map[string]string{fluxRepository: site.Repository}},
	}}
	if len(each) > 0 {
		text, _ := encodeCompact(each) // strings and booleans
		apply.Spec.Patches = []patch{{patchTarget{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "OCIRepository"}, text}}
	}
	return []Document{{Name: name + "-flux.yaml", Resources: append(secrets, source, apply)}}
}

type nameReference struct {
	Name string `yaml:"name" json:"name"`
}

type fluxReference struct {
	Kind string `yaml:"kind"`
	Name string `yaml:"name"`
}

type fluxSourceSpec struct {
	Interval      string            `yaml:"interval"`
	URL           string            `yaml:"url"`
	Ref           map[string]string `yaml:"ref"`
	SecretRef     *nameReference    `yaml:"secretRef,omitempty"`
	CertSecretRef *nameReference    `yaml:"certSecretRef,omitempty"`
	Insecure      bool              `yaml:"insecure,omitempty"`
	Verify        *fluxVerify       `yaml:"verify,omitempty"`
}

type fluxVerify struct {
	Provider   string         `yaml:"provider"`
	SecretRef  *nameReference `yaml:"secretRef,omitempty"`
	Identities []FluxIdentity `yaml:"matchOIDCIdentity,omitempty"`
	// TrustedRoot is there since Flux 2.8.
	TrustedRoot *nameReference `yaml:"trustedRootSecretRef,omitempty"`
}

type fluxKustomizeSpec struct {
	Interval        string          `yaml:"interval"`
	RetryInterval   string          `yaml:"retryInterval"`
	Timeout         string          `yaml:"timeout"`
	SourceRef       fluxReference   `yaml:"sourceRef"`
	Path            string          `yaml:"path"`
	TargetNamespace string          `yaml:"targetNamespace,omitempty"`
	Prune           bool            `yaml:"prune"`
	Wait            bool            `yaml:"wait"`
	Force           bool            `yaml:"force,omitempty"`
	DependsOn       []nameReference `yaml:"dependsOn,omitempty"`
	PostBuild       *fluxPostBuild  `yaml:"postBuild,omitempty"`
	Patches         []patch         `yaml:"patches,omitempty"`
}

type fluxPostBuild struct {
	Substitute map[string]string `yaml:"substitute"`
}

// plainContent is what controllers have to know of a bundle to apply its files as they are, but for their images.
type plainContent struct {
	Bundle
	// reason is why no controller can; fluxReason and argoCDReason are why one of them cannot.
	reason, fluxReason, argoCDReason string
	// patches put a site's images into the files.
	patches []patch
	// fluxStages are the parts in which Flux applies them.
	fluxStages []fluxStage
	// argoCDHooks make hooks of Argo CD of Jobs that delete themselves.
	argoCDHooks []patch
}

// readAllPlain reads the bundles of a runtime.
func readAllPlain(bundles []Bundle) ([]plainContent, error) {
	bundles = withManifests(bundles)
	defined, contents := scopesOf(bundles), make([]plainContent, len(bundles))
	err := visitBundles(bundles, func(i int, b *Bundle) (err error) {
		contents[i], err = readPlain(b, nil, defined)
		return err
	})
	return contents, err
}

// readPlain reads a bundle, of which rendered is nil or what it renders to. defined are the kinds of its runtime.
func readPlain(b *Bundle, rendered *renderedBundle, defined render.Scopes) (plainContent, error) {
	c := plainContent{Bundle: *b}
	// An opened bundle has its files in this order, too: what is made of them is the same before it is packed.
	files, reason := b.ParsePlainFiles(rendered.plainFiles())
	if reason != "" {
		c.reason = reason
		return c, nil
	}
	var err error
	if c.patches, c.reason, err = sitePatches(b.Content, files, rendered, defined); c.reason == "" && err == nil {
		c.fluxReason, c.argoCDReason, c.fluxStages = fluxHooks(files), earlyHooks(files), fluxStages(files)
		c.argoCDHooks, err = argoCDHooks(files)
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", b.Metadata().Name, err)
	}
	return c, nil
}

// plainBundle is a bundle that a controller applies.
type plainBundle struct {
	plainContent
	// needs are the names of those that must be there before, of the plain ones.
	needs []string
}

// selectPlain returns the bundles of a runtime that a controller can apply. lacks returns a reason why this controller
// cannot, and is asked where nothing keeps all controllers from it.
func selectPlain(runtime *bundle.RuntimeLock, contents []plainContent, lacks func(*plainContent) string) (plain []plainBundle, left []LeftOut, err error) {
	var alone []*bundle.Bundle
	for i := range contents {
		c := &contents[i]
		if reason := cmp.Or(c.reason, lacks(c)); reason != "" {
			left = append(left, LeftOut{c.Metadata().Name, reason})
			continue
		}
		plain = append(plain, plainBundle{plainContent: *c})
		alone = append(alone, c.Bundle.Bundle)
	}
	needs, err := waitLists(runtime, alone)
	if err != nil {
		return nil, nil, err
	}
	for i := range plain {
		plain[i].needs = needs[i]
	}
	return plain, left, nil
}

// encodeDocuments writes values as the documents of one file.
func encodeDocuments(values ...any) ([]byte, error) {
	var all []byte
	for i, value := range values {
		data, err := manifest.EncodeYAML(value)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			all = append(all, "---\n"...)
		}
		all = append(all, data...)
	}
	return all, nil
}
