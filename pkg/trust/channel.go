package trust

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// PromotionType is the predicate type of the records by which a channel is moved to a version. A predicate has, among
// others, channel, at and expires.
const PromotionType = "https://krtpkg.dev/promotion/v1"

// ChannelRule says how fresh channels must be: tags that are not versions.
type ChannelRule struct {
	// MaxAge is how old the newest promotion of a channel may be; any age when zero.
	MaxAge Age `yaml:"maxAge,omitempty"`
	// Stale is warn, the default, or refuse: what is done about a channel without a promotion, or whose newest one is
	// older than MaxAge or has expired.
	Stale string `yaml:"stale,omitempty"`
}

// What is done about stale channels.
const (
	WarnStale   = "warn"
	RefuseStale = "refuse"
)

func (c *ChannelRule) validateRule() error {
	switch {
	case c == nil:
	case c.Stale != "" && c.Stale != WarnStale && c.Stale != RefuseStale:
		return fmt.Errorf("channels: stale is %q, want %s or %s", c.Stale, WarnStale, RefuseStale)
	}
	return nil
}

// StaleError reports a channel that may be held back: nothing shows that it is still what should run. It is [ErrRefused]
// if the policy refuses such channels.
type StaleError struct {
	Channel string
	// Problem is what is wrong with its newest promotion.
	Problem string
	// Policy is the name of the policy, Refused reports whether it refuses the channel.
	Policy  string
	Refused bool
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("channel %s is stale: %s", e.Channel, e.Problem)
}

// IsUnpromoted reports whether no promotion of the version to the channel counts, rather than one that has ended.
func (e *StaleError) IsUnpromoted() bool { return e.Problem == notPromoted }

// Is makes it a refusal if the policy says so.
func (e *StaleError) Is(err error) bool { return err == ErrRefused && e.Refused }

// Channels are the promotions of a root by those whom a policy trusts, and what its rule wants of them. Nil is for a
// root that nobody verified.
type Channels struct{ views []channelView }

// channelView is what one of combined policies says.
type channelView struct {
	policy string
	rule   *ChannelRule
	// promotions are those of trusted promoters, by channel.
	promotions map[string][]promotion
	// notBefore is a time that has passed, whatever the clock says: a log or a timestamp authority vouches for it.
	notBefore time.Time
}

// promotion is what a promotion says of time.
type promotion struct {
	Channel string    `json:"channel"`
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires"`

	by string
}

// readChannels returns the channels of a root that was verified by a rule.
func (p *Policy) readChannels(r *ResolvedRule, result *sign.Result) channelView {
	view := channelView{policy: p.DisplayName(), rule: r.Channels, promotions: map[string][]promotion{}}
	promoters := r.promoters()
	for _, v := range slices.Concat(result.Verified, result.Attestations) {
		for _, t := range v.Times {
			if t.IsProof() && t.Time.After(view.notBefore) {
				view.notBefore = t.Time
			}
		}
	}
	for _, v := range result.Attestations {
		trusted := slices.ContainsFunc(promoters, func(a sign.Authority) bool { return a.Name == v.Authority || a.Name == "" })
		if v.PredicateType != PromotionType || !trusted {
			continue
		}
		var found promotion
		if json.Unmarshal(v.Predicate, &found) != nil || found.Channel == "" || found.At.IsZero() {
			continue // it promotes to nothing
		}
		found.by = v.Authority
		// A promoter whose clock is ahead would make a channel fresh for longer.
		for _, t := range v.Times {
			if ahead := found.At.Sub(t.Time); t.IsProof() && ahead > 0 {
				found.At = t.Time
				if !found.Expires.IsZero() {
					found.Expires = found.Expires.Add(-ahead)
				}
			}
		}
		view.promotions[found.Channel] = append(view.promotions[found.Channel], found)
	}
	return view
}

// promoters returns those whose promotions count: the signers of the rule, or the attesters of the promotion that it
// requires.
func (r *ResolvedRule) promoters() []sign.Authority {
	for _, q := range r.Required {
		if q.PredicateType == PromotionType {
			return q.Attesters
		}
	}
	return r.Signers
}

// Check returns a [*StaleError] if the tag that led to a root is a channel, and stale at a time: its newest promotion by a
// trusted promoter has expired, is older than the policy allows, or, where the policy has a rule for channels, there is
// none. Tags that name the version of m never move, and are never stale.
func (c *Channels) Check(m bundle.Metadata, tag string, now time.Time) *StaleError {
	tag = strings.TrimSuffix(tag, ".argocd")
	if c == nil || tag == "" || m.IsVersionTag(tag) {
		return nil
	}
	var warning *StaleError
	for _, view := range c.views {
		stale := view.checkChannel(tag, now)
		if stale != nil && (warning == nil || stale.Refused && !warning.Refused) {
			warning = stale
		}
	}
	return warning
}

