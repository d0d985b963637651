package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	kapp "carvel.dev/kapp/pkg/kapp/app"
	cmdapp "carvel.dev/kapp/pkg/kapp/cmd/app"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"k8s.io/apimachinery/pkg/util/sets"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// waitForTerminating finds the existing resources ([engine.findExisting]) and waits until those that are wanted and
// being deleted are gone: what is written to these is lost. If h is nil it does not wait and returns them as going.
func (e *engine) waitForTerminating(ctx context.Context, p *kappParts, target kapp.App, wanted []kappres.Resource, flags *cmdapp.DeployOptions, isNew bool, h *progressHooks) (existing, going []kappres.Resource, err error) {
	told := map[string]bool{}
	for began := time.Now(); ; {
		existing, err = e.findExisting(p, target, wanted, flags, isNew)
		if err != nil {
			return nil, nil, err
		}
		if existing, going = splitTerminating(existing, wanted); h == nil || len(going) == 0 && len(told) == 0 {
			return existing, going, nil
		}
		still := map[string]bool{}
		for _, r := range going {
			still[r.Description()], told[r.Description()] = true, true
			h.told.Notify([]string{"ongoing: delete " + r.Description(), terminating(r)})
		}
		for description := range told {
			if !still[description] {
				h.told.Notify([]string{"ok: delete " + description})
			}
		}
		if len(going) == 0 {
			return existing, nil, nil
		}
		if time.Since(began) > e.options.WaitTimeout {
			return nil, nil, fmt.Errorf("wait for the deletion of %s: %s, after %s", idOf(going[0]), terminating(going[0]), e.options.WaitTimeout)
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(e.options.PollInterval):
		}
	}
}

// splitTerminating separates what is wanted and being deleted.
func splitTerminating(existing, wanted []kappres.Resource) (lasting, going []kappres.Resource) {
	keys := sets.New[string]()
	for _, r := range wanted {
		keys.Insert(kappres.NewUniqueResourceKey(r).String())
	}
	for _, r := range existing {
		if r.IsDeleting() && keys.Has(kappres.NewUniqueResourceKey(r).String()) {
			going = append(going, r)
		} else {
			lasting = append(lasting, r)
		}
	}
	return lasting, going
}

// terminating returns what a resource that is being deleted waits for.
func terminating(r kappres.Resource) string {
	if finalizers := slices.Clone(r.Finalizers()); len(finalizers) > 0 {
		return "is being deleted and waits for its finalizers (" + strings.Join(finalizers, ", ") + ")"
	}
	return "is being deleted"
}

// terminatingFindings say of each that an apply waits for its end.
func terminatingFindings(going []kappres.Resource) []preflight.Finding {
	var findings []preflight.Finding
	for _, r := range going {
		findings = append(findings, preflight.Finding{Severity: preflight.SeverityWarning, Check: preflight.CheckDryRun, Resource: idOf(r).String(),
			Message: terminating(r) + "; apply waits until it is gone, and creates it again"})
	}
	return findings
}
