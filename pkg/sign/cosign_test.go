package sign_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	sigstore "github.com/sigstore/sigstore-go/pkg/root"
	"krtpkg.dev/krtpkg/internal/sigstoretest"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/sign"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
)

// Certificates, proofs and attestations between this package and cosign, both ways. The flags
// in here are those of docs/TRUST.md.

func (c cosign) name() string { return filepath.Base(c.path) }

// alone returns the program with a home for this test, which may run next to others.
func (c cosign) alone(t *testing.T) cosign {
	t.Helper()
	return cosign{c.path, t.TempDir(), map[string]string{}}
}

// check runs a command: it is to succeed if want is empty, else to fail with that.
func (c cosign) check(t *testing.T, want string, env []string, args ...[]string) {
	t.Helper()
	command := slices.Concat(args...)
	out, err := c.run(t.Context(), env, command...)
	switch {
	case want == "" && err != nil:
		t.Error(err)
	case want != "" && err == nil:
		t.Errorf("%s %s succeeded, want %q:\n%s", c.name(), strings.Join(command, " "), want, out)
	case want != "":
		checkError(t, err, want)
	}
}

// eachCosign runs f with both programs on both kinds of registry.
func eachCosign(t *testing.T, f func(t *testing.T, c cosign, repo *remote.Repository)) {
	for program, c := range cosigns(t) {
		for name, handler := range registries {
			t.Run(fmt.Sprintf("%s/%s", name, program), func(t *testing.T) {
				t.Parallel()
				f(t, c.alone(t), repository(t, serve(t, handler(t))))
			})
		}
	}
}

const (
	slsa    = "https://slsa.dev/provenance/v1"
	ownType = "https://krt.example/tests/v1"
)

// statements are of a type that cosign has a name for, and of one of our own.
func statements() []sign.Statement {
	return []sign.Statement{
		{Type: slsa, Predicate: json.RawMessage(`{"buildDefinition":{"buildType":"https://krt.example/build","externalParameters":{"tag":"1.4.0"}},"runDetails":{"builder":{"id":"https://ci.example"}}}`)},
		{Type: ownType, Predicate: json.RawMessage(`{"passed":12}`)},
	}
}

// vouch signs and attests with this package.
func vouch(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, opts sign.SignOptions) {
	t.Helper()
	attach(t, store, root, opts)
	attest(t, store, root, opts)
}

func attest(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, opts sign.SignOptions) {
	t.Helper()
	if _, err := sign.Attest(t.Context(), store, root, statements(), opts); err != nil {
		t.Fatal(err)
	}
}

var (
	verifySigs = []string{"verify"}
	verifyAtts = []string{"verify-attestation", "--type", ownType}
)

func TestCosignVerifiesOurAttestations(t *testing.T) {
	eachCosign(t, func(t *testing.T, c cosign, repo *remote.Repository) {
		for i, forms := range formSets {
			root := newRoot(t, repo, fmt.Sprint("edge", i))
			vouch(t, repo, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: forms})
			flags, image := verifyFlags(t, c, forms, "cosign")[1:], []string{named(repo, root)}
			c.check(t, "", nil, verifySigs, flags, image)
			c.check(t, "", nil, verifyAtts, flags, image)
			c.check(t, "", nil, []string{"verify-attestation", "--type", "slsaprovenance1"}, flags, image)
			c.check(t, "none of the attestations matched the predicate type", nil, []string{"verify-attestation", "--type", "vuln"}, flags, image)
			c.check(t, "accepted signatures do not match threshold", nil, verifyAtts, verifyFlags(t, c, forms, "p256")[1:], image)
		}
	})
}

func TestCosignVerifiesOurAttestingKeys(t *testing.T) {
	for program, c := range cosigns(t) {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			c, repo := c.alone(t), repository(t, serve(t, newRegistry(false)))
			for kind := range pairs() {
				for _, form := range []sign.Form{sign.Legacy, sign.Bundle} {
					root := newRoot(t, repo, kind+string(form))
					attest(t, repo, root, sign.SignOptions{Signer: signer(t, kind), Forms: []sign.Form{form}})
					c.check(t, "", nil, verifyAtts, verifyFlags(t, c, []sign.Form{form}, kind)[1:], []string{named(repo, root)})
				}
			}
		})
	}
}

