package archive_test

import (
	"bytes"
	"testing"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// A stream is planned as what is in it, and what turns out to be elsewhere is told at its end: the account is
// complete for a whole archive, a volume and an archive of deltas.
func TestCheckStreamIsWholeAccount(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	withDeltas, _ := withDelta(t, nil)
	streams := map[string][]byte{"whole": mustWrite(t, contents, from), "deltas": withDeltas}
	volumes, err := contents.Split(9 << 10)
	if err != nil || len(volumes) < 2 {
		t.Fatalf("%d volumes, error %v", len(volumes), err)
	}
	for i, v := range volumes {
		streams[string(rune('1'+i))+" of several"] = mustWrite(t, v, from)
	}
	based := contents
	based.Base, based.Blobs = []string{"base"}, contents.Blobs[1:]
	streams["based"] = mustWrite(t, based, from)
	for name, data := range streams {
		var planned, there, items int64
		skipped := 0
		_, err := archive.CheckStream(t.Context(), bytes.NewReader(data), func(e progress.Event) {
			switch e.Kind {
			case progress.Planned:
				planned, items = e.Bytes, int64(e.Items)
			case progress.Skipped:
				skipped++
				fallthrough
			case progress.Copied:
				there += e.Bytes
				items--
			}
		})
		if err != nil || planned == 0 || planned != there || items != 0 {
			t.Errorf("%s: planned %d bytes, %d are told, %d items are left; error %v", name, planned, there, items, err)
		}
		if want := map[bool]int{true: 1}[name == "based"]; skipped != want {
			t.Errorf("%s: %d are elsewhere, want %d", name, skipped, want)
		}
	}
}
