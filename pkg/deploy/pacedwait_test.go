package deploy

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carvel.dev/kapp/pkg/kapp/clusterapply"
	"carvel.dev/kapp/pkg/kapp/diff"
	"carvel.dev/kapp/pkg/kapp/logger"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// sectionLog notes when it is told of sections.
type sectionLog struct {
	clusterapply.UI
	began time.Time
	times []time.Duration
}

func (s *sectionLog) NotifySection(string, ...any) { s.times = append(s.times, time.Since(s.began)) }

func (s *sectionLog) Notify([]string) {}

// rewordedSections are told in other words, which may be others each time.
type rewordedSections struct {
	clusterapply.UI
	words string
	told  int
}

func (r *rewordedSections) NotifySection(string, ...any) {
	r.told++
	r.UI.NotifySection("%s", strings.ReplaceAll(r.words, "N", strconv.Itoa(r.told)))
}

// lateObjects are ready after a number of looks.
type lateObjects struct {
	kappres.Resources
	mu    sync.Mutex
	looks map[string]int
}

func (l *lateObjects) Get(r kappres.Resource) (kappres.Resource, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r = r.DeepCopy()
	switch l.looks[r.Name()]++; {
	case l.looks[r.Name()] > 1000:
		return nil, errors.New("looked a thousand times")
	case r.Name() == "early" && l.looks["early"] == 6:
		return r, nil
	}
	(&unstructured.Unstructured{Object: r.UnstructuredObject()}).SetDeletionTimestamp(&metav1.Time{Time: time.Unix(1, 0)})
	return r, nil
}

// waitByKapp waits as an apply does for objects of these names, and returns when kapp told of a look, and its error.
func waitByKapp(t *testing.T, ui func(clusterapply.UI) clusterapply.UI, names ...string) ([]int64, error) {
	t.Helper()
	const longest = 400 * time.Millisecond
	log := &sectionLog{began: time.Now()}
	e := &engine{cluster: &Cluster{namespace: "here"}, options: Options{PollInterval: longest, WaitTimeout: 2 * time.Second}}
	flags := e.deployFlags().ApplyFlags
	objects := kappres.NewIdentifiedResources(nil, nil, &lateObjects{looks: map[string]int{}}, nil, logger.NewNoopLogger())
	wait := clusterapply.NewWaitingChanges(len(names), flags.WaitingChangesOpts, ui(&pacedWait{UI: log, ctx: t.Context(), longest: longest}), true)
	for _, name := range names {
		r := parseObject(t, wantedConfigMap(name, "x", ""))
		change := clusterapply.NewClusterChange(diff.NewChange(nil, r, r, nil, diff.ChangeOpts{}), flags.ClusterChangeOpts, objects, diff.ChangeFactory{},
			diff.ChangeSetFactory{}, clusterapply.NewConvergedResourceFactory(nil, clusterapply.ConvergedResourceFactoryOpts{}), log, nil)
		wait.Track([]clusterapply.WaitingChange{{Cluster: change}})
	}
	var err error
	for err == nil && !wait.IsEmpty() {
		_, _, err = wait.WaitForAny()
	}
	var times []int64
	for _, at := range log.times {
		times = append(times, at.Milliseconds())
	}
	return times, err
}

// Looks at what is not ready follow each other fast at first, and again when something has become ready.
func TestPacedWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got, _ := waitByKapp(t, func(u clusterapply.UI) clusterapply.UI { return u }, "early", "late")
		if want := []int64{0, 50, 150, 350, 750, 1150, 1150, 1200, 1300}; !slices.Equal(got[:min(len(got), len(want))], want) {
			t.Errorf("looked after %v ms, want %v", got, want)
		}
	})
}

// Kapp pauses between its looks whatever it tells of them.
func TestPacedWaitInOtherWords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		words string
		looks int
	}{
		"the same each time": {"still pending", 9}, "others each time": {"look N", 42}, "applying": {"applying 1 changes", 42},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				got, err := waitByKapp(t, func(u clusterapply.UI) clusterapply.UI { return &rewordedSections{UI: u, words: c.words} }, "late")
				if len(got) != c.looks || err == nil || !strings.Contains(err.Error(), "Timed out") {
					t.Errorf("looked %d times, want %d; error %v", len(got), c.looks, err)
				}
			})
		})
	}
}

// Kapp's goroutine ends with its call.
func TestPacedWaitEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		log := &sectionLog{began: time.Now()}
		wait := &pacedWait{UI: log, ctx: ctx, longest: time.Hour}
		for range 3 {
			wait.NotifySection("waiting on 1 changes [0/1 done]")
		}
		if took := log.times[2]; took != time.Second {
			t.Errorf("waited %s after its context had ended", took-time.Second)
		}
	})
}
