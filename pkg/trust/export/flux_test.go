package export_test

import (
	"errors"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/trust"
	"krtpkg.dev/krtpkg/pkg/trust/export"
)

// Flux is told whom to trust where one signature is enough, and nothing less than the policy asks for.
func TestFlux(t *testing.T) {
	for name, test := range map[string]struct {
		rules, where string
		keys         int
		identity     export.FluxIdentity
		problem      string
	}{
		"keys":         {rules: twoRules, where: "registry.example/krt/edge", keys: 2},
		"an identity":  {rules: twoRules, where: "registry.example/other", identity: export.FluxIdentity{Issuer: `^https://token\.example$`, Subject: `^(?:https://github\.example/upstream/.*)$`}},
		"two of them":  {rules: "rules: [{match: [\"**\"], authorities: [build, release], threshold: 2}]", where: "a/b", problem: "2 signatures"},
		"both kinds":   {rules: "rules: [{match: [\"**\"], authorities: [build, upstream]}]", where: "a/b", problem: "keys next to identities"},
		"SHA-384":      {rules: "rules: [{match: [\"**\"], authorities: [large]}]", where: "a/b", problem: "a key of a curve over 256 bits"},
		"attestations": {rules: "rules: [{match: [\"**\"], authorities: [build], attestations: [{type: slsaprovenance1}]}]", where: "a/b", problem: "attestations"},
		"revoked":      {rules: "rules: [{match: [\"**\"], authorities: [build]}]\nrevoked: {digests: [\"sha256:" + strings.Repeat("0", 64) + "\"]}", where: "a/b", problem: "revoked digests"},
	} {
		t.Run(name, func(t *testing.T) {
			told, err := export.Flux(exported(t, people+test.rules+"\n", nil), test.where)
			if test.problem != "" {
				if !errors.Is(err, export.ErrInexpressible) || !strings.Contains(err.Error(), test.problem) {
					t.Fatalf("got %v, want %s", err, test.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(told.Keys) != test.keys {
				t.Errorf("%d keys, want %d", len(told.Keys), test.keys)
			}
			for _, key := range told.Keys {
				if !strings.HasPrefix(key, "-----BEGIN PUBLIC KEY-----\n") {
					t.Errorf("key %q", key)
				}
			}
			if test.identity.Issuer != "" && (len(told.Identities) != 1 || told.Identities[0] != test.identity || !strings.Contains(told.TrustedRoot, "mediaType")) {
				t.Errorf("identities %q, trusted root %.40s", told.Identities, told.TrustedRoot)
			}
		})
	}
	if _, err := export.Flux(exported(t, people+"rules: [{match: [only/this]}]\n", nil), "a/b"); !errors.Is(err, trust.ErrRefused) {
		t.Errorf("where no rule matches: %v", err)
	}
}
