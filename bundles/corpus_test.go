package bundles_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/pkg/layers"
)

// unused are the products of the corpus that no ready bundle is made of, and why.
var unused = map[string]string{
	"0-platform/continuous-integration-and-delivery/bamboo-1":                        "a later version is used",
	"0-platform/continuous-integration-and-delivery/tekton-pipelines":                "sources before a release; its chart is used",
	"0-platform/source-control/bitbucket-1":                                          "a later version is used",
	"1-orchestration/coordination-and-service-discovery/coredns":                     "a template of Kubernetes' own build; its chart is used",
	"1-orchestration/coordination-and-service-discovery/etcd":                        "software of the node",
	"1-orchestration/coordination-and-service-discovery/kube-dns":                    "retired",
	"1-orchestration/scheduling-and-orchestration/descheduler":                       "its chart is used",
	"1-orchestration/scheduling-and-orchestration/k3s-addons":                        "parts of a distribution",
	"1-orchestration/scheduling-and-orchestration/kube-scheduler":                    "software of the node",
	"2-lifecycle/automation-and-configuration/terraform-cloud-operator":              "not in the model: Terraform is a client there",
	"3-cluster-services/authentication/pinniped":                                     "sources before a release; the concierge's are used",
	"3-cluster-services/authentication/pinniped-rendered":                            "a later version is used",
	"3-cluster-services/cloud-native-networking/weave":                               "retired",
	"3-cluster-services/container-registry/harbor-rendered":                          "a later version is used",
	"3-cluster-services/container-registry/quay-operator":                            "its images are latest and nightly, which are no versions",
	"3-cluster-services/container-registry/quay-operator-kustomize":                  "a placeholder is in place of its image",
	"3-cluster-services/data-protection/velero-rendered":                             "a later version is used",
	"3-cluster-services/external-dns/external-dns-rendered":                          "a later version is used",
	"3-cluster-services/package-management/kapp-controller":                          "sources before a release; a release is used",
	"3-cluster-services/package-management/kapp-controller-rendered":                 "a later version is used",
	"3-cluster-services/service-proxy/haproxy-ingress":                               "its chart is used",
	"3-cluster-services/service-proxy/ingress-nginx":                                 "ended in March 2026; the controller of F5 is used",
	"4-security-and-observability/application-catalog/kubeapps":                      "retired",
	"4-security-and-observability/build-service/cartographer":                        "sources before a release; a release is used",
	"4-security-and-observability/build-service/kaniko":                              "retired",
	"4-security-and-observability/build-service/kpack":                               "sources before a release; a release is used",
	"4-security-and-observability/build-time-security/clair":                         "a part of Quay's operator that does not stand alone",
	"4-security-and-observability/certificate-management/cert-manager-rendered":      "a later version is used",
	"4-security-and-observability/conformance-and-benchmarks/kubernetes-conformance": "tests of one version of Kubernetes, run once for hours",
	"4-security-and-observability/conformance-and-benchmarks/sonobuoy":               "data of its tests; its command makes the manifests",
	"4-security-and-observability/gitops-and-registryops/argo-cd-rendered":           "a later version is used",
	"4-security-and-observability/gitops-and-registryops/flux":                       "its chart is used",
	"4-security-and-observability/logging/fluent-bit-rendered":                       "a later version is used",
	"4-security-and-observability/metrics/prometheus-rendered":                       "kube-prometheus is used",
	"4-security-and-observability/policy/kyverno-policies":                           "policies for a site to choose from",
	"4-security-and-observability/tracing/jaeger-operator":                           "the same in another selection is used",
	"4-security-and-observability/visualization/grafana-rendered":                    "a later version is used",
}

// Each product of the corpus is what a ready bundle is made of, or is not for a reason.
func TestProductsOfTheCorpusAreReady(t *testing.T) {
	t.Parallel()
	mirrors, err := os.ReadFile("mirrors.txt")
	if err != nil {
		t.Fatal(err)
	}
	var used []string // by what bundles fetch
	fetched := fetchedURLs(t)
	for line := range strings.Lines(string(mirrors)) {
		prefix, folder, _ := strings.Cut(strings.TrimSpace(line), " ")
		if slices.ContainsFunc(fetched, func(url string) bool { return strings.HasPrefix(url, prefix) }) {
			used = append(used, strings.Join(strings.SplitN(folder, "/", 4)[:3], "/"))
		}
	}
	seen := map[string]bool{}
	for _, f := range corpus.ListAllFiles(t) {
		product := f.Product()
		if seen[product] {
			continue
		}
		seen[product] = true
		isUsed := slices.Contains(used, product)
		if _, excused := unused[product]; isUsed == excused {
			t.Errorf("%s: used %v, and said not to be %v", product, isUsed, excused)
		}
	}
	for product := range unused {
		if !seen[product] {
			t.Errorf("the corpus has no %s", product)
		}
	}
}

