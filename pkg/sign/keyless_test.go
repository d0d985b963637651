package sign_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"krtpkg.dev/krtpkg/internal/sigstoretest"
	"krtpkg.dev/krtpkg/pkg/sign"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
)

const (
	issuer  = "https://ci.example"
	subject = "https://ci.example/krt/release.yaml@refs/heads/main"
)

// keyless returns a signer with a certificate of Fulcio.
func keyless(t *testing.T, s *sigstoretest.Sigstore, subject string) *sign.Signer {
	t.Helper()
	signer, err := sign.NewKeylessSigner(t.Context(), s.URL, s.Token(issuer, subject))
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func trustedRoot(t *testing.T, s *sigstoretest.Sigstore, parts sigstoretest.Parts) *sign.TrustedRoot {
	t.Helper()
	r, err := sign.LoadTrustedRoot(s.TrustedRoot(parts))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func privateRoot(t *testing.T, authorities, timestamps []byte) *sign.TrustedRoot {
	t.Helper()
	r, err := sign.LoadCertificates(authorities, timestamps)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ci returns the identity that the tests sign as.
func ci() *sign.Identity { return &sign.Identity{Subject: subject, Issuer: issuer} }

// both returns the proofs of a log and of a timestamp authority.
func both(s *sigstoretest.Sigstore) sign.Proofs {
	return sign.Proofs{Log: s.URL, Timestamp: s.Timestamp}
}

func TestKeyless(t *testing.T) {
	eachStore(t, func(t *testing.T, store oras.GraphTarget) {
		s := sigstoretest.StartSigstore(t)
		root := newRoot(t, store, "edge")
		attach(t, store, root, sign.SignOptions{Signer: keyless(t, s, subject), Proofs: both(s), Annotations: map[string]string{"stage": "prod"}})
		before := s.Requests()
		res, err := sign.Verify(t.Context(), store, root, sign.Policy{Authorities: []sign.Authority{{
			Name: "ci", Identity: ci(), Roots: trustedRoot(t, s, sigstoretest.Parts{}),
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if n := s.Requests() - before; n != 0 {
			t.Errorf("verifying asked Sigstore %d times", n)
		}
		if len(res.Verified) != 2 || len(res.Rejected) != 0 {
			t.Fatalf("result %+v", res)
		}
		for _, v := range res.Verified {
			if v.Authority != "ci" || v.Certificate == nil || v.Certificate.Subject != subject || v.Certificate.Issuer != issuer {
				t.Errorf("signed by %+v", v)
			}
			if len(v.Times) != 2 || len(v.Log) != 1 || v.Log[0].LogID != s.LogID() || v.Annotations["stage"] != "prod" {
				t.Errorf("proofs of %+v", v)
			}
		}
	})
}

// case of a signature that comes with a certificate or with proofs, and what a policy makes
// of it.
type proven struct {
	// sign signs root.
	sign func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor)
	// trusts is who is trusted.
	trusts func(t *testing.T, s *sigstoretest.Sigstore) sign.Authority
	// want is in the message of the refusal; accepted when empty.
	want string
}

// bundleBy signs in the Bundle form with proofs.
func bundleBy(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, by *sign.Signer, p sign.Proofs) {
	t.Helper()
	attach(t, store, root, sign.SignOptions{Signer: by, Proofs: p, Forms: []sign.Form{sign.Bundle}})
}

func byCI(parts sigstoretest.Parts, change func(*sign.Authority)) func(*testing.T, *sigstoretest.Sigstore) sign.Authority {
	return func(t *testing.T, s *sigstoretest.Sigstore) sign.Authority {
		a := sign.Authority{Name: "ci", Identity: ci(), Roots: trustedRoot(t, s, parts)}
		if change != nil {
			change(&a)
		}
		return a
	}
}

func byKey(change func(*testing.T, *sigstoretest.Sigstore, *sign.Authority)) func(*testing.T, *sigstoretest.Sigstore) sign.Authority {
	return func(t *testing.T, s *sigstoretest.Sigstore) sign.Authority {
		a := sign.Authority{Name: "release", Key: key(t, "cosign"), Roots: trustedRoot(t, s, sigstoretest.Parts{})}
		change(t, s, &a)
		return a
	}
}

// byPKI trusts the private PKI, with its timestamp authority or not.
func byPKI(stamps bool) func(*testing.T, *sigstoretest.Sigstore) sign.Authority {
	return func(t *testing.T, s *sigstoretest.Sigstore) sign.Authority {
		var timestamps []byte
		if stamps {
			timestamps = s.TimestampAuthorities()
		}
		return sign.Authority{Identity: &sign.Identity{Subject: "release@krt.example"}, Roots: privateRoot(t, s.Authorities(), timestamps)}
	}
}

// withPKI signs with a certificate of the private PKI that is good from and until so many
// hours from now, at some hour.
func withPKI(from, until, at int, p func(*sigstoretest.Sigstore) sign.Proofs) func(*testing.T, *sigstoretest.Sigstore, oras.GraphTarget, ocispec.Descriptor) {
	return func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		by := signer(t, "p256")
		certified, err := by.WithCertificate(s.IssueCertificate("release@krt.example", publicKey(t, "p256"), hours(from), hours(until)), s.Intermediate())
		if err != nil {
			t.Fatal(err)
		}
		s.SetTime(hours(at))
		bundleBy(t, store, root, certified, p(s))
	}
}

func none(*sigstoretest.Sigstore) sign.Proofs { return sign.Proofs{} }

func stamp(s *sigstoretest.Sigstore) sign.Proofs { return sign.Proofs{Timestamp: s.Timestamp} }

func hours(n int) time.Time { return time.Now().Add(time.Duration(n) * time.Hour) }

// byThem signs as ci at some hour with proofs.
func byThem(at int, p func(*sigstoretest.Sigstore) sign.Proofs) func(*testing.T, *sigstoretest.Sigstore, oras.GraphTarget, ocispec.Descriptor) {
	return func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		s.SetTime(hours(at))
		bundleBy(t, store, root, keyless(t, s, subject), p(s))
	}
}

// withKey signs with cosign's key at some hour with proofs.
func withKey(at int, p func(*sigstoretest.Sigstore) sign.Proofs) func(*testing.T, *sigstoretest.Sigstore, oras.GraphTarget, ocispec.Descriptor) {
	return func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		s.SetTime(hours(at))
		bundleBy(t, store, root, signer(t, "cosign"), p(s))
	}
}

func TestProofs(t *testing.T) {
	for name, c := range provenCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sigstoretest.StartSigstore(t)
			store := memory.New()
			root := newRoot(t, store, "edge")
			c.sign(t, s, store, root)
			res, err := sign.Verify(t.Context(), store, root, sign.Policy{Authorities: []sign.Authority{c.trusts(t, s)}})
			switch {
			case c.want != "":
				checkGlob(t, err, c.want)
			case err != nil:
				t.Fatal(err)
			case len(res.Verified) != 1:
				t.Errorf("result %+v", res)
			}
		})
	}
}

