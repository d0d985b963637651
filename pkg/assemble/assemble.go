package assemble

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/resources"
	"krtpkg.dev/krtpkg/pkg/source"
)

// assembly is a bundle's content before its images are locked.
type assembly struct {
	*bundle.Content
	definition *bundle.Definition
	// names are what the definition's author calls the files of the content, for errors.
	names map[string]string
	// templates are the same of files that the target renders.
	templates map[string]string
	// plainFiles are the files that nothing renders.
	plainFiles map[string]bool
	// texts are the rendered manifests, by the names that errors have for them.
	texts map[string][]byte
	// applied and later are the files of resources and of hooks, once they are found.
	applied, later []resources.File
	// notes are what an author may not have meant.
	notes []string
	// hooks are those of Helm that run at a deletion or a rollback, and tests those left out.
	hooks, tests []render.Hook
}

// pinFunc sets the pins of a source before it is fetched.
type pinFunc func(ctx context.Context, fetcher *source.Fetcher, s *bundle.Source) error

// assembleContent fetches a bundle's sources and renders those that are rendered at build time. In
// the content's definition every source is pinned to what was fetched.
func (o Options) assembleContent(ctx context.Context, d *bundle.Definition, at definitionPath, pin pinFunc) (*assembly, error) {
	a := &assembly{
		Content: &bundle.Content{Bundle: d.Bundle}, definition: d,
		names: map[string]string{}, templates: map[string]string{}, plainFiles: map[string]bool{}, texts: map[string][]byte{},
	}
	fetcher := o.Sources
	fetcher.Dir = at.folder()
	if err := readIcon(&fetcher, &d.Bundle.Spec); err != nil {
		return nil, placeError(d, []any{"spec", "iconFile"}, err)
	}
	for i := range d.Bundle.Spec.Sources {
		s := &d.Bundle.Spec.Sources[i]
		written := s.SHA256
		err := pin(ctx, &fetcher, s)
		if err == nil {
			err = a.addSource(ctx, &fetcher, s)
		}
		if wrong := (*source.DigestError)(nil); written == "" && errors.As(err, &wrong) && wrong.Want == s.SHA256 {
			// The definition has no digest to change: the lock file has.
			err = &MovedError{wrong.Source, "sha256:" + wrong.Got, "sha256:" + wrong.Want}
		}
		if err != nil {
			return nil, placeError(d, []any{"spec", "sources", i}, err)
		}
	}
	var err error
	if a.tests, err = render.FinishBuilt(a.Content); err != nil {
		if placed := (*manifest.Error)(nil); errors.As(err, &placed) {
			placed.File = cmp.Or(a.names[placed.File], placed.File)
		}
		return nil, placeError(d, []any{"spec", "sources"}, err)
	}
	return a, nil
}

// addSource puts a source into the content.
func (a *assembly) addSource(ctx context.Context, fetcher *source.Fetcher, s *bundle.Source) error {
	tree, err := fetchSource(ctx, fetcher, s)
	if err != nil {
		return err
	}
	if s.SHA256 != "" && s.SHA256 != tree.SHA256 {
		return &source.DigestError{Source: s.Name(), Got: tree.SHA256, Want: s.SHA256}
	}
	s.SHA256 = tree.SHA256
	if s.Template == "" && s.IsTree() {
		if err := checkUnrendered(fetcher, s, tree.Files); err != nil {
			return err
		}
	}
	in := render.Input{Source: s, Name: a.Bundle.Metadata.Name, Absent: tree.Absent, Note: func(note string) {
		a.noteSource(s, note)
	}}
	for _, f := range tree.Files {
		in.Files = append(in.Files, bundle.File{Path: cmp.Or(f.Path, path.Base(s.Path)), Data: f.Data})
	}
	if err := addDependencies(ctx, fetcher, s, &in); err != nil {
		return err
	}
	if in.Values, err = a.mergeValues(fetcher, s); err != nil {
		return err
	}
	if in.Overlays, err = readOverlays(fetcher, s.Overlays); err != nil {
		return err
	}
	if s.Template == bundle.TemplateHelm {
		for _, note := range render.UnknownHooks(in.Files) {
			a.notes = append(a.notes, a.Metadata().Name+": "+note)
		}
		if err := a.noteAsked(ctx, s, in); err != nil {
			return fmt.Errorf("render %s: %w", s.Name(), err)
		}
	}
	out := in.Files
	if s.AtTarget() {
		for _, f := range in.Overlays {
			a.Files = append(a.Files, bundle.File{Path: path.Join(bundle.OverlaysDir, s.Path, f.Path), Data: f.Data})
		}
	} else if s.IsRendered() {
		if out, err = render.RenderStable(ctx, in); err != nil {
			placeInSource(err, fetcher, s, in.Files)
			if unstable := (*render.UnstableError)(nil); errors.As(err, &unstable) {
				err = fmt.Errorf("%w, or leave them to the site with render: target", err)
			}
			return fmt.Errorf("render %s: %w", s.Name(), err)
		}
	}
	for _, f := range out {
		target := path.Join(bundle.ConfigDir, s.Path, f.Path)
		if !s.IsTree() && len(out) == 1 {
			target = path.Join(bundle.ConfigDir, s.Path)
		}
		a.Files = append(a.Files, bundle.File{Path: target, Data: f.Data})
		switch {
		case !s.IsRendered():
			a.plainFiles[target] = true
			a.names[target] = authorPath(fetcher, s, f.Path)
		case !s.AtTarget():
			a.names[target] = authorPath(fetcher, s, f.Path) + " (rendered)"
		default:
			a.templates[target] = authorPath(fetcher, s, f.Path)
		}
	}
	return nil
}

