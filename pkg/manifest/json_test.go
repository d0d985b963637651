package manifest_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Every JSON string means to YAML what it means to JSON.
func TestPlainJSON(t *testing.T) {
	t.Parallel()
	for data, changed := range map[string]bool{
		`{"a": "https:\/\/krt.example\/x"}`:               true,
		`{"a": "\ud83d\ude00 and \uD83D\uDE01"}`:          true,
		`{"a": "\\/", "b": "\\\\ud83d\\ude00"}`:           false,
		`{"a": "\\\/"}`:                                   true,
		`{"a": "\u00e9\n\t\"\b\f\r", "b": [1, "\u0041"]}`: false,
		`{"\ud83d\ude00": {"\/": null}}`:                  true,
		`{"a": "x"}`:                                      false,
	} {
		got := manifest.PlainJSON([]byte(data))
		if (string(got) != data) != changed {
			t.Errorf("%s is %s", data, got)
		}
		var want, have map[string]any
		if err := json.Unmarshal([]byte(data), &want); err != nil {
			t.Fatal(err)
		}
		f, err := manifest.Parse("a.json", got)
		if err != nil {
			t.Errorf("%s: %v", got, err)
			continue
		}
		if err := f.Documents[0].Decode(&have); err != nil {
			t.Fatal(err)
		}
		a, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(have)
		if err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%s is %s to YAML, want %s", data, b, a)
		}
	}
	for _, data := range []string{`a: "\/"`, `{"a": "\ud83d"}`, `{"a": "\ude00\ud83d"}`, "{", ""} {
		if got := manifest.PlainJSON([]byte(data)); string(got) != data {
			t.Errorf("%s is %s", data, got)
		}
	}
}
