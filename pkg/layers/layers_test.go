package layers_test

import (
	"reflect"
	"testing"

	"krtpkg.dev/krtpkg/pkg/layers"
)

func TestOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		components []layers.Component
		provided   []string
		want       []string
		err        string
	}{
		{name: "nothing"},
		{name: "by layer, then by name",
			components: []layers.Component{{Name: "b", Layer: 3}, {Name: "z", Layer: 1}, {Name: "a", Layer: 3}},
			want:       []string{"z", "a", "b"}},
		{name: "what is required comes first",
			components: []layers.Component{{Name: "a", Layer: 3, Requires: []string{"ingress"}}, {Name: "b", Layer: 3, Provides: []string{"ingress"}}},
			want:       []string{"b", "a"}},
		{name: "every provider comes first",
			components: []layers.Component{{Name: "a", Requires: []string{"x"}}, {Name: "b", Provides: []string{"x"}}, {Name: "c", Provides: []string{"x"}}},
			want:       []string{"b", "c", "a"}},
		{name: "a bundle's name is provided, and its own need is no cycle",
			components: []layers.Component{{Name: "a", Provides: []string{"x"}, Requires: []string{"x", "b"}}, {Name: "b"}},
			want:       []string{"b", "a"}},
		{name: "from outside",
			components: []layers.Component{{Name: "a", Requires: []string{"cloud"}}}, provided: []string{"cloud"},
			want: []string{"a"}},
		{name: "a provider above is not waited for when there is one below",
			components: []layers.Component{{Name: "a", Layer: 4, Requires: []string{"ingress"}}, {Name: "b", Layer: 5, Provides: []string{"ingress"}}, {Name: "c", Layer: 3, Provides: []string{"ingress"}}},
			want:       []string{"c", "a", "b"}},
		{name: "a provider above, and one outside",
			components: []layers.Component{{Name: "a", Layer: 1, Requires: []string{"dns"}}, {Name: "b", Layer: 3, Provides: []string{"dns"}}}, provided: []string{"dns"},
			want: []string{"a", "b"}},
		{name: "a provider outside is one more",
			components: []layers.Component{{Name: "a", Requires: []string{"dns"}}, {Name: "b", Provides: []string{"dns"}}}, provided: []string{"dns"},
			want: []string{"b", "a"}},
		{name: "missing",
			components: []layers.Component{{Name: "a", Requires: []string{"cloud"}}},
			err:        `bundle "a" requires "cloud", which no bundle provides`},
		{name: "above",
			components: []layers.Component{{Name: "a", Layer: 1, Requires: []string{"b"}}, {Name: "b", Layer: 2}},
			err:        `bundle "a" of layer 1 requires "b", which "b" provides only in layer 2 above it`},
		{name: "twice",
			components: []layers.Component{{Name: "a"}, {Name: "a", Layer: 2}},
			err:        `duplicate bundle "a"`},
		{name: "a cycle is named without what only leads to it",
			components: []layers.Component{{Name: "a", Requires: []string{"b"}}, {Name: "b", Requires: []string{"c"}}, {Name: "c", Requires: []string{"b"}}},
			err:        "bundles require each other in a cycle: b → c → b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			order, err := layers.OrderBundles(c.components, c.provided...)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Fatalf("error %v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, i := range order {
				got = append(got, c.components[i].Name)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// The order of the input must not show in the result.
func TestOrderIsOfTheSet(t *testing.T) {
	t.Parallel()
	set := []layers.Component{
		{Name: "a", Layer: 3, Requires: []string{"d"}}, {Name: "b", Layer: 3}, {Name: "c", Layer: 0},
		{Name: "d", Layer: 3, Requires: []string{"b"}}, {Name: "e", Layer: 6, Requires: []string{"a"}},
	}
	want := []string{"c", "b", "d", "a", "e"}
	for range set {
		set = append(set[1:], set[0])
		order, err := layers.OrderBundles(set)
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range order {
			if set[at].Name != want[i] {
				t.Fatalf("place %d has %s, want %s", i, set[at].Name, want[i])
			}
		}
	}
}

func TestLayersAreNamed(t *testing.T) {
	t.Parallel()
	for i, l := range layers.ListLayers() {
		if l.Number != i || l.Name == "" || l.Purpose == "" || layers.LayerName(i) != l.Name {
			t.Errorf("layer %d: %+v", i, l)
		}
	}
	if len(layers.ListLayers()) != layers.Top+1 || layers.LayerName(layers.Top+1) != "" || layers.LayerName(-1) != "" {
		t.Error("there are layers 0 to 6 and no others")
	}
}
