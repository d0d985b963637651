package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/user"
	"regexp"
	"time"

	"github.com/Masterminds/semver/v3"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// typePromotion is the predicate type of what promote attests.
const typePromotion = "https://krtpkg.dev/promotion/v1"

type promoteOptions struct {
	signFlags
	trust trustFlags
	to    string
	by    string
	back  bool
}

func (a *app) promoteCommand() *cobra.Command {
	var o promoteOptions
	cmd := &cobra.Command{
		Use:   "promote REFERENCE --to CHANNEL --key KEY",
		Short: "move the tag of a channel, such as stable, to a verified version",
		Long: `Promote verifies a bundle or a runtime, attaches a signed attestation of who promotes it to the
channel and when, and moves the channel's tag to the verified digest. Sites that follow the tag
then use this version.

The policy file or --trust-key defines the trusted signers; --key or --keyless signs the attestation,
as with sign. A channel moves to an older version only with --back.`,
		Example: `  krtpkg promote --trust-key cosign.pub --key cosign.key --to candidate registry.example/krt/edge:1.0.0
  krtpkg promote --policy trust.yaml --keyless --to stable registry.example/krt/edge:candidate`,
		GroupID: groupTrust,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runPromote(cmd.Context(), args[0], &o) },
	}
	o.addSignFlags(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&o.trust.keys, "trust-key", nil, "trusted public key; can be repeated, any of them may have signed")
	flags.StringVar(&o.trust.policy, "policy", "", "trust policy file (also $"+policyVariable+", or trust.yaml next to the config file)")
	flags.StringVar(&o.to, "to", "", "the channel: a tag that is not a version")
	flags.StringVar(&o.by, "by", "", "who promotes (default: the user of this machine)")
	flags.BoolVar(&o.back, "back", false, "let the channel go back to an older version")
	requireFlags(cmd, "to")
	return cmd
}

var tagRule = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9._-]{0,127}$`)

func (a *app) runPromote(ctx context.Context, reference string, o *promoteOptions) error {
	if _, err := semver.NewVersion(o.to); err == nil || !tagRule.MatchString(o.to) {
		return &usageError{fmt.Errorf("--to %q: want the name of a channel, such as stable; versions never move", o.to)}
	}
	policy, err := a.loadTrust(ctx, &o.trust)
	if err != nil {
		return err
	}
	if policy == nil {
		return &usageError{errors.New("verification required: pass --trust-key or --policy")}
	}
	options, err := a.signOptions(ctx, &o.signFlags)
	if err != nil {
		return err
	}
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	if at.File != "" {
		return &usageError{fmt.Errorf("%s: an archive has no channels: promote in a registry or a folder", reference)}
	}
	found, err := a.verifyRoot(ctx, at, policy)
	if err != nil {
		return err
	}
	a.ui.Say("verified %s, signed by %s", at.pinnedReference(), signerNames(found))
	set, err := a.openSet(ctx, at)
	if err != nil {
		return err
	}
	options.Reference = nameOf(at, set)
	p := result.Promotion{Channel: o.to, Repository: options.Reference, Version: set.Root.Metadata().Version, By: o.by, At: time.Now().UTC().Truncate(time.Second)}
	if p.By == "" {
		who, err := user.Current()
		if err != nil {
			return fmt.Errorf("promoter unknown: pass --by: %w", err)
		}
		p.By = who.Username
	}
	before, err := at.store.Resolve(ctx, o.to)
	switch {
	case errors.Is(err, errdef.ErrNotFound):
	case err != nil:
		return err
	case before.Digest == at.root.Digest:
		a.ui.Say("%s is at %s %s already", o.to, set.Name(), p.Version)
		return a.printPromoted(ctx, at, set, o, p)
	default:
		p.Previous = before.Digest.String()
		if err := refuseOlder(ctx, at, before, set, o); err != nil {
			return err
		}
	}
	store, err := at.Create(ctx, at.client)
	if err != nil {
		return err
	}
	predicate, err := json.Marshal(p)
	if err != nil {
		return err
	}
	attached, err := sign.Attest(ctx, store, at.root, []sign.Statement{{Type: typePromotion, Predicate: predicate}}, options)
	if err != nil {
		return err
	}
	a.sayAttached(at, attached)
	// The tag last: who follows it finds the attestation.
	if err := store.Tag(ctx, at.root, o.to); err != nil {
		return err
	}
	return a.printPromoted(ctx, at, set, o, p)
}

// refuseOlder refuses what would take a channel back, or over from another product.
func refuseOlder(ctx context.Context, at *openedReference, before ocispec.Descriptor, set *bundle.Set, o *promoteOptions) error {
	m, err := bundle.ReadManifest(ctx, at.store, before)
	if err != nil {
		return fmt.Errorf("read channel %s: %w", o.to, err)
	}
	if titleOf(m) != set.Name() {
		return fmt.Errorf("channel %s belongs to %s, not to %s", o.to, titleOf(m), set.Name())
	}
	was, err := semver.NewVersion(m.Annotations[ocispec.AnnotationVersion])
	if err != nil {
		return fmt.Errorf("channel %s points to an artifact without a version: %w", o.to, err)
	}
	is, err := semver.NewVersion(set.Root.Metadata().Version)
	if err != nil {
		return err
	}
	if is.LessThan(was) && !o.back {
		return fmt.Errorf("channel %s is at %s, which is newer than %s: pass --back to go back", o.to, was, is)
	}
	return nil
}

func (a *app) printPromoted(ctx context.Context, at *openedReference, set *bundle.Set, o *promoteOptions, p result.Promotion) error {
	channel := at.WithTag(o.to)
	channel.Digest = at.root.Digest
	r := &result.Promote{Artifact: describeArtifact(&set.Root.Content, at.root.Digest, channel.String()), Promotion: p}
	return a.printResult(ctx, o.format, r, nil, func(w io.Writer) { ui.Fprintln(w, channel) })
}
