package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/trust"
)

type verifyOptions struct {
	trust  trustFlags
	images bool
	format ui.Format
}

func (a *app) verifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify REFERENCE",
		Short: "verify who signed a bundle or a runtime, and what is attested",
		Long: `Verify checks the signatures of the root against the trusted signers of the flags or the policy
file, the attestations that the policy requires, and every byte of the root and its nested bundles
against the signed digest. It contacts only the place of the reference: no log, no certificate
authority and no other host. It does not read the images, which the root names by digest: krtpkg
check reads every byte of them.

The exit code is 3 if verification fails.`,
		Example: `  krtpkg verify --key cosign.pub registry.example/krt/edge:1.0.0
  krtpkg verify --policy trust.yaml --images registry.example/krt/edge:1.0.0
  krtpkg verify --certificate-identity release@krt.example --ca-roots ca.pem edge-1.0.0.tar`,
		GroupID: groupTrust,
		Args:    oneReference,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runVerify(cmd.Context(), args[0], o) },
	}
	o.trust.addTrustFlags(cmd)
	cmd.Flags().BoolVar(&o.images, "images", false, "also verify upstream's signatures of workload images for which the policy has rules")
	outputFlag(cmd, &o.format)
	return cmd
}

func (a *app) runVerify(ctx context.Context, reference string, o verifyOptions) error {
	policy, err := a.loadTrust(ctx, &o.trust)
	if err != nil {
		return err
	}
	if policy == nil {
		return &usageError{errVerificationRequired}
	}
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	found, err := a.verifyRoot(ctx, at, policy)
	if err != nil {
		return err
	}
	set, err := a.openSet(ctx, at)
	if err != nil {
		return err
	}
	view := newVerification(at, set, found)
	if o.images {
		if view.images, err = a.verifyImages(ctx, at.store, set, policy); err != nil {
			return err
		}
		for _, image := range view.images {
			one := result.VerifiedImage{Reference: image.Reference, Digest: image.Digest.String()}
			if image.Result != nil {
				one.Signatures = catalog.DescribeSignatures(image.Result)
			}
			view.Images = append(view.Images, one)
		}
	}
	return a.printResult(ctx, o.format, view, nil, view.writeText)
}

func (v *verification) writeText(w io.Writer) {
	ui.Fprintf(w, "%s\n  is\t%s %s\n", v.Reference, v.Name, v.Version)
	for _, s := range v.Verified {
		ui.Fprintf(w, "  signed by\t%s\n  stored as\t%s\n", signerName(s), s.Object)
		writeProofs(w, s)
		for _, claim := range listClaims(s) {
			ui.Fprintf(w, "  claim\t%s\n", claim)
		}
	}
	for _, p := range v.Promotions {
		until := ""
		if !p.Expires.IsZero() {
			until = ", until " + p.Expires.Format(time.RFC3339)
		}
		ui.Fprintf(w, "  promoted\tto %s by %s at %s%s\n", p.Channel, p.By, p.At.Format(time.RFC3339), until)
	}
	said := map[string]bool{} // in one form or in two
	for _, s := range v.Attestations {
		line := fmt.Sprintf("%s, by %s", s.PredicateType, signerName(s))
		if !said[line] {
			ui.Fprintf(w, "  attested\t%s\n", line)
		}
		said[line] = true
	}
	for _, r := range v.Rejected {
		ui.Fprintf(w, "  not counted\t%s: %s\n", r.Object, r.Reason)
	}
	if v.UnexaminedCount > 0 {
		ui.Fprintf(w, "  not looked at\t%d more, since these suffice\n", v.UnexaminedCount)
	}
	ui.Fprintf(w, "  intact\t%s\n", countNoun(len(v.Bundles), "bundle"))
	if v.imageCount > 0 {
		ui.Fprintf(w, "  not read\t%s: krtpkg check reads every byte\n", countNoun(v.imageCount, "image"))
	}
	for _, image := range v.images {
		if image.Result == nil {
			ui.Fprintf(w, "  image\t%s: no matching rule\n", image.Reference)
		} else {
			ui.Fprintf(w, "  image\t%s signed by %s\n", image.Reference, signerNames(image.Result))
		}
	}
}

func writeProofs(w io.Writer, v sign.Verified) {
	for _, t := range v.Times {
		ui.Fprintf(w, "  signed at\t%s, according to a %s\n", t.Time.Format(time.RFC3339), t.Source)
	}
	for _, l := range v.Log {
		ui.Fprintf(w, "  logged\tentry %d of log %s\n", l.Index, l.LogID)
	}
}

func listClaims(v sign.Verified) []string {
	var list []string
	if v.Reference != "" {
		list = append(list, "reference "+v.Reference)
	}
	for _, key := range sortedKeys(v.Annotations) {
		list = append(list, fmt.Sprintf("%s=%v", key, v.Annotations[key]))
	}
	return list
}

// verification is what verify shows.
type verification struct {
	result.Verify
	// images are those of the result.
	images []trust.Image
	// imageCount is how many images the bundles name, none of which was read.
	imageCount int
}

func newVerification(at *openedReference, set *bundle.Set, found *sign.Result) *verification {
	v := &verification{Verify: result.Verify{
		Artifact:   describeArtifact(&set.Root.Content, at.root.Digest, at.pinnedReference()),
		Signatures: *catalog.DescribeSignatures(found), Bundles: []result.Artifact{},
	}}
	for _, b := range set.Bundles {
		v.Bundles = append(v.Bundles, describeArtifact(&b.Content, b.Descriptor.Digest, ""))
	}
	digests := map[string]bool{}
	for _, b := range set.Bundles {
		for _, image := range b.Images {
			digests[image.Image.DigestStr()] = true
		}
	}
	v.imageCount = len(digests)
	v.Promotions = site.ListPromotions(found)
	return v
}
