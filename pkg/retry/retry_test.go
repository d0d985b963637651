package retry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"krtpkg.dev/krtpkg/pkg/retry"
)

var (
	errPasses = errors.New("connection reset")
	errStays  = errors.New("not found")
)

func isTransient(err error) bool { return errors.Is(err, errPasses) }

func ExamplePolicy_Do() {
	attempts := 0
	err := retry.Policy{First: time.Millisecond}.Do(context.Background(), isTransient, func() error {
		if attempts++; attempts < 3 {
			return errPasses
		}
		return nil
	})
	fmt.Println(attempts, err)
	// Output: 3 <nil>
}

func TestDo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		policy   retry.Policy
		errs     []error // the last one stays
		attempts int
		least    time.Duration // without jitter
		fails    string
	}{
		"at once":         {errs: []error{nil}, attempts: 1},
		"in the end":      {errs: []error{errPasses, errPasses, nil}, attempts: 3, least: 750 * time.Millisecond},
		"never":           {errs: []error{errPasses}, attempts: 5, least: 3750 * time.Millisecond, fails: "connection reset (5 attempts)"},
		"for good":        {errs: []error{errPasses, errStays}, attempts: 2, least: 250 * time.Millisecond, fails: "not found"},
		"own pauses":      {policy: retry.Policy{Attempts: 4, First: time.Second, Longest: 2 * time.Second}, errs: []error{errPasses}, attempts: 4, least: 5 * time.Second, fails: "connection reset (4 attempts)"},
		"a single time":   {policy: retry.Policy{Attempts: 1}, errs: []error{errPasses}, attempts: 1, fails: "connection reset"},
		"a longest pause": {policy: retry.Policy{Attempts: 3, First: time.Minute, Longest: time.Second}, errs: []error{errPasses}, attempts: 3, least: 2 * time.Second, fails: "connection reset (3 attempts)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				attempts, began := 0, time.Now()
				err := test.policy.Do(t.Context(), isTransient, func() error {
					attempts++
					return test.errs[min(attempts, len(test.errs))-1]
				})
				if text := fmt.Sprint(err); test.fails == "" && err != nil || test.fails != "" && text != test.fails {
					t.Errorf("%v, want %q", err, test.fails)
				}
				if took := time.Since(began); attempts != test.attempts || took < test.least || took > test.least*3/2 {
					t.Errorf("%d attempts in %s, want %d in %s and half of that again", attempts, took, test.attempts, test.least)
				}
			})
		})
	}
}

// An interrupt is not waited out, and the error tells it from the failure that was about to be retried.
func TestDoEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := retry.Policy{}.Do(ctx, isTransient, func() error { return errPasses })
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errPasses) || time.Since(began) != 100*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestPauseIsBounded(t *testing.T) {
	t.Parallel()
	for _, attempt := range []int{0, 1, 10, 63, 64, 1000} {
		if pause := (retry.Policy{}).Pause(attempt); pause < 250*time.Millisecond || pause > 12*time.Second {
			t.Errorf("pause %d is %s", attempt, pause)
		}
	}
	for _, pause := range []time.Duration{-time.Second, 0, 1, 2} {
		if got := retry.AddJitter(pause); got < 0 || got > 3 {
			t.Errorf("jitter makes %s of %s", got, pause)
		}
	}
}

func TestParseAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for text, want := range map[string]time.Duration{
			"": 0, "0": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "1e3": 0, "1.5": 0, "+3": 0,
			"4294967295": 365 * 24 * time.Hour, "99999999999999999999": 0,
			time.Now().Add(time.Minute).UTC().Format(http.TimeFormat):              time.Minute,
			time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat):             0,
			time.Now().Add(2 * 365 * 24 * time.Hour).UTC().Format(http.TimeFormat): 365 * 24 * time.Hour,
		} {
			if got := retry.ParseAfter(http.Header{"Retry-After": {text}}); got != want {
				t.Errorf("%q: %s, want %s", text, got, want)
			}
		}
		if got := retry.ParseAfter(nil); got != 0 {
			t.Errorf("no header: %s", got)
		}
	})
}
