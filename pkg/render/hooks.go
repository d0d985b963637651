package render

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
	release "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Annotations of Helm that say when something is to happen to a resource
// (helm.sh/docs/topics/charts_hooks).
const (
	hookAnnotation   = "helm.sh/hook"
	weightAnnotation = "helm.sh/hook-weight"
	deleteAnnotation = "helm.sh/hook-delete-policy"
	policyAnnotation = "helm.sh/resource-policy"
)

// Annotations of kapp.
const (
	changeGroup    = "kapp.k14s.io/change-group"
	changeRule     = "kapp.k14s.io/change-rule"
	updateStrategy = "kapp.k14s.io/update-strategy"
	deleteStrategy = "kapp.k14s.io/delete-strategy"
)

// kept are the annotations by which each engine leaves a resource on the cluster when it goes from the
// manifests.
var kept = map[string]string{
	deleteStrategy:                      "orphan",
	"kustomize.toolkit.fluxcd.io/prune": "disabled",
	"argocd.argoproj.io/sync-options":   "Prune=false,Delete=false",
}

// Hook is a resource that Helm creates at a moment of a release's life.
type Hook struct {
	// Kind and Name are the resource's.
	Kind, Name string
	// Events are the moments, as Helm names them.
	Events []string
	// Weight orders hooks of one moment.
	Weight int
	// Policies say when it is deleted; before-hook-creation where its author says nothing.
	Policies []string

	file    *manifest.File
	node    *yaml.Node
	ordinal int
}

// String is like "Job migrate (pre-install, pre-upgrade)".
func (h Hook) String() string {
	return fmt.Sprintf("%s %s (%s)", h.Kind, h.Name, strings.Join(h.Events, ", "))
}

// RunsAt reports whether the hook is for one of the events.
func (h Hook) RunsAt(events ...string) bool {
	return slices.ContainsFunc(h.Events, func(e string) bool { return slices.Contains(events, e) })
}

// runsToEnd reports whether the hook does something that ends, and not only is there.
func (h Hook) runsToEnd() bool { return h.Kind == "Job" || h.Kind == "Pod" }

// The events at which krtpkg applies, those that it runs hooks at when it is told to, and Helm's tests.
var (
	beforeEvents = []string{string(release.HookPreInstall), string(release.HookPreUpgrade)}
	afterEvents  = []string{string(release.HookPostInstall), string(release.HookPostUpgrade)}
	laterEvents  = []string{
		string(release.HookPreDelete), string(release.HookPostDelete),
		string(release.HookPreRollback), string(release.HookPostRollback),
	}
	testEvents = []string{string(release.HookTest), "test-success"}
)

// hookOf reads a document's annotations as Helm does. What has an event that Helm does not know is no
// hook here: Helm leaves it out, kubectl and kapp do not.
func hookOf(f *manifest.File, doc *yaml.Node) (Hook, bool) {
	metadata := manifest.GetValue(doc, "metadata")
	annotations := manifest.GetValue(metadata, "annotations")
	events := splitWords(manifest.GetText(annotations, hookAnnotation))
	known := slices.Concat(beforeEvents, afterEvents, laterEvents, testEvents)
	if len(events) == 0 || slices.ContainsFunc(events, func(e string) bool { return !slices.Contains(known, e) }) {
		return Hook{}, false
	}
	h := Hook{
		Kind: manifest.GetText(doc, "kind"), Name: manifest.GetText(metadata, "name"), Events: events,
		Policies: splitWords(manifest.GetText(annotations, deleteAnnotation)), file: f, node: doc,
	}
	h.Weight, _ = strconv.Atoi(manifest.GetText(annotations, weightAnnotation)) // 0 for what is not a number, as Helm has it
	if len(h.Policies) == 0 {
		h.Policies = []string{string(release.HookBeforeHookCreation)}
	}
	return h, true
}

// UnknownHooks tells of hooks in a chart's templates that Helm leaves out without a word, since it knows
// no such event.
func UnknownHooks(files []bundle.File) (notes []string) {
	known := slices.Concat(beforeEvents, afterEvents, laterEvents, testEvents)
	for _, f := range files {
		if !strings.Contains("/"+f.Path, "/templates/") || !isManifest(f.Path) {
			continue
		}
		for _, match := range hookLine.Get().FindAllSubmatch(f.Data, -1) {
			for _, event := range splitWords(string(match[1])) {
				if !slices.Contains(known, event) {
					notes = append(notes, fmt.Sprintf("%s: Helm knows no hook %q and leaves the resource out", f.Path, event))
				}
			}
		}
	}
	return slices.Compact(notes)
}