// fetchedURLs are what the ready bundles fetch, commits as the files of repositories.
func fetchedURLs(t *testing.T) (urls []string) {
	t.Helper()
	for _, r := range all(t) {
		spec := definition(t, r).Bundle.Spec
		for _, s := range spec.Sources {
			urls = append(urls, s.URL, s.Archive, filesOfCommit(s.Git, s.Commit, s.Root))
			for _, d := range s.Dependencies {
				urls = append(urls, d.Archive, filesOfCommit(d.Git, d.Commit, d.Root))
			}
		}
	}
	return urls
}

func filesOfCommit(repository, commit, folder string) string {
	return strings.Replace(repository, "https://github.com/", "https://raw.githubusercontent.com/", 1) + "/" + commit + "/" + folder + "/"
}

// unready are the products of the model that could have a ready bundle and have none, and why.
var unready = map[string]string{
	"airflow":                     "no data",
	"artifactory":                 "its chart needs others that only its repository has",
	"aws-kms":                     "all of it is on the nodes of the control plane",
	"aws-lambda":                  "nothing of it is in the cluster",
	"azure-key-vault":             "the operator of external secrets is not in the model",
	"azure-load-balancer":         "the cloud controller manager sets it up",
	"backstage":                   "its chart needs others that only its repository has",
	"caps":                        "a part of Deckhouse",
	"clair":                       "a part of Quay's operator that does not stand alone",
	"concourse":                   "its chart has private keys in it",
	"consul":                      "no data",
	"filestore":                   "no data",
	"gitlab":                      "its chart is not where sources are read from",
	"gitlab-registry":             "part of GitLab's chart",
	"google-cloud-kms":            "all of it is on the nodes of the control plane",
	"google-cloud-load-balancing": "the cloud controller manager sets it up",
	"istio":                       "no data",
	"jfrog":                       "its chart needs others that only its repository has",
	"kafka":                       "no data",
	"kasten":                      "its chart is not where sources are read from",
	"kserve":                      "no data",
	"kubeflow":                    "no data",
	"kubernetes-conformance":      "tests of one version of Kubernetes, run once for hours",
	"mongodb":                     "no data",
	"mysql":                       "no data",
	"nats":                        "no data",
	"nsx":                         "its container plugin comes with the product",
	"nsx-t":                       "its container plugin comes with the product",
	"online-boutique":             "no data",
	"openfaas":                    "no data",
	"pixie":                       "its chart is made at its release",
	"podinfo":                     "no data",
	"prisma-cloud":                "its defenders are made for each cluster",
	"quay":                        "its operator's manifests name no version of an image",
	"restic-operator":             "no data",
	"sonobuoy":                    "its command makes the manifests",
	"splunk":                      "no data",
	"splunk-otel-collector":       "no data",
	"tanzu-mission-control":       "its agent is made for each cluster",
	"temporal":                    "no data",
	"valkey":                      "no data",
	"vsan":                        "no data",
	"vsan-file-services":          "no data",
	"wordpress":                   "no data",
}

// Each product of the model that can be delivered, and each service that leaves something in the
// cluster, has a ready bundle, or not for a reason.
func TestProductsOfTheModelAreReady(t *testing.T) {
	t.Parallel()
	model, err := layers.LoadModel()
	if err != nil {
		t.Fatal(err)
	}
	ready := all(t)
	named := map[string]bool{}
	for _, layer := range model.Layers {
		for _, c := range layer.Categories {
			for _, p := range c.Products {
				if !slices.Contains([]layers.Delivery{"manifests", "chart", layers.Service}, p.Delivery) {
					continue
				}
				named[p.ID] = true
				isReady := slices.ContainsFunc(ready, func(r bundles.Ready) bool { return r.Product == p.ID })
				if _, excused := unready[p.ID]; isReady == excused {
					t.Errorf("%s: ready %v, and said not to be %v", p.ID, isReady, excused)
				}
			}
		}
	}
	for product := range unready {
		if !named[product] {
			t.Errorf("the model has no %s", product)
		}
	}
}
