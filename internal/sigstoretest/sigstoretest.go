// Package sigstoretest is a Sigstore of your own on the loopback, for tests: a certificate
// authority with Fulcio's API, a transparency log with Rekor's, and a timestamp authority (RFC
// 3161). They issue, log and stamp for real, in memory, and at any time that a test sets.
package sigstoretest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
)

// Sigstore is one that runs.
type Sigstore struct {
	// URL is Fulcio's and Rekor's, Timestamp that of the timestamp authority.
	URL, Timestamp string

	t  T
	mu sync.Mutex
	// clock is what time it is; the real one's when zero.
	clock time.Time

	authority, stamping certificateChain
	stamper             *x509.Certificate
	stamperKey          *ecdsa.PrivateKey
	log                 merkleLog
	requests            int
}

// T is what a test or a script is to this package.
type T interface {
	Helper()
	Fatal(args ...any)
	Cleanup(func())
}

// certificateChain is a root with an intermediate.
type certificateChain struct {
	root, intermediate *x509.Certificate
	key                *ecdsa.PrivateKey
}

// StartSigstore runs one until the test ends.
func StartSigstore(t T) *Sigstore {
	t.Helper()
	s := &Sigstore{t: t, authority: newChain(t, "certificates"), stamping: newChain(t, "timestamps")}
	s.stamperKey = newKey(t)
	s.stamper = s.issueFrom(s.stamping, &x509.Certificate{
		Subject:   pkix.Name{CommonName: "timestamp authority"},
		NotBefore: yearsFromNow(-10), NotAfter: yearsFromNow(10),
		KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{
			// The extended key usage of a timestamp authority is critical (RFC 3161, 2.3).
			Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true,
			Value: []byte{0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08},
		}},
	}, s.stamperKey.Public())
	s.log.key = newKey(t)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/signingCert", s.signingCert)
	mux.HandleFunc("POST /api/v1/signingCert", s.signingCertV1)
	mux.HandleFunc("POST /api/v1/log/entries", s.addEntry)
	mux.HandleFunc("GET /api/v1/log/publicKey", s.logKey)
	mux.HandleFunc("POST /timestamp", s.serveTimestamp)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests++
		s.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.URL, s.Timestamp = server.URL, server.URL+"/timestamp"
	return s
}

// Requests returns how often anyone asked for anything.
func (s *Sigstore) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// SetTime stops the clock of all services there; the zero time lets it go on.
func (s *Sigstore) SetTime(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = t
}

func (s *Sigstore) currentTime() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clock.IsZero() {
		return time.Now()
	}
	return s.clock
}

