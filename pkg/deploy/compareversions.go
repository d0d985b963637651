package deploy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing/fstest"

	kappconfig "carvel.dev/kapp/pkg/kapp/config"
	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// BundleManifests are what a bundle renders to, for [CompareManifests].
type BundleManifests struct {
	Bundle string
	// Applied is what is applied, Hooks what runs at a deletion or a rollback. Nil holds nothing.
	Applied, Hooks fs.FS
}

// Comparison is how two versions of a runtime differ, from their manifests alone.
type Comparison struct {
	// Changes are in the order of the bundles of the new version, then of those that only the old one has.
	Changes []ManifestChange
	// Kept are roles and bindings that are the same in both, and what else of that was read.
	Kept []ManifestChange
	// Findings are what [Cluster.Plan] would find of changed definitions on a cluster that has the old version.
	Findings []preflight.Finding
}

// ManifestChange is a resource that two versions do not have alike.
type ManifestChange struct {
	ResourceChange
	// Bundle is the bundle that has the resource, From the one that had it before if that is another.
	Bundle string `json:"bundle"`
	From   string `json:"from,omitempty"`
	// Hook is set for what only runs when the bundle is deleted, or goes back to this version.
	Hook bool `json:"hook,omitempty"`
	// Before and After are the resource in the versions, nil where one does not have it. They are not to be changed.
	Before map[string]any `json:"-"`
	After  map[string]any `json:"-"`

	was, now  kappres.Resource
	order     int
	maskRules []kappconfig.DiffMaskRule
}

// Describe returns what happens to the resource, in words.
func (c *ManifestChange) Describe() string {
	text := fmt.Sprintf("%s: %s %s", c.Bundle, c.Op, c.ResourceID)
	if c.From != "" {
		text += ", of bundle " + c.From + " before"
	}
	if c.Hook {
		text += " (hook)"
	}
	return text
}

// The limits on what a comparison holds in differences: a line, one resource, all of them.
const (
	maxDiffLine  = 2 << 10
	maxDiffLines = 1000
	maxDiff      = 64 << 10
	maxAllDiffs  = 32 << 20
)

// diffsOmitted stands for the difference of a resource that is past the limit.
const diffsOmitted = "  … not shown: the differences before it are too long\n"

// CompareManifests compares what two versions apply, without a cluster. A difference is kapp's, as a plan has it, with
// what Secrets hold masked. What kapp cannot read is an error.
func CompareManifests(ctx context.Context, before, after []BundleManifests) (*Comparison, error) {
	before, after = dropSame(before, after)
	old, err := readVersion(ctx, before)
	if err != nil {
		return nil, fmt.Errorf("old version: %w", err)
	}
	current, err := readVersion(ctx, after)
	if err != nil {
		return nil, fmt.Errorf("new version: %w", err)
	}
	c := &Comparison{}
	for _, change := range pairResources(old, current) {
		if change.Op == "" {
			c.Kept = append(c.Kept, change)
		} else {
			c.Changes = append(c.Changes, change)
		}
	}
	for i := range c.Changes {
		change := &c.Changes[i]
		if change.Op != OpUpdate || !resources.IsDefinition(change.now) {
			continue
		}
		for _, f := range preflight.FindDefinitionChanges(withStoredVersions(change.was), change.now) {
			f.Bundle = change.Bundle
			c.Findings = append(c.Findings, f)
		}
	}
	return c, writeDiffs(ctx, c.Changes)
}

// dropSame returns the manifests without the documents that a bundle has in both versions: to read them takes most of the
// time, and all that is made of them is that they are the same. Roles and bindings stay, which say what others mean, and
// so do rules for kapp.
func dropSame(before, after []BundleManifests) (old, current []BundleManifests) {
	old, current = slices.Clone(before), slices.Clone(after)
	for i := range old {
		j := slices.IndexFunc(current, func(b BundleManifests) bool { return b.Bundle == old[i].Bundle })
		if j < 0 {
			continue
		}
		old[i].Applied, current[j].Applied = dropSameDocuments(old[i].Applied, current[j].Applied)
		old[i].Hooks, current[j].Hooks = dropSameDocuments(old[i].Hooks, current[j].Hooks)
	}
	return old, current
}

// dropSameDocuments returns file systems without what is in files of one name in both. What cannot be told apart stays.
func dropSameDocuments(before, after fs.FS) (old, current fs.FS) {
	if before == nil || after == nil {
		return before, after
	}
	was, now := splitFiles(before), splitFiles(after)
	for name := range was {
		if _, isSplit := now[name]; !isSplit {
			continue // only the old version has it, or it is read as a whole
		}
		common := map[string]int{}
		for _, d := range now[name] {
			if !strings.Contains(d, "rbac.authorization.k8s.io") && !strings.Contains(d, configGroup) {
				common[d]++
			}
		}
		dropped := map[string]int{}
		was[name] = slices.DeleteFunc(was[name], func(d string) bool {
			if common[d] == dropped[d] {
				return false
			}
			dropped[d]++
			return true
		})
		now[name] = slices.DeleteFunc(now[name], func(d string) bool {
			dropped[d]--
			return dropped[d] >= 0
		})
	}
	return joinFiles(before, was), joinFiles(after, now)
}

