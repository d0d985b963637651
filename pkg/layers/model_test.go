package layers_test

import (
	"errors"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// pipelines are what several categories list as continuous integration and delivery.
const pipelines = "Jenkins, GitHub Actions, GitLab CI, Bamboo, Spinnaker, Tekton, Argo CD, Flux, Drone, Concourse, " +
	"TeamCity, Octopus Deploy, AWS CodePipeline, Azure DevOps, Google Cloud Build"

// wanted is what the model must have at least: the categories of each layer, as they are
// commonly called, and their products.
var wanted = []struct {
	layer              int
	category, products string
}{
	{0, "platform", "AWS, Azure, GCP, OpenStack, VMware, bare metal"},
	{0, "source control", "Git, GitHub, GitLab, BitBucket, Plastic SCM"},
	{0, "continuous integration and delivery", pipelines},
	{1, "scheduling and orchestration", "Kubernetes, Nomad, Marathon, Cattle, Docker Swarm"},
	{1, "coordination and service discovery", "SkyDNS, KubeDNS, CoreDNS, Consul, etcd"},
	{1, "container runtime", "Docker, containerd, CRI-O, gVisor, Kata Containers, CRX"},
	{2, "automation and configuration", "Ansible, Terraform, Pulumi, Chef, Puppet, SaltStack, mgmtconfig, Helm, Kustomize, Jsonnet, Carvel"},
	{2, "lifecycle management", "Cluster API, Terraform, CAPS"},
	{3, "networking", "Multus, Antrea, Calico, NSX-T, Cilium, Weave, Flannel, Romana, OpenContrail, Open vSwitch, OVN-Kubernetes, OpenShift SDN"},
	{3, "block storage", "Amazon EBS, Google Persistent Disk, Azure Disk, Portworx, OpenStack Cinder, Ceph RBD, vSAN"},
	{3, "object storage", "S3, Google Cloud Storage, Azure Blob, MinIO, Ceph, Swift, Storj"},
	{3, "file storage", "EFS, Filestore, Azure Files, NFS, GlusterFS, CephFS, Manila, vSAN File Services"},
	{3, "container registry", "Docker Hub, Quay, ECR, GCR, ACR, Harbor, Artifactory, GitLab Registry, JFrog"},
	{3, "service proxy", "NGINX, Contour, Traefik, HAProxy"},
	{3, "load balancing", "MetalLB, AWS ELB, Azure Load Balancer, GCP Load Balancer, AVI, NSX"},
	{3, "external DNS", "ExternalDNS, CoreDNS, Route 53, Cloudflare, Infoblox, Azure DNS, Google Cloud DNS"},
	{3, "authentication", "Pinniped, Dex, Keycloak, Okta, Auth0, Azure AD, Google Cloud Identity, AWS IAM, LDAP, OIDC, SAML"},
	{3, "package management", "Helm, Kustomize, Carvel"},
	{3, "data protection", "Velero, Restic Operator, Kasten"},
	{4, "policy", "Open Policy Agent, Kyverno, jsPolicy, Polaris"},
	{4, "ABAC", "Tanzu Mission Control"},
	{4, "certificate management", "cert-manager, Let's Encrypt, HashiCorp Vault, Kubernetes certificate API"},
	{4, "build-time security", "Clair, Trivy, Snyk, Aqua, Twistlock, Anchore"},
	{4, "runtime security", "Sysdig, Falco, NeuVector, Prisma Cloud, Aqua, Twistlock"},
	{4, "key management", "Vault, AWS KMS, Google Cloud KMS, Azure Key Vault"},
	{4, "conformance and benchmarks", "Sonobuoy, CIS benchmark, Kubernetes conformance"},
	{4, "build service", "Buildpacks, kpack, Kaniko, Cartographer, " + pipelines},
	{4, "GitOps and RegistryOps", "Argo CD, Flux, Drone, Concourse, TeamCity, Octopus Deploy, AWS CodePipeline, Azure DevOps, Google Cloud Build, kapp-controller"},
	{4, "application catalog", "Kubeapps, ChartMuseum, OperatorHub, Artifact Hub"},
	{4, "logging", "Fluentd, Fluent Bit, Splunk OTel Collector"},
	{4, "metrics", "Prometheus, OpenTelemetry, OpenMetrics, Honeycomb, New Relic, Datadog, Stackdriver, Dynatrace"},
	{4, "tracing", "Jaeger, OpenTracing, Zipkin, Pixie, AWS X-Ray, Datadog, Stackdriver, Dynatrace"},
	{4, "syscall tracing", "Sysdig, DTrace"},
	{4, "alerting", "Alertmanager"},
	{4, "visualization", "Grafana, Splunk, Aria Operations"},
	{5, "messaging", ""},
	{5, "databases", ""},
	{5, "serverless", ""},
	{5, "service mesh", ""},
	{5, "workflow", ""},
	{6, "business applications", ""},
}

func load(t *testing.T) *layers.Model {
	t.Helper()
	m, err := layers.LoadModel()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestModelIsComplete(t *testing.T) {
	t.Parallel()
	m := load(t)
	for _, w := range wanted {
		category, layer, found := m.FindCategory(strings.ReplaceAll(strings.ToLower(w.category), " ", "-"))
		if !found || layer != w.layer {
			t.Errorf("layer %d has no category %s", w.layer, w.category)
			continue
		}
		for name := range strings.SplitSeq(w.products, ", ") {
			if name == "" {
				continue
			}
			at, err := m.FindPlaces(name)
			if err != nil || !slices.ContainsFunc(at, func(f layers.ModelPlace) bool { return f.Product != nil && f.Category.ID == category.ID }) {
				t.Errorf("category %s has no product %s: %v", w.category, name, err)
			}
		}
	}
}

// The names of layers that need no model are those of the model.
func TestModelHasTheLayers(t *testing.T) {
	t.Parallel()
	var got []layers.Layer
	for _, l := range load(t).Layers {
		got = append(got, l.Layer)
		if l.Open != (l.Number >= 5) {
			t.Errorf("layer %d: open is %v", l.Number, l.Open)
		}
	}
	if !reflect.DeepEqual(got, layers.ListLayers()) {
		t.Errorf("layers are\n%v\nwant\n%v", got, layers.ListLayers())
	}
}

// TestModelIsWellWritten holds the model to what its readers count on, beyond what is an error.
func TestModelIsWellWritten(t *testing.T) {
	t.Parallel()
	sentence := regexp.MustCompile(`^[A-Z][^.?!]*\.$`)
	question := regexp.MustCompile(`^[A-Z][^.?!]*\?$`)
	note := regexp.MustCompile(`^[A-Za-z].*\.$`)
	categories := map[string]bool{}
	names := map[string]string{}
	for _, l := range load(t).Layers {
		for _, c := range l.Categories {
			if categories[c.ID] {
				t.Errorf("category %s", c.ID)
			}
			categories[c.ID] = true
			if !sentence.MatchString(c.Purpose) {
				t.Errorf("category %s: purpose %q is not one sentence", c.ID, c.Purpose)
			}
			if len(c.Questions) < 1 || len(c.Questions) > 4 {
				t.Errorf("category %s has %d questions", c.ID, len(c.Questions))
			}
			for _, q := range c.Questions {
				if !question.MatchString(q) {
					t.Errorf("category %s: %q is not a question", c.ID, q)
				}
			}
			products := map[string]bool{}
			for _, p := range c.Products {
				if products[p.ID] {
					t.Errorf("product %s is in category %s twice", p.ID, c.ID)
				}
				products[p.ID] = true
				if name := names[p.ID]; name != "" && name != p.Name {
					t.Errorf("product %s is called %s and %s", p.ID, name, p.Name)
				}
				names[p.ID] = p.Name
				if !slices.Contains(layers.Deliveries, p.Delivery) {
					t.Errorf("product %s: delivery %q", p.ID, p.Delivery)
				}
				if p.Note != "" && !note.MatchString(p.Note) {
					t.Errorf("product %s: note %q is not a sentence", p.ID, p.Note)
				}
				if p.Delivery == layers.Service && p.Note == "" && l.Number < 5 {
					t.Errorf("product %s of category %s: a service's note says what remains in the cluster", p.ID, c.ID)
				}
			}
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	m := load(t)
	for _, c := range []struct {
		text string
		want []string
	}{
		{"3", []string{"3"}},
		{"Cluster Services", []string{"3"}},
		{"3-cluster-services", []string{"3"}},
		{"platform", []string{"0", "0/platform"}},
		{"service-proxy", []string{"3/service-proxy"}},
		{"Service Proxy", []string{"3/service-proxy"}},
		{"cert-manager", []string{"4/certificate-management/cert-manager"}},
		{"argocd", []string{"0/continuous-integration-and-delivery/argo-cd", "4/build-service/argo-cd", "4/gitops-and-registryops/argo-cd"}},
		{"Let’s Encrypt", []string{"4/certificate-management/lets-encrypt"}},
		{"gatekeeper", []string{"4/policy/open-policy-agent"}},
	} {
		found, err := m.FindPlaces(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
		}
		var got []string
		for _, f := range found {
			at := string(rune('0' + f.Layer.Number))
			if f.Category != nil {
				at += "/" + f.Category.ID
			}
			if f.Product != nil {
				at += "/" + f.Product.ID
			}
			got = append(got, at)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s is %v, want %v", c.text, got, c.want)
		}
	}
	for text, want := range map[string]string{
		"cillium": `no layer, category or product named "cillium" (did you mean "cilium"?)`,
		"7":       `no layer, category or product named "7"`,
		"":        `no layer, category or product named ""`,
		"--":      `no layer, category or product named "--"`,
	} {
		found, err := m.FindPlaces(text)
		var unknown *layers.UnknownError
		if !errors.As(err, &unknown) || err.Error() != want || found != nil {
			t.Errorf("%q: %v, %v", text, found, err)
		}
	}
	if l, found := m.FindLayer(4); !found || l.Name != layers.LayerName(4) || len(l.Categories) == 0 {
		t.Errorf("layer 4 is %+v", l)
	}
	for _, number := range []int{-1, layers.Top + 1} {
		if _, found := m.FindLayer(number); found {
			t.Errorf("there is a layer %d", number)
		}
	}
	if _, _, found := m.FindCategory("nothing"); found {
		t.Error("there is a category nothing")
	}
}

func TestExtend(t *testing.T) {
	t.Parallel()
	m := load(t)
	for _, file := range []string{`
layers:
  - number: 3
    categories:
      - id: networking
        products:
          - {id: acme-net, name: Acme Net, delivery: chart, provides: [cni]}
      - id: time
        title: Time
        purpose: Keeps the clocks of the nodes together.
        products:
          - {id: chrony, name: chrony, delivery: node}
          - {id: vault, name: HashiCorp Vault, delivery: chart}
`, `
layers:
  - number: 3
    categories:
      - {id: time, products: [{id: ntpd, name: ntpd, delivery: retired}]}
`} {
		if err := m.Extend("site.yaml", []byte(file)); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]string{"acme net": "networking", "Chrony": "time", "ntpd": "time"} {
		if found, err := m.FindPlaces(text); err != nil || len(found) != 1 || found[0].Category.ID != want || found[0].Layer.Number != 3 {
			t.Errorf("%s: %v, %v", text, found, err)
		}
	}
	if _, err := load(t).FindPlaces("chrony"); err == nil {
		t.Error("what one model was extended by is in another")
	}
}

func TestExtendRefuses(t *testing.T) {
	t.Parallel()
	// in puts lines below layers, from the fourth line of the file on.
	in := func(layer, categories string) string {
		return "layers:\n  - number: " + layer + "\n    categories:\n" + categories
	}
	const time = "      - id: time\n        title: Time\n        purpose: Keeps clocks together.\n"
	for _, c := range []struct{ name, file, err string }{
		{"nothing", "", "site.yaml: the file is empty"},
		{"an unknown field", "layer: []", `site.yaml:1:1: unknown field "layer" (did you mean "layers"?)`},
		{"no number", "layers:\n  - categories: []", "site.yaml:2:5: number is missing"},
		{"no such layer", in("7", "      []"), "site.yaml:2:13: number is 7, want 0 to 6"},
		{"no number at all", in("three", "      []"), "site.yaml:2: cannot unmarshal !!str `three` into int"},
		{"no id", in("3", "      - title: Time"), "site.yaml:4:9: id is missing"},
		{"a bad id", in("3", "      - id: Time"), `site.yaml:4:13: id "Time": want lower-case letters, digits and dashes`},
		{"a category in another layer", in("4", "      - id: networking"),
			`site.yaml:4:13: category "networking" already exists in layer 3`},
		{"a category again", in("3", "      - id: networking\n        title: Networks"),
			`site.yaml:5:16: category "networking" already exists, only products can be added to it`},
		{"questions again", in("3", "      - id: networking\n        questions: []"),
			`site.yaml:5:20: category "networking" already exists, only products can be added to it`},
		{"a category that was meant to be another", in("3", "      - id: netwroking"),
			`site.yaml:4:9: new category "netwroking" has no title (did you mean "networking"?)`},
		{"no purpose", in("3", "      - {id: time, title: Time}"), `site.yaml:4:9: category "time" has no purpose`},
		{"the title of another", in("3", "      - {id: time, title: Load Balancing, purpose: None.}"),
			`site.yaml:4:27: title "Load Balancing" already names category "load-balancing", in layer 3`},
		{"an id that is nearly one", in("3", "      - {id: externaldns, title: Names, purpose: None.}"),
			`site.yaml:4:14: id "externaldns" already names category "external-dns", in layer 3`},
		{"a category of the same file", in("3", time+time), `site.yaml:8:16: category "time" already exists, only products can be added to it`},
		{"an empty question", in("3", time+"        questions: [Why, '']"), `site.yaml:7:26: questions has an empty text`},
		{"a product again", in("3", "      - id: networking\n        products:\n          - {id: cilium, name: Cilium, delivery: chart}"),
			`site.yaml:6:18: product "cilium" already exists in category "networking"`},
		{"a product twice", in("3", time+"        products:\n          - {id: a, name: A, delivery: chart}\n          - {id: a, name: A, delivery: node}"),
			`site.yaml:9:18: product "a" already exists in category "time"`},
		{"the id of another", in("3", time+"        products:\n          - {id: cilium, name: Time, delivery: chart}"),
			`site.yaml:8:32: product "cilium" is called "Cilium" elsewhere, not "Time"`},
		{"the name of another", in("3", time+"        products:\n          - {id: argo, name: ArgoCD, delivery: chart}"),
			`site.yaml:8:18: product "ArgoCD" already exists with the id "argo-cd"`},
		{"no name", in("3", time+"        products:\n          - {id: a, delivery: chart}"), `site.yaml:8:13: product "a" has no name`},
		{"no delivery", in("3", time+"        products:\n          - {id: a, name: A}"),
			`site.yaml:8:13: product "a" has no delivery (one of manifests, chart, node, service, client, standard, retired)`},
		{"no such delivery", in("3", time+"        products:\n          - {id: a, name: A, delivery: Helm}"),
			`site.yaml:8:40: delivery "Helm": want one of manifests, chart, node, service, client, standard, retired`},
		{"a bad capability", in("3", time+"        products:\n          - {id: a, name: A, delivery: node, provides: [a b]}"),
			`site.yaml:8:57: capability "a b": want lower-case letters, digits and dashes`},
		{"several", in("3", "      - id: A\n      - id: B"),
			"site.yaml:4:13: id \"A\": want lower-case letters, digits and dashes\nsite.yaml:5:13: id \"B\": want lower-case letters, digits and dashes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := load(t)
			err := m.Extend("site.yaml", []byte(c.file))
			var placed *manifest.Error
			if err == nil || err.Error() != c.err || !errors.As(err, &placed) {
				t.Errorf("error\n%v\nwant\n%s", err, c.err)
			}
			if !reflect.DeepEqual(m, load(t)) {
				t.Error("the model has changed")
			}
		})
	}
}
