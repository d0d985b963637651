package export

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"krtpkg.dev/krtpkg/pkg/sign"
)

// trustedRoot is a trusted root of Sigstore (protobuf-specs: sigstore_trustroot.proto).
type trustedRoot struct {
	MediaType              string             `json:"mediaType"`
	Tlogs                  []trustedLog       `json:"tlogs"`
	CertificateAuthorities []trustedAuthority `json:"certificateAuthorities"`
	Ctlogs                 []trustedLog       `json:"ctlogs"`
	TimestampAuthorities   []trustedAuthority `json:"timestampAuthorities"`
}

type trustedLog struct {
	BaseURL       string          `json:"baseUrl"`
	HashAlgorithm json.RawMessage `json:"hashAlgorithm"`
	PublicKey     struct {
		RawBytes   []byte          `json:"rawBytes"`
		KeyDetails json.RawMessage `json:"keyDetails"`
		ValidFor   validityPeriod  `json:"validFor"`
	} `json:"publicKey"`
	LogID           json.RawMessage `json:"logId"`
	CheckpointKeyID json.RawMessage `json:"checkpointKeyId"`
	Operator        string          `json:"operator"`
}

type trustedAuthority struct {
	Subject struct {
		Organization string `json:"organization"`
		CommonName   string `json:"commonName"`
	} `json:"subject"`
	URI       string `json:"uri"`
	CertChain struct {
		Certificates []struct {
			RawBytes []byte `json:"rawBytes"`
		} `json:"certificates"`
	} `json:"certChain"`
	ValidFor validityPeriod `json:"validFor"`
	Operator string         `json:"operator"`
}

type validityPeriod struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// parseTrustedRoot reads a trusted root, and also returns it as compact JSON. Unknown fields are
// errors, since they could matter.
func parseTrustedRoot(text []byte) (*trustedRoot, []byte, error) {
	if _, err := sign.LoadTrustedRoot(text); err != nil {
		return nil, nil, err
	}
	r := &trustedRoot{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(r); err != nil {
		return nil, nil, fmt.Errorf("trusted root: %w", err)
	}
	var short bytes.Buffer
	if err := json.Compact(&short, text); err != nil {
		return nil, nil, fmt.Errorf("trusted root: %w", err)
	}
	return r, short.Bytes(), nil
}

// publicKeyPEM returns the log's key as PEM, and whether it is an ECDSA key.
func (l *trustedLog) publicKeyPEM() (text []byte, isECDSA bool, err error) {
	key, err := x509.ParsePKIXPublicKey(l.PublicKey.RawBytes)
	if err != nil {
		return nil, false, fmt.Errorf("trusted root: log %s: %w", l.BaseURL, err)
	}
	_, isECDSA = key.(*ecdsa.PublicKey)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: l.PublicKey.RawBytes}), isECDSA, nil
}

// chainPEM returns the certificates as PEM, the root last.
func (a *trustedAuthority) chainPEM() (text []byte, root *x509.Certificate, err error) {
	for _, c := range a.CertChain.Certificates {
		if root, err = x509.ParseCertificate(c.RawBytes); err != nil {
			return nil, nil, fmt.Errorf("trusted root: authority %s: %w", a.URI, err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.RawBytes})...)
	}
	if root == nil {
		return nil, nil, errors.New("trusted root: an authority without certificates")
	}
	return text, root, nil
}