// noteSource notes something of a source. In a runtime the bundle is part of its name.
func (a *assembly) noteSource(s *bundle.Source, note string) {
	a.notes = append(a.notes, a.Metadata().Name+": "+s.Name()+": "+note)
}

// noteAsked notes what a chart asks the cluster for, and what a site must settle of one that is
// rendered there. Its error is [render.ErrRunaway]; whatever else is wrong with the chart is for its
// rendering to say.
func (a *assembly) noteAsked(ctx context.Context, s *bundle.Source, in render.Input) error {
	notes, err := render.ClusterQueries(ctx, in)
	if err == nil && s.AtTarget() {
		in.Note, in.Unset = nil, true
		_, err = render.RenderStable(ctx, in)
		var unstable *render.UnstableError
		if errors.As(err, &unstable) {
			notes = append(notes, unstable.Error()+"; an apply without them fails")
		}
	}
	for _, note := range notes {
		a.noteSource(s, note)
	}
	if errors.Is(err, render.ErrRunaway) {
		return err
	}
	return nil
}

// addDependencies puts the charts that a chart needs where helm looks for them.
func addDependencies(ctx context.Context, fetcher *source.Fetcher, s *bundle.Source, in *render.Input) error {
	for _, d := range s.Dependencies {
		from := d.Source()
		tree, err := fetchSource(ctx, fetcher, from)
		if err == nil && d.SHA256 != "" && d.SHA256 != tree.SHA256 {
			err = &source.DigestError{Source: from.Name(), Got: tree.SHA256, Want: d.SHA256}
		}
		if err != nil {
			return fmt.Errorf("dependency %s: %w", d.Name, err)
		}
		dir := path.Join("charts", d.Name)
		in.Files = slices.DeleteFunc(in.Files, func(f bundle.File) bool { return strings.HasPrefix(f.Path, dir+"/") })
		for _, f := range tree.Files {
			in.Files = append(in.Files, bundle.File{Path: path.Join(dir, f.Path), Data: f.Data})
		}
	}
	return nil
}

// placeInSource has an error name a file of a source as the definition's author calls it.
func placeInSource(err error, fetcher *source.Fetcher, s *bundle.Source, files []bundle.File) {
	placed := (*manifest.Error)(nil)
	if !errors.As(err, &placed) || !slices.ContainsFunc(files, func(f bundle.File) bool { return f.Path == placed.File }) {
		return
	}
	file := placed.File
	if s.Template == bundle.TemplateKustomize && s.Dir == "" && s.Root != "" { // it is read from above its root
		inRoot, below := strings.CutPrefix(file, s.Root+"/")
		if !below {
			return
		}
		file = inRoot
	}
	placed.File = authorPath(fetcher, s, file)
}

// authorPath returns what the definition's author calls a file of a source.
func authorPath(fetcher *source.Fetcher, s *bundle.Source, file string) string {
	switch {
	case s.URL != "":
		return s.URL
	case s.File != "":
		return path.Join(filepath.ToSlash(fetcher.Dir), s.File)
	case s.Dir != "":
		return path.Join(filepath.ToSlash(fetcher.Dir), s.Dir, file)
	}
	return s.Name() + "/" + path.Join(s.Root, file)
}

