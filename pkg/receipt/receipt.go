// Package receipt is the way back from sites that nobody can look into: signed statements of what was applied where,
// small enough for a QR code, and the state of a fleet that follows from them.
//
// A site signs a [Receipt] with [Receipt.Sign]. Whoever collects them calls [NewVerifier], [Verifier.Add] with the
// content of each file, and [Verifier.State].
//
// A receipt is an in-toto statement v1 in a DSSE envelope, of the media type application/vnd.in-toto+json. Its only
// subject is the root: the name under which the cluster knows it, and its sha256. Its predicate has the type
// [PredicateType], which says the version: fields are added within v1, and none is removed or gets another meaning.
//
//	version   what was applied
//	cluster   the UID of the namespace kube-system
//	policies  name and digest of each trust policy that accepted the root; none if nothing was verified
//	values    the digest of the site's values, as in the record on the cluster; absent without values
//	outcome   applied, paused or failed
//	failure   of a failed one: the code of the error, as in krtpkg's results
//	bundles   names by state: applied, unchanged, deleted, failed, blocked, notBegun
//	started, finished, krtpkg
package receipt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// PredicateType is the type of a receipt's predicate.
const PredicateType = "https://krtpkg.dev/receipt/v1"

const (
	statementType = "https://in-toto.io/Statement/v1"
	payloadType   = "application/vnd.in-toto+json"
)

// The limits of a receipt.
const (
	// MaxQRCode is how many bytes the largest QR code holds: version 40 with error correction L.
	MaxQRCode = 2953
	// MaxSize is how many bytes a receipt has. That is a runtime of 2,000 bundles.
	MaxSize     = 256 << 10
	maxElements = 10_000
)

// Outcome is how an apply ended.
type Outcome string

// The outcomes.
const (
	Applied Outcome = "applied" // all of it is there
	Paused  Outcome = "paused"  // as asked for, after a layer
	Failed  Outcome = "failed"
)

// Receipt is what was applied to a cluster, and how that ended.
type Receipt struct {
	// Name is the name under which the cluster knows the runtime; Version and Digest are the root's.
	Name    string
	Version string
	Digest  digest.Digest
	// Cluster is the UID of the namespace kube-system.
	Cluster string
	// Policies are the trust policies that accepted the root; none if nothing was verified.
	Policies []Policy
	// Values is the digest of the site's values; empty without values.
	Values digest.Digest
	// Outcome is how it ended; Failure is the code of the error, if Outcome is [Failed].
	Outcome Outcome
	Failure string
	Bundles Bundles
	// Started and Finished are by the clock of whoever applied, rounded to milliseconds.
	Started, Finished time.Time
	// Program is the version of krtpkg.
	Program string
}

// Policy is a trust policy.
type Policy struct {
	// Name is the base name of its file, or "flags".
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
}

// Bundles are names of bundles by what became of them.
type Bundles struct {
	Applied   []string `json:"applied,omitempty"`
	Unchanged []string `json:"unchanged,omitempty"`
	Deleted   []string `json:"deleted,omitempty"`
	Failed    []string `json:"failed,omitempty"`
	// Blocked were not begun, because something that they need failed, and NotBegun for other reasons.
	Blocked  []string `json:"blocked,omitempty"`
	NotBegun []string `json:"notBegun,omitempty"`
}

