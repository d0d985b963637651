// Package signtest makes keys and signers for tests. Call [NewSigner], or [NewKeyPair] where a test wants the files.
package signtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"krtpkg.dev/krtpkg/pkg/sign"
)

// NewKeyPair returns a new ECDSA P-256 key as PEM: the private half as PKCS #8 without a passphrase, which takes no time to
// open, and the public half as PKIX.
func NewKeyPair(t testing.TB) (private, public []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if der, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	return private, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// NewSigner returns a signer with a new key.
func NewSigner(t testing.TB) *sign.Signer {
	t.Helper()
	signer, _ := NewSignerWithKey(t)
	return signer
}

// NewSignerWithKey returns a signer with a new key, and the public half of it as PEM.
func NewSignerWithKey(t testing.TB) (signer *sign.Signer, public []byte) {
	t.Helper()
	private, public := NewKeyPair(t)
	signer, err := sign.LoadSigner(private, nil)
	if err != nil {
		t.Fatal(err)
	}
	return signer, public
}
