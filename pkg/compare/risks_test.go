package compare

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

// risksOf returns the risks of a change of manifests, a line each.
func risksOf(t *testing.T, before, after string) string {
	t.Helper()
	side := func(text string) []deploy.BundleManifests {
		return []deploy.BundleManifests{{Bundle: "b", Applied: fstest.MapFS{"all.yaml": {Data: []byte(text)}}}}
	}
	compared, err := deploy.CompareManifests(t.Context(), side(before), side(after))
	if err != nil {
		t.Fatal(err)
	}
	c := &Comparison{}
	if err := c.findRisks(t.Context(), compared); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, r := range c.Risks {
		fmt.Fprintf(&text, "%s: %s\n", r.Severity, r.Text)
	}
	return text.String()
}

// roleText is a ClusterRole with rules in flow style.
func roleText(rules string) string {
	return "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: r}\nrules: [" + rules + "]\n"
}

func bindingText(kind, namespace, role, subjects string) string {
	return fmt.Sprintf("apiVersion: rbac.authorization.k8s.io/v1\nkind: %s\nmetadata: {name: b%s}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %s}\nsubjects: [%s]\n",
		kind, namespace, role, subjects)
}

// What a role allows is what it says together: a rule that is split, spelled otherwise or covered by a wildcard is no news.
func TestWidenedAccess(t *testing.T) {
	t.Parallel()
	const account = "{kind: ServiceAccount, name: a, namespace: shop}"
	for _, c := range []struct{ name, before, after, want string }{
		{"the same, split", roleText(`{apiGroups: [""], resources: [pods, services], verbs: [get, list]}`),
			roleText(`{apiGroups: [""], resources: [services], verbs: [list, get]}, {apiGroups: [""], resources: [pods], verbs: [get]}, {apiGroups: [""], resources: [pods], verbs: [list]}`), ""},
		{"narrower than a wildcard", roleText(`{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}`), roleText(`{apiGroups: [""], resources: [secrets], verbs: [get]}`), ""},
		{"a verb", roleText(`{apiGroups: [apps], resources: [deployments], verbs: [get]}`), roleText(`{apiGroups: [apps], resources: [deployments], verbs: [get, patch]}`), "critical: may now patch on deployments (apps): runs pods with any service account and Secret of the namespace"},
		{"a name less", roleText(`{apiGroups: [""], resources: [secrets], resourceNames: [one], verbs: [get]}`), roleText(`{apiGroups: [""], resources: [secrets], verbs: [get]}`), "critical: may now get on secrets (core): reads credentials"},
		{"a name more", roleText(`{apiGroups: [""], resources: [secrets], resourceNames: [one], verbs: [get]}`), roleText(`{apiGroups: [""], resources: [secrets], resourceNames: [one, two], verbs: [get]}`), "notable: may now get on secrets two (core)"},
		{"any verb", roleText(``), roleText(`{apiGroups: [""], resources: [configmaps], verbs: ["*"]}`), "critical: may now * on configmaps (core): any verb"},
		{"any group", roleText(``), roleText(`{apiGroups: ["*"], resources: [things], verbs: [get]}`), "critical: may now get on things (*): any API group"},
		{"any URL", roleText(``), roleText(`{nonResourceURLs: ["*"], verbs: [get]}`), "critical: may now get on URL *: any URL"},
		{"exec", roleText(``), roleText(`{apiGroups: [""], resources: [pods/exec], verbs: [create]}`), "critical: may now create on pods/exec (core): runs commands in pods"},
		{"exec of all", roleText(``), roleText(`{apiGroups: [""], resources: ["*/exec"], verbs: [create]}`), "critical: may now create on */exec (core): exec of any resource"},
		{"many", roleText(``), roleText(`{apiGroups: [x], resources: [a, b, c, d, e, f, g], verbs: [get]}`), "; and 2 more"},
		{"more than can be compared", roleText(``), roleText(`{apiGroups: [` + many("g", 500) + `], resources: [` + many("r", 500) + `], verbs: [get]}`), "critical: has rules for 250000 single rights, too many to compare"},
		{"fields that are not rules", roleText(``), strings.Replace(roleText(``), "[]", "yes", 1), "critical: cannot be read"},
		{"a new subject", bindingText("RoleBinding", "", "view", ""), bindingText("RoleBinding", "", "view", account), "notable: ServiceAccount shop/a gets ClusterRole view in namespace of the runtime"},
		{"a role of elsewhere", bindingText("RoleBinding", "", "other", ""), bindingText("RoleBinding", "", "other", account), "gets ClusterRole other in namespace of the runtime, a role that did not change here"},
		{"the same subject", bindingText("RoleBinding", "", "view", account), bindingText("RoleBinding", "", "view", account+", "+account), ""},
		{"another role", bindingText("ClusterRoleBinding", "", "view", account), bindingText("ClusterRoleBinding", "", "cluster-admin", account), "critical: ServiceAccount shop/a gets ClusterRole cluster-admin in the whole cluster"},
		{"everyone", bindingText("ClusterRoleBinding", "", "view", ""), bindingText("ClusterRoleBinding", "", "view", "{kind: Group, name: 'system:unauthenticated'}"), "critical: Group system:unauthenticated gets ClusterRole view in the whole cluster: that is everyone"},
		{"a workload by name", roleText(``), roleText(`{apiGroups: [apps], resources: [deployments], resourceNames: [own], verbs: [patch]}`), "notable: may now patch on deployments own (apps)"},
		{"labels of namespaces", roleText(``), roleText(`{apiGroups: [""], resources: [namespaces], verbs: [patch]}`), "critical: may now patch on namespaces (core): changes what namespaces allow their pods"},
		{"a signer by name", roleText(``), roleText(`{apiGroups: [certificates.k8s.io], resources: [signers], resourceNames: [kubernetes.io/kube-apiserver-client], verbs: [approve]}`), "critical: may now approve on signers kubernetes.io/kube-apiserver-client (certificates.k8s.io): signs certificates"},
		{"a role by name", roleText(``), roleText(`{apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], resourceNames: [own], verbs: [update]}`), "critical: may now update on clusterroles own (rbac.authorization.k8s.io): changes roles"},
		{"a webhook by name", roleText(``), roleText(`{apiGroups: [admissionregistration.k8s.io], resources: [mutatingwebhookconfigurations], resourceNames: [own], verbs: [patch]}`), "critical: may now patch on mutatingwebhookconfigurations own"},
		{"tokens by name", roleText(``), roleText(`{apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [admin], verbs: [create]}`), "critical: may now create on serviceaccounts/token admin (core): makes tokens of others"},
		{"the role edit", bindingText("RoleBinding", "", "edit", ""), bindingText("RoleBinding", "", "edit", account), "critical: ServiceAccount shop/a gets ClusterRole edit in namespace of the runtime\n"},
		{"a role of a controller", bindingText("RoleBinding", "", "view", ""), bindingText("RoleBinding", "", "'system:controller:clusterrole-aggregation-controller'", account), "critical: ServiceAccount shop/a gets ClusterRole system:controller:"},
		{"a harmless role of Kubernetes", bindingText("RoleBinding", "", "view", ""), bindingText("RoleBinding", "", "'system:auth-delegator'", account), "notable: ServiceAccount shop/a gets ClusterRole system:auth-delegator in namespace of the runtime\n"},
		{"a role that takes over others", "", strings.Replace(roleText(``), "rules: []", "rules: []\naggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}", 1) + "---\n" + bindingText("ClusterRoleBinding", "", "r", account),
			"notable: ServiceAccount shop/a gets ClusterRole r in the whole cluster, a role that takes its rules from others"},
		{"a role of the runtime that gives control", roleText(`{apiGroups: [""], resources: [secrets], verbs: [get]}`), roleText(`{apiGroups: [""], resources: [secrets], verbs: [get]}`) + "---\n" + bindingText("ClusterRoleBinding", "", "r", account), "critical: ServiceAccount shop/a gets ClusterRole r"},
	} {
		checkRisks(t, c.name, risksOf(t, c.before, c.after), c.want)
	}
}