var hookLine = lazyregexp.New(`helm\.sh/hook["']?\s*:\s*["']?([a-z][a-z, -]*)`)

func splitWords(list string) []string {
	var all []string
	for word := range strings.SplitSeq(list, ",") {
		if word = strings.ToLower(strings.TrimSpace(word)); word != "" {
			all = append(all, word)
		}
	}
	return all
}

// ParseHooks reads the hooks in manifests, in the order in which Helm runs those of one moment. Texts
// are their documents.
func ParseHooks(files []bundle.File) (hooks []Hook, texts [][]byte, err error) {
	for _, f := range files {
		parsed, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			return nil, nil, err
		}
		for _, doc := range parsed.Documents {
			if h, is := hookOf(parsed, doc); is {
				h.ordinal = len(hooks)
				hooks = append(hooks, h)
			}
		}
	}
	sortHooks(hooks)
	for _, h := range hooks {
		texts = append(texts, h.file.SpanText(h.file.DocumentSpan(h.node)))
	}
	return hooks, texts, nil
}

// sortHooks puts hooks in Helm's order: by weight, name, kind, and where they stand.
func sortHooks(hooks []Hook) {
	kind := func(h Hook) int {
		if i := slices.Index(releaseutil.InstallOrder, h.Kind); i >= 0 {
			return i
		}
		return len(releaseutil.InstallOrder)
	}
	slices.SortStableFunc(hooks, func(a, b Hook) int {
		return cmp.Or(cmp.Compare(a.Weight, b.Weight), cmp.Compare(a.Name, b.Name), cmp.Compare(kind(a), kind(b)),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ordinal, b.ordinal))
	})
}

// hookLifecycle is what the files of one source become: those to apply, with kapp's annotations in the
// place of Helm's meaning, and those of hooks that run later.
type hookLifecycle struct {
	applied, later []bundle.File
	// tests are hooks that are left out.
	tests []Hook
}

// separateHooks separates the hooks of a source from the rest and tells kapp when the others are to be
// applied. release names the source inside its bundle.
func separateHooks(release string, files []bundle.File) (hookLifecycle, error) {
	l := hookLifecycle{applied: files}
	if !slices.ContainsFunc(files, func(f bundle.File) bool {
		return bytes.Contains(f.Data, []byte(hookAnnotation)) || bytes.Contains(f.Data, []byte(policyAnnotation))
	}) {
		return l, nil
	}
	digest := sha256.New()
	parsed := make([]*manifest.File, len(files))
	var now []Hook
	var finished Hook
	removed := 0
	original := files
	for i, f := range files {
		if !isManifest(f.Path) {
			continue
		}
		fmt.Fprintf(digest, "%d %s\n", len(f.Data), f.Data)
		var err error
		if parsed[i], err = manifest.Parse(f.Path, f.Data); err != nil {
			return l, err
		}
		var later bytes.Buffer
		left := 0
		for _, doc := range parsed[i].Documents {
			h, is := hookOf(parsed[i], doc)
			if is && manifest.GetText(manifest.GetValue(manifest.GetValue(doc, "metadata"), "annotations"), bundle.HookAnnotation) != "" {
				finished = h // it went through here at the build
			}
			if is && h.RunsAt(laterEvents...) {
				text := parsed[i].SpanText(parsed[i].DocumentSpan(doc))
				if !bytes.HasPrefix(text, []byte("---")) {
					later.WriteString("---\n")
				}
				later.Write(text)
				if !bytes.HasSuffix(text, []byte("\n")) {
					later.WriteByte('\n')
				}
			}
			switch {
			case is && h.RunsAt(slices.Concat(beforeEvents, afterEvents)...):
				h.ordinal = len(now)
				now = append(now, h)
				left++
			case is:
				if !h.RunsAt(laterEvents...) {
					l.tests = append(l.tests, h)
				}
				removed++
				if err := parsed[i].RemoveSpan(parsed[i].DocumentSpan(doc)); err != nil {
					return l, err
				}
			default:
				left++
			}
		}
		if later.Len() > 0 {
			l.later = append(l.later, bundle.File{Path: f.Path, Data: later.Bytes()})
		}
		if left == 0 && len(parsed[i].Documents) > 0 {
			parsed[i] = nil
			files = slices.Clone(files)
			files[i].Path = ""
		}
	}
	if finished.node != nil {
		if removed > 0 {
			return l, finished.file.Errorf(finished.node, "annotation %s is reserved for krtpkg", bundle.HookAnnotation)
		}
		return hookLifecycle{applied: original}, nil
	}
	sortHooks(now)
	if err := orderHooks(release, hex.EncodeToString(digest.Sum(nil))[:16], parsed, now); err != nil {
		return l, err
	}
	l.applied = nil
	for i, f := range files {
		if parsed[i] != nil {
			f.Data = parsed[i].Bytes()
		}
		if f.Path != "" {
			l.applied = append(l.applied, f)
		}
	}
	return l, nil
}

