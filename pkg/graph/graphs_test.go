package graph_test

import (
	"fmt"
	"slices"

	"krtpkg.dev/krtpkg/pkg/graph"
)

// products are names as they are, by layer.
var products = [][]string{
	{"cloud-credentials", "git-credentials", "pipelines-webhook", "bare-metal-inventory"},
	{"coredns", "gvisor-runtime-class", "kata-containers", "priority-classes", "node-local-dns", "descheduler", "etcd-defrag", "container-runtime"},
	{"cluster-api", "cluster-api-provider-openstack", "kapp-controller", "secretgen-controller"},
	{
		"cilium", "multus", "whereabouts", "metallb", "contour", "external-dns", "rook-ceph", "minio", "csi-driver-nfs", "harbor", "dex", "pinniped",
		"velero", "external-snapshotter", "local-path-provisioner", "keycloak", "traefik",
	},
	{
		"cert-manager", "gatekeeper", "kyverno", "trivy-operator", "falco", "vault", "external-secrets", "fluent-bit", "prometheus", "alertmanager",
		"grafana", "jaeger", "opentelemetry-collector", "tekton-pipelines", "argo-cd", "kubeapps", "sonobuoy",
	},
	{"nats", "strimzi-kafka-operator", "cloudnative-pg", "knative-serving", "istio", "keda"},
	{"shop-front", "shop-orders", "shop-payments", "reports"},
}

// needs are what some of them stand on.
var needs = map[string][]string{
	"node-local-dns": {"coredns"}, "cluster-api-provider-openstack": {"cluster-api", "cloud-credentials"}, "cluster-api": {"cert-manager"},
	"secretgen-controller": {"kapp-controller"}, "multus": {"cilium"}, "whereabouts": {"multus"}, "contour": {"metallb", "cilium"}, "traefik": {"metallb"},
	"external-dns": {"coredns", "cloud-credentials"}, "rook-ceph": {"external-snapshotter"}, "minio": {"rook-ceph"}, "harbor": {"contour", "minio", "rook-ceph"},
	"dex": {"contour"}, "pinniped": {"dex"}, "keycloak": {"contour", "rook-ceph"}, "velero": {"minio", "external-snapshotter"},
	"kyverno": {"cert-manager"}, "gatekeeper": {"cert-manager"}, "trivy-operator": {"harbor"}, "vault": {"rook-ceph", "cert-manager", "contour"},
	"external-secrets": {"vault"}, "prometheus": {"rook-ceph"}, "alertmanager": {"prometheus"}, "grafana": {"prometheus", "contour", "dex"},
	"jaeger": {"opentelemetry-collector", "contour"}, "opentelemetry-collector": {"cert-manager", "prometheus"}, "tekton-pipelines": {"harbor", "git-credentials"},
	"argo-cd": {"git-credentials", "contour", "dex"}, "kubeapps": {"kapp-controller", "contour", "pinniped"}, "strimzi-kafka-operator": {"rook-ceph"},
	"cloudnative-pg": {"rook-ceph", "minio", "cert-manager"}, "knative-serving": {"istio", "cert-manager"}, "istio": {"cert-manager", "metallb"},
	"keda": {"prometheus", "cert-manager"}, "shop-front": {"istio", "shop-orders", "shop-payments"}, "shop-orders": {"cloudnative-pg", "strimzi-kafka-operator", "istio"},
	"shop-payments": {"cloudnative-pg", "vault", "istio"}, "reports": {"knative-serving", "minio", "shop-orders"},
}

// runtime returns a runtime of so many of them, 60 at most, some of each layer.
func runtime(nodes int) *graph.Graph {
	g := &graph.Graph{Name: "enterprise", Version: "2026.2.0", Signed: graph.WithSignature}
	total, all := 0, int64(0)
	for i := 0; len(g.Nodes) < nodes; i++ {
		for layer := range slices.Backward(products) {
			if i >= len(products[layer]) || len(g.Nodes) == nodes {
				continue
			}
			name := products[layer][i]
			images, bytes := (i*7+layer)%5, int64(i*i+layer+1)*37_000_000
			total, all = total+images, all+bytes
			n := graph.Node{
				Name: name, Version: fmt.Sprintf("%d.%d.%d", layer, i*3, i%4), Layer: layer, Category: "some",
				Requires: needs[name], Signed: graph.WithSignature, Images: &images, Bytes: &bytes,
			}
			g.Nodes = append(g.Nodes, n)
		}
	}
	g.Images, g.Bytes = &total, &all
	return g
}

// hostile returns a graph of what no one would write and someone might.
func hostile() *graph.Graph {
	many := 1234567
	size := int64(1) << 62
	g := &graph.Graph{Name: "</svg><script>alert(1)</script>", Version: "1\x1b[31m\x00\u202e", Signed: "]]>"}
	for i, name := range []string{
		"a\"b'c&d<e>", "\x1b]0;title\a", "%s%d\\n\"];n9", "世界世界世界世界世界世界世界世界世界世界世界世界世界", "😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀",
		"a\u202eb", "\xff\xfe", "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW", "", "x\ny",
	} {
		n := graph.Node{Name: name, Version: name + name + name, Layer: i - 2, Category: name, Requires: []string{"", "none", name}, Health: graph.Failing, Signed: graph.WithoutSignature}
		if i > 0 {
			n.Requires = append(n.Requires, g.Nodes[i-1].Name)
		}
		if i%2 == 0 {
			n.Images, n.Bytes = &many, &size
		}
		g.Nodes = append(g.Nodes, n)
	}
	g.Nodes[0].Requires = append(g.Nodes[0].Requires, "x\ny") // a ring, and from the bottom to the top
	for i := range 12 {
		g.Nodes = append(g.Nodes, graph.Node{Name: fmt.Sprint("ring-", i), Layer: 3, Requires: []string{fmt.Sprint("ring-", (i+1)%12), fmt.Sprint("ring-", (i+5)%12)}})
	}
	return g
}

// states returns a graph with every state of health.
func states() *graph.Graph {
	g := runtime(30)
	for i := range g.Nodes {
		g.Nodes[i].Health = []graph.Health{graph.Healthy, graph.Progressing, graph.Failing, graph.Drifted, graph.Absent, ""}[i%6]
		g.Nodes[i].Signed = []graph.Signed{graph.WithSignature, graph.WithoutSignature, ""}[i%3]
	}
	return g
}