// Why the documentation says to attest in the forms in which one signs: as soon as there is any
// bundle, cosign looks at nothing else.
func TestCosignMixesNoForms(t *testing.T) {
	eachCosign(t, func(t *testing.T, c cosign, repo *remote.Repository) {
		legacy, bundle := []sign.Form{sign.Legacy}, []sign.Form{sign.Bundle}
		flags := verifyFlags(t, c, bundle, "cosign")[1:]
		root := newRoot(t, repo, "edge")
		attach(t, repo, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: bundle})
		attest(t, repo, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: legacy})
		c.check(t, "none of the attestations matched the predicate type", nil, verifyAtts, flags, []string{named(repo, root)})

		root = newRoot(t, repo, "core")
		attach(t, repo, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: legacy})
		attest(t, repo, root, sign.SignOptions{Signer: signer(t, "p256"), Forms: bundle})
		c.check(t, "accepted signatures do not match threshold", nil, verifySigs, flags, []string{named(repo, root)})
	})
}

// theirAttestations are the ways in which the programs attest without a transparency log.
// Their OCI 1.1 mode is for signatures alone.
var theirAttestations = slices.DeleteFunc(slices.Clone(theirs), func(how signing) bool { return how.form == sign.Referrer })

// attest attests with cosign.
func (c cosign) attest(t *testing.T, env []string, image string, all []sign.Statement, flags ...string) {
	t.Helper()
	for i, s := range all {
		predicate := c.file(t, fmt.Sprintf("predicate%d.json", i), s.Predicate)
		c.check(t, "", env, []string{"attest", "--yes", "--type", s.Type, "--predicate", predicate}, flags, []string{image})
	}
}

// attested returns what was attested, by type.
func attested(t *testing.T, all []sign.Verified) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, a := range all {
		var predicate map[string]any
		if err := json.Unmarshal(a.Predicate, &predicate); err != nil {
			t.Fatal(err)
		}
		delete(predicate, "Timestamp") // of cosign's own type
		got[a.PredicateType] = fmt.Sprint(predicate)
	}
	return got
}

func TestVerifyCosignsAttestations(t *testing.T) {
	custom := sign.Statement{Type: "custom", Predicate: json.RawMessage(`{"built":"yes"}`)}
	facts := []sign.Verified{{PredicateType: "https://cosign.sigstore.dev/attestation/v1", Predicate: json.RawMessage(`{"Data":"{\"built\":\"yes\"}"}`)}}
	for _, s := range statements() {
		facts = append(facts, sign.Verified{PredicateType: s.Type, Predicate: s.Predicate})
	}
	want := attested(t, facts)
	eachCosign(t, func(t *testing.T, c cosign, repo *remote.Repository) {
		for i, how := range theirAttestations {
			if how.program != c.name() {
				continue
			}
			root := newRoot(t, repo, fmt.Sprint("edge", i))
			c.attest(t, how.env, named(repo, root), append(statements(), custom), append(how.flags, "--key", c.imported(t, "cosign"))...)
			attach(t, repo, root, sign.SignOptions{Signer: signer(t, "p256")})
			policy := sign.Policy{Authorities: []sign.Authority{{Key: key(t, "p256")}}, Attesters: []sign.Authority{{Key: key(t, "cosign")}}}
			res, err := sign.Verify(t.Context(), repo, root, policy)
			if err != nil {
				t.Fatal(err)
			}
			if got := attested(t, res.Attestations); !maps.Equal(got, want) || len(res.Rejected) != 0 || res.Attestations[0].Form != how.form {
				t.Errorf("%s: attested:\n %v\nwant, in form %s:\n %v\nrejected %v", how.name, got, how.form, want, res.Rejected)
			}
			res, err = sign.Verify(t.Context(), repo, root, trust(t, key(t, "p256")))
			if err != nil || len(res.Attestations) != 0 || len(res.Rejected) != 3 {
				t.Errorf("%s: with another key: %+v, %v", how.name, res, err)
			}
		}
	})
}

// maker signs with this package, and cosign verifies that with flags. The capitals stand for
// files and names.
type maker struct {
	signer func(*testing.T, *sigstoretest.Sigstore) *sign.Signer
	proofs func(*sigstoretest.Sigstore) sign.Proofs
	// flags are for all forms; pem has the flags without a trusted root, which are for the
	// Legacy form.
	flags, pem string
}

func keyMaker(t *testing.T, _ *sigstoretest.Sigstore) *sign.Signer { return signer(t, "cosign") }
func ciMaker(t *testing.T, s *sigstoretest.Sigstore) *sign.Signer  { return keyless(t, s, subject) }

