package sign

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"google.golang.org/protobuf/encoding/protojson"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// envelope is a signature or an attestation, read and not verified. Whatever form it was stored
// in, it is a Sigstore bundle here, so that there is one way to verify.
type envelope struct {
	bundle *bundle.Bundle
	// payload is what is signed: a simple signing claim, or else an in-toto statement.
	payload []byte
	// predicateType is the statement's, or empty for a simple signing claim.
	predicateType string
	// timestamps are the timestamps of a statement in a layer, and stamped what they are of: the
	// whole DSSE envelope by cosign 2's verify, the signature in it by cosign 3's attest.
	timestamps, timestamped [][]byte
}

// isSignature reports whether the envelope signs the artifact; otherwise it attests something about it.
func (e *envelope) isSignature() bool {
	return e.isClaim() || isSignType(e.predicateType)
}

func (e *envelope) isClaim() bool { return e.predicateType == "" }

// openBundle reads a Sigstore bundle with a statement.
func openBundle(raw []byte) (*envelope, error) {
	if err := oci.CheckJSON(raw, oci.MaxElements); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	pb := &protobundle.Bundle{}
	if err := protojson.Unmarshal(raw, pb); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	// cosign 3 adds the chain that it is given to sign with, though its version of bundles allows
	// none; it is left alone, as in [readCertificate].
	if chain := pb.GetVerificationMaterial().GetX509CertificateChain().GetCertificates(); len(chain) > 0 {
		pb.VerificationMaterial.Content = &protobundle.VerificationMaterial_Certificate{Certificate: chain[0]}
	}
	b, err := bundle.NewBundle(pb)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return openStatement(b)
}

func openStatement(b *bundle.Bundle) (*envelope, error) {
	if b.GetDsseEnvelope() == nil {
		return nil, errors.New("bundle: no DSSE envelope")
	}
	// An SBOM has more values than a manifest.
	if err := oci.CheckJSON(b.GetDsseEnvelope().GetPayload(), oci.MaxStatementElements); err != nil {
		return nil, fmt.Errorf("bundle: statement: %w", err)
	}
	e, err := b.Envelope()
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	s, err := e.Statement()
	if err != nil {
		return nil, fmt.Errorf("bundle: statement: %w", err)
	}
	if s.GetPredicateType() == "" {
		return nil, errors.New("bundle: statement: no predicate type")
	}
	return &envelope{bundle: b, payload: b.GetDsseEnvelope().GetPayload(), predicateType: s.GetPredicateType()}, nil
}

// openLegacyLayer makes a bundle of a layer of the Legacy or Referrer form: the layer's content with
// the annotations that cosign adds to it (cosign: pkg/oci/static/options.go).
func openLegacyLayer(l ocispec.Descriptor, content []byte) (*envelope, error) {
	material, err := readVerificationMaterial(l)
	if err != nil {
		return nil, err
	}
	pb := &protobundle.Bundle{MediaType: mediaTypeBundleV01, VerificationMaterial: material}
	if l.MediaType == mediaTypeDSSE {
		stamps := material.GetTimestampVerificationData().GetRfc3161Timestamps()
		material.TimestampVerificationData = nil
		if pb.Content, err = parseDSSEContent(content); err != nil {
			return nil, fmt.Errorf("envelope: %w", err)
		}
		b, err := bundle.NewBundle(pb)
		if err != nil {
			return nil, err
		}
		e, err := openStatement(b)
		if err != nil {
			return nil, err
		}
		e.timestamped = [][]byte{content}
		for _, sig := range pb.GetDsseEnvelope().GetSignatures() {
			e.timestamped = append(e.timestamped, sig.GetSig())
		}
		for _, s := range stamps {
			e.timestamps = append(e.timestamps, s.GetSignedTimestamp())
		}
		return e, nil
	}
	sig, err := decodeSignature(l)
	if err != nil {
		return nil, err
	}
	pb.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{}, Signature: sig,
	}}
	b, err := bundle.NewBundle(pb)
	if err != nil {
		return nil, err
	}
	return &envelope{bundle: b, payload: content}, nil
}

// mediaTypeBundleV01 is the version that allows a chain of certificates, and the log's promise of
// inclusion instead of a proof; the annotations hold nothing more.
const mediaTypeBundleV01 = "application/vnd.dev.sigstore.bundle+json;version=0.1"

// mediaTypeDSSE is the media type of a DSSE envelope in a layer.
const mediaTypeDSSE = "application/vnd.dsse.envelope.v1+json"

