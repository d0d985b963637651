package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// otherArchiveError reports a file that holds something other than what would be written to it.
type otherArchiveError struct{ file, holds string }

func (e *otherArchiveError) Error() string {
	return fmt.Sprintf("export to %s: file holds %s", e.file, e.holds)
}

// refuseOtherArchive returns an error if a file holds versions that the plan lacks, or is not an archive.
func refuseOtherArchive(ctx context.Context, file string, plan *transfer.Plan) error {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return nil // what writes it knows what to do
	}
	kept := map[digest.Digest]bool{}
	for _, r := range plan.Roots() {
		kept[r.Root.Digest] = true
	}
	held, err := listArchive(ctx, file)
	if err != nil {
		return &otherArchiveError{file, fmt.Sprintf("something other than an archive of krtpkg (%v)", err)}
	}
	for _, source := range held {
		if !kept[source.Root.Digest] {
			return &otherArchiveError{file, strings.Join(source.Tags, ", ") + ", " + source.Root.Digest.String()}
		}
	}
	return nil
}

// listArchive returns the bundles and runtimes in an archive or in one of its volumes.
func listArchive(ctx context.Context, name string) ([]transfer.Source, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	stream, err := archive.OpenStream(ctx, file)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	return transfer.FindRoots(ctx, stream)
}

// movedTagHint returns what to do about a tag that would move.
func movedTagHint(e *transfer.MovedTagError) string {
	switch {
	case e.IsDowngrade():
		return "if it is meant to go back, pass --allow-downgrade//if it is meant to go back, pass --move-tags"
	case e.New.Compare(e.Is) == bundle.OtherBuild:
		return "a published version stays as it is: set a new version in the definition and build it|, or pass --move-tags to replace it//, or pass --allow-downgrade to replace it"
	}
	return "use another tag or repository|, or pass --move-tags to replace it"
}
