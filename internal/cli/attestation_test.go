package cli

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/sign"
)

// Each attestation that is there in two forms counts once, in whatever order they are listed.
func TestSelectPredicates(t *testing.T) {
	t.Parallel()
	claim := func(text, kind, predicate string) sign.Claim {
		c := sign.Claim{PredicateType: kind, Predicate: json.RawMessage(predicate)}
		c.Manifest = digest.FromString(text)
		return c
	}
	const kind = "https://krt.example/tests/v1"
	all := []sign.Claim{claim("1", kind, `{"a":1}`), claim("2", kind, `{"b":1}`), claim("3", kind, `{"a":1}`), claim("4", kind, `{"b":1}`), claim("5", "https://krt.example/other", `{"c":1}`)}
	for what, want := range map[string]int{kind: 2, digest.FromString("3").String(): 1, "https://krt.example/none": 0} {
		if got := selectPredicates(all, what); len(got) != want {
			t.Errorf("%s: %d attestations differ, want %d: %+v", what, len(got), want, got)
		}
	}
}