var provenCases = map[string]proven{
	"by the identity":           {byThem(0, both), byCI(sigstoretest.Parts{}, nil), ""},
	"expired, with a timestamp": {byThem(-9000, both), byCI(sigstoretest.Parts{}, nil), ""},
	"a log, and no timestamps":  {byThem(-9000, func(s *sigstoretest.Sigstore) sign.Proofs { return sign.Proofs{Log: s.URL} }), byCI(sigstoretest.Parts{NoTimestamp: true}, nil), ""},
	"a timestamp, and no log":   {byThem(-9000, stamp), byCI(sigstoretest.Parts{NoLog: true}, nil), ""},
	"issuer and subject by pattern": {byThem(0, both), byCI(sigstoretest.Parts{}, func(a *sign.Authority) {
		a.Identity = &sign.Identity{SubjectRegExp: regexp.MustCompile(`https://ci\.example/krt/.*`), IssuerRegExp: regexp.MustCompile(`https://ci\..*`)}
	}), ""},
	"wrong issuer": {byThem(0, both), byCI(sigstoretest.Parts{}, func(a *sign.Authority) { a.Identity.Issuer = "https://other.example" }),
		`(bundle format): signed by "` + subject + `" (issuer "` + issuer + `"), want "` + subject + `", issued by https://other.example`},
	"wrong identity": {byThem(0, both), byCI(sigstoretest.Parts{}, func(a *sign.Authority) { a.Identity.Subject = "someone@krt.example" }),
		`(bundle format): signed by "` + subject + `" (issuer "` + issuer + `"), want "someone@krt.example", issued by ` + issuer},
	"a pattern that matches within": {byThem(0, both), byCI(sigstoretest.Parts{}, func(a *sign.Authority) {
		a.Identity = &sign.Identity{SubjectRegExp: regexp.MustCompile(`ci\.example/krt`), Issuer: issuer}
	}), "signed by"},
	"no proof":                                                     {byThem(0, none), byCI(sigstoretest.Parts{}, nil), "no entry in a trusted transparency log"},
	"a timestamp where a log is trusted":                           {byThem(0, stamp), byCI(sigstoretest.Parts{}, nil), "no entry in a trusted transparency log"},
	"no timestamp where only those are trusted":                    {byThem(0, none), byCI(sigstoretest.Parts{NoLog: true}, nil), "no proof of the signing time"},
	"a certificate log is trusted, and the certificate is in none": {byThem(0, both), byCI(sigstoretest.Parts{CTLog: true}, nil), "signed certificate timestamp"},
	"stamped after the certificate's end": {func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		by := keyless(t, s, subject)
		s.SetTime(hours(1))
		bundleBy(t, store, root, by, stamp(s))
	}, byCI(sigstoretest.Parts{NoLog: true}, nil), "certificate of " + subject + ": x509: certificate has expired or is not yet valid"},
	"logged after the certificate's end": {func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		by := keyless(t, s, subject)
		s.SetTime(hours(1))
		bundleBy(t, store, root, by, both(s))
	}, byCI(sigstoretest.Parts{}, nil), "transparency log: integrated time outside certificate validity"},
	"a certificate of another authority": {func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		bundleBy(t, store, root, keyless(t, sigstoretest.StartSigstore(t), subject), both(s))
	}, byCI(sigstoretest.Parts{}, nil), "certificate of " + subject + ": x509: certificate signed by unknown authority"},
	"a log of another Sigstore": {func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		bundleBy(t, store, root, keyless(t, s, subject), both(sigstoretest.StartSigstore(t)))
	}, byCI(sigstoretest.Parts{}, nil), "no entry in a trusted transparency log"},
	"a timestamp of another Sigstore": {func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		bundleBy(t, store, root, keyless(t, s, subject), sign.Proofs{Log: s.URL, Timestamp: sigstoretest.StartSigstore(t).Timestamp})
	}, byCI(sigstoretest.Parts{}, nil), "timestamp: unable to verify signed timestamps"},
	"a key where an identity is trusted":   {withKey(0, none), byCI(sigstoretest.Parts{}, nil), "signed with a key, but only certificates are trusted"},
	"a certificate where a key is trusted": {byThem(0, both), byKey(func(*testing.T, *sigstoretest.Sigstore, *sign.Authority) {}), "signed with a certificate, but only keys are trusted"},

	"log entry of another signature": {moved("tlogEntries"), byCI(sigstoretest.Parts{}, nil), "transparency log: transparency log signature does not match"},
	"timestamp of another signature": {moved("timestampVerificationData"), byCI(sigstoretest.Parts{}, nil), "timestamp: unable to verify signed timestamps"},
	"certificate of another":         {moved("certificate"), byCI(sigstoretest.Parts{NoLog: true, NoTimestamp: true}, nil), "failed to verify signature"},
	"entry's promise changed": {rewritten(func(e map[string]any) {
		e["inclusionPromise"].(map[string]any)["signedEntryTimestamp"] = flipped(e["inclusionPromise"].(map[string]any)["signedEntryTimestamp"])
	}), byCI(sigstoretest.Parts{}, nil), "transparency log: not enough verified log entries"},
	"entry's time changed": {rewritten(func(e map[string]any) { e["integratedTime"] = "1700000000" }), byCI(sigstoretest.Parts{}, nil), "transparency log: "},
	"entry's proof changed": {rewritten(func(e map[string]any) {
		p := e["inclusionProof"].(map[string]any)
		p["rootHash"] = flipped(p["rootHash"])
	}), byCI(sigstoretest.Parts{}, nil), "transparency log: "},
	"entry's proof left out": {rewritten(func(e map[string]any) { delete(e, "inclusionProof") }), byCI(sigstoretest.Parts{}, nil), "inclusion proof missing in bundle"},
	"entry's body changed": {rewritten(func(e map[string]any) {
		body, _ := base64.StdEncoding.DecodeString(e["canonicalizedBody"].(string))
		e["canonicalizedBody"] = base64.StdEncoding.EncodeToString([]byte(strings.Replace(string(body), "sha256", "sha512", 1)))
	}), byCI(sigstoretest.Parts{}, nil), "(bundle format): "},

	"private PKI":                          {withPKI(-1, 1, 0, none), byPKI(false), ""},
	"private PKI, expired":                 {withPKI(-9, -8, -8, none), byPKI(false), "certificate of release@krt.example: x509: certificate has expired"},
	"private PKI, expired, with timestamp": {withPKI(-9, -7, -8, stamp), byPKI(true), ""},
	"private PKI, stamped after the end":   {withPKI(-9, -8, -7, stamp), byPKI(true), "certificate of release@krt.example: x509: certificate has expired"},
	"private PKI, stamp not trusted":       {withPKI(-9, -7, -8, stamp), byPKI(false), "certificate of release@krt.example: x509: certificate has expired"},
	"private PKI, not yet":                 {withPKI(1, 2, 0, none), byPKI(false), "certificate has expired or is not yet valid"},
	"private PKI, other subject": {withPKI(-1, 1, 0, none), func(t *testing.T, s *sigstoretest.Sigstore) sign.Authority {
		return sign.Authority{Identity: &sign.Identity{Subject: "boss@krt.example"}, Roots: privateRoot(t, s.Authorities(), nil)}
	}, `signed by "release@krt.example" (issuer ""), want "boss@krt.example", issued by anyone`},

	"key, proofs not asked for": {withKey(0, both), byKey(func(*testing.T, *sigstoretest.Sigstore, *sign.Authority) {}), ""},
	"key with a log":            {withKey(0, both), byKey(func(_ *testing.T, _ *sigstoretest.Sigstore, a *sign.Authority) { a.RequireLog = true }), ""},
	"key without a log": {withKey(0, none), byKey(func(_ *testing.T, _ *sigstoretest.Sigstore, a *sign.Authority) { a.RequireLog = true }),
		"no entry in a trusted transparency log"},
	"key with a timestamp": {withKey(0, stamp), byKey(func(_ *testing.T, _ *sigstoretest.Sigstore, a *sign.Authority) { a.RequireTimestamp = true }), ""},
	"key without a timestamp": {withKey(0, none), byKey(func(_ *testing.T, _ *sigstoretest.Sigstore, a *sign.Authority) { a.RequireTimestamp = true }),
		"no proof of the signing time"},
	"key with a timestamp of a stranger": {func(t *testing.T, _ *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		bundleBy(t, store, root, signer(t, "cosign"), stamp(sigstoretest.StartSigstore(t)))
	}, byKey(func(*testing.T, *sigstoretest.Sigstore, *sign.Authority) {}), "timestamp: unable to verify signed timestamps"},
	"retired key, signed while it counted": {withKey(-48, stamp), byKey(func(_ *testing.T, _ *sigstoretest.Sigstore, a *sign.Authority) { a.NotAfter = hours(-24) }), ""},
	"retired key, signed since": {withKey(-12, stamp), byKey(func(_ *testing.T, _ *sigstoretest.Sigstore, a *sign.Authority) { a.NotAfter = hours(-24) }),
		"signed at *: release is trusted only until"},
	"retired key, no proof of time": {withKey(-48, none), byKey(func(_ *testing.T, _ *sigstoretest.Sigstore, a *sign.Authority) { a.NotAfter = hours(-24) }),
		"no proof of the signing time: release is trusted only until"},
	"key that does not count yet": {withKey(0, none), byKey(func(_ *testing.T, _ *sigstoretest.Sigstore, a *sign.Authority) { a.NotBefore = hours(24) }),
		"release is trusted only from"},
}