// orderHooks annotates all documents with what kapp is to know of them: the hooks that come before all else,
// one after the other, and those that come after it, and what is to stay on the cluster.
func orderHooks(release, digest string, files []*manifest.File, hooks []Hook) error {
	var before, after []Hook
	for _, h := range hooks {
		first, last := h.RunsAt(beforeEvents...), h.RunsAt(afterEvents...)
		if first && last && h.runsToEnd() {
			return h.file.Errorf(h.node, "hook %s runs before and after the chart's other resources, but kapp cannot run it twice", h)
		}
		if first {
			before = append(before, h)
		} else {
			after = append(after, h)
		}
	}
	names := changeGroups(release)
	annotations := map[*yaml.Node]map[string]string{}
	for _, list := range []struct {
		hooks []Hook
		group string
		rules []string
	}{
		{before, names.before, nil},
		{after, names.after, []string{names.before, names.main}},
	} {
		for i, h := range list.hooks {
			add := map[string]string{
				bundle.HookAnnotation: release + "@" + digest,
				changeGroup + ".hook": list.group, changeGroup + ".hook-order": fmt.Sprintf("%s-%d", list.group, i),
			}
			rules := slices.Clone(list.rules)
			for k := i - 1; k >= 0; k-- {
				rules = append(rules, fmt.Sprintf("%s-%d", list.group, k))
				if !slices.ContainsFunc(h.Events, func(e string) bool { return !list.hooks[k].RunsAt(e) }) {
					break // it is there whenever this one is, and waits for those before it
				}
			}
			for k, group := range rules {
				add[fmt.Sprintf("%s.hook-%d", changeRule, k)] = "upsert after upserting " + group
			}
			switch install, upgrade := h.RunsAt(beforeEvents[0], afterEvents[0]), h.RunsAt(beforeEvents[1], afterEvents[1]); {
			case install && !upgrade:
				add[updateStrategy] = "skip"
			case h.runsToEnd():
				add[updateStrategy] = "always-replace"
			}
			annotations[h.node] = add
		}
	}
	for _, f := range files {
		if f == nil {
			continue
		}
		for _, doc := range f.Documents {
			if err := annotateAll(f, doc, annotations, names, len(before) > 0, len(after) > 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// annotateAll writes the annotations of a document: a hook's own, or those by which the hooks know what
// they come before and after.
func annotateAll(f *manifest.File, doc *yaml.Node, hooks map[*yaml.Node]map[string]string, names groupNames, before, after bool) error {
	add, isHook := hooks[doc]
	if _, other := hookOf(f, doc); other && !isHook {
		return nil // it has been taken out
	}
	for _, item := range manifest.ListItems(doc) {
		own := map[string]string{}
		if isHook {
			own = add
		} else if kind := manifest.GetText(item, "kind"); kind != "Namespace" && kind != "CustomResourceDefinition" && !isConfig(item) {
			if before {
				own[changeRule+".hook"] = "upsert after upserting " + names.before
			}
			if after {
				own[changeGroup+".hook"] = names.main
			}
		}
		policy := manifest.GetText(manifest.GetValue(manifest.GetValue(item, "metadata"), "annotations"), policyAnnotation)
		if strings.ToLower(strings.TrimSpace(policy)) == "keep" {
			for key, value := range kept {
				own[key] = value
			}
		}
		if len(own) == 0 || manifest.GetValue(item, "metadata") == nil { // what kbld or kapp reads
			continue
		}
		if err := f.SetMetadata(item, manifest.Metadata{Annotations: own}); err != nil {
			return err
		}
	}
	return nil
}

// isConfig reports whether a resource is for kapp and not for a cluster.
func isConfig(resource *yaml.Node) bool {
	return strings.HasPrefix(manifest.GetText(resource, "apiVersion"), "kapp.k14s.io/")
}

type groupNames struct{ before, main, after string }

// changeGroups returns the change groups of a release. A name has at most 63 characters, of those of labels.
func changeGroups(release string) groupNames {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.':
			return r
		}
		return '-'
	}, release)
	if name != release || len(name) > 30 {
		sum := sha256.Sum256([]byte(release))
		name = hex.EncodeToString(sum[:6])
	}
	prefix := "hooks.krtpkg.dev/r-" + name
	return groupNames{prefix + "-before", prefix + "-main", prefix + "-after"}
}
