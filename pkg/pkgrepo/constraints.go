package pkgrepo

import (
	"fmt"
	"strconv"
	"strings"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// comparator is an operator and a version, of which parts may be missing.
var comparator = lazyregexp.New(`^(=|==|>|>=|=>|<|<=|=<|~|~>|\^|)\s*v?(\d+)(?:\.(\d+|[xX*]))?(?:\.(\d+|[xX*]))?$`)

// glued takes out the space after operators.
var glued = lazyregexp.New(`([=<>~^])\s+`)

// convertConstraints says a range of versions as definitions have it, which is Helm's, in the language
// of kapp-controller: whole versions, compared with each other.
func convertConstraints(from string) (string, error) {
	var alternatives []string
	for alternative := range strings.SplitSeq(from, "||") {
		var all []string
		text := glued.Get().ReplaceAllString(strings.ReplaceAll(alternative, ",", " "), "$1")
		for field := range strings.FieldsSeq(text) {
			match := comparator.Get().FindStringSubmatch(field)
			if match == nil {
				return "", fmt.Errorf("%q", field)
			}
			said, err := convertComparison(match[1], match[2:])
			if err != nil {
				return "", err
			}
			all = append(all, said)
		}
		if len(all) == 0 {
			return "", fmt.Errorf("%q", from)
		}
		alternatives = append(alternatives, strings.Join(all, " "))
	}
	return strings.Join(alternatives, " || "), nil
}

// convertComparison says one comparison. A version whose parts are missing is all that begin with it.
func convertComparison(operator string, parts []string) (string, error) {
	var v [3]uint64
	given := 0
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			break
		}
		v[i], given = n, i+1
	}
	low := fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2])
	// above is the first version after those that have the first n parts in common with v.
	above := func(n int) string {
		next := v
		next[n-1]++
		for i := n; i < 3; i++ {
			next[i] = 0
		}
		return fmt.Sprintf("%d.%d.%d", next[0], next[1], next[2])
	}
	switch operator {
	case ">=", "=>":
		return ">=" + low, nil
	case "<":
		return "<" + low, nil
	case ">":
		if given < 3 {
			return ">=" + above(given), nil
		}
		return ">" + low, nil
	case "<=", "=<":
		if given < 3 {
			return "<" + above(given), nil
		}
		return "<=" + low, nil
	case "", "=", "==":
		if given == 3 {
			return "=" + low, nil
		}
		return ">=" + low + " <" + above(given), nil
	case "~", "~>":
		return ">=" + low + " <" + above(min(given, 2)), nil
	case "^":
		at := 1
		for at < given && v[at-1] == 0 {
			at++
		}
		return ">=" + low + " <" + above(at), nil
	}
	return "", fmt.Errorf("operator %q", operator)
}
