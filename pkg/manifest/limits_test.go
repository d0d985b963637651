package manifest_test

import (
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Depth has an end, and comes to it soon, in every form that nests.
func TestDepth(t *testing.T) {
	t.Parallel()
	var mapping strings.Builder
	for i := range 8000 {
		mapping.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	for name, text := range map[string]string{
		"lists":    "a: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "\n",
		"mappings": "a: " + strings.Repeat("{a: ", 9000) + "b" + strings.Repeat("}", 9000) + "\n",
		"items":    strings.Repeat("- ", 9000) + "a\n",
		"block":    mapping.String(),
		"just":     "a: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "\n",
	} {
		start := time.Now()
		_, err := manifest.Parse("a.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), "nested deeper than 200 levels") && !strings.Contains(err.Error(), "exceeded max depth") {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: it takes %s", name, took)
		}
	}
	if _, err := manifest.Parse("a.yaml", []byte("a: "+strings.Repeat("[", 190)+strings.Repeat("]", 190)+"\n")); err != nil {
		t.Error(err)
	}
}
