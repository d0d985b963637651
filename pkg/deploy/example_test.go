package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"testing/fstest"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

// A plan writes nothing; an apply refuses what its plan finds wrong.
func ExampleCluster_Apply() {
	ctx := context.Background()
	cluster, err := deploy.Connect(deploy.Config{Context: "edge", Namespace: "krtpkg"})
	if err != nil {
		log.Fatal(err)
	}
	runtime := deploy.Runtime{Name: "edge", Version: "1.0.0", Units: []deploy.Unit{{
		Bundle: "settings", Layer: 2,
		Manifests: fstest.MapFS{"settings.yaml": &fstest.MapFile{Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n")}},
	}}}
	report, err := cluster.Apply(ctx, runtime, deploy.ApplyOptions{
		Options: deploy.Options{OnEvent: func(e deploy.Event) { fmt.Println(e.Phase, e.Outcome.Bundle) }},
		Confirm: func(_ context.Context, plan *deploy.Plan) (bool, error) {
			return !plan.HasChanges() || len(plan.Findings) == 0, nil
		},
	})
	var foreign *deploy.ForeignError
	switch {
	case errors.As(err, &foreign):
		log.Fatal("others would lose something: ", err)
	case err != nil:
		log.Fatal(err)
	}
	for _, outcome := range report.Applied {
		fmt.Println(outcome.Bundle, outcome.Changes)
	}
}
