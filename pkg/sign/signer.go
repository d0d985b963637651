package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/cosign/v2/pkg/providers"
	_ "github.com/sigstore/cosign/v2/pkg/providers/envvar"
	_ "github.com/sigstore/cosign/v2/pkg/providers/filesystem"
	_ "github.com/sigstore/cosign/v2/pkg/providers/github"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	sigstore "github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// Signer signs with a private key.
type Signer struct {
	key    *Key
	signer signature.Signer
	algo   signature.AlgorithmDetails
	public crypto.PublicKey
	// certificate names the holder of the key, if there is one; chain holds its issuers as PEM,
	// for cosign.
	certificate *x509.Certificate
	chain       []byte
}

// Key returns the public key that verifies what s signs.
func (s *Signer) Key() *Key { return s.key }

func (s *Signer) certificateSubject() string {
	if s.certificate == nil {
		return ""
	}
	return certificateSubject(s.certificate)
}

// GetCertificate gives sigstore-go the certificate.
func (s *Signer) GetCertificate(context.Context, sigstore.Keypair, *sigstore.CertificateProviderOptions) ([]byte, error) {
	return s.certificate.Raw, nil
}

// WithCertificate returns a copy of the signer with a certificate of a private PKI for its key, and the
// intermediates up to the root, both as PEM. The certificate must be for code signing.
func (s *Signer) WithCertificate(certificate, chain []byte) (*Signer, error) {
	leaves, err := parseCertificates(certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if len(leaves) == 0 {
		return nil, errors.New("certificate: no certificate found")
	}
	leaf := leaves[0]
	id, err := certificateKeyID(leaf)
	switch {
	case err != nil:
		return nil, err
	case id != s.key.ID():
		return nil, fmt.Errorf("the certificate of %s is for another key (%s)", certificateSubject(leaf), id)
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageCodeSigning):
		return nil, fmt.Errorf("the certificate of %s is not for code signing", certificateSubject(leaf))
	case checkCertificateUse(leaf) != nil:
		return nil, checkCertificateUse(leaf)
	case len(leaf.EmailAddresses)+len(leaf.URIs) == 0:
		return nil, fmt.Errorf("the certificate of %s has no e-mail address or URI as a subject alternative name, which a policy could match", certificateSubject(leaf))
	}
	if _, ed := s.public.(ed25519.PublicKey); ed {
		return nil, errors.New("certificates for Ed25519 keys are not supported, since verifiers disagree on them: use an ECDSA or RSA key")
	}
	if _, err := parseCertificates(chain); err != nil {
		return nil, fmt.Errorf("certificate chain: %w", err)
	}
	with := *s
	with.certificate, with.chain = leaf, slices.Concat(encodePEM(leaves[1:]), chain)
	return &with, nil
}

