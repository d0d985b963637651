//go:build !published

package main

import (
	"context"
	"os"
	_ "time/tzdata" // CronJobs name time zones

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// components are the programs in this binary by the name that picks one. Each reads
// os.Args as if it were alone.
var components = map[string]func() error{
	"etcd":                    func() error { etcdmain.Main(os.Args); return nil },
	"kube-apiserver":          func() error { return run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() error { return run(controllermanager.NewControllerManagerCommand()) },
	"kube-scheduler":          func() error { return run(scheduler.NewSchedulerCommand()) },
	"kubelet":                 func() error { return run(kubelet.NewKubeletCommand(context.Background())) },
	"kwok":                    runKWOK,
}

func run(cmd *cobra.Command) error {
	if code := cli.Run(cmd); code != 0 {
		os.Exit(code) // cli.Run has said why
	}
	return nil
}