func flipped(v any) string {
	b, _ := base64.StdEncoding.DecodeString(v.(string))
	return base64.StdEncoding.EncodeToString(flipLast(b))
}

// bundled signs some root as ci, and gives the bundle as JSON.
func bundled(t *testing.T, s *sigstoretest.Sigstore, root string) (m ocispec.Manifest, b map[string]any) {
	t.Helper()
	store := memory.New()
	desc := newRoot(t, store, root)
	bundleBy(t, store, desc, keyless(t, s, subject), both(s))
	m = referrer(t, store, desc)
	fetchJSON(t, store, m.Layers[0], &b)
	return m, b
}

// attachBundle attaches a bundle that is JSON.
func attachBundle(t *testing.T, store oras.GraphTarget, m ocispec.Manifest, root ocispec.Descriptor, b map[string]any) {
	t.Helper()
	m.Subject, m.Config = &root, put(t, store, ocispec.MediaTypeEmptyJSON, []byte("{}"))
	m.Layers[0] = putJSON(t, store, bundleType, b)
	putJSON(t, store, m.MediaType, m)
}

// moved signs as ci with one part of the material from another signature.
func moved(part string) func(*testing.T, *sigstoretest.Sigstore, oras.GraphTarget, ocispec.Descriptor) {
	return func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		_, other := bundled(t, s, "core")
		m, b := bundled(t, s, "edge")
		b["verificationMaterial"].(map[string]any)[part] = other["verificationMaterial"].(map[string]any)[part]
		attachBundle(t, store, m, root, b)
	}
}