// splitFiles returns the documents of the files that can be split without reading them.
func splitFiles(files fs.FS) map[string][]string {
	all := map[string][]string{}
	_ = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error { // reading tells what is wrong
		if err != nil || entry.IsDir() {
			return nil
		}
		data, err := fs.ReadFile(files, name)
		if err != nil || bytes.HasPrefix(data, []byte("%")) || bytes.Contains(data, []byte("\n%")) {
			return nil // directives go with a document
		}
		documents, err := kappres.NewYAMLFile(kappres.NewBytesSource(append(bytes.Clone(data), '\n'))).Docs()
		if err != nil {
			return nil
		}
		for _, d := range documents {
			all[name] = append(all[name], string(d))
		}
		return nil
	})
	return all
}

// joinFiles returns files with the documents that are left of them.
func joinFiles(files fs.FS, documents map[string][]string) fs.FS {
	all := fstest.MapFS{}
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if left, is := documents[name]; is {
			all[name] = &fstest.MapFile{Data: []byte(strings.Join(left, "\n---\n")), Mode: 0o444}
			return nil
		}
		data, err := fs.ReadFile(files, name)
		all[name] = &fstest.MapFile{Data: data, Mode: 0o444}
		return err
	})
	if err != nil {
		return files
	}
	return all
}

// readVersion reads the resources of all bundles of a version, in their order.
func readVersion(ctx context.Context, bundles []BundleManifests) ([]ManifestChange, error) {
	all := make([][]ManifestChange, len(bundles))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, b := range bundles {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var err error
			if all[i], err = readBundle(b, i); err != nil {
				return fmt.Errorf("bundle %s: %w", b.Bundle, err)
			}
			return nil
		})
	}
	err := group.Wait()
	return slices.Concat(all...), err
}

func readBundle(b BundleManifests, order int) ([]ManifestChange, error) {
	var read [2][]kappres.Resource // what is applied, and the hooks
	for i, files := range []fs.FS{b.Applied, b.Hooks} {
		if files == nil {
			continue
		}
		var err error
		if read[i], err = readResources(files); err != nil {
			return nil, err
		}
	}
	// What a bundle masks is masked in its hooks too.
	_, conf, err := withRules(slices.Concat(read[0], read[1]))
	if err != nil {
		return nil, err
	}
	var all []ManifestChange
	for i, part := range read {
		dropStatus(part)
		for _, r := range part {
			all = append(all, ManifestChange{
				ResourceChange: ResourceChange{ResourceID: idOf(r)}, Bundle: b.Bundle, Hook: i == 1, order: order,
				now: r, After: r.UnstructuredObject(), maskRules: conf.DiffMaskRules(),
			})
		}
	}
	return all, nil
}

// resourceKey is by what resources of two versions are the same: the version of an API does not count, and of
// several with one name each has its own number.
type resourceKey struct {
	group, kind, namespace, name string
	hook                         bool
	number                       int
}

// keyResources returns resources by their keys. Those of the same bundle get the same numbers in both versions.
func keyResources(all []ManifestChange) (keys []resourceKey) {
	seen := map[resourceKey]int{}
	for _, r := range all {
		key := resourceKey{group: r.APIGroup(), kind: r.Kind, namespace: r.Namespace, name: r.Name, hook: r.Hook}
		number := seen[key]
		seen[key]++
		key.number = number
		keys = append(keys, key)
	}
	return keys
}

// pairResources compares the resources of two versions: what only one has, and what both have. Op is "" for those that
// are the same.
func pairResources(old, current []ManifestChange) []ManifestChange {
	before := map[resourceKey]*ManifestChange{}
	oldKeys := keyResources(old)
	for i, key := range oldKeys {
		before[key] = &old[i]
	}
	for i, key := range keyResources(current) {
		c := &current[i]
		was := before[key]
		if was == nil {
			c.Op = OpCreate
			continue
		}
		delete(before, key)
		c.was, c.Before = was.now, was.After
		c.maskRules = slices.Concat(was.maskRules, c.maskRules)
		if was.Bundle != c.Bundle {
			c.From = was.Bundle
		}
		if c.From != "" || !reflect.DeepEqual(c.Before, c.After) {
			c.Op = OpUpdate
		}
	}
	var gone []ManifestChange
	for i, key := range oldKeys {
		if before[key] == nil {
			continue
		}
		c := old[i]
		c.Op, c.was, c.now, c.Before, c.After = OpDelete, c.now, nil, c.After, nil
		gone = append(gone, c)
	}
	slices.SortStableFunc(current, compareByOrder)
	slices.SortStableFunc(gone, compareByOrder)
	return slices.Concat(current, gone)
}

