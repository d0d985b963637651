package preflight

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"github.com/opencontainers/go-digest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// bundleOf is a bundle of one file, of a name that is also its version.
func bundleOf(t *testing.T, name string, docs ...string) inspectedBundle {
	t.Helper()
	all, err := resources.Read(fstest.MapFS{"all.yaml": {Data: []byte(strings.Join(docs, "\n---\n"))}})
	if err != nil {
		t.Fatal(err)
	}
	defined, err := resources.ReadDefinitions(all)
	if err != nil {
		t.Fatal(err)
	}
	return inspectBundle(Bundle{Name: name}, all, defined, "home")
}

// served are kinds of a cluster, as "GROUP/VERSION KIND PLURAL"; those whose plural is in capitals are in no namespace.
func served(kinds ...string) map[schema.GroupVersionKind]metav1.APIResource {
	all := map[schema.GroupVersionKind]metav1.APIResource{}
	for _, k := range kinds {
		fields := strings.Fields(k)
		plural := strings.ToLower(fields[2])
		all[schema.FromAPIVersionAndKind(fields[0], fields[1])] = metav1.APIResource{Name: plural, Namespaced: plural == fields[2]}
	}
	return all
}

func wantFindings(t *testing.T, what string, found []Finding, want ...string) {
	t.Helper()
	var got []string
	for _, f := range found {
		got = append(got, f.String())
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func object(apiVersion, kind, name string) string {
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s}", apiVersion, kind, name)
}

func definition(plural, kind, group string) string {
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.%[3]s}
spec:
  group: %[3]s
  scope: Namespaced
  names: {plural: %[1]s, kind: %[2]s}
  versions:
  - {name: v0, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}`, plural, kind, group)
}

// A kind has to be served, or to come with the same bundle or an earlier one, in the version that is used.
func TestKinds(t *testing.T) {
	t.Parallel()
	in := &inspection{cluster: Cluster{Served: served("v1 ConfigMap configmaps", "apiextensions.k8s.io/v1 CustomResourceDefinition CUSTOMRESOURCEDEFINITIONS",
		"apiregistration.k8s.io/v1 APIService APISERVICES", "flowcontrol.apiserver.k8s.io/v1beta3 FlowSchema FLOWSCHEMAS")}}
	in.bundles = []inspectedBundle{
		bundleOf(t, "early", object("late.example/v1", "Late", "a"), object("late.example/v1", "Late", "b"), object("v1", "ConfigMap", "c"),
			"apiVersion: kapp.k14s.io/v1alpha1\nkind: Config\nwaitRules: []"),
		bundleOf(t, "late", definition("lates", "Late", "late.example"), object("late.example/v1", "Late", "a"),
			object("apiregistration.k8s.io/v1", "APIService", "v1.metrics.example")),
		bundleOf(t, "app", object("late.example/v1", "Late", "b"), object("late.example/v0", "Late", "c"), object("metrics.example/v1", "Metric", "d"),
			object("policy/v1beta1", "PodDisruptionBudget", "e"), object("flowcontrol.apiserver.k8s.io/v1beta3", "FlowSchema", "f"), object("nobody.example/v1", "Kind", "g")),
	}
	found, err := in.checkAPI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range found {
		found[i].Check = CheckAPI
	}
	wantFindings(t, "kinds", found,
		"error (api): early, Late a (late.example/v1): the cluster does not serve late.example/v1 Late, and no earlier bundle defines it; bundle late defines it, but later: require it",
		"error (api): app, Late c (late.example/v0): the cluster does not serve late.example/v0 Late, and no earlier bundle defines it",
		"error (api): app, PodDisruptionBudget e (policy/v1beta1): policy/v1beta1 PodDisruptionBudget was removed in Kubernetes 1.25; use policy/v1",
		"warning (api): app, FlowSchema f (flowcontrol.apiserver.k8s.io/v1beta3): flowcontrol.apiserver.k8s.io/v1beta3 FlowSchema is deprecated since Kubernetes 1.29 and removed in 1.32; use flowcontrol.apiserver.k8s.io/v1",
		"error (api): app, Kind g (nobody.example/v1): the cluster does not serve nobody.example/v1 Kind, and no earlier bundle defines it")
	wrong := RefuseFindings(found).(*FindingsError)
	if len(wrong.Findings) != 4 || wrong.SkippableChecks() != nil {
		t.Errorf("%d findings, can be skipped: %v", len(wrong.Findings), wrong.SkippableChecks())
	}
	if names := (&FindingsError{found[:1]}).SkippableChecks(); !reflect.DeepEqual(names, []string{CheckAPI}) {
		t.Errorf("can be skipped: %v", names)
	}
}

// One resource is in one bundle, in whichever version and namespace it is written; so is a default class.
func TestTwice(t *testing.T) {
	t.Parallel()
	in := &inspection{cluster: Cluster{Served: served("v1 ConfigMap configmaps", "storage.k8s.io/v1 StorageClass STORAGECLASSES", "a.example/v1 A as", "a.example/v2 A as")}}
	class := func(name string) string {
		return "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: " + name + ", namespace: of-" + name + ", annotations: {storageclass.kubernetes.io/is-default-class: \"true\"}}"
	}
	in.bundles = []inspectedBundle{
		bundleOf(t, "one", object("v1", "ConfigMap", "same"), object("v1", "ConfigMap", "same"), object("a.example/v1", "A", "a"), class("fast"), object("v1", "ConfigMap", "{name: x, namespace: y}")),
		bundleOf(t, "two", object("v1", "ConfigMap", "same"), object("a.example/v2", "A", "a"), class("slow"), strings.Replace(class("fast"), "of-fast", "another", 1)),
	}
	found, err := in.checkTwice(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantFindings(t, "resources", found,
		"error (): two, ConfigMap same (v1): bundle one has it, too",
		"error (): two, A a (a.example/v2): bundle one has it, too",
		"error (): two, StorageClass fast (storage.k8s.io/v1) in namespace another: bundle one has it, too")
	first, found := firstDefaults(in.bundles)
	wantFindings(t, "default classes", found,
		"error (): two, StorageClass slow (storage.k8s.io/v1) in namespace of-slow: is a default class, and so is StorageClass fast (storage.k8s.io/v1) in namespace of-fast of bundle one")
	if len(first) != 1 || first["StorageClass"].id.Name != "fast" {
		t.Errorf("default classes: %v", first)
	}
}

// What distributions add to Kubernetes' version is nothing that a range excludes.
func TestClusterVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ wanted, version, want string }{
		{"", "v1.34.2", ""},
		{">=1.30", "v1.34.2", ""},
		{">=1.30 <1.35", "v1.34.2-eks-1234", ""},
		{">=1.30", "v1.30.0-rc.1+k3s1", ""},
		{"<1.30", "v1.34.2+k3s1", "error (): a: requires Kubernetes <1.30, but the cluster is v1.34.2+k3s1"},
		{"<1.30", "newest", `warning (): the cluster's version "newest" is invalid`},
	} {
		found, err := compareVersions([]Bundle{{Name: "a", Kubernetes: c.wanted}}, c.version)
		if err != nil || len(found) > 1 || (c.want == "") != (len(found) == 0) || len(found) == 1 && found[0].String() != c.want {
			t.Errorf("%q on %s: %v, %v", c.wanted, c.version, found, err)
		}
	}
	if _, err := compareVersions([]Bundle{{Name: "a", Kubernetes: "new"}}, "v1.34.2"); err == nil || !strings.Contains(err.Error(), `bundle a: kubernetes "new"`) {
		t.Errorf("got %v", err)
	}
}

