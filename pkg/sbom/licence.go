package sbom

import (
	_ "embed"
	"slices"
	"strings"
)

// The short names of the SPDX License List 3.17, which is the one of CycloneDX 1.6.
var (
	//go:embed licences.txt
	licenceNames string
	//go:embed exceptions.txt
	exceptionNames string

	licences   = strings.Fields(licenceNames)
	exceptions = strings.Fields(exceptionNames)
)

// isExpression reports whether a text is an SPDX licence expression of listed licences and of
// LicenseRefs (SPDX 2.3, annex D). A name that the list does not have makes a document invalid.
func isExpression(text string) bool {
	const (
		wantLicence = iota
		afterLicence
		wantException
		afterTerm
	)
	state, depth := wantLicence, 0
	for _, word := range splitExpression(text) {
		switch {
		case state == wantLicence && word == "(":
			depth++
		case state == wantLicence && isLicence(word):
			state = afterLicence
		case state == wantException && slices.Contains(exceptions, word):
			state = afterTerm
		case state == afterLicence && word == "WITH":
			state = wantException
		case (state == afterLicence || state == afterTerm) && (word == "AND" || word == "OR"):
			state = wantLicence
		case (state == afterLicence || state == afterTerm) && word == ")" && depth > 0:
			depth--
			state = afterTerm
		default:
			return false
		}
	}
	return depth == 0 && (state == afterLicence || state == afterTerm)
}

// splitExpression splits an expression at blanks and around parentheses.
func splitExpression(text string) []string {
	return strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text))
}

// isLicence reports whether a word names a licence, or one "or later".
func isLicence(word string) bool {
	older, orLater := strings.CutSuffix(word, "+")
	return slices.Contains(licences, word) || isLicenceRef(word) ||
		orLater && !strings.HasSuffix(older, "+") && slices.Contains(licences, older)
}

// isLicenceRef reports whether a word names a licence that the document itself must define.
func isLicenceRef(word string) bool {
	id, ok := strings.CutPrefix(word, "LicenseRef-")
	return ok && id != "" && !strings.ContainsFunc(id, func(r rune) bool {
		isLetter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		return !isLetter && (r < '0' || r > '9') && r != '.' && r != '-'
	})
}

// licenceRefs returns the licences of an expression that no list has.
func licenceRefs(expression string) []string {
	return slices.DeleteFunc(splitExpression(expression), func(word string) bool { return !isLicenceRef(word) })
}
