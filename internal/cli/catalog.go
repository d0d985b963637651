package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/serve"
	"krtpkg.dev/krtpkg/pkg/trust"
)

type catalogFlags struct {
	dir      string
	versions int
	trust    trustFlags
}

func (a *app) catalogCommand() *cobra.Command {
	var f catalogFlags
	cmd := &cobra.Command{
		Use:   "catalog PLACE... -o DIR",
		Short: "write web pages that show what registries, folders and archives have",
		Long: `Catalog writes pages that a browser opens from the folder or from any web server: the layers of each
version as a picture, its bundles with the values that they take, images with platforms and sizes,
signatures and what the trust policy says of them, licences, attached reports of vulnerabilities, what
changed since the previous version and how large an update is. They need no network, and
JavaScript only for the search.

For a place without a version it shows the newest versions. Run again for the same folder, it replaces
the pages and deletes obsolete ones. catalog.json in the folder has the same for programs; krtpkg schema
catalog describes it.`,
		Example: `  krtpkg catalog registry.example/krt/edge -o pages
  krtpkg catalog --policy trust.yaml registry.example/krt/edge registry.example/krt/plant -o pages
  krtpkg catalog edge-1.0.0.tar oci:dist -o pages`,
		GroupID: groupLook,
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runCatalog(cmd.Context(), args, &f) },
	}
	flags := cmd.Flags()
	outputDirFlag(cmd, &f.dir, "folder to write to; -o is the same")
	flags.IntVar(&f.versions, "versions", catalog.DefaultVersions, "how many versions of a place to show, the newest first")
	f.trust.addTrustFlags(cmd)
	f.trust.addUnsigned(cmd, "verify nothing, even if there is a policy file")
	return cmd
}

func (a *app) runCatalog(ctx context.Context, references []string, f *catalogFlags) error {
	switch {
	case f.dir == "":
		return &usageError{errors.New("--output-dir is missing: -o DIR names the folder to write to")}
	case f.versions < 1 || f.versions > 1000:
		return &usageError{fmt.Errorf("--versions %d: want 1 to 1000", f.versions)}
	}
	if err := checkPageFolder(f.dir); err != nil {
		return err
	}
	policy, err := a.loadTrust(ctx, &f.trust)
	if err != nil {
		return err
	}
	places, err := a.openCatalogPlaces(ctx, references, f.versions)
	if err != nil {
		return err
	}
	document, failed := a.collectPages(ctx, places, policy)
	if document == nil {
		return failed
	}
	if err := catalog.CheckEmpty(document); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(references, ", "), err)
	}
	if err := writePages(f.dir, document); err != nil {
		return errors.Join(failed, err)
	}
	return errors.Join(failed, a.ui.Result("", nil, func(w io.Writer) { ui.Fprintln(w, filepath.Join(f.dir, "index.html")) }))
}

// collectPages reads what pages show. What could not be read is in them, and in the error.
func (a *app) collectPages(ctx context.Context, places []catalog.Place, policy *trust.Policy) (*result.Catalog, error) {
	return catalog.Collect(ctx, places, catalog.Options{
		Policy: policy, AllowRenamedTags: a.settings.allowRenamed,
		Report: func(reference string, err error) { a.ui.Note("WARNING: %s: %v", reference, err) },
	})
}

// openCatalogPlaces opens places, each once, and finds the versions to show.
func (a *app) openCatalogPlaces(ctx context.Context, references []string, versions int) ([]catalog.Place, error) {
	var places []catalog.Place
	for _, reference := range references {
		at, err := a.openPlace(ctx, reference)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(places, func(p catalog.Place) bool { return p.Name == at.Location() })
		if i < 0 {
			i = len(places)
			places = append(places, catalog.Place{Name: at.Location(), Repository: policyPlace(at.Place), Store: at.store})
		}
		found, older := []catalog.Root(nil), 0
		if at.Tag != "" || at.Digest != "" {
			root := catalog.Root{}
			if root.Descriptor, err = at.Resolve(ctx, at.store); err == nil && at.Tag != "" {
				root.Tags = []string{at.Tag}
			}
			found = []catalog.Root{root}
		} else {
			found, older, err = catalog.ListRoots(ctx, at.store, versions)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at.Place, err)
		}
		places[i].OlderCount = max(places[i].OlderCount, older)
		for _, root := range found {
			places[i].Roots = addCatalogRoot(places[i].Roots, root)
		}
	}
	return places, nil
}

