package ui_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/ui"
)

func TestHiddenTextsAreNowhere(t *testing.T) {
	t.Parallel()
	var out, errOut bytes.Buffer
	for _, mode := range []ui.Mode{ui.Plain, ui.JSON} {
		u := &ui.UI{In: strings.NewReader(""), Out: &out, Err: &errOut, Mode: mode}
		u.HideTexts("hunter22", "two\n  lines \"quoted\"", "abc")
		u.HideTexts("hunter22") // once more
		u.Note("the password is hunter22, %s", "two")
		u.Say("said: lines \"quoted\"")
		fmt.Fprintln(u, "written: hunter22")
		for _, format := range []ui.Format{"", "json", "yaml"} {
			value := map[string]string{"key": "hunter22", "lines": "lines \"quoted\"", "short": "abc"}
			if err := u.Result(format, value, func(w io.Writer) { fmt.Fprintln(w, value) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := out.String() + errOut.String()
	for _, text := range []string{"hunter22", "quoted"} {
		if strings.Contains(all, text) {
			t.Errorf("%q was shown:\n%s", text, all)
		}
	}
	if !strings.Contains(all, "the password is ***, two") || !strings.Contains(all, `"short": "abc"`) {
		t.Errorf("too much is hidden:\n%s", all)
	}
}
