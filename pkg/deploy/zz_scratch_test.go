//go:build scratch

package deploy

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"testing"
	"testing/fstest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const up = "/work/shared/upstream/"

func files(t *testing.T, paths ...string) fs.FS {
	m := fstest.MapFS{}
	for _, p := range paths {
		data, err := os.ReadFile(up + p)
		if err != nil {
			t.Fatal(err)
		}
		m[path.Base(p)] = &fstest.MapFile{Data: data}
	}
	return m
}

func products(t *testing.T) []Unit {
	fb := "4-security-and-observability/logging/fluent-bit-rendered/bundle/config/upstream/fluentbit/"
	return []Unit{
		{Bundle: "metallb", Layer: 3, Manifests: files(t, "3-cluster-services/load-balancing/metallb/config/manifests/metallb-native.yaml")},
		{Bundle: "contour", Layer: 3, Manifests: files(t, "3-cluster-services/service-proxy/contour/examples/render/contour.yaml")},
		{Bundle: "cert-manager", Layer: 4, Manifests: files(t, "4-security-and-observability/certificate-management/cert-manager-rendered/bundle/config/upstream/cert-manager.yaml")},
		{Bundle: "gatekeeper", Layer: 4, Manifests: files(t, "4-security-and-observability/policy/gatekeeper/deploy/gatekeeper.yaml")},
		{Bundle: "fluent-bit", Layer: 4, Manifests: files(t, fb+"configmap.yaml", fb+"daemonset.yaml", fb+"namespace.yaml", fb+"rbac.yml")},
	}
}

func TestUpstream(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	rt := Runtime{Name: "up", Version: "1.0.0", Units: products(t)}
	go func() {
		for t.Context().Err() == nil {
			l, err := r.client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
			if err == nil {
				for _, s := range l.Items {
					if s.Spec.Type == "LoadBalancer" && len(s.Status.LoadBalancer.Ingress) == 0 {
						s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.7"}}
						r.client.CoreV1().Services(s.Namespace).UpdateStatus(t.Context(), &s, metav1.UpdateOptions{})
					}
				}
			}
			time.Sleep(time.Second)
		}
	}()
	for _, step := range []string{"install", "again", "again", "delete", "install", "delete"} {
		var out bytes.Buffer
		opts := Options{Out: &out, OnEvent: func(e Event) {
			if e.Phase != Applying && e.Phase != Deleting {
				fmt.Printf("   %-10s %-14s %v  %v\n", e.Phase, e.Bundle, e.Changes, e.Elapsed)
			}
		}, WaitTimeout: 90 * time.Second}
		began := time.Now()
		var err error
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		if step == "delete" {
			_, err = r.Delete(ctx, "up", DeleteOptions{opts})
		} else {
			_, err = r.Apply(ctx, rt, ApplyOptions{Options: opts, SummaryOnly: step != "again"})
		}
		cancel()
		fmt.Println("STEP", step, time.Since(began), err)
		os.WriteFile("/tmp/deploywork/up-"+step+".log", out.Bytes(), 0o644)
		if step == "again" || err != nil {
			fmt.Println(out.String())
		}
	}
	r.wantBack(before)
}