// pkiMaker has a certificate for the two hours around so many from now.
func pkiMaker(from int) func(*testing.T, *sigstoretest.Sigstore) *sign.Signer {
	return func(t *testing.T, s *sigstoretest.Sigstore) *sign.Signer {
		certified, err := signer(t, "p256").WithCertificate(s.IssueCertificate("release@krt.example", publicKey(t, "p256"), hours(from-1), hours(from+1)), s.Intermediate())
		if err != nil {
			t.Fatal(err)
		}
		return certified
	}
}

func logged(s *sigstoretest.Sigstore) sign.Proofs { return sign.Proofs{Log: s.URL} }

const (
	asCI  = "--certificate-identity SUBJECT --certificate-oidc-issuer ISSUER --insecure-ignore-sct"
	asPKI = "--certificate-identity RELEASE --certificate-oidc-issuer-regexp ^$ --insecure-ignore-sct --insecure-ignore-tlog"
	roots = " --ca-roots CA --ca-intermediates INTERMEDIATES"
	noLog = " --insecure-ignore-tlog"
)

// makers sign 9000 hours ago, long before their certificates ended, but for the one that has
// no proof of that.
var makers = map[string]maker{
	"key, log":            {keyMaker, logged, "--key KEY --trusted-root ROOT", "--key KEY"},
	"key, timestamp":      {keyMaker, stamp, "--key KEY --trusted-root ROOT --use-signed-timestamps" + noLog, "--key KEY --timestamp-certificate-chain TSA" + noLog},
	"key, both":           {keyMaker, both, "--key KEY --trusted-root ROOT --use-signed-timestamps", "--key KEY --timestamp-certificate-chain TSA"},
	"identity, log":       {ciMaker, logged, asCI + " --trusted-root ROOT", asCI + roots},
	"identity, timestamp": {ciMaker, stamp, asCI + " --trusted-root ROOT --use-signed-timestamps" + noLog, asCI + noLog + roots + " --timestamp-certificate-chain TSA"},
	"identity, both":      {ciMaker, both, asCI + " --trusted-root ROOT --use-signed-timestamps", asCI + roots + " --timestamp-certificate-chain TSA"},
	"PKI":                 {pkiMaker(0), none, asPKI + " --trusted-root ROOT", asPKI + roots},
	"PKI, timestamp":      {pkiMaker(-9000), stamp, asPKI + " --trusted-root ROOT --use-signed-timestamps", asPKI + roots + " --timestamp-certificate-chain TSA"},
}

// expand puts in what the capitals stand for.
func (c cosign) expand(t *testing.T, s *sigstoretest.Sigstore, flags string, changed map[string]string) []string {
	t.Helper()
	words := map[string]string{
		"KEY": c.file(t, "cosign.pub", pairs()["cosign"].public), "ROOT": c.file(t, "root.json", s.TrustedRoot(sigstoretest.Parts{})),
		"CA":            c.file(t, "ca.pem", bytes.TrimSuffix(s.Authorities(), s.Intermediate())),
		"INTERMEDIATES": c.file(t, "intermediates.pem", s.Intermediate()), "TSA": c.file(t, "tsa.pem", s.TimestampAuthorities()),
		"SUBJECT": subject, "ISSUER": issuer, "RELEASE": "release@krt.example",
	}
	maps.Copy(words, changed)
	all := strings.Fields(flags)
	for i, word := range all {
		if to, ok := words[word]; ok {
			all[i] = to
		}
	}
	return all
}

func (m maker) certificate() bool { return strings.HasPrefix(m.flags, "--certificate") }

// fails returns what cosign says of what it cannot do, or empty.
func (m maker) fails(c cosign, command []string, forms []sign.Form, pem bool) string {
	legacy := !slices.Contains(forms, sign.Bundle)
	switch {
	case pem && !legacy:
		return "provided using --trusted-root"
	case !legacy || !m.certificate() || command[0] == "verify":
		return ""
	case !pem && c.name() == "cosign2":
		return "trusted root path currently only supported with --new-bundle-format"
	}
	return ""
}

