package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What kapp tells, as it writes it.
func TestMessages(t *testing.T) {
	t.Parallel()
	var told []string
	m := newMessages(func(one Message) {
		if one.Waiting != nil {
			told = append(told, one.Waiting.Resource+" | "+one.Waiting.Reason)
		} else if one.Ready != "" {
			told = append(told, "ready "+one.Ready)
		} else {
			told = append(told, "warning "+one.Warning)
		}
	})
	web := "deployment/web (apps/v1) namespace: shop"
	m.NotifySection("waiting on %d changes", 1)
	m.Notify([]string{"create " + web, " ^ Retryable error: no webhook"})
	m.Notify([]string{"create " + web})
	if len(m.pendingResources()) != 0 {
		t.Errorf("pending %v", m.pendingResources())
	}
	m.Notify([]string{"ongoing: reconcile " + web, " ^ Waiting for 1 replicas", " L ok: waiting on replicaset/web-1", " L ongoing: waiting on pod/web-1-x (v1) namespace: shop", "    ^ Pending", " L ongoing: waiting on pod/web-1-y", "    ^ Pending"})
	m.Notify([]string{"ongoing: reconcile " + web, " ^ Waiting for 1 replicas", " L ongoing: waiting on pod/web-1-x (v1) namespace: shop", "    ^ Pending"})
	fmt.Fprint(m, "Warning: old\nWarn")
	fmt.Fprint(m, "ing: older\n")
	want := []string{
		web + " | Retryable error: no webhook", "ready " + web,
		web + " | Waiting for 1 replicas; pod/web-1-x (v1) namespace: shop: Pending",
		"warning old", "warning older",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told\n%s", strings.Join(told, "\n"))
	}
	if p := m.pendingResources(); len(p) != 1 || p[0].Resource != web {
		t.Errorf("pending %v", p)
	}
	m.Notify([]string{"ok: reconcile " + web})
	want = append(want, "ready "+web)
	m.stopTelling()
	m.Notify([]string{"ongoing: reconcile " + web})
	if len(told) != len(want) {
		t.Error("a closed one tells")
	}
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		after   map[int][]int
		fails   []int
		limit   int
		ran     string
		blocked string
	}{
		"in order":           {nil, nil, 1, "[0 1 2 3]", "map[]"},
		"a chain":            {map[int][]int{0: {1}, 1: {2}, 2: {3}}, nil, 4, "[3 2 1 0]", "map[]"},
		"a failure":          {map[int][]int{1: {0}, 2: {1}}, []int{0}, 1, "[0 3]", "map[1:[0] 2:[1]]"},
		"they wait for both": {map[int][]int{0: {1}, 1: {0}}, nil, 1, "[2 3 0 1]", "map[]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var ran []int
			tasks := make([]scheduledTask, 4)
			for i := range tasks {
				tasks[i] = scheduledTask{after: c.after[i], run: func(context.Context) error {
					ran = append(ran, i)
					if slices.Contains(c.fails, i) {
						return boom
					}
					return nil
				}}
			}
			failed, blocked := runScheduled(t.Context(), tasks, c.limit)
			if fmt.Sprint(ran) != c.ran || fmt.Sprint(blocked) != c.blocked || len(failed) != len(c.fails) {
				t.Errorf("ran %v, blocked %v, failed %v", ran, blocked, failed)
			}
		})
	}
}
