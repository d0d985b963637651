package sign

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sigstore/cosign/v2/pkg/cosign/pkcs11key"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms"
)

// IsKeyURI says whether a name is that of a key which stays where it is, in a key management
// service or a token, and is not a file: hashivault://NAME, awskms://…, gcpkms://…,
// azurekms://…, pkcs11:….
func IsKeyURI(name string) bool {
	return strings.HasPrefix(name, pkcs11key.ReferenceScheme) || strings.Contains(name, "://")
}

// OpenSigner gives the signer for a key that stays where it is. The providers of key
// management services are those that the program imports (see package kms); PKCS #11 is in
// programs that are built with the tag pkcs11key.
func OpenSigner(ctx context.Context, uri string) (*Signer, error) {
	sv, err := openURI(ctx, uri)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", pin.ReplaceAllString(uri, "pin-value=…"), err)
	}
	s, err := signerOf(sv)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", pin.ReplaceAllString(uri, "pin-value=…"), err)
	}
	return s, nil
}

// pin is the secret in a PKCS #11 URI (RFC 7512), which no message may have.
var pin = regexp.MustCompile(`pin-value=[^&;?]*`)

// OpenPublicKey asks for the public part of such a key.
func OpenPublicKey(ctx context.Context, uri string) (*Key, error) {
	s, err := OpenSigner(ctx, uri)
	if err != nil {
		return nil, err
	}
	return s.Key(), nil
}

func openURI(ctx context.Context, uri string) (signature.SignerVerifier, error) {
	if strings.HasPrefix(uri, pkcs11key.ReferenceScheme) {
		config := pkcs11key.NewPkcs11UriConfig()
		if err := config.Parse(uri); err != nil {
			return nil, err
		}
		if !hasPKCS11 {
			return nil, errors.New("this program was built without PKCS #11: build it with the tag pkcs11key")
		}
		key, err := pkcs11key.GetKeyWithURIConfig(config, true)
		if err != nil {
			return nil, err
		}
		return key.SignerVerifier()
	}
	scheme, _, _ := strings.Cut(uri, "://")
	known := slices.Sorted(slices.Values(kms.SupportedProviders()))
	if !slices.Contains(known, scheme+"://") {
		return nil, fmt.Errorf("no provider for %s://: there are %s", scheme, strings.Join(known, ", "))
	}
	return kms.Get(ctx, uri, crypto.SHA256)
}

func signerOf(sv signature.SignerVerifier) (*Signer, error) {
	public, err := sv.PublicKey()
	if err != nil {
		return nil, err
	}
	return signerWith(sv, public)
}
