package graph_test

import (
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-fonts/dejavu/dejavusans"
	"github.com/go-fonts/dejavu/dejavusansbold"
	"golang.org/x/image/font"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"

	"krtpkg.dev/krtpkg/pkg/graph"
)

// rect is a part of a picture: what it is, and its corners.
type rect struct {
	what                     string
	left, top, right, bottom float64
}

func (r rect) within(o rect) bool {
	return r.left >= o.left && r.top >= o.top && r.right <= o.right && r.bottom <= o.bottom
}

func (r rect) meets(o rect) bool {
	return r.left < o.right && o.left < r.right && r.top < o.bottom && o.top < r.bottom
}

// drawn is what a reader of a picture sees.
type drawn struct {
	page                       rect
	texts, boxes, bands, lines []rect
}

// In the widest font of the stack, each text is in its box or band, no two meet, and no line
// runs over one or through a box.
func TestNothingOverlaps(t *testing.T) {
	t.Parallel()
	for name, g := range map[string]*graph.Graph{
		"none": {Name: "none"}, "5": runtime(5), "30": runtime(30), "60": runtime(60), "states": states(), "hostile": hostile(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := see(t, g.SVG())
			if len(d.boxes) != len(g.Nodes) {
				t.Errorf("%d boxes of %d nodes", len(d.boxes), len(g.Nodes))
			}
			for i, text := range d.texts {
				if !text.within(d.page) {
					t.Errorf("%v leaves the page %v", text, d.page)
				}
				for _, other := range d.texts[:i] {
					if text.meets(other) {
						t.Errorf("%v and %v overlap", text, other)
					}
				}
				for _, around := range slices.Concat(d.boxes, d.bands) {
					if text.meets(around) && !text.within(around) {
						t.Errorf("%v is partly in %v", text, around)
					}
				}
				for _, line := range d.lines {
					if text.meets(line) {
						t.Errorf("%v runs over %v", line, text)
					}
				}
			}
			for i, box := range d.boxes {
				if !slices.ContainsFunc(d.bands, box.within) {
					t.Errorf("%v is in no band", box)
				}
				for _, other := range slices.Concat(d.boxes[:i], d.lines) {
					if box.meets(other) {
						t.Errorf("%v and %v overlap", box, other)
					}
				}
			}
			for _, line := range d.lines {
				if !line.within(d.page) {
					t.Errorf("%v leaves the page", line)
				}
			}
		})
	}
}

func TestSameBytes(t *testing.T) {
	t.Parallel()
	for range 10 {
		a, b := states(), states()
		if a.SVG() != b.SVG() || a.Mermaid() != b.Mermaid() || a.DOT() != b.DOT() || a.Text() != b.Text() {
			t.Fatal("the same graph is drawn in two ways")
		}
	}
}

// What names hold has no meaning to who reads the picture: no element, no control character.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	g := hostile()
	for kind, text := range map[string]string{"svg": g.SVG(), "mermaid": g.Mermaid(), "dot": g.DOT(), "text": g.Text()} {
		if i := strings.IndexAny(text, "\x00\x07\x1b\u202e"); i >= 0 {
			t.Errorf("%s holds a control character: %q", kind, text[i:min(i+20, len(text))])
		}
	}
	if strings.Contains(g.SVG(), "<script") {
		t.Error("the picture has a script")
	}
	label := regexp.MustCompile(`^    n\d+\["<b>[^"<>]*</b>(<br>[^"<>]*)*"\]$`)
	for line := range strings.Lines(g.Mermaid()) {
		if strings.HasPrefix(line, "    n") && !label.MatchString(strings.TrimSuffix(line, "\n")) {
			t.Errorf("mermaid: %q", line)
		}
	}
	quoted := regexp.MustCompile(`^    n\d+ \[label="([^"\\]|\\.)*"\];$`)
	for line := range strings.Lines(g.DOT()) {
		if strings.HasPrefix(line, "    n") && !quoted.MatchString(strings.TrimSuffix(line, "\n")) {
			t.Errorf("dot: %q", line)
		}
	}
}