// rewritten signs as ci with a changed log entry.
func rewritten(change func(entry map[string]any)) func(*testing.T, *sigstoretest.Sigstore, oras.GraphTarget, ocispec.Descriptor) {
	return func(t *testing.T, s *sigstoretest.Sigstore, store oras.GraphTarget, root ocispec.Descriptor) {
		m, b := bundled(t, s, "edge")
		change(b["verificationMaterial"].(map[string]any)["tlogEntries"].([]any)[0].(map[string]any))
		attachBundle(t, store, m, root, b)
	}
}

// A certificate for something else than signatures, and one with a name of one type that reads like one of
// another, neither signs nor counts.
func TestCertificatesForOtherUses(t *testing.T) {
	t.Parallel()
	s := sigstoretest.StartSigstore(t)
	named := func(uris, emails []string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs, c.EmailAddresses = nil, emails
			for _, u := range uris {
				c.URIs = append(c.URIs, &url.URL{Path: u})
			}
		}
	}
	usage := func(u x509.KeyUsage) func(*x509.Certificate) { return func(c *x509.Certificate) { c.KeyUsage = u } }
	for name, c := range map[string]struct {
		change  func(*x509.Certificate)
		subject string
		want    string
	}{
		"digital signatures":       {usage(x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment), "release@krt.example", ""},
		"no key usage":             {usage(0), "release@krt.example", ""},
		"encipherment alone":       {usage(x509.KeyUsageKeyEncipherment), "release@krt.example", "certificate of release@krt.example: its key usage does not include digital signatures"},
		"key agreement alone":      {usage(x509.KeyUsageKeyAgreement), "release@krt.example", "its key usage does not include digital signatures"},
		"URI like an address":      {named([]string{"release@krt.example"}, nil), "release@krt.example", "certificate of release@krt.example: the URI in it has no scheme"},
		"URI before an address":    {named([]string{"release@krt.example"}, []string{"other@krt.example"}), "release@krt.example", "the URI in it has no scheme"},
		"address like a URI":       {named(nil, []string{"https://ci.example/krt@x"}), "https://ci.example/krt@x", "the e-mail address in it is not one"},
		"address like a SPIFFE id": {named(nil, []string{"spiffe:release@krt.example"}), "spiffe:release@krt.example", "the e-mail address in it is not one"},
	} {
		public := publicKey(t, "p256")
		certificate := s.IssueChangedCertificate("release@krt.example", public, c.change)
		by, err := signer(t, "p256").WithCertificate(certificate, s.Intermediate())
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: signs: got %v, want %s", name, err, c.want)
			}
			// Someone else's program signs with it all the same.
			by, err = signer(t, "p256").WithCertificate(s.IssueCertificate(c.subject, public, hours(-1), hours(1)), s.Intermediate())
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		store := memory.New()
		root := newRoot(t, store, "edge")
		made := memory.New()
		bundleBy(t, made, newRoot(t, made, "edge"), by, sign.Proofs{})
		var b map[string]any
		m := referrer(t, made, root)
		fetchJSON(t, made, m.Layers[0], &b)
		block, _ := pem.Decode(certificate)
		b["verificationMaterial"].(map[string]any)["certificate"] = map[string]any{"rawBytes": base64.StdEncoding.EncodeToString(block.Bytes)}
		attachBundle(t, store, m, root, b)
		_, err = sign.Verify(t.Context(), store, root, sign.Policy{Authorities: []sign.Authority{
			{Identity: &sign.Identity{Subject: c.subject}, Roots: privateRoot(t, s.Authorities(), nil)},
		}})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: counts: got %v, want %s", name, err, c.want)
		}
	}
}

