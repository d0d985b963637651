package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// attachedView is a signature or an attestation.
type attachedView struct {
	sign.Claim
	Verified bool
	By       string
}

// describeTrust returns what is attached to a version, and what the policy says of it in words.
func describeTrust(v *result.CatalogVersion, policy *result.ReceiptPolicy) (attached []attachedView, words []string) {
	trusted := map[sign.Object]bool{}
	switch verdict := v.Verdict; {
	case policy == nil || verdict == nil:
		words = append(words, "No trust policy was given, so nothing here was verified: signatures and attestations are what they claim to be.")
	case !verdict.Accepted:
		words = append(words, fmt.Sprintf("Refused by the policy %s: %s", policy.Name, verdict.Reason))
	default:
		var signers, attested []string
		for _, s := range verdict.Signatures.Verified {
			trusted[s.Object] = true
			if by := describeSigner(s); !slices.Contains(signers, by) {
				signers = append(signers, by)
			}
		}
		for _, s := range verdict.Signatures.Attestations {
			trusted[s.Object] = true
			if line := fmt.Sprintf("%s attested: %s", describeSigner(s), describeKind(s.PredicateType)); !slices.Contains(attested, line) {
				attested = append(attested, line)
			}
		}
		words = append(words, fmt.Sprintf("Accepted by the policy %s: signed by %s.", policy.Name, strings.Join(signers, " and ")))
		words = append(words, attested...)
		for _, p := range verdict.Promotions {
			until := ""
			if !p.Expires.IsZero() {
				until = ", until " + formatTime(p.Expires)
			}
			words = append(words, fmt.Sprintf("Promoted to %s by %s at %s%s", p.Channel, p.By, formatTime(p.At), until))
		}
		if verdict.Stale != "" {
			words = append(words, "Stale: "+verdict.Stale)
		}
		for _, tag := range verdict.StaleTags {
			if tag.Refused {
				words = append(words, fmt.Sprintf("The policy refuses to follow the tag %s: %s", tag.Tag, tag.Reason))
			} else {
				words = append(words, fmt.Sprintf("The tag %s: %s", tag.Tag, tag.Reason))
			}
		}
	}
	for _, c := range slices.Concat(v.Signatures, v.Attestations) {
		attached = append(attached, attachedView{c, trusted[c.Object], DescribeClaimant(c)})
	}
	slices.SortStableFunc(attached, func(a, b attachedView) int { return cmp.Compare(btoi(b.Verified), btoi(a.Verified)) })
	return attached, words
}

// describeSigner names who signed.
func describeSigner(v sign.Verified) string {
	by := DescribeClaimant(v.Claim())
	if v.Authority != "" && v.Authority != v.KeyID && (v.Certificate == nil || v.Authority != v.Certificate.Subject) {
		by = v.Authority + ", " + by
	}
	return by
}

// kinds are what predicate types are called by people.
var kinds = map[string]string{
	"": "signature", typeCycloneDX: "bill of materials (CycloneDX)", typeSPDX: "bill of materials (SPDX)", "https://slsa.dev/provenance/v1": "provenance (SLSA)",
	typeCosignVuln: "report of vulnerabilities", typeOpenVEX: "statement on vulnerabilities (OpenVEX)",
}

// describeKind returns what a predicate is.
func describeKind(predicateType string) string {
	if isReport(predicateType) && !isVEX(predicateType) {
		predicateType = typeCosignVuln
	}
	return cmp.Or(kinds[predicateType], predicateType)
}
