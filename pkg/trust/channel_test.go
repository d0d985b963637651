package trust_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/internal/sigstoretest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// The newest promotion by a trusted promoter says whether a channel is stale, in whatever order promotions are attached.
func TestChannels(t *testing.T) {
	services := sigstoretest.StartSigstore(t)
	now := time.Now().Truncate(time.Second)
	const day = 24 * time.Hour
	type record struct {
		by, channel string
		ago         time.Duration // when it was promoted
		valid       time.Duration
		stamped     time.Duration // how long ago that was proven; 0 for no proof
	}
	refuse30 := "  channels: {maxAge: 30d, stale: refuse}\n"
	fresh := record{by: "release", channel: "stable", ago: day, valid: 30 * day}
	expired := record{by: "release", channel: "stable", ago: 31 * day, valid: 30 * day}
	for _, c := range []struct {
		name    string
		records []record
		rule    string
		tag     string
		clock   time.Duration
		want    string // "" if it is fresh
		refused bool
	}{
		{name: "fresh", records: []record{fresh}, rule: refuse30},
		{name: "fresh without a rule", records: []record{fresh}},
		{name: "for ever without a rule", records: []record{{by: "release", channel: "stable", ago: 900 * day}}},
		{name: "expired, a warning", records: []record{expired}, want: "its newest promotion, of "},
		{name: "expired, a warning by the rule", records: []record{expired}, rule: "  channels: {maxAge: 60d, stale: warn}\n", want: "by release, expired at "},
		{name: "expired, refused", records: []record{expired}, rule: "  channels: {stale: refuse}\n", want: "by release, expired at ", refused: true},
		{name: "too old, refused", records: []record{{by: "release", channel: "stable", ago: 31 * day}}, rule: refuse30, want: "is older than 30d (maxAge)", refused: true},
		{name: "too old, a warning", records: []record{{by: "release", channel: "stable", ago: 31 * day}}, rule: "  channels: {maxAge: 30d}\n", want: "is older than 30d (maxAge)"},
		{name: "renewed", records: []record{expired, fresh}, rule: refuse30},
		{name: "an older record attached again", records: []record{expired, {by: "release", channel: "stable", ago: 60 * day, valid: 900 * day}}, rule: refuse30, want: "by release, expired at ", refused: true},
		{name: "never promoted", rule: refuse30, want: "no trusted signer has promoted this version to it", refused: true},
		{name: "never promoted, without a rule"},
		{name: "promoted elsewhere", records: []record{{by: "release", channel: "candidate", ago: day}}, rule: refuse30, want: "no trusted signer has promoted", refused: true},
		{name: "promoted by another", records: []record{expired, {by: "upstream", channel: "stable", ago: day}}, rule: refuse30, want: "by release, expired at ", refused: true},
		{name: "promoted by one whom the rule names for something else", records: []record{expired, {by: "build", channel: "stable", ago: day}}, rule: refuse30, want: "by release, expired at ", refused: true},
		{name: "promoted by one whom the rule names for promotions", records: []record{{by: "build", channel: "stable", ago: day}}, rule: refuse30 + "  attestations: [{type: promotion, authorities: [build]}]\n"},
		{name: "a version", records: []record{expired}, rule: refuse30, tag: "1.0.0"},
		{name: "a version in other words", records: []record{expired}, rule: refuse30, tag: "edge-1.0.0"},
		{name: "a moving tag of numbers", records: []record{expired}, rule: refuse30, tag: "1.0", want: "no trusted signer", refused: true},
		{name: "the manifest for Argo CD", records: []record{expired}, rule: refuse30, tag: "stable.argocd", want: "by release, expired at ", refused: true},
		{name: "a promoter's clock that is ahead", records: []record{{by: "release", channel: "stable", ago: -900 * day, stamped: 31 * day}}, rule: refuse30, want: "is older than 30d (maxAge)", refused: true},
		{name: "an expiry by a promoter's clock that is ahead", records: []record{{by: "release", channel: "stable", ago: -900 * day, valid: 30 * day, stamped: 31 * day}}, want: "by release, expired at "},
		{name: "dated in the future without a proof", records: []record{{by: "release", channel: "stable", ago: -900 * day}}, rule: refuse30, want: "is dated in the future", refused: true},
		{name: "dated in the future next to what counts", records: []record{expired, {by: "release", channel: "stable", ago: -900 * day, valid: day}}, rule: refuse30, want: "by release, expired at ", refused: true},
		{name: "a clock that is a little ahead", records: []record{{by: "release", channel: "stable", ago: -time.Minute}}, rule: refuse30},
		// A clock that was set back makes stale channels fresh, but not to before a time that has passed for sure.
		{name: "the clock is behind", records: []record{expired}, clock: -2 * day, rule: refuse30},
		{name: "the clock is behind a proof", records: []record{expired, {by: "release", channel: "candidate", ago: 0, stamped: time.Hour}}, clock: -2 * day, rule: refuse30, want: "by release, expired at ", refused: true},
		{name: "the clock is ahead", records: []record{fresh}, clock: 40 * day, rule: refuse30, want: "by release, expired at ", refused: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.sign(t, "release", w.root)
			for _, r := range c.records {
				at := now.Add(-r.ago).UTC()
				predicate := fmt.Sprintf(`{"channel":%q,"at":%q}`, r.channel, at.Format(time.RFC3339))
				if r.valid > 0 {
					predicate = fmt.Sprintf(`{"channel":%q,"at":%q,"expires":%q}`, r.channel, at.Format(time.RFC3339), at.Add(r.valid).Format(time.RFC3339))
				}
				opts := sign.SignOptions{Signer: w.signers[r.by]}
				if r.stamped > 0 {
					services.SetTime(now.Add(-r.stamped))
					opts.Proofs.Timestamp = services.Timestamp
				}
				if _, err := sign.Attest(t.Context(), w.store, w.root, []sign.Statement{{Type: trust.PromotionType, Predicate: json.RawMessage(predicate)}}, opts); err != nil {
					t.Fatal(err)
				}
			}
			w.keys["tsa.pem"] = string(services.TimestampAuthorities())
			policy := func(rule string) *trust.Policy {
				p, err := parse(t, head+"\nauthorities:\n- {name: release, key: release.pub, timestamps: tsa.pem}\n- {name: build, key: build.pub}\n"+
					"rules:\n- match: ['**']\n  authorities: [release]\n"+rule, w.keys)
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			// What a second policy wants is wanted, too.
			for _, p := range []*trust.Policy{policy(c.rule), policy("").Combine(policy(c.rule)), policy(c.rule).Combine(policy(""))} {
				_, channels, err := p.VerifyChannels(t.Context(), w.store, w.root, trust.Local)
				if err != nil {
					t.Fatal(err)
				}
				tag := c.tag
				if tag == "" {
					tag = "stable"
				}
				stale := channels.Check(bundle.Metadata{Name: "edge", Version: "1.0.0"}, tag, now.Add(c.clock))
				switch {
				case c.want == "" && stale != nil:
					t.Errorf("stale: %v", stale)
				case c.want == "":
				case stale == nil || !strings.Contains(stale.Error(), c.want) || stale.Refused != c.refused || errors.Is(stale, trust.ErrRefused) != c.refused:
					t.Errorf("%+v, want %s, refused: %t", stale, c.want, c.refused)
				}
			}
		})
	}
}

