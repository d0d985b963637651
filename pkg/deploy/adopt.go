package deploy

import (
	"context"
	"errors"
	"fmt"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	"carvel.dev/kapp/pkg/kapp/clusterapply"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// annotationAdopting names, on the ConfigMap of an app, the resources that the app is about to
// adopt: until the apply has ended well they are not the app's to delete.
const annotationAdopting = "krtpkg.dev/adopting"

// changeAdopting runs a change that takes resources over which no kapp app has. If the change fails,
// these are given back as they were.
func (e *engine) changeAdopting(ctx context.Context, a kappApp, steps []*clusterapply.ClusterChange, change func() error) error {
	var adopted []kappres.Resource
	for _, s := range steps {
		was := s.ClusterOriginalResource()
		if was != nil && s.ApplyOp() == clusterapply.ClusterChangeApplyOpUpdate && was.Labels()[marks.App] == "" {
			adopted = append(adopted, was)
		}
	}
	if len(adopted) == 0 {
		return change()
	}
	if err := e.cluster.noteAdoption(ctx, a.name, listIDs(adopted)); err != nil {
		return err
	}
	err := change()
	if err == nil {
		return e.cluster.noteAdoption(ctx, a.name, nil)
	}
	// The apply may have been interrupted; what it has begun is undone all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), records.EndTimeout)
	defer cancel()
	if undo := e.cluster.giveBack(ctx, adopted); undo != nil {
		return errors.Join(err, undo)
	}
	return errors.Join(err, e.cluster.noteAdoption(ctx, a.name, nil))
}

// noteAdoption records which resources an app is about to adopt.
func (c *Cluster) noteAdoption(ctx context.Context, app string, resources []ResourceID) error {
	configMap, err := c.appConfigMap(ctx, app)
	if err != nil {
		return err
	}
	var value any // null removes it
	if len(resources) > 0 {
		value = encodeInventory(resources)
	}
	return c.patchConfigMap(ctx, configMap.Name, map[string]any{"annotations": map[string]any{annotationAdopting: value}})
}

// appConfigMap returns the ConfigMap of a kapp app.
func (c *Cluster) appConfigMap(ctx context.Context, app string) (*corev1.ConfigMap, error) {
	for _, name := range []string{app, app + kapp.AppSuffix} {
		cm, err := c.configMaps().Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read kapp's record of %s: %w", app, err)
		}
		if _, isApp := cm.Labels[kapp.KappIsAppLabelKey]; isApp {
			return cm, nil
		}
	}
	return nil, fmt.Errorf("read kapp's record of %s: no such app in namespace %s", app, c.namespace)
}

// giveBack writes resources as they were before an adoption that failed.
func (c *Cluster) giveBack(ctx context.Context, resources []kappres.Resource) error {
	objects, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range resources {
		client := objects.Resource(r.GroupVersionResource()).Namespace(r.Namespace())
		now, err := client.Get(apiserver.WithoutLogs(ctx), r.Name(), metav1.GetOptions{})
		switch {
		case err == nil && (now.GetLabels()[marks.App] == "" || string(now.GetUID()) != r.UID()):
			continue // it was not reached
		case err == nil:
			was := &unstructured.Unstructured{Object: r.DeepCopyRaw()}
			was.SetResourceVersion(now.GetResourceVersion())
			was.SetManagedFields(nil)
			_, err = client.Update(apiserver.WithoutLogs(ctx), was, metav1.UpdateOptions{})
		}
		if err := apiserver.IgnoreNotFound(err); err != nil {
			errs = append(errs, fmt.Errorf("restore %s, which could not be adopted: %w", idOf(r), err))
		}
	}
	return errors.Join(errs...)
}

// adoptedInPart returns the resources whose adoption by an app has not ended.
func (c *Cluster) adoptedInPart(ctx context.Context, app string) (func(kappres.Resource) bool, error) {
	cm, err := c.appConfigMap(ctx, app)
	if err != nil {
		return nil, err
	}
	ids, err := readInventory(cm.Annotations[annotationAdopting])
	if err != nil {
		return nil, fmt.Errorf("configmap %s/%s, annotation %s: %w", cm.Namespace, cm.Name, annotationAdopting, err)
	}
	return func(r kappres.Resource) bool {
		for _, id := range ids {
			if id.IsSame(idOf(r)) {
				return true
			}
		}
		return false
	}, nil
}
