package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/sign"
	_ "krtpkg.dev/krtpkg/pkg/sign/kms" // the providers behind --key hashivault://… and its like
	"krtpkg.dev/krtpkg/pkg/transfer"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// policyVariable names the policy file that guards everything where no flag says otherwise.
const policyVariable = "KRTPKG_TRUST_POLICY"

// trustFlags say whose signatures count: keys, an identity, or a policy file.
type trustFlags struct {
	keys   []string
	policy string

	identity, identityRegExp, issuer, issuerRegExp string
	trustedRoot, caRoots, timestamps               string

	expectName    string
	allowUnsigned bool
}

// addTrustFlags adds the flags that say which signers to trust, and in which bundle or runtime.
func (f *trustFlags) addTrustFlags(cmd *cobra.Command) {
	f.addSignerFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.policy, "policy", "", "trust policy file (also $"+policyVariable+", or trust.yaml next to the config file)")
	flags.StringVar(&f.expectName, "expect-name", "", "required name of the bundle or runtime, as in its definition")
	cmd.MarkFlagsMutuallyExclusive("policy", "key")
}

// addSignerFlags adds the flags that name trusted keys and identities.
func (f *trustFlags) addSignerFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.keys, "key", nil, "trusted public key: a file, or the URI of a key management service; can be repeated: one valid signature is enough")
	flags.StringVar(&f.identity, "certificate-identity", "", "trust certificates for this subject: an e-mail address or a URI")
	flags.StringVar(&f.identityRegExp, "certificate-identity-regexp", "", "like --certificate-identity, as a pattern for the whole subject")
	flags.StringVar(&f.issuer, "certificate-oidc-issuer", "", "required OpenID Connect issuer of the subject")
	flags.StringVar(&f.issuerRegExp, "certificate-oidc-issuer-regexp", "", "like --certificate-oidc-issuer, as a pattern for the whole issuer")
	flags.StringVar(&f.trustedRoot, "trusted-root", "", "file of Sigstore's trusted root: certificate authorities, logs, timestamp authorities")
	flags.StringVar(&f.caRoots, "ca-roots", "", "file of the certificate authorities of a private PKI, with their intermediates")
	flags.StringVar(&f.timestamps, "timestamp-certificate-chain", "", "file of the certificates of a timestamp authority")
	cmd.MarkFlagsMutuallyExclusive("certificate-identity", "certificate-identity-regexp")
	cmd.MarkFlagsMutuallyExclusive("certificate-oidc-issuer", "certificate-oidc-issuer-regexp")
	cmd.MarkFlagsMutuallyExclusive("trusted-root", "ca-roots")
}

// addUnsigned adds the flag by which nothing is verified, in spite of a policy file.
func (f *trustFlags) addUnsigned(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVar(&f.allowUnsigned, "allow-unsigned", false, what)
}

// isGiven reports whether a flag names a trusted key, identity or policy.
func (f *trustFlags) isGiven() bool {
	return len(f.keys) > 0 || f.policy != "" || f.expectName != "" || f.identity+f.identityRegExp+f.issuer+f.issuerRegExp+f.trustedRoot+f.caRoots+f.timestamps != ""
}

// errVerificationRequired is [site.ErrVerificationRequired] in terms of flags: a command must verify and has no key, identity
// or policy.
var errVerificationRequired = errors.New("verification required: pass --key, --certificate-identity or --policy")

