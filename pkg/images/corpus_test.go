package images_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/google/go-containerregistry/pkg/name"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

var update = flag.Bool("update", false, "write what is found into the table; review the difference then")

// table has a line for each place of the corpus that was reviewed: product, digest of the
// file, line, column, how it was found, what becomes of it, and the verdict: image, or no-image.
// A product in which nothing is found has a line too.
const table = "../../testdata/corpus/images.tsv"

// What is found in the corpus is what was reviewed, place by place, and every product was reviewed.
func TestCorpusFindsWhatWasReviewed(t *testing.T) {
	t.Parallel()
	reviewed, err := os.ReadFile(table)
	if err != nil && !*update {
		t.Fatal(err)
	}
	verdicts, products := map[string]string{}, map[string]bool{}
	for line := range strings.Lines(string(reviewed)) {
		at := strings.LastIndexByte(strings.TrimSpace(line), '\t')
		verdicts[line[:at]] = strings.TrimSpace(line[at:])
		product, _, _ := strings.Cut(line, "\t")
		products[product] = true
	}
	var out bytes.Buffer
	seen, places := map[string]bool{}, map[string]int{}
	look := func(key, what string) {
		if seen[key] {
			return // some files are there twice
		}
		seen[key] = true
		verdict := verdicts[key]
		if verdict == "" {
			verdict = "unreviewed"
			if !*update {
				t.Errorf("%s, and nobody has reviewed that", what)
			}
		}
		fmt.Fprintf(&out, "%s\t%s\n", key, verdict)
		places[path.Base(path.Dir(strings.ReplaceAll(key, "\t", "/")))+"/"+key[strings.LastIndexByte(key, '\t')+1:]+"/"+verdict]++
	}
	for _, product := range corpusProducts(t) {
		if !products[product.name] && !*update {
			t.Errorf("nobody has reviewed %s", product.name)
		}
		any := false
		for _, f := range product.files {
			for _, found := range find(t, f) {
				any = true
				key := fmt.Sprintf("%s\t%s\t%d\t%d\t%s\t%s", f.Product(), f.Digest(), found.Line, found.Column, found.How, found.State)
				look(key, fmt.Sprintf("%s:%d:%d: %s %q is %s (%s)", f.Path, found.Line, found.Column, found.Path, found.Image, found.State, found.How))
			}
		}
		if !any {
			look(product.name+"\t-\t0\t0\t-\t-", product.name+": nothing is found")
		}
	}
	if *update {
		if err := os.WriteFile(table, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for key := range verdicts {
		if !seen[key] {
			t.Errorf("no longer found: %s", key)
		}
	}
	t.Logf("%d products", len(products))
	for _, place := range slices.Sorted(maps.Keys(places)) {
		parts := strings.Split(place, "/")
		how, state, verdict := parts[0], parts[1], parts[2]
		if state == "-" {
			continue
		}
		all := places[how+"/"+state+"/image"] + places[how+"/"+state+"/no-image"]
		t.Logf("%-14s %-8s %3d of %3d are of the verdict %s", how, state, places[place], all, verdict)
		if state == string(images.Image) && verdict != "image" {
			t.Errorf("%d strings are rewritten that are no images", places[place])
		}
	}
}

type corpusProduct struct {
	name  string
	files []corpus.File
}

// corpusProducts returns the products of both folders of the corpus, with the files that are parsable.
func corpusProducts(t *testing.T) (products []corpusProduct) {
	t.Helper()
	index := map[string]int{}
	for _, f := range corpus.ListAllFiles(t) {
		if _, known := index[f.Product()]; !known {
			index[f.Product()] = len(products)
			products = append(products, corpusProduct{name: f.Product()})
		}
	}
	for _, f := range parsable(t) {
		p := &products[index[f.Product()]]
		p.files = append(p.files, f)
	}
	if len(products) < 129 {
		t.Errorf("only %d products", len(products))
	}
	return products
}

// unreported has the lines of the corpus that could name an image for someone who searches for
// them, and do not: each was reviewed.
const unreported = "../../testdata/corpus/unreported.tsv"

// No line of the corpus that could name an image goes without a word: it is found, or it is a
// suspect, or it was reviewed and is none.
func TestCorpusHasNothingSilent(t *testing.T) {
	t.Parallel()
	reviewed, err := os.ReadFile(unreported)
	if err != nil && !*update {
		t.Fatal(err)
	}
	none := map[string]bool{}
	for line := range strings.Lines(string(reviewed)) {
		text, _, _ := strings.Cut(line, "\t")
		none[text] = true
	}
	seen := map[string]bool{}
	lines, silent, reported := 0, 0, 0
	for _, f := range parsable(t) {
		found := map[int]bool{}
		for _, one := range find(t, f) {
			found[one.Line] = true
		}
		for _, m := range corpus.ListMentions(f.Data) {
			lines++
			key := strings.ReplaceAll(m.Text, "\t", " ")
			switch {
			case found[m.Line]:
				reported++
			case none[key] || *update:
				seen[key] = true
			default:
				silent++
				t.Errorf("%s:%d: nothing is reported of %.200s", f.Path, m.Line, m.Text)
			}
		}
	}
	if *update {
		var out bytes.Buffer
		for _, text := range slices.Sorted(maps.Keys(seen)) {
			fmt.Fprintf(&out, "%s\tno-image\n", text)
		}
		if err := os.WriteFile(unreported, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for text := range none {
		if !seen[text] {
			t.Errorf("no longer there, or reported: %s", text)
		}
	}
	t.Logf("%d lines could name an image: %d are reported, %d were reviewed and name none, %d are silent: recall %.3f",
		lines, reported, lines-reported-silent, silent, float64(lines-silent)/float64(lines))
	if lines < 750 {
		t.Errorf("only %d lines", lines)
	}
}

// Every image of a container field, found here by nothing but decoding the YAML, is found.
func TestCorpusRecallOfContainers(t *testing.T) {
	t.Parallel()
	want, missed := 0, 0
	for _, f := range parsable(t) {
		found := map[string]int{}
		for _, one := range find(t, f) {
			found[one.Image]++
		}
		decoder := yaml.NewDecoder(bytes.NewReader(f.Data))
		for {
			var doc any
			if err := decoder.Decode(&doc); err != nil {
				break
			}
			for _, image := range containerImages(doc) {
				want++
				if found[image] == 0 {
					missed++
					t.Errorf("%s: %q of a container is not found", f.Path, image)
				}
				found[image]--
			}
		}
	}
	if want < 300 {
		t.Errorf("only %d images in containers: the corpus has more", want)
	}
	t.Logf("recall on container fields: %d of %d: %.3f", want-missed, want, float64(want-missed)/float64(want))
}

func containerImages(value any) (found []string) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			found = append(found, containerImages(item)...)
		}
	case map[string]any:
		for key, item := range v {
			if list, ok := item.([]any); ok && slices.Contains([]string{"containers", "initContainers", "ephemeralContainers"}, key) {
				for _, c := range list {
					if container, ok := c.(map[string]any); ok {
						if image, ok := container["image"].(string); ok && image != "" {
							found = append(found, image)
						}
					}
				}
			}
			found = append(found, containerImages(item)...)
		}
	}
	return found
}

// The corpus's own list of the places where images hide was made by other means than this
// package's.
func TestCorpusRecallOfHiddenPlaces(t *testing.T) {
	t.Parallel()
	places, err := os.ReadFile(filepath.Join(corpus.FirstDir(t), "image-places.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string][]images.Found{}
	for _, f := range parsable(t) {
		lines[f.Path] = find(t, f)
	}
	hit, all := map[string]int{}, map[string]int{}
	for i, line := range strings.Split(strings.TrimSpace(string(places)), "\n") {
		fields := strings.Split(line, "\t")
		// Templates of charts are rendered before anything is looked for in them.
		if i == 0 || strings.HasPrefix(fields[0], "helm-template-") {
			continue
		}
		var at int
		if _, err := fmt.Sscan(fields[2], &at); err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
		found, parsed := lines[fields[1]]
		if !parsed {
			t.Fatalf("%s is not parsed", fields[1])
		}
		all[fields[0]]++
		if slices.ContainsFunc(found, func(f images.Found) bool { return covers(f, at, fields) }) {
			hit[fields[0]]++
		} else {
			t.Logf("not found: %s", line)
		}
	}
	var hits, total int
	for kind, n := range all {
		t.Logf("recall on %-20s %3d of %3d", kind, hit[kind], n)
		// Split fields name no full reference.
		if kind != "split-fields" {
			hits, total = hits+hit[kind], total+n
		}
	}
	if hits < total*97/100 || total < 150 {
		t.Errorf("%d of %d places", hits, total)
	}
	if hit["split-fields"] < all["split-fields"]*9/10 {
		t.Errorf("%d of %d images in split fields", hit["split-fields"], all["split-fields"])
	}
	t.Logf("recall on hidden places that name a full reference: %d of %d: %.3f", hits, total, float64(hits)/float64(total))
}

// covers reports whether something found is what a line of the list means: the line itself, the
// next for a name that another replaces, or a line of the block that begins there.
func covers(f images.Found, line int, fields []string) bool {
	field := fields[len(fields)-1]
	switch {
	case f.Line == line:
		return true
	case fields[0] == "split-fields":
		return f.Line > line && f.Line <= line+4
	case fields[0] == "embedded-text" || fields[0] == "configmap-data":
		return f.Line > line && strings.Contains(f.Path, field[strings.LastIndexByte(field, '.')+1:]) && f.Line < line+80
	}
	return false
}

// Locks that Carvel's own tools made of manifests in the corpus name what is found in them.
func TestCorpusLocksOfCarvelPackages(t *testing.T) {
	t.Parallel()
	byProduct, text := map[string][]string{}, map[string][]byte{}
	for _, f := range parsable(t) {
		if path.Base(f.Path) == "images.yml" {
			continue
		}
		text[f.Product()] = append(text[f.Product()], f.Data...)
		for _, found := range find(t, f) {
			byProduct[f.Product()] = append(byProduct[f.Product()], found.Image)
		}
	}
	locks, ids, absent := 0, 0, 0
	for _, f := range corpus.ListFiles(t) {
		if !strings.HasSuffix(f.Path, "/bundle/.imgpkg/images.yml") {
			continue
		}
		var lock struct {
			Images []struct {
				Image       string            `yaml:"image"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"images"`
		}
		if err := yaml.Unmarshal(f.Data, &lock); err != nil {
			t.Fatal(err)
		}
		locks++
		for _, image := range lock.Images {
			ids++
			// What kbld replaced, where it says so.
			id := cmp.Or(image.Annotations["kbld.carvel.dev/id"], image.Image)
			switch {
			case slices.Contains(byProduct[f.Product()], id):
			case !bytes.Contains(text[f.Product()], []byte(id)):
				// The manifest that names it is not in the corpus.
				absent++
				t.Logf("%s: %s is in no file but the lock", f.Product(), id)
			default:
				t.Errorf("%s: %s is in its lock and not found in its manifests", f.Product(), id)
			}
		}
	}
	t.Logf("%d of %d images of %d locks are found, %d are in no file", ids-absent, ids, locks, absent)
	if locks < 10 || ids < 40 || absent > 3 {
		t.Errorf("%d images in %d locks, %d in no file", ids, locks, absent)
	}
}

// Rewriting what is found changes nothing else: put back, the file is what it was.
func TestCorpusRelocatesInPlace(t *testing.T) {
	t.Parallel()
	files, rewritten := 0, 0
	for _, f := range parsable(t) {
		file, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			t.Fatal(err)
		}
		var lock images.Lock
		finder := new(images.Finder)
		for _, found := range find(t, f) {
			if found.State == images.Suspect {
				// A placeholder in a container cannot be relocated, and is not.
				finder.NotImages = append(finder.NotImages, images.NotImage{Value: found.Image})
			}
			if found.State == images.Image {
				lock = append(lock, images.Locked{Reference: found.Image, Image: digest(t, "site.example/moved@"+zeros)})
				rewritten++
			}
		}
		out, err := lock.Relocate(file, finder, atSite)
		if err != nil {
			t.Errorf("%s: %v", f.Path, err)
			continue
		}
		files++
		if err := corpus.OnlyReferencesDiffer(f.Data, out, atSite(digest(t, "site.example/moved@"+zeros))); err != nil {
			t.Errorf("%s: %v", f.Path, err)
		}
	}
	t.Logf("%d files, %d references rewritten, every other byte is as it was", files, rewritten)
	if files < 900 || rewritten < 500 {
		t.Errorf("only %d files and %d references", files, rewritten)
	}
}

// A registry at an IPv6 address is put into every place of the corpus, and found there again.
func TestCorpusRelocatesToIPv6(t *testing.T) {
	t.Parallel()
	moved := func(d name.Digest) string { return "[2001:db8::1]:5000/krt/edge@" + d.DigestStr() }
	rewritten := 0
	for _, f := range parsable(t) {
		file, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			t.Fatal(err)
		}
		var lock images.Lock
		finder := new(images.Finder)
		before := find(t, f)
		for _, found := range before {
			switch found.State {
			case images.Suspect:
				finder.NotImages = append(finder.NotImages, images.NotImage{Value: found.Image})
			case images.Image:
				lock = append(lock, images.Locked{Reference: found.Image, Image: digest(t, "site.example/moved@"+zeros)})
			}
		}
		out, err := lock.Relocate(file, finder, moved)
		if err != nil {
			t.Errorf("%s: %v", f.Path, err)
			continue
		}
		after, err := manifest.Parse(f.Path, out)
		if err != nil {
			t.Errorf("%s: %v", f.Path, err)
			continue
		}
		again, err := new(images.Finder).Find(after)
		if err != nil {
			t.Errorf("%s: %v", f.Path, err)
			continue
		}
		there := 0
		for _, found := range again {
			if strings.HasPrefix(found.Image, "[2001:db8::1]:5000/krt/edge") && strings.HasSuffix(found.Image, "@"+zeros) {
				there++
			}
		}
		want := 0
		for _, found := range before {
			if found.State == images.Image {
				want++
			}
		}
		if there != want {
			t.Errorf("%s: %d of %d images are found where they were put", f.Path, there, want)
		}
		rewritten += want
	}
	if rewritten < 500 {
		t.Errorf("only %d references", rewritten)
	}
}

// parsable returns the corpus's files that are YAML or JSON as they lie there: no charts' templates,
// and none of those that the corpus's index says need a substitution or ytt first.
func parsable(t *testing.T) []corpus.File {
	t.Helper()
	notPlain := []string{
		"k3s-addons/coredns.yaml", "pinniped/deploy/concierge/deployment.yaml",
		"pinniped/deploy/supervisor/deployment.yaml", "dashboards/fluent-bit.json",
		"pinniped-concierge/deploy/concierge/deployment.yaml", "pinniped-concierge/deploy/concierge/helpers.lib.yaml",
		"neuvector/core/values.schema.json",
	}
	var files []corpus.File
	for _, f := range corpus.ListAllFiles(t) {
		switch path.Ext(f.Path) {
		case ".yaml", ".yml", ".json", ".golden", ".manifest":
		default:
			continue
		}
		isTemplate := strings.Contains(f.Path, "/templates/") && bytes.Contains(f.Data, []byte("{{"))
		if !isTemplate && !slices.ContainsFunc(notPlain, func(end string) bool { return strings.HasSuffix(f.Path, end) }) {
			files = append(files, f)
		}
	}
	return files
}

// find returns what is found in a file, which the first test that asks looks for.
func find(t *testing.T, f corpus.File) []images.Found {
	t.Helper()
	look := sync.OnceValues(func() ([]images.Found, error) {
		file, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			return nil, err
		}
		return new(images.Finder).Find(file)
	})
	first, _ := foundBefore.LoadOrStore(f.Path+" "+f.Digest(), look)
	found, err := first.(func() ([]images.Found, error))()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(found)
}

// foundBefore has what find looked for, by the path and the digest of the file.
var foundBefore sync.Map
