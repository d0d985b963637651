package images_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Each place where images hide: what is found, how, and what becomes of the file at a site.
func TestFindAndRelocateInEveryPlace(t *testing.T) {
	t.Parallel()
	const pinned = "site.example/krt@" + zeros
	for _, c := range []struct {
		name, data string
		found      []string // state, how, path, image
		relocated  string   // the part of the result that matters; the data itself when empty
	}{
		{"argument with =", "kind: Pod\nspec: {containers: [{args: [--agent-image=agent:1, --level=info:2]}]}\n",
			[]string{"image argument spec.containers[0].args[0] agent:1"}, "[--agent-image=" + pinned + ", --level=info:2]"},
		{"argument after its flag", "kind: Pod\nspec: {containers: [{args: [-shell-image, sh:1, -v, sh:1]}]}\n",
			[]string{"image argument spec.containers[0].args[1] sh:1"}, "[-shell-image, " + pinned + ", -v, sh:1]"},
		{"argument with a full reference", "kind: Pod\nspec: {containers: [{args: ['--reloader=quay.io/a/b:v1']}]}\n",
			[]string{"image argument spec.containers[0].args[0] quay.io/a/b:v1"}, "'--reloader=" + pinned + "'"},
		{"script in a command", "kind: Pod\nspec:\n  containers:\n  - command: [sh, -c]\n    args:\n    - |\n      ctr run quay.io/a/b:v1 x\n      curl https://quay.io/a/b:v1\n",
			[]string{"image argument spec.containers[0].args[0] quay.io/a/b:v1"}, "ctr run " + pinned + " x\n      curl https://quay.io/a/b:v1"},
		{"policy flags are no images", "kind: Pod\nspec: {containers: [{args: [--image-pull-policy=a:b, --image-pull-secret, x/y]}]}\n", nil, ""},
		{"ko", "kind: Pod\nspec: {containers: [{args: [-image, ko://github.com/a/b]}]}\n",
			[]string{"suspect argument spec.containers[0].args[1] ko://github.com/a/b"}, ""},
		{"environment", "kind: Pod\nspec: {containers: [{env: [{name: RELATED_IMAGE_A, value: a/b:1}, {name: IMAGE_TAG, value: 'v1:2'}, {name: X, value: plain}]}]}\n",
			[]string{"image environment spec.containers[0].env[0].value a/b:1"}, "value: " + pinned + "}, {name: IMAGE_TAG, value: 'v1:2'}"},
		{"table in the environment", "kind: Pod\nspec:\n  containers:\n  - env:\n    - name: TABLE\n      value: |\n        1.0=quay.io/a/b:1\n        2.0=quay.io/a/b:1 # old\n",
			[]string{"image environment spec.containers[0].env[0].value quay.io/a/b:1", "image environment spec.containers[0].env[0].value quay.io/a/b:1"},
			"1.0=" + pinned + "\n        2.0=" + pinned + " # old"},
		{"short names in the environment", "kind: Pod\nspec: {containers: [{env: [{name: WORKER_IMG, value: 'redis:7.2'}, {name: IMG_AGENT, value: 'a/b:1'}, {name: IMG_TAG, value: 'v1:2'}, {name: TIMGA, value: 'c:1'}]}]}\n",
			[]string{"image environment spec.containers[0].env[0].value redis:7.2", "suspect environment spec.containers[0].env[1].value a/b:1"}, "value: '" + pinned + "'}, {name: IMG_AGENT, value: 'a/b:1'}"},
		{"list next to a full reference", "kind: Pod\nspec: {containers: [{args: ['--sidecars=web=ghcr.io/a/b:1,c=redis:7.2,debug', '--more=sh:1,quay.io/a/b:2,level']}]}\n",
			[]string{"image argument spec.containers[0].args[0] ghcr.io/a/b:1", "suspect argument spec.containers[0].args[0] redis:7.2", "suspect argument spec.containers[0].args[1] sh:1", "image argument spec.containers[0].args[1] quay.io/a/b:2"}, "web=" + pinned + ",c=redis:7.2,debug"},
		{"single word in the environment", "kind: Pod\nspec: {containers: [{env: [{name: BASE_IMAGE, value: busybox}]}]}\n",
			[]string{"suspect environment spec.containers[0].env[0].value busybox"}, ""},
		{"ConfigMap that is YAML", "kind: ConfigMap\ndata:\n  pod.yaml: |\n    spec:\n      containers:\n      - image: \"web:1\" # x\n",
			[]string{"image container data.pod.yaml | spec.containers[0].image web:1"}, "      - image: \"" + pinned + "\" # x"},
		{"ConfigMap that is JSON in a quoted string", `kind: ConfigMap
data: {c.json: "{\"WorkerImage\": \"a/b:1\"}"}
`, []string{"image image field data.c.json | WorkerImage a/b:1"}, `\"WorkerImage\": \"` + pinned + `\"`},
		{"ConfigMap that is text", "kind: ConfigMap\ndata:\n  run.sh: |\n    # quay.io/a/b:0\n    run quay.io/a/b:1.\n",
			[]string{"image text data.run.sh quay.io/a/b:1"}, "# quay.io/a/b:0\n    run " + pinned + "."},
		{"ConfigMap key", "kind: ConfigMap\ndata: {attacher: 'quay.io/a/b:1', sidecarImage: b:1, other: b:1}\n",
			[]string{"image text data.attacher quay.io/a/b:1", "image image field data.sidecarImage b:1"}, "other: b:1"},
		{"ConfigMap keys that share an image", "kind: ConfigMap\ndata: {scan.repository: a/b, scan.tag: \"1\"}\n",
			[]string{"image split fields data.scan.repository a/b:1"}, "scan.repository: site.example/krt, scan.tag: \"1@" + zeros + `"`},
		{"text that a checksum covers", "kind: ConfigMap\ndata:\n  _example: |\n    image: quay.io/a/b:1\n", nil, ""},
		{"Secret", "kind: Secret\nstringData: {image: a/b:1}\ndata: {x: cXVheS5pby9hL2I6MQ==}\n",
			[]string{"image image field stringData.image a/b:1", "suspect sweep data.x quay.io/a/b:1"}, "image: " + pinned},
		{"custom resource", "kind: CephCluster\nspec: {cephVersion: {image: quay.io/a/b:1}}\n",
			[]string{"image image field spec.cephVersion.image quay.io/a/b:1"}, "image: " + pinned},
		{"single word in a custom resource", "kind: Machine\nspec: {image: ubuntu}\n",
			[]string{"suspect image field spec.image ubuntu"}, ""},
		{"steps of Tekton", "apiVersion: tekton.dev/v1\nkind: Task\nspec: {steps: [{image: golang}], stepTemplate: {image: sh}}\n",
			[]string{"image container spec.steps[0].image golang", "image container spec.stepTemplate.image sh"}, "image: " + pinned},
		{"repository and tag", "kind: X\nspec: {image: {repository: quay.io/a/b, tag: 1.10}}\n",
			[]string{"image split fields spec.image.repository quay.io/a/b:1.10"}, "repository: site.example/krt, tag: 1.10@" + zeros},
		{"registry, repository, tag and digest", "kind: X\nspec: {image: {registry: quay.io, repository: a/b, tag: v1, digest: '" + ones + "'}}\n",
			[]string{"image split fields spec.image.repository quay.io/a/b:v1@" + ones}, "registry: site.example, repository: krt, tag: v1, digest: '" + zeros + "'"},
		{"repository and a bare hash", "kind: X\nspec: {image: {repository: a/b, tag: v1, sha: " + ones[7:] + "}}\n",
			[]string{"image split fields spec.image.repository a/b:v1@" + ones}, "tag: v1, sha: " + zeros[7:]},
		{"repository without a tag", "kind: X\nspec: {image: {repository: quay.io/a/b, tag: ''}}\n",
			[]string{"suspect split fields spec.image.repository quay.io/a/b"}, ""},
		{"repository of something else", "kind: X\nspec: {git: {repository: github.com/a/b, tag: v1}, chart: {repository: 'https://a.example/b', tag: v1}}\n", nil, ""},
		{"annotation", "kind: X\nmetadata: {annotations: {containerImage: a/b:1, sidecar: quay.io/a/c:1}}\n",
			[]string{"image annotation metadata.annotations.containerImage a/b:1", "suspect sweep metadata.annotations.sidecar quay.io/a/c:1"}, "containerImage: " + pinned},
		{"what tools noted before", "kind: X\nmetadata:\n  annotations:\n    kbld.k14s.io/images: |\n      - url: quay.io/a/b:1\n    kubectl.kubernetes.io/last-applied-configuration: '{\"image\":\"quay.io/a/b:1\"}'\n",
			[]string{"ignored provenance metadata.annotations.kbld.k14s.io/images quay.io/a/b:1", "ignored provenance metadata.annotations.kubectl.kubernetes.io/last-applied-configuration quay.io/a/b:1"}, ""},
		{"schema", "kind: CustomResourceDefinition\nspec: {schema: {description: 'such as quay.io/a/b:1', image: {default: quay.io/a/b:2}}}\n",
			[]string{"suspect image field spec.schema.image.default quay.io/a/b:2"}, ""},
		{"artifact", "kind: OCIRepository\nspec: {url: 'oci://ghcr.io/a/b'}\n",
			[]string{"suspect sweep spec.url oci://ghcr.io/a/b"}, ""},
		{"any other field", "kind: X\nspec: {plugin: quay.io/a/b:1, page: 'https://quay.io/a/b:1', icon: a/image.png, image: /a.png}\n",
			[]string{"suspect sweep spec.plugin quay.io/a/b:1"}, ""},
		{"documents in documents", "kind: ConfigMap\ndata:\n  a.yaml: |\n    kind: ConfigMap\n    data:\n      b.json: '{\"image\": \"a/b:1\"}'\n",
			[]string{"image image field data.a.yaml | data.b.json | image a/b:1"}, `'{"image": "` + pinned + `"}'`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found, err := new(images.Finder).Find(parse(t, c.data))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			var lock images.Lock
			for _, f := range found {
				got = append(got, fmt.Sprintf("%s %s %s %s", f.State, f.How, f.Path, f.Image))
				lock = append(lock, images.Locked{Image: digest(t, "x.example/y@"+zeros), Reference: f.Image})
			}
			if !slices.Equal(got, c.found) {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.found, "\n"))
			}
			out, err := lock.Relocate(parse(t, c.data), new(images.Finder), atSite)
			if err != nil {
				t.Fatal(err)
			}
			if c.relocated == "" && string(out) != c.data || !strings.Contains(string(out), c.relocated) {
				t.Errorf("relocated:\n%s\nwant in it:\n%s", out, c.relocated)
			}
		})
	}
}

