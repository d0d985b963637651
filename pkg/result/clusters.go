package result

import (
	"time"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// Plan is the result of krtpkg plan.
type Plan struct {
	Outcome
	// Name, Version and Digest are those of the runtime to apply.
	Name    string `json:"name"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
	// From is the version that is there.
	From string `json:"from,omitempty"`
	// Changes reports whether an apply would change anything.
	Changes bool `json:"changes"`
	// Bundles are in the order in which they would be applied, and then deleted.
	Bundles []PlannedBundle `json:"bundles"`
	// Findings are what is wrong, or may be.
	Findings []preflight.Finding `json:"findings"`
	ChangeCounts
}

// PlannedBundle is what would be done to a bundle.
type PlannedBundle struct {
	Name  string `json:"name"`
	Layer int    `json:"layer"`
	// Action is install, change, keep, remove, or unplanned, of which a finding says why.
	Action  deploy.Action `json:"action"`
	Version string        `json:"version,omitempty"`
	// From is the version that is there.
	From      string                  `json:"from,omitempty"`
	Resources []deploy.ResourceChange `json:"resources"`
	ChangeCounts
}

// ChangeCounts are numbers of resources by what is done to them.
type ChangeCounts struct {
	Create int `json:"create"`
	Update int `json:"update"`
	Delete int `json:"delete"`
	// Wait counts what needs no change and is not ready.
	Wait int `json:"wait"`
	// Release counts what stays on the cluster without being the runtime's any more.
	Release int `json:"release"`
}

// Apply is the result of krtpkg apply, rollback and delete. Of apply --contexts
// what was done is in Clusters.
type Apply struct {
	Outcome
	Applied
	// Clusters are those of --contexts, in that order.
	Clusters []ClusterApply `json:"clusters,omitempty"`
}

// Applied is what was done to one cluster.
type Applied struct {
	// Name is the runtime's.
	Name    string          `json:"name"`
	Applied []BundleOutcome `json:"applied"`
	Deleted []BundleOutcome `json:"deleted"`
	// SkippedHooks were not run, as nothing said so.
	SkippedHooks []deploy.SkippedHook `json:"skippedHooks,omitempty"`
	// Receipt is what --receipt wrote.
	Receipt *ReceiptFile `json:"receipt,omitempty"`
}

// BundleOutcome is what was done to a bundle.
type BundleOutcome struct {
	Name string `json:"name"`
	// App is the kapp app.
	App     string `json:"app"`
	Version string `json:"version,omitempty"`
	Layer   int    `json:"layer"`
	ChangeCounts
	Seconds float64 `json:"seconds"`
}

// ClusterApply is what was done to one of several clusters.
type ClusterApply struct {
	// Context is that of the kubeconfig.
	Context string `json:"context"`
	// State is applied, failed or not begun.
	State string `json:"state"`
	// Reason is why it failed.
	Reason  string   `json:"reason,omitempty"`
	Seconds float64  `json:"seconds,omitempty"`
	Report  *Applied `json:"report,omitempty"`
}

// Status is the result of krtpkg status.
type Status struct {
	Outcome
	Runtimes []RuntimeStatus `json:"runtimes"`
}

// RuntimeStatus is how a runtime is on a cluster.
type RuntimeStatus struct {
	Name string `json:"name"`
	// Namespace is where its records are.
	Namespace string        `json:"namespace,omitempty"`
	Version   string        `json:"version"`
	Digest    string        `json:"digest"`
	Health    deploy.Health `json:"health"`
	// Drifted reports whether the cluster differs from what was applied.
	Drifted bool `json:"drifted"`
	// Revision is the newest one.
	Revision deploy.Revision `json:"revision"`
	// Stale is why the channels that it was promoted to are stale, if all are, by the trust policy.
	Stale string `json:"stale,omitempty"`
	// Newer are the newer versions in its registry.
	Newer   []string       `json:"newer"`
	Bundles []BundleStatus `json:"bundles"`
}

// BundleStatus is how a bundle is on a cluster.
type BundleStatus struct {
	Name    string `json:"name"`
	Layer   int    `json:"layer"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
	// App is the kapp app.
	App    string        `json:"app"`
	Health deploy.Health `json:"health"`
	Reason string        `json:"reason,omitempty"`
	// Complete reports whether all of it was applied.
	Complete bool `json:"complete"`
	// Stage is how far the newest revision is with it.
	Stage deploy.Stage `json:"stage"`
	// Target is the version that is to be there.
	Target  string    `json:"target,omitempty"`
	Changed time.Time `json:"changed,omitzero"`
	// ResourceCount is how many resources it has.
	ResourceCount int `json:"resourceCount"`
	// Done are Jobs among them that have run and are no longer there.
	Done []deploy.ResourceID `json:"done"`
	// Unready are the resources that are not healthy.
	Unready []deploy.ResourceStatus `json:"unready"`
	// Drift is what the next apply of the same would change.
	Drift []deploy.ResourceChange `json:"drift"`
}

// History is the result of krtpkg history.
type History struct {
	Outcome
	// Name is the runtime's.
	Name      string            `json:"name"`
	Revisions []deploy.Revision `json:"revisions"`
}
