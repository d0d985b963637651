package cli

import (
	"testing"

	"krtpkg.dev/krtpkg/pkg/result"
)

// Who checks one volume learns what the volumes of parity next to it restore.
func TestParityFact(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		checked result.Checked
		want    string
	}{
		{result.Checked{ParityVolumes: 2}, "2 volumes of parity here: any 2 lost volumes can be restored"},
		{result.Checked{ParityVolumes: 1, LostVolumes: []int{3}}, "1 volume of parity here: volume 3 can be restored with --repair"},
		{result.Checked{ParityVolumes: 1, LostVolumes: []int{2, 3}, LackingFiles: 1}, "1 volume of parity here: 1 more file needed to restore volumes 2-3"},
	} {
		if got := (checkedPlace{Checked: c.checked}).parityFact(); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.checked, got, c.want)
		}
	}
}
