package render

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

var (
	// randomFunction is in templates that render differently each time.
	randomFunction = lazyregexp.New(`\b(?:rand[A-Z]\w*|randBytes|uuidv4|gen[A-Z]\w*|now|ago|htpasswd|bcrypt|shuffle)\b`)
	valueName      = lazyregexp.New(`\.Values((?:\.[A-Za-z_][A-Za-z0-9_]*)+)`)
)

// maxProbes is how many values are tried for whether they settle a chart.
const maxProbes = 40

// UnstableError reports that a chart renders differently each time: what is applied would change with
// every apply, passwords with it.
type UnstableError struct{ problem string }

func (e *UnstableError) Error() string { return e.problem }

// unstableError is the error of a chart that renders differently each time, with the values that make it
// differ less where they are given.
func (in Input) unstableError(out, again []byte) error {
	problem := fmt.Sprintf("the chart renders differently each time: %s uses random values or the time: set them as values", firstDifference(out, again))
	if names := in.settlingValues(countDiffering(out, again)); len(names) > 0 {
		problem += " (" + strings.Join(names, ", ") + ")"
	}
	return &UnstableError{problem}
}

// settlingValues returns the values that templates with random functions name and that make renderings
// differ in fewer than so many words: each was tried.
func (in Input) settlingValues(differences int) (names []string) {
	var tried []string
	for _, f := range in.Files {
		if !strings.Contains(f.Path, "templates/") || !randomFunction.Get().Match(f.Data) {
			continue
		}
		under := ""
		if chart, _, ok := strings.Cut(strings.TrimPrefix(f.Path, "charts/"), "/templates/"); ok && strings.HasPrefix(f.Path, "charts/") {
			under = chart + "."
		}
		for _, m := range valueName.Get().FindAllSubmatch(f.Data, -1) {
			name := under + string(m[1][1:])
			if slices.Contains(tried, name) || len(tried) == maxProbes {
				continue
			}
			tried = append(tried, name)
			if in.isSettledBy(name, differences) {
				names = append(names, name)
			}
		}
	}
	return names
}

// isSettledBy reports whether renderings differ less where a value is given.
func (in Input) isSettledBy(name string, differences int) bool {
	var value any = "of-the-site"
	keys := strings.Split(name, ".")
	slices.Reverse(keys)
	for _, key := range keys {
		value = map[string]any{key: value}
	}
	document, err := yaml.Marshal(value)
	if err != nil {
		return false
	}
	in.Note = nil
	in.Values = append(slices.Clone(in.Values), document)
	out, err := renderHelm(in, nil)
	if err != nil {
		return false
	}
	again, err := renderHelm(in, fakeClockFuncs())
	return err == nil && countDiffering(out[0].Data, again[0].Data) < differences
}

// countDiffering returns how many words of two texts differ.
func countDiffering(a, b []byte) (n int) {
	first, second := bytes.Fields(a), bytes.Fields(b)
	for i := range max(len(first), len(second)) {
		if i >= len(first) || i >= len(second) || !bytes.Equal(first[i], second[i]) {
			n++
		}
	}
	return n
}