// addCatalogRoot adds a root to those of a place, or its tags to those that it has.
func addCatalogRoot(roots []catalog.Root, root catalog.Root) []catalog.Root {
	i := slices.IndexFunc(roots, func(r catalog.Root) bool { return r.Descriptor.Digest == root.Descriptor.Digest })
	if i < 0 {
		return append(roots, root)
	}
	for _, tag := range root.Tags {
		if !slices.Contains(roots[i].Tags, tag) {
			roots[i].Tags = append(roots[i].Tags, tag)
		}
	}
	return roots
}

// pageList is the file of a folder of pages that lists all others, so that only these are ever deleted.
const pageList = ".krtpkg-pages"

// checkPageFolder returns an error for a folder that holds something other than pages.
func checkPageFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == pageList && e.Type().IsRegular() }) {
		return fmt.Errorf("%s is not empty and holds no pages of krtpkg: name another folder", dir)
	}
	return nil
}

// writePages writes the pages of a document into a folder, and deletes those of an earlier one that it no longer has.
func writePages(dir string, document *result.Catalog) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	before, err := readPageList(root)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, pageList), err)
	}
	list, err := openPageList(root, before)
	if err != nil {
		return err
	}
	defer list.Close()
	written := map[string]bool{}
	var names []string
	err = catalog.WriteSite(document, func(f catalog.File) error {
		name := filepath.FromSlash(f.Path)
		written[f.Path] = true
		names = append(names, f.Path)
		// Before it is written, so that one who comes after an interruption knows what to delete.
		if _, err := list.WriteString(f.Path + "\n"); err != nil {
			return err
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
		}
		if err := replaceFile(root, name, f.Data, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, savePageList(root, append(before, names...)))
	}
	for _, name := range before {
		if written[name] {
			continue
		}
		if err := root.Remove(filepath.FromSlash(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete %s: %w", filepath.Join(dir, name), err)
		}
		for folder := path.Dir(name); folder != "."; folder = path.Dir(folder) {
			if root.Remove(filepath.FromSlash(folder)) != nil {
				break // something is still in it
			}
		}
	}
	return savePageList(root, names)
}

// readPageList returns the pages that a folder holds.
func readPageList(root *os.Root) (names []string, err error) {
	file, err := root.Open(pageList)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, oci.MaxIndex))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		name, isWhole := strings.CutSuffix(line, "\n") // or what wrote it was interrupted
		if name = strings.TrimSuffix(name, "\r"); isWhole && name != "" && name != "." && fs.ValidPath(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// openPageList saves the list of pages, and opens it for more.
func openPageList(root *os.Root, names []string) (*os.File, error) {
	if err := savePageList(root, names); err != nil {
		return nil, err
	}
	return root.OpenFile(pageList, os.O_WRONLY|os.O_APPEND, 0)
}

func savePageList(root *os.Root, names []string) error {
	names = slices.Clone(names)
	slices.Sort(names)
	var text bytes.Buffer
	for _, name := range slices.Compact(names) {
		text.WriteString(name + "\n")
	}
	return replaceFile(root, pageList, text.Bytes(), 0o644)
}

// makePages makes the pages of what a registry serves, for the handler that serves them next to it.
func (a *app) makePages(ctx context.Context, host string, server *serve.Server, t *trustFlags, pages *catalog.Handler) error {
	var places []catalog.Place
	for _, root := range server.Roots() {
		name := host + "/" + root.Repository
		if slices.ContainsFunc(places, func(p catalog.Place) bool { return p.Name == name }) {
			continue
		}
		place := catalog.Place{Name: name, Store: server.Content(root.Repository)}
		var err error
		if place.Roots, place.OlderCount, err = catalog.ListRoots(ctx, place.Store, 0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		places = append(places, place)
	}
	policy, err := a.loadTrust(ctx, t)
	if err != nil {
		return err
	}
	document, err := a.collectPages(ctx, places, policy)
	if document == nil {
		return err
	}
	return pages.ShowCatalog(document)
}
