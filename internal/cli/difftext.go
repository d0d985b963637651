package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/result"
)

// What is printed of a diff without --full: entries of a section, lines of the difference of a resource, and bytes of
// a line.
const (
	maxDiffEntries   = 200
	maxDiffLines     = 40
	maxDiffLineBytes = 400
)

// diffWriter writes a diff for people, cut to limits unless all of it is wanted.
type diffWriter struct {
	io.Writer
	full bool
}

// writeDiff writes a diff, what is most dangerous first.
func (w diffWriter) writeDiff(r *result.Diff) {
	ui.Fprintf(w, "old: %s %s  %s  %s\n", r.Old.Name, r.Old.Version, cutText(r.Old.Reference), describeVerified(r.Old))
	ui.Fprintf(w, "new: %s %s  %s  %s\n", r.New.Name, r.New.Version, cutText(r.New.Reference), describeVerified(r.New))
	if !r.Changes {
		ui.Fprintf(w, "no changes\n")
	} else {
		ui.Fprintf(w, "%s\n", summarizeDiff(r))
	}
	writeEntries(w, "Not compared", r.Unrendered, func(n compare.Note) { w.line("! %s", n) })
	risks := splitRisks(r.Risks)
	writeEntries(w, "Critical", risks[0], func(risk compare.Risk) { w.line("! %s", risk) })
	writeEntries(w, "Definitions", r.Definitions, func(f preflight.Finding) { w.line("%s", f) })
	writeEntries(w, "Notable", risks[1], func(risk compare.Risk) { w.line("- %s", risk) })
	writeEntries(w, "Values", r.Values, func(v compare.ValueChange) { w.line("%s %s", changeMark(v.Change), describeValue(v)) })
	writeEntries(w, "Kubernetes", r.Kubernetes, func(k compare.KubernetesChange) {
		w.line("~ %s: %s → %s", k.Bundle, cmp.Or(k.Old, "any"), cmp.Or(k.New, "any"))
	})
	writeEntries(w, "Bundles", r.Bundles, func(b compare.BundleChange) { w.line("%s %s", changeMark(b.Change), describeBundleChange(b)) })
	writeEntries(w, "Images", r.Images, func(i compare.ImageChange) { w.line("%s %s", changeMark(i.Change), describeImageChange(i)) })
	writeEntries(w, "Files and charts", r.Cargo, func(c compare.CargoChange) { w.line("%s %s", changeMark(c.Change), describeCargoChange(c)) })
	writeEntries(w, "Resources", r.Resources, w.writeResource)
	writeEntries(w, "Notes", r.Notes, func(n compare.Note) { w.line("%s", n) })
	if r.Carry != nil {
		ui.Fprintf(w, "\nTo carry\n  %s\n", describeCarry(r.Carry))
	}
}

// line writes a line of an entry.
func (w diffWriter) line(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !w.full {
		text = cutText(text)
	}
	ui.Fprintf(w, "  %s\n", text)
}

// writeEntries writes a section, unless there is nothing in it.
func writeEntries[T any](w diffWriter, title string, all []T, write func(T)) {
	if len(all) == 0 {
		return
	}
	ui.Fprintf(w, "\n%s\n", title)
	for i, one := range all {
		if i == maxDiffEntries && !w.full {
			ui.Fprintf(w, "  … and %d more (--full)\n", len(all)-i)
			return
		}
		write(one)
	}
}

// writeResource writes a resource, and its difference if both versions have it.
func (w diffWriter) writeResource(c deploy.ManifestChange) {
	w.line("%s", c.Describe())
	if c.Op == deploy.OpUpdate || w.full {
		ui.WriteIndented(w, "      ", w.cutDiff(c.Diff))
	}
}

// cutDiff shortens a difference, unless all is wanted.
func (w diffWriter) cutDiff(text string) string {
	if w.full {
		return text
	}
	return cutLines(text, maxDiffLines)
}

// cutLines returns the first lines of a text, and says how many more there are.
func cutLines(text string, limit int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	more := len(lines) - limit
	if more > 0 {
		lines = append(lines[:limit:limit], fmt.Sprintf("  … and %d more lines", more))
	}
	for i, line := range lines {
		lines[i] = cutText(line)
	}
	return strings.Join(lines, "\n")
}