// loadTrust returns the policy that the flags, the environment or the configuration say, or nil where
// nothing does.
func (a *app) loadTrust(ctx context.Context, f *trustFlags) (*trust.Policy, error) {
	certificates := f.identity + f.identityRegExp
	switch {
	case f.allowUnsigned && f.isGiven():
		return nil, &usageError{errors.New("--allow-unsigned cannot be used with flags for trusted signers")}
	case f.policy != "" && (len(f.keys) > 0 || certificates+f.trustedRoot+f.caRoots+f.timestamps != ""):
		return nil, &usageError{errors.New("--policy cannot be used with keys, identities or certificates")}
	case len(f.keys) == 0 && certificates+f.policy == "" && f.trustedRoot+f.timestamps != "":
		return nil, &usageError{errors.New("trusted certificates and logs require --key or --certificate-identity")}
	case f.trustedRoot != "" && f.caRoots+f.timestamps != "":
		return nil, &usageError{errors.New("--trusted-root cannot be used with --ca-roots and --timestamp-certificate-chain: it contains the authorities")}
	case certificates == "" && f.issuer+f.issuerRegExp+f.caRoots != "":
		return nil, &usageError{errors.New("the certificate flags require --certificate-identity")}
	case certificates != "" && (f.trustedRoot == "") == (f.caRoots == ""):
		return nil, &usageError{errors.New("--certificate-identity requires --trusted-root (Sigstore) or --ca-roots (a private PKI)")}
	case f.trustedRoot != "" && certificates != "" && f.issuer+f.issuerRegExp == "":
		return nil, &usageError{errors.New("--trusted-root requires --certificate-oidc-issuer: otherwise any issuer could vouch for the subject")}
	}
	system, err := systemPolicy()
	switch {
	case err != nil:
		return nil, err
	case f.allowUnsigned && system != nil:
		return nil, fmt.Errorf("--allow-unsigned: %w: %s applies to everyone on this machine", trust.ErrRefused, systemPolicyFile)
	case f.allowUnsigned:
		return nil, nil
	}
	a.usesPolicyFile = system != nil
	policy, err := a.chosenPolicy(ctx, f, system)
	policy = system.Combine(policy)
	switch {
	case err != nil:
		return nil, err
	case policy != nil:
		policy.ExpectName = f.expectName
	case f.expectName != "":
		return nil, &usageError{errors.New("--expect-name requires verification: pass --key, --certificate-identity or --policy")}
	}
	return policy, nil
}

// chosenPolicy returns that of the flags, or of the file that they or the configuration name. Where no
// configuration is to be found it may be that it would forbid something, unless there is one of the system.
func (a *app) chosenPolicy(ctx context.Context, f *trustFlags, system *trust.Policy) (*trust.Policy, error) {
	if len(f.keys) > 0 || f.identity+f.identityRegExp != "" {
		policy, err := a.trustFlagged(ctx, f)
		if err != nil {
			return nil, err
		}
		return a.withRevoked(policy)
	}
	a.usesPolicyFile = true
	file, err := a.policyFile(f.policy)
	if errors.Is(err, errNoConfiguration) && system != nil {
		return nil, nil
	}
	if err != nil || file == "" {
		return nil, err
	}
	return trust.LoadPolicy(file)
}

// withRevoked adds what the user's policy file revokes to the signers that flags name: the flags choose
// who may sign, not what is forbidden.
func (a *app) withRevoked(policy *trust.Policy) (*trust.Policy, error) {
	file, err := a.policyFile("")
	if errors.Is(err, errNoConfiguration) || err == nil && file == "" {
		return policy, nil
	}
	if err != nil {
		return nil, err
	}
	configured, err := trust.LoadPolicy(file)
	return policy.WithRevoked(configured), err
}

// errNoConfiguration is the error of a command that cannot find the place of a policy.
var errNoConfiguration = errors.New("no configuration folder: set HOME or XDG_CONFIG_HOME, or pass --policy, $" + policyVariable + ", --key or --certificate-identity")

// policyFile returns the path of the policy; empty if none is configured.
func (a *app) policyFile(flag string) (string, error) {
	if file := cmp.Or(flag, os.Getenv(policyVariable)); file != "" {
		return file, nil
	}
	config, err := readConfig(os.Getenv)
	if err != nil || config.TrustPolicy != "" {
		return nextTo(configPath(os.Getenv), config.TrustPolicy), err
	}
	file := defaultPolicyFile()
	if file == "" {
		return "", &usageError{fmt.Errorf("trust policy: %w", errNoConfiguration)}
	}
	// A link that leads nowhere is no absence: what it led to may forbid something.
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		if err := checkSpelling(file); err != nil {
			return "", fmt.Errorf("trust policy: %w (%w)", err, trust.ErrRefused)
		}
		return "", nil
	}
	info, err := os.Stat(file)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", file)
	}
	if err != nil {
		return "", fmt.Errorf("trust policy: %w", err)
	}
	return file, nil
}

