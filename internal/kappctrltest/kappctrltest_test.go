package kappctrltest_test

import (
	"testing"

	"k8s.io/client-go/discovery"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/kappctrltest"
)

func TestStartsAndEnds(t *testing.T) {
	cluster := clustertest.Start(t)
	c := kappctrltest.Start(t, cluster)
	config, err := cluster.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.ServerResourcesForGroupVersion("data.packaging.carvel.dev/v1alpha1")
	if err != nil {
		t.Fatal(err)
	}
	if len(list.APIResources) < 2 {
		t.Errorf("resources %+v, want packages and their metadata", list.APIResources)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}
