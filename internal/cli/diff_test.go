package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/result"
)

// A diff of any size is one that people can read and GitHub takes; what is left out is counted, and what is dangerous is
// not. Nothing of a bundle is markup, a mention, or moves a terminal's cursor.
func TestLargeDiffsAreCut(t *testing.T) {
	t.Parallel()
	const hostile = "</details> @everyone #1 ``` | \x1b[2J\u202e\n# heading"
	r := &result.Diff{Changes: true}
	r.Old.Reference, r.New.Reference = strings.Repeat("r", 5000), hostile
	for i := range 10_000 {
		id := deploy.ResourceID{APIVersion: "v1", Kind: "ConfigMap", Name: fmt.Sprint("m", i, hostile)}
		r.Resources = append(r.Resources, deploy.ManifestChange{Bundle: "b", ResourceChange: deploy.ResourceChange{
			ResourceID: id, Op: deploy.OpUpdate, Diff: strings.Repeat("+ "+strings.Repeat("x", 10_000)+"\n", 5) + "- " + hostile + "\n" + strings.Repeat("+ y\n", 500),
		}})
		r.Risks = append(r.Risks, compare.Risk{Severity: compare.Notable, Bundle: "b", Resource: &id, Text: strings.Repeat(hostile, 10)})
		r.Values = append(r.Values, compare.ValueChange{Bundle: "b", Value: hostile, Change: compare.Removed, Old: &compare.ValueState{Default: hostile}})
		r.Images = append(r.Images, compare.ImageChange{Bundle: "b", Change: compare.Added, New: &compare.ImageState{Reference: hostile}})
		r.Notes = append(r.Notes, compare.Note{Bundle: "b", Side: compare.SideOld, Text: hostile})
	}
	r.Risks = append([]compare.Risk{{Severity: compare.Critical, Bundle: "b", Text: "escalate"}}, r.Risks...)

	markdown := writeMarkdownDiff(r)
	if n := len(markdown); n > 65_000 || n < 30_000 {
		t.Errorf("Markdown of %d bytes", n)
	}
	var text bytes.Buffer
	diffWriter{Writer: &text}.writeDiff(r)
	if n := text.Len(); n > 4<<20 {
		t.Errorf("text of %d bytes", n)
	}
	for name, out := range map[string]string{"markdown": markdown, "text": text.String()} {
		if strings.ContainsAny(out, "\x1b\u202e") || strings.Contains(out, "\n# heading") {
			t.Errorf("%s: something moves the cursor or begins a line", name)
		}
		for _, want := range []string{"b: escalate", "… and 9", "more bytes", "10000 notable"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q", name, want)
			}
		}
	}
	inBlock := ""
	for line := range strings.Lines(markdown) {
		line = strings.TrimSpace(line)
		if fence := strings.TrimSuffix(line, "diff"); strings.HasPrefix(line, "```") && strings.Trim(fence, "`") == "" {
			if inBlock == "" {
				inBlock = fence
			} else if fence == inBlock {
				inBlock = ""
			}
			continue
		}
		if inBlock == "" && strings.Contains(withoutCode(line), "everyone") {
			t.Fatalf("not in code: %s", line)
		}
	}
	if inBlock != "" {
		t.Error("a block does not end")
	}
}

// withoutCode returns a line of Markdown without its code spans, as CommonMark 0.31.2, section 6.1, has them.
func withoutCode(line string) string {
	var out strings.Builder
	for {
		start := strings.Index(line, "`")
		if start < 0 {
			return out.String() + line
		}
		out.WriteString(line[:start])
		rest := strings.TrimLeft(line[start:], "`")
		fence := line[start : len(line)-len(rest)]
		end := -1
		for i := 0; i < len(rest); i++ {
			if rest[i] != '`' {
				continue
			}
			run := len(rest[i:]) - len(strings.TrimLeft(rest[i:], "`"))
			if run == len(fence) {
				end = i
				break
			}
			i += run - 1
		}
		if end < 0 {
			out.WriteString(fence)
			line = rest
			continue
		}
		line = rest[end+len(fence):]
	}
}
