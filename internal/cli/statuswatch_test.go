package cli_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// What passes does not end a watch: neither well, while a namespace may be unhealthy, nor with an error. Only what this user
// may not read is not waited for, and whether that is so says the reason of the API server.
func TestStatusWatchPollsNamespacesAgain(t *testing.T) {
	t.Parallel()
	const once, twice = "500 other is forbidden for now", "500 other is forbidden for now, 500 the same"
	for name, c := range map[string]struct {
		closed, open, other string
		code                int
		// states are those that were printed; notes and errors are namespaces.
		states, notes, failed string
	}{
		"one fails":                {open: "complete", other: twice + ", failed, complete", states: "complete complete failed complete complete", notes: "other"},
		"all fail":                 {open: once + ", complete", other: once + ", complete", states: "complete complete", notes: "open other"},
		"one fails, one is closed": {closed: "403", open: "complete", other: once + ", complete", code: 1, states: "complete complete complete", notes: "closed other", failed: "closed"},
		"all are closed":           {open: "403", other: "403", code: 1, failed: "open other"},
		"one opens":                {open: "403, complete", other: once + ", complete", states: "complete complete", notes: "open other"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.env = append(s.env, "KUBECONFIG="+s.path("kubeconfig"))
			answers := map[string][]string{}
			for namespace, all := range map[string]string{"closed": c.closed, "open": c.open, "other": c.other} {
				if all != "" {
					answers[namespace] = strings.Split(all, ", ")
				}
			}
			s.write("kubeconfig", "apiVersion: v1\nkind: Config\ncurrent-context: a\nusers: [{name: a, user: {}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n"+
				"clusters: [{name: a, cluster: {server: '"+startNamespaces(t, answers)+"'}}]\n")
			cmd, stdout, stderr := s.command("status", "-A", "--watch", "--every", "100ms", "--no-registry")
			_ = cmd.Run()
			var states, notes, failed []string
			for line := range strings.Lines(stdout.String()) {
				if state, isRevision := strings.CutPrefix(line, "  revision 1 "); isRevision {
					states = append(states, strings.Split(state, ",")[0])
				}
			}
			for line := range strings.Lines(stderr.String()) {
				before, after, isUnread := strings.Cut(line, "show the status in namespace ")
				namespace, _, _ := strings.Cut(after, ":")
				if isUnread && before == "note: " {
					notes = append(notes, namespace)
				} else if isUnread {
					failed = append(failed, namespace)
				}
			}
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, one := range []struct{ what, want, got string }{
				{"states", c.states, strings.Join(states, " ")}, {"notes", c.notes, strings.Join(notes, " ")}, {"errors", c.failed, strings.Join(failed, " ")},
			} {
				if one.got != one.want {
					t.Errorf("%s: %q, want %q", one.what, one.got, one.want)
				}
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
	return startNamespaces(t, map[string][]string{"open": states, "closed": {"403"}})
}

// startNamespaces plays an API server with a runtime in each namespace. Its answers come one after the other each time the
// namespace is read, and the last one stays: the state of the runtime, or the code of an error and its message.
func startNamespaces(t *testing.T, answers map[string][]string) string {
	record := func(namespace, state string) corev1.ConfigMap {
		return corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: records.ObjectName("edge"), Labels: map[string]string{"krtpkg.dev/record": "runtime", "krtpkg.dev/runtime": "edge"}},
			Data:       map[string]string{"revisions.yaml": fmt.Sprintf("- {revision: 1, version: 1.0.0, digest: 'sha256:%064d', state: %s, started: 2026-05-04T03:02:01Z, by: me}\n", 0, state)},
		}
	}
	var mu sync.Mutex
	reads := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list := corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMapList"}}
		isRecord := strings.Contains(r.URL.Query().Get("labelSelector"), "krtpkg.dev/record")
		namespace, isOne := strings.CutPrefix(strings.TrimSuffix(r.URL.Path, "/configmaps"), "/api/v1/namespaces/")
		states := answers[namespace]
		switch {
		case r.URL.Path == "/api/v1/configmaps":
			for _, namespace := range slices.Sorted(maps.Keys(answers)) {
				list.Items = append(list.Items, record(namespace, "complete"))
			}
		case isOne && states != nil:
			mu.Lock()
			defer mu.Unlock()
			answer := states[min(reads[namespace], len(states)-1)]
			text, message, _ := strings.Cut(answer, " ")
			code, err := strconv.Atoi(text)
			if isRecord || err == nil { // an error is the answer to the first list, and there is no second
				reads[namespace]++
			}
			if err == nil {
				writeFailure(w, code, message)
				return
			}
			if isRecord {
				list.Items = []corev1.ConfigMap{record(namespace, answer)}
			}
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

// writeFailure answers as an API server that refuses a list, or fails.
func writeFailure(w http.ResponseWriter, code int, message string) {
	reason := metav1.StatusReasonInternalError
	if code == http.StatusForbidden {
		reason = metav1.StatusReasonForbidden
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
		Message: cmp.Or(message, `User "me" cannot list resource "configmaps" in API group ""`),
	})
}
