//go:build modules

// Package modules is never built. It keeps versions in go.mod: k8s.io/kubernetes, of which kapp links a
// package, requires v0.0.0 of modules that it replaces by folders of its own. Nobody ever published that, so
// "go list -m all" and "go doc" of a clean module cache fail, here and in modules that require this one
// (kubernetes/kubernetes#79384). A published version takes its place; nothing of it is linked.
package modules

import (
	_ "k8s.io/cloud-provider/api"
	_ "k8s.io/cluster-bootstrap/token/api"
	_ "k8s.io/controller-manager"
	_ "k8s.io/cri-api"
	_ "k8s.io/cri-client/pkg/util"
	_ "k8s.io/csi-translation-lib"
	_ "k8s.io/dynamic-resource-allocation"
	_ "k8s.io/endpointslice/trafficdist"
	_ "k8s.io/kube-controller-manager"
	_ "k8s.io/kube-proxy"
	_ "k8s.io/kube-scheduler"
	_ "k8s.io/kubelet"
	_ "k8s.io/metrics/pkg/apis/metrics"
	_ "k8s.io/mount-utils"
	_ "k8s.io/pod-security-admission"
	_ "k8s.io/sample-apiserver/pkg/apis/wardle"
)