func compareByOrder(a, b ManifestChange) int {
	return cmp.Or(cmp.Compare(a.order, b.order), compareIDs(a.ResourceID, b.ResourceID))
}

// withStoredVersions adds to a definition what the API server says of it that has stored no other version.
func withStoredVersions(r kappres.Resource) kappres.Resource {
	r = r.DeepCopy()
	object := r.UnstructuredObject()
	spec, _ := object["spec"].(map[string]any)
	versions, _ := spec["versions"].([]any)
	var stored []any
	for _, v := range versions {
		if version, _ := v.(map[string]any); version["storage"] == true {
			stored = append(stored, version["name"])
		}
	}
	object["status"] = map[string]any{"storedVersions": stored}
	return r
}

// writeDiffs sets the difference of each change, as far as there is room.
func writeDiffs(ctx context.Context, changes []ManifestChange) error {
	left := maxAllDiffs
	const batch = 64 // after which the room that is left is known
	for part := range slices.Chunk(changes, batch) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if left <= 0 {
			for i := range part {
				part[i].Diff = diffsOmitted
			}
			continue
		}
		var group errgroup.Group
		group.SetLimit(runtime.GOMAXPROCS(0))
		for i := range part {
			group.Go(func() error {
				part[i].Diff = diffResource(&part[i])
				return nil
			})
		}
		_ = group.Wait() // no error
		for i := range part {
			left -= len(part[i].Diff)
		}
	}
	return nil
}

// diffResource returns kapp's difference of a resource, masked and cut to the limits.
func diffResource(c *ManifestChange) (text string) {
	defer func() {
		if problem := recover(); problem != nil {
			text = "  … not shown: kapp cannot compare it\n"
		}
	}()
	was, now, err := maskValues(c.was, c.now, c.maskRules)
	if err != nil {
		return "  … not shown: what must be masked cannot be found: " + records.ShortenReason(err.Error()) + "\n"
	}
	shown := diff.NewConfigurableTextDiff(was, now, false, diff.ChangeOpts{AllowAnchoredDiff: true})
	view := diff.NewTextDiffView(shown, nil, diff.TextDiffViewOpts{Context: 2})
	return limitDiff(ansiColor.ReplaceAllString(view.String(), ""))
}

// limitDiff shortens a difference that is longer than the limits, and says so.
func limitDiff(text string) string {
	var out strings.Builder
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		if i == maxDiffLines || out.Len() > maxDiff {
			fmt.Fprintf(&out, "  … and %d more lines\n", len(lines)-i)
			break
		}
		if more := len(line) - maxDiffLine; more > 0 {
			line = strings.ToValidUTF8(line[:maxDiffLine], "") + fmt.Sprintf("… and %d more bytes", more)
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}

// lastApplied is where kubectl keeps a copy of a resource, a Secret's values among it.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// maskValues returns copies of both, without the values that rules of kapp hide. They show whether a value changed.
// kapp's own masks number values in the order in which the process meets them, and are not for several goroutines.
func maskValues(was, now kappres.Resource, rules []kappconfig.DiffMaskRule) (kappres.Resource, kappres.Resource, error) {
	sides := [2]kappres.Resource{was, now}
	var seen [2]map[string][]string
	for i, r := range sides {
		if r == nil {
			continue
		}
		sides[i], seen[i] = r.DeepCopy(), map[string][]string{}
		if annotations := sides[i].Annotations(); annotations[lastApplied] != "" {
			if metadata, is := sides[i].UnstructuredObject()["metadata"].(map[string]any); is {
				delete(metadata["annotations"].(map[string]any), lastApplied)
			}
		}
		err := eachMasked(sides[i], rules, func(key string, value any) any {
			text, err := json.Marshal(value)
			if err != nil {
				text = []byte(fmt.Sprint(i)) // differs from the other side's
			}
			seen[i][key] = append(seen[i][key], string(text))
			return value
		})
		if err != nil {
			return nil, nil, err
		}
	}
	for i, r := range sides {
		if r == nil {
			continue
		}
		err := eachMasked(r, rules, func(key string, _ any) any {
			switch other := seen[1-i][key]; {
			case other == nil || slices.Equal(other, seen[i][key]):
				return "<not shown>"
			case i == 0:
				return "<not shown, old value>"
			}
			return "<not shown, new value>"
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return sides[0], sides[1], nil
}

// eachMasked replaces the values that rules hide.
func eachMasked(r kappres.Resource, rules []kappconfig.DiffMaskRule, replace func(key string, value any) any) error {
	for _, rule := range rules {
		mod := kappres.ObjectRefSetMod{
			ResourceMatcher: kappres.AnyMatcher{Matchers: kappconfig.ResourceMatchers(rule.ResourceMatchers).AsResourceMatchers()},
			Path:            rule.Path,
			ReplacementFunc: func(values map[string]any) error {
				for key, value := range values {
					values[key] = replace(rule.Path.AsString()+"/"+key, value)
				}
				return nil
			},
		}
		if err := mod.Apply(r); err != nil {
			return err
		}
	}
	return nil
}