func parseDSSEContent(raw []byte) (*protobundle.Bundle_DsseEnvelope, error) {
	var e dsse.Envelope
	if err := oci.UnmarshalJSON(raw, &e); err != nil {
		return nil, err
	}
	payload, err := e.DecodeB64Payload()
	if err != nil {
		return nil, err
	}
	pb := &protodsse.Envelope{Payload: payload, PayloadType: e.PayloadType}
	for _, s := range e.Signatures {
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if err != nil {
			return nil, err
		}
		pb.Signatures = append(pb.Signatures, &protodsse.Signature{Sig: sig, Keyid: s.KeyID})
	}
	return &protobundle.Bundle_DsseEnvelope{DsseEnvelope: pb}, nil
}

func decodeSignature(l ocispec.Descriptor) ([]byte, error) {
	s, ok := l.Annotations[annotationSignature]
	if !ok {
		return nil, fmt.Errorf("no annotation %s", annotationSignature)
	}
	sig, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", annotationSignature, err)
	}
	return sig, nil
}

// readVerificationMaterial returns what a layer's annotations hold to verify it with.
func readVerificationMaterial(l ocispec.Descriptor) (*protobundle.VerificationMaterial, error) {
	m := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}},
	}
	for _, a := range []struct {
		key  string
		read func(*protobundle.VerificationMaterial, string) error
	}{
		{annotationCertificate, readCertificate},
		{annotationLogEntry, readLogEntry},
		{annotationTimestamp, readTimestamp},
	} {
		if text := l.Annotations[a.key]; text != "" {
			if err := a.read(m, text); err != nil {
				return nil, fmt.Errorf("annotation %s: %w", a.key, err)
			}
		}
	}
	return m, nil
}

// readCertificate reads the signer's certificate and ignores the chain that comes with it: the
// chain proves nothing, and the policy holds all trusted intermediates.
func readCertificate(m *protobundle.VerificationMaterial, text string) error {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return errors.New("no PEM certificate found")
	}
	m.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
		Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}},
	}}
	return nil
}

// readLogEntry reads a log entry and the log's promise of inclusion, the signed entry timestamp.
func readLogEntry(m *protobundle.VerificationMaterial, text string) error {
	var entry legacyLogEntry
	if err := json.Unmarshal([]byte(text), &entry); err != nil {
		return err
	}
	id, err := hex.DecodeString(entry.Payload.LogID)
	if err != nil {
		return fmt.Errorf("log id: %w", err)
	}
	var kind struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(entry.Payload.Body, &kind); err != nil {
		return fmt.Errorf("entry: %w", err)
	}
	m.TlogEntries = []*protorekor.TransparencyLogEntry{{
		LogIndex:          entry.Payload.LogIndex,
		LogId:             &protocommon.LogId{KeyId: id},
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		IntegratedTime:    entry.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: entry.SignedEntryTimestamp},
		CanonicalizedBody: entry.Payload.Body,
	}}
	return nil
}

func readTimestamp(m *protobundle.VerificationMaterial, text string) error {
	var t legacyTimestamp
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return err
	}
	m.TimestampVerificationData = &protobundle.TimestampVerificationData{
		Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: t.SignedRFC3161Timestamp}},
	}
	return nil
}

// encodeAnnotations returns what [readVerificationMaterial] reads: all that a new bundle holds next to the
// signature. chain goes along for cosign, as PEM.
func encodeAnnotations(pb *protobundle.Bundle, chain []byte) (map[string]string, error) {
	annotations := map[string]string{}
	m := pb.GetVerificationMaterial()
	if c := m.GetCertificate(); c != nil {
		annotations[annotationCertificate] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.GetRawBytes()}))
		annotations[annotationChain] = string(chain)
	}
	entries, stamps := m.GetTlogEntries(), m.GetTimestampVerificationData().GetRfc3161Timestamps()
	if len(entries) > 1 || len(stamps) > 1 {
		return nil, fmt.Errorf("the legacy format holds one log entry and one timestamp, got %d and %d", len(entries), len(stamps))
	}
	for _, e := range entries {
		if e.GetInclusionPromise() == nil {
			return nil, errors.New("the legacy format needs a promise of inclusion (signed entry timestamp), which the log did not return")
		}
		text, err := json.Marshal(legacyLogEntry{
			SignedEntryTimestamp: e.GetInclusionPromise().GetSignedEntryTimestamp(),
			Payload: legacyLogPayload{
				Body: e.GetCanonicalizedBody(), IntegratedTime: e.GetIntegratedTime(), LogIndex: e.GetLogIndex(),
				LogID: hex.EncodeToString(e.GetLogId().GetKeyId()),
			},
		})
		if err != nil {
			return nil, err
		}
		annotations[annotationLogEntry] = string(text)
	}
	for _, s := range stamps {
		text, err := json.Marshal(legacyTimestamp{SignedRFC3161Timestamp: s.GetSignedTimestamp()})
		if err != nil {
			return nil, err
		}
		annotations[annotationTimestamp] = string(text)
	}
	return annotations, nil
}
