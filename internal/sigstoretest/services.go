package sigstoretest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/digitorus/timestamp"
	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore/pkg/signature"
)

// issueForToken checks what comes to Fulcio and issues a certificate: who asks, by the token, has to
// prove that the key is theirs by a signature of the subject.
func (s *Sigstore) issueForToken(r *http.Request, public crypto.PublicKey, proof []byte) ([]byte, error) {
	parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	if len(parts) != 3 {
		return nil, errors.New("no identity token")
	}
	var claims struct {
		Issuer   string `json:"iss"`
		Subject  string `json:"sub"`
		Audience string `json:"aud"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return nil, err
	}
	if claims.Audience != "sigstore" || claims.Issuer == "" || claims.Subject == "" {
		return nil, fmt.Errorf("the token is for %q", claims.Audience)
	}
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	if err := verifier.VerifySignature(bytes.NewReader(proof), strings.NewReader(claims.Subject)); err != nil {
		return nil, fmt.Errorf("proof of possession: %w", err)
	}
	now := s.currentTime()
	c := s.issueFrom(s.authority, leafTemplate(claims.Issuer, claims.Subject, now.Add(-time.Minute), now.Add(10*time.Minute)), public)
	return toPEM(c), nil
}

func publicKey(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no key in PEM")
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

func writeBadRequest(w http.ResponseWriter, err error) {
	http.Error(w, err.Error(), http.StatusBadRequest)
}

// signingCert is fulcio.proto's CreateSigningCertificate.
func (s *Sigstore) signingCert(w http.ResponseWriter, r *http.Request) {
	var request struct {
		PublicKeyRequest struct {
			PublicKey struct {
				Content string `json:"content"`
			} `json:"publicKey"`
			ProofOfPossession []byte `json:"proofOfPossession"`
		} `json:"publicKeyRequest"`
	}
	err := json.NewDecoder(r.Body).Decode(&request)
	var public crypto.PublicKey
	var certificate []byte
	if err == nil {
		public, err = publicKey([]byte(request.PublicKeyRequest.PublicKey.Content))
	}
	if err == nil {
		certificate, err = s.issueForToken(r, public, request.PublicKeyRequest.ProofOfPossession)
	}
	if err != nil {
		writeBadRequest(w, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"signedCertificateDetachedSct": map[string]any{
		"chain": map[string]any{"certificates": []string{string(certificate), string(toPEM(s.authority.intermediate)), string(toPEM(s.authority.root))}},
	}})
}

// signingCertV1 is the older API, which cosign 2 speaks.
func (s *Sigstore) signingCertV1(w http.ResponseWriter, r *http.Request) {
	var request struct {
		PublicKey struct {
			Content []byte `json:"content"`
		} `json:"publicKey"`
		SignedEmailAddress []byte `json:"signedEmailAddress"`
	}
	err := json.NewDecoder(r.Body).Decode(&request)
	var public crypto.PublicKey
	var certificate []byte
	if err == nil {
		if public, err = x509.ParsePKIXPublicKey(request.PublicKey.Content); err != nil {
			public, err = publicKey(request.PublicKey.Content)
		}
	}
	if err == nil {
		certificate, err = s.issueForToken(r, public, request.SignedEmailAddress)
	}
	if err != nil {
		writeBadRequest(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	w.WriteHeader(http.StatusCreated)
	w.Write(append(append(certificate, toPEM(s.authority.intermediate)...), toPEM(s.authority.root)...))
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value)
}

// serveTimestamp is a timestamp authority (RFC 3161).
func (s *Sigstore) serveTimestamp(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		writeBadRequest(w, err)
		return
	}
	request, err := timestamp.ParseRequest(body)
	if err != nil {
		writeBadRequest(w, err)
		return
	}
	answer := timestamp.Timestamp{
		HashAlgorithm: request.HashAlgorithm, HashedMessage: request.HashedMessage, Time: s.currentTime(),
		Nonce: request.Nonce, Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, AddTSACertificate: request.Certificates,
	}
	response, err := answer.CreateResponseWithOpts(s.stamper, s.stamperKey, crypto.SHA256)
	if err != nil {
		writeBadRequest(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	w.WriteHeader(http.StatusCreated)
	w.Write(response)
}

// merkleLog is a log as Rekor keeps it, in memory (RFC 6962).
type merkleLog struct {
	mu     sync.Mutex
	key    *ecdsa.PrivateKey
	leaves [][]byte
}

func (s *Sigstore) logKey(w http.ResponseWriter, _ *http.Request) { w.Write(s.LogKey()) }

// addEntry is createLogEntry of Rekor's API (rekor: openapi.yaml).
func (s *Sigstore) addEntry(w http.ResponseWriter, r *http.Request) {
	proposed, err := models.UnmarshalProposedEntry(r.Body, runtime.JSONConsumer())
	if err != nil {
		writeBadRequest(w, err)
		return
	}
	entry, err := types.UnmarshalEntry(proposed)
	if err != nil {
		writeBadRequest(w, err)
		return
	}
	body, err := types.CanonicalizeEntry(r.Context(), entry)
	if err != nil {
		writeBadRequest(w, err)
		return
	}
	id, logged, err := s.log.addLeaf(r.Context(), body, s.currentTime(), s.LogID())
	if err != nil {
		writeBadRequest(w, err)
		return
	}
	w.Header().Set("ETag", id)
	w.Header().Set("Location", "/api/v1/log/entries/"+id)
	writeJSON(w, http.StatusCreated, models.LogEntry{id: *logged})
}

func (l *merkleLog) addLeaf(ctx context.Context, body []byte, at time.Time, logID string) (string, *models.LogEntryAnon, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	hash := leafHash(body)
	l.leaves = append(l.leaves, hash)
	signer, err := signature.LoadECDSASignerVerifier(l.key, crypto.SHA256)
	if err != nil {
		return "", nil, err
	}
	index, size := int64(len(l.leaves)-1), int64(len(l.leaves))
	root := treeHash(l.leaves)
	point, err := util.CreateAndSignCheckpoint(ctx, "rekor.test", 1, uint64(size), root, signer)
	if err != nil {
		return "", nil, err
	}
	when, text := at.Unix(), base64.StdEncoding.EncodeToString(body)
	promise, err := json.Marshal(map[string]any{"body": text, "integratedTime": when, "logIndex": index, "logID": logID})
	if err == nil {
		promise, err = jsoncanonicalizer.Transform(promise)
	}
	if err != nil {
		return "", nil, err
	}
	set, err := signer.SignMessage(bytes.NewReader(promise))
	if err != nil {
		return "", nil, err
	}
	var hashes []string
	for _, h := range auditPath(l.leaves, int(index)) {
		hashes = append(hashes, hex.EncodeToString(h))
	}
	rootHash, checkpoint := hex.EncodeToString(root), string(point)
	return hex.EncodeToString(hash), &models.LogEntryAnon{
		Body: text, IntegratedTime: &when, LogIndex: &index, LogID: &logID,
		Verification: &models.LogEntryAnonVerification{
			SignedEntryTimestamp: set,
			InclusionProof: &models.InclusionProof{
				Checkpoint: &checkpoint, Hashes: hashes, LogIndex: &index, RootHash: &rootHash, TreeSize: &size,
			},
		},
	}, nil
}

func leafHash(body []byte) []byte {
	sum := sha256.Sum256(append([]byte{0}, body...))
	return sum[:]
}

// largestPowerBelow returns the largest power of two below n.
func largestPowerBelow(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

// treeHash is MTH of RFC 6962, 2.1.
func treeHash(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := largestPowerBelow(len(leaves))
	sum := sha256.Sum256(append(append([]byte{1}, treeHash(leaves[:k])...), treeHash(leaves[k:])...))
	return sum[:]
}

// auditPath is PATH of RFC 6962, 2.1.1.
func auditPath(leaves [][]byte, m int) [][]byte {
	if len(leaves) == 1 {
		return nil
	}
	k := largestPowerBelow(len(leaves))
	if m < k {
		return append(auditPath(leaves[:k], m), treeHash(leaves[k:]))
	}
	return append(auditPath(leaves[k:], m-k), treeHash(leaves[:k]))
}
