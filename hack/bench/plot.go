package main

import (
	"fmt"
	"strings"
)

// plot draws the curve; its text is text, and its colours follow the reader's.
func plot(curve []point) string {
	const width, height, left, bottom = 640, 320, 60, 280
	last := curve[len(curve)-1]
	most := 0.0
	for _, s := range last.seconds {
		most = max(most, s)
	}
	x := func(images int) float64 { return left + float64(images)/float64(last.images)*(width-left-150) }
	y := func(seconds float64) float64 { return bottom - seconds/most*(bottom-30) }
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">
<style>:root{color:#222;background:#fff}@media (prefers-color-scheme:dark){:root{color:#ddd;background:#111}}text{fill:currentColor}path,line{stroke:currentColor;fill:none}</style>
<title>Wall time by the number of images</title>
<line x1="%d" y1="%d" x2="%d" y2="%d"/><line x1="%d" y1="30" x2="%d" y2="%d"/>
<text x="%d" y="%d">images</text><text x="8" y="20">seconds</text>
`, width, height, left, bottom, width-150, bottom, left, left, bottom, width-150-45, bottom+36)
	for _, p := range curve {
		fmt.Fprintf(&out, "<text x=\"%.0f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", x(p.images), bottom+18, p.images)
	}
	for i, job := range []struct{ name, dash string }{{"push from a folder", ""}, {"copy", "8 4"}, {"export", "2 4"}, {"nothing to do", "12 3 2 3"}} {
		path := fmt.Sprintf("M%d %d", left, bottom)
		for _, p := range curve {
			path += fmt.Sprintf(" L%.1f %.1f", x(p.images), y(p.seconds[job.name]))
		}
		end := last.seconds[job.name]
		fmt.Fprintf(&out, "<path d=%q stroke-dasharray=%q stroke-width=\"2\"/>\n<text x=\"%d\" y=\"%d\">%s: %.1f s</text>\n<path d=\"M%d %d h24\" stroke-dasharray=%q stroke-width=\"2\"/>\n",
			path, job.dash, left+50, 46+18*i, job.name, end, left+16, 42+18*i, job.dash)
	}
	return out.String() + "</svg>\n"
}
