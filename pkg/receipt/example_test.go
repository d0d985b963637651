package receipt_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/receipt"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// A site signs what it has applied, and whoever collects the receipts sees the state of the fleet.
func Example() {
	private, public, err := sign.GenerateKeyPair([]byte("correct horse"))
	if err != nil {
		log.Fatal(err)
	}
	signer, err := sign.LoadSigner(private, func() ([]byte, error) { return []byte("correct horse"), nil })
	if err != nil {
		log.Fatal(err)
	}
	applied := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	file, err := receipt.Receipt{
		Name: "edge", Version: "1.0.0", Digest: digest.FromString("the root"), Cluster: "5c0f2f0e-6d0f-4c43-9c2e-0d5c1f9b1a01",
		Outcome: receipt.Applied, Bundles: receipt.Bundles{Applied: []string{"web"}}, Started: applied, Finished: applied,
	}.Sign(context.Background(), signer)
	if err != nil {
		log.Fatal(err)
	}

	key, err := sign.LoadPublicKey(public)
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := receipt.NewVerifier(receipt.Options{Keys: []*sign.Key{key}, MaxAge: 30 * 24 * time.Hour, Now: applied.AddDate(0, 2, 0)})
	if err != nil {
		log.Fatal(err)
	}
	if err := verifier.Add("receipts", "receipts/north.json", file); err != nil {
		log.Fatal(err)
	}
	for _, line := range verifier.State().Lines {
		fmt.Println(line.Receipt.Name, line.Receipt.Version, line.Receipt.Outcome, line.State)
	}
	// Output: edge 1.0.0 applied old
}