func many(prefix string, n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(prefix, i)
	}
	return strings.Join(all, ", ")
}

func checkRisks(t *testing.T, name, got, want string) {
	t.Helper()
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("%s: got\n%swant %q", name, got, want)
	}
}

// serverText is a kind of an operator with fields of its specification, in flow style.
func serverText(fields string) string {
	return "apiVersion: example.com/v1\nkind: Server\nmetadata: {name: s}\nspec: {" + fields + "}\n"
}

// What a namespace, a volume, a webhook or an API service allows is seen without the resources that use it.
func TestClusterwideRisks(t *testing.T) {
	t.Parallel()
	const label = "pod-security.kubernetes.io/enforce"
	namespace := func(labels string) string {
		return "apiVersion: v1\nkind: Namespace\nmetadata: {name: n, labels: {" + labels + "}}\n"
	}
	volume := func(source string) string {
		return "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: v}\nspec: {" + source + "}\n"
	}
	webhooks := func(kind, list string) string {
		return "apiVersion: admissionregistration.k8s.io/v1\nkind: " + kind + "WebhookConfiguration\nmetadata: {name: w}\nwebhooks: [" + list + "]\n"
	}
	api := func(spec string) string {
		return "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.x}\nspec: {group: x, version: v1" + spec + "}\n"
	}
	const pods = "{name: a.x, rules: [{resources: [pods]}], clientConfig: {caBundle: b25l}}"
	for _, c := range []struct{ name, before, after, want string }{
		{"a label that is new", namespace("a: b"), namespace(label + ": privileged"), "notable: allows privileged pods"},
		{"a new namespace", "", namespace(label + ": privileged"), "notable: allows privileged pods"},
		{"a label that is gone and limited nothing", namespace(label + ": privileged"), namespace("a: b"), ""},
		{"a label that is gone", namespace(label + ": baseline"), namespace("a: b"), "critical: allows its pods more: " + label + " is not set, was baseline"},
		{"a lower level", namespace(label + ": restricted"), namespace(label + ": baseline"), "critical: allows its pods more"},
		{"a higher level", namespace(label + ": privileged"), namespace(label + ": baseline"), ""},
		{"a volume of a node", volume("nfs: {path: /}"), volume("hostPath: {path: /etc}"), "critical: gives pods /etc of a node (hostPath)"},
		{"a new local volume", "", volume("local: {path: /d}"), "critical: gives pods /d of a node (local)"},
		{"the same volume", volume("local: {path: /d}"), volume("local: {path: /d}, volumeMode: Block"), ""},
		{"a new webhook", "", webhooks("Mutating", pods), "notable: sees and changes requests by new webhooks: a.x\n"},
		{"a wider webhook", webhooks("Validating", pods), webhooks("Validating", strings.Replace(pods, "pods", "'*'", 1)), "notable: sees and refuses other requests by webhook a.x: changed rules\n"},
		{"another certificate", webhooks("Mutating", pods), webhooks("Mutating", strings.Replace(pods, "b25l", "dHdv", 1)), ""},
		{"a new API", "", api(", service: {namespace: ns, name: s}"), "notable: has Service ns/s answer all requests for v1 of API group x\n"},
		{"an API of another", api(", service: {namespace: ns, name: s}"), api(", service: {namespace: ns, name: t}"), "notable: has Service ns/t"},
		{"an API without verification", api(", service: {namespace: ns, name: s}"), api(", service: {namespace: ns, name: s}, insecureSkipTLSVerify: true"), "notable: does not verify who serves its API"},
		{"an API of the cluster", "", api(""), ""},
	} {
		checkRisks(t, c.name, risksOf(t, c.before, c.after), c.want)
	}
}

