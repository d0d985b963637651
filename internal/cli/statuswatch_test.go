package cli_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/records"
	results "krtpkg.dev/krtpkg/pkg/result"
)

// A watch of all namespaces goes on without those that this user may not read, and says once which they are.
func TestStatusWatchesWhatCanBeRead(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"", "json"} {
		t.Run("format "+format, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.env = append(s.env, "KUBECONFIG="+s.path("kubeconfig"))
			s.write("kubeconfig", "apiVersion: v1\nkind: Config\ncurrent-context: a\nusers: [{name: a, user: {}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n"+
				"clusters: [{name: a, cluster: {server: '"+startUnreadableNamespace(t, "failed", "failed", "paused", "paused", "complete")+"'}}]\n")
			args := []string{"status", "-A", "--watch", "--every", "100ms", "--no-registry"}
			if format != "" {
				args = append(args, "-o", format)
			}
			cmd, stdout, stderr := s.command(args...)
			_ = cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit code %d, want 1 at the end: not everything could be seen", code)
			}
			const note = "note: show the status in namespace closed: "
			if strings.Count(stderr.String(), note) != 1 || strings.Count(stderr.String(), "show the status in namespace closed") != 2 {
				t.Errorf("want one note and one error at the end:\n%s", stderr)
			}
			var states []string
			if format == "" {
				for line := range strings.Lines(stdout.String()) {
					if state, isRevision := strings.CutPrefix(line, "  revision 1 "); isRevision {
						states = append(states, strings.Split(state, ",")[0])
					}
				}
			}
			for decoder := json.NewDecoder(strings.NewReader(stdout.String())); format != ""; {
				var r results.Status
				if err := decoder.Decode(&r); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				if len(r.Runtimes) != 1 || r.Error == nil || !strings.Contains(r.Error.Message, "namespace closed") {
					t.Errorf("a result does not say that it is incomplete: %+v", r)
					break
				}
				states = append(states, string(r.Runtimes[0].Revision.State))
			}
			if got := strings.Join(states, " "); got != "failed paused complete" {
				t.Errorf("it printed the states %q", got)
			}
			if t.Failed() {
				t.Logf("standard output:\n%s\nstandard error:\n%s", stdout, stderr)
			}
		})
	}
}

// startUnreadableNamespace plays an API server with a runtime in the namespace open, which is in one state after the other
// each time it is read, and one in the namespace closed, which this user may not read.
func startUnreadableNamespace(t *testing.T, states ...string) string {
	record := func(namespace, state string) corev1.ConfigMap {
		return corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: records.ObjectName("edge"), Labels: map[string]string{"krtpkg.dev/record": "runtime", "krtpkg.dev/runtime": "edge"}},
			Data:       map[string]string{"revisions.yaml": fmt.Sprintf("- {revision: 1, version: 1.0.0, digest: 'sha256:%064d', state: %s, started: 2026-05-04T03:02:01Z, by: me}\n", 0, state)},
		}
	}
	var reads atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list := corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMapList"}}
		isRecord := strings.Contains(r.URL.Query().Get("labelSelector"), "krtpkg.dev/record")
		switch r.URL.Path {
		case "/api/v1/configmaps":
			list.Items = []corev1.ConfigMap{record("closed", "complete"), record("open", "complete")}
		case "/api/v1/namespaces/open/configmaps":
			if isRecord {
				list.Items = []corev1.ConfigMap{record("open", states[min(int(reads.Add(1)), len(states))-1])}
			}
		case "/api/v1/namespaces/closed/configmaps":
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			json.NewEncoder(w).Encode(metav1.Status{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
				Message: `configmaps is forbidden: User "me" cannot list resource "configmaps" in API group "" in the namespace "closed"`,
			})
			return
		default:
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(list)
	}))
	t.Cleanup(server.Close)
	return server.URL
}
