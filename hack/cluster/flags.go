package main

import (
	"fmt"
	"strconv"
)

// nodeAnnotation is what makes a node KWOK's: nodes of other kinds may join.
const nodeAnnotation, nodeAnnotationValue = "kwok.x-k8s.io/node", "fake"

func (c *cluster) etcdFlags(client, peer int) []string {
	clientURL, peerURL := loopback(client), loopback(peer)
	return []string{
		"--data-dir=" + c.path("etcd"),
		"--unsafe-no-fsync", // nothing outlives the run
		"--listen-client-urls=" + clientURL,
		"--advertise-client-urls=" + clientURL,
		"--listen-peer-urls=" + peerURL,
		"--initial-advertise-peer-urls=" + peerURL,
		"--initial-cluster=default=" + peerURL,
		"--socket-reuse-port", // see reservePort
	}
}

func (c *cluster) apiServerFlags(port, etcd int) []string {
	return []string{
		"--etcd-servers=" + loopback(etcd),
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(port),
		"--permit-port-sharing", // see reservePort
		// A loopback address is no valid endpoint of the Service "kubernetes".
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=" + serviceRange.String(),
		"--egress-selector-config-file=" + c.path("egress.yaml"),
		"--authorization-mode=Node,RBAC",
		"--allow-privileged=true",
		"--client-ca-file=" + c.path("pki", "ca.crt"),
		"--tls-cert-file=" + c.path("pki", "apiserver.crt"),
		"--tls-private-key-file=" + c.path("pki", "apiserver.key"),
		"--kubelet-client-certificate=" + c.path("pki", "admin.crt"),
		"--kubelet-client-key=" + c.path("pki", "admin.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.path("pki", "sa.key"),
		"--service-account-signing-key-file=" + c.path("pki", "sa.key"),
		// Aggregated API servers trust these, such as kapp-controller's.
		"--requestheader-client-ca-file=" + c.path("pki", "front-proxy-ca.crt"),
		"--requestheader-allowed-names=" + frontProxyName,
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.path("pki", "front-proxy-client.crt"),
		"--proxy-client-key-file=" + c.path("pki", "front-proxy-client.key"),
	}
}

func (c *cluster) controllerManagerFlags() []string {
	return []string{
		"--kubeconfig=" + c.path("kubeconfig"),
		"--leader-elect=false",
		"--secure-port=0",
		"--controllers=*,-" + namespaceController,
		// With an account for each controller, the first service account comes seconds later.
		"--use-service-account-credentials=false",
		// So all of them share what each would have: 20 requests a second.
		"--kube-api-qps=300",
		"--kube-api-burst=500",
		"--root-ca-file=" + c.path("pki", "ca.crt"),
		"--service-account-private-key-file=" + c.path("pki", "sa.key"),
		"--cluster-signing-cert-file=" + c.path("pki", "ca.crt"),
		"--cluster-signing-key-file=" + c.path("pki", "ca.key"),
		// The default is a folder of the system.
		"--flex-volume-plugin-dir=" + c.path("flexvolume"),
	}
}

func (c *cluster) schedulerFlags() []string {
	return []string{
		"--kubeconfig=" + c.path("kubeconfig"),
		"--leader-elect=false",
		"--secure-port=0",
	}
}

func (c *cluster) kwokFlags() []string {
	return []string{
		"--kubeconfig=" + c.path("kubeconfig"),
		"--config=" + c.path("kwok.yaml"),
		"--manage-all-nodes=false",
		"--manage-nodes-with-annotation-selector=" + nodeAnnotation + "=" + nodeAnnotationValue,
		// No node has a loopback address: endpoints with one are invalid. Nothing listens there.
		"--node-ip=192.0.2.1",
		"--cidr=10.244.0.0/16",
		"--node-lease-duration-seconds=40",
	}
}

func loopback(port int) string {
	return fmt.Sprintf("http://127.0.0.1:%d", port)
}
