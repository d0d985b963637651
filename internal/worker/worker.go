// Package worker runs template engines in processes of their own, which can be ended: an engine hears
// nothing. A process does one job after the other, for as long as none of them is over the limits.
//
// Call [NewPool] with the command that calls [Serve], and give the pool to [render.WithRunner].
package worker

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"krtpkg.dev/krtpkg/pkg/render"
)

// maxProcesses is how many processes there are at most: each takes about 70 MB of its own.
const maxProcesses = 4

// maxResult is how many bytes a process answers with: manifests, and what is around them.
const maxResult = 512 << 20

// grace is how much longer than the limit of time a process may take to say itself that it was over it.
const grace = 5 * time.Second

// Options are the parameters of a [Pool].
type Options struct {
	// Command is the program and its arguments, the first of which is its own name.
	Path string
	Args []string
	// Limits are those of one job.
	Limits render.Limits
}

// Pool does jobs in processes, which it starts when there is work and keeps. It implements
// [render.Runner].
type Pool struct {
	options Options
	slots   chan struct{}

	mu     sync.Mutex
	idle   []*process
	all    map[*process]bool
	closed bool
}

// NewPool returns a pool without a process.
func NewPool(o Options) *Pool {
	o.Limits = o.Limits.WithDefaults()
	return &Pool{options: o, slots: make(chan struct{}, min(maxProcesses, runtime.GOMAXPROCS(0))), all: map[*process]bool{}}
}

// Run implements [render.Runner]. A process that is interrupted, over a limit or broken is ended, and
// the next job has another.
func (p *Pool) Run(ctx context.Context, job render.Job) (render.Result, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return render.Result{}, ctx.Err()
	}
	worker, err := p.takeProcess()
	if err != nil {
		return render.Result{}, fmt.Errorf("start the process that renders: %w", err)
	}
	result, err := worker.runJob(ctx, job, p.options.Limits)
	if worker.isSpent {
		p.dropProcess(worker)
	} else {
		p.keepProcess(worker)
	}
	return result, err
}

// Close ends all processes. Jobs that are under way fail.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	var all []*process
	for worker := range p.all {
		all = append(all, worker)
	}
	p.mu.Unlock()
	for _, worker := range all {
		p.dropProcess(worker)
	}
}

// takeProcess returns an idle process, or a new one.
func (p *Pool) takeProcess() (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errors.New("the pool is closed")
	}
	if n := len(p.idle); n > 0 {
		worker := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return worker, nil
	}
	worker, err := startProcess(p.options)
	if err == nil {
		p.all[worker] = true
	}
	return worker, err
}

func (p *Pool) keepProcess(worker *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, worker)
}

// dropProcess ends a process and waits until it is gone.
func (p *Pool) dropProcess(worker *process) {
	worker.killProcess()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, worker)
}

// process is a program that calls [Serve].
type process struct {
	cmd     *exec.Cmd
	jobs    *gob.Encoder
	results *gob.Decoder
	answers *io.LimitedReader
	log     *head
	ended   sync.Once
	// isSpent says that it can do no other job.
	isSpent bool
}

// hello begins what a process is told. Whoever starts it by hand does not say it.
type hello struct {
	Protocol string
	Limits   render.Limits
}

const protocol = "krtpkg render 1"

// answer is what a process answers to a job.
type answer struct {
	Result  render.Result
	Failure *render.Failure
}

// startProcess starts a process. It ends when the pipe to it does, and so with this process at the latest.
func startProcess(o Options) (*process, error) {
	p := &process{cmd: exec.Command(o.Path), log: &head{}}
	p.cmd.Args, p.cmd.Env, p.cmd.Stderr = o.Args, workerEnvironment(), p.log
	p.cmd.SysProcAttr = newProcessGroup()
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.answers = &io.LimitedReader{R: out}
	p.jobs, p.results = gob.NewEncoder(in), gob.NewDecoder(p.answers)
	if err := p.jobs.Encode(hello{protocol, o.Limits}); err != nil {
		p.killProcess()
		return nil, err
	}
	return p, nil
}

