package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/delta"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/gate"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/source"
	"krtpkg.dev/krtpkg/pkg/transfer"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// The exit codes.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitUnverified  = 3
	exitIncomplete  = 4
	exitChanges     = 5
	exitInterrupted = 130
)

// errChanges is for those who asked for an exit code that says so.
var errChanges = errors.New("there are changes (--exit-code)")

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// situation is what a command was asked to do when it failed. The zero value is any command.
type situation struct {
	cmd  *cobra.Command
	args []string
	// policyFile is set if a file says who is trusted.
	policyFile bool
}

// explainError is the table of errors with the hint for what was typed.
func (s situation) explainError(ctx context.Context, err error) result.Error {
	e := explainError(ctx, err)
	if hint := s.otherHint(err, e); hint != "" {
		e.Hint = hint
	}
	if s.cmd != nil {
		e.Hint = fitHint(s.cmd, e.Hint)
	}
	return e
}

// otherHint returns the hint where another one than usual helps, for what the command does; "" elsewhere.
func (s situation) otherHint(err error, e result.Error) string {
	var renamed *bundle.TagError
	var request *url.Error
	name := ""
	if s.cmd != nil {
		name = s.cmd.Name()
	}
	switch {
	case errors.Is(err, trust.ErrRefused) && !s.policyFile:
		return "krtpkg inspect lists the signatures and attestations that there are"
	case e.Code == result.Unauthorized && name == "login":
		return "check the user name and the password, or the token"
	case e.Code == result.Incomplete && name == "inventory":
		return "inventory lists only existing content: copy the images first with krtpkg copy"
	case (name == "tag" || name == "build") && errors.As(err, &renamed):
		return "its version's tag is " + bundle.VersionTag(renamed.Version) + "; a channel is a word, such as stable"
	case e.Code == result.Unreachable && errors.As(err, &request):
		if slices.ContainsFunc(s.args, func(arg string) bool { return arg == hostOf(request) || strings.HasPrefix(arg, hostOf(request)+"/") }) {
			before, _, _ := strings.Cut(e.Hint, "|")
			return before
		}
	}
	return ""
}

