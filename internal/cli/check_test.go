package cli

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/result"
)

// Who checks one volume learns what the parity volumes next to it restore.
func TestParityFact(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		checked result.Checked
		want    string
	}{
		{result.Checked{ParityVolumes: 2}, "2 parity volumes here: any 2 lost volumes can be restored"},
		{result.Checked{ParityVolumes: 1, LostVolumes: []int{3}}, "1 parity volume here: volume 3 can be restored with --repair"},
		{result.Checked{ParityVolumes: 1, LostVolumes: []int{2, 3}, LackingFiles: 1}, "1 parity volume here: 1 more file needed to restore volumes 2-3"},
	} {
		if got := (checkedPlace{Checked: c.checked}).parityFact(); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.checked, got, c.want)
		}
	}
}

// A volume is intact though its folder cannot be searched for parity volumes; that is said once for an archive.
func TestSetStatesThatCannotBeFound(t *testing.T) {
	t.Parallel()
	var notes bytes.Buffer
	a := &app{ui: &ui.UI{Err: &notes}}
	dir := filepath.Join(t.TempDir(), "gone")
	places := []checkedPlace{
		{file: filepath.Join(dir, "edge.1-of-2.tar"), Checked: result.Checked{Volume: 1, Volumes: 2}},
		{file: filepath.Join(dir, "edge.2-of-2.tar"), Checked: result.Checked{Volume: 2, Volumes: 2}},
		{Checked: result.Checked{Volume: 1, Volumes: 2}},
	}
	if err := a.findSetStates(t.Context(), places); err != nil || places[0].ParityVolumes > 0 {
		t.Errorf("got %+v, %v", places, err)
	}
	if strings.Count(notes.String(), "warning: look for parity volumes of "+places[0].file) != 1 || strings.Count(notes.String(), "\n") != 1 {
		t.Errorf("it says %q", notes.String())
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.findSetStates(canceled, places); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}