func TestCosignVerifiesOurProofs(t *testing.T) {
	eachCosign(t, func(t *testing.T, c cosign, repo *remote.Repository) {
		s := sigstoretest.StartSigstore(t)
		env := []string{"SIGSTORE_REKOR_PUBLIC_KEY=" + c.file(t, "log.pub", s.LogKey())} // where no trusted root is
		for name, m := range makers {
			if s.SetTime(hours(-9000)); name == "PKI" {
				s.SetTime(hours(0))
			}
			for i, forms := range formSets {
				root := newRoot(t, repo, strings.ReplaceAll(fmt.Sprint(name, i), ", ", "-"))
				image := []string{named(repo, root)}
				vouch(t, repo, root, sign.SignOptions{Signer: m.signer(t, s), Forms: forms, Proofs: m.proofs(s)})
				flags := c.expand(t, s, m.flags, nil)
				c.check(t, m.fails(c, verifySigs, forms, false), nil, verifySigs, flags, image)
				c.check(t, m.fails(c, verifyAtts, forms, false), nil, verifyAtts, flags, image)
				if strings.Contains(t.Name(), "fallback") {
					continue // there it is about finding things
				}
				if i == 0 || i == 1 && m.certificate() {
					c.check(t, m.fails(c, verifySigs, forms, true), env, verifySigs, c.expand(t, s, m.pem, nil), image)
					c.check(t, m.fails(c, verifyAtts, forms, true), env, verifyAtts, c.expand(t, s, m.pem, nil), image)
				}
				other := map[string]string{"KEY": c.file(t, "p256.pub", pairs()["p256"].public), "SUBJECT": "someone@krt.example", "RELEASE": "someone@krt.example"}
				c.check(t, "no matching ", nil, verifySigs, c.expand(t, s, m.flags, other), image)
			}
		}
	})
}

// proving are the ways in which the programs sign and attest with the services.
var proving = []signing{
	{"legacy", "cosign2", nil, []string{"--insecure-skip-verify"}, sign.Legacy},
	{"bundle", "cosign2", nil, []string{"--insecure-skip-verify", "--new-bundle-format"}, sign.Bundle},
	{"config", "cosign2", nil, []string{"--new-bundle-format", "--signing-config"}, sign.Bundle},
	{"legacy", "cosign3", nil, []string{"--use-signing-config=false", "--new-bundle-format=false"}, sign.Legacy},
	{"bundle", "cosign3", nil, []string{"--use-signing-config=false"}, sign.Bundle},
	{"config", "cosign3", nil, []string{"--signing-config"}, sign.Bundle},
}