// cutText returns the beginning of a long text.
func cutText(text string) string {
	more := len(text) - maxDiffLineBytes
	if more <= 0 {
		return text
	}
	return strings.ToValidUTF8(text[:maxDiffLineBytes], "") + fmt.Sprintf("… and %d more bytes", more)
}

// splitRisks returns the critical risks, and the others.
func splitRisks(all []compare.Risk) (parts [2][]compare.Risk) {
	for _, r := range all {
		i := 1
		if r.Severity == compare.Critical {
			i = 0
		}
		parts[i] = append(parts[i], r)
	}
	return parts
}

func describeVerified(v result.DiffVersion) string {
	if v.Verified {
		return "verified"
	}
	return "not verified"
}

// summarizeDiff counts what changes.
func summarizeDiff(r *result.Diff) string {
	var bundles [3]int
	for _, b := range r.Bundles {
		switch b.Change {
		case compare.Added:
			bundles[0]++
		case compare.Removed:
			bundles[1]++
		default:
			bundles[2]++
		}
	}
	var changes []deploy.ResourceChange
	for _, c := range r.Resources {
		changes = append(changes, c.ResourceChange)
	}
	risks := splitRisks(r.Risks)
	text := fmt.Sprintf("bundles: %d added, %d removed, %d changed, %d unchanged; resources: %s; risks: %d critical, %d notable",
		bundles[0], bundles[1], bundles[2], r.UnchangedBundles, deploy.CountChanges(changes), len(risks[0]), len(risks[1]))
	if len(r.Definitions) > 0 {
		text += fmt.Sprintf("; definitions: %d findings", len(r.Definitions))
	}
	return text
}

// changeMark is what stands before something that was added, removed or changed.
func changeMark(c compare.Change) string {
	return map[compare.Change]string{compare.Added: "+", compare.Removed: "-", compare.Changed: "~"}[c]
}

func describeBundleChange(b compare.BundleChange) string {
	if b.Old == nil || b.New == nil {
		state := cmp.Or(b.Old, b.New)
		return fmt.Sprintf("%s %s, layer %d, %s", b.Name, state.Version, state.Layer, shortenDigest(state.Digest))
	}
	return fmt.Sprintf("%s %s, layer %s, %s", b.Name, describeMove(b.Old.Version, b.New.Version),
		describeMove(fmt.Sprint(b.Old.Layer), fmt.Sprint(b.New.Layer)), describeMove(shortenDigest(b.Old.Digest), shortenDigest(b.New.Digest)))
}

// describeMove returns a value that may have changed.
func describeMove(was, is string) string {
	if was == is {
		return is
	}
	return was + " → " + is
}

func describeImageChange(i compare.ImageChange) string {
	if i.Old == nil || i.New == nil {
		state := cmp.Or(i.Old, i.New)
		return fmt.Sprintf("%s: %s  %s%s", i.Bundle, state.Reference, shortenDigest(state.Digest), describePlatforms(state.Platforms))
	}
	text := fmt.Sprintf("%s: %s  %s", i.Bundle, describeMove(i.Old.Reference, i.New.Reference), describeMove(shortenDigest(i.Old.Digest), shortenDigest(i.New.Digest)))
	text += describePlatforms(i.New.Platforms)
	if len(i.LostPlatforms) > 0 {
		text += ", no longer for " + strings.Join(i.LostPlatforms, ", ")
	}
	return text
}

func describePlatforms(platforms []string) string {
	if len(platforms) == 0 {
		return ""
	}
	return "  " + strings.Join(platforms, ", ")
}

func describeValue(v compare.ValueChange) string {
	name := v.Bundle + "." + v.Value
	if v.Old == nil || v.New == nil {
		return name + ": " + cmp.Or(v.Old, v.New).Describe()
	}
	return name + ": " + describeMove(v.Old.Describe(), v.New.Describe())
}

func describeCarry(c *result.Carry) string {
	return fmt.Sprintf("%s in %d items (of %s in %d) for a site that has %s",
		ui.Bytes(c.CopiedBytes), c.CopiedItems, ui.Bytes(c.Bytes), c.Items, strings.Join(c.Base, ", "))
}
