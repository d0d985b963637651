package images_test

import (
	encoding "encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/images"
)

// hidden are small inputs with references that are easily overlooked, by the kind of place. In
// each, want lists what is found, as "image REFERENCE" for what is locked and rewritten and
// "suspect REFERENCE" for what is reported; nothing else is.
var hidden = []struct {
	class, name, data string
	want              []string
}{
	// No host, and a name that says image.
	{"no host", "flag with inner quotes in a script of a ConfigMap", configMap("run.sh", `exec agent --x-image="org/a:1" --level=info:2`), []string{"image org/a:1"}},
	{"no host", "flag with a space in a script", configMap("run.sh", "set -e\nagent --x-image org/a:1 \\\n  --y"), []string{"image org/a:1"}},
	{"no host", "assignment without dashes", podArgs("x-image=org/a:1"), []string{"image org/a:1"}},
	{"no host", "several flags in one argument", podArgs("--a-image=org/a:1 --b-image=org/b:2 --image-pull-policy=Always"), []string{"image org/a:1", "image org/b:2"}},
	{"no host", "a script as an argument", podArgs("docker run --rm --init-image='org/a:1' x && IMAGE=b:2 run"), []string{"image org/a:1", "image b:2"}},
	{"no host", "a list in the environment", podEnv("IMAGES", "a:1,b:2"), []string{"image a:1", "image b:2"}},
	{"no host", "a list with blanks", podEnv("PRELOAD_IMAGES", "a:1 org/b:2"), []string{"image a:1", "image org/b:2"}},
	{"no host", "a table in the environment", podEnv("IMAGES", "1.0=org/a:1;1.1=org/b:2"), []string{"image org/a:1", "image org/b:2"}},
	{"no host", "flags in the environment", podEnv("OPTS", "--x-image=org/a:1 -Dy=z:1"), []string{"image org/a:1"}},
	{"no host", "an option of Java", podEnv("JAVA_OPTS", "-Dagent.image=org/a:1"), []string{"image org/a:1"}},
	{"no host", "image in the middle of a variable's name", podEnv("AGENT_IMAGE_X86", "org/a:1"), []string{"suspect org/a:1"}},
	{"no host", "image in the middle of a field's name", "kind: X\nspec: {imageK8S: 'org/a:1'}\n", []string{"suspect org/a:1"}},
	{"no host", "a list of images", "kind: X\nspec: {images: ['busybox:1.28', org/b:2]}\n", []string{"image busybox:1.28", "image org/b:2"}},
	{"no host", "a mapping of images", "kind: X\nspec: {sidecarImages: {log: 'busybox:1.28'}}\n", []string{"image busybox:1.28"}},
	{"no host", "a list of mappings in images", "kind: X\nspec: {images: [{role: log, value: 'busybox:1.28'}]}\n", []string{"suspect busybox:1.28"}},
	{"no host", "a mapping in an image", "kind: X\nspec: {image: {main: 'org/a:1', pullPolicy: Always}}\n", []string{"suspect org/a:1"}},
	{"no host", "a ConfigMap that is a Go template", configMap("pod.tpl", "{{ if .Log }}\nimage: busybox:1.28\n{{ end }}"), []string{"image busybox:1.28"}},
	{"no host", "JSON that is a Go template", configMap("pod.json", `{"image": "org/a:1", {{ .More }} }`), []string{"image org/a:1"}},
	{"no host", "lines under a key of a ConfigMap", configMap("images", "a:1\norg/b:2"), []string{"image a:1", "image org/b:2"}},
	{"no host", "a line under a key of a ConfigMap", "kind: ConfigMap\ndata: {opts: '--x-image=org/a:1'}\n", []string{"image org/a:1"}},
	{"no host", "an annotation with options", "kind: X\nmetadata: {annotations: {opts: '--x-image=org/a:1'}}\n", []string{"suspect org/a:1"}},
	{"no host", "a script in a custom resource", "kind: X\nspec:\n  script: |\n    IMAGE=org/a:1\n    run\n", []string{"suspect org/a:1"}},
	{"no host", "a Secret's script", "kind: Secret\nstringData:\n  run: |\n    #!/bin/sh\n    IMAGE=org/a:1\n", []string{"image org/a:1"}},
	{"no host", "two in what a Secret encodes", "kind: Secret\ndata: {x: " + base64("image: org/a:1\nother:\n  sidecarImage: b:2\n") + "}\n", []string{"suspect org/a:1", "suspect b:2"}},
	{"no host", "the name of a Secret's key", "kind: Secret\ndata: {agentImage: " + base64("org/a:1") + "}\n", []string{"suspect org/a:1"}},
	{"no host", "a default of a schema", schema("image: {type: string, default: 'org/a:1'}"), []string{"suspect org/a:1"}},
	{"no host", "values that a schema allows", schema("agentImage: {type: string, enum: ['org/a:1', 'org/a:2']}"), []string{"suspect org/a:1", "suspect org/a:2"}},
	{"no host", "an object as the default of a schema", schema("agent: {type: object, default: {image: 'org/a:1'}}"), []string{"suspect org/a:1"}},

	{"no host", "what a ConfigMap encodes", "kind: ConfigMap\nbinaryData: {a.yaml: " + base64("image: org/a:1\n") + "}\n", []string{"suspect org/a:1"}},
	{"no host", "a parameter of a workflow", "kind: Workflow\nspec: {arguments: {parameters: [{name: image, value: 'org/a:1'}, {name: level, value: 'info:2'}]}}\n", []string{"suspect org/a:1"}},
	{"no host", "the default of a parameter", "kind: Pipeline\nspec: {params: [{name: BUILDER_IMAGE, default: 'org/a:1'}]}\n", []string{"suspect org/a:1"}},

	// A reference in several fields.
	{"split", "base, image, tag", "kind: X\nspec: {base: quay.io/org, image: server, tag: v1}\n", []string{"suspect quay.io/org/server:v1"}},
	{"split", "hub, image, tag", "kind: X\nspec: {hub: quay.io/org, image: server, tag: v1}\n", []string{"suspect quay.io/org/server:v1"}},
	{"split", "repository, image, version", "kind: X\nspec: {driver: {repository: nvcr.io/nvidia, image: driver, version: 550.1}}\n", []string{"suspect nvcr.io/nvidia/driver:550.1"}},
	{"split", "image, imageTag", "kind: X\nspec: {image: quay.io/a/b, imageTag: v1}\n", []string{"suspect quay.io/a/b:v1"}},
	{"split", "image, version", "kind: X\nspec: {image: quay.io/a/b, version: v1}\n", []string{"suspect quay.io/a/b:v1"}},
	{"split", "repository, version", "kind: X\nspec: {repository: quay.io/a/b, version: v1}\n", []string{"suspect quay.io/a/b:v1"}},
	{"split", "image and a version by another name", `{"kind": "X", "explainer": {"image": "org/explainer", "defaultImageVersion": "latest"}}`, []string{"suspect org/explainer:latest"}},
	{"split", "the same in a ConfigMap", "kind: ConfigMap\ndata:\n  explainers: '{\"image\": \"org/explainer\", \"defaultImageVersion\": \"latest\"}'\n", []string{"suspect org/explainer:latest"}},
	{"split", "operands under a parent's base", "kind: X\nspec:\n  base: quay.io/org\n  operands:\n    server: {image: server, tag: v1}\n    proxy: {image: 'proxy:v2'}\n", []string{"suspect quay.io/org", "suspect quay.io/org/server:v1", "suspect quay.io/org/proxy:v2"}},
	{"split", "operands under a parent's registry", "kind: X\nspec:\n  registry: quay.io\n  server: {repository: org/server, tag: v1}\n", []string{"suspect quay.io/org/server:v1"}},
	{"split", "operands under a parent's registry and version", "kind: X\nspec:\n  imageRegistry: quay.io/org\n  version: v3\n  server: {image: server}\n", []string{"suspect quay.io/org", "suspect quay.io/org/server:v3"}},
	{"split", "a complete image under a registry", "kind: X\nspec: {registry: quay.io, image: 'org/a:1'}\n", []string{"suspect quay.io/org/a:1"}},
	{"split", "a complete image and a tag", "kind: X\nspec: {image: 'quay.io/org/a:1', tag: v2}\n", []string{"suspect quay.io/org/a:1"}},
	{"split", "a complete image and a digest", "kind: X\nspec: {image: 'quay.io/org/a:1', digest: '" + ones + "'}\n", []string{"suspect quay.io/org/a:1"}},
	{"split", "a complete image with a host, whatever is around it", "kind: X\nspec: {registry: quay.io, version: v2, image: 'quay.io/org/a:1'}\n", []string{"image quay.io/org/a:1"}},
	{"split", "a registry next to a repository with one", "kind: X\nspec: {registry: mirror.example, repository: quay.io/org/a, tag: v1}\n", []string{"suspect quay.io/org/a:v1"}},
	{"split", "a single word as an image and a tag", "kind: X\nspec: {image: server, tag: v1}\n", []string{"suspect server:v1"}},
	{"split", "a prefix of their own", "kind: X\nspec: {agentRegistry: quay.io, agentImage: org/agent, agentTag: v1, version: v9}\n", []string{"image quay.io/org/agent:v1"}},
	{"split", "variables", pod("env: [{name: AGENT_REPOSITORY, value: org/agent}, {name: AGENT_TAG, value: v1}]"), []string{"suspect org/agent:v1"}},
	{"split", "variables with a registry", pod("env: [{name: REGISTRY, value: quay.io}, {name: AGENT_IMAGE, value: 'org/agent:v1'}]"), []string{"suspect quay.io/org/agent:v1"}},
	{"split", "flags", podArgs("--agent-image=quay.io/org/agent", "--agent-tag=v1"), []string{"suspect quay.io/org/agent:v1"}},
	{"split", "keys of a ConfigMap", "kind: ConfigMap\ndata: {image.registry: quay.io, image.repository: org/a, image.tag: v1}\n", []string{"image quay.io/org/a:v1"}},
	{"split", "registry, repository, tag", "kind: X\nspec: {image: {registry: quay.io, repository: org/a, tag: v1}}\n", []string{"image quay.io/org/a:v1"}},
	{"split", "a container, whatever is next to it", "kind: Pod\nspec: {registry: quay.io, containers: [{image: 'org/a:1', tag: v1, version: v2}]}\n", []string{"image org/a:1"}},

	{"split", "a repository that begins with a slash", "kind: X\nspec: {baseRepo: mcr.example.com, csi: {repository: /oss/csi, tag: v1}}\n", []string{"suspect mcr.example.com/oss/csi:v1"}},
	{"split", "a tag to be filled in", "kind: X\nspec: {image: {repository: quay.io/org/a, tag: TAG_OF_THE_RELEASE}}\n", []string{"suspect quay.io/org/a:TAG_OF_THE_RELEASE"}},

	// No tag, or no reference at all.
	{"no tag", "a repository in the environment", podEnv("AGENT_IMAGE", "quay.io/org/agent"), []string{"suspect quay.io/org/agent"}},
	{"no tag", "a repository without a host in the environment", podEnv("RELATED_IMAGE_AGENT", "org/agent"), []string{"suspect org/agent"}},
	{"no tag", "a repository by that name in the environment", podEnv("IMAGE_REPOSITORY", "quay.io/org/agent"), []string{"suspect quay.io/org/agent"}},
	{"no tag", "a repository in an argument", podArgs("--agent-image", "org/agent"), []string{"suspect org/agent"}},
	{"no tag", "a repository in a custom resource", "kind: X\nspec: {agentImage: org/agent}\n", []string{"suspect org/agent"}},
	{"no tag", "a single word in a custom resource", "kind: X\nspec: {agentImage: agent}\n", []string{"suspect agent"}},
	{"no tag", "a repository of a registry, whatever it is called", "kind: X\nspec: {plugin: quay.io/org/agent}\n", []string{"suspect quay.io/org/agent"}},
	{"no tag", "a repository of a registry in a script", configMap("run.sh", "set -e\ndocker pull quay.io/org/agent\n"), []string{"suspect quay.io/org/agent"}},
	{"no tag", "an organisation", podArgs("--image-base=quay.io/org"), []string{"suspect quay.io/org"}},
	{"no tag", "a container", "kind: Pod\nspec: {containers: [{image: org/a}]}\n", []string{"image org/a"}},
	{"no reference", "a placeholder in the environment", podEnv("RELATED_IMAGE_X", "SOME_PLACEHOLDER"), []string{"suspect SOME_PLACEHOLDER"}},
	{"no reference", "a placeholder of a tag", "kind: X\nspec: {image: 'quay.io/org/a:<ver>'}\n", []string{"suspect quay.io/org/a:<ver>"}},
	{"no reference", "a placeholder alone", "kind: X\nspec: {image: <ver>}\n", []string{"suspect <ver>"}},
	{"no reference", "a variable in an argument", podArgs("--agent-image=$(AGENT)"), []string{"suspect $(AGENT)"}},
	{"no reference", "a variable that the container has", pod("args: ['--agent-image=$(AGENT)'], env: [{name: AGENT, value: 'quay.io/org/a:1'}]"), []string{"image quay.io/org/a:1"}},
	{"no reference", "a part of it in a template", configMap("pod.tpl", "{{ if .x }}\nimage: {{ .hub }}/proxy:{{ .tag }}\nother: quay.io/org/a:{{ .tag }}\n{{ end }}"), []string{"suspect {{ .hub }}/proxy:{{ .tag }}", "suspect quay.io/org/a:{{ .tag }}"}},
	{"no reference", "what another tool fetches", configMap("run.sh", "set -e\nskopeo copy docker://quay.io/org/a:1 dir:x\n"), []string{"suspect docker://quay.io/org/a:1"}},

	// What is none.
	{"none", "properties of images", "kind: X\nspec: {imagePullPolicy: 'a:b', imageTag: 'v1:2', imagePullSecrets: [{name: a/b}], imageSize: '10:20', imagePath: /var/a}\n", nil},
	{"none", "pictures", "kind: X\nspec: {image: /a.png, backgroundImage: 'https://a.example/b:1', icon: a/image.png, images: [a.svg]}\n", nil},
	{"none", "switches and numbers", "kind: X\nspec: {image: 'true', scanImages: 'false', images: '3'}\n", nil},
	{"none", "source code", "kind: X\nspec: {repository: github.com/a/b, tag: v1, git: {repository: 'https://a.example/b', version: v1}}\n", nil},
	{"none", "comments of a script", configMap("run.sh", "set -e\n# IMAGE=org/a:1\n  # --image quay.io/a/b:1\n"), nil},
	{"none", "variables of a script", configMap("run.sh", "set -e\nrun --image $IMAGE --agent-image=\"${AGENT}\"\n"), nil},
	{"none", "prose of a schema", schema("image: {type: string, description: 'such as org/a:1'}"), nil},
	{"none", "addresses", podArgs("--image-service-addr=images:8080", "--upstream=redis:6379"), nil},
}

