// Package signtest makes keys and signers for tests. Call [NewSigner], or [NewKeyPair] where a test wants the files.
// None of the keys has a passphrase, which takes longer to open than most commands to run.
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

// NewKeyPair is [GenerateKeyPair] for a test.
func NewKeyPair(t testing.TB) (private, public []byte) {
	t.Helper()
	private, public, err := GenerateKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

// GenerateKeyPair returns a new ECDSA P-256 key as PEM: the private half as PKCS #8 without a passphrase, which takes no
// time to open, and the public half as PKIX.
func GenerateKeyPair() (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(key.Public())
	private = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER})
	return private, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER}), err
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