// explainError returns the one table from errors to codes, exit codes and hints for any command, in clauses as
// [fitHint] takes them. The message is left to whoever shows it.
func explainError(ctx context.Context, err error) result.Error {
	var (
		usage      *usageError
		incomplete *transfer.IncompleteError
		unread     *unreadLocksError
		wrong      *source.DigestError
		unpinned   *assemble.UnpinnedError
		moved      *assemble.MovedError
		base       *transfer.BaseError
		unverified *transfer.UnverifiedError
		attached   *transfer.AttachedError
		memory     *oci.BudgetError
		response   *errcode.ErrorResponse
		request    *url.Error
		locked     *deploy.LockedError
		foreign    *deploy.ForeignError
		findings   *preflight.FindingsError
		repository *registry.MissingRepositoryError
		untagged   *registry.NoReferrersError
		fixed      *registry.ImmutableTagError
		keeping    *registry.NoDeletesError
		renamed    *bundle.TagError
		mixedUp    *site.MixedUpError
		altered    *bundle.AlteredError
		holes      *archive.IncompleteError
		damaged    *archive.DamageError
		other      *archive.ForeignError
		volumes    *archive.AbsentVolumesError
		item       *transfer.ItemError
		baseLayer  *delta.BaseError
		movedTag   *transfer.MovedTagError
		downgrade  *transfer.DowngradeError
		channel    *site.OlderError
		overwrite  *otherArchiveError
		refused    *refusedReceiptsError
		absent     *absentReceiptsError
		young      *trust.TooYoungError
		renewal    *site.NotPromotedError
		stale      *trust.StaleError
		lost       *lostError
		stopped    *stoppedError
		nothing    *place.NotFoundError
	)
	switch {
	case ctx.Err() != nil && errors.As(err, &stopped):
		return failure(result.Interrupted, exitInterrupted, "", "")
	case ctx.Err() != nil:
		return failure(result.Interrupted, exitInterrupted, "run the same command again: it resumes", "")
	case errors.As(err, &usage):
		return failure(result.Usage, exitUsage, "", "")
	case errors.As(err, &unread):
		cause := explainError(ctx, unread.error)
		hint := cmp.Or(cause.Hint, "make the places that these runtimes were applied from reachable")
		return failure(result.Incomplete, exitIncomplete, hint, cause.Object)
	case errors.Is(err, errChanges):
		return failure(result.Changes, exitChanges, "", "")
	case errors.Is(err, errUnfit):
		return failure(result.UnfitRegistry, exitFailure, "", "")
	case errors.As(err, &locked):
		return failure(result.Locked, exitFailure, "wait until it ends; the lock of a dead process expires|, see --lock-timeout", locked.Runtime)
	case errors.As(err, &foreign):
		return failure(result.ForeignObjects, exitFailure, "move these resources first|, or delete them with --delete-foreign", foreign.Runtime)
	case errors.Is(err, deploy.ErrOwned):
		return failure(result.Owned, exitFailure, "delete these resources there first|, or pass --take-over", "")
	case errors.Is(err, errDowngrade):
		return failure(result.Downgrade, exitUnverified, "go back with krtpkg rollback, which restores the values too|, or pass --allow-downgrade", "")
	case errors.As(err, &channel):
		return failure(result.Downgrade, exitUnverified, "if the channel is meant to go back, pass --back", channel.Channel)
	case errors.As(err, &downgrade):
		return failure(result.Downgrade, exitUnverified, "if the site is meant to go back, pass --allow-downgrade", downgrade.New.Name)
	case errors.As(err, &movedTag):
		return failure(result.MovedTag, exitUnverified, movedTagHint(movedTag), movedTag.Target+":"+movedTag.Tag)
	case errors.As(err, &refused):
		return failure(result.RefusedReceipts, exitUnverified, "ask the site for a new receipt: krtpkg apply --receipt writes one even if nothing changes", refused.refused[0].File)
	case errors.As(err, &absent):
		return failure(result.AbsentReceipts, exitIncomplete, "fetch it from the site: krtpkg apply --receipt writes one even if nothing changes", absent.first.Receipt.Cluster)
	case errors.As(err, &overwrite):
		return failure(result.OtherArchive, exitFailure, "write to another file|, or pass --force to replace it", overwrite.file)
	case errors.As(err, &findings):
		return failure(result.Findings, exitFailure, skipHint(findings), "")
	case errors.Is(err, sign.ErrUnsigned):
		return failure(result.Unsigned, exitUnverified, "sign it with krtpkg sign|, or pass --allow-unsigned", "")
	case errors.Is(err, sign.ErrNotVerified), errors.Is(err, sign.ErrTooMany):
		return failure(result.Unverified, exitUnverified, "check --trust-key//check --key or --certificate-identity//check the policy|; krtpkg inspect lists the signatures", "")
	case errors.As(err, &renamed):
		return failure(result.RenamedTag, exitUnverified, "signatures cover the version, not the tag: refer to it by digest|, or pass --allow-renamed-tag if the tag was renamed on purpose", renamed.Tag)
	case errors.As(err, &mixedUp):
		return failure(result.OtherName, exitUnverified, "if that is intended, pass --expect-name "+mixedUp.Name, mixedUp.Repository)
	case errors.Is(err, render.ErrRunaway):
		return failure(result.TemplateRunaway, exitFailure, "look for a loop, a recursion or an endless repetition in its templates", "")
	case errors.As(err, &altered):
		return failure(result.Altered, exitUnverified, "build it again with this krtpkg|, or pass --allow-altered if an older version built it", altered.Artifact)
	case errors.As(err, &renewal) && renewal.Err != nil:
		return failure(result.StaleChannel, exitUnverified, "to keep this version, promote it again by its version or digest, without --refresh", renewal.Channel)
	case errors.As(err, &stale):
		return failure(result.StaleChannel, exitUnverified, "promote it again with krtpkg promote, or name a version or a digest instead of the channel", stale.Channel)
	case errors.As(err, &young) && young.From.IsZero():
		return failure(result.TooYoung, exitUnverified, "sign it again with a proof of time: krtpkg sign --timestamp-server-url or --rekor-url", young.What)
	case errors.As(err, &young):
		return failure(result.TooYoung, exitUnverified, "wait until then, or lower minAge in "+young.Policy, young.What)
	case errors.Is(err, trust.ErrRefused):
		return failure(result.Refused, exitUnverified, "see krtpkg trust show for the policy, and krtpkg verify for signatures and attestations", "")
	case errors.As(err, &baseLayer):
		return failure(result.AbsentBase, exitIncomplete, "import its base version again, which restores what the target lost; krtpkg export without --delta does not need it", baseLayer.Base.String())
	case errors.Is(err, delta.ErrMismatch):
		return failure(result.Damaged, exitUnverified, "export it again; krtpkg export without --delta avoids it", "")
	case errors.As(err, &item) && item.File != "" && errors.Is(item, content.ErrMismatchedDigest):
		return failure(result.Damaged, exitUnverified, item.File+" is damaged: copy it again from its origin; krtpkg check verifies all of a file", itemWith(err, content.ErrMismatchedDigest))
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrInvalidDescriptorSize),
		errors.Is(err, content.ErrTrailingData):
		return failure(result.Damaged, exitUnverified, "content does not match its digest: it was damaged or tampered with; fetch it again from its origin",
			itemWith(err, content.ErrMismatchedDigest, content.ErrInvalidDescriptorSize, content.ErrTrailingData))
	case errors.Is(err, layout.ErrAmbiguous):
		return failure(result.Ambiguous, exitUnverified, "refer to it by digest, or create the archive or folder again", "")
	case errors.As(err, &damaged) && damaged.IsHealable():
		return failure(result.Damaged, exitUnverified, "krtpkg check --repair "+damaged.File+" repairs it, krtpkg check --repair-to FOLDER repairs a copy", damaged.File)
	case errors.As(err, &damaged):
		return failure(result.Damaged, exitUnverified, "copy it again from its origin, with ddrescue from a medium with read errors; the same export writes the same bytes", damaged.File)
	case errors.Is(err, archive.ErrDamaged), errors.Is(err, delta.ErrDamaged):
		return failure(result.Damaged, exitUnverified, "copy the archive again from its origin; krtpkg check verifies all of it", "")
	case errors.As(err, &memory):
		return failure(result.OverMemory, exitFailure, "to allow more, pass --memory 512MiB", "")
	case errors.As(err, &unverified) && unverified.Limit > 0:
		return failure(result.Unverified, exitUnverified, "import it from a file, which is read twice|, or hold more in memory: --max-unverified 1GiB --memory 1GiB", "")
	case errors.As(err, &unverified):
		return failure(result.Unverified, exitUnverified, "import all volumes with one command|, or pass --allow-unverified-volumes", "")
	case errors.As(err, &attached):
		return failure(result.TooMuchAttached, exitFailure, "copy only verified ones with --attached verified, or all with --attached all//krtpkg copy --attached verified copies only verified ones", "")
	case errors.As(err, &base):
		return failure(result.AbsentBase, exitIncomplete, "", strings.Join(base.Base, ", "))
	case errors.As(err, &other):
		return failure(result.ForeignArchive, exitFailure, other.Hint, "")
	case errors.Is(err, archive.ErrOrder):
		return failure(result.ArchiveOrder, exitFailure, "save it to a file first: files can be read in any order", "")
	case errors.As(err, &volumes):
		return failure(result.AbsentVolumes, exitIncomplete, "put all volumes into one folder, or name all of them; the same export writes a lost volume again, byte for byte", strings.Join(volumes.Near, ", "))
	case errors.As(err, &holes):
		return failure(result.Incomplete, exitIncomplete, "export it again: older versions did not record what krtpkg export --platform leaves out", "")
	case errors.As(err, &wrong):
		return failure(result.SourceChanged, exitUnverified, "if the change is intended, put the new digest into the definition", wrong.Source)
	case errors.As(err, &moved):
		return failure(result.Moved, exitUnverified, "if the change is intended, run krtpkg update", moved.What)
	case errors.Is(err, assemble.ErrNotLocked):
		return failure(result.Unpinned, exitUnverified, "pin it with krtpkg update", "")
	case errors.As(err, &unpinned):
		return failure(result.Unpinned, exitFailure, "pin it with krtpkg update", unpinned.Source)
	case errors.Is(err, assemble.ErrSuspects):
		return failure(result.Suspects, exitFailure, "add a search rule (searchRules), lock it (images) or allow it with a reason (notImages) in the definition; krtpkg images lists all", "")
	case errors.As(err, &repository):
		return failure(result.AbsentRepository, exitFailure, createRepository(repository), repository.Host+"/"+repository.Repository)
	case errors.As(err, &untagged):
		return failure(result.UnfitRegistry, exitFailure, "sign with krtpkg sign --signature-format legacy there; krtpkg doctor lists what works", "")
	case errors.As(err, &keeping):
		return failure(result.UnfitRegistry, exitFailure, allowDeletes(keeping), keeping.Host)
	case errors.Is(err, transfer.ErrKeepsNothing):
		return failure(result.Failed, exitFailure, "name what stays with --keep, such as --keep stable, or --keep-versions N", "")
	case errors.Is(err, transfer.ErrChanged):
		return failure(result.Failed, exitFailure, "run the same command again to see the new plan", "")
	case errors.As(err, &fixed):
		return failure(result.ImmutableTag, exitFailure, moveTag(fixed), fixed.Host+": "+fixed.Tag)
	case errors.As(err, &response) && response.Method == http.MethodPut && slices.ContainsFunc(response.Errors, func(e errcode.Error) bool {
		return e.Code == errcode.ErrorCodeManifestBlobUnknown
	}):
		return failure(result.IncompleteIndex, exitFailure, "the registry accepts only complete indexes: copy all platforms, or lock single ones with krtpkg build --platform", response.URL.Host)
	case errors.As(err, &response) && response.StatusCode == http.StatusUnauthorized:
		return failure(result.Unauthorized, fetchExitCode(err), "log in with krtpkg login "+response.URL.Host+", docker login or podman login", response.URL.Host)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return failure(result.Unauthorized, fetchExitCode(err), "log in with krtpkg login REGISTRY, docker login or podman login", "")
	case errors.As(err, &response) && slices.ContainsFunc(response.Errors, func(e errcode.Error) bool { return e.Detail == gate.RefusedByPolicy }):
		return failure(result.Refused, exitUnverified, "a gate serves only what its trust policy accepts: sign and attest it accordingly, or ask the operator of "+response.URL.Host, response.URL.Host)
	case errors.As(err, &response) && response.StatusCode == http.StatusForbidden:
		return failure(result.Forbidden, fetchExitCode(err), "the login for "+response.URL.Host+" lacks permission or is missing: log in with krtpkg login, docker login or podman login", response.URL.Host)
	case errors.As(err, &response) && response.StatusCode == http.StatusTooManyRequests:
		return failure(result.RateLimited, fetchExitCode(err), response.URL.Host+" limits requests: run the same command again later to resume; logging in may raise the limit", response.URL.Host)
	case errors.As(err, &response) && response.StatusCode >= http.StatusInternalServerError:
		return failure(result.RegistryFailed, fetchExitCode(err), "the registry failed, see its log; run the same command again to resume", response.URL.Host)
	case errors.Is(err, syscall.ENOSPC):
		return failure(result.DiskFull, fetchExitCode(err), "free disk space and run the same command again to resume", "")
	case errors.As(err, &request) && strings.Contains(request.URL, "/v2/"):
		return failure(result.Unreachable, fetchExitCode(err), unansweredHint(request), hostOf(request))
	case errors.As(err, &lost):
		return failure(result.Incomplete, exitIncomplete, repairHint, lostItem(err))
	case errors.As(err, &incomplete):
		return failure(result.Incomplete, exitIncomplete, "make the images reachable|, or pass --image-mirror", incomplete.Missing[0].Image)
	case errors.As(err, &item) && errors.Is(err, errdef.ErrNotFound):
		return failure(result.Incomplete, exitIncomplete, repairHint, itemWith(err, errdef.ErrNotFound))
	case errors.As(err, &nothing):
		return failure(result.NotFound, exitFailure, "list the versions with krtpkg list "+nothing.Place.Location(), nothing.Place.String())
	case errors.Is(err, errdef.ErrNotFound):
		return failure(result.NotFound, exitFailure, "check the name and the tag|; --image-mirror takes images from elsewhere", "")
	case errors.As(err, &response) && response.StatusCode == http.StatusNotFound:
		return failure(result.NotFound, exitFailure, "check the name of the repository", response.URL.Host)
	}
	return failure(result.Failed, exitFailure, "", "")
}

