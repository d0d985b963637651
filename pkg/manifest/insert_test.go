package manifest_test

import (
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// A namespace and annotations go into metadata however it is written, and every other byte stays.
func TestSetMetadata(t *testing.T) {
	t.Parallel()
	const annotated = "    x/y: \"1\"\n"
	for name, c := range map[string]struct{ in, want string }{
		"block":            {"metadata:\n  name: a\nkind: K\n", "metadata:\n  namespace: \"ns\"\n  annotations:\n" + annotated + "  name: a\nkind: K\n"},
		"block, indented":  {"metadata:\n      # why\n      name: a\n", "metadata:\n      # why\n      namespace: \"ns\"\n      annotations:\n        x/y: \"1\"\n      name: a\n"},
		"flow":             {"metadata: {name: a}\n", `metadata: {"namespace": "ns", "annotations": {"x/y": "1"}, name: a}` + "\n"},
		"JSON":             {`{"metadata": {"name": "a"}}`, `{"metadata": {"namespace": "ns", "annotations": {"x/y": "1"}, "name": "a"}}`},
		"annotations":      {"metadata:\n  annotations:\n    b: c # d\n  name: a\n", "metadata:\n  namespace: \"ns\"\n  annotations:\n" + annotated + "    b: c # d\n  name: a\n"},
		"flow annotations": {"metadata:\n  name: a\n  annotations: {b: c}\n", "metadata:\n  namespace: \"ns\"\n  name: a\n  annotations: {\"x/y\": \"1\", b: c}\n"},
		"empty":            {"metadata:\n  name: a\n  annotations: {}\n  namespace: \"\"\n", "metadata:\n  name: a\n  annotations: {\"x/y\": \"1\"}\n  namespace: \"ns\"\n"},
		"nothing":          {"metadata:\n  name: a\n  annotations: # none\n  namespace:\n", "metadata:\n  name: a\n  annotations: {\"x/y\": \"1\"} # none\n  namespace: \"ns\"\n"},
		"null":             {"metadata:\n  name: a\n  annotations: null\n  namespace: ~\n", "metadata:\n  name: a\n  annotations: {\"x/y\": \"1\"}\n  namespace: \"ns\"\n"},
		"both there":       {"metadata:\n  name: a\n  annotations: {x/y: z}\n  namespace: other\n", "metadata:\n  name: a\n  annotations: {x/y: z}\n  namespace: other\n"},
		"CR LF":            {"metadata:\r\n  name: a\r\n", "metadata:\r\n  namespace: \"ns\"\n  annotations:\n" + annotated + "  name: a\r\n"},
		"an anchor":        {"metadata:\n  name: &n a\n  labels: {app: *n}\n", "metadata:\n  namespace: \"ns\"\n  annotations:\n" + annotated + "  name: &n a\n  labels: {app: *n}\n"},
		"the last line":    {"metadata:\n  name: a\n  annotations:", "metadata:\n  namespace: \"ns\"\n  name: a\n  annotations: {\"x/y\": \"1\"}"},
	} {
		f := parse(t, c.in)
		if err := f.SetMetadata(f.Documents[0], manifest.Metadata{Namespace: "ns", Annotations: map[string]string{"x/y": "1"}}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := string(f.Bytes()); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
		var read struct {
			Metadata struct {
				Name, Namespace string
				Annotations     map[string]string
			}
		}
		if err := yaml.Unmarshal(f.Bytes(), &read); err != nil || read.Metadata.Name != "a" || read.Metadata.Namespace == "" || read.Metadata.Annotations["x/y"] == "" {
			t.Errorf("%s: reads as %+v, error %v", name, read, err)
		}
	}
}

// What cannot be added to in place is refused with its place.
func TestSetMetadataRefuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"x: &m {name: a}\nmetadata: *m\n":                         "f.yaml:2:11: is written in a form that cannot be extended in place",
		"x: &m {b: c}\nmetadata:\n  name: a\n  annotations: *m\n": "f.yaml:4:16: is written in a form that cannot be extended in place",
		"metadata:\n  name: a\n  annotations: text\n":             "f.yaml:3:16: is written in a form that cannot be extended in place",
		"kind: K\n":                    "f.yaml:1:1: metadata is missing",
		"metadata:\n  ? name\n  : a\n": "f.yaml:2:5: is written in a form that cannot be extended in place",
	} {
		f := parse(t, in)
		err := f.SetMetadata(f.Documents[0], manifest.Metadata{Annotations: map[string]string{"x/y": "1"}})
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", in, err, want)
		}
	}
}

// Documents are cut at their markers, and nowhere else.
func TestSegments(t *testing.T) {
	t.Parallel()
	parts := []string{"# head\na: 1\n", "---\n# Source: x\nb: |\n  ---\n  text\n", "--- {c: 3}\n", "---\n---\n"}
	f := parse(t, strings.Join(parts, "")+"d: ----\n")
	var got []string
	for _, doc := range f.Documents {
		got = append(got, string(f.SpanText(f.DocumentSpan(doc))))
	}
	want := []string{parts[0], parts[1], parts[2], "---\nd: ----\n"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := f.RemoveSpan(f.DocumentSpan(f.Documents[1])); err != nil {
		t.Fatal(err)
	}
	if got := string(f.Bytes()); got != parts[0]+parts[2]+parts[3]+"d: ----\n" {
		t.Errorf("left is %q", got)
	}
}