func configMap(key, text string) string {
	return "kind: ConfigMap\ndata:\n  " + key + ": |\n    " + strings.ReplaceAll(text, "\n", "\n    ") + "\n"
}

func pod(container string) string { return "kind: Pod\nspec: {containers: [{" + container + "}]}\n" }

func podArgs(args ...string) string {
	return pod(fmt.Sprintf("args: ['%s']", strings.Join(quote(args), "', '")))
}

func base64(text string) string { return encoding.StdEncoding.EncodeToString([]byte(text)) }

func quote(list []string) (quoted []string) {
	for _, text := range list {
		quoted = append(quoted, strings.ReplaceAll(text, "'", "''"))
	}
	return quoted
}

func podEnv(name, value string) string {
	return pod(fmt.Sprintf("env: [{name: %s, value: '%s'}]", name, value))
}

func schema(properties string) string {
	return "kind: CustomResourceDefinition\nspec: {versions: [{schema: {openAPIV3Schema: {properties: {spec: {properties: {" + properties + "}}}}}}]}\n"
}

// Nothing hidden is lost, and nothing is rewritten that could be something else.
func TestCorpusOfSmallInputs(t *testing.T) {
	t.Parallel()
	type score struct{ want, found, suspects, missed, wrong int }
	classes := map[string]*score{}
	for _, c := range hidden {
		s := classes[c.class]
		if s == nil {
			s = &score{}
			classes[c.class] = s
		}
		found, err := new(images.Finder).Find(parse(t, c.data))
		if err != nil {
			t.Errorf("%s: %s: %v", c.class, c.name, err)
			continue
		}
		var got []string
		for _, f := range found {
			got = append(got, fmt.Sprintf("%s %s", f.State, f.Image))
		}
		for _, want := range c.want {
			s.want++
			state, image, _ := strings.Cut(want, " ")
			switch {
			case slices.Contains(got, "image "+image) && state == "image":
				s.found++
			case slices.Contains(got, "suspect "+image):
				s.suspects++
			default:
				s.missed++
			}
		}
		for _, one := range got {
			if strings.HasPrefix(one, "image ") && !slices.Contains(c.want, one) {
				s.wrong++
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %s:\n%sgot  %q\nwant %q", c.class, c.name, c.data, got, c.want)
		}
	}
	for class, s := range classes {
		t.Logf("%-13s %2d references: %2d found, %2d suspects, %d missed silently, %d rewritten wrongly", class, s.want, s.found, s.suspects, s.missed, s.wrong)
	}
	if len(hidden) < 60 {
		t.Errorf("only %d inputs", len(hidden))
	}
}

// What the message about a suspect says to paste settles it, and locks it unless it is none.
func TestAdviceSettlesEachSuspect(t *testing.T) {
	t.Parallel()
	fields := map[string]int{}
	for _, c := range hidden {
		found, err := new(images.Finder).Find(parse(t, c.data))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if f.State != images.Suspect {
				continue
			}
			field, entry := f.SuggestEntry()
			fields[field]++
			var spec struct {
				SearchRules []images.Rule     `yaml:"searchRules"`
				NotImages   []images.NotImage `yaml:"notImages"`
				Images      []struct{ Image, Reason string }
			}
			decoder := yaml.NewDecoder(strings.NewReader(field + ": [" + entry + "]"))
			decoder.KnownFields(true)
			if err := decoder.Decode(&spec); err != nil {
				t.Errorf("%s: %s: %v", c.name, entry, err)
				continue
			}
			finder := images.Finder{Rules: spec.SearchRules, NotImages: spec.NotImages, Added: map[string]string{}}
			for _, extra := range spec.Images {
				finder.Added[extra.Image] = extra.Reason
			}
			again, err := finder.Find(parse(t, c.data))
			if err != nil {
				t.Errorf("%s: %s: %s: %v", c.name, field, entry, err)
				continue
			}
			i := slices.IndexFunc(again, func(other images.Found) bool { return other.Line == f.Line && other.Image == f.Image })
			want := images.Ignored
			if field == "searchRules" {
				want = images.Image
			}
			if i < 0 || again[i].State != want {
				t.Errorf("%s: %s: [%s] does not settle %s %q: %+v", c.name, field, entry, f.Path, f.Image, again)
			}
		}
	}
	t.Logf("settled by %v", fields)
	if fields["searchRules"] < 15 || fields["images"] < 15 || fields["notImages"] < 4 {
		t.Errorf("settled by %v", fields)
	}
}
