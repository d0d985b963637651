package site_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// releases is a store of signed bundles.
type releases struct {
	t      *testing.T
	store  *memory.Store
	signer *sign.Signer
	public []byte
	policy *trust.Policy
}

func newReleases(t *testing.T) *releases {
	t.Helper()
	signer, public := signtest.NewSignerWithKey(t)
	key, err := sign.LoadPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := trust.NewPolicy(sign.Authority{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return &releases{t, memory.New(), signer, public, policy}
}

// release builds and signs a bundle, and opens it as a site does.
func (r *releases) release(name, version string) *site.Root {
	r.t.Helper()
	dir := r.t.TempDir()
	definition := fmt.Sprintf("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: %s, version: %s}\nspec:\n  layer: 6\n  sources: [{dir: ., exclude: [bundle.yaml]}]\n", name, version)
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "bundle.yaml"), []byte(definition), 0o644), os.WriteFile(filepath.Join(dir, "x.yaml"), []byte(manifest), 0o644)); err != nil {
		r.t.Fatal(err)
	}
	built, err := assemble.Build(r.t.Context(), dir, assemble.Options{Store: r.store, Images: inventedDigests{}})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := sign.Sign(r.t.Context(), r.store, built.Descriptor, sign.SignOptions{Signer: r.signer}); err != nil {
		r.t.Fatal(err)
	}
	return r.open(built.Descriptor)
}

func (r *releases) open(desc ocispec.Descriptor) *site.Root {
	r.t.Helper()
	root, err := site.Open(r.t.Context(), site.Source{Store: r.store, Root: desc}, site.OpenOptions{Policy: r.policy})
	if err != nil {
		r.t.Fatal(err)
	}
	return root
}

func (r *releases) promote(root *site.Root, opts site.PromoteOptions) (*site.Promoted, error) {
	opts.By, opts.Sign = "release@example.com", sign.SignOptions{Signer: r.signer}
	return site.Promote(context.Background(), r.store, root, opts)
}

