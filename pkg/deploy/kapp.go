package deploy

import (
	"context"
	"io"
	"io/fs"
	"regexp"
	"time"

	cmdapp "carvel.dev/kapp/pkg/kapp/cmd/app"
	cmdcore "carvel.dev/kapp/pkg/kapp/cmd/core"
	"carvel.dev/kapp/pkg/kapp/crdupgradesafety"
	"carvel.dev/kapp/pkg/kapp/logger"
	"carvel.dev/kapp/pkg/kapp/permissions"
	"carvel.dev/kapp/pkg/kapp/preflight"
	"github.com/cppforlife/go-cli-ui/ui"
	"k8s.io/client-go/rest"
)

// engine calls kapp's commands as functions. Their options get their defaults from the
// flags, so each call makes the command that it never executes.
type engine struct {
	config    *rest.Config
	namespace string
	out       io.Writer // nil: discard
	color     bool
	timeout   time.Duration
	poll      time.Duration
}

// app is what kapp deploy wants to know.
type app struct {
	name      string
	labels    map[string]string // kapp refuses to change the value of one that is there
	manifests fs.FS
}

// mode is how far a call goes.
type mode int

const (
	preview     mode = iota // show and count the changes, write nothing
	asPreviewed             // make the changes, which have been shown
	direct                  // show the changes and make them
)

// deploy returns the changes that kapp found and, unless mode is preview, made.
func (e *engine) deploy(ctx context.Context, a app, mode mode, fullDiff bool) (Changes, error) {
	return e.run(ctx, mode, func(u ui.UI, deps cmdcore.DepsFactory) error {
		o := cmdapp.NewDeployOptions(u, deps, logger.NewNoopLogger(), preflightChecks(deps))
		cmdapp.NewDeployCmd(o, cmdcore.FlagsFactory{})
		e.setCommon(&o.AppFlags, &o.ApplyFlags, a.name)
		o.FileSystem = a.manifests
		o.FileFlags.Files = []string{"."}
		for key, value := range a.labels {
			o.LabelFlags.Labels = append(o.LabelFlags.Labels, key+"="+value)
		}
		o.DiffFlags.Run = mode == preview
		o.DiffFlags.Changes = fullDiff && mode != asPreviewed && e.out != nil
		// Its watcher reports errors with fmt.Printf.
		o.DeployFlags.Logs = false
		return o.Run()
	})
}

// delete returns the changes that kapp found and, unless mode is preview, made. An app that
// is not there is not an error.
func (e *engine) delete(ctx context.Context, name string, mode mode) (Changes, error) {
	return e.run(ctx, mode, func(u ui.UI, deps cmdcore.DepsFactory) error {
		o := cmdapp.NewDeleteOptions(u, deps, logger.NewNoopLogger())
		cmdapp.NewDeleteCmd(o, cmdcore.FlagsFactory{})
		e.setCommon(&o.AppFlags, &o.ApplyFlags, name)
		o.DiffFlags.Run = mode == preview
		return o.Run()
	})
}

func (e *engine) setCommon(app *cmdapp.Flags, apply *cmdapp.ApplyFlags, name string) {
	app.Name = name
	app.NamespaceFlags.Name = e.namespace
	apply.WaitingChangesOpts.Timeout = e.timeout
	apply.WaitingChangesOpts.CheckInterval = e.poll
	apply.ApplyingChangesOpts.Timeout = e.timeout
}

// preflightChecks are off unless a Config document of the bundle turns them on; a document
// that names a check that is not here would be refused.
func preflightChecks(deps cmdcore.DepsFactory) *preflight.Registry {
	return preflight.NewRegistry(map[string]preflight.Check{
		"PermissionValidation": permissions.NewPreflight(deps, false),
		"CRDUpgradeSafety":     crdupgradesafety.NewPreflight(deps, false),
	})
}

// run calls kapp, which takes no context, in a goroutine. When ctx ends, run returns at
// once. The goroutine ends later, at the next thing that it wants from the cluster: its
// clients refuse every request from then on, and the console drops what it prints.
func (e *engine) run(ctx context.Context, mode mode, call func(ui.UI, cmdcore.DepsFactory) error) (Changes, error) {
	console := newConsole(e.out, e.color, mode != asPreviewed)
	defer console.close()
	bound, cancel := context.WithCancel(ctx)
	defer cancel()
	deps := newClients(bound, e.config, console)

	done := make(chan error, 1)
	go func() { done <- call(console.ui(), deps) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // not what kapp made of a request that was refused
	} else if err != nil {
		err = kappError{err}
	}
	return console.changes(), err
}

// kappError is an error of kapp without the blank lines in its text, which kapp's own CLI
// would format.
type kappError struct{ error }

var blankLines = regexp.MustCompile(`\n(\s*\n)+`)

func (e kappError) Error() string { return blankLines.ReplaceAllString(e.error.Error(), "\n") }

func (e kappError) Unwrap() error { return e.error }
