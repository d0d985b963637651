package images

import (
	"encoding/json"
	"fmt"
	"strings"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// SuggestEntry returns what an author can put into the spec of a definition to settle a suspect: a field, and
// an entry for it in YAML. What is in capitals there is for the author to fill in.
func (f *Found) SuggestEntry() (field, entry string) {
	image := strings.TrimPrefix(strings.TrimPrefix(f.Image, "docker://"), "oci://")
	_, err := ParseReference(image)
	switch {
	case f.IsRun():
		// Where a container's image is only filled in on the cluster.
		return "notImages", fmt.Sprintf("{value: %s, reason: WHY}", quoteYAML(f.Image))
	case err != nil && len(f.fields) < 2:
		return "notImages", fmt.Sprintf("{value: %s, path: %s, reason: WHY}", quoteYAML(f.Image), quoteYAML(f.Path))
	case err == nil && len(f.fields) > 1 && !f.isLoose && !isRepository(image):
		return "searchRules", "{join: [" + strings.Join(quoteAll(f.fields), ", ") + "]}"
	case err == nil && f.isWhole && !isRepository(image):
		return "searchRules", "{keyMatcher: {path: [" + strings.Join(f.ruleSteps(), ", ") + "]}}"
	case isRepository(image):
		image += ":TAG"
	}
	return "images", fmt.Sprintf("{image: %s, reason: WHY}", quoteYAML(image))
}

// ruleSteps returns the way to what was found as a search rule has it.
func (f *Found) ruleSteps() (steps []string) {
	for _, step := range f.steps {
		if key, isKey := step.(string); isKey {
			steps = append(steps, quoteYAML(key))
		} else {
			steps = append(steps, fmt.Sprintf("{index: %d}", step))
		}
	}
	return steps
}

// plainYAML are texts that are themselves in a flow of YAML.
var plainYAML = lazyregexp.New(`^[A-Za-z./_][A-Za-z0-9./_-]*(?::[A-Za-z0-9._-]+)?$`)

func quoteYAML(text string) string {
	if plainYAML.MatchString(text) && !isConstant(text) {
		return text
	}
	// JSON's strings are YAML's.
	var quoted strings.Builder
	encoder := json.NewEncoder(&quoted)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(text); err != nil {
		return fmt.Sprintf("%q", text)
	}
	return strings.TrimSpace(quoted.String())
}

func quoteAll(texts []string) (quoted []string) {
	for _, text := range texts {
		quoted = append(quoted, quoteYAML(text))
	}
	return quoted
}