// nextTo returns a path that a file names: of its own folder, whatever folder the command stands in.
func nextTo(file, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(file), path)
}

// checkSpelling returns an error if a file does not exist, but one next to it that was meant for it, as by .yml or in
// other letters: it may forbid something.
func checkSpelling(file string) error {
	entries, _ := os.ReadDir(filepath.Dir(file)) // without a folder there is no other file
	bare := strings.TrimSuffix(strings.ToLower(filepath.Base(file)), ".yaml")
	for _, e := range entries {
		name := strings.ToLower(e.Name())
		if name == bare+".yaml" || name == bare+".yml" || name == bare+".json" {
			return fmt.Errorf("%s is not read: rename it to %s", filepath.Join(filepath.Dir(file), e.Name()), filepath.Base(file))
		}
	}
	return nil
}

func defaultPolicyFile() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "" // no home, no file
	}
	return filepath.Join(dir, "krtpkg", "trust.yaml")
}

// trustFlagged returns the policy that the flags alone make.
func (a *app) trustFlagged(ctx context.Context, f *trustFlags) (*trust.Policy, error) {
	roots, err := f.loadRoots()
	if err != nil {
		return nil, err
	}
	var authorities []sign.Authority
	for _, name := range f.keys {
		key, err := publicKey(ctx, name)
		if err != nil {
			return nil, err
		}
		authorities = append(authorities, sign.Authority{Key: key, Roots: roots})
	}
	if f.identity+f.identityRegExp != "" {
		identity := &sign.Identity{Subject: f.identity, Issuer: f.issuer}
		for _, p := range []struct {
			text string
			into **regexp.Regexp
		}{{f.identityRegExp, &identity.SubjectRegExp}, {f.issuerRegExp, &identity.IssuerRegExp}} {
			if p.text == "" {
				continue
			}
			if *p.into, err = regexp.Compile(p.text); err != nil {
				return nil, &usageError{err}
			}
		}
		authorities = append(authorities, sign.Authority{Identity: identity, Roots: roots})
	}
	policy, err := trust.NewPolicy(authorities...)
	if err != nil {
		return nil, &usageError{err}
	}
	return policy, nil
}

func publicKey(ctx context.Context, name string) (*sign.Key, error) {
	if sign.IsKeyURI(name) {
		return sign.OpenPublicKey(ctx, name)
	}
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	key, err := sign.LoadPublicKey(pem)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	return key, nil
}

func (f *trustFlags) loadRoots() (*sign.TrustedRoot, error) {
	read := func(name string) ([]byte, error) {
		if name == "" {
			return nil, nil
		}
		return os.ReadFile(name)
	}
	if f.trustedRoot != "" {
		data, err := read(f.trustedRoot)
		if err != nil {
			return nil, err
		}
		roots, err := sign.LoadTrustedRoot(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.trustedRoot, err)
		}
		return roots, nil
	}
	if f.caRoots+f.timestamps == "" {
		return nil, nil
	}
	authorities, err := read(f.caRoots)
	if err != nil {
		return nil, err
	}
	timestamps, err := read(f.timestamps)
	if err != nil {
		return nil, err
	}
	return sign.LoadCertificates(authorities, timestamps)
}

// policyPlace returns what a policy calls a place.
func policyPlace(p place.Place) string { return cmp.Or(p.Repository, trust.Local) }

