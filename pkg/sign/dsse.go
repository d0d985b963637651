package sign

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"krtpkg.dev/krtpkg/pkg/oci"
)

var (
	// ErrUnknownKey is the error of an envelope that no trusted key has signed.
	ErrUnknownKey = errors.New("not signed by a trusted key")
	// ErrAltered is the error of an envelope that names a trusted key, whose signature it is not: the payload was
	// changed, the signature was, or someone without the key made it.
	ErrAltered = errors.New("the signature is not valid")
)

// Envelope is a DSSE envelope whose signature has been verified.
type Envelope struct {
	PayloadType string
	Payload     []byte
	// KeyID is the id of the key that signed; see [Key.ID].
	KeyID string
}

const (
	// MaxEnvelope is how many bytes an envelope of [OpenEnvelope] has.
	MaxEnvelope           = 1 << 20
	maxEnvelopeSignatures = 16
	maxEnvelopeElements   = 100
)

// SignEnvelope returns a payload in a DSSE envelope (github.com/secure-systems-lab/dsse), for statements that travel as
// files of their own. The signature covers the payload and its type; it names the key by its id, and there is no
// certificate.
func SignEnvelope(ctx context.Context, signer *Signer, payloadType string, payload []byte) ([]byte, error) {
	sig, err := signer.signMessage(ctx, dsse.PAE(payloadType, payload))
	if err != nil {
		return nil, fmt.Errorf("sign envelope: %w", err)
	}
	envelope, err := json.Marshal(dsse.Envelope{
		PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(payload),
		Signatures: []dsse.Signature{{KeyID: signer.Key().ID(), Sig: base64.StdEncoding.EncodeToString(sig)}},
	})
	if err == nil && len(envelope) > MaxEnvelope {
		err = fmt.Errorf("sign envelope: %d bytes: %w", len(envelope), oci.ErrTooLarge)
	}
	return envelope, err
}

// OpenEnvelope returns the payload of a DSSE envelope that one of keys has signed, as [SignEnvelope] does. A signature
// must name its key. The error is [ErrUnknownKey] or [ErrAltered] if the envelope can be read.
func OpenEnvelope(data []byte, keys ...*Key) (*Envelope, error) {
	e, payload, err := parseEnvelope(data)
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	message := dsse.PAE(e.PayloadType, payload)
	refused := fmt.Errorf("%w: its signature names no key", ErrUnknownKey)
	for _, s := range e.Signatures {
		if s.KeyID == "" {
			continue
		}
		key := findKey(keys, s.KeyID)
		if key == nil {
			if !errors.Is(refused, ErrAltered) {
				refused = fmt.Errorf("%w: signed with key %s", ErrUnknownKey, s.KeyID)
			}
			continue
		}
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if err == nil {
			err = key.verifier.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message))
		}
		if err == nil {
			return &Envelope{PayloadType: e.PayloadType, Payload: payload, KeyID: key.ID()}, nil
		}
		refused = fmt.Errorf("%w: it names the trusted key %s, but was changed after signing or made by another", ErrAltered, key.ID())
	}
	return nil, refused
}

// PeekEnvelope returns the payload of a DSSE envelope without verifying who signed it: it tells apart files, and proves
// nothing.
func PeekEnvelope(data []byte) (payloadType string, payload []byte, err error) {
	e, payload, err := parseEnvelope(data)
	if err != nil {
		return "", nil, fmt.Errorf("envelope: %w", err)
	}
	return e.PayloadType, payload, nil
}

func parseEnvelope(data []byte) (*dsse.Envelope, []byte, error) {
	if len(data) > MaxEnvelope {
		return nil, nil, fmt.Errorf("%d bytes: %w", len(data), oci.ErrTooLarge)
	}
	if err := oci.CheckJSON(data, maxEnvelopeElements); err != nil {
		return nil, nil, err
	}
	var e dsse.Envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, nil, err
	}
	switch {
	case e.PayloadType == "" || e.Payload == "":
		return nil, nil, errors.New("not a DSSE envelope: no payload")
	case len(e.Signatures) == 0:
		return nil, nil, errors.New("no signature")
	case len(e.Signatures) > maxEnvelopeSignatures:
		return nil, nil, fmt.Errorf("%d signatures: %w", len(e.Signatures), oci.ErrTooLarge)
	}
	payload, err := e.DecodeB64Payload()
	return &e, payload, err
}

func findKey(keys []*Key, id string) *Key {
	for _, k := range keys {
		if k.ID() == id {
			return k
		}
	}
	return nil
}