// itemWith returns the first item, of all that an error is made of, whose own cause is one of these; "" if
// there is none.
func itemWith(err error, causes ...error) string {
	switch e := err.(type) {
	case *transfer.ItemError:
		if slices.ContainsFunc(causes, func(cause error) bool { return errors.Is(e, cause) }) {
			return cmp.Or(e.Item, e.Digest.String())
		}
	case interface{ Unwrap() error }:
		return itemWith(e.Unwrap(), causes...)
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			if found := itemWith(one, causes...); found != "" {
				return found
			}
		}
	}
	return ""
}

// lostItem returns what was lost, as far as the error tells.
func lostItem(err error) string {
	var incomplete *transfer.IncompleteError
	if errors.As(err, &incomplete) {
		return incomplete.Missing[0].Image
	}
	return itemWith(err, errdef.ErrNotFound)
}

// failure is a row of the table.
func failure(code result.Code, exit int, hint, object string) result.Error {
	return result.Error{Code: code, ExitCode: exit, Hint: hint, Object: object}
}

// hostOf returns the registry that was asked.
func hostOf(request *url.Error) string {
	if at, err := url.Parse(request.URL); err == nil {
		return at.Host
	}
	return ""
}

// skipHint offers to leave checks out if that is enough.
func skipHint(e *preflight.FindingsError) string {
	if names := e.SkippableChecks(); len(names) > 0 {
		return "to apply anyway, pass --skip-check " + strings.Join(names, ",")
	}
	return ""
}