// Who signs with a certificate that is not valid now makes what can never be verified.
func TestCheckTime(t *testing.T) {
	t.Parallel()
	s := sigstoretest.StartSigstore(t)
	for _, c := range []struct {
		from, until int
		want        string
	}{{-1, 1, ""}, {-48, -24, "the certificate of release@krt.example expired at "}, {24, 48, "the certificate of release@krt.example is not valid before "}} {
		by, err := signer(t, "p256").WithCertificate(s.IssueCertificate("release@krt.example", publicKey(t, "p256"), hours(c.from), hours(c.until)), s.Intermediate())
		if err != nil {
			t.Fatal(err)
		}
		if err := by.CheckTime(time.Now()); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if err := signer(t, "p256").CheckTime(time.Now()); err != nil {
		t.Errorf("without a certificate: %v", err)
	}
}

// Threshold: so many of those who are trusted, each counted once.
func TestThreshold(t *testing.T) {
	store := memory.New()
	root := newRoot(t, store, "edge")
	policy := sign.Policy{Threshold: 2, Authorities: []sign.Authority{
		{Name: "build", Key: key(t, "cosign")}, {Name: "release", Key: key(t, "p256")}, {Name: "security", Key: key(t, "rsa")},
	}}
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "cosign")})
	_, err := sign.Verify(t.Context(), store, root, policy)
	checkGlob(t, err, root.Digest.String()+": signed by build, but 2 signers are required")
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "ed25519")})
	_, err = sign.Verify(t.Context(), store, root, policy)
	checkGlob(t, err, "signed by build, but 2 signers are required; not counted: ")
	attach(t, store, root, sign.SignOptions{Signer: signer(t, "rsa")})
	res, err := sign.Verify(t.Context(), store, root, policy)
	if err != nil || strings.Join(res.Authorities(), " ") != "build security" {
		t.Fatalf("result %+v, %v", res, err)
	}
	policy.Revoked = []string{key(t, "rsa").ID()}
	_, err = sign.Verify(t.Context(), store, root, policy)
	checkGlob(t, err, "signed by build, but 2 signers are required; not counted: *signed with key "+key(t, "rsa").ID()+", which is revoked")
}