// signingConfig returns where the services are that a program is to use.
func signingConfig(t *testing.T, s *sigstoretest.Sigstore, p sign.Proofs) []byte {
	t.Helper()
	at := func(url string) []sigstore.Service {
		if url == "" {
			return nil
		}
		return []sigstore.Service{{URL: url, MajorAPIVersion: 1, ValidityPeriodStart: hours(-9999), Operator: "test"}}
	}
	one := sigstore.ServiceConfiguration{Selector: trustroot.ServiceSelector_ANY}
	config, err := sigstore.NewSigningConfig(sigstore.SigningConfigMediaType02, at(s.URL), nil, at(p.Log), one, at(p.Timestamp), one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := config.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// services returns the flags with which a program asks for proofs.
func (c cosign) services(t *testing.T, s *sigstoretest.Sigstore, how signing, p sign.Proofs) []string {
	t.Helper()
	flags := slices.Clone(how.flags)
	if how.name == "config" {
		return append(flags, c.file(t, "signing.json", signingConfig(t, s, p)), "--trusted-root", c.file(t, "root.json", s.TrustedRoot(sigstoretest.Parts{})))
	}
	if p.Timestamp != "" {
		flags = append(flags, "--timestamp-server-url", p.Timestamp)
	}
	if p.Log == "" {
		return append(flags, "--tlog-upload=false")
	}
	return append(flags, "--rekor-url", p.Log)
}

// theirMaker signs with cosign: with which flags and proofs, and who is trusted then.
type theirMaker struct {
	flags  func(*testing.T, cosign, *sigstoretest.Sigstore, signing) []string
	proofs func(*sigstoretest.Sigstore) sign.Proofs
	trust  func(*testing.T, *sigstoretest.Sigstore) sign.Authority
}

func theirPKI(from int) func(*testing.T, cosign, *sigstoretest.Sigstore, signing) []string {
	return func(t *testing.T, c cosign, s *sigstoretest.Sigstore, _ signing) []string {
		chain := append(s.Intermediate(), bytes.TrimSuffix(s.Authorities(), s.Intermediate())...)
		certificate := s.IssueCertificate("release@krt.example", publicKey(t, "p256"), hours(from-1), hours(from+1))
		return []string{"--key", c.imported(t, "p256"), "--certificate", c.file(t, "certificate.pem", certificate), "--certificate-chain", c.file(t, "chain.pem", chain)}
	}
}

var theirMakers = map[string]theirMaker{
	"key": {func(t *testing.T, c cosign, _ *sigstoretest.Sigstore, _ signing) []string {
		return []string{"--key", c.imported(t, "cosign")}
	}, both, byKey(func(_ *testing.T, _ *sigstoretest.Sigstore, a *sign.Authority) {
		a.RequireLog, a.RequireTimestamp = true, true
	})},
	"identity": {func(t *testing.T, c cosign, s *sigstoretest.Sigstore, how signing) []string {
		flags := []string{"--identity-token", s.Token(issuer, subject)}
		if how.name == "config" {
			return flags
		}
		return append(flags, "--fulcio-url", s.URL, "--trusted-root", c.file(t, "root.json", s.TrustedRoot(sigstoretest.Parts{})))
	}, both, byCI(sigstoretest.Parts{}, nil)},
	"PKI":            {theirPKI(0), none, byPKI(false)},
	"PKI, timestamp": {theirPKI(-9000), stamp, byPKI(true)},
}

// checkProven checks what proves a fact that cosign made.
func checkProven(t *testing.T, v sign.Verified, how signing, p sign.Proofs) {
	t.Helper()
	logs, times := 0, 0
	if p.Log != "" {
		logs, times = 1, 1
	}
	if p.Timestamp != "" {
		times++
	}
	if v.Form != how.form || len(v.Log) != logs || len(v.Times) != times {
		t.Errorf("form %s, log %v, times %v; want form %s, %d and %d", v.Form, v.Log, v.Times, how.form, logs, times)
	}
}

func TestVerifyCosignsProofs(t *testing.T) {
	eachCosign(t, func(t *testing.T, c cosign, repo *remote.Repository) {
		s := sigstoretest.StartSigstore(t)
		for name, m := range theirMakers {
			if s.SetTime(hours(0)); name == "PKI, timestamp" {
				s.SetTime(hours(-9000))
			}
			for _, how := range proving {
				if how.program == c.name() {
					t.Run(name+", "+how.name, func(t *testing.T) { verifyTheirProofs(t, c, s, repo, m, how) })
				}
			}
		}
	})
}

func verifyTheirProofs(t *testing.T, c cosign, s *sigstoretest.Sigstore, repo *remote.Repository, m theirMaker, how signing) {
	root, proofs, a := newRoot(t, repo, strings.NewReplacer("/", "-", ",", "").Replace(t.Name())), m.proofs(s), m.trust(t, s)
	flags := append(m.flags(t, c, s, how), c.services(t, s, how, proofs)...)
	c.check(t, "", how.env, []string{"sign", "--yes"}, flags, []string{named(repo, root)})
	c.attest(t, how.env, named(repo, root), statements()[1:], flags...)
	res, err := sign.Verify(t.Context(), repo, root, sign.Policy{Authorities: []sign.Authority{a}})
	if slices.Contains(flags, "--certificate") && how.program == "cosign2" && how.name == "config" {
		// cosign 2.6 leaves the certificate out.
		checkError(t, err, "signed with a key, but only certificates are trusted")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	facts := slices.Concat(res.Verified, res.Attestations)
	if len(facts) != 2 || len(res.Rejected) != 0 {
		t.Fatalf("result %+v", res)
	}
	for _, v := range facts {
		checkProven(t, v, how, proofs)
	}
	if a.Identity != nil {
		a.Identity = &sign.Identity{Subject: "someone@krt.example"}
		_, err = sign.Verify(t.Context(), repo, root, sign.Policy{Authorities: []sign.Authority{a}})
		checkError(t, err, `, want "someone@krt.example", issued by anyone`)
	}
}

// nothing returns what cosign says of a folder without signatures or attestations that it can read.
func nothing(c cosign) (sigs, atts string) {
	sigs, atts = "no signatures associated with the image saved in", "no attestations provided"
	if c.name() == "cosign2" {
		atts = "nil pointer dereference"
	}
	return sigs, atts
}

// cosign looks at nothing but folders that it has saved: it goes by annotations of its own.
// With these it reads ours, so far as it reads bundles.
func TestCosignVerifiesOurLayout(t *testing.T) {
	for program, c := range cosigns(t) {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			c := c.alone(t)
			for _, forms := range formSets {
				dir := t.TempDir()
				store, err := layout.Create(dir)
				if err != nil {
					t.Fatal(err)
				}
				root := newRoot(t, store, "edge")
				vouch(t, store, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: forms})
				flags := append(verifyFlags(t, c, forms, "cosign")[1:], "--local-image", dir)
				c.check(t, "must verify either an image index or image", nil, verifySigs, flags)
				c.check(t, "must verify either an image index or image", nil, verifyAtts, flags)
				relabel(t, dir, root)
				sigs, atts := "", ""
				if program == "cosign2" && !slices.Contains(forms, sign.Legacy) {
					sigs, atts = nothing(c)
				}
				c.check(t, sigs, nil, verifySigs, flags)
				c.check(t, atts, nil, verifyAtts, flags)
			}
		})
	}
}

