package cli_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// forgedLine wipes what was said and says something else in its place.
const forgedLine = "\x1b[2K\x1b[1A\nverified by release\u202e\u200b\x7f\u009b2K"

// What a registry, an artifact or an archive says is shown as it is, wherever it is shown, and never begins
// a line. Nothing of it was verified.
func TestTextFromOutside(t *testing.T) {
	t.Parallel()
	quoted, err := json.Marshal(forgedLine)
	if err != nil {
		t.Fatal(err)
	}
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/tags/list"):
			fmt.Fprintf(w, `{"name":"krt/edge","tags":[%s]}`, quoted)
		case r.URL.Path == "/v2/":
		default:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":%s,"detail":%s}]}`, quoted, quoted)
		}
	}))
	t.Cleanup(registry.Close)
	s := newSite(t, "ghcr.io/example/web:1.0")
	escaped := strconv.QuoteToASCII(forgedLine)
	s.write("one/bundle.yaml", `apiVersion: krtpkg.dev/v1alpha1
kind: Bundle
metadata: {name: one, version: 1.0.0, description: `+escaped+`, licenses: `+escaped+`, source: `+escaped+`}
spec:
  layer: 6
  requires: [`+escaped+`]
  sources: [{file: a.yaml}]
`, "one/a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: ghcr.io/example/web:1.0}]}\n")
	s.ok("build", "-f", "one", "--to", "oci:built")
	at := strings.TrimPrefix(registry.URL, "http://") + "/krt/edge"
	for _, args := range [][]string{
		{"list", at},
		{"verify", "--key", "cosign.pub", at + ":1.0.0"},
		{"copy", at + ":1.0.0", "oci:to"},
		{"copy", "oci:built", at + ":1.0.0"},
		{"inspect", at + ":1.0.0"},
		{"inspect", "oci:built"},
		{"tree", "oci:built"},
		{"list", "oci:built"},
		{"graph", "oci:built"},
		{"doctor", at},
		{"verify", "--key", "cosign.pub", "oci:built:" + forgedLine},
		{"list", "oci:" + forgedLine},
	} {
		r := s.run(args...)
		for _, text := range []string{r.stdout, r.stderr} {
			if i := strings.IndexFunc(text, func(c rune) bool {
				return c != '\n' && (unicode.Is(unicode.Cc, c) || unicode.Is(unicode.Cf, c))
			}); i >= 0 {
				t.Errorf("%q: raw at %d: %q", args, i, text)
			}
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "verified") {
					t.Errorf("%q: a line of its own: %q", args, text)
				}
			}
		}
	}
	var view struct{ Metadata struct{ Description string } }
	if err := json.Unmarshal([]byte(s.ok("inspect", "-o", "json", "oci:built")), &view); err != nil || view.Metadata.Description != forgedLine {
		t.Errorf("JSON is not exact: %q, %v", view.Metadata.Description, err)
	}
}
