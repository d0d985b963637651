package cli_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/imagetest"
)

// narrowed removes a field of whereabouts' definition of pools, and takes fewer values of another.
const narrowed = `#@ load("@ytt:overlay", "overlay")
#@overlay/match by=overlay.subset({"kind": "CustomResourceDefinition"})
---
spec:
  versions:
    #@overlay/match by="name"
    - name: v1alpha1
      schema:
        openAPIV3Schema:
          properties:
            spec:
              properties:
                allocations:
                  additionalProperties:
                    properties:
                      #@overlay/remove
                      podref: {}
                range:
                  #@overlay/match missing_ok=True
                  maxLength: 18
`

// plantChanges makes version 2.0.0 of the enterprise runtime in a workspace: a change of each kind that diff tells of, each
// where a real bundle may have it.
func plantChanges(t *testing.T, workspace string) {
	t.Helper()
	edit := func(name, pattern, replacement string) {
		t.Helper()
		name = filepath.Join(workspace, name)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		matcher := regexp.MustCompile("(?m)" + pattern)
		if n := len(matcher.FindAll(data, -1)); n != 1 {
			t.Fatalf("%s has %q %d times", name, pattern, n)
		}
		if err := os.WriteFile(name, matcher.ReplaceAll(data, []byte(replacement)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runtime := filepath.Join(workspace, "runtimes/enterprise/runtime.yaml")
	text, err := fs.ReadFile(bundles.Files, "runtimes/enterprise/runtime.yaml")
	if err := errors.Join(err, os.WriteFile(runtime, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	edit("runtimes/enterprise/runtime.yaml", `^  version: 1\.0\.0$`, "  version: 2.0.0")
	// A bundle that is gone, and one that is new.
	edit("runtimes/enterprise/runtime.yaml", `demo/guestbook$`, "demo/hello/1.1.0")
	// An image that moved, a role that allows more, and a pod that gets more rights.
	const dns = "3-cluster-services/external-dns/external-dns/bundle.yaml"
	edit(dns, `version: 0\.22\.0$`, "version: 0.23.0")
	edit(dns, `^( *)policy: upsert-only$`, "${1}policy: upsert-only\n${1}image: {tag: v0.23.0}\n"+
		"${1}rbac: {additionalPermissions: [{apiGroups: [\"\"], resources: [secrets], verbs: [get, list]}]}\n"+
		"${1}securityContext: {privileged: true, allowPrivilegeEscalation: true}")
	// A definition that loses a field.
	const whereabouts = "3-cluster-services/networking/whereabouts/"
	edit(whereabouts+"bundle.yaml", `^( *)(sha256: 04e4370e.*)$`, "${1}${2}\n${1}overlays: [narrowed.yaml]")
	if err := os.WriteFile(filepath.Join(workspace, whereabouts, "narrowed.yaml"), []byte(narrowed), 0o600); err != nil {
		t.Fatal(err)
	}
	// A value that a site has to set, and one with another default.
	const issuer = "4-security-and-observability/certificate-management/lets-encrypt/config/schema.yaml"
	edit(issuer, `^ingressClass: contour$`, "ingressClass: public\n#@schema/desc \"Account at the authority\"\n#@schema/validation min_len=1\naccount: \"\"")
	// Versions of Kubernetes that it no longer runs on: others of its bundles need 1.34 already.
	edit("4-security-and-observability/policy/workload-policies/bundle.yaml", `kubernetes: ">=1\.30"`, `kubernetes: ">=1.36"`)
}

// volatileDigests are in goldens of ready runtimes: a bundle has another digest with each change of anything in it.
var volatileDigests = regexp.MustCompile(`sha256:[0-9a-f]{64}|sha256:[0-9a-f]{12}\b`)

// diffPlanted compares version 1.0.0 of the enterprise runtime with one that has a change of every kind: each is told in the
// text, in JSON and in Markdown, and nothing else.
func (r *ready) diffPlanted() {
	t := r.site.t
	t.Helper()
	plantChanges(t, r.workspace)
	if err := imagetest.FillRegistry(t.Context(), r.vendor.Host+"/mirror", "registry.k8s.io/external-dns/external-dns:v0.23.0"); err != nil {
		t.Fatal(err)
	}
	r.ok("build", "-f", filepath.Join(r.workspace, "runtimes/enterprise"), "--to", "oci:dist:enterprise-2.0.0")
	for format, file := range map[string]string{"text": "enterprise-diff.txt", "json": "enterprise-diff.json", "markdown": "enterprise-diff.md"} {
		args := []string{"diff", "oci:dist:enterprise-1.0.0", "oci:dist:enterprise-2.0.0", "--values", "site.yaml"}
		if format != "text" {
			args = append(args, "-o", format)
		}
		got := volatileDigests.ReplaceAllString(r.ok(args...), "sha256:DIGEST")
		for _, told := range []string{
			"hello", "guestbook", "external-dns:v0.23.0", "may now get, list on secrets (core): reads credentials", "container external-dns is privileged",
			".podref may not be removed", "spec.range of v1alpha1", "value account must be set", "ingressClass", "no longer runs on Kubernetes 1.34, 1.35",
		} {
			if !strings.Contains(got, told) {
				t.Errorf("%s does not tell of %q", format, told)
			}
		}
		golden := "../../testdata/golden/" + file
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := string(readFile(t, golden)); got != want {
			t.Errorf("%s is another, go test ./internal/cli -run '^TestEnterpriseRuntime$' -update if it was meant to change. Got:\n%s", golden, got)
		}
	}
}