// CheckTime returns an error unless the signer's certificate is valid at t, if it has one: what is signed at another
// time can never be verified, since a timestamp proves the time of the signature.
func (s *Signer) CheckTime(t time.Time) error {
	switch c := s.certificate; {
	case c == nil:
	case t.Before(c.NotBefore):
		return fmt.Errorf("the certificate of %s is not valid before %s", certificateSubject(c), c.NotBefore.UTC().Format(time.RFC3339))
	case t.After(c.NotAfter):
		return fmt.Errorf("the certificate of %s expired at %s", certificateSubject(c), c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func encodePEM(certificates []*x509.Certificate) (out []byte) {
	for _, c := range certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// NewKeylessSigner generates a key that lives in this process only. Fulcio issues a certificate for
// it, valid for minutes, in the name of the OpenID Connect token's subject.
func NewKeylessSigner(ctx context.Context, fulcio, token string) (*Signer, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	s, err := newSigner(private)
	if err != nil {
		return nil, err
	}
	client := sigstore.NewFulcio(&sigstore.FulcioOptions{BaseURL: strings.TrimSuffix(fulcio, "/"), Retries: serviceRetries})
	der, err := client.GetCertificate(ctx, keypair{s}, &sigstore.CertificateProviderOptions{IDToken: strings.TrimSpace(token)})
	if err != nil {
		return nil, fmt.Errorf("certificate from %s: %w", fulcio, err)
	}
	if s.certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("certificate from %s: %w", fulcio, err)
	}
	return s, nil
}

// IdentityToken returns the OpenID Connect token that the environment offers for Sigstore: in
// $SIGSTORE_ID_TOKEN, in a file that Kubernetes mounts, or from the CI that this runs in.
func IdentityToken(ctx context.Context) (string, error) {
	if providers.Enabled(ctx) {
		token, err := providers.Provide(ctx, "sigstore")
		if err != nil {
			return "", fmt.Errorf("identity token: %w", err)
		}
		if token != "" {
			return token, nil
		}
	}
	return "", errors.New("no identity token: pass --identity-token, set SIGSTORE_ID_TOKEN or run in a CI that provides one")
}

// LoadSigner reads a private key from PEM: cosign's encrypted keys, or a key of the kinds of
// [LoadPublicKey] as PKCS #8, SEC 1 ("EC PRIVATE KEY") or PKCS #1 ("RSA PRIVATE KEY").
//
// passphrase is called, once, only if the key is encrypted; it may be nil if it is not. A
// passphrase that does not open the key is [ErrPassphrase].
func LoadSigner(pemBytes []byte, passphrase func() ([]byte, error)) (*Signer, error) {
	block, err := decodeSinglePEM(pemBytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	private, err := parsePrivateKey(block, passphrase)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return newSigner(private)
}

// newSigner picks sigstore's default algorithm for the key, as cosign does when it signs; for
// Ed25519 that is the pure form, the only one that cosign verifies.
func newSigner(private crypto.Signer) (*Signer, error) {
	if _, err := signature.GetDefaultAlgorithmDetails(private.Public()); err != nil {
		return nil, fmt.Errorf("private key: %s: %w", describePublicKey(private.Public()), err)
	}
	signer, err := signature.LoadDefaultSignerVerifier(private)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return newSignerWithKey(signer, private.Public())
}

func newSignerWithKey(signer signature.Signer, public crypto.PublicKey) (*Signer, error) {
	algo, err := signature.GetDefaultAlgorithmDetails(public)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", describePublicKey(public), err)
	}
	key, err := newPublicKey(public)
	if err != nil {
		return nil, err
	}
	return &Signer{key: key, signer: signer, algo: algo, public: public}, nil
}

func (s *Signer) signMessage(ctx context.Context, message []byte) ([]byte, error) {
	return s.signer.SignMessage(bytes.NewReader(message), options.WithContext(ctx))
}

func parsePrivateKey(block *pem.Block, passphrase func() ([]byte, error)) (crypto.Signer, error) {
	var (
		key any
		err error
	)
	switch block.Type {
	case pemCosignKey, pemSigstoreKey:
		der, err := decryptPrivateKey(block.Bytes, passphrase)
		if err != nil {
			return nil, err
		}
		return parsePrivateKey(&pem.Block{Type: pemKey, Bytes: der}, nil)
	case pemKey:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case pemECKey, pemRSAKey:
		if block.Headers["DEK-Info"] != "" {
			return nil, errors.New("old PEM encryption is not supported; import it with cosign import-key-pair")
		}
		if block.Type == pemECKey {
			key, err = x509.ParseECPrivateKey(block.Bytes)
		} else {
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		}
	default:
		return nil, fmt.Errorf("this is %s (PEM %q)", describePEMType(block.Type), block.Type)
	}
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	return signer, nil
}

func decryptPrivateKey(data []byte, passphrase func() ([]byte, error)) ([]byte, error) {
	if passphrase == nil {
		return nil, errors.New("the key is encrypted, but no passphrase was given")
	}
	pass, err := passphrase()
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	der, err := encrypted.Decrypt(data, pass)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPassphrase, err)
	}
	return der, nil
}

// keypair is a Signer as sigstore-go wants it.
type keypair struct{ *Signer }

func (k keypair) GetHashAlgorithm() protocommon.HashAlgorithm { return k.algo.GetProtoHashType() }
func (k keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return k.algo.GetSignatureAlgorithm()
}
func (k keypair) GetPublicKey() crypto.PublicKey { return k.public }

// GetKeyAlgorithm is asked for by Fulcio only, which gets keys of [NewKeylessSigner].
func (k keypair) GetKeyAlgorithm() string { return "ECDSA" }

func (k keypair) GetHint() []byte {
	sum, _ := hex.DecodeString(k.key.ID())
	return []byte(base64.StdEncoding.EncodeToString(sum))
}

func (k keypair) GetPublicKeyPem() (string, error) {
	b, err := cryptoutils.MarshalPublicKeyToPEM(k.public)
	return string(b), err
}

// SignData signs, and gives the digest that was signed where the algorithm has one.
func (k keypair) SignData(ctx context.Context, data []byte) (sig, digest []byte, err error) {
	if h := k.algo.GetHashType(); h != 0 {
		hash := h.New()
		hash.Write(data)
		digest = hash.Sum(nil)
	}
	sig, err = k.signMessage(ctx, data)
	return sig, digest, err
}
