package graph

import (
	"cmp"
	"slices"
)

// Lines run where no box and no text is: in channels, one below each row and one above the
// highest, and in gutters, one left of each column and one right of the last. All lines that
// lead to one node are a net: they share its way, so that many of them are still readable.
//
// A line leaves its node at the bottom into the channel there. If what it leads to is in the row
// below, it goes down from this channel; else by the net's gutter to the channel above that row.
type edgeNet struct {
	to     int
	gutter int // -1 when no line of it needs one
	// tracks is the net's track in each channel that it runs in; track is that of its gutter.
	tracks map[int]int
	track  int
	from   []netExit
}

// netExit is where a net's line leaves a node: port is of 1000 parts of the node's width.
type netExit struct{ node, port int }

// trackSpan is what a net takes of a channel or a gutter.
type trackSpan struct{ net, low, high int }

// edgeRoutes are the nets, and how many tracks every channel and gutter has.
type edgeRoutes struct {
	nets              []*edgeNet
	channels, gutters []int
}

// unit is the distance of two columns where only the order of things counts.
const unit = 1000

// newRoutes finds the way of every line.
func newRoutes(r *nodeGrid, required [][]int) *edgeRoutes {
	w := &edgeRoutes{channels: make([]int, len(r.rows)+1), gutters: make([]int, r.columns+1)}
	sources := make([][]int, len(required))
	for from, list := range required {
		for _, to := range list {
			sources[to] = append(sources[to], from)
		}
	}
	load := make([]int, r.columns+1)
	for _, row := range slices.Backward(r.rows) {
		for _, to := range row.nodes {
			if len(sources[to]) > 0 {
				w.nets = append(w.nets, newNet(r, to, sources[to], load))
			}
		}
	}
	w.assignPorts(r)
	w.assignTracks(r)
	return w
}

// newNet chooses the gutter next to the node, on the side that the lines come from.
func newNet(r *nodeGrid, to int, sources []int, load []int) *edgeNet {
	n := &edgeNet{to: to, gutter: -1, tracks: map[int]int{}}
	at := r.at[to]
	side, far := 0, false
	for _, from := range sources {
		n.from = append(n.from, netExit{node: from})
		if r.at[from].row != at.row+1 {
			far = true
			side += cmp.Compare(r.at[from].column, at.column)
		}
	}
	if !far {
		return n
	}
	n.gutter = at.column
	if side > 0 || side == 0 && load[at.column+1] < load[at.column] {
		n.gutter++
	}
	load[n.gutter]++
	return n
}

// assignPorts gives each line of a node a port of its own, in the order of where the lines go. None
// is in the middle, where lines come in from above.
func (w *edgeRoutes) assignPorts(r *nodeGrid) {
	type leaving struct {
		at     *netExit
		toward int
	}
	byNode := make([][]leaving, len(r.at))
	for _, n := range w.nets {
		for i := range n.from {
			e := &n.from[i]
			toward := r.at[n.to].column*unit + unit/2
			if r.at[e.node].row != r.at[n.to].row+1 {
				toward = n.gutter * unit
			}
			byNode[e.node] = append(byNode[e.node], leaving{e, toward})
		}
	}
	for node, list := range byNode {
		slices.SortStableFunc(list, func(a, b leaving) int { return cmp.Compare(a.toward, b.toward) })
		slots := len(list) + len(list)%2
		shift := 0
		if slots > len(list) && len(list) > 0 && list[len(list)/2].toward > r.at[node].column*unit+unit/2 {
			shift = 1
		}
		for i, l := range list {
			slot := i
			if i >= len(list)/2 {
				slot += shift
			}
			l.at.port = 100 + (2*slot+1)*800/(2*slots)
		}
	}
}

// assignTracks gives tracks to the nets.
func (w *edgeRoutes) assignTracks(r *nodeGrid) {
	channels, gutters := make([][]trackSpan, len(w.channels)), make([][]trackSpan, len(w.gutters))
	for i, n := range w.nets {
		above := r.at[n.to].row + 1
		taken := map[int]*trackSpan{}
		reach := func(channel, x int) {
			if taken[channel] == nil {
				taken[channel] = &trackSpan{i, x, x}
			}
			s := taken[channel]
			s.low, s.high = min(s.low, x), max(s.high, x)
		}
		reach(above, r.at[n.to].column*unit+unit/2)
		for _, e := range n.from {
			reach(r.at[e.node].row, r.at[e.node].column*unit+e.port)
		}
		low, high := above, above
		for channel := range taken {
			low, high = min(low, channel), max(high, channel)
		}
		for channel, s := range taken {
			if n.gutter >= 0 {
				reach(channel, n.gutter*unit-80)
				reach(channel, n.gutter*unit+80)
			}
			channels[channel] = append(channels[channel], *s)
		}
		if n.gutter >= 0 {
			gutters[n.gutter] = append(gutters[n.gutter], trackSpan{i, low, high})
		}
	}
	for c, spans := range channels {
		w.channels[c] = assignSpans(spans, 40, func(net, track int) { w.nets[net].tracks[c] = track })
	}
	for g, spans := range gutters {
		w.gutters[g] = assignSpans(spans, 0, func(net, track int) { w.nets[net].track = track })
	}
}

// assignSpans returns each span the first track on which it meets no other, and returns how many
// tracks there are.
func assignSpans(spans []trackSpan, apart int, give func(net, track int)) int {
	slices.SortFunc(spans, func(a, b trackSpan) int { return cmp.Or(cmp.Compare(a.low, b.low), cmp.Compare(a.net, b.net)) })
	var ends []int
	for _, s := range spans {
		track := slices.IndexFunc(ends, func(end int) bool { return end+apart < s.low })
		if track < 0 {
			track = len(ends)
			ends = append(ends, 0)
		}
		ends[track] = s.high
		give(s.net, track)
	}
	return len(ends)
}
