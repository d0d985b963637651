package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/site"
)

type promoteOptions struct {
	signFlags
	trust trustFlags
	to    string
	by    string
	back  bool
	// expires is how long the promotion counts, refresh renews that of a channel that is there.
	expires dayDuration
	refresh bool
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
as with sign. A channel moves to an older version, or to another build of its version, only with --back.

With --expires the channel is stale from then on, unless --refresh renews its record in time or another
version is promoted: sites warn of stale channels, or refuse them if their policy says so. Renewal
jobs should name a version or a digest, since the registry decides where a channel leads. To promote a
stale channel again, omit --refresh.`,
		Example: `  krtpkg promote --trust-key cosign.pub --key cosign.key --to candidate registry.example/krt/edge:1.0.0
  krtpkg promote --policy trust.yaml --keyless --to stable registry.example/krt/edge:candidate
  krtpkg promote --trust-key cosign.pub --key cosign.key --to stable --expires 30d registry.example/krt/edge:candidate
  krtpkg promote --trust-key cosign.pub --key cosign.key --to stable --refresh registry.example/krt/edge:1.0.0`,
		GroupID: groupTrust,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runPromote(cmd.Context(), args[0], &o) },
	}
	o.addSignFlags(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&o.trust.keys, "trust-key", nil, "trusted public key; can be repeated: one valid signature is enough")
	flags.StringVar(&o.trust.policy, "policy", "", "trust policy file (also $"+policyVariable+", or trust.yaml next to the config file)")
	flags.StringVar(&o.to, "to", "", "the channel: a tag that is not a version")
	flags.StringVar(&o.by, "by", "", "who promotes (default: the user of this machine)")
	flags.BoolVar(&o.back, "back", false, "let the channel go back to an older version, or move to another build of its version")
	flags.BoolVar(&o.back, "allow-downgrade", false, "the same as --back")
	flags.Var(&o.expires, "expires", "how long this promotion keeps the channel fresh, such as 30d (default: forever; with --refresh as long as before)")
	flags.BoolVar(&o.refresh, "refresh", false, "renew the promotion of a channel that is at this version, and is not stale")
	requireFlags(cmd, "to")
	return cmd
}

func (a *app) runPromote(ctx context.Context, reference string, o *promoteOptions) error {
	if err := site.ValidateChannel(o.to); err != nil {
		return &usageError{fmt.Errorf("--to %w", err)}
	}
	policy, err := a.loadTrust(ctx, &o.trust)
	if err != nil {
		return err
	}
	if policy == nil {
		return &usageError{errors.New("verification required: pass --trust-key or --policy")}
	}
	options := site.PromoteOptions{Channel: o.to, By: o.by, AllowOlder: o.back, Expires: time.Duration(o.expires), Refresh: o.refresh}
	if options.Sign, err = a.signOptions(ctx, &o.signFlags); err != nil {
		return err
	}
	if options.By == "" {
		who, err := user.Current()
		if err != nil {
			return fmt.Errorf("promoter unknown: pass --by: %w", err)
		}
		options.By = who.Username
	}
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	if at.File != "" {
		return &usageError{fmt.Errorf("%s: an archive has no channels: promote in a registry or a folder", reference)}
	}
	root, err := a.openVerified(ctx, at, policy)
	if err != nil {
		return err
	}
	a.ui.Say("verified %s, signed by %s", at.pinnedReference(), signerNames(root.Verified))
	store, err := at.Create(ctx, at.client)
	if err != nil {
		return err
	}
	promoted, err := site.Promote(ctx, store, root, options)
	if err != nil {
		return err
	}
	if promoted.Attached == nil {
		a.ui.Say("%s is at %s %s already", o.to, root.Name(), promoted.Version)
		if o.expires > 0 {
			a.ui.Note("note: nothing was written, and --expires did not count: renew the promotion with --refresh")
		}
	}
	if !promoted.Expires.IsZero() {
		a.ui.Say("%s is fresh until %s", o.to, promoted.Expires.Format(time.RFC3339))
	}
	a.sayAttached(at, promoted.Attached)
	channel := at.WithTag(o.to)
	channel.Digest = at.root.Digest
	r := &result.Promote{Artifact: describeArtifact(&root.Set.Root.Content, at.root.Digest, channel.String()), Promotion: promoted.Promotion}
	return a.printResult(ctx, o.format, r, nil, func(w io.Writer) { ui.Fprintln(w, channel) })
}
