package site

import (
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/receipt"
)

// NewReceipt returns what a receipt says of an apply: report and err are what [deploy.Cluster.Apply] returned for rt, or
// nil and why it was not called. The caller adds the cluster, the policies, the times and the code of the failure.
func NewReceipt(rt deploy.Runtime, report *deploy.Report, err error) receipt.Receipt {
	r := receipt.Receipt{Name: rt.Name, Version: rt.Version, Digest: digest.Digest(rt.Digest), Outcome: receipt.Applied}
	if len(rt.Values) > 0 {
		r.Values = digest.FromBytes(rt.Values) // as in the record on the cluster
	}
	seen := map[string]bool{}
	add := func(into *[]string, name string) {
		if name != "" && !seen[name] {
			*into, seen[name] = append(*into, name), true
		}
	}
	b := &r.Bundles
	if report != nil {
		for _, o := range report.Applied {
			if o.Changes.HasAny() {
				add(&b.Applied, o.Bundle)
			} else {
				add(&b.Unchanged, o.Bundle)
			}
		}
		for _, o := range report.Deleted {
			add(&b.Deleted, o.Bundle)
		}
		for _, o := range report.Blocked {
			add(&b.Blocked, o.Bundle)
		}
	}
	for _, e := range bundleErrors(err) {
		add(&b.Failed, e.Bundle)
	}
	for _, u := range rt.Units {
		if name := u.Bundle; name != "" {
			add(&b.NotBegun, name)
		} else {
			add(&b.NotBegun, rt.Name) // a bundle that is applied without a runtime
		}
	}
	switch {
	case err != nil:
		r.Outcome = receipt.Failed
	case len(b.NotBegun) > 0:
		r.Outcome = receipt.Paused
	}
	for _, names := range []*[]string{&b.Applied, &b.Unchanged, &b.Deleted, &b.Failed, &b.Blocked, &b.NotBegun} {
		slices.Sort(*names)
	}
	return r
}

// bundleErrors returns the errors of single bundles that an error is made of.
func bundleErrors(err error) []*deploy.Error {
	switch e := err.(type) {
	case *deploy.Error:
		return []*deploy.Error{e}
	case interface{ Unwrap() []error }:
		var all []*deploy.Error
		for _, one := range e.Unwrap() {
			all = append(all, bundleErrors(one)...)
		}
		return all
	}
	if next := errors.Unwrap(err); next != nil {
		return bundleErrors(next)
	}
	return nil
}