// relabel adds to the index of a layout what cosign goes by, the annotations, and what everyone
// else does: the tags that say the same, and the referrers, which cosign does not list.
func relabel(t *testing.T, dir string, root ocispec.Descriptor) {
	t.Helper()
	path := filepath.Join(dir, ocispec.ImageIndexFile)
	var index ocispec.Index
	read(t, path, &index)
	listed := map[digest.Digest]bool{}
	for _, m := range index.Manifests {
		listed[m.Digest] = true
		for tag, kind := range map[string]string{"edge": "image", sign.Tag(root.Digest): "sigs", sign.AttestationTag(root.Digest): "atts"} {
			kind = "dev.cosignproject.cosign/" + kind
			if m.Annotations[ocispec.AnnotationRefName] == tag || m.Annotations["kind"] == kind {
				m.Annotations[ocispec.AnnotationRefName], m.Annotations["kind"] = tag, kind
			}
		}
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		var m ocispec.Manifest
		b := read(t, blob, &m)
		if desc := content.NewDescriptorFromBytes(m.MediaType, b); m.Subject != nil && !listed[desc.Digest] {
			index.Manifests = append(index.Manifests, desc)
		}
	}
	b, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// read reads a file that may be JSON.
func read(t *testing.T, path string, v any) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal(b, v)
	return b
}

func TestCosignSaves(t *testing.T) {
	programs := cosigns(t)
	eachCosign(t, func(t *testing.T, c cosign, repo *remote.Repository) {
		s := sigstoretest.StartSigstore(t)
		for i, forms := range formSets {
			root := newRoot(t, repo, fmt.Sprint("edge", i))
			vouch(t, repo, root, sign.SignOptions{Signer: signer(t, "cosign"), Forms: forms})
			attach(t, repo, root, sign.SignOptions{Signer: keyless(t, s, subject), Proofs: logged(s), Forms: forms})
			dir := t.TempDir()
			c.check(t, "", nil, []string{"save", "--dir", dir, named(repo, root)})
			for _, reader := range programs {
				reader = reader.alone(t)
				sigs, atts := "", ""
				// cosign 2.6 neither saves bundles nor reads them there.
				if !slices.Contains(forms, sign.Legacy) && (c.name() == "cosign2" || reader.name() == "cosign2") {
					sigs, atts = nothing(reader)
				}
				flags := append(verifyFlags(t, reader, forms, "cosign")[1:], "--local-image", dir)
				reader.check(t, sigs, nil, verifySigs, flags)
				reader.check(t, atts, nil, verifyAtts, flags)
				reader.check(t, sigs, nil, verifySigs, reader.expand(t, s, asCI+" --trusted-root ROOT --local-image", nil), []string{dir})
			}
			checkSaved(t, dir, root, 0)
			relabel(t, dir, root)
			want := len(forms)
			if c.name() == "cosign2" && slices.Contains(forms, sign.Bundle) {
				want--
			}
			checkSaved(t, dir, root, want)
		}
	})
}

// checkSaved is that a folder has that many forms of a signature and of two attestations.
func checkSaved(t *testing.T, dir string, root ocispec.Descriptor, forms int) {
	t.Helper()
	theirs, err := oci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, store := range []oras.ReadOnlyGraphTarget{theirs, ours} {
		res, err := sign.Verify(t.Context(), store, root, trust(t, key(t, "cosign")))
		switch {
		case forms == 0:
			checkError(t, err, "no signature found")
		case err != nil || len(res.Verified) != forms || len(res.Attestations) != 2*forms:
			t.Errorf("%d forms, %T: %+v, %v", forms, store, res, err)
		}
	}
}
