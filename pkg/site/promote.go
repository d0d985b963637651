package site

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// PromotionType is the predicate type of the attestations of [Promote]; the predicate is a [result.Promotion].
const PromotionType = trust.PromotionType

// PromoteOptions are for [Promote].
type PromoteOptions struct {
	// Channel is the tag to move. It is required; [ValidateChannel] lists the rules.
	Channel string
	// By is the person or the system that promotes. It is required.
	By string
	// AllowOlder moves a channel to an older version than the one it is at, or to another build of that version.
	AllowOlder bool
	// Expires is how long the promotion makes the channel fresh; for ever when zero, and as long as the newest promotion
	// did with Refresh.
	Expires time.Duration
	// Refresh renews the promotion of a channel that is at the root already, by one whose promotions count, and is not
	// stale. Who does so by a schedule names the root by a version or a digest: the channel says what its registry wants.
	Refresh bool
	// Sign signs the attestation. Its Reference defaults to the repository of the root, or else to its name.
	Sign sign.SignOptions
	// Time is the time of the promotion (default: now).
	Time time.Time
}

// Promoted is what [Promote] did.
type Promoted struct {
	result.Promotion
	// Attached are the attestations; nil if the channel was at the root already, and nothing was written.
	Attached []sign.Attached
}

var channelPattern = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9._-]{0,127}$`)

// ValidateChannel refuses what is not the name of a channel: what is not a tag, and versions, since these never move.
func ValidateChannel(name string) error {
	if _, err := semver.NewVersion(name); err == nil || !channelPattern.MatchString(name) {
		return fmt.Errorf("%q: want the name of a channel, such as stable; versions never move", name)
	}
	return nil
}

// Promote moves a channel, such as stable, to a verified root: it attaches a signed attestation of who promotes it and
// when, and then moves the tag, so that sites that follow it find the attestation. Both are written to target, which
// holds the same content as root.Store. A channel that is at the root already stays as it is, unless its promotion has
// ended, or Refresh renews it: then there is a new attestation. A stale channel is not renewed by its own name.
//
// Errors: [ErrVerificationRequired] if root was opened without verification; those of [ValidateChannel]; [*OlderError];
// [*NotPromotedError]; a channel that belongs to something else.
func Promote(ctx context.Context, target oras.GraphTarget, root *Root, opts PromoteOptions) (*Promoted, error) {
	switch err := ValidateChannel(opts.Channel); {
	case err != nil:
		return nil, fmt.Errorf("channel %w", err)
	case root.Verified == nil:
		return nil, ErrVerificationRequired
	case opts.By == "":
		return nil, errors.New("promoter required: set By")
	}
	if opts.Time.IsZero() {
		opts.Time = time.Now()
	}
	opts.Sign.Reference = cmp.Or(opts.Sign.Reference, root.Repository, root.Set.Name())
	p := &Promoted{Promotion: result.Promotion{
		Channel: opts.Channel, Repository: opts.Sign.Reference, Version: root.Set.Root.Metadata().Version,
		By: opts.By, At: opts.Time.UTC().Truncate(time.Second),
	}}
	before, err := root.Store.Resolve(ctx, opts.Channel)
	atRoot := err == nil && before.Digest == root.Source.Root.Digest
	validity, stale := root.Channels.FindPromotion(opts.Channel, opts.Time)
	if opts.Expires == 0 && opts.Refresh {
		opts.Expires = validity
	}
	if opts.Expires > 0 {
		p.Expires = p.At.Add(opts.Expires)
	}
	not := &NotPromotedError{Channel: opts.Channel, Version: p.Version, Digest: root.Source.Root.Digest}
	// By the channel alone nobody says which version is meant: its registry does.
	isNamed := root.Pinned || root.Tag != opts.Channel
	// A promotion that does not count for this policy may count for another one: it is not repeated unasked.
	var ended *trust.StaleError
	hasEnded := errors.As(stale, &ended) && !ended.IsUnpromoted()
	switch {
	case opts.Refresh && (err == nil && !atRoot || errors.Is(err, errdef.ErrNotFound)):
		return nil, not
	case atRoot && stale != nil && !isNamed && (opts.Refresh || hasEnded):
		not.Err = stale
		return nil, not
	case atRoot && (opts.Refresh || hasEnded):
	case errors.Is(err, errdef.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("resolve channel %s: %w", opts.Channel, err)
	case atRoot:
		p.Expires = time.Time{}
		return p, nil
	default:
		p.Previous = before.Digest.String()
		if err := root.checkChannel(ctx, before, opts); err != nil {
			return nil, err
		}
	}
	return p, p.attachAndTag(ctx, target, root.Source.Root, opts.Sign, atRoot)
}

// NotPromotedError reports a channel that is not at the version for which it was to be renewed, or whose promotion does
// not count any more.
type NotPromotedError struct {
	Channel, Version string
	Digest           digest.Digest
	// Err is a [*trust.StaleError]; nil if the channel is not at the version.
	Err error
}

// Unwrap returns the cause.
func (e *NotPromotedError) Unwrap() error { return e.Err }

func (e *NotPromotedError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("renew channel %s at %s (%s): %v", e.Channel, e.Version, e.Digest, e.Err)
	}
	return fmt.Sprintf("renew channel %s: not at %s (%s)", e.Channel, e.Version, e.Digest)
}

func (p *Promoted) attachAndTag(ctx context.Context, target oras.GraphTarget, root ocispec.Descriptor, opts sign.SignOptions, isThere bool) error {
	predicate, err := json.Marshal(p.Promotion)
	if err != nil {
		return err
	}
	if p.Attached, err = sign.Attest(ctx, target, root, []sign.Statement{{Type: PromotionType, Predicate: predicate}}, opts); err != nil {
		return err
	}
	if isThere {
		return nil
	}
	if err := target.Tag(ctx, root, p.Channel); err != nil {
		return fmt.Errorf("move channel %s: %w", p.Channel, err)
	}
	return nil
}

// checkChannel refuses to move a channel away from another product, to an older version or to another build of its
// version.
func (r *Root) checkChannel(ctx context.Context, before ocispec.Descriptor, opts PromoteOptions) error {
	m, err := bundle.ReadManifest(ctx, r.Store, before)
	if err != nil {
		return fmt.Errorf("read channel %s: %w", opts.Channel, err)
	}
	if title := m.Annotations[ocispec.AnnotationTitle]; title != r.Set.Name() {
		return fmt.Errorf("channel %s belongs to %s, not to %s", opts.Channel, cmp.Or(title, "an artifact without a name"), r.Set.Name())
	}
	err = transfer.CheckRelease("channel "+opts.Channel,
		bundle.Release{Name: r.Set.Name(), Version: m.Annotations[ocispec.AnnotationVersion], Digest: before.Digest},
		bundle.Release{Name: r.Set.Name(), Version: r.Set.Root.Metadata().Version, Digest: r.Source.Root.Digest})
	var back *transfer.DowngradeError
	if errors.As(err, &back) && !opts.AllowOlder {
		return &OlderError{opts.Channel, *back}
	}
	return nil
}

// OlderError reports a channel that would move to an older version, or to another build of its version.
type OlderError struct {
	Channel string
	transfer.DowngradeError
}

// ListPromotions returns the promotions among verified attestations, the latest last.
func ListPromotions(verified *sign.Result) []result.Promotion {
	var all []result.Promotion
	for _, s := range verified.Attestations {
		var p result.Promotion
		if s.PredicateType == PromotionType && json.Unmarshal(s.Predicate, &p) == nil && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b result.Promotion) int { return a.At.Compare(b.At) })
	return all
}
