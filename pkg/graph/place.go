package graph

import (
	"cmp"
	"slices"
)

// nodeGrid has each node in a row and a column. Rows count from the bottom; those of a layer are
// next to each other, and what a node stands on is in a lower row.
type nodeGrid struct {
	rows    []gridRow
	columns int
	at      []gridCell // by node
}

type gridRow struct {
	layer int
	nodes []int
}

type gridCell struct{ row, column int }

// newGrid places the nodes, and orders the rows so that lines cross little.
func newGrid(g *Graph, required [][]int) *nodeGrid {
	bands := g.layerBands()
	most := columnsFor(len(g.Nodes))
	r := &nodeGrid{at: make([]gridCell, len(g.Nodes))}
	for _, b := range bands {
		r.stackBand(b, required, most)
	}
	r.orderRows(required)
	for _, row := range r.rows {
		r.columns = max(r.columns, len(row.nodes))
	}
	return r
}

// columnsFor returns how many columns make a picture that is a little wider than it is high.
func columnsFor(nodes int) int {
	switch {
	case nodes <= 20:
		return 4
	case nodes <= 40:
		return 5
	case nodes <= 80:
		return 6
	}
	return 8
}

// stackBand adds the rows of a layer: each node goes into the lowest row that has room and is
// above all that it stands on.
func (r *nodeGrid) stackBand(b layerBand, required [][]int, most int) {
	lines := (len(b.nodes) + most - 1) / most
	room := (len(b.nodes) + lines - 1) / lines
	depth := chainDepths(b.nodes, required)
	order := slices.Clone(b.nodes)
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(depth[x], depth[y]) })
	base := len(r.rows)
	for _, node := range order {
		lowest := base
		for _, on := range required[node] {
			if d, inside := depth[on]; inside && d < depth[node] {
				lowest = max(lowest, r.at[on].row+1)
			}
		}
		for lowest < len(r.rows) && len(r.rows[lowest].nodes) >= room {
			lowest++
		}
		for lowest >= len(r.rows) {
			r.rows = append(r.rows, gridRow{layer: b.layer})
		}
		r.rows[lowest].nodes = append(r.rows[lowest].nodes, node)
		r.at[node] = gridCell{row: lowest}
	}
	r.numberColumns()
}

// chainDepths returns how long the chains are that nodes of a layer stand on inside it. A chain that
// comes back to where it was ends there.
func chainDepths(nodes []int, required [][]int) map[int]int {
	depth := map[int]int{}
	for _, n := range nodes {
		depth[n] = 0
	}
	// A chain is no longer than there are nodes, so this ends even where it is a ring.
	for range nodes {
		changed := false
		for _, n := range nodes {
			for _, on := range required[n] {
				if d, inside := depth[on]; inside && d+1 > depth[n] && d+1 < len(nodes) {
					depth[n], changed = d+1, true
				}
			}
		}
		if !changed {
			break
		}
	}
	return depth
}

// numberColumns writes down the columns.
func (r *nodeGrid) numberColumns() {
	for y, row := range r.rows {
		for x, n := range row.nodes {
			r.at[n] = gridCell{y, x}
		}
	}
}

// orderRows orders the nodes of each row by where those are that they have lines to, up and
// down a few times, and keeps the best order that it came by.
func (r *nodeGrid) orderRows(required [][]int) {
	neighbours := make([][]int, len(required))
	for from, list := range required {
		for _, to := range list {
			neighbours[from] = append(neighbours[from], to)
			neighbours[to] = append(neighbours[to], from)
		}
	}
	best, rows := r.crossingCost(required), r.copyRows()
	for range 6 {
		for up := range 2 {
			for i := range r.rows {
				y := i
				if up == 1 {
					y = len(r.rows) - 1 - i
				}
				r.sortRow(y, neighbours)
			}
			if cost := r.crossingCost(required); cost < best {
				best, rows = cost, r.copyRows()
			}
		}
	}
	r.rows = rows
	r.numberColumns()
}

func (r *nodeGrid) copyRows() []gridRow {
	rows := make([]gridRow, len(r.rows))
	for i, from := range r.rows {
		rows[i] = gridRow{from.layer, slices.Clone(from.nodes)}
	}
	return rows
}

// sortRow orders a row by the mean column of its nodes' neighbours; who has none keeps its own.
func (r *nodeGrid) sortRow(y int, neighbours [][]int) {
	mean := func(n int) float64 {
		sum, count := 0, 0
		for _, other := range neighbours[n] {
			if r.at[other].row != y {
				sum, count = sum+r.at[other].column, count+1
			}
		}
		if count == 0 {
			return float64(r.at[n].column)
		}
		return float64(sum) / float64(count)
	}
	slices.SortStableFunc(r.rows[y].nodes, func(a, b int) int { return cmp.Compare(mean(a), mean(b)) })
	for x, n := range r.rows[y].nodes {
		r.at[n].column = x
	}
}

// crossingCost returns how much lines cross, and a little of how far they go sideways. Beyond many lines
// only the latter is looked at, since crossings are counted by pairs.
func (r *nodeGrid) crossingCost(required [][]int) int {
	type line struct{ from, to gridCell }
	var lines []line
	cost := 0
	for from, list := range required {
		for _, to := range list {
			l := line{r.at[from], r.at[to]}
			lines = append(lines, l)
			cost += absInt(l.from.column - l.to.column)
		}
	}
	if len(lines) > 1000 {
		return cost
	}
	for i, a := range lines {
		for _, b := range lines[:i] {
			apart := a.from.row <= b.to.row || b.from.row <= a.to.row
			if !apart && (a.from.column-b.from.column)*(a.to.column-b.to.column) < 0 {
				cost += 10
			}
		}
	}
	return cost
}

func absInt(n int) int { return max(n, -n) }
