package render

import (
	"bytes"
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
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// yttAtATime guards ytt, which counts its templates in a variable of its package.
var yttAtATime sync.Mutex

// renderYTT renders templates with overlays behind them as `ytt -f templates -f overlays` does.
func renderYTT(in Input) ([]bundle.File, error) {
	var inputs []*files.File
	for _, list := range [][]bundle.File{in.Files, in.Overlays} {
		more, err := yttFiles(list)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, more...)
	}
	out, err := runYTT(inputs, in.givenValues(), yttOptions(in.Unset))
	return yttOutput(out, err)
}

// applyOverlays applies ytt overlays to plain manifests. In these nothing is a template, whatever
// their comments look like.
func applyOverlays(plain, overlays []bundle.File, values [][]byte, unset bool) ([]bundle.File, error) {
	var resources, rest []bundle.File
	for _, f := range plain {
		if !isManifest(f.Path) {
			rest = append(rest, f)
			continue
		}
		// ytt takes the last of two values for one key.
		if _, err := manifest.Parse(f.Path, f.Data); err != nil {
			return nil, err
		}
		resources = append(resources, f)
	}
	inputs, err := yttFiles(resources)
	if err != nil {
		return nil, err
	}
	for _, input := range inputs {
		input.MarkType(files.TypeYAML)
		input.MarkTemplate(false)
	}
	more, err := yttFiles(overlays)
	if err != nil {
		return nil, err
	}
	out, err := runYTT(append(inputs, more...), values, yttOptions(unset))
	rendered, err := yttOutput(out, err)
	return append(rendered, rest...), err
}

// yttOptions returns those of a run, without the rules of the values' schema where these are unset.
func yttOptions(unset bool) *template.Options {
	options := template.NewOptions()
	options.DataValuesFlags.SkipValidation = unset
	return options
}

// yttFiles are files as ytt takes them, in the order of their paths as of a folder.
func yttFiles(list []bundle.File) ([]*files.File, error) {
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b bundle.File) int { return cmp.Compare(a.Path, b.Path) })
	inputs := make([]*files.File, 0, len(sorted))
	for _, f := range sorted {
		input, err := files.NewFileFromSource(files.NewBytesSource(f.Path, f.Data))
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, input)
	}
	return inputs, nil
}

// runYTT runs ytt with documents of values, later over earlier.
func runYTT(inputs []*files.File, values [][]byte, options *template.Options) (out template.Output, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = yttCause(inputs, values, fmt.Errorf("ytt failed: %v", problem))
		}
	}()
	documents := map[string][]byte{}
	for i, value := range values {
		// What ytt's messages call values; the site's are the last.
		name := "values.yaml"
		if i > 0 {
			name = fmt.Sprintf("values-%d.yaml", i+1)
		}
		documents[name] = value
		options.DataValuesFlags.FromFiles = append(options.DataValuesFlags.FromFiles, name)
	}
	options.DataValuesFlags.ReadFilesFunc = func(name string) ([]*files.File, error) {
		input, err := files.NewFileFromSource(files.NewBytesSource(name, documents[name]))
		return []*files.File{input}, err
	}
	yttAtATime.Lock()
	defer yttAtATime.Unlock()
	out = options.RunWithFiles(template.Input{Files: files.NewSortedFiles(inputs)},
		ui.NewCustomWriterTTY(false, io.Discard, io.Discard))
	if out.Err != nil {
		return out, errors.New(withoutTrace(out.Err.Error()))
	}
	return out, nil
}

// trace matches what ytt puts into an error where one of its functions has panicked.
var trace = lazyregexp.New(` \(backtrace: goroutine \d+ \[running\]:|\n {4}reason:\n {5}runtime/debug\.Stack\(\)\n(?: {5}.*\n?)*`)

func withoutTrace(text string) string {
	return strings.TrimSpace(strings.ReplaceAll(trace.Get().ReplaceAllString(text, ""), "- (p) ", "- "))
}

// yttCause is why ytt has panicked: a key that is not text, in the values or in what describes them. It
// is err without one.
func yttCause(inputs []*files.File, values [][]byte, err error) error {
	find := func(name string, data []byte) error {
		parsed, invalid := manifest.Parse(name, data)
		if invalid != nil {
			return nil
		}
		for _, doc := range parsed.Documents {
			if found := manifest.CheckKeys(doc, func(*yaml.Node) string { return name }); found != nil {
				return found
			}
		}
		return nil
	}
	for _, input := range inputs {
		data, unread := input.Bytes()
		if unread != nil || !bytes.Contains(data, []byte("#@data/values")) {
			continue
		}
		if found := find(input.RelativePath(), data); found != nil {
			return found
		}
	}
	for _, data := range values {
		if found := find("values", data); found != nil {
			return found
		}
	}
	return err
}

// yttOutput returns the files that ytt rendered. Two of one path would be one on disk.
func yttOutput(out template.Output, err error) ([]bundle.File, error) {
	if err != nil {
		return nil, err
	}
	rendered := make([]bundle.File, 0, len(out.Files))
	seen := map[string]bool{}
	for _, f := range out.Files {
		name := path.Clean(f.RelativePath())
		if seen[name] {
			return nil, fmt.Errorf("%s is a file of the source and an overlay that adds resources: rename the overlay", name)
		}
		seen[name] = true
		rendered = append(rendered, bundle.File{Path: name, Data: f.Bytes()})
	}
	slices.SortFunc(rendered, func(a, b bundle.File) int { return cmp.Compare(a.Path, b.Path) })
	return rendered, nil
}
