package gate_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// A channel whose promotion has expired is refused where the policy says so, and answered once it is renewed.
func TestStaleChannel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registrytest.Options{})
	repo := w.repository("krt/edge")
	s := &scene{nil, repo, w.pushRuntime(repo, "edge", "1.0.0", "first", "1.0.0", "stable")}
	w.sign(repo, s.good.root)
	promote := func(at, expires time.Time) {
		t.Helper()
		predicate := fmt.Sprintf(`{"channel":"stable","at":%q,"expires":%q}`, at.UTC().Format(time.RFC3339), expires.UTC().Format(time.RFC3339))
		statements := []sign.Statement{{Type: trust.PromotionType, Predicate: json.RawMessage(predicate)}}
		if _, err := sign.Attest(t.Context(), repo, s.good.root, statements, sign.SignOptions{Signer: w.signer}); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	promote(now.AddDate(0, 0, -2), now.AddDate(0, 0, -1))
	w.write("trust.yaml", policyText+"  channels: {stale: refuse}\n")
	o := w.quick()
	o.Recheck = 50 * time.Millisecond
	s.server = w.serve(o)
	s.is(s.get(manifestPath("edge", "stable")), denied, "channel stable is stale: its newest promotion")
	s.leadsTo(manifestPath("edge", "1.0.0"), s.good.root.Digest)
	s.is(s.get("/metrics"), 200, `krtpkg_gate_refusals_total{reason="stale_channel"} 1`)
	promote(now, now.AddDate(0, 0, 1))
	s.until("the renewed channel", func() bool { return s.get(manifestPath("edge", "stable")).status == 200 })
	s.leadsTo(manifestPath("edge", "stable"), s.good.root.Digest)
}
