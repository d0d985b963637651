package deploy

import (
	"errors"
	"time"

	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/retry"
)

// recordingResources records on an object what is applied of it in the same request that writes
// the object. kapp by itself sends a second one afterwards, which conflicts with what controllers
// write meanwhile, so that it waits a second for each Deployment.
//
// kapp's record has the checksum of how the manifest, merged, and the object differ: the API server
// writes some values in another way. Here it is that of no difference. If the answer differs, kapp
// sends the second request after all.
type recordingResources struct {
	kappres.Resources
	// manifests are what is wanted, by kapp's key of each resource.
	manifests map[string]kappres.Resource
	// changes compares resources. Until it is set kapp records all.
	changes *comparison
	// approved are the changes that are to be written, by the same keys.
	approved map[string]diff.Change
	options  diff.ChangeSetOpts
}

// noDifference is the checksum of two resources that do not differ.
var noDifference = diff.OpsDiff(nil).MinimalMD5()

func (w *recordingResources) expectManifests(manifests []kappres.Resource, changes *comparison) {
	w.changes = changes
	w.manifests = make(map[string]kappres.Resource, len(manifests))
	for _, r := range manifests {
		w.manifests[kappres.NewUniqueResourceKey(r).String()] = r
	}
}

// approveChanges tells what is about to be written.
func (w *recordingResources) approveChanges(changes []diff.Change, options diff.ChangeSetOpts) {
	w.options, w.approved = options, make(map[string]diff.Change, len(changes))
	for _, change := range changes {
		if change.Op() == diff.ChangeOpUpdate {
			w.approved[kappres.NewUniqueResourceKey(change.NewResource()).String()] = change
		}
	}
}

// Create creates what is itself the manifest.
func (w *recordingResources) Create(r kappres.Resource) (kappres.Resource, error) {
	return w.writeRecorded(r, r, w.createOnceServed)
}

// servedTimeout bounds how long a kind may take from its definition to the API server's list of kinds.
const servedTimeout = 30 * time.Second

// servedPolicy has growing pauses between looks: each reads all lists, and the server is busy.
var servedPolicy = retry.Policy{Longest: 4 * time.Second}

// createOnceServed creates a resource. The plan had its kind, or its definition: where the kind is not in the list of
// kinds, a busy API server is late with it. Kapp looks twice, one right after the other.
func (w *recordingResources) createOnceServed(r kappres.Resource) (kappres.Resource, error) {
	end := time.Now().Add(servedTimeout)
	for attempt := 0; ; attempt++ {
		created, err := w.Resources.Create(r)
		var unknown kappres.ResourceTypesUnknownTypeErr
		if !errors.As(err, &unknown) || time.Now().After(end) {
			return created, err
		}
		time.Sleep(servedPolicy.Pause(attempt))
	}
}

// conflictTries is how often an object that others write meanwhile is merged again for each of
// kapp's own ten tries, and conflictPause about how long each of them waits.
const (
	conflictTries = 10
	conflictPause = 20 * time.Millisecond
)

// Update writes what was merged from the manifest and the object on the cluster. Kapp gives up after
// ten conflicts, which a busy controller makes in a second: here it is merged again, too.
func (w *recordingResources) Update(r kappres.Resource) (kappres.Resource, error) {
	manifest := w.manifests[kappres.NewUniqueResourceKey(r).String()]
	answer, err := w.writeRecorded(r, manifest, w.Resources.Update)
	for attempt := 0; attempt < conflictTries && apierrors.IsConflict(err) && !isRecorded(r); attempt++ {
		time.Sleep(retry.AddJitter(conflictPause)) // so that it does not keep step with who writes
		merged := w.mergeAgain(r)
		if merged == nil {
			break // kapp tells why
		}
		answer, err = w.writeRecorded(merged, manifest, w.Resources.Update)
	}
	return answer, err
}

// mergeAgain merges what is to be written with the object as it is now. It returns nil if that
// is not possible, or is another change than the approved one.
func (w *recordingResources) mergeAgain(r kappres.Resource) kappres.Resource {
	approved := w.approved[kappres.NewUniqueResourceKey(r).String()]
	if approved == nil {
		return nil
	}
	latest, err := w.Resources.Get(r)
	if err != nil {
		return nil
	}
	changes, err := diff.NewChangeSet([]kappres.Resource{latest}, []kappres.Resource{approved.AppliedResource()}, w.options, w.changes.ChangeFactory).Calculate()
	if err != nil || len(changes) != 1 || changes[0].Op() != diff.ChangeOpUpdate ||
		changes[0].OpsDiff().MinimalMD5() != approved.OpsDiff().MinimalMD5() {
		return nil
	}
	return changes[0].NewResource()
}

func (w *recordingResources) writeRecorded(r, manifest kappres.Resource, send func(kappres.Resource) (kappres.Resource, error)) (kappres.Resource, error) {
	if w.changes == nil || manifest == nil || isRecorded(r) {
		return send(r)
	}
	manifest = manifest.DeepCopy()
	setAnnotations(manifest, map[string]string{marks.Identity: ""})
	text, err := manifest.AsCompactBytes()
	if err != nil {
		return nil, err
	}
	recorded := r.DeepCopy()
	setAnnotations(recorded, map[string]string{marks.Original: string(text), marks.OriginalMD5: noDifference})
	answer, err := send(recorded)
	if err != nil {
		return nil, err
	}
	if w.changes.isAsApplied(answer, manifest) {
		setAnnotations(answer, map[string]string{marks.DisableOriginal: "true"}) // in memory: kapp need not write again
	}
	return answer, nil
}

// isRecorded reports whether a resource has kapp's record, or must not get one.
func isRecorded(r kappres.Resource) bool {
	_, disabled := r.Annotations()[marks.DisableOriginal]
	return disabled || r.Annotations()[marks.Original] != ""
}

// setAnnotations sets annotations of a resource in memory; an empty value removes one.
func setAnnotations(r kappres.Resource, values map[string]string) {
	u := unstructured.Unstructured{Object: r.UnstructuredObject()}
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	for key, value := range values {
		if value == "" {
			delete(annotations, key)
		} else {
			annotations[key] = value
		}
	}
	if len(annotations) == 0 {
		annotations = nil // which removes the field
	}
	u.SetAnnotations(annotations)
}
