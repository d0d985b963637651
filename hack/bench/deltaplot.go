package main

import (
	"fmt"
	"math"
	"strings"
)

// deltaRow is what the delta job measured of one release; shares are percents of the layer, 0 where not measured.
type deltaRow struct {
	title                                 string
	krtpkg, zstd, xdelta, bsdiff, tardiff float64
}

// drawShares draws the shares of releases on a logarithmic scale; its text is text, and its colours follow the reader's.
func drawShares(rows []deltaRow) string {
	const left, right, top, step, width = 350, 30, 70, 19, 880
	height := top + step*len(rows) + 40
	x := func(percent float64) float64 {
		return left + (math.Log10(max(percent, 0.01))+2)/4*(width-left-right)
	}
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">
<style>:root{color:#222;background:#fff}@media (prefers-color-scheme:dark){:root{color:#ddd;background:#111}}text{fill:currentColor}path{stroke:currentColor;fill:none}path.grid{opacity:.25}circle{fill:#d1242f}</style>
<title>What a tool carries of a changed layer, in percent of it</title>
`, width, height)
	for _, percent := range []float64{0.01, 0.1, 1, 10, 100} {
		fmt.Fprintf(&out, "<path class=\"grid\" d=\"M%.1f %d V%d\"/>\n<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g %%</text>\n", x(percent), top-12, height-30, x(percent), height-12, percent)
	}
	marks := []struct {
		name  string
		of    func(deltaRow) float64
		shape string
	}{
		{"zstd patch on the blob", func(r deltaRow) float64 { return r.zstd }, "m-4 -4 h8 v8 h-8 z"},
		{"xdelta3 on the tar", func(r deltaRow) float64 { return r.xdelta }, "m0 -5 l5 9 h-10 z"},
		{"bsdiff on the tar", func(r deltaRow) float64 { return r.bsdiff }, "m-4 -4 l8 8 m0 -8 l-8 8"},
		{"tar-diff", func(r deltaRow) float64 { return r.tardiff }, "m-5 0 h10 m-5 -5 v10"},
	}
	fmt.Fprintf(&out, "<circle cx=\"20\" cy=\"24\" r=\"5\"/>\n<text x=\"32\" y=\"28\">krtpkg</text>\n")
	for i, m := range marks {
		at := 110 + 180*i
		fmt.Fprintf(&out, "<path d=\"M%d 24 %s\"/>\n<text x=\"%d\" y=\"28\">%s</text>\n", at, m.shape, at+12, m.name)
	}
	for i, row := range rows {
		y := top + step*i
		fmt.Fprintf(&out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" font-size=\"11\">%s</text>\n", left-12, y+4, strings.ReplaceAll(row.title, "&", "&amp;"))
		for _, m := range marks {
			if share := m.of(row); share > 0 {
				fmt.Fprintf(&out, "<path d=\"M%.1f %d %s\"/>\n", x(share), y, m.shape)
			}
		}
		fmt.Fprintf(&out, "<circle cx=\"%.1f\" cy=\"%d\" r=\"5\"/>\n", x(row.krtpkg), y)
	}
	return out.String() + "</svg>\n"
}