// Token returns an OpenID Connect token, of an issuer that this Fulcio believes.
func (s *Sigstore) Token(issuer, subject string) string {
	claims := map[string]any{
		"iss": issuer, "aud": "sigstore", "sub": subject,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	if strings.Contains(subject, "@") {
		claims["email"], claims["email_verified"] = subject, true
	}
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			s.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	// cosign reads no token without an algorithm; who checks the signature is Fulcio, if anyone.
	return part(map[string]string{"alg": "RS256"}) + "." + part(claims) + "." + part("signature")
}

// IssueCertificate returns a certificate for code signing, as a private PKI gives it, as PEM.
func (s *Sigstore) IssueCertificate(subject string, key crypto.PublicKey, from, until time.Time) []byte {
	return toPEM(s.issueFrom(s.authority, leafTemplate("", subject, from, until), key))
}

// IssueChangedCertificate returns a certificate as IssueCertificate does, valid for an hour before and after, with
// what change makes of it.
func (s *Sigstore) IssueChangedCertificate(subject string, key crypto.PublicKey, change func(*x509.Certificate)) []byte {
	template := leafTemplate("", subject, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	change(template)
	return toPEM(s.issueFrom(s.authority, template, key))
}

// Authorities returns the root and the intermediate that certificates come from, as PEM.
func (s *Sigstore) Authorities() []byte {
	return append(toPEM(s.authority.root), toPEM(s.authority.intermediate)...)
}

// Intermediate returns the certificate that issued the leaves, as PEM.
func (s *Sigstore) Intermediate() []byte { return toPEM(s.authority.intermediate) }

// TimestampAuthorities returns the certificates of the timestamp authority, as PEM.
func (s *Sigstore) TimestampAuthorities() []byte {
	return append(append(toPEM(s.stamper), toPEM(s.stamping.intermediate)...), toPEM(s.stamping.root)...)
}

// LogID returns the id of the log.
func (s *Sigstore) LogID() string { return keyID(s.t, s.log.key.Public()) }

// LogKey returns the public key of the log, as PEM.
func (s *Sigstore) LogKey() []byte {
	der, err := x509.MarshalPKIXPublicKey(s.log.key.Public())
	if err != nil {
		s.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// Parts says what a trusted root leaves out.
type Parts struct {
	NoLog, NoTimestamp bool
	// CTLog adds a log of certificates, which this Fulcio does not write to.
	CTLog bool
}

// TrustedRoot returns the trusted root, as JSON.
func (s *Sigstore) TrustedRoot(parts Parts) []byte {
	s.t.Helper()
	logs, ctLogs := map[string]*root.TransparencyLog{}, map[string]*root.TransparencyLog{}
	id, err := hex.DecodeString(s.LogID())
	if err != nil {
		s.t.Fatal(err)
	}
	log := &root.TransparencyLog{
		BaseURL: s.URL, ID: id, ValidityPeriodStart: yearsFromNow(-10), HashFunc: crypto.SHA256,
		PublicKey: s.log.key.Public(), SignatureHashFunc: crypto.SHA256,
	}
	if !parts.NoLog {
		logs[s.LogID()] = log
	}
	if parts.CTLog {
		ctLogs[s.LogID()] = log
	}
	var stamps []root.TimestampingAuthority
	if !parts.NoTimestamp {
		stamps = append(stamps, &root.SigstoreTimestampingAuthority{
			URI: s.Timestamp, Root: s.stamping.root, Intermediates: []*x509.Certificate{s.stamping.intermediate}, Leaf: s.stamper,
			ValidityPeriodStart: yearsFromNow(-10),
		})
	}
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01, []root.CertificateAuthority{&root.FulcioCertificateAuthority{
		URI: s.URL, Root: s.authority.root, Intermediates: []*x509.Certificate{s.authority.intermediate}, ValidityPeriodStart: yearsFromNow(-10),
	}}, ctLogs, stamps, logs)
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := r.MarshalJSON()
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func yearsFromNow(n int) time.Time { return time.Now().AddDate(n, 0, 0) }

func newKey(t T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyID(t T, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func newChain(t T, name string) certificateChain {
	t.Helper()
	rootKey := newKey(t)
	c := certificateChain{key: newKey(t)}
	usage := []x509.ExtKeyUsage(nil)
	ca := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: randomSerial(t), Subject: pkix.Name{Organization: []string{"test"}, CommonName: name},
			NotBefore: yearsFromNow(-10), NotAfter: yearsFromNow(10), IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ExtKeyUsage: usage,
		}
	}
	template := ca(name + " root")
	c.root = createCertificate(t, template, template, rootKey.Public(), rootKey)
	// Those who sign have an intermediate whose usage is that of its leaves.
	usage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	if name == "timestamps" {
		usage = []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}
	}
	c.intermediate = createCertificate(t, ca(name+" intermediate"), c.root, c.key.Public(), rootKey)
	return c
}

func createCertificate(t T, template, parent *x509.Certificate, public crypto.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func randomSerial(t T) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *Sigstore) issueFrom(by certificateChain, template *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	template.SerialNumber = randomSerial(s.t)
	return createCertificate(s.t, template, by.intermediate, key, by.key)
}

// leafTemplate returns a certificate for code signing by someone that an issuer vouches for, if there is one.
func leafTemplate(issuer, subject string, from, until time.Time) *x509.Certificate {
	c := &x509.Certificate{
		NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if u, err := url.Parse(subject); err == nil && u.Scheme != "" {
		c.URIs = []*url.URL{u}
	} else {
		c.EmailAddresses = []string{subject}
	}
	if issuer != "" {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(issuer)}}
	}
	return c
}

func toPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
