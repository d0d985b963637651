package ui_test

import (
	"bytes"
	"errors"
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

// Logins and the values of queries in URLs are in no message: a redirect of a registry has a signature there.
func TestSecretsOfURLsAreInNoMessage(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"get http://127.0.0.2:80/b/x?X-Amz-Signature=SECRET: status 403":      "get http://127.0.0.2:80/b/x?X-Amz-Signature=***: status 403",
		"Get \"https://h.example/x?a=SECRET&sig=SECRET%2B&c\": EOF":           "Get \"https://h.example/x?a=***&sig=***&c\": EOF",
		"source mirror \"https://me:SECRET@h.example/x\": want PREFIX":        "source mirror \"https://***@h.example/x\": want PREFIX",
		"https://SECRET@h.example, https://me:SECRET@h.example.":              "https://***@h.example, https://***@h.example.",
		"key awskms://me:SECRET@h/y: no such key":                             "key awskms://***@h/y: no such key",
		"clone ssh://git@h.example/x.git and ssh://git:SECRET@h.example/x":    "clone ssh://git@h.example/x.git and ssh://***@h.example/x",
		"http://me:SEC/RET@h.example/x":                                       "http://***@h.example/x",
		"http://me:SEC?RET@h.example/x":                                       "http://***@h.example/x",
		"http://127.0.0.1:5000/x@sha256:00 and http://[::1]:5000/x@sha256:00": "http://127.0.0.1:5000/x@sha256:00 and http://[::1]:5000/x@sha256:00",
		"http://127.0.0.1:5000: refused":                                      "http://127.0.0.1:5000: refused",
		"see https://h.example/docs?page=SECRET#top":                          "see https://h.example/docs?page=***#top",
		"(https://h.example/?q=SECRET)":                                       "(https://h.example/?q=***)",
		"a://b?c=SECRET d://e?f=SECRET":                                       "a://b?c=*** d://e?f=***",
		"nothing to hide? a=b":                                                "nothing to hide? a=b",
	} {
		var out, errOut bytes.Buffer
		for _, mode := range []ui.Mode{ui.Plain, ui.JSON} {
			u := &ui.UI{In: strings.NewReader(""), Out: &out, Err: &errOut, Mode: mode}
			if got := u.ErrorText(text); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			u.Error(errors.New(text))
			u.Note("note: %s", text)
			u.Say("said: %s", text)
		}
		if strings.Contains(errOut.String(), "SEC") {
			t.Errorf("shown:\n%s", errOut.String())
		}
	}
}

// A login in a URL is not shown, whatever surrounds it, and what was taken out once stays as it is.
func FuzzErrorText(f *testing.F) {
	f.Add("get ", ": EOF")
	f.Add("\"", "\" ssh://")
	f.Add("http://a?b=", "?c=d#e")
	f.Add("x://y@", "@z")
	f.Fuzz(func(t *testing.T, before, after string) {
		u := &ui.UI{}
		got := u.ErrorText(before + " https://me:hunter22@h.example/x?sig=hunter22 " + after)
		if strings.Contains(got, "hunter22") && !strings.Contains(before+after, "hunter22") {
			t.Errorf("shown: %q", got)
		}
		if again := u.ErrorText(got); again != got {
			t.Errorf("not the same again:\n%q\n%q", got, again)
		}
	})
}
