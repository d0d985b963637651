// Command cluster is a Kubernetes control plane in one binary: etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler, and KWOK, which plays the nodes and the pods on
// them. Pods are scheduled, become ready, complete when a Job owns them and go away when
// deleted, but no container ever runs.
//
//	cluster up --dir RUNDIR [--nodes 2] [--components DIR]
//
// starts one of each and prints the path of its kubeconfig when the nodes are ready. It
// ends them all on SIGINT, SIGTERM or SIGHUP, or when its standard input is a pipe and the
// other end closes it, so that a program that started it can neither forget it nor die
// before it. Each run wants a folder of its own, which is made if missing and holds
// everything: keys, data and the logs, one for each component under logs/. Components of which the folder of
// --components has a program are not those of this binary; built with the tag "published" it has KWOK alone.
//
//	cluster kube-apiserver --help
//
// and the like run one component by itself; so does cluster kubelet, which up does not start: a
// node that runs containers joins like any other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

const usage = `Usage:
  cluster up --dir RUNDIR [--nodes 2] [--components DIR]
  cluster {etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|kwok} [FLAGS]`

func main() {
	// The kernel ends a child when the thread that started it ends (see detach), so the
	// one that starts them must stay.
	runtime.LockOSThread()

	if err := dispatch(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func dispatch(args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	if args[0] == "up" {
		return runUp(args[1:])
	}
	component, ok := components[args[0]]
	if !ok {
		return fmt.Errorf("no component %q\n%s", args[0], usage)
	}
	os.Args = args
	return component()
}

func runUp(args []string) error {
	flags := flag.NewFlagSet("cluster up", flag.ExitOnError)
	dir := flags.String("dir", "", "folder for everything that belongs to this run")
	nodes := flags.Int("nodes", 2, "number of nodes")
	programs := flags.String("components", "", "folder of programs to run instead of those in here")
	flags.Parse(args)
	if *dir == "" || flags.NArg() > 0 {
		return errors.New(usage)
	}

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A second signal ends this process at once, and with it all the others.
	context.AfterFunc(ctx, cancel)
	if isPipe(os.Stdin) {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	return up(ctx, *dir, *programs, *nodes, os.Stdout)
}

// isPipe tells a standard input that someone holds open from one that means nothing: a
// shell gives /dev/null to what it runs in the background, and a background process that
// reads from the terminal is stopped.
func isPipe(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
}
