// Package render turns an opened bundle and a site's values into the plain manifests that
// go onto the cluster: templates rendered, images relocated, everything else byte for byte
// as its author wrote it.
//
// Call [ParseValues] on a site's file and [Bundle] for each bundle.
package render

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"carvel.dev/ytt/pkg/cmd/template"
	"carvel.dev/ytt/pkg/cmd/ui"
	"carvel.dev/ytt/pkg/files"
	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Values are a site's values: a mapping from the names of bundles to what their templates
// take.
type Values struct {
	file    *manifest.File
	root    *yaml.Node
	bundles map[string]*yaml.Node
}

// ParseValues reads a site's values file.
func ParseValues(fileName string, data []byte) (*Values, error) {
	file, err := manifest.Parse(fileName, data)
	if err != nil {
		return nil, err
	}
	v := &Values{file: file, bundles: map[string]*yaml.Node{}}
	if len(file.Documents) == 0 {
		return v, nil
	}
	if len(file.Documents) > 1 {
		return nil, file.Errorf(file.Documents[1], "a values file is one document, this is the second")
	}
	v.root = file.Documents[0]
	if v.root.Kind != yaml.MappingNode {
		return nil, file.Errorf(v.root, "values are a mapping from bundle names to their values")
	}
	for i := 0; i+1 < len(v.root.Content); i += 2 {
		key, value := v.root.Content[i], v.root.Content[i+1]
		left := maxNodes
		if value = expand(value, &left); left < 0 {
			return nil, file.Errorf(key, "the values of bundle %q have over %d parts with their aliases", key.Value, maxNodes)
		}
		if value.Kind != yaml.MappingNode {
			return nil, file.Errorf(value, "the values of bundle %q are no mapping", key.Value)
		}
		v.bundles[key.Value] = value
	}
	return v, nil
}

// maxNodes is the limit on a bundle's values, which aliases can make endless.
const maxNodes = 100_000

// expand puts what aliases lead to in their place, since a bundle gets its part of the file
// without the part that has the anchor. left is counted down, to below 0 when it is too much.
func expand(node *yaml.Node, left *int) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	expanded := *node
	expanded.Anchor, expanded.Content = "", make([]*yaml.Node, 0, len(node.Content))
	for _, child := range node.Content {
		if *left--; *left < 0 {
			break
		}
		expanded.Content = append(expanded.Content, expand(child, left))
	}
	return &expanded
}

// Check holds the values against the bundles that there are, so that a mistyped name is an
// error and not a value that nothing reads.
func (v *Values) Check(bundles []string) error {
	if v == nil || v.root == nil {
		return nil
	}
	for i := 0; i+1 < len(v.root.Content); i += 2 {
		if key := v.root.Content[i]; !slices.Contains(bundles, key.Value) {
			e := v.file.Errorf(key, "there is no bundle %q", key.Value)
			e.Hint = "the bundles are " + strings.Join(bundles, ", ")
			return e
		}
	}
	return nil
}

// of is the values of one bundle as a YAML file, or nil.
func (v *Values) of(bundleName string) ([]byte, error) {
	if v == nil || v.bundles[bundleName] == nil {
		return nil, nil
	}
	return yaml.Marshal(v.bundles[bundleName])
}

// Bundle renders a bundle. locate gives the reference under which the target finds a locked
// image. An image in the rendered manifests that the bundle's lock does not name is an
// error, even where a site's value brought it in.
func Bundle(b *bundle.Content, values *Values, locate func(name.Digest) string) ([]bundle.File, error) {
	own, err := values.of(b.Bundle.Metadata.Name)
	if err != nil {
		return nil, err
	}
	rendered, err := Templates(b, own)
	if err != nil {
		return nil, err
	}
	for i, f := range rendered {
		parsed, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			return nil, err
		}
		if rendered[i].Data, err = b.Images.Relocate(parsed, locate); err != nil {
			return nil, err
		}
	}
	return rendered, nil
}

// Templates renders the templates of a bundle with values as a YAML file (nil for their
// defaults) and leaves images as they are. Files come out sorted by path.
func Templates(b *bundle.Content, values []byte) ([]bundle.File, error) {
	rest := slices.Clone(b.Files)
	var rendered []bundle.File
	templated := false
	for _, source := range b.Bundle.Spec.Sources {
		if source.Template != bundle.TemplateYTT {
			continue
		}
		templated = true
		dir := path.Join(bundle.ConfigDir, source.Path)
		var own []bundle.File
		rest = slices.DeleteFunc(rest, func(f bundle.File) bool {
			if f.Path != dir && !strings.HasPrefix(f.Path, dir+"/") {
				return false
			}
			own = append(own, f)
			return true
		})
		out, err := ytt(own, values)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", dir, err)
		}
		rendered = append(rendered, out...)
	}
	if len(values) > 0 && !templated {
		return nil, errors.New("it takes no values: none of its sources is a template")
	}
	rendered = append(rendered, rest...)
	slices.SortFunc(rendered, func(a, b bundle.File) int { return cmp.Compare(a.Path, b.Path) })
	return rendered, nil
}

// valuesFile is how ytt's messages call a site's values.
const valuesFile = "site-values.yaml"

// yttAtATime guards ytt, which counts its templates in a variable of its package.
var yttAtATime sync.Mutex

func ytt(sources []bundle.File, values []byte) ([]bundle.File, error) {
	inputs := make([]*files.File, 0, len(sources))
	for _, f := range sources {
		input, err := files.NewFileFromSource(files.NewBytesSource(f.Path, f.Data))
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, input)
	}
	options := template.NewOptions()
	if len(values) > 0 {
		options.DataValuesFlags.FromFiles = []string{valuesFile}
		options.DataValuesFlags.ReadFilesFunc = func(string) ([]*files.File, error) {
			input, err := files.NewFileFromSource(files.NewBytesSource(valuesFile, values))
			return []*files.File{input}, err
		}
	}
	yttAtATime.Lock()
	defer yttAtATime.Unlock()
	out := options.RunWithFiles(template.Input{Files: files.NewSortedFiles(inputs)},
		ui.NewCustomWriterTTY(false, io.Discard, io.Discard))
	if out.Err != nil {
		return nil, out.Err
	}
	rendered := make([]bundle.File, 0, len(out.Files))
	for _, f := range out.Files {
		rendered = append(rendered, bundle.File{Path: f.RelativePath(), Data: f.Bytes()})
	}
	return rendered, nil
}
