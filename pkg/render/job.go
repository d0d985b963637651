package render

import (
	"context"
	"errors"
	"fmt"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Job is the work of template engines on one source. It is plain data, so that another process can do
// it: all fields can be encoded.
type Job struct {
	Task Task
	// Template, Root, Chart, Helm and Patches are fields of the source.
	Template, Root, Chart string
	Helm                  *bundle.Helm
	Patches               []bundle.Patch
	// The rest is that of [Input].
	Name            string
	Files, Overlays []bundle.File
	Values          [][]byte
	Absent          map[string]string
	Unset           bool
}

// Task is what a [Job] is for.
type Task string

// The tasks are named after what they do: [RenderSource], [RenderStable], [ValuesSchema] and [ClusterQueries].
const (
	TaskRender         Task = "render"
	TaskStable         Task = "stable"
	TaskSchema         Task = "schema"
	TaskClusterQueries Task = "cluster-queries"
)

// Result is what engines made.
type Result struct {
	// Files are the manifests; of a schema its one file, or none.
	Files []bundle.File
	// Notes are what the user should know of, a line each. They may come along with an error.
	Notes []string
}

// maxRendered is how many bytes a source may render to: far more than a cluster takes.
const maxRendered = 256 << 20

// Runner does jobs. It is called by several goroutines at a time.
type Runner interface {
	// Run does a job. What is over limits has the error [ErrRunaway], and what is interrupted that of
	// ctx.
	Run(ctx context.Context, job Job) (Result, error)
}

// InProcess does jobs in this process: an engine that runs away cannot be ended, and is left behind
// with an error until the program ends. The zero value has the default limits.
type InProcess struct{ Limits Limits }

// Run implements [Runner].
func (p InProcess) Run(ctx context.Context, job Job) (Result, error) {
	return runBounded(ctx, p.Limits.WithDefaults(), job.runHere)
}

type runnerKey struct{}

// WithRunner returns a context whose renderings a runner does; without, they are done by [InProcess].
func WithRunner(ctx context.Context, r Runner) context.Context {
	return context.WithValue(ctx, runnerKey{}, r)
}

func runnerOf(ctx context.Context) Runner {
	if r, is := ctx.Value(runnerKey{}).(Runner); is {
		return r
	}
	return InProcess{}
}

// runHere does the job here and now.
func (j Job) runHere() (r Result, err error) {
	in := Input{
		Source: &bundle.Source{Template: j.Template, Root: j.Root, Chart: j.Chart, Helm: j.Helm, Patches: j.Patches},
		Name:   j.Name, Files: j.Files, Values: j.Values, Overlays: j.Overlays, Absent: j.Absent, Unset: j.Unset,
		Note: func(text string) { r.Notes = append(r.Notes, text) },
	}
	switch j.Task {
	case TaskRender:
		r.Files, err = in.renderPlain()
	case TaskStable:
		r.Files, err = in.renderStable()
	case TaskSchema:
		var schema []byte
		if schema, err = yttSchema(in); schema != nil {
			r.Files = []bundle.File{{Data: schema}}
		}
	case TaskClusterQueries:
		in.Note = nil
		r.Notes, err = in.findClusterQueries()
	default:
		return r, fmt.Errorf("no task %q", j.Task)
	}
	size := 0
	for _, f := range r.Files {
		size += len(f.Data)
	}
	if err == nil && size > maxRendered {
		return r, fmt.Errorf("%d MiB of manifests, of at most %d: %w", size>>20, maxRendered>>20, ErrRunaway)
	}
	return r, err
}

// runTask returns the engines' work on the input to the runner of the context.
func (in Input) runTask(ctx context.Context, task Task) ([]bundle.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := in.Source
	r, err := runnerOf(ctx).Run(ctx, Job{
		Task: task, Template: s.Template, Root: s.Root, Chart: s.Chart, Helm: s.Helm, Patches: s.Patches,
		Name: in.Name, Files: in.Files, Values: in.Values, Overlays: in.Overlays, Absent: in.Absent, Unset: in.Unset,
	})
	for _, note := range r.Notes {
		if in.Note != nil {
			in.Note(note)
		}
	}
	return r.Files, err
}

// needsEngine reports whether anything but reading is done to the files.
func (in Input) needsEngine() bool {
	return in.Source.Template != "" || len(in.Source.Patches)+len(in.Overlays) > 0
}

// Failure is an error of a job as plain data, with what callers tell errors apart by.
type Failure struct {
	Text string
	// At is the place in a file, or nil.
	At *manifest.Error
	// IsRunaway and IsUnstable say that it is an [ErrRunaway] or an [*UnstableError].
	IsRunaway, IsUnstable bool
}

// NewFailure takes an error apart; nil is nil.
func NewFailure(err error) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Text: err.Error(), IsRunaway: errors.Is(err, ErrRunaway)}
	var at *manifest.Error
	if errors.As(err, &at) {
		f.At = &manifest.Error{File: at.File, Line: at.Line, Column: at.Column, Problem: at.Problem, Hint: at.Hint}
	}
	var unstable *UnstableError
	f.IsUnstable = errors.As(err, &unstable)
	return f
}

func (f *Failure) Error() string { return f.Text }

// Unwrap returns the errors that it was.
func (f *Failure) Unwrap() (all []error) {
	if f.At != nil {
		all = append(all, f.At)
	}
	if f.IsRunaway {
		all = append(all, ErrRunaway)
	}
	if f.IsUnstable {
		all = append(all, &UnstableError{f.Text})
	}
	return all
}
