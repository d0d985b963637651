package deploy

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"carvel.dev/kapp/pkg/kapp/clusterapply"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// rehearsals is how many dry runs of a bundle are sent at a time.
const rehearsals = 8

// rehearseChanges sends what would be written to the API server as a dry run, so that an object which
// it would refuse is found before the first write. Updates that it refuses and that are to be
// replaced then are marked in result.
//
// What is refused only because something is missing that the runtime brings is not a finding.
func rehearseChanges(ctx context.Context, a kappApp, p *kappParts, steps []*clusterapply.ClusterChange, wanted []kappres.Resource, result *callResult) []preflight.Finding {
	var (
		mu       sync.Mutex
		findings []preflight.Finding
		group    errgroup.Group
	)
	group.SetLimit(rehearsals)
	for _, s := range steps {
		op, r := s.ApplyOp(), s.Resource()
		if op != clusterapply.ClusterChangeApplyOpAdd && op != clusterapply.ClusterChangeApplyOpUpdate || r.Transient() {
			continue
		}
		group.Go(func() error {
			err := dryRun(ctx, p, op, r)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			strategy, _ := s.ApplyStrategyOp()
			isFixed := op == clusterapply.ClusterChangeApplyOpUpdate && apierrors.IsInvalid(err) && isValidByItself(ctx, p, manifestOf(r, wanted))
			mu.Lock()
			defer mu.Unlock()
			if op == clusterapply.ClusterChangeApplyOpUpdate && apierrors.IsInvalid(err) && (strategy == fallbackOnReplace || strategy == alwaysReplace) {
				result.markReplaced(idOf(r))
				return nil
			}
			refusal := preflight.Refusal{Resource: r, IsCreate: op == clusterapply.ClusterChangeApplyOpAdd, Err: err}
			if f, is := refusal.Judge(preflight.RuntimeProvides{Namespaces: a.newNamespaces, Kinds: a.ownKinds}); is {
				if isFixed {
					f.Message += "; annotate it with " + updateStrategy + ": " + fallbackOnReplace + " to have it deleted and created again"
				}
				findings = append(findings, f)
			}
			return nil
		})
	}
	_ = group.Wait() // no error: findings are the result
	return findings
}

// dryRun is one request that the API server checks and does not carry out.
func dryRun(ctx context.Context, p *kappParts, op clusterapply.ClusterChangeApplyOp, r kappres.Resource) error {
	served, err := p.types.Find(r)
	if err != nil {
		return nil // the same bundle brings the kind
	}
	object := &unstructured.Unstructured{Object: r.DeepCopyRaw()}
	var client dynamic.ResourceInterface = p.objects.Resource(served.GroupVersionResource)
	if served.Namespaced() {
		client = p.objects.Resource(served.GroupVersionResource).Namespace(r.Namespace())
	}
	all := []string{metav1.DryRunAll}
	if op == clusterapply.ClusterChangeApplyOpAdd && p.known.lacksNamespace(r) {
		return decodeStrict(object) // the API server would say only that there is no such namespace
	}
	if op == clusterapply.ClusterChangeApplyOpAdd {
		_, err = client.Create(apiserver.WithoutLogs(ctx), object, metav1.CreateOptions{DryRun: all})
	} else {
		_, err = client.Update(apiserver.WithoutLogs(ctx), object, metav1.UpdateOptions{DryRun: all})
	}
	return err
}

// decodeStrict reads an object of Kubernetes' own kinds as the API server does before all else.
func decodeStrict(object *unstructured.Unstructured) error {
	data, err := object.MarshalJSON()
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	_, gvk, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err == nil || runtime.IsNotRegisteredError(err) {
		return nil
	}
	return apierrors.NewBadRequest(fmt.Sprintf("%[1]s in version %[2]q cannot be handled as a %[1]s: %[3]v", gvk.Kind, gvk.GroupVersion(), err))
}

// markReplaced notes that a resource will be deleted and created.
func (d *callResult) markReplaced(id ResourceID) {
	for i, c := range d.changes {
		if c.IsSame(id) {
			d.changes[i].Replace = true
		}
	}
}

// manifestOf returns what kapp creates where it replaces a resource: the manifest, without what was
// merged into it. A versioned resource has no other.
func manifestOf(r kappres.Resource, wanted []kappres.Resource) kappres.Resource {
	if i := slices.IndexFunc(wanted, func(w kappres.Resource) bool { return idOf(w).IsSame(idOf(r)) }); i >= 0 {
		return wanted[i]
	}
	return r
}

// isValidByItself reports whether the API server would take a resource that it refuses as an update
// if it were not there yet: only then does it help to delete it and create it again. It never does
// for a definition, whose objects would be lost.
func isValidByItself(ctx context.Context, p *kappParts, r kappres.Resource) bool {
	if r.Kind() == "CustomResourceDefinition" {
		return false
	}
	err := dryRun(ctx, p, clusterapply.ClusterChangeApplyOpAdd, r)
	return err == nil || apierrors.IsAlreadyExists(err) // which it says after all else
}