// verifyRoot verifies what a reference leads to.
func (a *app) verifyRoot(ctx context.Context, at *openedReference, policy *trust.Policy) (*sign.Result, error) {
	if policy == nil {
		return nil, &usageError{errVerificationRequired}
	}
	result, channels, err := policy.VerifyChannels(ctx, at.store, at.root, policyPlace(at.Place))
	if err == nil {
		err = a.checkChannel(ctx, at, channels)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at.unpinnedReference(), asLost(err))
	}
	return result, nil
}

// verifiedIf verifies what a reference leads to if flags or the configuration name a key, an identity or a policy.
func (a *app) verifiedIf(ctx context.Context, at *openedReference, f *trustFlags) error {
	policy, err := a.loadTrust(ctx, f)
	if err != nil || policy == nil {
		return err
	}
	_, err = a.verifyRoot(ctx, at, policy)
	return err
}

// verifyImages verifies what upstream signed of the images of a runtime or a bundle.
func (a *app) verifyImages(ctx context.Context, store oras.ReadOnlyGraphTarget, set *bundle.Set, policy *trust.Policy) ([]trust.Image, error) {
	if !policy.HasImageRules() {
		return nil, &usageError{errors.New("--images requires a policy file with rules for images")}
	}
	return policy.VerifyImages(ctx, store, set)
}

// verifyTransfer has a transfer verify its roots if a flag names a signer, or strictly and a policy
// is configured.
func (a *app) verifyTransfer(ctx context.Context, f *trustFlags, strictly bool, o *transfer.Options) error {
	if !strictly && !f.isGiven() {
		return nil
	}
	policy, err := a.loadTrust(ctx, f)
	if err != nil || policy == nil {
		return err
	}
	var mu sync.Mutex
	verified := map[digest.Digest]bool{}
	o.IsVerified = func(d digest.Digest) bool {
		mu.Lock()
		defer mu.Unlock()
		return verified[d]
	}
	o.Accepts = policy.CheckRevoked
	o.Verify = func(ctx context.Context, source transfer.Source) error {
		result, channels, err := policy.VerifyChannels(ctx, source.Store, source.Root, cmp.Or(source.Where, trust.Local))
		if err != nil {
			return err
		}
		m, err := bundle.ReadManifest(ctx, source.Store, source.Root)
		if err == nil {
			err = a.checkChannels(source, channels, metadataOf(m))
		}
		if err == nil {
			mu.Lock()
			for _, v := range slices.Concat(result.Verified, result.Attestations) {
				verified[v.Manifest] = true
			}
			mu.Unlock()
			a.ui.Say("verified %s, %s %s, signed by %s", source.Root.Digest, titleOf(m), m.Annotations[ocispec.AnnotationVersion], signerNames(result))
		}
		return err
	}
	return nil
}

// checkChannels warns of stale channels among the tags that a transfer goes by, or refuses them as the policy says: the tag
// that was asked for, or those that an archive or a folder has.
func (a *app) checkChannels(source transfer.Source, channels *trust.Channels, m bundle.Metadata) error {
	if source.Pinned {
		return nil
	}
	tags := source.Tags
	if source.From != "" {
		tags = []string{source.From}
	}
	for _, tag := range tags {
		stale := channels.Check(m, tag, time.Now())
		switch {
		case stale == nil:
		case stale.Refused:
			return stale
		default:
			a.ui.Note("WARNING: %s %s: %v", m.Name, m.Version, stale)
		}
	}
	return nil
}

// signerNames names those who signed, for a line of text.
func signerNames(r *sign.Result) string {
	var all []string
	for _, name := range r.Authorities() {
		for _, v := range r.Verified {
			if v.Authority == name {
				all = append(all, signerName(v))
				break
			}
		}
	}
	return strings.Join(all, " and ")
}

// signerName names who signed.
func signerName(v sign.Verified) string {
	by := "key " + v.KeyID
	if c := v.Certificate; c != nil {
		by = c.Subject
		if c.Issuer != "" {
			by += " (" + c.Issuer + ")"
		}
	}
	if v.Authority != v.KeyID && (v.Certificate == nil || v.Authority != v.Certificate.Subject) {
		by = v.Authority + ", " + by
	}
	return by
}
