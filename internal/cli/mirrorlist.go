package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/mirror"
	"krtpkg.dev/krtpkg/pkg/result"
)

func readMirrorList(file string) (*mirror.List, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return mirror.ParseList(file, data, func(repository string) error {
		p, err := place.Parse(repository)
		if err == nil && (p.Tag != "" || p.Digest != "") {
			err = fmt.Errorf("%s: want a repository: set tags or versions instead", repository)
		}
		return err
	})
}

// copyList copies what a list says, one item after the other. What is refused holds up nothing else, and is listed at the end;
// what fails ends it. The result of one that fails is of those before.
func (a *app) copyList(ctx context.Context, file string, f *transferFlags) error {
	list, err := readMirrorList(file)
	if err != nil {
		return &usageError{err}
	}
	c := &listCopy{app: a, file: file, flags: f, total: &result.Transfer{Roots: []result.Root{}, DryRun: f.dryRun}}
	var failed error
	for _, item := range list.Copies {
		if failed = c.copyItem(ctx, item); failed != nil {
			break
		}
	}
	if len(c.refused) > 0 {
		failed = errors.Join(failed, &refusedCopiesError{file, c.tried, c.refused})
	}
	if failed != nil && len(c.total.Roots) == 0 {
		return failed
	}
	return a.printResult(ctx, f.format, c.total, failed, func(w io.Writer) { writeTransfer(w, c.total, strings.Join(c.targets, ", ")) })
}

// listCopy is the copy of a list.
type listCopy struct {
	app   *app
	file  string
	flags *transferFlags
	// total adds up what was done, targets are where.
	total   *result.Transfer
	targets []string
	// tried is how many sources there were, refused are those that stay behind.
	tried   int
	refused []refusedCopy
}

// refusedCopy is a source that was refused.
type refusedCopy struct {
	source string
	err    error
}

// refusedCopiesError reports what a list names and was not copied.
type refusedCopiesError struct {
	file    string
	tried   int
	refused []refusedCopy
}

func (e *refusedCopiesError) Error() string {
	text := fmt.Sprintf("copy --list %s: %d of %d refused:", e.file, len(e.refused), e.tried)
	for _, r := range e.refused {
		text += fmt.Sprintf("\n  %s: %s", r.source, strings.ReplaceAll(r.err.Error(), "\n", "\n    "))
	}
	return text
}

// Unwrap returns why each was refused.
func (e *refusedCopiesError) Unwrap() []error {
	reasons := make([]error, len(e.refused))
	for i, r := range e.refused {
		reasons[i] = r.err
	}
	return reasons
}

// copyItem copies an item.
func (c *listCopy) copyItem(ctx context.Context, item mirror.ListItem) error {
	from, err := c.app.openPlace(ctx, item.From)
	if err != nil {
		return err
	}
	var tags []string
	err = from.store.Tags(ctx, "", func(page []string) error {
		tags = append(tags, page...)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", item.From, err)
	}
	picked := item.PickTags(tags)
	if len(picked) == 0 {
		return fmt.Errorf("%s: none of its %d tags matches %s", item.From, len(tags), c.file)
	}
	to, err := place.Parse(item.To)
	if err != nil {
		return &usageError{err}
	}
	sources := make([]string, len(picked))
	for i, tag := range picked {
		sources[i] = from.WithTag(tag).String()
	}
	c.tried += len(sources)
	return c.copySources(ctx, sources, to)
}

// copySources copies sources together, or each by itself if some are refused. An archive is one whole.
func (c *listCopy) copySources(ctx context.Context, sources []string, to place.Place) error {
	r, err := c.app.copyTo(ctx, "copy", sources, to, c.flags)
	switch {
	case err == nil:
		c.add(r, to)
		return nil
	case ctx.Err() != nil || explainError(ctx, err).ExitCode != exitUnverified:
		return err
	case len(sources) == 1 || to.File != "":
		for _, source := range sources {
			c.refused = append(c.refused, refusedCopy{source, err})
		}
		return nil
	}
	for _, source := range sources {
		if err := c.copySources(ctx, []string{source}, to); err != nil {
			return err
		}
	}
	return nil
}

// add adds a copy to what was done.
func (c *listCopy) add(r *result.Transfer, to place.Place) {
	if !slices.Contains(c.targets, to.Location()) {
		c.targets = append(c.targets, to.Location())
	}
	all := c.total
	all.Roots, all.Referrers, all.Files = append(all.Roots, r.Roots...), append(all.Referrers, r.Referrers...), append(all.Files, r.Files...)
	all.Layers, all.Deltas = append(all.Layers, r.Layers...), append(all.Deltas, r.Deltas...)
	for sum, more := range map[*int64]int64{
		&all.Items: r.Items, &all.Bytes: r.Bytes, &all.CopiedItems: r.CopiedItems, &all.CopiedBytes: r.CopiedBytes,
		&all.MadeItems: r.MadeItems, &all.MadeBytes: r.MadeBytes, &all.DeltaBytes: r.DeltaBytes, &all.MountedItems: r.MountedItems,
		&all.PresentItems: r.PresentItems, &all.PresentBytes: r.PresentBytes,
	} {
		*sum += more
	}
}
