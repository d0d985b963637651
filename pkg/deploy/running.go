package deploy

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// RunningContainer is a container of a pod, or a volume that is an image.
type RunningContainer struct {
	Namespace, Pod, Name string
	// Kind is container, init container, ephemeral container or image volume.
	Kind string
	// Image is what the pod names.
	Image string
	// Digest is what the node reports that it runs: that of an index, of one platform's manifest or of a config,
	// as its container runtime has it. Empty until it has pulled the image, and for image volumes.
	Digest digest.Digest
	// Owners are the owner of the pod, the owner of that, and so on. A static pod belongs to its node.
	Owners []Owner
}

// Owner is a resource that owns a pod or another owner.
type Owner struct {
	APIVersion, Kind, Namespace, Name string
	// Runtime and Bundle are the installed bundle that it is part of, or that defines its kind, if any.
	Runtime, Bundle string
	// IsApplied reports whether it is part of the bundle.
	IsApplied bool
	// Object is a custom resource as the API server has it; nil for other kinds and what cannot be read.
	Object map[string]any
}

// String returns the owner as messages name it.
func (o Owner) String() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// podPage is how many pods are listed at a time, maxOwners how long a chain of owners is.
const (
	podPage   = 500
	maxOwners = 10
)

// RunningContainers returns the containers of all pods in a namespace, or in [AllNamespaces], with their owners. Owners
// that this user may not read are named, as the pod does, and nothing more is known of them.
func (c *Cluster) RunningContainers(ctx context.Context, namespace string) ([]RunningContainer, error) {
	finder, err := c.newOwnerFinder(ctx)
	if err != nil {
		return nil, err
	}
	var all []RunningContainer
	options := metav1.ListOptions{Limit: podPage}
	for {
		pods, err := c.client.CoreV1().Pods(namespace).List(apiserver.WithoutLogs(ctx), options)
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		for i := range pods.Items {
			pod := &pods.Items[i]
			owners, err := finder.findOwners(ctx, pod)
			if err != nil {
				return nil, fmt.Errorf("find the owners of pod %s/%s: %w", pod.Namespace, pod.Name, err)
			}
			all = append(all, listContainers(pod, owners)...)
		}
		if options.Continue = pods.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// listContainers returns the containers and image volumes of a pod.
func listContainers(pod *corev1.Pod, owners []Owner) (all []RunningContainer) {
	add := func(kind, name, image string, statuses []corev1.ContainerStatus) {
		one := RunningContainer{Namespace: pod.Namespace, Pod: pod.Name, Name: name, Kind: kind, Image: image, Owners: owners}
		for _, status := range statuses {
			if status.Name == name {
				one.Digest = reportedDigest(status.ImageID)
			}
		}
		all = append(all, one)
	}
	for _, c := range pod.Spec.InitContainers {
		add("init container", c.Name, c.Image, pod.Status.InitContainerStatuses)
	}
	for _, c := range pod.Spec.Containers {
		add("container", c.Name, c.Image, pod.Status.ContainerStatuses)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		add("ephemeral container", c.Name, c.Image, pod.Status.EphemeralContainerStatuses)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Image != nil && v.Image.Reference != "" {
			add("image volume", v.Name, v.Image.Reference, nil)
		}
	}
	return all
}

var imageIDDigest = regexp.MustCompile(`sha256:[0-9a-f]{64}$`)

// reportedDigest returns the digest in a container's imageID: REPOSITORY@DIGEST, docker-pullable://REPOSITORY@DIGEST, or
// a digest alone.
func reportedDigest(imageID string) digest.Digest {
	return digest.Digest(imageIDDigest.FindString(imageID))
}

// ownerFinder finds owners, each once.
type ownerFinder struct {
	objects dynamic.Interface
	mapper  meta.RESTMapper
	// bundles are the installed bundles by kapp's label.
	bundles map[string]Installed
	known   map[types.UID]*foundOwner
	// kinds are the bundles that define kinds, by resource; the zero one for none.
	kinds map[schema.GroupResource]Installed
}

type foundOwner struct {
	Owner
	next *metav1.OwnerReference
}

func (c *Cluster) newOwnerFinder(ctx context.Context) (*ownerFinder, error) {
	objects, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return nil, err
	}
	f := &ownerFinder{
		objects: objects, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.client.Discovery())),
		bundles: map[string]Installed{}, known: map[types.UID]*foundOwner{}, kinds: map[schema.GroupResource]Installed{},
	}
	selector, err := appSelector("")
	if err != nil {
		return nil, err
	}
	apps, err := c.client.CoreV1().ConfigMaps(AllNamespaces).List(apiserver.WithoutLogs(ctx), metav1.ListOptions{LabelSelector: selector.String()})
	if apierrors.IsForbidden(err) {
		return f, nil // the owners are found all the same
	}
	if err != nil {
		return nil, fmt.Errorf("list installed bundles: %w", err)
	}
	for _, cm := range apps.Items {
		installed, err := readInstalled(&cm)
		if err != nil {
			return nil, fmt.Errorf("list installed bundles: configmap %s/%s: %w", cm.Namespace, cm.Name, err)
		}
		f.bundles[installed.label] = installed
	}
	return f, nil
}

