package sign_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"krtpkg.dev/krtpkg/pkg/sign"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
)

func Example() {
	ctx := context.Background()
	store := memory.New() // or an OCI layout, or a repository of a registry
	root, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, "application/vnd.krtpkg.bundle.v1", oras.PackManifestOptions{})
	if err != nil {
		log.Fatal(err)
	}

	private, public, err := sign.GenerateKeyPair([]byte("correct horse"))
	if err != nil {
		log.Fatal(err)
	}
	key, err := sign.LoadPublicKey(public)
	if err != nil {
		log.Fatal(err)
	}
	policy, err := sign.KeyPolicy(key)
	if err != nil {
		log.Fatal(err)
	}
	_, err = sign.Verify(ctx, store, root, policy)
	fmt.Println("unsigned:", errors.Is(err, sign.ErrUnsigned))

	signer, err := sign.LoadSigner(private, func() ([]byte, error) { return []byte("correct horse"), nil })
	if err != nil {
		log.Fatal(err)
	}
	if _, err := sign.Sign(ctx, store, root, sign.SignOptions{
		Signer:      signer,
		Annotations: map[string]string{"stage": "prod"},
	}); err != nil {
		log.Fatal(err)
	}
	result, err := sign.Verify(ctx, store, root, policy)
	if err != nil {
		log.Fatal(err)
	}
	for _, v := range result.Verified {
		fmt.Println(v.Form, v.KeyID == key.ID(), v.Annotations["stage"])
	}
	// Output:
	// unsigned: true
	// legacy true prod
	// bundle true prod
}
