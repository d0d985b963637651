package graph

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/layers"
)

// The measures of the picture, in pixels.
const (
	margin     = 16
	nameSize   = 14 // of fonts
	textSize   = 12
	titleSize  = 20
	numberSize = 26
	nameLine   = 18 // of lines of text
	textLine   = 17
	pad        = 10 // inside boxes
	labelWidth = 168
	trackGap   = 8
	bandPad    = 14
	bandGap    = 8
	mostName   = 190 // before a name is broken
	mostText   = 240 // before anything else is shortened
	mark       = 14  // the tick of what is signed
)

// nodeBox is how a node is drawn.
type nodeBox struct {
	x, y   int
	name   []string
	detail [][2]string // the lines below it: left and right
}

// svgPicture is a graph with a place for everything.
type svgPicture struct {
	*Graph
	options SVGOptions
	grid    *nodeGrid
	routes  *edgeRoutes
	boxes   []nodeBox

	width, height, boxWidth int
	rowHeight               []int
	head                    []string // lines of the title and below it

	top, bottom []int // of rows
	left        []int // of columns
	channelTop  []int // where the tracks of channels begin
	gutterLeft  []int // where gutters begin
	bandTop     map[int]int
	bandBottom  map[int]int
}

// SVGOptions say how a picture is part of a page. The zero value is for a file of its own.
type SVGOptions struct {
	// Link returns the URL that the box of a node leads to, or "". Default: nil, and no box is a link.
	Link func(n *Node) string
	// ID is what the ids of the picture's elements begin with, for a page with several.
	ID string
	// NoStyle leaves out the style sheet, for a page that has [StyleSheet].
	NoStyle bool
}

// SVG returns the graph as a picture: the layers from the bottom up, and a line from each bundle to
// what it requires. It has a light and a dark form, as the reader's preference is.
func (g *Graph) SVG() string { return g.DrawSVG(SVGOptions{}) }

// StyleSheet returns the style sheet of pictures, for pages that have them without it.
func StyleSheet() string { return style }

// DrawSVG is [Graph.SVG] for a picture that is part of a page.
func (g *Graph) DrawSVG(o SVGOptions) string {
	p := &svgPicture{Graph: g, options: o, boxes: make([]nodeBox, len(g.Nodes))}
	required := g.requiredIndexes()
	p.grid = newGrid(g, required)
	p.routes = newRoutes(p.grid, required)
	p.measureBoxes()
	p.placeColumns()
	p.placeRows()
	return p.writeSVG(required)
}

// measureBoxes finds what the boxes say and how large they are.
func (p *svgPicture) measureBoxes() {
	p.rowHeight = make([]int, len(p.grid.rows))
	for i := range p.Nodes {
		n, b := &p.Nodes[i], &p.boxes[i]
		b.name = wrapText(CleanText(n.Name), nameSize, mostName, 3)
		b.detail = append(b.detail, [2]string{shortenText(CleanText(n.Version), textSize, mostText/2), CleanText(string(n.Signed))})
		if what := describeSize(n.Images, n.Bytes); what != "" || n.Health != "" {
			b.detail = append(b.detail, [2]string{what, CleanText(string(n.Health))})
		}
		for _, line := range b.name {
			p.boxWidth = max(p.boxWidth, textWidth(line, nameSize)+2*pad)
		}
		for _, line := range b.detail {
			w := textWidth(line[0], textSize) + 2*pad
			if line[1] != "" {
				w += textWidth(line[1], textSize) + mark + 2*pad
			}
			p.boxWidth = max(p.boxWidth, w)
		}
		row := p.grid.at[i].row
		p.rowHeight[row] = max(p.rowHeight[row], 2*pad+len(b.name)*nameLine+len(b.detail)*textLine)
	}
}

// placeColumns gives columns and gutters their places.
func (p *svgPicture) placeColumns() {
	x := margin + labelWidth
	for g := range p.routes.gutters {
		p.gutterLeft = append(p.gutterLeft, x)
		x += max(20, (p.routes.gutters[g]+1)*trackGap)
		if g < p.grid.columns {
			p.left = append(p.left, x)
			x += p.boxWidth
		}
	}
	p.width = max(x+margin, 480)
	inside := p.width - 2*margin
	p.head = []string{shortenText(p.titleText(), titleSize, inside)}
	p.head = append(p.head, wrapText(p.summaryText(), textSize, inside, 3)...)
	if len(p.routes.nets) > 0 {
		p.head = append(p.head, wrapText("A line leads from a bundle to what it requires.", textSize, inside, 3)...)
	}
}