// podText is a Deployment with fields of its pod and of its container, in flow style.
func podText(pod, container string) string {
	return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {metadata: {}, spec: {" + pod + "containers: [{name: c, image: i, securityContext: {" + container + "}}]}}}\n"
}

// A pod has more rights where it says so, and where it no longer says what it gives up; its own word counts before the pod's.
func TestNewRights(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, before, after, want string }{
		{"the same", podText("hostNetwork: true, ", "privileged: true"), podText("hostNetwork: true, dnsPolicy: Default, ", "privileged: true"), ""},
		{"fewer", podText("hostNetwork: true, ", "privileged: true"), podText("", ""), ""},
		{"privileged", podText("", "privileged: false"), podText("", "privileged: true"), "critical: container c is privileged"},
		{"a token", podText("automountServiceAccountToken: false, ", ""), podText("", ""), "notable: gets a token of its service account"},
		{"drops all instead of one", podText("", "capabilities: {drop: [NET_RAW]}"), podText("", "capabilities: {drop: [ALL]}"), ""},
		{"drops one instead of all", podText("", "capabilities: {drop: [ALL]}"), podText("", "capabilities: {drop: [NET_RAW]}"), "critical: container c no longer drops capability ALL"},
		{"adds", podText("", "capabilities: {add: [A]}"), podText("", "capabilities: {add: [A, B]}"), "critical: container c has capability B\n"},
		{"root by the pod", podText("securityContext: {runAsUser: 5}, ", ""), podText("securityContext: {runAsUser: 0}, ", ""), "critical: container c runs as root"},
		{"not root by the container", podText("", ""), podText("securityContext: {runAsUser: 0}, ", "runAsUser: 7"), ""},
		{"the user is gone", podText("", "runAsUser: 7"), podText("", ""), "critical: container c may run as root"},
		{"the user is said otherwise", podText("", "runAsUser: 7"), podText("securityContext: {runAsNonRoot: true}, ", ""), ""},
		{"no profile any more", podText("securityContext: {seccompProfile: {type: RuntimeDefault}}, ", ""), podText("", ""), "notable: container c no longer has seccomp profile RuntimeDefault"},
		{"a profile elsewhere", podText("securityContext: {seccompProfile: {type: RuntimeDefault}}, ", ""), podText("", "seccompProfile: {type: RuntimeDefault}"), ""},
		{"escalation", podText("", "allowPrivilegeEscalation: false"), podText("", "allowPrivilegeEscalation: true"), "critical: container c may gain rights"},
		{"escalation as usual", podText("", ""), podText("", "allowPrivilegeEscalation: true"), ""},
		{"proc", podText("", ""), podText("", "procMount: Unmasked"), "critical: container c sees all of /proc"},
		{"AppArmor", podText("", "appArmorProfile: {type: RuntimeDefault}"), podText("", "appArmorProfile: {type: Unconfined}"), "critical: container c has no AppArmor profile"},
		{"users of its own", podText("hostUsers: false, ", ""), podText("", ""), "notable: its users are those of its node"},
		{"a mount that can be written to", podText("volumes: [{name: v, hostPath: {path: /v}}], initContainers: [{name: i, image: i, volumeMounts: [{name: v, mountPath: /v, readOnly: true}]}], ", ""),
			podText("volumes: [{name: v, hostPath: {path: /v}}], initContainers: [{name: i, image: i, volumeMounts: [{name: v, mountPath: /v}]}], ", ""), "critical: mounts /v of its node (hostPath)\n"},
		{"a runtime class", podText("runtimeClassName: gvisor, ", ""), podText("", ""), "notable: runs in the usual runtime, was runtime class gvisor"},
		{"an account", podText("serviceAccountName: one, ", ""), podText("serviceAccountName: two, ", ""), "notable: runs as service account two, was one"},
		{"a flag that is text", podText("", ""), podText("hostNetwork: 'true', hostPID: true, ", ""), "critical: spec.template.spec: hostNetwork cannot be read"},
		{"and the other next to it", podText("", ""), podText("hostNetwork: 'true', hostPID: true, ", ""), "critical: sees the processes of its node"},
		{"other letters are another field", podText("", "privileged: false"), podText("hostnetwork: true, hostPid: true, ", "privileged: false, Privileged: true, privilegeD: true"), ""},
		{"and hide none", podText("", ""), podText("hostPID: true, hostPid: false, ", ""), "critical: sees the processes of its node"},
		{"a new pod", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n", podText("", ""), ""},
		{"an operator's kind with containers", "apiVersion: example.com/v1\nkind: Server\nmetadata: {name: s}\nspec: {pool: {volumes: 3, containers: [{name: c}]}}\n",
			"apiVersion: example.com/v1\nkind: Server\nmetadata: {name: s}\nspec: {pool: {volumes: 3, containers: [{name: c, securityContext: {privileged: true}}]}}\n", "critical: container c is privileged"},
		{"an operator's flag next to containers", serverText("containers: [{name: c}], settings: {privileged: false}"), serverText("containers: [{name: c}], settings: {privileged: true}"), "critical: sets spec.settings.privileged: true"},
		{"an operator's pod next to containers", serverText("containers: [{name: c}], agent: {containers: [{name: a}]}"), serverText("containers: [{name: c}], agent: {hostPID: true, containers: [{name: a}]}"), "critical: sees the processes of its node"},
		{"a renamed container", podText("securityContext: {runAsNonRoot: true}, ", ""), strings.Replace(podText("", ""), "name: c", "name: e", 1), "critical: container e may run as root"},
		{"a renamed container in a limited pod", podText("securityContext: {runAsNonRoot: true}, ", ""), strings.Replace(podText("securityContext: {runAsNonRoot: true}, ", ""), "name: c", "name: e", 1), ""},
		{"an account by its old name", podText("", ""), podText("serviceAccount: two, ", ""), "notable: runs as service account two, was default"},
		{"an account by either name", podText("serviceAccount: two, ", ""), podText("serviceAccountName: two, ", ""), ""},
		{"a flag that was text before", podText("hostNetwork: 'true', ", ""), podText("hostNetwork: 'true', dnsPolicy: Default, ", ""), ""},
		{"an operator's flag", "apiVersion: example.com/v1\nkind: Server\nmetadata: {name: s}\nspec: {nodes: [{hostNetwork: false}]}\n",
			"apiVersion: example.com/v1\nkind: Server\nmetadata: {name: s}\nspec: {nodes: [{hostNetwork: true}]}\n", "critical: sets spec.nodes[0].hostNetwork: true"},
	} {
		checkRisks(t, c.name, risksOf(t, c.before, c.after), c.want)
	}
}