// createRepository returns how the repository is created that a registry wants to exist first.
func createRepository(missing *registry.MissingRepositoryError) string {
	switch {
	case strings.Contains(missing.Host, ".dkr.ecr."):
		return "create it: aws ecr create-repository --repository-name " + missing.Repository
	case strings.HasSuffix(missing.Host, "-docker.pkg.dev"):
		if parts := strings.Split(missing.Repository, "/"); len(parts) > 1 {
			return "create it: gcloud artifacts repositories create " + parts[1] + " --project " + parts[0] + " --repository-format docker --location " + strings.TrimSuffix(missing.Host, "-docker.pkg.dev")
		}
	}
	return "create " + missing.Repository + " at " + missing.Host + " first, or the project in its path, and run the same command again"
}

// moveTag returns what to do about a tag that cannot be moved. What is attached to a digest is under
// tags that begin with sha256-, of which a registry can make an exception.
func moveTag(fixed *registry.ImmutableTagError) string {
	switch {
	case strings.HasSuffix(fixed.Tag, ".sig") || strings.HasSuffix(fixed.Tag, ".att"):
		return "attach it only as a referrer with --signature-format bundle, or exempt tags that begin with sha256- from immutability" +
			"//attach it only as a referrer with krtpkg sign --signature-format bundle, or exempt tags that begin with sha256- from immutability"
	case strings.HasPrefix(fixed.Tag, "sha256-"):
		return "the registry lists referrers under this tag: exempt tags that begin with sha256- from immutability, or sign and attest in one run before other referrers are attached"
	}
	return "use another tag, or allow tags to be overwritten at " + fixed.Host
}

// unansweredHint returns what to do about a registry that gave no answer.
func unansweredHint(request *url.Error) string {
	var certificate *tls.CertificateVerificationError
	var otherName x509.HostnameError
	switch {
	case errors.As(request, &otherName):
		return "the certificate is valid for other names: use one of them"
	case errors.Is(request, http.ErrSchemeMismatch):
		return "the registry does not use TLS: pass --plain-http to allow that"
	case errors.As(request, &certificate):
		return "if you trust the certificate, pass its authority with --registry-ca FILE"
	}
	return "check the name and the network|; --image-mirror takes images from elsewhere"
}

// fetchExitCode returns the exit code of a failed request: [exitIncomplete] if it left content missing.
func fetchExitCode(err error) int {
	var incomplete *transfer.IncompleteError
	if errors.As(err, &incomplete) {
		return exitIncomplete
	}
	return exitFailure
}
