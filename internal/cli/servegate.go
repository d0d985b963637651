package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/gate"
	"krtpkg.dev/krtpkg/pkg/serve"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// gateFlags are the flags of serve --upstream.
type gateFlags struct {
	upstreams                         []string
	cache, cacheSize, state, logLines string
	images, allowDowngrade            bool
	refresh, grace                    time.Duration
}

// onlyForGate are the flags that need --upstream, withoutGate those that cannot be used with it.
var (
	onlyForGate = []string{"cache", "cache-size", "state", "images", "allow-downgrade", "refresh", "grace"}
	withoutGate = []string{"writable", "ui", "repository", "allow-unsigned"}
)

func (f *gateFlags) addGateFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.upstreams, "upstream", nil, "serve [NAME=]REGISTRY[/PREFIX], only what the policy accepts; can be repeated")
	flags.StringVar(&f.cache, "cache", "", "with --upstream: folder that keeps blobs and manifests; without it they are passed through")
	flags.StringVar(&f.cacheSize, "cache-size", "10GiB", "with --upstream: size limit of the cache")
	flags.StringVar(&f.state, "state", "", "with --upstream: folder that records what each tag named (default: gate in krtpkg's cache folder)")
	flags.StringVar(&f.logLines, "log-format", "text", "text|json: with json, a line of JSON for each event, and without --upstream for each request")
	flags.BoolVar(&f.images, "images", false, "with --upstream: verify upstream's signatures of images by the policy's rules for images")
	flags.BoolVar(&f.allowDowngrade, "allow-downgrade", false, "with --upstream: let tags move back to older versions")
	flags.DurationVar(&f.refresh, "refresh", 10*time.Second, "with --upstream: how long to cache tag lookups and refusals")
	flags.DurationVar(&f.grace, "grace", 10*time.Second, "with --upstream: how long open requests may run after shutdown begins")
}

// checkGateFlags refuses combinations that mean nothing.
func (f *gateFlags) checkGateFlags(cmd *cobra.Command, args []string) error {
	refused, needs := onlyForGate, "requires --upstream"
	if len(f.upstreams) > 0 {
		refused, needs = withoutGate, "cannot be used with --upstream"
		if len(args) > 0 {
			return &usageError{fmt.Errorf("%s: --upstream takes no arguments", args[0])}
		}
	}
	for _, flag := range refused {
		if cmd.Flags().Changed(flag) {
			return &usageError{fmt.Errorf("--%s %s", flag, needs)}
		}
	}
	if f.logLines != "text" && f.logLines != "json" {
		return &usageError{fmt.Errorf("--log-format %q: want text or json", f.logLines)}
	}
	if f.refresh <= 0 || f.grace < 0 || f.grace > lastMoment {
		return &usageError{fmt.Errorf("--refresh must be positive, and --grace at most %s", lastMoment)}
	}
	return nil
}

