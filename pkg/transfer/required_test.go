package transfer_test

import (
	"strings"
	"testing"

	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/transfer"
)

// What is required and nil is named, before a goroutine would panic over it.
func TestRequiredFields(t *testing.T) {
	t.Parallel()
	ctx, target := t.Context(), memory.New()
	for want, call := range map[string]func() error{
		"Source.Store is nil in source 1 of 1": func() error {
			_, err := transfer.Copy(ctx, []transfer.Source{{}}, target, transfer.Options{})
			return err
		},
		"Source.Store is nil in source 2 of 2": func() error {
			_, err := transfer.NewPlan(ctx, []transfer.Source{{Store: target}, {}}, transfer.Options{})
			return err
		},
		"dst is nil": func() error {
			_, err := transfer.PlanCopy(ctx, []transfer.Source{{Store: target}}, nil, transfer.Options{})
			return err
		},
		"import: dst is nil": func() error { _, err := transfer.Import(ctx, nil, nil, transfer.Options{}); return err },
		"stream: dst is nil": func() error { _, err := transfer.ImportStream(ctx, nil, nil, transfer.Options{}); return err },
		"plan: dst is nil":   func() error { _, err := transfer.PlanImport(ctx, nil, nil, transfer.Options{}); return err },
	} {
		if _, name, ok := strings.Cut(want, ": "); ok {
			want = name
		}
		if err := call(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// A value that would be taken for another one is refused.
func TestUnknownOptions(t *testing.T) {
	t.Parallel()
	for want, call := range map[string]func() error{
		`Options.Attached is "none": want known, verified or all`: func() error {
			_, err := transfer.NewPlan(t.Context(), nil, transfer.Options{Attached: "none"})
			return err
		},
		`tag "1.0.0+b7": invalid reference`: func() error {
			_, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: memory.New(), Tags: []string{"1.0.0+b7"}}}, transfer.Options{})
			return err
		},
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
