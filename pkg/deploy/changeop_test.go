package deploy

import (
	"testing"

	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// A change that is compared is the one that kapp finds by its lines.
func TestComparedChanges(t *testing.T) {
	t.Parallel()
	object := func(annotation string, value any) kappres.Resource {
		metadata := map[string]any{"name": "one"}
		if annotation != "" {
			metadata["annotations"] = map[string]any{annotation: ""}
		}
		return kappres.NewResourceUnstructured(unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "example.org/v1", "kind": "One", "metadata": metadata, "spec": map[string]any{"value": value},
		}}, kappres.ResourceType{})
	}
	for _, c := range []struct {
		name          string
		before, after kappres.Resource
		want          diff.ChangeOp
	}{
		{"new", nil, object("", "a"), diff.ChangeOpAdd},
		{"new, and to exist", nil, object(kappres.ExistsAnnKey, "a"), diff.ChangeOpExists},
		{"gone", object("", "a"), nil, diff.ChangeOpDelete},
		{"the same", object("", "a"), object("", "a"), diff.ChangeOpKeep},
		{"another", object("", "a"), object("", "b"), diff.ChangeOpUpdate},
		{"another order", object("", []any{"a", "b"}), object("", []any{"b", "a"}), diff.ChangeOpUpdate},
		{"a line more", object("", "a"), object("", "a\nb"), diff.ChangeOpUpdate},
		{"a number of another type", object("", int64(1)), object("", float64(1)), diff.ChangeOpKeep},
		{"a number and its text", object("", int64(1)), object("", "1"), diff.ChangeOpUpdate},
		{"nothing and null", object("", map[string]any{}), object("", map[string]any{"a": nil}), diff.ChangeOpUpdate},
		{"another, and to exist", object("", "a"), object(kappres.ExistsAnnKey, "b"), diff.ChangeOpKeep},
		{"another, and to be left", object("", "a"), object(kappres.NoopAnnKey, "b"), diff.ChangeOpNoop},
	} {
		change := diff.NewChange(c.before, c.after, c.after, c.before, diff.ChangeOpts{})
		got, kapps := compareChange(diff.NewChange(c.before, c.after, c.after, c.before, diff.ChangeOpts{})).Op(), change.Op()
		if got != c.want || kapps != c.want {
			t.Errorf("%s: %s, and %s by kapp; want %s", c.name, got, kapps, c.want)
		}
	}
}