// Each kind of Kubernetes that makes pods is looked into.
func TestAllKindsOfPods(t *testing.T) {
	t.Parallel()
	for kind, format := range map[string]string{
		"v1 Pod": "spec: %s", "v1 PodTemplate": "template: {spec: %s}", "v1 ReplicationController": "spec: {template: {spec: %s}}",
		"apps/v1 Deployment": "spec: {template: {spec: %s}}", "apps/v1 ReplicaSet": "spec: {template: {spec: %s}}",
		"apps/v1 StatefulSet": "spec: {template: {spec: %s}}", "apps/v1 DaemonSet": "spec: {template: {spec: %s}}",
		"batch/v1 Job": "spec: {template: {spec: %s}}", "batch/v1 CronJob": "spec: {jobTemplate: {spec: {template: {spec: %s}}}}",
	} {
		apiVersion, name, _ := strings.Cut(kind, " ")
		text := func(pod string) string {
			return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: x}\n"+format+"\n", apiVersion, name, pod)
		}
		for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
			pod := "{containers: [{name: a, image: i}], " + list + ": [{name: c, image: i, securityContext: {privileged: true}}]}"
			if list == "containers" {
				pod = "{containers: [{name: c, image: i, securityContext: {privileged: true}}]}"
			}
			checkRisks(t, kind+" "+list, risksOf(t, text("{containers: [{name: a, image: i}]}"), text(pod)), "container c is privileged")
		}
	}
}