// A definition's rules come first, and mean what they mean to kbld.
func TestSearchRules(t *testing.T) {
	t.Parallel()
	const data = `kind: X
spec:
  image: a/b:1
  list: [{sidecar: c}, {sidecar: d}]
  config: |
    plugin: e
    image: f/g:1
  other: docker.io/library/h:1
`
	for _, c := range []struct {
		name, rules string
		found       []string
	}{
		{"key by name", "- keyMatcher: {name: sidecar}", []string{"image image field spec.image", "image search rule spec.list[0].sidecar", "image search rule spec.list[1].sidecar", "image image field spec.config | image", "suspect sweep spec.other"}},
		{"path with an index", "- keyMatcher: {path: [spec, list, {index: 1}, sidecar]}", []string{"image image field spec.image", "image search rule spec.list[1].sidecar", "image image field spec.config | image", "suspect sweep spec.other"}},
		{"path with all indexes", "- keyMatcher: {path: [spec, list, {allIndexes: true}, sidecar]}", []string{"image image field spec.image", "image search rule spec.list[0].sidecar", "image search rule spec.list[1].sidecar", "image image field spec.config | image", "suspect sweep spec.other"}},
		{"a field left alone", "- {keyMatcher: {name: image}, updateStrategy: {none: {}}}", []string{"ignored search rule spec.image", "ignored search rule spec.config | image", "suspect sweep spec.other"}},
		{"value by repository", "- {valueMatcher: {imageRepo: h}}", []string{"image image field spec.image", "image image field spec.config | image", "image search rule spec.other"}},
		{"value as a whole", "- {valueMatcher: {image: 'docker.io/library/h:1'}}", []string{"image image field spec.image", "image image field spec.config | image", "image search rule spec.other"}},
		{"embedded YAML", "- {keyMatcher: {path: [spec, config]}, updateStrategy: {yaml: {searchRules: [{keyMatcher: {name: plugin}}]}}}", []string{"image image field spec.image", "image search rule spec.config | plugin", "image image field spec.config | image", "suspect sweep spec.other"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var finder images.Finder
			if err := yaml.Unmarshal([]byte(c.rules), &finder.Rules); err != nil {
				t.Fatal(err)
			}
			found, err := finder.Find(parse(t, data))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				got = append(got, fmt.Sprintf("%s %s %s", f.State, f.How, f.Path))
			}
			if !slices.Equal(got, c.found) {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.found, "\n"))
			}
		})
	}
}

