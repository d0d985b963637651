package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/kubernetes/pkg/controller/namespace/deletion"
)

const (
	// namespaceController is the one of the controller manager, which namespaceDeleter replaces.
	namespaceController = "namespace-controller"
	// observeDelay lets admission see that a namespace is being deleted before its content goes. Kubernetes
	// itself waits 5 s, for API servers and members of etcd that lag behind: here is one of each.
	observeDelay = 500 * time.Millisecond
	// remainingDelay is between two looks at what has finalizers. Kubernetes waits half of the time that pods
	// have to end, which those of KWOK do not take.
	remainingDelay = time.Second
	// namespaceWorkers is the default of the controller manager.
	namespaceWorkers = 10
)

// namespaceDeleter is Kubernetes' own deletion of namespaces without its delays, which nearly all of the time of
// tests that delete would be.
type namespaceDeleter struct {
	content deletion.NamespacedResourcesDeleterInterface
	queue   workqueue.TypedRateLimitingInterface[string]
}

// deleteNamespaces removes the content of namespaces that are being deleted, and then them, until ctx ends.
func deleteNamespaces(ctx context.Context, config *rest.Config, client kubernetes.Interface) error {
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	d := &namespaceDeleter{
		content: deletion.NewNamespacedResourcesDeleter(ctx, client.CoreV1().Namespaces(), objects, client.CoreV1(),
			client.Discovery().ServerPreferredNamespacedResources, corev1.FinalizerKubernetes),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	_, err = factory.Core().V1().Namespaces().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    d.enqueue,
		UpdateFunc: func(_, now any) { d.enqueue(now) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	context.AfterFunc(ctx, d.queue.ShutDown)
	for range namespaceWorkers {
		go d.work(ctx)
	}
	return nil
}

func (d *namespaceDeleter) enqueue(object any) {
	if n, is := object.(*corev1.Namespace); is && n.DeletionTimestamp != nil {
		d.queue.AddAfter(n.Name, observeDelay)
	}
}

func (d *namespaceDeleter) work(ctx context.Context) {
	for {
		name, ended := d.queue.Get()
		if ended {
			return
		}
		var remaining *deletion.ResourcesRemainingError
		switch err := d.content.Delete(ctx, name); {
		case err == nil:
			d.queue.Forget(name)
		case errors.As(err, &remaining):
			d.queue.AddAfter(name, remainingDelay)
		default:
			if ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "delete namespace %s: %v\n", name, err)
			}
			d.queue.AddRateLimited(name)
		}
		d.queue.Done(name)
	}
}