// workerEnvironment is what a process gets of this one's: nothing that templates or those who write them could
// be after.
func workerEnvironment() (kept []string) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); name == "TZ" || strings.HasPrefix(name, "GO") {
			kept = append(kept, variable)
		}
	}
	return kept
}

// runJob has the process do a job.
func (p *process) runJob(ctx context.Context, job render.Job, limits render.Limits) (render.Result, error) {
	type done struct {
		answer
		err error
	}
	finished := make(chan done, 1)
	go func() {
		var d done
		if d.err = p.jobs.Encode(job); d.err == nil {
			p.answers.N = maxResult
			d.err = p.results.Decode(&d.answer)
		}
		finished <- d
	}()
	timer := time.NewTimer(limits.Time + grace)
	defer timer.Stop()
	p.isSpent = true
	select {
	case <-ctx.Done():
		return render.Result{}, ctx.Err()
	case <-timer.C:
		return render.Result{}, limits.TimeError()
	case d := <-finished:
		switch {
		case d.err != nil && ctx.Err() != nil:
			return render.Result{}, ctx.Err()
		case d.err != nil:
			return render.Result{}, p.diagnoseEnd(d.err)
		case d.Failure != nil:
			p.isSpent = d.Failure.IsRunaway
			return d.Result, d.Failure
		}
		p.isSpent = false
		return d.Result, nil
	}
}

// diagnoseEnd says why a process gave no answer: the runtime ends one that is out of memory or of stack,
// and the system one that takes the memory of others.
func (p *process) diagnoseEnd(err error) error {
	if p.answers.N <= 0 {
		return fmt.Errorf("more than %d MiB of manifests: %w", maxResult>>20, render.ErrRunaway)
	}
	p.killProcess()
	cause := p.log.causeOfEnd()
	if cause == "" {
		cause = p.cmd.ProcessState.String()
	}
	return fmt.Errorf("the process that renders has ended (%s): %w", cause, render.ErrRunaway)
}

// killProcess ends the process and waits until it is gone.
func (p *process) killProcess() {
	p.ended.Do(func() {
		_ = p.cmd.Process.Kill() // it may have ended by itself
		_ = p.cmd.Wait()
	})
}

// head keeps the beginning of what a process writes to standard error.
type head struct {
	mu   sync.Mutex
	text []byte
}

const maxHead = 8 << 10

// Write implements [io.Writer].
func (h *head) Write(data []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = append(h.text, data[:min(len(data), maxHead-len(h.text))]...)
	return len(data), nil
}

// causeOfEnd is the line in which the Go runtime says why it ends, or the first one.
func (h *head) causeOfEnd() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(h.text)), "\n")
	for _, line := range lines {
		if strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "panic: ") {
			return line
		}
	}
	return lines[0]
}

// Serve does the jobs that come in, until there are no more, and answers each. It is all that its
// process does, which gives itself the limits that it is told, and ends with the one that started it:
// when in ends, whatever is under way.
func Serve(in io.Reader, out io.Writer) error {
	jobs := gob.NewDecoder(in)
	var said hello
	if err := jobs.Decode(&said); err != nil || said.Protocol != protocol {
		return errors.New("this is what krtpkg itself starts to render templates")
	}
	limitProcess(said.Limits)
	next := make(chan render.Job)
	go func() {
		for {
			var job render.Job
			if jobs.Decode(&job) != nil {
				os.Exit(0)
			}
			next <- job
		}
	}()
	results := gob.NewEncoder(out)
	for job := range next {
		result, err := (render.InProcess{Limits: said.Limits}).Run(context.Background(), job)
		if err := results.Encode(answer{result, render.NewFailure(err)}); err != nil {
			return err
		}
	}
	return nil
}