// placeRows gives rows, channels and layers their places.
func (p *svgPicture) placeRows() {
	p.top, p.bottom = make([]int, len(p.grid.rows)), make([]int, len(p.grid.rows))
	p.channelTop = make([]int, len(p.routes.channels))
	p.bandTop, p.bandBottom = map[int]int{}, map[int]int{}
	y := margin + titleSize + (len(p.head)-1)*textLine + bandPad
	for r := len(p.grid.rows) - 1; r >= -1; r-- {
		lines := p.routes.channels[r+1] * trackGap
		first := r == len(p.grid.rows)-1
		if first || r < 0 || p.grid.rows[r].layer != p.grid.rows[r+1].layer {
			if !first {
				// Lines that leave the lowest row have their channel in its own layer.
				if y += bandPad; r < 0 {
					p.channelTop[0] = y
					y += lines
				}
				p.bandBottom[r+1] = y
				y += bandGap
			}
			if r < 0 {
				break
			}
			p.bandTop[r] = y
			y += bandPad
		} else {
			y += bandPad
		}
		p.channelTop[r+1] = y
		if y += lines; lines > 0 {
			y += trackGap + 2
		}
		p.top[r] = y
		y += p.rowHeight[r]
		p.bottom[r] = y
	}
	p.height = y + margin - bandGap
	for i, at := range p.grid.at {
		p.boxes[i].x, p.boxes[i].y = p.left[at.column], p.top[at.row]
	}
}

// channelY returns where a net runs in a channel, and gutterX where in its gutter.
func (p *svgPicture) channelY(n *edgeNet, channel int) int {
	return p.channelTop[channel] + n.tracks[channel]*trackGap + trackGap/2
}

func (p *svgPicture) gutterX(n *edgeNet) int { return p.gutterLeft[n.gutter] + (n.track+1)*trackGap }

// exitX returns where a line leaves a node.
func (p *svgPicture) exitX(e netExit) int { return p.boxes[e.node].x + p.boxWidth*e.port/1000 }

// hues is how many colours lines have.
const hues = 6

// style is the picture's style sheet. Colours are written out for both forms, since not all
// that shows pictures knows variables.
const style = `text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;font-size:12px;fill:#424a53}
.title{font-size:20px;font-weight:600;fill:#1f2328}.number{font-size:26px;font-weight:600}.name{font-size:14px;font-weight:600;fill:#1f2328}.end{text-anchor:end}
.page{fill:#fff}.band{fill:#eff2f5}.box{fill:#fff;stroke:#c5ccd3}
.net path{fill:none;stroke-width:1.5}.net .head{stroke:none}
.n0 path{stroke:#0969da}.n0 .head{fill:#0969da}.n1 path{stroke:#8250df}.n1 .head{fill:#8250df}.n2 path{stroke:#bf3989}.n2 .head{fill:#bf3989}
.n3 path{stroke:#9a6700}.n3 .head{fill:#9a6700}.n4 path{stroke:#1a7f37}.n4 .head{fill:#1a7f37}.n5 path{stroke:#bc4c00}.n5 .head{fill:#bc4c00}
.good{fill:#1a7f37}.busy{fill:#0969da}.bad{fill:#cf222e}.warn{fill:#9a6700}.none{fill:#6e7781}.tick{fill:none;stroke:#1a7f37;stroke-width:2}
@media (prefers-color-scheme:dark){text{fill:#b1bac4}.title,.name{fill:#f0f6fc}
.page{fill:#0d1117}.band{fill:#151b23}.box{fill:#0d1117;stroke:#3d444d}
.n0 path{stroke:#58a6ff}.n0 .head{fill:#58a6ff}.n1 path{stroke:#bc8cff}.n1 .head{fill:#bc8cff}.n2 path{stroke:#f778ba}.n2 .head{fill:#f778ba}
.n3 path{stroke:#d29922}.n3 .head{fill:#d29922}.n4 path{stroke:#3fb950}.n4 .head{fill:#3fb950}.n5 path{stroke:#f0883e}.n5 .head{fill:#f0883e}
.good{fill:#3fb950}.busy{fill:#58a6ff}.bad{fill:#ff7b72}.warn{fill:#d29922}.none{fill:#9198a1}.tick{stroke:#3fb950}}`

// class is the colour of a state.
var class = map[string]string{
	string(WithSignature): "good", string(WithoutSignature): "warn",
	string(Healthy): "good", string(Progressing): "busy", string(Failing): "bad", string(Drifted): "warn", string(Absent): "none",
}

// svgCanvas is an SVG that is being written.
type svgCanvas struct{ strings.Builder }

func (c *svgCanvas) writeLine(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }

func (c *svgCanvas) writeText(x, y int, class, s string) {
	if s != "" {
		c.writeLine(`<text x="%d" y="%d" class="%s">%s</text>`, x, y, class, escapeXML(s))
	}
}

func escapeXML(s string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(s)) // a Builder takes everything
	return out.String()
}

