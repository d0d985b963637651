// Package resources reads manifests as kapp does, and finds before a bundle is made what kapp would
// refuse on a cluster, or read as something else than was written.
//
// Call [Read] for what is applied, and [CheckFiles] at a build. Importing the package mends two things of kapp for
// the whole process, see init in order.go.
package resources

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
)

// Read reads the YAML and JSON files of a file system as kapp does. An error names the file.
func Read(manifests fs.FS) ([]kappres.Resource, error) {
	if parsed, is := manifests.(*parsedFiles); is {
		return parsed.readParsed()
	}
	return readFiles(manifests)
}

func readFiles(manifests fs.FS) ([]kappres.Resource, error) {
	var all []kappres.Resource
	err := fs.WalkDir(manifests, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains([]string{".json", ".yaml", ".yml"}, path.Ext(name)) {
			return err
		}
		data, err := fs.ReadFile(manifests, name)
		if err != nil {
			return err
		}
		read, err := readFile(name, data)
		all = append(all, read...)
		return err
	})
	return all, err
}

// readFile reads a file up to the first document that is an error.
func readFile(name string, data []byte) (all []kappres.Resource, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("%s: kapp failed: %v", name, problem)
		}
	}()
	// The reader loses a last line without a break that fills its buffer
	// (github.com/helm/helm/issues/32506).
	if len(data) > 0 && !bytes.HasSuffix(data, []byte("\n")) {
		data = append(bytes.Clone(data), '\n')
	}
	documents, err := kappres.NewYAMLFile(kappres.NewBytesSource(data)).Docs()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for i, document := range documents {
		read, err := kappres.NewResourcesFromBytes(document)
		if err != nil {
			return all, fmt.Errorf("%s: %w", name, err)
		}
		for _, r := range read {
			// Of any other form kapp makes a panic.
			if strings.Count(r.APIVersion(), "/") > 1 {
				return all, fmt.Errorf("%s: apiVersion %q is not of the form group/version", name, r.APIVersion())
			}
			r.SetOrigin(fmt.Sprintf("file '%s' doc %d", name, i+1)) // as kapp has it
			all = append(all, r)
		}
	}
	return all, nil
}
