package render

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// kappGroup is the API group of what configures kapp: documents of their own, and ConfigMaps with
// its label that hold one (carvel.dev/kapp/docs/latest/config).
const kappGroup = "kapp.k14s.io"

// rewriters are the API groups of what kbld reads from among manifests, where kapp-controller runs it: rules
// for images, and locks of its own.
var rewriters = []string{"kbld.k14s.io", "imgpkg.carvel.dev"}

// changingRules are the rules of kapp's configuration that change resources, or what kapp takes for a
// change, after images were relocated.
var changingRules = []string{
	"rebaseRules", "diffAgainstLastAppliedFieldExclusionRules", "diffAgainstExistingFieldExclusionRules",
	"ownershipLabelRules", "labelScopingRules",
}

// CheckKappRules refuses a bundle's rules for kapp that would give a container another image than the
// locked one: a rule in ytt, which can put in anything, and a rule whose path leads to images, as to
// keep those that the cluster has. found are the images of all files.
func CheckKappRules(files []*manifest.File, found []images.Found) error {
	for _, f := range files {
		for _, doc := range f.Documents {
			for _, item := range manifest.ListItems(doc) {
				if group := apiGroup(item); slices.Contains(rewriters, group) {
					return f.Errorf(item, "%s %s is not a manifest for a cluster: to kapp-controller it is a rule that could give a container another image than the locked one", group, manifest.GetText(item, "kind"))
				}
				config, err := kappConfig(item)
				problem := imageRule(config, found)
				if err != nil {
					problem = err.Error()
				}
				if problem != "" {
					return f.Errorf(item, "rules for kapp: %s", problem)
				}
			}
		}
	}
	return nil
}

// apiGroup returns the API group of a resource, as a reader has it that carries out aliases and merges.
func apiGroup(resource *yaml.Node) string {
	var head struct {
		APIVersion string `yaml:"apiVersion"`
	}
	_ = resource.Decode(&head) // what is of another type has none
	group, _, _ := strings.Cut(head.APIVersion, "/")
	return group
}

// kappConfig returns the configuration of kapp that a resource is or holds; nil where it does not. It is
// decoded, since what aliases and merges make of it is what kapp reads.
func kappConfig(resource *yaml.Node) (config map[string]any, err error) {
	var head struct {
		APIVersion string `yaml:"apiVersion"`
		Metadata   struct{ Labels map[string]any }
	}
	var mistyped *yaml.TypeError
	if err := resource.Decode(&head); err != nil && !errors.As(err, &mistyped) {
		return nil, err
	}
	if group, _, _ := strings.Cut(head.APIVersion, "/"); group == kappGroup {
		return config, resource.Decode(&config)
	}
	if _, labelled := head.Metadata.Labels[kappGroup+"/config"]; !labelled {
		return nil, nil
	}
	var holder struct{ Data map[string]string }
	if err := resource.Decode(&holder); err != nil {
		return nil, err
	}
	return config, yaml.Unmarshal([]byte(holder.Data["config.yml"]), &config)
}

// imageRule returns which rule of a configuration could change an image; "" if there is none.
func imageRule(config map[string]any, found []images.Found) string {
	for _, kind := range changingRules {
		for _, list := range valuesOf(config, kind) {
			rules, _ := list.([]any)
			for i, rule := range rules {
				at := fmt.Sprintf("%s[%d]", kind, i)
				if len(valuesOf(rule, "ytt")) > 0 {
					return at + " is in ytt, which could give a container any image"
				}
				paths := valuesOf(rule, "path")
				for _, more := range valuesOf(rule, "paths") {
					list, _ := more.([]any)
					paths = append(paths, list...)
				}
				if slices.ContainsFunc(paths, func(path any) bool { return reachesImages(path, found) }) {
					return at + " leads to images of containers, which are those of the image lock and no others"
				}
			}
		}
	}
	return ""
}

// valuesOf returns the values at a key of a mapping, whose case kapp's reader passes over, so that there can
// be several.
func valuesOf(mapping any, name string) (values []any) {
	fields, _ := mapping.(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if strings.EqualFold(key, name) && fields[key] != nil {
			values = append(values, fields[key])
		}
	}
	return values
}

// holders are the fields with containers, and with image volumes.
var holders = []string{"containers", "initContainers", "ephemeralContainers", "volumes"}

// reachesImages reports whether a path of kapp leads to, or above, the image of a container: of one
// that was found, or of any that the cluster may have.
func reachesImages(path any, found []images.Found) bool {
	steps, isList := path.([]any)
	if !isList || len(steps) == 0 {
		return true // whatever kapp makes of it
	}
	// The path as a pattern for the paths of what was found. kapp takes lists apart.
	pattern := `^(?:items\[\d+\]\.)*`
	for i, step := range steps {
		key, isKey := step.(string)
		rest := steps[i+1:]
		if len(rest) > 0 {
			if _, isKey := rest[0].(string); !isKey {
				rest = rest[1:] // the place in the list
			}
		}
		switch {
		case slices.Contains(holders, key) && (len(rest) == 0 || rest[0] == "image"):
			return true
		case isKey && i == 0:
			pattern += regexp.QuoteMeta(key)
		case isKey:
			pattern += `\.` + regexp.QuoteMeta(key)
		case len(valuesOf(step, "regex")) > 0: // of a key
			pattern += `\.?[^.\[]*`
			if len(rest) == 0 || rest[0] == "image" {
				return true
			}
		default:
			pattern += `\[\d+\]`
		}
	}
	leads, err := regexp.Compile(pattern + `(?:[.\[]|$)`)
	return err != nil || slices.ContainsFunc(found, func(f images.Found) bool { return f.IsRun() && leads.MatchString(f.Path) })
}
