// Package bundletest makes the ready bundles buildable without a network: their sources come from
// the corpus.
package bundletest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/source"
)

// Absent are the bundles whose data is not in the corpus, with their cells in the table of ready bundles:
// what was shown of them by hand, once.
var Absent = map[string][]string{
	"nextcloud": {"1", "219 KiB", "`nextcloud.host`, `nextcloud.username`, `nextcloud.password`, `persistence`, `ingress`, those of its chart",
		"built and rendered by hand, from a copy of its repository"},
}

// CorpusMirrors sends what the definitions fetch to the corpus, as bundles/mirrors.txt says, and repositories
// that it does not have to nowhere.
func CorpusMirrors(t testing.TB) []source.Mirror {
	t.Helper()
	root, err := hack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(filepath.Join(root, "bundles/mirrors.txt"))
	if err != nil {
		t.Fatal(err)
	}
	all := []source.Mirror{{Prefix: "https://github.com/", Replacement: "/nowhere/"}}
	for line := range strings.Lines(string(list)) {
		prefix, folder, found := strings.Cut(strings.TrimSpace(line), " ")
		if !found {
			t.Fatalf("mirrors.txt: %q is not a prefix and folder", line)
		}
		all = append(all, source.Mirror{Prefix: prefix, Replacement: located(t, folder)})
	}
	return all
}

// located returns a path of the corpus in whichever of its folders has it.
func located(t testing.TB, relative string) string {
	t.Helper()
	dirs, err := corpus.ListDirs()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, relative)); err == nil {
			return dir + "/" + relative
		}
	}
	t.Fatalf("mirrors.txt: no folder of the corpus has %s", relative)
	return ""
}

// MirrorsVariable returns what Mirrors are as $KRTPKG_SOURCE_MIRROR.
func MirrorsVariable(t testing.TB) string {
	t.Helper()
	var all []string
	for _, m := range CorpusMirrors(t) {
		all = append(all, m.Prefix+"="+m.Replacement)
	}
	return "KRTPKG_SOURCE_MIRROR=" + strings.Join(all, ",")
}

