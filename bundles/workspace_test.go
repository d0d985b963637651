package bundles_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/source"
)

// mirrors sends what the definitions fetch to the corpus, as mirrors.txt says.
func mirrors(t *testing.T) []source.Mirror {
	t.Helper()
	list, err := os.ReadFile("mirrors.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []source.Mirror
	for line := range strings.Lines(string(list)) {
		prefix, folder, found := strings.Cut(strings.TrimSpace(line), " ")
		if !found {
			t.Fatalf("mirrors.txt: %q is no prefix and folder", line)
		}
		all = append(all, source.Mirror{Prefix: prefix, Replacement: corpus.Dir(t) + "/" + folder})
	}
	return all
}

// workspace is a copy of the ready definitions. The corpus has the files of repositories but not
// their commits: where a definition names a commit, the copy has the corpus's files of it beside
// it instead.
func workspace(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, bundles.Files); err != nil {
		t.Fatal(err)
	}
	err := fs.WalkDir(bundles.Files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "bundle.yaml" {
			return err
		}
		data, err := bundles.Files.ReadFile(name)
		if err != nil {
			return err
		}
		d, err := bundle.Parse(name, data)
		if err != nil {
			return err
		}
		var changed bool
		for i := range d.Bundle.Spec.Sources {
			s := &d.Bundle.Spec.Sources[i]
			if s.Git == "" {
				continue
			}
			changed = true
			if err := vendor(t, filepath.Join(dir, path.Dir(name)), s); err != nil {
				return err
			}
		}
		if !changed {
			return nil
		}
		if data, err = yaml.Marshal(d.Bundle); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// vendor makes a source of a commit one of a folder beside the definition. A kustomization comes
// with the folders beside it, which it names.
func vendor(t *testing.T, beside string, s *bundle.Source) error {
	t.Helper()
	folder, root := s.Root, ""
	if s.Template == bundle.TemplateKustomize {
		folder, root = path.Dir(s.Root), path.Base(s.Root)
	}
	url := strings.Replace(s.Git, "https://github.com/", "https://raw.githubusercontent.com/", 1) + "/" + s.Commit + "/" + folder
	for _, m := range mirrors(t) {
		rest, matches := strings.CutPrefix(url, m.Prefix)
		if !matches {
			continue
		}
		copied := path.Base(folder)
		if err := os.CopyFS(filepath.Join(beside, copied), os.DirFS(m.Replacement+rest)); err != nil {
			return err
		}
		s.Dir, s.Root, s.Git, s.Ref, s.Commit = copied, root, "", "", ""
		return nil
	}
	t.Errorf("%s is pinned, and mirrors.txt has no folder for %s", beside, url)
	return nil
}

// standInFor gives a bundle a manifest of its own for what it would fetch.
func standInFor(t *testing.T, dir string) {
	t.Helper()
	file := filepath.Join(dir, "bundle.yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d, err := bundle.Parse(file, data)
	if err != nil {
		t.Fatal(err)
	}
	d.Bundle.Spec.Sources = []bundle.Source{{File: "standin.yaml"}}
	if data, err = yaml.Marshal(d.Bundle); err != nil {
		t.Fatal(err)
	}
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: standin, namespace: default}\n"
	for name, text := range map[string]string{file: string(data), filepath.Join(dir, "standin.yaml"): manifest} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