// Attestations are verified like signatures, and are none.
func TestAttest(t *testing.T) {
	eachStore(t, func(t *testing.T, store oras.GraphTarget) {
		root := newRoot(t, store, "edge")
		statements := []sign.Statement{
			{Type: "https://slsa.dev/provenance/v1", Predicate: json.RawMessage(`{"buildDefinition":{}}`)},
			{Type: "https://krt.example/tests/v1", Predicate: json.RawMessage(`{"passed":12}`)},
		}
		for i := range 2 { // the second time nothing is written
			attached, err := sign.Attest(t.Context(), store, root, statements, sign.SignOptions{Signer: signer(t, "cosign")})
			if err != nil {
				t.Fatal(err)
			}
			if len(attached) != 4 || attached[3].Existing != (i == 1) {
				t.Errorf("attached %+v", attached)
			}
		}
		if _, err := sign.Verify(t.Context(), store, root, trust(t, key(t, "cosign"))); err == nil {
			t.Error("attestations passed for signatures")
		}
		attach(t, store, root, sign.SignOptions{Signer: signer(t, "cosign")})
		if _, err := sign.Attest(t.Context(), store, root, statements[:1], sign.SignOptions{Signer: signer(t, "p256")}); err != nil {
			t.Fatal(err)
		}
		res, err := sign.Verify(t.Context(), store, root, trust(t, key(t, "cosign")))
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Verified) != 2 || len(res.Attestations) != 4 || len(res.Rejected) != 2 {
			t.Fatalf("result %+v", res)
		}
		seen := map[string]int{}
		for _, a := range res.Attestations {
			seen[a.PredicateType+string(a.Predicate)]++
		}
		if seen[`https://krt.example/tests/v1{"passed":12}`] != 2 || seen[`https://slsa.dev/provenance/v1{"buildDefinition":{}}`] != 2 {
			t.Errorf("attested %v", seen)
		}
	})
	_, err := sign.Attest(t.Context(), memory.New(), newRoot(t, memory.New(), "edge"), []sign.Statement{{Type: "https://sigstore.dev/cosign/sign/v1"}}, sign.SignOptions{Signer: signer(t, "cosign")})
	checkError(t, err, "is reserved for signatures")
}

