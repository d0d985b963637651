package deploy

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"testing/fstest"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"krtpkg.dev/krtpkg/pkg/resources"
)

// placeResources puts the resources of units that name no namespace where the units say. Which kinds
// are in namespaces the units' own definitions say, or the cluster. A kind that neither knows stays
// as it is: the look before an apply refuses it.
func (s *session) placeResources(ctx context.Context, units []Unit) ([]Unit, error) {
	if !slices.ContainsFunc(units, func(u Unit) bool { return len(u.Namespaces) > 0 }) {
		return units, nil
	}
	scopes := map[schema.GroupKind]bool{}
	served, err := s.servedKinds(ctx)
	if err != nil {
		return nil, err
	}
	for gvk, r := range served {
		scopes[gvk.GroupKind()] = r.Namespaced
	}
	return placeUnits(units, scopes)
}

func placeUnits(units []Unit, scopes map[schema.GroupKind]bool) ([]Unit, error) {
	for _, u := range units {
		all, err := readResources(u.Manifests)
		if err != nil {
			return nil, &Error{Op: "read", Bundle: u.Bundle, Layer: u.Layer, Err: err}
		}
		defined, err := resources.ReadDefinitions(all)
		if err != nil {
			return nil, &Error{Op: "read", Bundle: u.Bundle, Layer: u.Layer, Err: err}
		}
		for _, d := range defined {
			scopes[d.GroupKind] = d.Namespaced
		}
	}
	placed := slices.Clone(units)
	for i, u := range units {
		if len(u.Namespaces) == 0 {
			continue
		}
		files, err := copyFiles(u.Manifests)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(u.Namespaces)) {
			if files[name] == nil {
				return nil, fmt.Errorf("bundle %s: namespaces: file %s does not exist", u.Bundle, name)
			}
			if files[name].Data, err = placeFile(files[name].Data, u.Namespaces[name], scopes); err != nil {
				return nil, fmt.Errorf("bundle %s: %s: %w", u.Bundle, name, err)
			}
		}
		placed[i].Manifests = files
	}
	return placed, nil
}

// placeFile returns the resources of a file, as kapp reads them.
func placeFile(data []byte, namespace string, scopes map[schema.GroupKind]bool) ([]byte, error) {
	all, err := kappres.NewFileResource(kappres.NewBytesSource(data)).Resources()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, r := range all {
		if r.Namespace() == "" && scopes[r.GroupKind()] && r.APIGroup() != configGroup {
			r.SetNamespace(namespace)
		}
		text, err := r.AsYAMLBytes()
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "---\n%s", text)
	}
	return out.Bytes(), nil
}

func copyFiles(from fs.FS) (fstest.MapFS, error) {
	files := fstest.MapFS{}
	err := fs.WalkDir(from, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(from, name)
		files[name] = &fstest.MapFile{Data: data, Mode: 0o444}
		return err
	})
	return files, err
}