// see reads a picture as a browser with the widest fonts would lay it out.
func see(t *testing.T, svg string) *drawn {
	t.Helper()
	d := &drawn{}
	decoder := xml.NewDecoder(strings.NewReader(svg))
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			return d
		}
		if err != nil {
			t.Fatal(err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		a := map[string]string{}
		for _, attr := range start.Attr {
			a[attr.Name.Local] = attr.Value
		}
		number := func(name string) float64 {
			n, err := strconv.ParseFloat(a[name], 64)
			if err != nil && a[name] != "" {
				t.Fatal(err)
			}
			return n
		}
		switch start.Name.Local {
		case "rect":
			r := rect{a["class"], number("x"), number("y"), number("x") + number("width"), number("y") + number("height")}
			switch a["class"] {
			case "page":
				d.page = r
			case "band":
				d.bands = append(d.bands, r)
			case "box":
				d.boxes = append(d.boxes, r)
			}
		case "text":
			var content string
			if err := decoder.DecodeElement(&content, &start); err != nil {
				t.Fatal(err)
			}
			d.texts = append(d.texts, laidOut(t, content, a["class"], number("x"), number("y")))
		case "path":
			if a["class"] == "" {
				d.lines = append(d.lines, steps(t, a["d"])...)
			}
		}
	}
}

// laidOut returns the place of a text, with the sizes of the style sheet.
func laidOut(t *testing.T, text, class string, x, y float64) rect {
	size, data := 12.0, dejavusans.TTF
	switch class {
	case "title":
		size, data = 20, dejavusansbold.TTF
	case "number":
		size, data = 26, dejavusansbold.TTF
	case "name":
		size, data = 14, dejavusansbold.TTF
	}
	f, err := sfnt.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	var buffer sfnt.Buffer
	width := 0.0
	for _, r := range text {
		glyph, err := f.GlyphIndex(&buffer, r)
		if err != nil {
			t.Fatal(err)
		}
		if glyph == 0 { // in another font, in which it is no wider than this
			width += 1.4 * size
			continue
		}
		advance, err := f.GlyphAdvance(&buffer, glyph, fixed.I(1000), font.HintingNone)
		if err != nil {
			t.Fatal(err)
		}
		width += float64(advance) / 64 / 1000 * size
	}
	if strings.HasPrefix(class, "end ") {
		x -= width
	}
	return rect{fmt.Sprintf("%q", text), x, y - 0.76*size, x + width, y + 0.24*size}
}

var step = regexp.MustCompile(`[MHV](\d+)(?: (\d+))?`)

// steps returns the straight parts of a line.
func steps(t *testing.T, path string) (parts []rect) {
	var x, y float64
	for _, s := range step.FindAllStringSubmatch(path, -1) {
		n, err := strconv.ParseFloat(s[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		fromX, fromY := x, y
		switch s[0][0] {
		case 'M':
			x = n
			if y, err = strconv.ParseFloat(s[2], 64); err != nil {
				t.Fatal(err)
			}
			continue
		case 'H':
			x = n
		case 'V':
			y = n
		}
		parts = append(parts, rect{"line " + path, min(fromX, x), min(fromY, y), max(fromX, x) + 0.1, max(fromY, y) + 0.1})
	}
	if len(parts) < 2 {
		t.Fatalf("path %q", path)
	}
	return parts
}

// A picture that is part of a page has links, ids of its own, and the page's style sheet.
func TestPictureInPage(t *testing.T) {
	t.Parallel()
	g := runtime(5)
	got := g.DrawSVG(graph.SVGOptions{ID: "a-", NoStyle: true, Link: func(n *graph.Node) string {
		if n.Name == g.Nodes[0].Name {
			return ""
		}
		return "x.html?a=1&b=\"" + n.Name
	}})
	if links := strings.Count(got, `<a href="x.html?a=1&amp;b=&#34;`); links != 4 || strings.Count(got, "</a>") != 4 {
		t.Errorf("%d links:\n%s", links, got)
	}
	for text, want := range map[string]int{"<style>": 0, `role="group" aria-labelledby="a-title a-desc"`: 1, `<title id="a-title">`: 1, `<desc id="a-desc">`: 1} {
		if n := strings.Count(got, text); n != want {
			t.Errorf("%s: %d times", text, n)
		}
	}
	if plain := g.SVG(); g.DrawSVG(graph.SVGOptions{}) != plain || !strings.Contains(plain, "<style>"+graph.StyleSheet()+"</style>") {
		t.Error("the picture without options is another")
	}
}