// statement is the in-toto statement of a receipt.
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     predicate `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

type predicate struct {
	Version  string        `json:"version,omitempty"`
	Cluster  string        `json:"cluster"`
	Policies []Policy      `json:"policies,omitempty"`
	Values   digest.Digest `json:"values,omitempty"`
	Outcome  Outcome       `json:"outcome"`
	Failure  string        `json:"failure,omitempty"`
	Bundles  Bundles       `json:"bundles"`
	Started  time.Time     `json:"started"`
	Finished time.Time     `json:"finished"`
	Program  string        `json:"krtpkg,omitempty"`
}

// Sign returns the receipt as a signed file. Times are rounded to milliseconds.
func (r Receipt) Sign(ctx context.Context, signer *sign.Signer) ([]byte, error) {
	r.Started, r.Finished = r.Started.UTC().Truncate(time.Millisecond), r.Finished.UTC().Truncate(time.Millisecond)
	if err := r.validateFields(); err != nil {
		return nil, fmt.Errorf("sign receipt: %w", err)
	}
	payload, err := json.Marshal(statement{
		Type: statementType, Subject: []subject{{r.Name, map[string]string{"sha256": r.Digest.Encoded()}}}, PredicateType: PredicateType,
		Predicate: predicate{
			Version: r.Version, Cluster: r.Cluster, Policies: r.Policies, Values: r.Values, Outcome: r.Outcome, Failure: r.Failure,
			Bundles: r.Bundles, Started: r.Started, Finished: r.Finished, Program: r.Program,
		},
	})
	if err != nil {
		return nil, err
	}
	data, err := sign.SignEnvelope(ctx, signer, payloadType, payload)
	if err == nil && len(data) > MaxSize {
		err = fmt.Errorf("sign receipt: %d bytes, the limit is %d: %w", len(data), MaxSize, oci.ErrTooLarge)
	}
	return data, err
}

// IsReceipt reports whether a file is a receipt by its form, whoever signed it.
func IsReceipt(data []byte) bool {
	kind, payload, err := sign.PeekEnvelope(data)
	if err != nil {
		return false
	}
	_, err = parseStatement(kind, payload)
	return err == nil
}

// parseStatement reads a receipt out of an envelope.
func parseStatement(kind string, payload []byte) (*Receipt, error) {
	if kind != payloadType {
		return nil, fmt.Errorf("payload type %q, want %s", kind, payloadType)
	}
	if err := oci.CheckJSON(payload, maxElements); err != nil {
		return nil, err
	}
	var s statement
	if err := json.Unmarshal(payload, &s); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	switch {
	case s.Type != statementType:
		return nil, fmt.Errorf("statement type %q, want %s", s.Type, statementType)
	case s.PredicateType != PredicateType:
		return nil, fmt.Errorf("predicate type %q, want %s", s.PredicateType, PredicateType)
	case len(s.Subject) != 1:
		return nil, fmt.Errorf("%d subjects, want one", len(s.Subject))
	}
	p := s.Predicate
	r := &Receipt{
		Name: s.Subject[0].Name, Version: p.Version, Digest: digest.NewDigestFromEncoded(digest.SHA256, s.Subject[0].Digest["sha256"]),
		Cluster: p.Cluster, Policies: p.Policies, Values: p.Values, Outcome: p.Outcome, Failure: p.Failure, Bundles: p.Bundles,
		Started: p.Started.UTC(), Finished: p.Finished.UTC(), Program: p.Program,
	}
	return r, r.validateFields()
}

var (
	bundleName = lazyregexp.New(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	clusterID  = lazyregexp.New(`^[0-9A-Za-z][0-9A-Za-z-]{0,63}$`)
	codeWord   = lazyregexp.New(`^[a-zA-Z]{0,64}$`)
)

// maxText is how many bytes a version or a file's name has.
const maxText = 255

func (r *Receipt) validateFields() error {
	switch {
	case !bundleName.MatchString(r.Name):
		return fmt.Errorf("%q is not the name of a runtime", r.Name)
	case r.Digest.Validate() != nil:
		return fmt.Errorf("digest of %s: %w", r.Name, r.Digest.Validate())
	case r.Digest.Algorithm() != digest.SHA256:
		return fmt.Errorf("digest of %s is %s, want %s", r.Name, r.Digest.Algorithm(), digest.SHA256)
	case !clusterID.MatchString(r.Cluster):
		return fmt.Errorf("%q is not the id of a cluster", r.Cluster)
	case r.Outcome != Applied && r.Outcome != Paused && r.Outcome != Failed:
		return fmt.Errorf("outcome %q, want %s, %s or %s", r.Outcome, Applied, Paused, Failed)
	case !codeWord.MatchString(r.Failure) || r.Failure != "" && r.Outcome != Failed:
		return fmt.Errorf("failure %q of the outcome %s", r.Failure, r.Outcome)
	case r.Values != "" && r.Values.Validate() != nil:
		return fmt.Errorf("values: %w", r.Values.Validate())
	case len(r.Version) > maxText || len(r.Program) > maxText:
		return fmt.Errorf("version or program: more than %d bytes", maxText)
	case r.Started.IsZero() || r.Finished.Before(r.Started):
		return errors.New("started and finished are required, and finished must not be before started")
	}
	for _, p := range r.Policies {
		if err := p.Digest.Validate(); err != nil || p.Name == "" || len(p.Name) > maxText {
			return fmt.Errorf("policy %q: want a name and a digest, got %q", p.Name, p.Digest)
		}
	}
	seen := map[string]bool{}
	for _, state := range [][]string{r.Bundles.Applied, r.Bundles.Unchanged, r.Bundles.Deleted, r.Bundles.Failed, r.Bundles.Blocked, r.Bundles.NotBegun} {
		for _, name := range state {
			if !bundleName.MatchString(name) || seen[name] {
				return fmt.Errorf("bundle %q: want each name once", name)
			}
			seen[name] = true
		}
	}
	return nil
}
