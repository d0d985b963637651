package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/sign"
)

// The capabilities that sign depends on.
const (
	signatureBundles  = "signatures as bundles"
	signatureTags     = "signatures under tags"
	furtherSignatures = "further signatures"
)

// SigningLimits returns what follows for sign from what does not work, where sign works at all.
func (r *Report) SigningLimits() (list []string) {
	for _, f := range r.Findings {
		if !f.Works && slices.Contains([]string{signatureBundles, signatureTags, furtherSignatures}, f.Capability) {
			list = append(list, f.Meaning)
		}
	}
	return list
}

// signedImage is an image that was signed, and the form that its signature has.
type signedImage struct {
	image ocispec.Descriptor
	form  sign.Form
}

// probeSigning signs and attests an image of its own in one run, as the sign command does, and verifies
// what is there then.
func (e *registryExam) probeSigning(ctx context.Context, form sign.Form) error {
	image, err := e.pushImage(ctx, ocispec.MediaTypeImageManifest, func(m *ocispec.Manifest) { m.Annotations["signed"] = string(form) })
	if err != nil {
		return err
	}
	signer, err := newSigner()
	if err != nil {
		return err
	}
	options := sign.SignOptions{Signer: signer, Forms: []sign.Form{form}}
	err = sign.GatherReferrers(ctx, e.repo, func(ctx context.Context) error {
		attached, err := sign.Sign(ctx, e.repo, image, options)
		e.recordAttached(image, attached)
		if err != nil {
			return err
		}
		return e.attestImage(ctx, image, options, "first", "second")
	})
	if err != nil {
		return err
	}
	policy, err := sign.KeyPolicy(signer.Key())
	if err != nil {
		return err
	}
	result, err := sign.Verify(ctx, e.repo, image, policy)
	if err == nil && len(result.Attestations) != 2 {
		err = fmt.Errorf("returns %d of two attestations", len(result.Attestations))
	}
	if err == nil {
		e.forms = append(e.forms, signedImage{image, form})
	}
	return err
}

func (e *registryExam) attestImage(ctx context.Context, image ocispec.Descriptor, options sign.SignOptions, names ...string) error {
	var statements []sign.Statement
	for _, name := range names {
		statements = append(statements, sign.Statement{Type: "https://krtpkg.dev/doctor/" + name, Predicate: json.RawMessage("{}")})
	}
	attached, err := sign.Attest(ctx, e.repo, image, statements, options)
	e.recordAttached(image, attached)
	return err
}

// furtherAttestation attests something of what was signed before, in a form that works.
func furtherAttestation(ctx context.Context, e *registryExam) error {
	if len(e.forms) == 0 {
		return errors.New("nothing could be signed")
	}
	signer, err := newSigner()
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range e.forms {
		err := e.attestImage(ctx, s.image, sign.SignOptions{Signer: signer, Forms: []sign.Form{s.form}}, "third")
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func newSigner() (*sign.Signer, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	return sign.LoadSigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil)
}

// recordAttached notes what was attached to an image, to be removed.
func (e *registryExam) recordAttached(image ocispec.Descriptor, list []sign.Attached) {
	for _, a := range list {
		e.written = append(e.written, ocispec.Descriptor{Digest: a.Manifest})
		if a.Tag != "" && !slices.Contains(e.tags, a.Tag) {
			e.tags = append(e.tags, a.Tag)
		}
	}
	if fallback := strings.ReplaceAll(image.Digest.String(), ":", "-"); !slices.Contains(e.tags, fallback) {
		e.tags = append(e.tags, fallback)
	}
}