// findOwners returns the chain of owners of a pod.
func (f *ownerFinder) findOwners(ctx context.Context, pod *corev1.Pod) (owners []Owner, err error) {
	next := controllerOf(pod.OwnerReferences)
	for len(owners) < maxOwners && next != nil {
		found := f.known[next.UID]
		if found == nil {
			if found, err = f.readOwner(ctx, pod.Namespace, next); err != nil {
				return nil, err
			}
			f.known[next.UID] = found
		}
		owners, next = append(owners, found.Owner), found.next
	}
	return owners, nil
}

// controllerOf returns the owner that made an object, or the first one.
func controllerOf(references []metav1.OwnerReference) *metav1.OwnerReference {
	for i := range references {
		if references[i].Controller != nil && *references[i].Controller {
			return &references[i]
		}
	}
	if len(references) > 0 {
		return &references[0]
	}
	return nil
}

func (f *ownerFinder) readOwner(ctx context.Context, namespace string, reference *metav1.OwnerReference) (*foundOwner, error) {
	found := &foundOwner{Owner: Owner{APIVersion: reference.APIVersion, Kind: reference.Kind, Name: reference.Name}}
	group, err := schema.ParseGroupVersion(reference.APIVersion)
	if err != nil {
		return found, nil // not the name of any kind
	}
	mapping, err := f.mapper.RESTMapping(group.WithKind(reference.Kind).GroupKind(), group.Version)
	if meta.IsNoMatchError(err) {
		return found, nil // its definition was deleted
	}
	if err != nil {
		return nil, err
	}
	client := dynamic.ResourceInterface(f.objects.Resource(mapping.Resource))
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		found.Namespace = namespace
		client = f.objects.Resource(mapping.Resource).Namespace(namespace)
	}
	object, err := client.Get(apiserver.WithoutLogs(ctx), reference.Name, metav1.GetOptions{})
	if err != nil {
		return found, ignoreUnreadable(err)
	}
	if object.GetUID() != reference.UID {
		return found, nil // another one of that name
	}
	found.next = controllerOf(object.GetOwnerReferences())
	return found, f.describeOwner(ctx, found, object, mapping.Resource.GroupResource())
}

func ignoreUnreadable(err error) error {
	if isUnreadable(err) {
		return nil
	}
	return err
}

// describeOwner adds which bundle an owner is part of, or which defines its kind.
func (f *ownerFinder) describeOwner(ctx context.Context, found *foundOwner, object *unstructured.Unstructured, resource schema.GroupResource) error {
	installed, is := f.bundles[object.GetLabels()[marks.App]]
	found.IsApplied = is
	isCustom := strings.Contains(resource.Group, ".") // of Kubernetes' own, a definition isn't found
	if isCustom {
		found.Object = object.Object
	}
	if !is && isCustom {
		defined, err := f.definingBundle(ctx, resource)
		if err != nil {
			return err
		}
		installed = defined
	}
	found.Runtime, found.Bundle = installed.Runtime, installed.Bundle
	return nil
}

// definingBundle returns the bundle with the CustomResourceDefinition of a resource.
func (f *ownerFinder) definingBundle(ctx context.Context, resource schema.GroupResource) (Installed, error) {
	if known, is := f.kinds[resource]; is {
		return known, nil
	}
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	object, err := f.objects.Resource(definitions).Get(apiserver.WithoutLogs(ctx), resource.String(), metav1.GetOptions{})
	if isUnreadable(err) {
		f.kinds[resource] = Installed{}
		return Installed{}, nil
	}
	if err != nil {
		return Installed{}, err
	}
	f.kinds[resource] = f.bundles[cmp.Or(object.GetLabels()[marks.App], "-")]
	return f.kinds[resource], nil
}