func TestPlatforms(t *testing.T) {
	t.Parallel()
	images := []Image{
		{Bundle: "a", Name: "all", Platforms: []string{"linux/amd64", "linux/arm64"}},
		{Bundle: "a", Name: "some", Platforms: []string{"linux/amd64", "windows/amd64"}},
		{Bundle: "b", Name: "none", Platforms: []string{"linux/s390x"}},
		{Bundle: "b", Name: "unknown"},
	}
	wantFindings(t, "platforms", comparePlatforms(images, []string{"linux/amd64", "linux/arm64"}),
		"warning (): a: image some is for linux/amd64, windows/amd64, but there are nodes of linux/arm64",
		"error (): b: image none is for linux/s390x, but there are nodes of linux/amd64, linux/arm64")
	wantFindings(t, "no nodes", comparePlatforms(images, nil))
}

// An older version over a newer one is told of, and over one that failed; what is not semver is not compared.
func TestDowngrades(t *testing.T) {
	t.Parallel()
	revision := func(number int, version string, state records.State) records.Revision {
		return records.Revision{Number: number, Version: version, Digest: "sha256:" + version, State: state}
	}
	recorded := []records.Revision{revision(3, "2.0.0", records.Incomplete), revision(2, "1.10.0", records.Complete), revision(1, "3.0.0", records.Complete)}
	for version, want := range map[string]string{
		"2.0.0": "", "2.1.0": "", "nightly": "",
		"1.10.0":   "warning (downgrade): edge 1.10.0 (sha256:1.10.0) is older than 2.0.0 (sha256:2.0.0), revision 3 on the cluster (failed)",
		"2.0.0+1":  "warning (downgrade): edge 2.0.0+1 (sha256:2.0.0+1) is another build than 2.0.0 (sha256:2.0.0), revision 3 on the cluster (failed)",
		"2.0.0-rc": "warning (downgrade): edge 2.0.0-rc (sha256:2.0.0-rc) is older than 2.0.0 (sha256:2.0.0), revision 3 on the cluster (failed)",
	} {
		found := FindDowngrade(recorded, bundle.Release{Name: "edge", Version: version, Digest: digest.Digest("sha256:" + version)})
		if len(found) > 1 || (want == "") != (len(found) == 0) || len(found) == 1 && found[0].String() != want {
			t.Errorf("%s: %v", version, found)
		}
	}
	rebuilt := FindDowngrade(recorded, bundle.Release{Name: "edge", Version: "2.0.0", Digest: "sha256:other"})
	wantFindings(t, "another build", rebuilt, "warning (downgrade): edge 2.0.0 (sha256:other) is another build than sha256:2.0.0, revision 3 on the cluster (failed)")
	in := &inspection{runtime: Runtime{Release: bundle.Release{Name: "edge", Version: "3.0.0"}, Revisions: recorded, Bundles: []Bundle{
		{Name: "older", Version: "1.9.0", Installed: "1.10.0"}, {Name: "newer", Version: "1.10.0", Installed: "1.9.0"},
		{Name: "new", Version: "1.0.0"}, {Name: "unversioned", Installed: "1.0.0"},
	}}}
	found, err := in.checkDowngrade(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantFindings(t, "bundles", found, "warning (): older: 1.9.0 is older than 1.10.0 on the cluster")
}

// Of what refers to something that the runtime brings a dry run cannot know; what no apply would get through is wrong.
func TestRefusals(t *testing.T) {
	t.Parallel()
	resource, err := kappres.NewResourceFromBytes([]byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: space}"))
	if err != nil {
		t.Fatal(err)
	}
	maps, kind := schema.GroupResource{Resource: "configmaps"}, schema.GroupKind{Kind: "ConfigMap"}
	noNamespace := apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "space")
	invalid := apierrors.NewInvalid(kind, "a", nil)
	webhook := func(text string) error { return apierrors.NewInternalError(errors.New(text)) }
	provided := RuntimeProvides{Namespaces: sets.New("space"), Kinds: sets.New(kind)}
	for name, c := range map[string]struct {
		refusal  Refusal
		provided RuntimeProvides
		want     string
	}{
		"a conflict":              {Refusal{Err: apierrors.NewConflict(maps, "a", errors.New("x"))}, RuntimeProvides{}, ""},
		"it is there now":         {Refusal{IsCreate: true, Err: apierrors.NewAlreadyExists(maps, "a")}, RuntimeProvides{}, ""},
		"no dry run":              {Refusal{Err: apierrors.NewBadRequest("x does not support dry run")}, RuntimeProvides{}, ""},
		"no namespace":            {Refusal{IsCreate: true, Err: noNamespace}, RuntimeProvides{}, "error namespace space does not exist, and no bundle creates it"},
		"a namespace that comes":  {Refusal{IsCreate: true, Err: noNamespace}, provided, ""},
		"an invalid object":       {Refusal{Err: invalid}, RuntimeProvides{}, `error ConfigMap "a" is invalid`},
		"a kind that changes":     {Refusal{Err: invalid}, provided, `warning ConfigMap "a" is invalid`},
		"a webhook that denies":   {Refusal{Err: webhook(`admission webhook "a" denied the request: b`)}, RuntimeProvides{}, "error "},
		"a webhook that is down":  {Refusal{Err: webhook(`failed calling webhook "a"`)}, RuntimeProvides{}, "warning "},
		"a quota":                 {Refusal{IsCreate: true, Err: apierrors.NewForbidden(maps, "a", errors.New("exceeded quota: q"))}, RuntimeProvides{}, "error "},
		"a creation, not allowed": {Refusal{IsCreate: true, Err: apierrors.NewForbidden(maps, "a", errors.New("no"))}, RuntimeProvides{}, "warning "},
		"an update, not allowed":  {Refusal{Err: apierrors.NewForbidden(maps, "a", errors.New("no"))}, RuntimeProvides{}, "error "},
	} {
		c.refusal.Resource = resource
		f, is := c.refusal.Judge(c.provided)
		severity, text, _ := strings.Cut(c.want, " ")
		if is != (c.want != "") || is && (string(f.Severity) != severity || !strings.HasPrefix(f.Message, text) || f.Check != CheckDryRun) {
			t.Errorf("%s: %v, %v", name, f, is)
		}
	}
}

// The API server quotes values that it refuses, a Secret's among them: they are left out.
func TestRefusalsQuoteNothingLong(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("opensesame", 10)
	err := &apierrors.StatusError{ErrStatus: metav1.Status{Message: "all of it", Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{
		{Field: "data", Message: `Invalid value: {"a":"` + long + `"}: field is immutable`}, {Field: "type", Message: `Unsupported value: "b"`},
	}}}}
	if text := refusalText(err); text != `data: Invalid value: field is immutable; type: Unsupported value: "b"` {
		t.Error(text)
	}
}
