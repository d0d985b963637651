package trust_test

import (
	"fmt"
	"log"
	"os"

	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// The first rule that matches a place decides; without a match, what is there is refused.
func ExamplePolicy_FindRule() {
	_, public, err := sign.GenerateKeyPair(nil)
	if err != nil {
		log.Fatal(err)
	}
	policy, err := trust.ParsePolicy("trust.yaml", []byte(`apiVersion: krtpkg.dev/v1alpha1
kind: TrustPolicy
authorities:
- name: release
  key: cosign.pub
rules:
- match: ["site.example/krt/**"]
  names: [edge]
`), func(name string) ([]byte, error) {
		if name == "cosign.pub" {
			return public, nil
		}
		return nil, os.ErrNotExist
	})
	if err != nil {
		log.Fatal(err)
	}
	rule, err := policy.FindRule("site.example/krt/edge")
	fmt.Println(rule.Names, err)
	_, err = policy.FindRule("elsewhere.example/edge")
	fmt.Println(err)
	// Output:
	// [edge] <nil>
	// elsewhere.example/edge: no rule of trust.yaml matches
}
