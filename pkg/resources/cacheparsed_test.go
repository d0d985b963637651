package resources

import (
	"io/fs"
	"reflect"
	"testing"
	"testing/fstest"
)

// countingFS counts how often files are opened.
type countingFS struct {
	fs.FS
	opened *int
}

func (c countingFS) Open(name string) (fs.File, error) {
	if name != "." {
		*c.opened++
	}
	return c.FS.Open(name)
}

// What is read again is what was read first, and no one's change of it is seen by another.
func TestCacheParsed(t *testing.T) {
	t.Parallel()
	files := fstest.MapFS{
		"a.yaml": {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: \"<&>\", b: \"\\u2028 ü\"}\n---\n" +
			"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: b}, data: null}\n" +
			"- {apiVersion: example.org/v1, kind: One, spec: {i: 1, f: 1.0, e: 1e3, big: 9007199254740993, huge: 123456789012345678901, small: 0.1, yes: yes, list: [], map: {}}}\n")},
		"b.json": {Data: []byte(`{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "c"}, "spec": {"ports": [{"port": 80}]}}`)},
		"c.txt":  {Data: []byte("not a manifest")},
	}
	plain, err := Read(files)
	if err != nil || len(plain) != 4 {
		t.Fatalf("%d resources, %v", len(plain), err)
	}
	opened := 0
	cached := CacheParsed(countingFS{files, &opened})
	if CacheParsed(cached) != cached {
		t.Error("cached manifests were wrapped again")
	}
	for range 3 {
		again, err := Read(cached)
		if err != nil || len(again) != len(plain) {
			t.Fatalf("%d resources, %v", len(again), err)
		}
		for i, r := range again {
			if !reflect.DeepEqual(r.UnstructuredObject(), plain[i].UnstructuredObject()) || r.Origin() != plain[i].Origin() || !reflect.DeepEqual(r, plain[i]) {
				t.Errorf("read again: %#v from %s, want %#v from %s", r.UnstructuredObject(), r.Origin(), plain[i].UnstructuredObject(), plain[i].Origin())
			}
			r.UnstructuredObject()["kind"] = "changed"
		}
	}
	if opened != 2 {
		t.Errorf("%d files were opened, want 2", opened)
	}
}

// An error is found each time, with what was read before it.
func TestCacheParsedFails(t *testing.T) {
	t.Parallel()
	cached := CacheParsed(fstest.MapFS{"a.yaml": {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\na: [\n")}})
	for range 2 {
		if all, err := Read(cached); err == nil || len(all) != 1 {
			t.Errorf("%d resources, %v", len(all), err)
		}
	}
}