func fetchSource(ctx context.Context, f *source.Fetcher, s *bundle.Source) (*source.Tree, error) {
	pick := source.Pick{Root: s.Root, Include: s.Include, Exclude: s.Exclude, All: s.Template != ""}
	if s.Template == bundle.TemplateKustomize {
		// A kustomization reaches up to its bases.
		pick.Root, pick.Lazy = "", true
		pick.FindUsed = render.NewUsedFiles(s.Root).Find
	}
	switch {
	case s.Dir != "":
		return f.ReadFolder(s.Dir, pick)
	case s.File != "":
		return f.ReadFile(s.File)
	case s.URL != "":
		return f.FetchURL(ctx, s.URL, s.SHA256)
	case s.Archive != "":
		return f.FetchArchive(ctx, s.Archive, s.SHA256, pick)
	case s.Git != "":
		return f.FetchCommit(ctx, s.Git, s.Commit, pick)
	case s.OCI != "":
		ref, err := name.NewDigest(s.OCI)
		if err != nil {
			return nil, fmt.Errorf("oci %s: %w", s.OCI, err)
		}
		return f.FetchArtifact(ctx, ref, pick)
	}
	return f.FetchChart(ctx, s.Repository, s.Chart, s.Version, s.SHA256)
}

// mergeValues merges the values of a source into its field values, and returns them as a YAML
// document. The definition's own values override those of files, later files earlier ones.
func (a *assembly) mergeValues(f *source.Fetcher, s *bundle.Source) ([][]byte, error) {
	var merged *yaml.Node
	places := map[string]string{} // where each secret is set last
	over := func(name string, node *yaml.Node) error {
		merged = manifest.OverlayValues(merged, node)
		for _, key := range findSecretValues(node) {
			places[key] = fmt.Sprintf("%s:%d", name, findLine(node, key))
		}
		if s.Template != bundle.TemplateYTT {
			return nil
		}
		return manifest.CheckKeys(node, func(*yaml.Node) string { return name })
	}
	for _, file := range s.ValuesFiles {
		tree, err := f.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("values file: %w", err)
		}
		parsed, err := manifest.Parse(path.Join(filepath.ToSlash(f.Dir), file), tree.Files[0].Data)
		if err != nil {
			return nil, err
		}
		for _, doc := range parsed.Documents {
			one, ok := manifest.ExpandAliases(doc)
			switch {
			case one.Kind != yaml.MappingNode:
				return nil, parsed.Errorf(doc, "values must be a mapping")
			case !ok:
				return nil, parsed.Errorf(doc, "values have more than %d parts with their aliases expanded", manifest.MaxValues)
			}
			if err := over(parsed.Name, one); err != nil {
				return nil, err
			}
		}
	}
	if own := s.Values.Node(); own != nil {
		if err := over(a.definition.Errorf(nil, "").File, own); err != nil {
			return nil, err
		}
	}
	leave := "leave it to the site"
	if !s.AtTarget() {
		leave = "set render: target, and " + leave
	}
	for _, key := range findSecretValues(merged) {
		a.notes = append(a.notes, fmt.Sprintf("%s: %s: values set %s, which everyone who pulls the bundle can read: %s (krtpkg apply --values-from secret/NAME)", a.Metadata().Name, places[key], key, leave))
	}
	s.Values, s.ValuesFiles = manifest.NewValues(merged), nil
	data, err := s.Values.Bytes()
	if data == nil {
		return nil, err
	}
	return [][]byte{data}, err
}

// readIcon puts the file of a bundle's icon in its field icon.
func readIcon(f *source.Fetcher, spec *bundle.BundleSpec) error {
	if spec.IconFile == "" {
		return nil
	}
	tree, err := f.ReadFile(spec.IconFile)
	if err != nil {
		return err
	}
	icon := string(tree.Files[0].Data)
	if err := bundle.CheckIcon(icon); err != nil {
		return fmt.Errorf("%s: %w", spec.IconFile, err)
	}
	spec.Icon, spec.IconFile = icon, ""
	return nil
}

// readOverlays reads files and folders of overlays.
func readOverlays(f *source.Fetcher, places []string) ([]bundle.File, error) {
	var files []bundle.File
	for _, at := range places {
		tree, err := f.ReadFile(at)
		base := path.Base(at)
		if err != nil {
			var folder error
			if tree, folder = f.ReadFolder(at, source.Pick{All: true}); folder != nil {
				return nil, fmt.Errorf("overlay: %w", err)
			}
		}
		for _, file := range tree.Files {
			files = append(files, bundle.File{Path: path.Join(base, file.Path), Data: file.Data})
		}
	}
	return files, nil
}
