package deploy

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// requestLog counts requests by what they do: "POST configmaps", "GET configmaps/name".
type requestLog struct {
	mu    sync.Mutex
	count map[string]int
}

func (l *requestLog) record(request *http.Request) fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	resource := parts[len(parts)-1]
	if len(parts) > 1 && strings.HasPrefix(resource, "many-") {
		resource = parts[len(parts)-2] + "/name"
	}
	key := request.Method + " " + resource
	if len(parts) == 3 {
		key += " everywhere"
	}
	if request.URL.Query().Has("dryRun") {
		key += " dry"
	}
	if request.URL.Query().Has("labelSelector") {
		key += " selected"
	}
	l.count[key]++
	return passes
}

func (l *requestLog) take() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.count
	l.count = map[string]int{}
	return taken
}

// An object that is created in a namespace which its runtime brings takes one request, and what is the
// same is listed once for all bundles.
func TestRequestsOfAnApply(t *testing.T) {
	r := newRig(t)
	log := &requestLog{count: map[string]int{}}
	c := newFaultyProxy(r, true, log.record).connect(Config{}, &clientcmdapi.AuthInfo{})
	const bundles, objects = 4, 20
	rt := Runtime{Name: "edge", Version: "1"}
	for b := range bundles {
		namespace := fmt.Sprintf("%s-%d", r.namespace, b)
		docs := []string{"apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + "}"}
		for i := range objects {
			docs = append(docs, fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: many-%d, namespace: %s}\ndata: {a: b}", i, namespace))
		}
		rt.Units = append(rt.Units, unit(b+1, fmt.Sprintf("b%d", b), "1", docs...))
	}
	if _, err := c.Apply(t.Context(), rt, ApplyOptions{Options: quick()}); err != nil {
		t.Fatal(err)
	}
	first := log.take()
	for _, none := range []string{"GET configmaps/name", "PUT configmaps/name", "PATCH configmaps/name"} {
		if first[none] > 0 {
			t.Errorf("%d requests %s for objects that were created: %v", first[none], none, first)
		}
	}
	// With kapp's records: two for each app, and the runtime's own.
	if created := first["POST configmaps"]; created < bundles*objects || created > bundles*objects+bundles*2+2 {
		t.Errorf("%d ConfigMaps were created: %v", created, first)
	}
	if listed := first["GET configmaps everywhere selected"]; listed > 0 {
		t.Errorf("kapp looked %d times into all namespaces: %v", listed, first)
	}
	if listed := first["GET namespaces everywhere"]; listed != 1 {
		t.Errorf("all namespaces were listed %d times, want once: %v", listed, first)
	}
	for b := range bundles {
		if asked := first[fmt.Sprintf("GET %s-%d", r.namespace, b)]; asked > 1 {
			t.Errorf("a namespace was asked for %d times, want once, before it is created: %v", asked, first)
		}
	}
	if dry := first["POST configmaps dry"]; dry >= objects {
		t.Errorf("%d dry runs in namespaces that are not there: %v", dry, first)
	}
	if _, err := c.Apply(t.Context(), rt, ApplyOptions{Options: quick()}); err != nil {
		t.Fatal(err)
	}
	again := log.take()
	for b := range bundles {
		if asked := again[fmt.Sprintf("GET edge.b%d", b)]; asked > 0 {
			t.Errorf("kapp's record of b%d was read %d times, after it had been listed: %v", b, asked, again)
		}
	}
	if listed := again["GET namespaces everywhere selected"]; listed != 1 {
		t.Errorf("namespaces were listed %d times for %d bundles: %v", listed, bundles, again)
	}
	if again["POST configmaps"]+again["GET configmaps/name"] > 0 {
		t.Errorf("an apply that changes nothing: %v", again)
	}
}

// What cannot be decoded is found before the first write also where the namespace is not there yet, and
// nothing can be dry-run.
func TestUndecodableInNewNamespace(t *testing.T) {
	r := newRig(t)
	namespace := r.namespace + "-new"
	plan := r.plan(Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1",
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+"}",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: wrong, namespace: "+namespace+"}\ndata: {a: {b: c}}",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: right, namespace: "+namespace+"}\ndata: {a: b}",
	)}})
	if got := plan.lines(); !strings.Contains(got, "ConfigMap wrong") || !strings.Contains(got, "cannot be handled as a ConfigMap") || strings.Contains(got, "right") {
		t.Errorf("findings %q", got)
	}
	if preflight.RefuseFindings(plan.Findings) == nil {
		t.Error("apply would go ahead")
	}
}

// lateKinds are the resources of an API server that is late with its list of kinds.
type lateKinds struct {
	kappres.Resources
	late int
}

func (l *lateKinds) Create(r kappres.Resource) (kappres.Resource, error) {
	if l.late--; l.late >= 0 {
		return nil, kappres.ResourceTypesUnknownTypeErr{}
	}
	return r, nil
}

// A kind that was defined just before may be missing in the list of kinds for a while.
func TestCreateOfLateKind(t *testing.T) {
	t.Parallel()
	resource := kappres.MustNewResourceFromBytes([]byte("apiVersion: krt.example/v1\nkind: Gadget\nmetadata: {name: a}\n"))
	w := &recordingResources{Resources: &lateKinds{late: 3}}
	if created, err := w.Create(resource); err != nil || created == nil {
		t.Errorf("%v, %v", created, err)
	}
}
