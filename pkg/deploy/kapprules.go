package deploy

import (
	"slices"
	"sync"

	kappconfig "carvel.dev/kapp/pkg/kapp/config"
	kappres "carvel.dev/kapp/pkg/kapp/resources"

	"krtpkg.dev/krtpkg/pkg/resources"
)

// rules are for what kapp's own leave out: of a CustomResourceDefinition that is too large for
// kapp to remember what was applied of it, what the API server fills in would differ each time;
// and the tokens that the cluster puts into the Secrets of service accounts would be taken out.
// Admission webhooks come as late as the pods that answer them: what these pods need may be among
// what the webhooks guard, and nothing of that could be created before.
const rules = `apiVersion: kapp.k14s.io/v1alpha1
kind: Config
rebaseRules:
- path: [spec, conversion]
  type: copy
  sources: [new, existing]
  resourceMatchers:
  - apiVersionKindMatcher: {apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition}
- paths:
  - [data]
  - [metadata, annotations, kubernetes.io/service-account.uid]
  - [metadata, labels, kubernetes.io/legacy-token-last-used]
  type: copy
  sources: [new, existing]
  resourceMatchers:
  - andMatcher:
      matchers:
      - apiVersionKindMatcher: {apiVersion: v1, kind: Secret}
      - hasAnnotationMatcher: {keys: [kubernetes.io/service-account.name]}
changeRuleBindings:
- rules:
  - upsert after upserting change-groups.kapp.k14s.io/pod-related
  - upsert after upserting change-groups.kapp.k14s.io/rbac
  - upsert after upserting change-groups.kapp.k14s.io/storage-class
  - upsert after upserting change-groups.kapp.k14s.io/storage
  ignoreIfCyclical: true
  resourceMatchers:
  - apiGroupKindMatcher: {apiGroup: admissionregistration.k8s.io, kind: MutatingWebhookConfiguration}
  - apiGroupKindMatcher: {apiGroup: admissionregistration.k8s.io, kind: ValidatingWebhookConfiguration}
`

// withRules reads the Config documents among resources, and adds rules.
func withRules(all []kappres.Resource) ([]kappres.Resource, kappconfig.Conf, error) {
	if !slices.ContainsFunc(all, func(r kappres.Resource) bool {
		_, labelled := r.Labels()[configGroup+"/config"] // a ConfigMap that holds one
		return labelled || r.APIGroup() == configGroup
	}) {
		// To parse kapp's own configuration again for each app takes a fifth of an apply.
		conf, err := usualRules()
		return all, conf, err
	}
	// A bundle may have been made by others, or have its rules from a site's values.
	if err := resources.CheckRules(all); err != nil {
		return nil, kappconfig.Conf{}, err
	}
	return readRules(all)
}

const configGroup = "kapp.k14s.io"

var usualRules = sync.OnceValues(func() (kappconfig.Conf, error) {
	_, conf, err := readRules(nil)
	return conf, err
})

func readRules(resources []kappres.Resource) ([]kappres.Resource, kappconfig.Conf, error) {
	own, err := kappres.NewResourceFromBytes([]byte(rules))
	if err != nil {
		return nil, kappconfig.Conf{}, err
	}
	return kappconfig.NewConfFromResourcesWithDefaults(append([]kappres.Resource{own}, resources...))
}