// CheckAll returns a [*StaleError] if the root has been promoted to channels, and is stale in all of them.
func (c *Channels) CheckAll(now time.Time) *StaleError {
	if c == nil {
		return nil
	}
	var warning *StaleError
	for _, view := range c.views {
		if stale := view.checkAll(now); stale != nil && warning == nil {
			warning = stale
		}
	}
	return warning
}

// checkAll returns why the channel is stale that the root was promoted to last; nil if one channel is fresh.
func (v *channelView) checkAll(clock time.Time) (last *StaleError) {
	var at time.Time
	for _, channel := range slices.Sorted(maps.Keys(v.promotions)) {
		stale := v.checkChannel(channel, clock)
		if stale == nil {
			return nil
		}
		if newest, _ := v.findNewest(channel, v.now(clock)); last == nil || at.Before(newest.At) {
			last, at = stale, newest.At
		}
	}
	return last
}

// FindPromotion returns how long the newest promotion of the root to a channel is valid, 0 if that is for ever. It returns a
// [*StaleError] if the channel is stale at a time, or no trusted promoter has promoted the root to it.
func (c *Channels) FindPromotion(channel string, now time.Time) (validity time.Duration, err error) {
	var newest promotion
	if c != nil {
		for _, view := range c.views {
			if stale := view.checkChannel(channel, now); stale != nil {
				return 0, stale
			}
			if found, promoted := view.findNewest(channel, view.now(now)); promoted && newest.isBefore(found) {
				newest = found
			}
		}
	}
	switch {
	case newest.At.IsZero():
		return 0, &StaleError{Channel: channel, Problem: notPromoted}
	case newest.Expires.IsZero():
		return 0, nil
	}
	return newest.Expires.Sub(newest.At), nil
}

// notPromoted is the problem of a channel without a promotion.
const notPromoted = "no trusted signer has promoted this version to it"

// maxClockSkew is how far the clock of who promotes may be ahead. A promotion dated later, without a proof of time, would
// keep a channel fresh until then.
const maxClockSkew = 5 * time.Minute

// findNewest returns the newest promotion to a channel that is not dated in the future.
func (v *channelView) findNewest(channel string, now time.Time) (newest promotion, promoted bool) {
	for _, p := range v.promotions[channel] {
		if !p.At.After(now.Add(maxClockSkew)) && newest.isBefore(p) {
			newest, promoted = p, true
		}
	}
	return newest, promoted
}

// isBefore reports whether another promotion counts instead.
func (p promotion) isBefore(next promotion) bool {
	return p.At.Before(next.At) || p.At.Equal(next.At) && p.Expires.Before(next.Expires)
}

// now returns the time, or a later one that has passed for sure.
func (v *channelView) now(clock time.Time) time.Time {
	if clock.Before(v.notBefore) {
		return v.notBefore
	}
	return clock
}

func (v *channelView) checkChannel(tag string, clock time.Time) *StaleError {
	now := v.now(clock)
	newest, promoted := v.findNewest(tag, now)
	problem := ""
	switch {
	case promoted:
		problem = newest.stale(v.rule, now)
	case len(v.promotions[tag]) > 0:
		problem = "its promotion is dated in the future: check the clocks of this machine and of who promotes"
	case v.rule != nil:
		problem = notPromoted
	}
	if problem == "" {
		return nil
	}
	return &StaleError{Channel: tag, Problem: problem, Policy: v.policy, Refused: v.rule != nil && v.rule.Stale == RefuseStale}
}

// stale returns why a channel with this newest promotion is stale, or "".
func (p promotion) stale(rule *ChannelRule, now time.Time) string {
	const format = time.RFC3339
	switch {
	case !p.Expires.IsZero() && !now.Before(p.Expires):
		return fmt.Sprintf("its newest promotion, of %s by %s, expired at %s", p.At.UTC().Format(format), p.by, p.Expires.UTC().Format(format))
	case rule != nil && rule.MaxAge != 0 && now.Sub(p.At) > time.Duration(rule.MaxAge):
		return fmt.Sprintf("its newest promotion, of %s by %s, is older than %s (maxAge)", p.At.UTC().Format(format), p.by, rule.MaxAge)
	}
	return ""
}
