package preflight

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error" // the apply would fail, or do harm
	SeverityWarning Severity = "warning"
)

// Finding is something that a look before an apply has found.
type Finding struct {
	Severity Severity `json:"severity"`
	// Check is what was looked at, one of [Checks] or "kapp".
	Check    string `json:"check"`
	Bundle   string `json:"bundle,omitempty"`
	Resource string `json:"resource,omitempty"`
	Message  string `json:"message"`
	// Cause is what it was found from, if that is an error.
	Cause error `json:"-"`

	fixed bool // to leave the check out would not help
}

func (f Finding) String() string {
	at := make([]string, 0, 2)
	for _, part := range []string{f.Bundle, f.Resource} {
		if part != "" {
			at = append(at, part)
		}
	}
	text := f.Message
	if len(at) > 0 {
		text = strings.Join(at, ", ") + ": " + text
	}
	return fmt.Sprintf("%s (%s): %s", f.Severity, f.Check, text)
}

// The checks that a look before an apply does.
const (
	CheckKubernetes = "kubernetes" // the cluster's version against the bundles' ranges
	CheckAPI        = "api"        // kinds that are served, removed, or deprecated
	CheckAccess     = "access"     // permissions
	CheckTwice      = "twice"      // one resource in two bundles
	CheckDefaults   = "defaults"   // two default classes of a kind
	CheckWorkloads  = "workloads"  // replicas that two set, budgets that allow no eviction
	CheckImages     = "images"     // by the caller: that images are where the references point to
	CheckPlatforms  = "platforms"  // images' platforms against those of the nodes
	CheckDryRun     = "dry-run"    // by a plan: what the API server would refuse, and what cannot be changed
	// by a plan: what changes of CustomResourceDefinitions do to resources that exist
	CheckDefinitions = "definitions"
	CheckDowngrade   = "downgrade"  // an older version over a newer one: a warning
	CheckNamespaces  = "namespaces" // that they are there to stay, and take the records; not to be skipped
	CheckForeign     = "foreign"    // by a plan: what others have put into what would be deleted; not to be skipped
)

// Checks are those that can be skipped.
var Checks = []string{CheckKubernetes, CheckAPI, CheckAccess, CheckTwice, CheckDefaults, CheckWorkloads, CheckImages, CheckPlatforms, CheckDryRun, CheckDefinitions}

// ErrFindings means that a look before an apply has found something wrong.
var ErrFindings = errors.New("the cluster is not ready")

// FindingsError lists what keeps a runtime from being applied. It is [ErrFindings], and what it was
// found from.
type FindingsError struct{ Findings []Finding }

func (e *FindingsError) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%v:", ErrFindings)
	for _, f := range e.Findings {
		text.WriteString("\n  " + strings.ReplaceAll(f.String(), "\n", "\n    "))
	}
	return text.String()
}

func (e *FindingsError) Unwrap() []error {
	causes := []error{ErrFindings}
	for _, f := range e.Findings {
		if f.Cause != nil {
			causes = append(causes, f.Cause)
		}
	}
	return causes
}

// SkippableChecks returns the checks to leave out so that nothing is found; none if that is not possible.
func (e *FindingsError) SkippableChecks() []string {
	var names []string
	for _, f := range e.Findings {
		if f.fixed || !slices.Contains(Checks, f.Check) {
			return nil
		}
		if !slices.Contains(names, f.Check) {
			names = append(names, f.Check)
		}
	}
	return names
}

// RefuseFindings gives a [*FindingsError] that lists what is wrong, or nil if there are only warnings.
func RefuseFindings(findings []Finding) error {
	wrong := slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.Severity != SeverityError })
	if len(wrong) == 0 {
		return nil
	}
	return &FindingsError{Findings: wrong}
}
