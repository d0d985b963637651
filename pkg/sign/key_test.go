package sign_test

import (
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
	"strings"
	"sync"
	"testing"

	"krtpkg.dev/krtpkg/pkg/sign"
)

const passphrase = "correct horse"

// pair is a key pair in PEM.
type pair struct{ private, public []byte }

// pairs has a pair of each kind; they are made once, since RSA and scrypt take their time.
var pairs = sync.OnceValue(func() map[string]pair {
	private, public, err := sign.GenerateKeyPair([]byte(passphrase))
	if err != nil {
		panic(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		panic(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		panic(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	sec1, err := x509.MarshalECPrivateKey(p256)
	if err != nil {
		panic(err)
	}
	return map[string]pair{
		"cosign":  {private, public},
		"p256":    {encode("EC PRIVATE KEY", sec1), publicPEM(p256)},
		"p384":    {pkcs8(p384), publicPEM(p384)},
		"p521":    {pkcs8(p521), publicPEM(p521)},
		"ed25519": {pkcs8(ed), publicPEM(ed)},
		"rsa":     {encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsa2048)), publicPEM(rsa2048)},
		"rsa8":    {pkcs8(rsa2048), encode("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsa2048.PublicKey))},
	}
})

func encode(pemType string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
}

func pkcs8(key any) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return encode("PRIVATE KEY", der)
}

func publicPEM(key crypto.Signer) []byte {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	return encode("PUBLIC KEY", der)
}

// signers are loaded once: scrypt takes its time.
var signers = sync.OnceValue(func() map[string]*sign.Signer {
	all := map[string]*sign.Signer{}
	for kind, p := range pairs() {
		s, err := sign.LoadSigner(p.private, func() ([]byte, error) { return []byte(passphrase), nil })
		if err != nil {
			panic(fmt.Sprintf("%s: %v", kind, err))
		}
		all[kind] = s
	}
	return all
})

func signer(t *testing.T, kind string) *sign.Signer {
	t.Helper()
	return signers()[kind]
}

func key(t *testing.T, kind string) *sign.Key {
	t.Helper()
	k, err := sign.LoadPublicKey(pairs()[kind].public)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyID(t *testing.T) {
	for kind := range pairs() {
		if s, k := signer(t, kind).Key().ID(), key(t, kind).ID(); s != k {
			t.Errorf("%s: the signer's key is %s, the public key %s", kind, s, k)
		}
	}
	block, _ := pem.Decode(pairs()["cosign"].public)
	sum := sha256.Sum256(block.Bytes)
	if got, want := key(t, "cosign").ID(), hex.EncodeToString(sum[:]); got != want {
		t.Errorf("ID is %s, want %s", got, want)
	}
}

func TestLoadSignerAsksOnlyIfEncrypted(t *testing.T) {
	for kind, p := range pairs() {
		asked := 0
		_, err := sign.LoadSigner(p.private, func() ([]byte, error) { asked++; return []byte(passphrase), nil })
		want := 0
		if kind == "cosign" {
			want = 1
		}
		if err != nil || asked != want {
			t.Errorf("%s: asked %d times, want %d; error %v", kind, asked, want, err)
		}
	}
}

func TestLoadSignerErrors(t *testing.T) {
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	noTerminal := errors.New("no terminal")
	cosign, p256 := pairs()["cosign"], pairs()["p256"]
	tests := map[string]struct {
		pem  []byte
		pass func() ([]byte, error)
		is   error
		want string
	}{
		"wrong passphrase": {
			pem: cosign.private, pass: func() ([]byte, error) { return []byte("battery staple"), nil }, is: sign.ErrPassphrase,
			want: "private key: wrong passphrase, or the key is damaged: encrypted: decryption failed",
		},
		"no passphrase": {
			pem:  cosign.private,
			want: "private key: the key is encrypted, but no passphrase was given",
		},
		"passphrase fails": {
			pem: cosign.private, pass: func() ([]byte, error) { return nil, noTerminal }, is: noTerminal,
			want: "private key: passphrase: no terminal",
		},
		"public key": {
			pem:  cosign.public,
			want: `private key: this is a public key (PEM "PUBLIC KEY")`,
		},
		"certificate": {
			pem:  encode("CERTIFICATE", nil),
			want: `private key: this is a certificate (PEM "CERTIFICATE")`,
		},
		"openssh": {
			pem:  encode("OPENSSH PRIVATE KEY", nil),
			want: `private key: this is a private key in a format that is not supported (PEM "OPENSSH PRIVATE KEY")`,
		},
		"encrypted pkcs8": {
			pem:  encode("ENCRYPTED PRIVATE KEY", nil),
			want: `private key: this is a private key in a format that is not supported (PEM "ENCRYPTED PRIVATE KEY")`,
		},
		"old encryption": {
			pem: pem.EncodeToMemory(&pem.Block{
				Type:    "EC PRIVATE KEY",
				Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"},
			}),
			want: "private key: old PEM encryption is not supported; import it with cosign import-key-pair",
		},
		"not pem": {
			pem:  []byte("hunter2"),
			want: "private key: no PEM block found",
		},
		"two keys": {
			pem:  append(p256.private[:len(p256.private):len(p256.private)], cosign.private...),
			want: `private key: a second PEM block, "ENCRYPTED SIGSTORE PRIVATE KEY", follows the first, "EC PRIVATE KEY"`,
		},
		"curve": {
			pem:  pkcs8(small),
			want: "private key: ECDSA on P-224: unsupported public key type",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := sign.LoadSigner(tt.pem, tt.pass)
			checkError(t, err, tt.want)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
		})
	}
}

func TestLoadSignerSkipsCurveParameters(t *testing.T) {
	b := append(encode("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}), pairs()["p256"].private...)
	if _, err := sign.LoadSigner(b, nil); err != nil {
		t.Error(err)
	}
}

func TestLoadPublicKeyErrors(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	cosign := pairs()["cosign"]
	tests := map[string]struct {
		pem  []byte
		want string
	}{
		"private key": {cosign.private, `public key: this is a private key (PEM "ENCRYPTED SIGSTORE PRIVATE KEY")`},
		"certificate": {encode("CERTIFICATE", nil), `public key: this is a certificate (PEM "CERTIFICATE")`},
		"something":   {encode("X509 CRL", nil), `public key: this is not a key (PEM "X509 CRL")`},
		"not pem":     {nil, "public key: no PEM block found"},
		"short":       {publicPEM(small), "public key: RSA of 1024 bits: unsupported public key type"},
		"two keys":    {append(cosign.public[:len(cosign.public):len(cosign.public)], cosign.public...), `public key: a second PEM block, "PUBLIC KEY", follows the first, "PUBLIC KEY"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := sign.LoadPublicKey(tt.pem)
			checkError(t, err, tt.want)
		})
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error:\n %v\nwant:\n %s", err, want)
	}
}
