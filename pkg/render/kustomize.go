package render

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/provenance"
	"sigs.k8s.io/kustomize/api/resmap"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// kustomizeAtATime guards kustomize, which keeps the schema of resources in a variable of a
// package.
var kustomizeAtATime sync.Mutex

// renderKustomize renders the kustomization at the source's root to the bytes that `kustomize
// build` prints.
func renderKustomize(in Input) (rendered []bundle.File, err error) {
	defer recoverEngine("kustomize", &err)
	names, err := checkKustomization(in.Files, in.Absent, path.Clean(in.Source.Root), in.Note)
	if err != nil {
		return nil, err
	}
	m, err := runKustomize(in.Files, in.Source.Root, krusty.ReorderOptionUnspecified)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path.Join(in.Source.Root, "kustomization.yaml"), err)
	}
	data, err := m.AsYaml()
	if err == nil && in.Note != nil {
		for _, note := range in.findUnusedPatches(names, data) {
			in.Note(note)
		}
	}
	return []bundle.File{{Path: manifests, Data: data}}, err
}

// kustomizeVersion is the version of kustomize with this library, which it puts into labels where
// buildMetadata asks for them. The library takes it from the program that it is linked into: that
// would be another bundle with every build of krtpkg, and "(devel)" is not a label.
const kustomizeVersion = "v5.8.1"

// nameVersion puts the version of kustomize where the library has put the program's.
func nameVersion(m resmap.ResMap) error {
	linked := "kustomize-" + provenance.GetProvenance().Semver()
	for _, r := range m.Resources() {
		labels := r.GetLabels()
		if labels[konfig.ManagedbyLabelKey] != linked {
			continue
		}
		labels[konfig.ManagedbyLabelKey] = "kustomize-" + kustomizeVersion
		if err := r.SetLabels(labels); err != nil {
			return err
		}
	}
	return nil
}

// runKustomize builds a kustomization of files that have been checked, in memory and without
// plugins.
func runKustomize(files []bundle.File, root string, order krusty.ReorderOption) (m resmap.ResMap, err error) {
	options := krusty.MakeDefaultOptions()
	options.Reorder = order
	kustomizeAtATime.Lock()
	defer kustomizeAtATime.Unlock()
	defer muteStderr()()
	captureWarnings(func() { m, err = krusty.MakeKustomizer(options).Run(newSourceFiles(files), path.Join("/", root)) })
	if err != nil {
		return nil, kustomizeError(err)
	}
	return m, nameVersion(m)
}

// kustomizeError is the cause of an error of kustomize, which says of each folder on the way
// that it is not a file, and of a bad file that it is not a folder, on one line.
func kustomizeError(err error) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	folder := ""
	for _, step := range recursed.Get().FindAllStringSubmatch(text, -1) {
		folder = strings.TrimPrefix(step[1], "/") + ": "
	}
	if i := strings.LastIndex(text, attempt); i >= 0 {
		text, _, _ = strings.Cut(text[i+len(attempt):], "': must build at directory")
		if i := strings.LastIndex(text, "recursed accumulation of path"); i >= 0 {
			_, text, _ = strings.Cut(text[i:], ": ")
		}
	}
	return errors.New(folder + text)
}

const attempt = "accumulation err='"

var recursed = lazyregexp.New(`recursed accumulation of path '([^']*)'`)
