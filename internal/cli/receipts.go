package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/receipt"
	"krtpkg.dev/krtpkg/pkg/result"
)

func (a *app) receiptsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "receipts",
		Short: "verify signed receipts from sites",
		Long: `A receipt is a signed statement of what a site applied, and how it ended; krtpkg apply --receipt and
krtpkg rollback --receipt write one (docs/RECEIPTS.md).`,
		Example: `  krtpkg apply --key cosign.pub --yes registry.example/krt/edge:1.0.0 --receipt edge.json --receipt-key site.key
  krtpkg receipts verify edge.json --key site.pub`,
		GroupID: groupTrust,
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.receiptsVerifyCommand())
	return cmd
}

type receiptsOptions struct {
	keys            []string
	fleet, previous string
	maxAge          dayDuration
	format          ui.Format
}

func (a *app) receiptsVerifyCommand() *cobra.Command {
	var o receiptsOptions
	cmd := &cobra.Command{
		Use:   "verify (DIR | FILE)... --key PUB",
		Short: "verify receipts and show the state of the fleet",
		Long: `Verify reads receipts, as krtpkg apply --receipt writes them, from files and from the *.json files
of folders, verifies who signed them, and prints for each cluster and runtime what the newest one
says. --fleet names the clusters that must have receipts.

A receipt is refused with exit code 3 if no trusted key signed it, if it was changed, if it names
another cluster than its file or the fleet does, or if it is older than one that --previous has seen. If
none is refused, but some are missing or older than --max-age, the exit code is 4. An apply that failed
at its site is shown, and is not an error here.`,
		Example: `  krtpkg receipts verify receipts --key site.pub
  krtpkg receipts verify receipts --key site.pub --fleet fleet.yaml --max-age 30d
  krtpkg receipts verify receipts --key site.pub --previous last.json -o json > now.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runReceiptsVerify(cmd.Context(), args, &o) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&o.keys, "key", nil, "trusted public key: a file, or the URI of a key management service; can be repeated")
	flags.StringVar(&o.fleet, "fleet", "", "file of the clusters that must have receipts, with their keys")
	flags.StringVar(&o.previous, "previous", "", "result of an earlier run (-o json): older receipts than it has seen are refused, absent ones are missing")
	flags.Var(&o.maxAge, "max-age", "maximum age of a receipt, such as 30d or 12h (default: unlimited)")
	outputFlag(cmd, &o.format)
	return cmd
}

func (a *app) runReceiptsVerify(ctx context.Context, places []string, o *receiptsOptions) error {
	opts := receipt.Options{MaxAge: time.Duration(o.maxAge)}
	for _, name := range o.keys {
		key, err := publicKey(ctx, name)
		if err != nil {
			return err
		}
		opts.Keys = append(opts.Keys, key)
	}
	var err error
	if o.fleet != "" {
		if opts.Fleet, err = receipt.LoadFleet(o.fleet); err != nil {
			return err
		}
	}
	if o.previous != "" {
		if opts.Previous, err = readPrevious(o.previous); err != nil {
			return err
		}
	}
	verifier, err := receipt.NewVerifier(opts)
	if err != nil {
		return &usageError{fmt.Errorf("%w: pass --key, or name keys in --fleet", err)}
	}
	skipped := 0
	for _, place := range places {
		n, err := addReceipts(ctx, verifier, place)
		if err != nil {
			return err
		}
		skipped += n
	}
	state := verifier.State()
	if skipped > 0 {
		a.ui.Note("note: %d files of the folders were not read: receipts are named *.json", skipped)
	}
	for _, refused := range state.Refused {
		a.ui.Note("refused (%s): %v", string(refused.Reason), refused)
	}
	return a.printResult(ctx, o.format, describeReceipts(state), judgeReceipts(state, o.maxAge), func(w io.Writer) { writeReceipts(w, state) })
}

// maxReceipts is how many files a folder of receipts has.
const maxReceipts = 100_000

// addReceipts adds the receipts of a file or a folder, and returns how many other files the folder has.
func addReceipts(ctx context.Context, v *receipt.Verifier, place string) (skipped int, err error) {
	info, err := os.Stat(place)
	if err != nil {
		return 0, fmt.Errorf("receipts: %w", err)
	}
	if !info.IsDir() {
		addReceipt(v, filepath.Dir(place), place)
		return 0, nil
	}
	read := 0
	err = filepath.WalkDir(place, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case entry.IsDir():
			return nil
		case filepath.Ext(path) != ".json":
			skipped++
			return nil
		}
		if read++; read > maxReceipts {
			return fmt.Errorf("more than %d files: %w", maxReceipts, oci.ErrTooLarge)
		}
		addReceipt(v, place, path)
		return nil
	})
	if err != nil {
		return skipped, fmt.Errorf("receipts %s: %w", place, err)
	}
	return skipped, nil
}

// addReceipt adds a file; the verifier keeps why it does not count.
func addReceipt(v *receipt.Verifier, dir, file string) {
	data, err := readReceipt(file)
	if err != nil {
		v.Refuse(file, err)
		return
	}
	_ = v.Add(dir, file, data) // State tells
}

// readReceipt reads a file that may be a receipt, up to one byte more than a receipt has.
func readReceipt(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, receipt.MaxSize+1))
}

// maxPrevious is how many bytes an earlier result has: that of 100,000 lines.
const maxPrevious = 128 << 20

// readReceiptsResult reads what receipts verify printed, from the file of a flag.
func readReceiptsResult(flag, name string) (*result.Receipts, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxPrevious+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	if len(data) > maxPrevious {
		return nil, fmt.Errorf("%s %s: more than %d bytes: %w", flag, name, maxPrevious, oci.ErrTooLarge)
	}
	var was result.Receipts
	if err := json.Unmarshal(data, &was); err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, name, err)
	}
	if was.Receipts == nil {
		return nil, &usageError{fmt.Errorf("%s %s: not a result of krtpkg receipts verify -o json", flag, name)}
	}
	return &was, nil
}

// readPrevious reads the result of an earlier run.
func readPrevious(name string) ([]receipt.Line, error) {
	was, err := readReceiptsResult("--previous", name)
	if err != nil {
		return nil, err
	}
	var lines []receipt.Line
	for _, one := range was.Receipts {
		if one.Finished.IsZero() {
			continue // it was missing then, too
		}
		line := receipt.Seen(one.ClusterID, one.Name, one.Version, digest.Digest(one.Digest), one.Finished)
		line.Receipt.Outcome, line.Receipt.Failure = receipt.Outcome(one.Outcome), one.Failure
		lines = append(lines, line)
	}
	return lines, nil
}

// refusedReceiptsError is the error of receipts that do not count.
type refusedReceiptsError struct{ refused []*receipt.RefusedError }

func (e *refusedReceiptsError) Error() string {
	return fmt.Sprintf("%d receipts refused, the first: %v", len(e.refused), e.refused[0])
}

// absentReceiptsError is the error of a fleet of which receipts are missing or old.
type absentReceiptsError struct {
	missing, old int
	maxAge       dayDuration
	first        receipt.Line
}

func (e *absentReceiptsError) Error() string {
	var parts []string
	if e.missing > 0 {
		parts = append(parts, fmt.Sprintf("%d missing", e.missing))
	}
	if e.old > 0 {
		parts = append(parts, fmt.Sprintf("%d older than %s", e.old, e.maxAge.String()))
	}
	return fmt.Sprintf("receipts: %s, the first of cluster %s", strings.Join(parts, ", "), cmp.Or(e.first.Cluster, e.first.Receipt.Cluster))
}

// judgeReceipts returns the error of a state, nil for a fleet of which all is known.
func judgeReceipts(state *receipt.State, maxAge dayDuration) error {
	if len(state.Refused) > 0 {
		return &refusedReceiptsError{state.Refused}
	}
	e := &absentReceiptsError{missing: state.Missing(), old: state.Old(), maxAge: maxAge}
	for _, line := range state.Lines {
		if line.State != receipt.Current {
			e.first = line
			return e
		}
	}
	if len(state.Lines) == 0 {
		return errors.New("receipts: none found")
	}
	return nil
}

func describeReceipts(state *receipt.State) *result.Receipts {
	r := &result.Receipts{Receipts: []result.ReceiptStatus{}, Refused: []result.RefusedReceipt{}, SupersededCount: state.Superseded}
	for _, l := range state.Lines {
		one := result.ReceiptStatus{
			Cluster: l.Cluster, ClusterID: l.Receipt.Cluster, Name: l.Receipt.Name, Version: l.Receipt.Version, Digest: l.Receipt.Digest.String(),
			State: string(l.State), Outcome: string(l.Receipt.Outcome), Failure: l.Receipt.Failure, AgeSeconds: int64(l.Age.Seconds()),
			Started: l.Receipt.Started, Finished: l.Receipt.Finished, Values: l.Receipt.Values.String(), KeyID: l.KeyID, File: l.File, Krtpkg: l.Receipt.Program,
			Bundles: result.ReceiptBundles(l.Receipt.Bundles),
		}
		for _, p := range l.Receipt.Policies {
			one.Policies = append(one.Policies, result.ReceiptPolicy{Name: p.Name, Digest: p.Digest.String()})
		}
		r.Receipts = append(r.Receipts, one)
	}
	for _, e := range state.Refused {
		r.Refused = append(r.Refused, result.RefusedReceipt{File: e.File, Reason: string(e.Reason), Message: e.Err.Error()})
	}
	return r
}

func writeReceipts(w io.Writer, state *receipt.State) {
	ui.Fprintf(w, "CLUSTER\tRUNTIME\tVERSION\tDIGEST\tOUTCOME\tAGE\tRECEIPT\n")
	for _, l := range state.Lines {
		r := l.Receipt
		outcome, age := string(r.Outcome), "-"
		if r.Failure != "" && r.Failure != string(result.Failed) {
			outcome += " (" + r.Failure + ")"
		}
		if len(r.Bundles.Failed) > 0 {
			outcome += ": " + strings.Join(r.Bundles.Failed, ", ")
		}
		if !r.Finished.IsZero() {
			age = formatAge(l.Age)
		}
		ui.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(l.Cluster, r.Cluster), dash(r.Name), dash(r.Version), shortened(r.Digest), dash(outcome), age, string(l.State))
	}
}

func dash(text string) string { return cmp.Or(text, "-") }

// shortened returns what tells versions of one runtime apart.
func shortened(d digest.Digest) string {
	if d == "" {
		return "-"
	}
	return shortDigest(d.String())
}