// publicKey returns the public key of a kind.
func publicKey(t *testing.T, kind string) any {
	t.Helper()
	block, _ := pem.Decode(pairs()[kind].public)
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// A timestamp of an attestation in the Legacy form is of the whole envelope, and is held to that.
func TestLegacyAttestationStamps(t *testing.T) {
	const stampNote = "dev.sigstore.cosign/rfc3161timestamp"
	s := sigstoretest.StartSigstore(t)
	by, err := signer(t, "p256").WithCertificate(s.IssueCertificate("release@krt.example", publicKey(t, "p256"), hours(-9), hours(-7)), s.Intermediate())
	if err != nil {
		t.Fatal(err)
	}
	attest := func(store oras.GraphTarget, root ocispec.Descriptor, at int, from *sigstoretest.Sigstore) ocispec.Manifest {
		from.SetTime(hours(at))
		proofs := sign.Proofs{Timestamp: from.Timestamp}
		options := sign.SignOptions{Signer: by, Proofs: proofs, Forms: []sign.Form{sign.Legacy}}
		attach(t, store, root, options)
		if _, err := sign.Attest(t.Context(), store, root, []sign.Statement{{Type: "https://krt.example/v1", Predicate: json.RawMessage(`{}`)}}, options); err != nil {
			t.Fatal(err)
		}
		return tagged(t, store, sign.AttestationTag(root.Digest))
	}
	stranger := sigstoretest.StartSigstore(t)
	for name, c := range map[string]struct {
		change func(store oras.GraphTarget, root ocispec.Descriptor) ocispec.Manifest
		want   string
	}{
		"stamped in time": {func(store oras.GraphTarget, root ocispec.Descriptor) ocispec.Manifest {
			return attest(store, root, -8, s)
		}, ""},
		"stamped too late": {func(store oras.GraphTarget, root ocispec.Descriptor) ocispec.Manifest {
			m := attest(store, root, -8, s)
			late := memory.New()
			m.Layers = attest(late, newRoot(t, late, "edge"), -6, s).Layers
			put(t, store, m.Layers[0].MediaType, fetch(t, late, m.Layers[0]))
			return m
		}, "certificate of release@krt.example: x509: certificate has expired"},
		"stamp of another attestation": {func(store oras.GraphTarget, root ocispec.Descriptor) ocispec.Manifest {
			m := attest(store, root, -8, s)
			other := memory.New()
			m.Layers[0].Annotations[stampNote] = attest(other, newRoot(t, other, "core"), -8, s).Layers[0].Annotations[stampNote]
			return m
		}, "timestamp: unable to verify signed timestamps"},
		"stamp of a stranger": {func(store oras.GraphTarget, root ocispec.Descriptor) ocispec.Manifest {
			m := attest(store, root, -8, s)
			other := memory.New()
			m.Layers[0].Annotations[stampNote] = attest(other, newRoot(t, other, "edge"), -8, stranger).Layers[0].Annotations[stampNote]
			return m
		}, "timestamp: unable to verify signed timestamps"},
		"no stamp": {func(store oras.GraphTarget, root ocispec.Descriptor) ocispec.Manifest {
			m := attest(store, root, -8, s)
			delete(m.Layers[0].Annotations, stampNote)
			return m
		}, "certificate of release@krt.example: x509: certificate has expired"},
	} {
		t.Run(name, func(t *testing.T) {
			store := memory.New()
			root := newRoot(t, store, "edge")
			m := c.change(store, root)
			if err := store.Tag(t.Context(), putJSON(t, store, m.MediaType, m), sign.AttestationTag(root.Digest)); err != nil {
				t.Fatal(err)
			}
			res, err := sign.Verify(t.Context(), store, root, sign.Policy{Authorities: []sign.Authority{byPKI(true)(t, s)}})
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				if len(res.Attestations) != 1 || len(res.Attestations[0].Times) != 1 {
					t.Errorf("result %+v", res)
				}
				return
			}
			if len(res.Attestations) != 0 || len(res.Rejected) != 1 {
				t.Fatalf("result %+v", res)
			}
			checkGlob(t, res.Rejected[0].Err, c.want)
		})
	}
}