func TestPromote(t *testing.T) {
	t.Parallel()
	r := newReleases(t)
	first, second, other := r.release("web", "1.0.0"), r.release("web", "1.1.0"), r.release("dns", "2.0.0")
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("", 3600))
	holds := func(want *site.Root) {
		t.Helper()
		if desc, err := r.store.Resolve(t.Context(), "stable"); err != nil || desc.Digest != want.Source.Root.Digest {
			t.Errorf("stable is at %s, %v, want %s", desc.Digest, err, want.Source.Root.Digest)
		}
	}
	p, err := r.promote(first, site.PromoteOptions{Channel: "stable", Time: at})
	if err != nil || len(p.Attached) == 0 || p.Previous != "" || p.Version != "1.0.0" || !p.At.Equal(at.Truncate(time.Second)) {
		t.Fatalf("%+v, %v", p, err)
	}
	holds(first)
	if p, err = r.promote(r.open(first.Source.Root), site.PromoteOptions{Channel: "stable"}); err != nil || p.Attached != nil {
		t.Errorf("promoted twice: %+v, %v", p, err)
	}
	if p, err = r.promote(second, site.PromoteOptions{Channel: "stable", Time: at.Add(time.Hour)}); err != nil || p.Previous != first.Source.Root.Digest.String() {
		t.Fatalf("%+v, %v", p, err)
	}
	holds(second)

	var older *site.OlderError
	if _, err := r.promote(first, site.PromoteOptions{Channel: "stable"}); !errors.As(err, &older) || older.Is.Version != "1.1.0" {
		t.Errorf("back without AllowOlder: %v", err)
	}
	if _, err := r.promote(other, site.PromoteOptions{Channel: "stable"}); err == nil || !strings.Contains(err.Error(), "channel stable belongs to web, not to dns") {
		t.Errorf("another product: %v", err)
	}
	holds(second)
	if _, err := r.promote(first, site.PromoteOptions{Channel: "stable", AllowOlder: true, Time: at.Add(2 * time.Hour)}); err != nil {
		t.Error(err)
	}
	holds(first)

	// Build metadata has no order: to and fro is another build.
	for _, pair := range [][2]string{{"3.0.0+1", "3.0.0+2"}, {"3.1.0+2", "3.1.0+1"}, {"3.2.0", "3.2.0+1"}} {
		before, after := r.release("web", pair[0]), r.release("web", pair[1])
		if _, err := r.promote(before, site.PromoteOptions{Channel: "built"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.promote(after, site.PromoteOptions{Channel: "built"}); !errors.As(err, &older) || !strings.Contains(err.Error(), "is another build of web "+pair[0]) {
			t.Errorf("%s to %s: %v", pair[0], pair[1], err)
		}
	}

	// Who verifies sees each, the latest last.
	promotions := site.ListPromotions(r.open(first.Source.Root).Verified)
	if len(promotions) != 2 || promotions[0].Previous != "" || promotions[1].Previous != second.Source.Root.Digest.String() {
		t.Errorf("%+v", promotions)
	}
}

// A promotion may expire, and is renewed with a new record; the channel stays where it is.
func TestRefreshPromotion(t *testing.T) {
	t.Parallel()
	r := newReleases(t)
	first, second := r.release("web", "1.0.0"), r.release("web", "1.1.0")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const month = 30 * 24 * time.Hour
	var not *site.NotPromotedError
	if _, err := r.promote(first, site.PromoteOptions{Channel: "stable", Refresh: true}); !errors.As(err, &not) {
		t.Errorf("renewed what is not there: %v", err)
	}
	p, err := r.promote(first, site.PromoteOptions{Channel: "stable", Time: at, Expires: month})
	if err != nil || !p.Expires.Equal(at.Add(month)) {
		t.Fatalf("%+v, %v", p, err)
	}
	first = r.open(first.Source.Root)
	if p, err = r.promote(first, site.PromoteOptions{Channel: "stable", Time: at.Add(time.Hour), Expires: 2 * month}); err != nil || p.Attached != nil || !p.Expires.IsZero() {
		t.Errorf("renewed without Refresh: %+v, %v", p, err)
	}
	if _, err := r.promote(second, site.PromoteOptions{Channel: "stable", Refresh: true}); !errors.As(err, &not) || not.Version != "1.1.0" {
		t.Errorf("renewed for another version: %v", err)
	}
	later := at.Add(month - time.Hour)
	if p, err = r.promote(r.open(first.Source.Root), site.PromoteOptions{Channel: "stable", Time: later, Refresh: true}); err != nil || len(p.Attached) == 0 || !p.Expires.Equal(later.Add(month)) || p.Previous != "" {
		t.Fatalf("%+v, %v", p, err)
	}
	if desc, err := r.store.Resolve(t.Context(), "stable"); err != nil || desc.Digest != first.Source.Root.Digest {
		t.Errorf("stable is at %s, %v", desc.Digest, err)
	}
	root := r.open(first.Source.Root)
	if all := site.ListPromotions(root.Verified); len(all) != 2 || !all[1].Expires.Equal(later.Add(month)) {
		t.Errorf("%+v", all)
	}
	// It expired long ago by the clock of this test: a warning, unless a digest led to it.
	source := root.Source
	source.Tag = "stable"
	if root, err = site.Open(t.Context(), source, site.OpenOptions{Policy: r.policy}); err != nil || root.Stale == nil || root.Stale.Refused {
		t.Errorf("stale channel: %v, %v", root.Stale, err)
	}
	source.Pinned = true
	if root, err = site.Open(t.Context(), source, site.OpenOptions{Policy: r.policy}); err != nil || root.Stale != nil {
		t.Errorf("pinned: %v, %v", root.Stale, err)
	}
}

// Who renews a channel signs only what somebody whose promotions count has promoted to it: the registry may have moved it.
func TestRefreshOnlyPromoted(t *testing.T) {
	t.Parallel()
	r, other := newReleases(t), newReleases(t)
	const day = 24 * time.Hour
	at := time.Now()
	policy := func(promoters string) *trust.Policy {
		return parsePolicy(t, "rules:\n- match: ['**']\n  authorities: [release]\n"+promoters, r, other)
	}
	root := r.release("web", "1.0.0")
	attest := func(signer *sign.Signer, channel string, valid time.Duration) {
		t.Helper()
		predicate := fmt.Sprintf(`{"channel":%q,"at":%q,"expires":%q}`, channel, at.Add(-2*day).UTC().Format(time.RFC3339), at.Add(valid-2*day).UTC().Format(time.RFC3339))
		if _, err := sign.Attest(t.Context(), r.store, root.Source.Root, []sign.Statement{{Type: site.PromotionType, Predicate: []byte(predicate)}}, sign.SignOptions{Signer: signer}); err != nil {
			t.Fatal(err)
		}
	}
	refresh := func(tag string, p *trust.Policy) (*site.Promoted, error) {
		t.Helper()
		opened, err := site.Open(t.Context(), site.Source{Store: r.store, Root: root.Source.Root, Tag: tag}, site.OpenOptions{Policy: p})
		if err != nil {
			t.Fatal(err)
		}
		return r.promote(opened, site.PromoteOptions{Channel: "stable", Refresh: true, Time: at})
	}
	refused := func(what, reason string, p *trust.Policy) {
		t.Helper()
		var not *site.NotPromotedError
		if _, err := refresh("stable", p); !errors.As(err, &not) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := r.store.Tag(t.Context(), root.Source.Root, "stable"); err != nil { // as the registry's operator does
		t.Fatal(err)
	}
	refused("never promoted", "no trusted signer has promoted", r.policy)
	attest(r.signer, "candidate", 30*day)
	refused("promoted to another channel", "no trusted signer has promoted", r.policy)
	attest(r.signer, "stable", day)
	refused("expired", "expired at", r.policy)
	attest(r.signer, "stable", 30*day)
	delegated := policy("  attestations: [{type: promotion, authorities: [other]}]\n")
	attest(other.signer, "candidate", 30*day) // the policy wants some promotion
	refused("promoted by one whose promotions do not count", "no trusted signer has promoted", delegated)

	// How long it lasts is what the one who counts said, whatever others say later.
	if p, err := refresh("1.0.0", r.policy); err != nil || p.Expires.Sub(p.At) != 30*day {
		t.Errorf("%+v, %v", p, err)
	}
	attest(other.signer, "stable", 10*day)
	if p, err := refresh("1.0.0", delegated); err != nil || p.Expires.Sub(p.At) != 10*day {
		t.Errorf("validity of another: %+v, %v", p, err)
	}
}

// A stale channel is made fresh by promoting a version to it again, and not by its own name.
func TestPromoteStaleChannel(t *testing.T) {
	t.Parallel()
	r := newReleases(t)
	root := r.release("web", "1.0.0")
	at := time.Now().AddDate(0, -2, 0)
	if _, err := r.promote(root, site.PromoteOptions{Channel: "stable", Time: at, Expires: 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	root = r.open(root.Source.Root)
	var not *site.NotPromotedError
	root.Tag = "stable"
	if _, err := r.promote(root, site.PromoteOptions{Channel: "stable"}); !errors.As(err, &not) {
		t.Errorf("by its own name: %v", err)
	}
	root.Tag = "1.0.0"
	if p, err := r.promote(root, site.PromoteOptions{Channel: "stable", Expires: time.Hour}); err != nil || len(p.Attached) == 0 || p.Previous != "" || p.Expires.IsZero() {
		t.Errorf("%+v, %v", p, err)
	}
}

// parsePolicy reads a policy with the keys of two as authorities, release and other.
func parsePolicy(t *testing.T, rules string, release, other *releases) *trust.Policy {
	t.Helper()
	keys := map[string][]byte{"release.pub": release.public, "other.pub": other.public}
	text := "apiVersion: krtpkg.dev/v1alpha1\nkind: TrustPolicy\nauthorities:\n- {name: release, key: release.pub}\n- {name: other, key: other.pub}\n" + rules
	policy, err := trust.ParsePolicy("trust.yaml", []byte(text), func(name string) ([]byte, error) { return keys[name], nil })
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

// Nothing is promoted unverified, or to a tag that has to stay.
func TestPromoteRefuses(t *testing.T) {
	t.Parallel()
	r := newReleases(t)
	root := r.release("web", "1.0.0")
	for _, channel := range []string{"", "1.0.0", "v2", "1.2", "sta/ble", "-x", strings.Repeat("a", 129)} {
		if _, err := r.promote(root, site.PromoteOptions{Channel: channel}); err == nil {
			t.Errorf("channel %q is accepted", channel)
		}
	}
	unverified, err := site.Open(t.Context(), root.Source, site.OpenOptions{AllowUnsigned: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.promote(unverified, site.PromoteOptions{Channel: "stable"}); !errors.Is(err, site.ErrVerificationRequired) {
		t.Errorf("unverified: %v", err)
	}
	if _, err := r.store.Resolve(t.Context(), "stable"); err == nil {
		t.Error("a channel was written")
	}
}
