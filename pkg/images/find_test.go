package images_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

func parse(t *testing.T, data string) *manifest.File {
	t.Helper()
	f, err := manifest.Parse("f.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Each image is found with its place, its resource and its path.
func TestFindImagesOfEveryKind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, data string
		want       []string
	}{
		{"Pod", `
kind: Pod
metadata: {name: web}
spec:
  initContainers: [{image: init:1}]
  containers:
  - {name: a, image: web:1}
  - name: b
    image: "web:2"
  ephemeralContainers: [{image: debug:1}]
`, []string{
			"5:28 Pod web spec.initContainers[0].image init:1",
			"7:22 Pod web spec.containers[0].image web:1",
			"9:12 Pod web spec.containers[1].image web:2",
			"10:33 Pod web spec.ephemeralContainers[0].image debug:1",
		}},
		{"CronJob", `
kind: CronJob
metadata: {name: c}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: job:1}]}}}}}
`, []string{"4:68 CronJob c spec.jobTemplate.spec.template.spec.containers[0].image job:1"}},
		{"List", `
kind: List
items:
- kind: Deployment
  metadata: {name: a}
  spec: {template: {spec: {containers: [{image: web:1}]}}}
- {kind: ConfigMap}
`, []string{"6:49 List items[0].spec.template.spec.containers[0].image web:1"}},
		{"custom resource with a pod template", `
kind: Database
metadata: {name: db}
spec: {replicas: 3, podTemplate: {spec: {containers: [{image: db:1}]}}}
`, []string{"4:63 Database db spec.podTemplate.spec.containers[0].image db:1"}},
		{"image volume", `
kind: Pod
spec:
  volumes:
  - {name: model, image: {reference: model:1, pullPolicy: Always}}
  - {name: empty, emptyDir: {}}
`, []string{"5:38 Pod spec.volumes[0].image.reference model:1"}},
		{"several documents", "kind: A\n---\nkind: Pod\nspec: {containers: [{image: a}]}\n---\nkind: Pod\nspec: {containers: [{image: b}]}\n",
			[]string{"4:29 Pod spec.containers[0].image a", "7:29 Pod spec.containers[0].image b"}},
		{"alias of an image", "x: &i web:1\nspec: {containers: [{image: *i}, {image: *i}]}\n",
			[]string{"1:4 document spec.containers[0].image web:1"}},
		{"alias of a container", "x: &c {image: web:1}\nspec: {containers: [*c]}\n",
			[]string{"1:15 document spec.containers[0].image web:1"}},
		{"alias of the containers", "x: &c [{image: web:1}]\nspec: {containers: *c}\n",
			[]string{"1:16 document spec.containers[0].image web:1"}},
		{"alias of a key", "x: &c containers\nspec: {*c : [{image: web:1}]}\n",
			[]string{"2:22 document spec.containers[0].image web:1"}},
		{"merged into a container", "x: &c {image: web:1}\nspec: {containers: [{<<: *c, name: a}]}\n",
			[]string{"1:15 document spec.containers[0].image web:1"}},
		{"several merged into a container, which readers resolve differently", "x: [&c {image: web:1}, &d {image: web:2}]\nspec: {containers: [{image: web:3, <<: [*c, *d]}]}\n",
			[]string{"1:16 document spec.containers[0].image web:1", "1:35 document spec.containers[0].image web:2", "2:29 document spec.containers[0].image web:3"}},
		{"merged into a pod", "x: &s {containers: [{image: web:1}]}\nspec: {<<: *s}\n",
			[]string{"1:29 document x.containers[0].image web:1"}},
		{"merged into an image volume", "x: &v {reference: m:1}\nspec: {volumes: [{image: {<<: *v}}]}\n",
			[]string{"1:19 document spec.volumes[0].image.reference m:1"}},
		{"no image", "spec: {containers: [{image: null}, {image: ''}, {image: ' '}, {image: }, {name: a}]}\n", nil},
		{"no container fields", `
kind: CustomResourceDefinition
spec:
  containers: {properties: {image: {type: string}}}
  initContainers: many
  image: 3
  containers2: [{image: {a: b}}]
`, nil},
		{"white space around it", "spec: {containers: [{image: ' web:1 '}]}\n", []string{"1:29 document spec.containers[0].image web:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found, err := new(images.Finder).Find(parse(t, c.data))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				got = append(got, fmt.Sprintf("%d:%d %s %s %s", f.Line, f.Column, f.Resource, f.Path, f.Image))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestFindRefusesWhatIsNoReference(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		"kind: Pod\nspec: {containers: [{image: 3}]}\n":             "f.yaml:2:29: Pod: spec.containers[0].image is 3, not an image reference",
		"kind: Pod\nspec: {containers: [{image: !!binary d2Vi}]}\n": "f.yaml:2:29: Pod: spec.containers[0].image is d2Vi, not an image reference",
	} {
		if _, err := new(images.Finder).Find(parse(t, data)); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Aliases that multiply are walked once.
func TestFindWalksAliasesOnce(t *testing.T) {
	t.Parallel()
	lists, merges := "l0: &l0 [x]\n", "l0: &l0 {image: x}\n"
	for i := range 14 {
		lists += fmt.Sprintf("l%d: &l%d [*l%d, *l%d]\n", i+1, i+1, i, i)
		merges += fmt.Sprintf("l%d: &l%d {<<: [*l%d, *l%d]}\n", i+1, i+1, i, i)
	}
	for _, data := range []string{lists, merges + "containers: [*l14]\n"} {
		if _, err := new(images.Finder).Find(parse(t, data)); err != nil {
			t.Errorf("%.40q: %v", data, err)
		}
	}
}

const (
	zeros = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	ones  = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
)

func digest(t *testing.T, s string) name.Digest {
	t.Helper()
	d, err := name.NewDigest(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// atSite returns where a site has its images.
func atSite(d name.Digest) string { return "site.example/krt@" + d.DigestStr() }

func TestRelocateChangesImagesOnly(t *testing.T) {
	t.Parallel()
	const data = `# A comment that names web:1.
kind: Pod
x-common: &common {image: "web:1"}   # shared
metadata: {name: web, annotations: {tag: web:1}}
spec:
  containers:
  - <<: *common
  - image: >-
      agent:2
    args: [web:1, 0755, yes]
  volumes: [{image: {reference: 'web:1'}}]
`
	lock := images.Lock{
		{Image: digest(t, "docker.io/library/agent@"+ones), Reference: "agent:2"},
		{Image: digest(t, "docker.io/library/web@"+zeros), Reference: "web:1"},
	}
	got, err := lock.Relocate(parse(t, data), new(images.Finder), atSite)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(
		`"web:1"`, `"site.example/krt@`+zeros+`"`,
		`'web:1'`, `'site.example/krt@`+zeros+`'`,
		"agent:2", "site.example/krt@"+ones,
	).Replace(data)
	if string(got) != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestRelocateRefuses(t *testing.T) {
	t.Parallel()
	lock := images.Lock{{Image: digest(t, "docker.io/library/web@"+zeros), Reference: "web:1"}}
	for data, want := range map[string]string{
		"kind: Pod\nspec: {containers: [{image: web:2}]}\n":                   `f.yaml:2:29: Pod: image "web:2" is not in the image lock`,
		"kind: Pod\nspec: {containers: [{image: docker.io/library/web:1}]}\n": `f.yaml:2:29: Pod: image "docker.io/library/web:1" is not in the image lock`,
	} {
		got, err := lock.Relocate(parse(t, data), new(images.Finder), atSite)
		if err == nil || err.Error() != want {
			t.Errorf("got %q, %v\nwant %s", got, err, want)
		}
	}
}
