package cli

import (
	"cmp"
	"fmt"
	"strings"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/result"
)

// maxMarkdown is how long a diff in Markdown is: a comment on GitHub has at most 65,536 characters. What is most
// dangerous comes first, and what no longer fits is counted.
const maxMarkdown = 60_000

// markdownWriter writes a document up to the limit.
type markdownWriter struct{ strings.Builder }

// writeMarkdownDiff returns a diff as Markdown. All text from bundles is in code, where nothing is markup.
func writeMarkdownDiff(r *result.Diff) string {
	w := &markdownWriter{}
	ui.Fprintf(w, "## %s → %s\n\n", ui.MarkdownCode(r.Old.Name+" "+r.Old.Version), ui.MarkdownCode(r.New.Name+" "+r.New.Version))
	for _, v := range []struct {
		side string
		result.DiffVersion
	}{{"old", r.Old}, {"new", r.New}} {
		ui.Fprintf(w, "- %s: %s, %s\n", v.side, ui.MarkdownCode(cutText(v.Reference)), describeVerified(v.DiffVersion))
	}
	if r.Changes {
		ui.Fprintf(w, "\n%s\n", summarizeDiff(r))
	} else {
		w.WriteString("\nNo changes.\n")
	}
	risks := splitRisks(r.Risks)
	markdownList(w, "⚠ Not compared", r.Unrendered, func(n compare.Note) string { return n.String() })
	markdownList(w, "⚠ Critical", risks[0], compare.Risk.String)
	markdownList(w, "CustomResourceDefinitions", r.Definitions, preflight.Finding.String)
	markdownList(w, "Notable", risks[1], compare.Risk.String)
	markdownTable(w, "Values", []string{"", "value", "old", "new"}, r.Values, func(v compare.ValueChange) []string {
		return []string{string(v.Change), v.Bundle + "." + v.Value, describeIf(v.Old, (*compare.ValueState).Describe), describeIf(v.New, (*compare.ValueState).Describe)}
	})
	markdownTable(w, "Kubernetes", []string{"bundle", "old", "new"}, r.Kubernetes, func(k compare.KubernetesChange) []string {
		return []string{k.Bundle, cmp.Or(k.Old, "any"), cmp.Or(k.New, "any")}
	})
	bundle := func(b *compare.BundleState) string {
		return fmt.Sprintf("%s, layer %d, %s", b.Version, b.Layer, shortenDigest(b.Digest))
	}
	markdownTable(w, "Bundles", []string{"", "bundle", "old", "new"}, r.Bundles, func(b compare.BundleChange) []string {
		return []string{string(b.Change), b.Name, describeIf(b.Old, bundle), describeIf(b.New, bundle)}
	})
	image := func(i *compare.ImageState) string {
		return i.Reference + "  " + shortenDigest(i.Digest) + describePlatforms(i.Platforms)
	}
	markdownTable(w, "Images", []string{"", "bundle", "old", "new"}, r.Images, func(i compare.ImageChange) []string {
		return []string{string(i.Change), i.Bundle, describeIf(i.Old, image), describeIf(i.New, image)}
	})
	cargo := func(c *compare.CargoState) string { return describeCargoState(c) }
	markdownTable(w, "Files and charts", []string{"", "bundle", "name", "old", "new"}, r.Cargo, func(c compare.CargoChange) []string {
		return []string{string(c.Change), c.Bundle, strings.TrimSpace(c.Name + " " + c.Platform), describeIf(c.Old, cargo), describeIf(c.New, cargo)}
	})
	if r.Carry != nil {
		ui.Fprintf(w, "\n### To carry\n\n%s\n", ui.MarkdownCode(cutText(describeCarry(r.Carry))))
	}
	markdownList(w, "Notes", r.Notes, compare.Note.String)
	w.writeResources(r.Resources)
	return w.String()
}

// describeIf describes what is there; "" for what isn't.
func describeIf[T any](value *T, describe func(*T) string) string {
	if value == nil {
		return ""
	}
	return describe(value)
}

// room is what is kept for saying what no longer fits, for each section.
const room = 100

// writeUpTo writes parts of a section while they fit, and says how many do not.
func (w *markdownWriter) writeUpTo(limit, count int, part func(i int) string) {
	for i := range count {
		text := part(i)
		if w.Len()+len(text) > limit-room {
			ui.Fprintf(w, "\n… and %d more\n", count-i)
			return
		}
		w.WriteString(text)
	}
}

func markdownList[T any](w *markdownWriter, title string, all []T, describe func(T) string) {
	if len(all) == 0 {
		return
	}
	ui.Fprintf(w, "\n### %s\n\n", title)
	w.writeUpTo(maxMarkdown*3/4, len(all), func(i int) string { return "- " + ui.MarkdownCode(cutText(describe(all[i]))) + "\n" })
}

func markdownTable[T any](w *markdownWriter, title string, head []string, all []T, cells func(T) []string) {
	if len(all) == 0 {
		return
	}
	ui.Fprintf(w, "\n### %s\n\n| %s |\n|%s\n", title, strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	w.writeUpTo(maxMarkdown*3/4, len(all), func(i int) string {
		var row strings.Builder
		row.WriteString("|")
		for _, cell := range cells(all[i]) {
			row.WriteString(" " + ui.MarkdownCell(cutText(cell)) + " |")
		}
		return row.String() + "\n"
	})
}

// writeResources writes the resources, and the differences of those that both versions have.
func (w *markdownWriter) writeResources(all []deploy.ManifestChange) {
	if len(all) == 0 {
		return
	}
	w.WriteString("\n### Resources\n\n")
	w.writeUpTo(maxMarkdown, len(all), func(i int) string {
		text := "- " + ui.MarkdownCode(cutText(all[i].Describe())) + "\n"
		if all[i].Op == deploy.OpUpdate && all[i].Diff != "" {
			text += "\n" + indentBlock(ui.MarkdownBlock("diff", cutLines(all[i].Diff, maxDiffLines))) + "\n"
		}
		return text
	})
}

// indentBlock makes a block part of an item of a list.
func indentBlock(block string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(block, "\n"), "\n", "\n  ") + "\n"
}