func (p *svgPicture) writeSVG(required [][]int) string {
	c := &svgCanvas{}
	role, id := "img", escapeXML(p.options.ID)
	if p.options.Link != nil {
		role = "group" // what is in a picture is not reached
	}
	c.writeLine(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="%s" aria-labelledby="%stitle %sdesc">`, p.width, p.height, p.width, p.height, role, id, id)
	c.writeLine(`<title id="%stitle">%s</title>`, id, escapeXML(p.titleText()))
	c.writeLine(`<desc id="%sdesc">%s, in their layers with what they require</desc>`, id, escapeXML(p.summaryText()))
	if !p.options.NoStyle {
		c.writeLine("<style>%s</style>", style)
	}
	c.writeLine(`<rect class="page" width="%d" height="%d"/>`, p.width, p.height)
	y := margin + titleSize - 4
	for i, line := range p.head {
		name := "title"
		if i > 0 {
			name = "head"
		}
		c.writeText(margin, y, name, line)
		y += textLine
	}
	p.bandsTo(c)
	for i, n := range p.routes.nets {
		p.netTo(c, i, n)
	}
	for _, row := range slices.Backward(p.grid.rows) {
		for _, i := range row.nodes {
			p.boxTo(c, i, required[i])
		}
	}
	c.WriteString("</svg>\n")
	return c.String()
}

// bandsTo draws the layers.
func (p *svgPicture) bandsTo(c *svgCanvas) {
	bottom := 0
	for r, row := range p.grid.rows {
		if _, lowest := p.bandBottom[r]; lowest {
			bottom = p.bandBottom[r]
		}
		top, highest := p.bandTop[r]
		if !highest {
			continue
		}
		c.writeLine(`<rect class="band" x="%d" y="%d" width="%d" height="%d" rx="10"/>`, margin, top, p.width-2*margin, bottom-top)
		c.writeText(margin+pad+2, top+bandPad+numberSize-6, "number", fmt.Sprint(row.layer))
		for i, line := range layerLines(row.layer) {
			c.writeText(margin+pad+2, top+bandPad+numberSize+textLine*(i+1)-6, "layer", line)
		}
	}
}

// layerLines returns the name of a layer in lines next to its rows.
func layerLines(number int) []string {
	name := layers.LayerName(number)
	if name == "" {
		return nil
	}
	return wrapText(name, textSize, labelWidth-2*pad, 3)
}

// netTo draws the lines that lead to one node.
func (p *svgPicture) netTo(c *svgCanvas, i int, n *edgeNet) {
	c.writeLine(`<g class="net n%d">`, i%hues)
	x, y := p.boxes[n.to].x+p.boxWidth/2, p.boxes[n.to].y
	above := p.grid.at[n.to].row + 1
	end := p.channelY(n, above)
	for _, e := range n.from {
		row := p.grid.at[e.node].row
		from, start := p.exitX(e), p.channelY(n, row)
		path := fmt.Sprintf("M%d %dV%d", from, p.bottom[row], start)
		if row != above {
			path += fmt.Sprintf("H%dV%d", p.gutterX(n), end)
		}
		c.writeLine(`<path d="%sH%dV%d"/>`, path, x, y-5)
	}
	c.writeLine(`<path class="head" d="M%d %dl-4 -7h8z"/>`, x, y)
	c.writeLine("</g>")
}

// boxTo draws a node.
func (p *svgPicture) boxTo(c *svgCanvas, i int, required []int) {
	n, b := &p.Nodes[i], &p.boxes[i]
	height := p.rowHeight[p.grid.at[i].row]
	open, end := "<g>", "</g>"
	if p.options.Link != nil {
		if url := p.options.Link(n); url != "" {
			open, end = `<a href="`+escapeXML(url)+`">`, "</a>"
		}
	}
	c.writeLine("%s", open)
	c.writeLine("<title>%s</title>", escapeXML(p.tooltipText(n, required)))
	c.writeLine(`<rect class="box" x="%d" y="%d" width="%d" height="%d" rx="6"/>`, b.x, b.y, p.boxWidth, height)
	if state := class[string(n.Health)]; state != "" {
		c.writeLine(`<rect class="%s" x="%d" y="%d" width="4" height="%d" rx="2"/>`, state, b.x, b.y+6, height-12)
	}
	y := b.y + pad + nameSize - 1
	for _, line := range b.name {
		c.writeText(b.x+pad, y, "name", line)
		y += nameLine
	}
	for _, line := range b.detail {
		c.writeText(b.x+pad, y, "detail", line[0])
		c.writeText(b.x+p.boxWidth-pad, y, "end "+cmp.Or(class[line[1]], "none"), line[1])
		if line[1] == string(WithSignature) {
			at := b.x + p.boxWidth - pad - textWidth(line[1], textSize) - mark
			c.writeLine(`<path class="tick" d="M%d %dl3 3 5 -7"/>`, at, y-4)
		}
		y += textLine
	}
	c.writeLine("%s", end)
}

// tooltipText returns the full description of a node.
func (p *svgPicture) tooltipText(n *Node, required []int) string {
	lines := append([]string{CleanText(n.Name)}, n.labelLines()...)
	lines = append(lines, "layer "+layerName(n.Layer))
	if n.Category != "" {
		lines = append(lines, CleanText(n.Category))
	}
	if len(required) > 0 {
		lines = append(lines, "requires "+strings.Join(p.sortedNames(required), ", "))
	}
	return strings.Join(lines, "\n")
}