// CopyDefinitions returns a copy of the ready definitions. The corpus has the files of repositories but not
// their commits: where a definition names a commit, the copy has the corpus's files of it next to
// it instead.
func CopyDefinitions(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, bundles.Files); err != nil {
		t.Fatal(err)
	}
	err := fs.WalkDir(bundles.Files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "bundle.yaml" {
			return err
		}
		d, err := readDefinition(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		changed, err := vendorFiles(filepath.Join(dir, path.Dir(name)), d.Bundle.Spec.Files)
		if err != nil {
			return err
		}
		for i := range d.Bundle.Spec.Sources {
			s := &d.Bundle.Spec.Sources[i]
			if _, absent := Absent[d.Metadata().Name]; absent || s.Git == "" {
				continue
			}
			changed = true
			if err := vendorSource(t, filepath.Join(dir, path.Dir(name)), i, s); err != nil {
				return err
			}
		}
		if !changed {
			return nil
		}
		return writeDefinition(filepath.Join(dir, name), d)
	})
	if err == nil {
		prometheus := filepath.Join(dir, "4-security-and-observability/metrics/prometheus/source-0/setup/prometheuses.yaml")
		err = os.WriteFile(prometheus, []byte(prometheuses), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// vendorFiles puts stand-ins in place of the files of a definition, which no test fetches.
func vendorFiles(beside string, files []bundle.CargoFile) (changed bool, err error) {
	for i := range files {
		f := &files[i]
		standIn := fmt.Sprintf("file-%d", i)
		text := fmt.Sprintf("stands in for %s, which has sha256 %s\n", f.URL, f.SHA256)
		if err := os.WriteFile(filepath.Join(beside, standIn), []byte(text), 0o600); err != nil {
			return false, err
		}
		f.URL, f.SHA256, f.Path = "", "", standIn
	}
	return len(files) > 0, nil
}

// prometheuses stands in for a definition of 600 KB that the corpus left out.
const prometheuses = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: prometheuses.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: Prometheus, listKind: PrometheusList, plural: prometheuses, singular: prometheus}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// vendorSource makes a source of a commit one of a folder next to the definition. A kustomization comes
// with the folders next to it, which it names. Charts that a chart needs become archives there.
func vendorSource(t testing.TB, beside string, number int, s *bundle.Source) error {
	t.Helper()
	from, root := commitFolder(t, s.Git, s.Commit, s.Root)
	if s.Template != bundle.TemplateKustomize {
		from, root = from+root, ""
	}
	copied := fmt.Sprintf("source-%d", number)
	if err := os.CopyFS(filepath.Join(beside, copied), os.DirFS(from)); err != nil {
		return err
	}
	s.Dir, s.Root, s.Git, s.Ref, s.Commit = copied, root, "", "", ""
	for i := range s.Dependencies {
		d := &s.Dependencies[i]
		repository, folder := commitFolder(t, d.Git, d.Commit, d.Root)
		packed, err := pack(os.DirFS(repository + folder))
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s-%s.tar", copied, d.Name)
		if err := os.WriteFile(filepath.Join(beside, name), packed, 0o600); err != nil {
			return err
		}
		d.Git, d.Commit, d.Root, d.Archive, d.SHA256 = "", "", "", name, fmt.Sprintf("%x", sha256.Sum256(packed))
	}
	return nil
}

// commitFolder returns what the corpus has of a commit's repository, and where a folder of it lies in that.
func commitFolder(t testing.TB, repository, commit, folder string) (has, rest string) {
	t.Helper()
	url := strings.Replace(repository, "https://github.com/", "https://raw.githubusercontent.com/", 1) + "/" + commit + "/" + folder
	for _, m := range CorpusMirrors(t) {
		if rest, matches := strings.CutPrefix(url, m.Prefix); matches {
			return m.Replacement, rest
		}
	}
	t.Fatalf("mirrors.txt has no folder for %s", url)
	return "", ""
}

// pack makes a tar of files.
func pack(files fs.FS) ([]byte, error) {
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	err := errors.Join(w.AddFS(files), w.Close())
	return packed.Bytes(), err
}

// Applied are the ready runtimes that tests apply on a real control plane.
var Applied = []string{"enterprise", "air-gapped", "observability", "delivery"}

// The runtimes of bundles that no applied ready runtime has: all of them, and one each.
const (
	Rest  = "rest"
	Alone = "alone"
)

// elsewhere are the bundles that are not applied with the rest, by where they are, or why they are not.
var elsewhere = map[string]struct{ where, reason string }{
	"hello@1.0.0":           {where: "upstream"}, // where 1.1.0 follows
	"gvisor@1.0.0":          {reason: "it is of APIs that Kubernetes 1.25 removed, as its range says, and a plan refuses it"},
	"knative-serving@1.0.0": {reason: "it is of APIs that Kubernetes 1.25 removed, as its range says, and a plan refuses it"},
	// An API server that has hundreds of definitions more needs minutes to serve its kinds.
	"operator-lifecycle-manager@0.18.3": {where: Alone},
}

// AppliedIn returns the runtime in which tests apply a bundle on a real control plane, or why none does.
func AppliedIn(t testing.TB, r bundles.Ready) (where, reason string) {
	t.Helper()
	if is, found := elsewhere[r.Name+"@"+r.Version]; found {
		return is.where, is.reason
	}
	if _, absent := Absent[r.Name]; absent {
		return "", "its repository is not in the test data"
	}
	if hasOnlyFiles(t, r) {
		return "", "it is files for nodes"
	}
	all, err := bundles.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, runtime := range Applied {
		uses, err := bundles.Runtime(runtime, all)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(uses, func(u bundles.Use) bool { return u.Path == r.Path }) {
			return runtime, ""
		}
	}
	return Rest, ""
}

// hasOnlyFiles reports whether a bundle has nothing for a cluster.
func hasOnlyFiles(t testing.TB, r bundles.Ready) bool {
	t.Helper()
	data, err := bundles.Files.ReadFile(r.Path + "/bundle.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := bundle.Parse(r.Path, data)
	if err != nil {
		t.Fatal(err)
	}
	return len(d.Bundle.Spec.Sources) == 0
}

// byDigest are the bundles whose manifests name images by digest, which no stand-in can have. They are
// all rendered at the build.
var byDigest = []string{
	"0-platform/continuous-integration-and-delivery/tekton",
	"3-cluster-services/networking/cilium",
	"3-cluster-services/package-management/kapp-controller",
	"3-cluster-services/package-management/secretgen-controller",
	"4-security-and-observability/application-catalog/operatorhub",
	"4-security-and-observability/build-service/kpack",
	"5-platform-services/serverless/knative",
}

// digests in references to images, after a tag or without one.
var (
	taggedDigests = regexp.MustCompile(`((?:[\w.-]+/)+[\w.-]+:[\w.-]+)@sha256:[0-9a-f]{64}`)
	digests       = regexp.MustCompile(`((?:[\w.-]+/)+[\w.-]+)@sha256:[0-9a-f]{64}`)
)

// LoosenDigests lets stand-ins take the places of images that manifests name by digest: such bundles of a
// workspace become what they render to, with tags instead.
func LoosenDigests(t testing.TB, workspace string) {
	t.Helper()
	for _, at := range byDigest {
		dir := filepath.Join(workspace, filepath.FromSlash(at))
		files, err := assemble.RenderManifests(t.Context(), dir, assemble.Options{Sources: source.Fetcher{Mirrors: CorpusMirrors(t)}})
		if err != nil {
			t.Fatal(err)
		}
		loosened := false
		for i, f := range files {
			loose := loosenDigests(f.Data)
			loosened = loosened || !bytes.Equal(loose, f.Data)
			// In their order, as kapp's rules have it.
			name := filepath.Join(dir, "loose", fmt.Sprintf("%d-%s", i, path.Base(f.Path)))
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, loose, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if !loosened {
			t.Errorf("%s names no image by digest", at)
		}
		file := filepath.Join(dir, "bundle.yaml")
		d, err := readDefinition(file)
		if err != nil {
			t.Fatal(err)
		}
		d.Bundle.Spec.Sources = []bundle.Source{{Dir: "loose"}}
		if err := writeDefinition(file, d); err != nil {
			t.Fatal(err)
		}
	}
}

// copyLoose copies a folder, with tags in place of digests.
func copyLoose(to, from string) error {
	return filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		at := filepath.Join(to, strings.TrimPrefix(name, from))
		return errors.Join(err, os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, loosenDigests(data), 0o600))
	})
}

