package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
)

// servedKinds remembers which kinds the API server has, for the first look of each app: to ask for
// each of 50 apps takes longer than all else of an apply that changes nothing.
type servedKinds struct {
	mu        sync.Mutex
	groups    []*metav1.APIGroup
	resources []*metav1.APIResourceList
	// failing is the error for groups that are known and do not answer; nil if all do.
	failing error
}

// forgetKinds is for when the kinds may have changed.
func (s *servedKinds) forgetKinds() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups, s.resources, s.failing = nil, nil, nil
}

// forgetAfter forgets if such resources bring kinds, or take them away.
func (s *servedKinds) forgetAfter(resources []kappres.Resource) {
	if slices.ContainsFunc(resources, func(r kappres.Resource) bool {
		return r.Kind() == "CustomResourceDefinition" || r.Kind() == "APIService"
	}) {
		s.forgetKinds()
	}
}

func (s *servedKinds) askKinds(ctx context.Context, d discovery.DiscoveryInterfaceWithContext) ([]*metav1.APIGroup, []*metav1.APIResourceList, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resources != nil {
		return s.groups, s.resources, s.failing
	}
	groups, resources, err := d.ServerGroupsAndResourcesWithContext(apiserver.WithoutLogs(ctx))
	if err == nil || discovery.IsGroupDiscoveryFailedError(err) && len(resources) > 0 {
		s.groups, s.resources, s.failing = groups, resources, err
	}
	return groups, resources, err
}

// servedKinds returns all that the API server has now.
func (s *session) servedKinds(ctx context.Context) (map[schema.GroupVersionKind]metav1.APIResource, error) {
	_, lists, err := s.engine.served.askKinds(ctx, s.cluster.client.Discovery())
	if err != nil && len(lists) == 0 {
		return nil, fmt.Errorf("discover the APIs of %s: %w", s.cluster.Server(), err)
	}
	served := map[schema.GroupVersionKind]metav1.APIResource{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				r.Group, r.Version = gv.Group, gv.Version
				served[gv.WithKind(r.Kind)] = r
			}
		}
	}
	return served, nil
}

// failedGroups returns the groups that do not answer, with the reasons.
func (s *servedKinds) failedGroups() map[schema.GroupVersion]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed *discovery.ErrGroupDiscoveryFailed
	if !errors.As(s.failing, &failed) {
		return nil
	}
	return failed.Groups
}

// answeringVersions returns the group versions whose kinds are known.
func (s *servedKinds) answeringVersions() []schema.GroupVersion {
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

// groupFailure returns why a group does not answer; nil if it does, or is not known.
func (s *servedKinds) groupFailure(group string) error {
	for gv, err := range s.failedGroups() {
		if gv.Group == group {
			return fmt.Errorf("%s is not available: %w", gv, err)
		}
	}
	return nil
}

type rememberingDiscovery struct {
	discovery.DiscoveryInterfaces
	served *servedKinds
	first  sync.Once
}

func (d *rememberingDiscovery) ServerGroupsAndResources() (groups []*metav1.APIGroup, resources []*metav1.APIResourceList, err error) {
	again := true
	d.first.Do(func() { again = false })
	if again {
		d.served.forgetKinds()
	}
	return d.served.askKinds(context.Background(), d.DiscoveryInterfaces) // kapp has no context to give
}
