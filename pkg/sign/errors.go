package sign

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrUnsigned is the error of a root that has no signature at all.
	ErrUnsigned = errors.New("no signature found")
	// ErrNotVerified is the error of a root that has signatures, none of them valid.
	ErrNotVerified = errors.New("no valid signature")
	// ErrTooMany is the error of a root with more signatures or referrers than are examined.
	ErrTooMany = errors.New("too many to examine")
)

// Object is one signature, as the store has it.
type Object struct {
	Form Form `json:"form"`
	// Manifest is the manifest that holds the signature.
	Manifest digest.Digest `json:"digest"`
	// Layer is its place among the manifest's layers; only the Legacy and Referrer forms
	// hold more than one.
	Layer int `json:"layer,omitempty"`
}

func (o Object) String() string {
	if o.Layer > 0 {
		return fmt.Sprintf("%s (%s form, layer %d)", o.Manifest, o.Form, o.Layer)
	}
	return fmt.Sprintf("%s (%s format)", o.Manifest, o.Form)
}

// Rejected is a signature that was found and not accepted.
type Rejected struct {
	Object
	// Err is the reason.
	Err error

	// attestation is set if it is an attestation and not a signature.
	attestation bool
}

// MarshalJSON writes Err as its message, "reason".
func (r Rejected) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Object
		Reason string `json:"reason"`
	}{r.Object, r.Err.Error()})
}

// VerifyError is the error of [Verify] if too few authorities have signed.
// errors.Is matches ErrUnsigned if there were no signatures, otherwise ErrNotVerified and each reason for a rejection.
type VerifyError struct {
	Root     digest.Digest `json:"root"`
	Rejected []Rejected    `json:"rejected,omitempty"`
	// Signed are the authorities whose signatures are valid, fewer than Threshold.
	Signed    []string `json:"signed,omitempty"`
	Threshold int      `json:"threshold"`
	// Unexamined is how many more there are than are examined; then it is ErrTooMany, too.
	Unexamined int `json:"unexamined,omitempty"`
}

func (e *VerifyError) cause() error {
	if len(e.Rejected)+len(e.Signed) == 0 {
		return ErrUnsigned
	}
	return ErrNotVerified
}

// maxReasons limits the signatures that an error message lists.
const maxReasons = 5

func (e *VerifyError) Error() string {
	if e.Unexamined > 0 {
		return fmt.Sprintf("%s; %d more: %v", e.reasons(), e.Unexamined, ErrTooMany)
	}
	return e.reasons()
}

func (e *VerifyError) reasons() string {
	n := len(e.Rejected)
	few := fmt.Sprintf("%s: signed by %s, but %d signers are required", e.Root, strings.Join(e.Signed, ", "), e.Threshold)
	switch {
	case n+len(e.Signed) == 0:
		return fmt.Sprintf("%s: %v", e.Root, ErrUnsigned)
	case n == 0:
		return few
	}
	var reasons []string
	for _, r := range e.Rejected[:min(n, maxReasons)] {
		reasons = append(reasons, fmt.Sprintf("%s: %v", r.Object, r.Err))
	}
	if n > maxReasons {
		reasons = append(reasons, fmt.Sprintf("and %d more", n-maxReasons))
	}
	count := "1 signature, not valid"
	if n > 1 {
		count = fmt.Sprintf("%d signatures, none valid", n)
	}
	if len(e.Signed) > 0 {
		return fmt.Sprintf("%s; not counted: %s", few, strings.Join(reasons, "; "))
	}
	return fmt.Sprintf("%s: %s: %s", e.Root, count, strings.Join(reasons, "; "))
}

func (e *VerifyError) Unwrap() []error {
	errs := []error{e.cause()}
	if e.Unexamined > 0 {
		errs = append(errs, ErrTooMany)
	}
	for _, r := range e.Rejected {
		errs = append(errs, r.Err)
	}
	return errs
}