// A version is stale where all channels are that it was promoted to.
func TestCheckAll(t *testing.T) {
	now := time.Now().Truncate(time.Second).UTC()
	w := newWorld(t)
	w.sign(t, "release", w.root)
	p, err := parse(t, authorities+"rules:\n- match: ['**']\n  authorities: [release]\n", w.keys)
	if err != nil {
		t.Fatal(err)
	}
	check := func() *trust.StaleError {
		_, channels, err := p.VerifyChannels(t.Context(), w.store, w.root, trust.Local)
		if err != nil {
			t.Fatal(err)
		}
		return channels.CheckAll(now)
	}
	promote := func(channel string, expires time.Time) {
		w.attest(t, "release", trust.PromotionType, fmt.Sprintf(`{"channel":%q,"at":%q,"expires":%q}`, channel, now.AddDate(0, 0, -3).Format(time.RFC3339), expires.Format(time.RFC3339)))
	}
	if stale := check(); stale != nil {
		t.Errorf("never promoted: %v", stale)
	}
	promote("candidate", now.AddDate(0, 0, -2))
	if stale := check(); stale == nil || stale.Channel != "candidate" {
		t.Errorf("expired: %v", stale)
	}
	promote("stable", now.AddDate(0, 0, 2))
	if stale := check(); stale != nil {
		t.Errorf("fresh in one: %v", stale)
	}
	var none *trust.Channels
	if none.CheckAll(now) != nil || none.Check(bundle.Metadata{}, "stable", now) != nil {
		t.Error("what nobody verified is stale")
	}
}

func TestChannelRule(t *testing.T) {
	_, public := signtest.NewSignerWithKey(t)
	for rules, want := range map[string]string{
		"rules:\n- match: ['**']\n  channels: {stale: no}\n":                            `stale is "no", want warn or refuse`,
		"rules:\n- match: ['**']\n  channels: {maxAge: 30}\n":                           `"30" is not an age`,
		"rules:\n- match: ['**']\nimages:\n- match: ['**']\n  channels: {maxAge: 1d}\n": "want them in rules",
	} {
		_, err := parse(t, head+"\nauthorities:\n- {name: build, key: build.pub}\n"+rules, map[string]string{"build.pub": string(public)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", rules, err, want)
		}
	}
}