// runGate serves registries behind a policy.
func (a *app) runGate(ctx context.Context, f serveFlags) (err error) {
	certificate, err := f.loadCertificate()
	if err != nil {
		return err
	}
	options, err := a.gateOptions(ctx, f)
	if err != nil {
		return err
	}
	g, err := gate.New(ctx, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	listener, err := net.Listen("tcp", f.listen)
	if err != nil {
		return err
	}
	address := listener.Addr().(*net.TCPAddr)
	a.announceServer(address, serverName(address, certificate), f.gate.upstreams, f, nil)
	return asStopped(serve.RunWithGrace(ctx, listener, g, certificate, f.gate.grace))
}

func (a *app) gateOptions(ctx context.Context, f serveFlags) (o gate.Options, err error) {
	if o.Login, err = f.loadLogin(); err != nil {
		return o, err
	}
	client, err := a.newClient()
	if err != nil {
		return o, err
	}
	open := func(ctx context.Context, repository string) (gate.Repository, error) {
		return client.Repository(ctx, repository)
	}
	if o.Upstreams, err = parseUpstreams(f.gate.upstreams, open); err != nil {
		return o, &usageError{err}
	}
	policy, err := a.loadTrust(ctx, &f.trust)
	if err != nil {
		return o, err
	}
	if policy == nil {
		return o, &usageError{errVerificationRequired}
	}
	o.LoadPolicy = func(ctx context.Context) (*trust.Policy, error) { return a.loadTrust(ctx, &f.trust) }
	o.PolicyFiles = []string{systemPolicyFile}
	for _, file := range append(slices.Clone(f.trust.keys), f.trust.policy, f.trust.trustedRoot, f.trust.caRoots, f.trust.timestamps) {
		if file != "" && !sign.IsKeyURI(file) {
			o.PolicyFiles = append(o.PolicyFiles, file)
		}
	}
	if f.trust.policy == "" {
		configured, err := a.listConfiguredPolicies()
		if err != nil {
			return o, err
		}
		o.PolicyFiles = append(o.PolicyFiles, configured...)
	}
	if o.StateDir, err = f.gate.stateDir(); err != nil {
		return o, err
	}
	if f.gate.cache != "" {
		size, err := humanize.ParseBytes(f.gate.cacheSize)
		if err != nil || size == 0 || size > 1<<60 {
			return o, &usageError{fmt.Errorf("--cache-size %q: want a size such as 20GiB", f.gate.cacheSize)}
		}
		o.CacheDir, o.CacheBytes = f.gate.cache, int64(size)
	}
	o.Images, o.AllowDowngrade, o.AllowRenamedTags = f.gate.images, f.gate.allowDowngrade, a.settings.allowRenamed
	o.Refresh, o.Report = f.gate.refresh, a.gateLog(f.gate.logLines)
	return o, nil
}

// listConfiguredPolicies returns the files that say which policy applies without --policy, and what it revokes with --key:
// one that is absent may come.
func (a *app) listConfiguredPolicies() ([]string, error) {
	chosen, err := a.policyFile("")
	if err != nil && !errors.Is(err, errNoConfiguration) {
		return nil, err
	}
	files := []string{configPath(os.Getenv), defaultPolicyFile(), chosen}
	return slices.DeleteFunc(files, func(file string) bool { return file == "" }), nil
}

func (f *gateFlags) stateDir() (string, error) {
	if f.state != "" {
		return f.state, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", &usageError{fmt.Errorf("no state folder: pass --state: %w", err)}
	}
	return filepath.Join(cache, "krtpkg", "gate"), nil
}

// parseUpstreams reads [NAME=]REGISTRY[/PREFIX]. Of several, those without a name are called as upstream.
func parseUpstreams(all []string, open func(context.Context, string) (gate.Repository, error)) (upstreams []gate.Upstream, err error) {
	for _, text := range all {
		called, prefix, named := strings.Cut(text, "=")
		if !named {
			called, prefix = "", text
		}
		prefix = strings.TrimSuffix(prefix, "/")
		if host, _, _ := strings.Cut(prefix, "/"); host != "localhost" && !strings.ContainsAny(host, ".:") || strings.Contains(prefix, "://") {
			return nil, fmt.Errorf("--upstream %q: want [NAME=]REGISTRY[/PREFIX]", text)
		}
		repository, err := name.NewRepository(prefix+"/a/a", name.StrictValidation)
		if err != nil || named && !serve.IsRepository(called) {
			return nil, fmt.Errorf("--upstream %q: want [NAME=]REGISTRY[/PREFIX]: %w", text, cmp.Or(err, errors.New("the name is not a repository's")))
		}
		prefix = strings.TrimSuffix(repository.Name(), "/a/a")
		if !named && len(all) > 1 {
			called = strings.ReplaceAll(prefix, ":", "_")
		}
		upstreams = append(upstreams, gate.Upstream{Name: called, Prefix: prefix, Open: open})
	}
	return upstreams, nil
}

// newLog returns a log of JSON lines on standard error.
func (a *app) newLog() *slog.Logger { return slog.New(slog.NewJSONHandler(a.ui, nil)) }

// logRequest returns what writes a line for each answer of a registry; nil unless JSON is wanted.
func (a *app) logRequest(format string) func(*http.Request, *serve.Recorder) {
	if format != "json" {
		return nil
	}
	log := a.newLog()
	return func(r *http.Request, answer *serve.Recorder) {
		level := slog.LevelInfo
		if answer.Status >= http.StatusInternalServerError {
			level = slog.LevelWarn
		}
		log.Log(context.Background(), level, "request", "method", r.Method, "path", r.URL.Path, "status", answer.Status, "bytes", answer.Bytes, "client", r.RemoteAddr)
	}
}

// gateLog returns what writes a line for each event.
func (a *app) gateLog(format string) func(gate.Event) {
	if format != "json" {
		return a.noteGateEvent
	}
	log := a.newLog()
	return func(e gate.Event) {
		level := slog.LevelInfo
		if e.Err != nil {
			level = slog.LevelWarn
		}
		var fields []any
		for _, f := range []struct{ key, value string }{
			{"repository", e.Repository}, {"reference", e.Reference}, {"digest", e.Digest}, {"name", e.Name}, {"version", e.Version},
			{"signers", e.Signers}, {"client", e.Client},
		} {
			if f.value != "" {
				fields = append(fields, f.key, f.value)
			}
		}
		if e.Err != nil {
			fields = append(fields, "error", e.Err.Error())
		}
		log.Log(context.Background(), level, e.Kind, fields...)
	}
}

// noteGateEvent writes an event for people.
func (a *app) noteGateEvent(e gate.Event) {
	what := e.Repository
	if e.Reference != "" {
		separator := ":"
		if strings.Contains(e.Reference, ":") {
			separator = "@"
		}
		what += separator + e.Reference
	}
	switch {
	case e.Kind == gate.EventRefused:
		a.ui.Note("refused %s, for %s: %s", what, e.Client, e.Err)
	case e.Kind == gate.EventKept:
		a.ui.Note("kept %s at %s: %s", what, strings.TrimSpace(e.Version+" "+e.Digest), e.Err)
	case e.Kind == gate.EventVerified:
		a.ui.Say("verified %s@%s, %s %s, signed by %s", what, e.Digest, e.Name, e.Version, cmp.Or(e.Signers, "a trusted key"))
	case e.Kind == gate.EventMoved:
		a.ui.Say("moved %s to %s", what, strings.TrimSpace(e.Version+" "+e.Digest))
	case e.Kind == gate.EventPolicy && e.Err != nil:
		a.ui.Note("everything is refused: %s", e.Err)
	case e.Kind == gate.EventPolicy:
		a.ui.Note("the policy has changed: everything is verified again")
	case e.Err != nil:
		a.ui.Note("%s %s: %s", e.Kind, what, e.Err)
	default:
		a.ui.Note("%s %s answers again", e.Kind, what)
	}
}
