package trust_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/internal/sigstoretest"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// What a rule with minAge accepts is old enough by a time that a log or a timestamp authority vouches for.
func TestMinAge(t *testing.T) {
	services := sigstoretest.StartSigstore(t)
	now := time.Now()
	stamped, logged := sign.Proofs{Timestamp: services.Timestamp}, sign.Proofs{Log: services.URL}
	type signature struct {
		by     string
		ago    time.Duration
		proofs sign.Proofs
	}
	const day = 24 * time.Hour
	for _, c := range []struct {
		name       string
		signatures []signature
		rule       string
		clock      time.Duration // of the verifier, against the real one
		want       string
		from       time.Duration
	}{
		{name: "a timestamp, old enough", signatures: []signature{{"build", 4 * day, stamped}}},
		{name: "a log entry, old enough", signatures: []signature{{"release", 4 * day, logged}}},
		{name: "a timestamp, too young", signatures: []signature{{"build", 2 * day, stamped}}, want: "signed by build at ", from: day},
		{name: "a log entry, too young", signatures: []signature{{"release", 2 * day, logged}}, want: "signed by release at ", from: day},
		{name: "no proof", signatures: []signature{{"build", 0, sign.Proofs{}}}, want: "signed by build without a proof of when; trust.yaml requires signatures at least 3d old (minAge)"},
		{name: "a proof that nobody trusts", signatures: []signature{{"build", 4 * day, logged}}, want: "signed by build without a proof of when"},
		{name: "signed again", signatures: []signature{{"build", 4 * day, stamped}, {"build", 0, stamped}}},
		{name: "signed again, without proof", signatures: []signature{{"build", 4 * day, stamped}, {"build", 0, sign.Proofs{}}}},
		{name: "one of two old enough", signatures: []signature{{"build", 4 * day, stamped}, {"release", day, logged}}},
		{name: "both must be", signatures: []signature{{"build", 4 * day, stamped}, {"release", day, logged}}, rule: "  threshold: 2\n", want: "signed by release at ", from: 2 * day},
		{name: "both must have proofs", signatures: []signature{{"build", 4 * day, stamped}, {"release", 0, sign.Proofs{}}}, rule: "  threshold: 2\n", want: "signed by release without a proof"},
		{name: "both are", signatures: []signature{{"build", 4 * day, stamped}, {"release", 5 * day, logged}}, rule: "  threshold: 2\n"},
		// A clock that was set back only makes it wait for longer; one that was set forward ends the wait.
		{name: "the clock is behind", signatures: []signature{{"build", 4 * day, stamped}}, clock: -2 * day, want: "signed by build at ", from: -day},
		{name: "the clock is before the signature", signatures: []signature{{"build", 4 * day, stamped}}, clock: -30 * day, want: "signed by build at ", from: -day},
		{name: "the clock is ahead", signatures: []signature{{"build", 0, stamped}}, clock: 4 * day},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			for _, s := range c.signatures {
				services.SetTime(now.Add(-s.ago))
				if _, err := sign.Sign(t.Context(), w.store, w.root, sign.SignOptions{Signer: w.signers[s.by], Proofs: s.proofs}); err != nil {
					t.Fatal(err)
				}
			}
			w.keys["tsa.pem"], w.keys["root.json"] = string(services.TimestampAuthorities()), string(services.TrustedRoot(sigstoretest.Parts{}))
			p, err := parse(t, head+"\nauthorities:\n- {name: build, key: build.pub, timestamps: tsa.pem}\n- {name: release, key: release.pub, trustedRoot: root.json}\n"+
				"rules:\n- match: ['**']\n  minAge: 72h\n"+c.rule, w.keys)
			if err != nil {
				t.Fatal(err)
			}
			p.Now = now.Add(c.clock)
			for _, where := range []string{"registry.example/krt/edge", trust.Local} {
				result, err := p.Verify(t.Context(), w.store, w.root, where)
				if c.want == "" {
					if err != nil || len(result.Verified) == 0 {
						t.Errorf("%s: %v", where, err)
					}
					continue
				}
				var young *trust.TooYoungError
				if !errors.As(err, &young) || !errors.Is(err, trust.ErrRefused) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), where+": ") {
					t.Errorf("%s: error %v, want %s", where, err, c.want)
					continue
				}
				if got := young.From.Sub(now).Round(time.Hour); !young.From.IsZero() && got != c.from || young.From.IsZero() != (c.from == 0) {
					t.Errorf("%s: accepted from %s, want in %s: %v", where, young.From, c.from, err)
				}
			}
		})
	}
}

// A policy that nothing can satisfy, or with an age that is none, is refused when it is read.
func TestMinAgeOfPolicy(t *testing.T) {
	_, public := signtest.NewSignerWithKey(t)
	for rule, want := range map[string]string{
		"minAge: 72h": "minAge: no proof of time is possible",
		"minAge: 3":   `"3" is not an age`,
		"minAge: -1h": `"-1h" is not an age`,
		"minAge: 0d":  `"0d" is not an age`,
	} {
		_, err := parse(t, head+"\nauthorities:\n- {name: build, key: build.pub}\nrules:\n- match: ['**']\n  "+rule+"\n", map[string]string{"build.pub": string(public)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", rule, err, want)
		}
	}
	for text, want := range map[string]time.Duration{"30d": 720 * time.Hour, "72h": 72 * time.Hour, "90m": 90 * time.Minute, "1h30m": 90 * time.Minute} {
		got, err := trust.ParseAge(text)
		again, _ := trust.ParseAge(trust.FormatAge(got))
		if err != nil || got != want || again != want {
			t.Errorf("%s: %s, %s, %v", text, got, again, err)
		}
	}
}
