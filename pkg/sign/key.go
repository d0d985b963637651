package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// ErrPassphrase is the error of an encrypted key that the passphrase does not decrypt. A wrong
// passphrase and a damaged key look the same.
var ErrPassphrase = errors.New("wrong passphrase, or the key is damaged")

// GenerateKeyPair makes a new ECDSA P-256 key pair as cosign does: the private key in cosign's
// own encryption, the public key as PKIX, both in PEM. An empty passphrase encrypts with the
// empty passphrase, which protects nothing.
func GenerateKeyPair(passphrase []byte) (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key pair: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key pair: %w", err)
	}
	if der, err = encrypted.Encrypt(der, passphrase); err != nil {
		return nil, nil, fmt.Errorf("encrypt key: %w", err)
	}
	if public, err = cryptoutils.MarshalPublicKeyToPEM(key.Public()); err != nil {
		return nil, nil, fmt.Errorf("generate key pair: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemSigstoreKey, Bytes: der}), public, nil
}

// The PEM types of private keys: cosign's own encryption, under its name of today and that of before version 2, and
// the plain forms.
const (
	pemSigstoreKey = "ENCRYPTED SIGSTORE PRIVATE KEY"
	pemCosignKey   = "ENCRYPTED COSIGN PRIVATE KEY"
	pemKey         = "PRIVATE KEY"
	pemECKey       = "EC PRIVATE KEY"
	pemRSAKey      = "RSA PRIVATE KEY"
)

// Key is a public key.
type Key struct {
	id       string
	verifier signature.Verifier
}

// LoadPublicKey reads a public key from PEM: ECDSA on P-256, P-384 or P-521, RSA of 2048, 3072
// or 4096 bits, or Ed25519. More than one PEM block is an error.
func LoadPublicKey(pemBytes []byte) (*Key, error) {
	block, err := decodeSinglePEM(pemBytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	var pub crypto.PublicKey
	switch block.Type {
	case "PUBLIC KEY":
		pub, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		pub, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		err = fmt.Errorf("this is %s (PEM %q)", describePEMType(block.Type), block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return newPublicKey(pub)
}

// ID returns the fingerprint of the key: the SHA-256 of its DER encoded SubjectPublicKeyInfo, in
// hex. A Sigstore bundle names its key by the same bytes.
func (k *Key) ID() string { return k.id }

// PEM returns the key as every tool reads it: its SubjectPublicKeyInfo.
func (k *Key) PEM() ([]byte, error) {
	pub, err := k.verifier.PublicKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), err
}

// NeedsLongHash reports whether the key signs a longer hash than SHA-256.
func (k *Key) NeedsLongHash() bool {
	pub, err := k.verifier.PublicKey()
	key, is := pub.(*ecdsa.PublicKey)
	return err == nil && is && key.Curve != elliptic.P256()
}

func newPublicKey(pub crypto.PublicKey) (*Key, error) {
	verifiers, err := loadVerifiers(pub)
	if err != nil {
		return nil, fmt.Errorf("public key: %s: %w", describePublicKey(pub), err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return &Key{id: hex.EncodeToString(sum[:]), verifier: verifiers}, nil
}

// loadVerifiers returns the algorithms that the field uses with one and the same key: sigstore's
// default for it, and what cosign signs with as well, which is Ed25519ph for an Ed25519 key,
// and SHA-256 on the larger curves before 2.5.
func loadVerifiers(pub crypto.PublicKey) (multiVerifier, error) {
	first, err := signature.LoadDefaultVerifier(pub)
	if err != nil {
		return nil, err
	}
	var second signature.Verifier
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		second, err = signature.LoadDefaultVerifier(pub, options.WithED25519ph())
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P256() {
			return multiVerifier{first}, nil
		}
		second, err = signature.LoadVerifier(pub, crypto.SHA256)
	default:
		return multiVerifier{first}, nil
	}
	return multiVerifier{first, second}, err
}

// multiVerifier accepts what one of its verifiers accepts. They are all of the same key.
type multiVerifier []signature.Verifier

func (a multiVerifier) PublicKey(opts ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return a[0].PublicKey(opts...)
}

func (a multiVerifier) VerifySignature(sig, message io.Reader, opts ...signature.VerifyOption) error {
	s, err := io.ReadAll(sig)
	if err != nil {
		return err
	}
	m, err := io.ReadAll(message)
	if err != nil {
		return err
	}
	for _, v := range a {
		if err = v.VerifySignature(bytes.NewReader(s), bytes.NewReader(m), opts...); err == nil {
			return nil
		}
	}
	return err
}

// decodeSinglePEM decodes the only PEM block of data. Some readers ignore a second key and others
// do not, so it is refused; OpenSSL's curve parameters before an EC key are harmless.
func decodeSinglePEM(data []byte) (*pem.Block, error) {
	block, rest := pem.Decode(data)
	if block != nil && block.Type == "EC PARAMETERS" {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return nil, errors.New("no PEM block found")
	}
	if second, _ := pem.Decode(rest); second != nil {
		return nil, fmt.Errorf("a second PEM block, %q, follows the first, %q", second.Type, block.Type)
	}
	return block, nil
}

// describePEMType returns the words for a PEM type in messages.
func describePEMType(pemType string) string {
	switch pemType {
	case "PUBLIC KEY", "RSA PUBLIC KEY":
		return "a public key"
	case pemCosignKey, pemSigstoreKey, pemKey, pemECKey, pemRSAKey:
		return "a private key"
	case "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY":
		return "a private key in a format that is not supported"
	case "CERTIFICATE":
		return "a certificate"
	}
	return "not a key"
}

// describePublicKey names a key that sigstore does not support; sigstore's error does not.
func describePublicKey(pub crypto.PublicKey) string {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA of %d bits", pub.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA on " + pub.Params().Name
	}
	return fmt.Sprintf("%T", pub)
}
