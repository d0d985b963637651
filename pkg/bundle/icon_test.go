package bundle_test

import (
	"strings"
	"testing"
	"time"

	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

func TestCheckIcon(t *testing.T) {
	t.Parallel()
	svg := func(inner string) string { return `<svg xmlns="http://www.w3.org/2000/svg">` + inner + "</svg>" }
	for _, test := range []struct{ name, icon, problem string }{
		{"a picture", "<?xml version=\"1.0\"?>\n<!-- made by hand -->\n" + svg(`<defs><path id="p" d="M0 0"/></defs><use href="#p"/>`), ""},
		{"the largest", svg(strings.Repeat(" ", 32<<10-len(svg("")))), ""},
		{"too large", svg(strings.Repeat(" ", 32<<10)), "the limit is 32768"},
		{"empty", "", "no element found"},
		{"no XML", "GIF89a <", "not an SVG"},
		{"cut off", "<svg xmlns=\"http://www.w3.org/2000/svg\"><g>", "not an SVG"},
		{"another root", "<html/>", `its root is "html"`},
		{"no namespace", "<svg/>", `in the namespace ""`},
		{"entities", "<!DOCTYPE svg [<!ENTITY a \"b\">]>" + svg(""), "document type"},
		{"a script", svg("<g><script>1</script></g>"), "an element script"},
		{"HTML inside", svg("<foreignObject/>"), "an element foreignObject"},
		{"a handler", svg(`<g onload="1"/>`), "an attribute onload on g"},
		{"a link out", svg(`<image href="https://example.org/a.png"/>`), "an attribute href on image"},
		{"an old link out", svg(`<a xmlns:x="http://www.w3.org/1999/xlink" x:href="javascript:1"/>`), "an attribute href on a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := bundle.CheckIcon(test.icon)
			if test.problem == "" && err != nil || test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("got %v, want %q", err, test.problem)
			}
		})
	}
}

// What others have built is held to the same rules when it is opened.
func TestOpenRefusesIcon(t *testing.T) {
	t.Parallel()
	for icon, problem := range map[string]string{
		`<svg xmlns="http://www.w3.org/2000/svg"/>`:                        "",
		`<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>`: "an element script",
		strings.Repeat(" ", 32<<10+1):                                      "the limit is 32768",
	} {
		content, store := web(t), memory.New()
		content.Bundle.Spec.Icon = icon
		desc, err := content.Pack(t.Context(), store, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = bundle.Open(t.Context(), store, desc)
		if problem == "" && err != nil || problem != "" && (err == nil || !strings.Contains(err.Error(), problem)) {
			t.Errorf("%.60q: got %v, want %q", icon, err, problem)
		}
	}
}
