package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
)

// served remembers which kinds the API server has, for the first look of each app: to ask for
// each of 50 apps takes longer than all else of an apply that changes nothing.
type served struct {
	mu        sync.Mutex
	groups    []*metav1.APIGroup
	resources []*metav1.APIResourceList
	// failing is the error for groups that are known and do not answer; nil if all do.
	failing error
}

// forget is for when the kinds may have changed.
func (s *served) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups, s.resources, s.failing = nil, nil, nil
}

// forgetAfter forgets if such resources bring kinds, or take them away.
func (s *served) forgetAfter(resources []kappres.Resource) {
	if slices.ContainsFunc(resources, func(r kappres.Resource) bool {
		return r.Kind() == "CustomResourceDefinition" || r.Kind() == "APIService"
	}) {
		s.forget()
	}
}

func (s *served) ask(ctx context.Context, d discovery.DiscoveryInterfaceWithContext) ([]*metav1.APIGroup, []*metav1.APIResourceList, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resources != nil {
		return s.groups, s.resources, s.failing
	}
	groups, resources, err := d.ServerGroupsAndResourcesWithContext(quiet(ctx))
	if err == nil || discovery.IsGroupDiscoveryFailedError(err) && len(resources) > 0 {
		s.groups, s.resources, s.failing = groups, resources, err
	}
	return groups, resources, err
}

// failures are the groups that do not answer, with the reasons.
func (s *served) failures() map[schema.GroupVersion]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed *discovery.ErrGroupDiscoveryFailed
	if !errors.As(s.failing, &failed) {
		return nil
	}
	return failed.Groups
}

// answering returns the group versions whose kinds are known.
func (s *served) answering() []schema.GroupVersion {
	s.mu.Lock()
	defer s.mu.Unlock()
	failing := discovery.ErrGroupDiscoveryFailed{}
	var failed *discovery.ErrGroupDiscoveryFailed
	if errors.As(s.failing, &failed) {
		failing = *failed
	}
	var answering []schema.GroupVersion
	for _, list := range s.resources {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err == nil && failing.Groups[gv] == nil {
			answering = append(answering, gv)
		}
	}
	return answering
}

// failure returns why a group does not answer; nil if it does, or is not known.
func (s *served) failure(group string) error {
	for gv, err := range s.failures() {
		if gv.Group == group {
			return fmt.Errorf("%s is not available: %w", gv, err)
		}
	}
	return nil
}

// rememberingClient answers the first question for what is served from memory, and those that
// come after it, which kapp asks when it misses something, from the server.
type rememberingClient struct {
	kubernetes.Interface
	discovery *rememberingDiscovery
}

func newRememberingClient(client kubernetes.Interface, s *served) kubernetes.Interface {
	return &rememberingClient{client, &rememberingDiscovery{DiscoveryInterfaces: client.Discovery(), served: s}}
}

func (c *rememberingClient) Discovery() discovery.DiscoveryInterfaces { return c.discovery }

type rememberingDiscovery struct {
	discovery.DiscoveryInterfaces
	served *served
	first  sync.Once
}

func (d *rememberingDiscovery) ServerGroupsAndResources() (groups []*metav1.APIGroup, resources []*metav1.APIResourceList, err error) {
	again := true
	d.first.Do(func() { again = false })
	if again {
		d.served.forget()
	}
	return d.served.ask(context.Background(), d.DiscoveryInterfaces) // kapp has no context to give
}
