package cli

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"krtpkg.dev/krtpkg/internal/starter"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// newBundle is what init --bundle writes: fields in the order in which people read them.
type newBundle struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name    string `yaml:"name"`
		Version string `yaml:"version"`
	} `yaml:"metadata"`
	Spec struct {
		Layer   int              `yaml:"layer"`
		Sources []map[string]any `yaml:"sources"`
	} `yaml:"spec"`
}

// initBundle writes the definition of one bundle: of a chart, or of manifests in the folder.
func (a *app) initBundle(folder string, o *initOptions) error {
	if len(o.choose)+len(o.because) > 0 || o.from != "" || o.answers != "" {
		return &usageError{errors.New("--bundle cannot be used with --from, --answers, --choose or --why: it starts a bundle, not a runtime")}
	}
	source, name, err := bundleSource(folder, o.bundle)
	if err != nil {
		return err
	}
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	var b newBundle
	b.APIVersion, b.Kind = bundle.APIVersion, bundle.KindBundle
	b.Metadata.Name = cmp.Or(o.name, name, runtimeName(filepath.Base(absolute)))
	b.Metadata.Version = cmp.Or(o.version, "0.1.0")
	b.Spec.Layer, b.Spec.Sources = 6, []map[string]any{source}
	text, err := manifest.EncodeYAML(b)
	if err != nil {
		return err
	}
	if err := writeFolder(folder, []starter.File{{Path: "bundle.yaml", Data: text}}, 0o644, o.force); err != nil {
		return err
	}
	a.ui.Say("wrote %s; it is in layer 6, applications: krtpkg layers lists what belongs where", filepath.Join(folder, "bundle.yaml"))
	a.ui.Say("next: krtpkg update -f %[1]s, krtpkg images -f %[1]s, krtpkg build -f %[1]s", folder)
	return nil
}

// aboveFolder finds what a kustomization names above its folder.
var aboveFolder = regexp.MustCompile(`(?m)(^|[\s"'\[,])\.\./`)

// folderSource returns the source for a folder: of a chart, a kustomization, ytt templates or manifests.
func folderSource(folder, inside string) (map[string]any, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	isYTT, reachesUp := false, false
	for _, e := range entries {
		names = append(names, e.Name())
		if !e.Type().IsRegular() || assemble.DetectTemplate([]string{e.Name()}) == "" && !bundle.IsManifestName(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err != nil {
			return nil, err
		}
		isYTT = isYTT || bytes.HasPrefix(text, []byte("#@")) || bytes.Contains(text, []byte("\n#@"))
		reachesUp = reachesUp || assemble.DetectTemplate([]string{e.Name()}) == bundle.TemplateKustomize && aboveFolder.Match(text)
	}
	source := map[string]any{"dir": inside}
	switch template := assemble.DetectTemplate(names); {
	case template == bundle.TemplateKustomize && reachesUp:
		return map[string]any{"dir": ".", "root": inside, "template": template}, nil
	case template != "":
		source["template"] = template
	case isYTT:
		source["template"] = bundle.TemplateYTT
	}
	return source, nil
}

// bundleSource returns the source for a definition in a folder, and the name that it suggests.
func bundleSource(folder, from string) (source map[string]any, name string, err error) {
	for _, scheme := range []string{"https://", "oci://"} {
		rest, is := strings.CutPrefix(from, scheme)
		if !is {
			continue
		}
		at, version, _ := strings.Cut(rest, "@")
		chart := path.Base(at)
		repository := strings.TrimSuffix(at, "/"+chart)
		if repository == at || chart == "." {
			return nil, "", &usageError{fmt.Errorf("--bundle %s: want REPOSITORY/CHART[@VERSIONS]", from)}
		}
		return map[string]any{"chart": chart, "repository": scheme + repository, "version": cmp.Or(version, "*")}, runtimeName(chart), nil
	}
	inside, err := filepath.Rel(folder, from)
	if err != nil || strings.HasPrefix(filepath.ToSlash(inside), "../") || inside == ".." {
		return nil, "", &usageError{fmt.Errorf("--bundle %s: want a chart, https://REPOSITORY/CHART or oci://REGISTRY/PATH/CHART, or manifests below %s", from, folder)}
	}
	info, err := os.Stat(from)
	switch {
	case err != nil:
		return nil, "", err
	case inside == ".":
		return nil, "", &usageError{fmt.Errorf("--bundle %s: put the manifests into a folder below %s, where bundle.yaml will be", from, folder)}
	case info.IsDir():
		source, err := folderSource(from, filepath.ToSlash(inside))
		return source, "", err
	case !bundle.IsManifestName(from):
		return nil, "", &usageError{fmt.Errorf("--bundle %s: want a folder, or a YAML or JSON file: unpack archives first", from)}
	}
	return map[string]any{"file": filepath.ToSlash(inside)}, "", nil
}
