package sign

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sigstore/cosign/v2/pkg/cosign/pkcs11key"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// IsKeyURI reports whether name refers to a key in a key management service or a token instead
// of a file: hashivault://NAME, awskms://…, gcpkms://…,
// azurekms://…, pkcs11:….
func IsKeyURI(name string) bool {
	return strings.HasPrefix(name, pkcs11key.ReferenceScheme) || strings.Contains(name, "://")
}

// OpenSigner returns a signer for a key that [IsKeyURI] accepts. It knows the key management
// services whose providers the program imports (see package kms), and PKCS #11 in programs that
// are built with the tag pkcs11key.
func OpenSigner(ctx context.Context, uri string) (*Signer, error) {
	sv, err := openKeyURI(ctx, uri)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", pinValue.Get().ReplaceAllString(uri, "pin-value=…"), err)
	}
	s, err := newKMSSigner(sv)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", pinValue.Get().ReplaceAllString(uri, "pin-value=…"), err)
	}
	return s, nil
}

// pinValue is the secret in a PKCS #11 URI (RFC 7512), which messages must not show.
var pinValue = lazyregexp.New(`pin-value=[^&;?]*`)

// OpenPublicKey fetches the public key of a key that [IsKeyURI] accepts.
func OpenPublicKey(ctx context.Context, uri string) (*Key, error) {
	s, err := OpenSigner(ctx, uri)
	if err != nil {
		return nil, err
	}
	return s.Key(), nil
}

func openKeyURI(ctx context.Context, uri string) (signature.SignerVerifier, error) {
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
		return nil, fmt.Errorf("no provider for %s://, want one of %s", scheme, strings.Join(known, ", "))
	}
	return kms.Get(ctx, uri, crypto.SHA256)
}

func newKMSSigner(sv signature.SignerVerifier) (*Signer, error) {
	public, err := sv.PublicKey()
	if err != nil {
		return nil, err
	}
	return newSignerWithKey(sv, public)
}
