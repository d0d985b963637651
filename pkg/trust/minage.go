package trust

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/pkg/sign"
)

// TooYoungError reports signatures that are younger than a rule requires, or of which nothing proves when they were made.
// It is [ErrRefused].
type TooYoungError struct {
	// What is the place or the image, Policy the name of the policy.
	What, Policy string
	MinAge       Age
	// Signatures say of each signer how old its oldest signature is.
	Signatures []string
	// From is when enough signatures are old enough; zero if that is never, since some have no proof of their time.
	From time.Time
}

func (e *TooYoungError) Error() string {
	problem := fmt.Sprintf("%s: %s; %s requires signatures at least %s old (minAge)", e.What, strings.Join(e.Signatures, "; "), e.Policy, e.MinAge)
	if !e.From.IsZero() {
		problem += ": acceptable from " + e.From.UTC().Format(time.RFC3339)
	}
	return problem
}

// Is makes it a refusal.
func (e *TooYoungError) Is(err error) bool { return err == ErrRefused }

// checkAge returns an error unless as many signers as the rule requires have signed long enough ago, by a time that a
// log or a timestamp authority proves. The clock, and what a signer claims, prove nothing.
func (r *ResolvedRule) checkAge(result *sign.Result, what, policy string, now time.Time) error {
	if r.MinAge == 0 {
		return nil
	}
	refused := &TooYoungError{What: what, Policy: policy, MinAge: r.MinAge}
	var from []time.Time
	old := 0
	for _, signer := range result.Authorities() {
		at := earliestProof(result, signer)
		switch {
		case at.IsZero():
			refused.Signatures = append(refused.Signatures, fmt.Sprintf("signed by %s without a proof of when", signer))
		case now.Sub(at) < time.Duration(r.MinAge):
			from = append(from, at.Add(time.Duration(r.MinAge)))
			refused.Signatures = append(refused.Signatures, fmt.Sprintf("signed by %s at %s", signer, at.UTC().Format(time.RFC3339)))
		default:
			old++
		}
	}
	missing := max(r.Threshold, 1) - old
	if missing <= 0 {
		return nil
	}
	if slices.SortFunc(from, time.Time.Compare); missing <= len(from) {
		refused.From = from[missing-1]
	}
	return refused
}

// earliestProof returns the time by which a signer has signed: the earliest that is proven, since each proof shows that
// the signature was there; zero without one.
func earliestProof(result *sign.Result, signer string) (earliest time.Time) {
	for _, v := range result.Verified {
		for _, t := range v.Times {
			if v.Authority == signer && t.IsProof() && (earliest.IsZero() || t.Time.Before(earliest)) {
				earliest = t.Time
			}
		}
	}
	return earliest
}

// checkProofs returns an error if a rule wants an age of signatures of which none can prove its time.
func (r *ResolvedRule) checkProofs() error {
	can := 0
	for i := range r.Signers {
		if r.Signers[i].CanProveTime() {
			can++
		}
	}
	if r.MinAge != 0 && can < max(r.Threshold, 1) {
		return errors.New("minAge: no proof of time is possible: want authorities with timestamps, or with a trustedRoot that has a timestamp authority or a log")
	}
	return nil
}
