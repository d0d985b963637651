package cli

import (
	"context"
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

// copyList copies what a list says, one item after the other. The result of one that fails is of those before.
func (a *app) copyList(ctx context.Context, file string, f *transferFlags) error {
	list, err := readMirrorList(file)
	if err != nil {
		return &usageError{err}
	}
	all := &result.Transfer{Roots: []result.Root{}, DryRun: f.dryRun}
	targets, failed := a.copyItems(ctx, file, list, f, all)
	if failed != nil && len(all.Roots) == 0 {
		return failed
	}
	return a.printResult(ctx, f.format, all, failed, func(w io.Writer) { writeTransfer(w, all, strings.Join(targets, ", ")) })
}

// copyItems copies the items of a list and adds up what it did. It returns where it copied to.
func (a *app) copyItems(ctx context.Context, file string, list *mirror.List, f *transferFlags, all *result.Transfer) (targets []string, err error) {
	for _, item := range list.Copies {
		from, err := a.openPlace(ctx, item.From)
		if err != nil {
			return targets, err
		}
		var tags []string
		err = from.store.Tags(ctx, "", func(page []string) error {
			tags = append(tags, page...)
			return nil
		})
		if err != nil {
			return targets, fmt.Errorf("%s: %w", item.From, err)
		}
		picked := item.PickTags(tags)
		if len(picked) == 0 {
			return targets, fmt.Errorf("%s: none of its %d tags matches %s", item.From, len(tags), file)
		}
		sources := make([]string, len(picked))
		for i, tag := range picked {
			sources[i] = from.WithTag(tag).String()
		}
		to, err := place.Parse(item.To)
		if err != nil {
			return targets, &usageError{err}
		}
		r, err := a.copyTo(ctx, "copy", sources, to, f)
		if err != nil {
			return targets, err
		}
		if !slices.Contains(targets, to.Location()) {
			targets = append(targets, to.Location())
		}
		all.Roots, all.Referrers, all.Files = append(all.Roots, r.Roots...), append(all.Referrers, r.Referrers...), append(all.Files, r.Files...)
		all.Items, all.Bytes, all.CopiedItems, all.CopiedBytes = all.Items+r.Items, all.Bytes+r.Bytes, all.CopiedItems+r.CopiedItems, all.CopiedBytes+r.CopiedBytes
		all.MountedItems, all.PresentItems, all.PresentBytes = all.MountedItems+r.MountedItems, all.PresentItems+r.PresentItems, all.PresentBytes+r.PresentBytes
	}
	return targets, nil
}