// A rule that joins fields makes one image of them, and says which of them point to the mirror.
func TestSearchRulesJoinFields(t *testing.T) {
	t.Parallel()
	const repo, at = "site.example/org/krt", "@" + zeros
	for _, c := range []struct{ name, rules, data, image, relocated, kept string }{
		{"all of three", "- {join: [base, image, tag]}",
			"kind: X\nspec: {base: quay.io/org, image: server, tag: v1}\n", "quay.io/org/server:v1",
			"{base: site.example, image: org/krt, tag: v1" + at + "}", ""},
		{"all of four", "- {join: [registry, repository, image, version]}",
			"kind: X\nspec: {registry: nvcr.io, repository: nvidia, image: driver, version: 550.1}\n", "nvcr.io/nvidia/driver:550.1",
			"{registry: site.example, repository: org, image: krt, version: 550.1" + at + "}", ""},
		{"a digest where the tag was", "- {join: [repository, image, version], pin: digest}",
			"kind: X\nspec: {repository: nvcr.io/nvidia, image: driver, version: 550.1}\n", "nvcr.io/nvidia/driver:550.1",
			"{repository: site.example, image: org/krt, version: " + zeros + "}", ""},
		{"one field that takes all", "- {join: [hub, image, tag], rewrite: [image]}",
			"kind: X\nspec: {hub: quay.io/org, image: server, tag: v1}\n", "quay.io/org/server:v1",
			"{hub: quay.io/org, image: " + repo + at + ", tag: v1}", "hub quay.io/org, tag v1"},
		{"two of three", "- {join: [hub, image, tag], rewrite: [image, tag]}",
			"kind: X\nspec: {hub: quay.io/org, image: server, tag: v1}\n", "quay.io/org/server:v1",
			"{hub: quay.io/org, image: " + repo + ", tag: v1" + at + "}", "hub quay.io/org"},
		{"an image with its tag", "- {join: [hub, image]}",
			"kind: X\nspec: {hub: quay.io/org, image: 'server:v1'}\n", "quay.io/org/server:v1",
			"{hub: site.example, image: 'org/krt" + at + "'}", ""},
		{"fields by other names", "- {join: [where, what, ':rev', '@sum']}",
			"kind: X\nspec: {where: quay.io, what: org/server, rev: r1, sum: '" + ones + "'}\n", "quay.io/org/server:r1@" + ones,
			"{where: site.example, what: org/krt, rev: r1, sum: '" + zeros + "'}", ""},
		{"a parent's base", "- {join: [../../base, image, tag], keyMatcher: {path: [spec, operands, server]}}",
			"kind: X\nspec:\n  base: quay.io/org\n  operands:\n    server: {image: server, tag: v1}\n", "quay.io/org/server:v1",
			"base: site.example\n  operands:\n    server: {image: org/krt, tag: v1" + at + "}", ""},
		{"in a string", "- {join: [image, defaultImageVersion]}",
			"kind: ConfigMap\ndata:\n  explainers: '{\"image\": \"org/explainer\", \"defaultImageVersion\": \"latest\"}'\n", "org/explainer:latest",
			`{"image": "` + repo + `", "defaultImageVersion": "latest` + at + `"}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var finder images.Finder
			if err := yaml.Unmarshal([]byte(c.rules), &finder.Rules); err != nil {
				t.Fatal(err)
			}
			found, err := finder.Find(parse(t, c.data))
			if err != nil {
				t.Fatal(err)
			}
			if len(found) != 1 || found[0].State != images.Image || found[0].Image != c.image || strings.Join(found[0].KeptFields(), ", ") != c.kept {
				t.Errorf("got %+v, want the image %s with %q kept", found, c.image, c.kept)
			}
			lock := images.Lock{{Image: digest(t, "x.example/y@"+zeros), Reference: c.image}}
			out, err := lock.Relocate(parse(t, c.data), &finder, func(name.Digest) string { return repo + at })
			if err != nil || !strings.Contains(string(out), c.relocated) {
				t.Errorf("got %v\n%s\nwant in it\n%s", err, out, c.relocated)
			}
		})
	}
}

// What a rule cannot do it refuses, and without its fields it decides on nothing.
func TestSearchRulesJoinWhatIsThere(t *testing.T) {
	t.Parallel()
	finder := images.Finder{Rules: []images.Rule{{Join: []string{"registry", "repository", "image", "tag"}}}}
	const all = "kind: X\nspec: {registry: quay.io, repository: org, image: a, tag: v1}\n"
	lock := images.Lock{{Image: digest(t, "x.example/y@"+zeros), Reference: "quay.io/org/a:v1"}}
	if out, err := lock.Relocate(parse(t, all), &finder, atSite); err == nil || !strings.Contains(err.Error(), "site.example/krt has too few parts for 3 fields") {
		t.Errorf("got %s, %v", out, err)
	}
	for data, want := range map[string]string{
		"kind: X\nspec: {repository: quay.io/org, image: a, tag: v1}\n":                 "suspect split fields quay.io/org/a:v1",
		"kind: X\nspec: {registry: '<registry>', repository: org, image: a, tag: v1}\n": "suspect search rule <registry>/org/a:v1",
	} {
		found, err := finder.Find(parse(t, data))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %+v, %v", data, found, err)
		}
		if got := fmt.Sprintf("%s %s %s", found[0].State, found[0].How, found[0].Image); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestCheckRulesNamesThePlace(t *testing.T) {
	t.Parallel()
	for rules, want := range map[string]string{
		"- {}":                                    "searchRules[0]: want keyMatcher, or valueMatcher with one of image and imageRepo, or both",
		"- {join: [a]}":                           "searchRules[0].join: want at least two fields",
		"- {join: [a, tag, b]}":                   `searchRules[0].join[2]: "b" comes after the tag: want the fields in the order of the reference`,
		"- {join: [':a', tag]}":                   "searchRules[0].join: want a field with a repository",
		"- {join: [a, '../']}":                    `searchRules[0].join[1]: "../" names no field`,
		"- {join: [a, tag], rewrite: [b]}":        `searchRules[0].rewrite[0]: "b" is not in join`,
		"- {join: [a, tag], pin: tag}":            `searchRules[0].pin is "tag", want tag@digest or digest`,
		"- {keyMatcher: {name: a}, rewrite: [a]}": "searchRules[0]: rewrite and pin require join",
		"- {join: [a, b], updateStrategy: {json: {searchRules: []}}}": "searchRules[0].updateStrategy: want none or nothing with join",
		"- {keyMatcher: {}}":                      "searchRules[0].keyMatcher: want one of name and path",
		"- {keyMatcher: {path: [a, {index: x}]}}": "searchRules[0].keyMatcher.path[1]: map[index:x] is not part of a path: want a key, {index: N} or {allIndexes: true}",
		"- {keyMatcher: {name: a}, updateStrategy: {none: {}, entireValue: {}}}":                               "searchRules[0].updateStrategy: want one of none, entireValue, json and yaml",
		"- {keyMatcher: {name: a}, updateStrategy: {json: {searchRules: [{}]}}}":                               "searchRules[0].updateStrategy: searchRules[0]: want keyMatcher, or valueMatcher with one of image and imageRepo, or both",
		"- {keyMatcher: {name: a}, valueMatcher: {image: a, imageRepo: b}, updateStrategy: {entireValue: {}}}": "searchRules[0]: want keyMatcher, or valueMatcher with one of image and imageRepo, or both",
	} {
		var list []images.Rule
		if err := yaml.Unmarshal([]byte(rules), &list); err != nil {
			t.Fatal(err)
		}
		if err := images.CheckRules(list); err == nil || err.Error() != want {
			t.Errorf("%s: got %v\nwant %s", rules, err, want)
		}
	}
}

// What a definition allows is ignored, with its reason, if it is a suspect. An image stays one: what a
// container names above all, which nothing but a placeholder takes out of the lock.
func TestNotImages(t *testing.T) {
	t.Parallel()
	allow := func(value string) images.Finder {
		return images.Finder{NotImages: []images.NotImage{{Value: value, Reason: "r"}}}
	}
	spare := images.Finder{Rules: []images.Rule{{KeyMatcher: &images.KeyMatcher{Name: "image"}, UpdateStrategy: &images.UpdateStrategy{None: &struct{}{}}}}}
	byPlace := images.Finder{Rules: []images.Rule{{KeyMatcher: &images.KeyMatcher{Name: "reference"}, UpdateStrategy: &images.UpdateStrategy{None: &struct{}{}}}}}
	text := images.Finder{Rules: []images.Rule{{KeyMatcher: &images.KeyMatcher{Name: "image"}, UpdateStrategy: &images.UpdateStrategy{YAML: &images.Embedded{}}}}}
	const pod = "kind: Pod\nspec: {%s: [{image: %s}]}\n"
	for _, c := range []struct {
		name   string
		finder images.Finder
		data   string
		want   string
	}{
		{"suspect", allow("ghcr.io/*"), "kind: X\nspec: {plugin: 'ghcr.io/a/b:1'}\n", "ignored ghcr.io/a/b:1 r"},
		{"container", allow("*"), fmt.Sprintf(pod, "containers", "ghcr.io/a/b:latest"), "image ghcr.io/a/b:latest "},
		{"container with a digest", allow("*"), fmt.Sprintf(pod, "containers", "a@"+zeros), "image a@" + zeros + " "},
		{"init container", allow("*"), fmt.Sprintf(pod, "initContainers", "a"), "image a "},
		{"ephemeral container", allow("*"), fmt.Sprintf(pod, "ephemeralContainers", "a"), "image a "},
		{"image volume", allow("*"), "kind: Pod\nspec: {volumes: [{image: {reference: 'a:1'}}]}\n", "image a:1 "},
		{"container in a string", allow("*"), "kind: ConfigMap\ndata: {pod: '{spec: {containers: [{image: \"a/b:1\"}]}}'}\n", "image a/b:1 "},
		{"placeholder in a container", allow("ko://*"), fmt.Sprintf(pod, "containers", "'ko://x/y'"), "ignored ko://x/y r"},
		{"template in a container", allow("$(*"), fmt.Sprintf(pod, "containers", "'$(params.image)'"), "ignored $(params.image) r"},
		// What this parser does not know, another runtime's may (distribution/reference takes both).
		{"upper-case host", allow("*"), fmt.Sprintf(pod, "containers", "HOST/a:1"), "suspect HOST/a:1 "},
		{"capitals", allow("*"), fmt.Sprintf(pod, "containers", "configImg"), "ignored configImg r"},
		{"digest of another algorithm", allow("*"), fmt.Sprintf(pod, "containers", "a@sha512:00"), "suspect a@sha512:00 "},
		{"argument", allow("*"), "kind: Pod\nspec: {containers: [{args: [--image=a/b:1]}]}\n", "image a/b:1 "},
		{"a rule that spares containers", spare, fmt.Sprintf(pod, "containers", "a:1"), "image a:1 "},
		{"a rule that spares volumes", byPlace, "kind: Pod\nspec: {volumes: [{image: {reference: 'a:1'}}]}\n", "image a:1 "},
		{"a rule that takes an image for a document", text, fmt.Sprintf(pod, "containers", "'{a: b}'"), "suspect {a: b} "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found, err := c.finder.Find(parse(t, c.data))
			if err != nil || len(found) != 1 {
				t.Fatalf("%+v, %v", found, err)
			}
			if got := fmt.Sprintf("%s %s %s", found[0].State, found[0].Image, found[0].Reason); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// In the globs of NotImages * is anything, and nothing else has a meaning.
func TestNotImagesGlobs(t *testing.T) {
	t.Parallel()
	for glob, texts := range map[string][2][]string{
		"a.io/b:1":      {{"a.io/b:1"}, {"a.io/b:10", "x.a.io/b:1", "a.io/b.1:1"}},
		"a.io/*":        {{"a.io/b:1", "a.io/b/c:1"}, {"b.io/a.io/c:1"}},
		"*/b:*":         {{"a.io/b:1", "a.io/a/b:2"}, {"a.io/bb:1"}},
		"a.io/*/c*:1":   {{"a.io/b/c:1", "a.io/b/d/cd:1"}, {"a.io/c:1", "a.io/b/c:2"}},
		"a.io/b:1*.b:1": {{"a.io/b:1/b.b:1"}, {"a.io/b:1"}},
		"*":             {{"a.io/b:1"}, nil},
	} {
		finder := images.Finder{NotImages: []images.NotImage{{Value: glob, Reason: "r"}}}
		for i, allowed := range []bool{true, false} {
			for _, text := range texts[i] {
				if _, got := finder.AllowedReason(&images.Found{Image: text}); got != allowed {
					t.Errorf("%s and %s: %v", glob, text, got)
				}
			}
		}
	}
}

// Whatever is found can be relocated, and is then found again at the site, as often and in the
// same places; nothing else changes in meaning.
func FuzzFind(f *testing.F) {
	for _, seed := range []string{
		"kind: Pod\nspec: {containers: [{image: \"web:1\", args: [--image=a/b:1], env: [{name: IMAGE, value: a:1}]}]}\n",
		"kind: ConfigMap\ndata:\n  a: |\n    image: {repository: a/b, tag: v1}\n  b: '{\"image\": \"a/b:1\"}'\n  c: quay.io/a/b:1\n",
		"x: &x {image: a/b:1}\ny: *x\n", "image: {registry: a.io, repository: b, digest: " + zeros + "}\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data string) {
		file, err := manifest.Parse("f.yaml", []byte(data))
		if err != nil {
			return
		}
		found, err := new(images.Finder).Find(file)
		if err != nil {
			return
		}
		var lock images.Lock
		var paths []string
		for _, one := range found {
			if one.CheckEditable() != nil {
				return
			}
			if one.State == images.Image {
				lock = append(lock, images.Locked{Image: digest(t, "x.example/y@"+zeros), Reference: one.Image})
				paths = append(paths, one.Path)
			}
		}
		out, err := lock.Relocate(file, new(images.Finder), atSite)
		if err != nil {
			return // a placeholder in a container, or two references that overlap
		}
		again, err := manifest.Parse("f.yaml", out)
		if err != nil {
			t.Fatalf("%q became %q: %v", data, out, err)
		}
		moved, err := new(images.Finder).Find(again)
		if err != nil {
			t.Fatalf("%q became %q: %v", data, out, err)
		}
		var movedPaths []string
		for _, one := range moved {
			if one.State != images.Image {
				continue
			}
			movedPaths = append(movedPaths, one.Path)
			if !strings.HasPrefix(one.Image, "site.example/krt") || !strings.HasSuffix(one.Image, zeros) {
				t.Errorf("%q became %q: %s is %s", data, out, one.Path, one.Image)
			}
		}
		if !slices.Equal(paths, movedPaths) {
			t.Errorf("%q became %q: found %q, then %q", data, out, paths, movedPaths)
		}
	})
}

// An allowance for a place is for no other, whatever value is there.
func TestNotImagesOfOnePlace(t *testing.T) {
	t.Parallel()
	const value = "ghcr.io/a/b:1"
	const data = "kind: X\nmetadata: {name: one}\nspec: {a: '" + value + "', b: '" + value + "'}\n---\nkind: X\nmetadata: {name: two}\nspec: {a: '" + value + "'}\n"
	for _, c := range []struct {
		allowed images.NotImage
		ignored string
	}{
		{images.NotImage{Value: value}, "[X one spec.a X one spec.b X two spec.a]"},
		{images.NotImage{Value: "*", Path: "spec.a"}, "[X one spec.a X two spec.a]"},
		{images.NotImage{Value: value, Resource: "X one"}, "[X one spec.a X one spec.b]"},
		{images.NotImage{Value: value, Resource: "X t*", Path: "spec.*"}, "[X two spec.a]"},
		{images.NotImage{Value: "ghcr.io/a/c:*", Path: "spec.a"}, "[]"},
		{images.NotImage{Value: value, Resource: "Y one"}, "[]"},
	} {
		c.allowed.Reason = "r"
		finder := images.Finder{NotImages: []images.NotImage{c.allowed}}
		found, err := finder.Find(parse(t, data))
		if err != nil || len(found) != 3 {
			t.Fatalf("found %+v, %v", found, err)
		}
		ignored := []string{}
		for _, f := range found {
			if f.State != images.Suspect {
				ignored = append(ignored, f.Resource+" "+f.Path)
			}
		}
		if got := fmt.Sprint(ignored); got != c.ignored {
			t.Errorf("%+v: ignored %s, want %s", c.allowed, got, c.ignored)
		}
	}
}
