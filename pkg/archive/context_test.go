package archive_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"

	"krtpkg.dev/krtpkg/pkg/archive"
)

// countdown is a context that is cancelled once it was asked so many times.
type countdown struct {
	context.Context
	left atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// countChecks runs what is cancelled at one after the other of the times that it asks for that, and returns about how many
// there are.
func countChecks(t *testing.T, run func(ctx context.Context) error) (checks int) {
	t.Helper()
	for ; ; checks += 1 + checks/8 { // not every one of many
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(int64(checks))
		err := run(ctx)
		if err == nil {
			return checks
		}
		if !errors.Is(err, context.Canceled) || errors.Is(err, archive.ErrDamaged) {
			t.Errorf("cancelled after %d checks: %v", checks, err)
			return checks
		}
	}
}

// Whoever cancels waits for no more than an entry of an archive, wherever it is read.
func TestOpenIsCancelled(t *testing.T) {
	t.Parallel()
	sizes := slices.Repeat([]int{100}, 200)
	contents, from := layers(t, sizes...)
	plain := mustWrite(t, contents, from)
	contents.Parity = 10
	protected, _ := writeProtected(t, contents, from)
	foreign := entriesOf(t, bytes.NewReader(plain))
	slices.Reverse(foreign)
	for name, file := range map[string]string{"plain": writeFile(t, plain), "with parity": protected, "packed again": writeFile(t, tarOf(t, foreign...))} {
		checks := countChecks(t, func(ctx context.Context) error {
			store, err := archive.Open(ctx, file)
			if err != nil {
				return err
			}
			return store.Close()
		})
		if checks < len(sizes) {
			t.Errorf("%s: %d checks for %d entries", name, checks, len(sizes))
		}
	}
	names, _ := writeVolumes(t, t.TempDir(), 2, slices.Repeat([]int{200_000}, 4)...)
	if err := os.Remove(names[1]); err != nil {
		t.Fatal(err)
	}
	if checks := countChecks(t, func(ctx context.Context) error {
		store, err := archive.OpenSet(ctx, names[0])
		if err != nil {
			return err
		}
		if len(store.Remade()) != 1 {
			t.Errorf("volumes %v are read from the others", store.Remade())
		}
		return store.Close()
	}); checks < len(names) {
		t.Errorf("a lost volume: %d checks for %d volumes", checks, len(names))
	}
}

// A stream ends with its context within a blob, also where it is compressed.
func TestStreamIsCancelled(t *testing.T) {
	t.Parallel()
	contents, from := layers(t, 8<<20, 8<<20)
	plain := mustWrite(t, contents, from)
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"plain": plain, "compressed": encoder.EncodeAll(plain, nil)} {
		checks := countChecks(t, func(ctx context.Context) error {
			stream, err := archive.OpenStream(ctx, bytes.NewReader(data))
			if err != nil {
				return err
			}
			defer stream.Close()
			for range contents.Blobs { // unread, so the next one skips it
				if _, _, err := stream.NextBlob(); err != nil {
					return err
				}
			}
			return nil
		})
		if checks < 8 {
			t.Errorf("%s: %d checks in %d bytes", name, checks, len(data))
		}
	}
}

// What is cancelled while it is checked or healed is neither intact nor without parity.
func TestCheckIsCancelled(t *testing.T) {
	t.Parallel()
	contents, from := layers(t, 300_000, 300_000)
	plain := writeFile(t, mustWrite(t, contents, from))
	contents.Parity = 10
	protected, data := writeProtected(t, contents, from)
	for _, name := range []string{plain, protected} {
		countChecks(t, func(ctx context.Context) error {
			_, err := archive.CheckFile(ctx, name, nil)
			return err
		})
	}
	clear(data[100_000:120_000])
	damaged := writeFile(t, data)
	checks := countChecks(t, func(ctx context.Context) error {
		r, err := archive.Repair(ctx, damaged, archive.RepairOptions{})
		if err == nil && r.Healed == 0 {
			t.Error("a damaged file is called intact")
		}
		return err
	})
	if checks == 0 {
		t.Error("it was never asked")
	}
	if checks := countChecks(t, func(ctx context.Context) error {
		_, err := archive.Repair(ctx, plain, archive.RepairOptions{})
		if errors.Is(err, archive.ErrNoParity) {
			return nil
		}
		return err
	}); checks == 0 {
		t.Error("what was not read is called without parity")
	}
}