// older are older versions of ready bundles that the corpus has, by their names.
var older = map[string]struct {
	version, folder string
	source          bundle.Source
}{
	"argo-cd":         {"3.1.16", "4-security-and-observability/gitops-and-registryops/argo-cd-rendered/manifests", bundle.Source{}},
	"bamboo":          {"1.0.0", "0-platform/continuous-integration-and-delivery/bamboo-1/bamboo", bundle.Source{Template: bundle.TemplateHelm}},
	"bitbucket":       {"1.1.0", "0-platform/source-control/bitbucket-1/bitbucket", bundle.Source{Template: bundle.TemplateHelm}},
	"cert-manager":    {"1.8.0", "4-security-and-observability/certificate-management/cert-manager-rendered/bundle/config/upstream", bundle.Source{}},
	"external-dns":    {"0.11.0", "3-cluster-services/external-dns/external-dns-rendered/bundle/config/upstream", bundle.Source{}},
	"kapp-controller": {"0.35.0", "3-cluster-services/package-management/kapp-controller-rendered/bundle/config/upstream", bundle.Source{}},
}

// OlderVersion returns the version of a bundle from which tests upgrade it on a real control plane; empty if there
// is none at hand.
func OlderVersion(r bundles.Ready) string {
	if r.Name == "hello" && r.Version == "1.1.0" {
		return "1.0.0"
	}
	return older[r.Name].version
}

// AddOlder adds definitions of older versions to a workspace, and returns those of bundles in a list.
func AddOlder(t testing.TB, workspace string, list []bundles.Ready) (added []bundles.Ready) {
	t.Helper()
	for _, r := range list {
		o, has := older[r.Name]
		if !has {
			continue
		}
		d, err := readDefinition(filepath.Join(workspace, r.Path, "bundle.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		was := d.Bundle.Spec.Sources[0]
		o.source.Dir, o.source.Patches = "source", was.Patches
		if o.source.Template == bundle.TemplateHelm {
			o.source.Helm = was.Helm
		}
		dir := filepath.Join(workspace, "older", r.Name)
		sources := []bundle.Source{o.source}
		for _, s := range d.Bundle.Spec.Sources[1:] { // what is ours, such as a namespace
			if s.File == "" {
				continue
			}
			data, err := os.ReadFile(filepath.Join(workspace, r.Path, s.File))
			if err := errors.Join(err, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, s.File), data, 0o600)); err != nil {
				t.Fatal(err)
			}
			sources = append(sources, s)
		}
		d.Bundle.Metadata.Version, d.Bundle.Spec.Sources = o.version, sources
		r.Path, r.Version = "older/"+r.Name, o.version
		if err := copyLoose(filepath.Join(dir, "source"), located(t, o.folder)); err != nil {
			t.Fatal(err)
		}
		if err := writeDefinition(filepath.Join(dir, "bundle.yaml"), d); err != nil {
			t.Fatal(err)
		}
		added = append(added, r)
	}
	return added
}

// loosenDigests gives images that are named by digest tags instead.
func loosenDigests(text []byte) []byte {
	return digests.ReplaceAll(taggedDigests.ReplaceAll(text, []byte("${1}")), []byte("${1}:stand-in"))
}

func readDefinition(file string) (*bundle.Definition, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return bundle.Parse(file, data)
}

func writeDefinition(file string, d *bundle.Definition) error {
	data, err := yaml.Marshal(d.Bundle)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}
