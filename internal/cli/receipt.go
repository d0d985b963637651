package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/receipt"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// receiptFlags say where the receipt of an apply goes, and who signs it.
type receiptFlags struct {
	file, key string
	signer    *sign.Signer
}

func (f *receiptFlags) addReceiptFlags(cmd *cobra.Command, usage string) {
	flags := cmd.Flags()
	flags.StringVar(&f.file, "receipt", "", usage)
	flags.StringVar(&f.key, "receipt-key", "", "private key that signs the receipt: a file or a URI, as for krtpkg sign")
}

// prepare loads the key, and makes sure that there is a place for receipts, before anything is applied: in a folder if
// there are several clusters.
func (f *receiptFlags) prepare(ctx context.Context, a *app, clusters []string) error {
	if f.file == "" && f.key == "" {
		return nil
	}
	if f.file == "" || f.key == "" {
		return &usageError{errors.New("--receipt and --receipt-key must be used together")}
	}
	var err error
	if f.signer, err = a.newSigner(ctx, &signFlags{key: f.key}); err != nil {
		return fmt.Errorf("--receipt-key: %w", err)
	}
	if len(clusters) == 0 {
		return checkReceiptFile(f.file)
	}
	if err := os.MkdirAll(f.file, 0o755); err != nil {
		return fmt.Errorf("--receipt %s: want a folder for the receipts of several clusters: %w", f.file, err)
	}
	for _, name := range clusters {
		if err := checkReceiptFile(f.inFolder(name).file); err != nil {
			return err
		}
	}
	return nil
}

// inFolder returns the flags for one of several clusters.
func (f receiptFlags) inFolder(cluster string) receiptFlags {
	if f.file != "" {
		f.file = filepath.Join(f.file, receipt.FileName(cluster))
	}
	return f
}

// checkReceiptFile returns an error unless a receipt can be written to a file, which replaces only an earlier receipt.
func checkReceiptFile(file string) error {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("--receipt: %w", err)
	case !info.Mode().IsRegular():
		return &usageError{fmt.Errorf("--receipt %s: not a file", file)}
	case info.Size() > 0:
		data, err := readReceipt(file)
		if err != nil {
			return fmt.Errorf("--receipt: %w", err)
		}
		if !receipt.IsReceipt(data) {
			return &usageError{fmt.Errorf("--receipt %s: the file exists and is not a receipt: name another", file)}
		}
	}
	probe, err := os.CreateTemp(filepath.Dir(file), ".receipt-*")
	if err != nil {
		return fmt.Errorf("--receipt: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// record applies to a cluster and writes the receipt of that, if there is to be one: also if the apply fails, once the
// cluster has been reached. do returns the runtime as far as it got.
func (f *receiptFlags) record(ctx context.Context, a *app, cluster *deploy.Cluster, p *preparedRoot, do func() (deploy.Runtime, *deploy.Report, error)) (*deploy.Report, *result.ReceiptFile, error) {
	if f.signer == nil {
		_, report, err := do()
		return report, nil, err
	}
	id, err := cluster.ID(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("--receipt: %w", err)
	}
	started := time.Now()
	rt, report, failed := do()
	if errors.Is(failed, deploy.ErrNotConfirmed) {
		return report, nil, failed // nothing was done, and nobody wanted it
	}
	if rt.Name == "" {
		rt = deploy.Runtime{Name: p.deployedName()}
	}
	rt.Version, rt.Digest = p.set.Root.Metadata().Version, p.root.Digest.String()
	r := site.NewReceipt(rt, report, failed)
	r.Cluster, r.Started, r.Finished, r.Program, r.Policies = id, started, time.Now(), programVersion(), describePolicies(p.policy)
	if r.Finished.Before(r.Started) {
		r.Finished = r.Started // the clock was set back
	}
	if failed != nil {
		r.Failure = string(explainError(ctx, failed).Code)
	}
	written, err := f.write(context.WithoutCancel(ctx), a, r)
	if err != nil {
		err = fmt.Errorf("the apply has ended, but its receipt was not written: %w", err)
	}
	return report, written, errors.Join(failed, err)
}

// receiptTimeout is how long a key management service may take to sign a receipt.
const receiptTimeout = time.Minute

func (f *receiptFlags) write(ctx context.Context, a *app, r receipt.Receipt) (*result.ReceiptFile, error) {
	ctx, cancel := context.WithTimeout(ctx, receiptTimeout)
	defer cancel()
	data, err := r.Sign(ctx, f.signer)
	if err == nil {
		err = replaceWholeFile(f.file, data)
	}
	if err != nil {
		return nil, fmt.Errorf("receipt %s: %w", f.file, err)
	}
	fits := fmt.Sprintf("a QR code holds %d", receipt.MaxQRCode)
	if len(data) > receipt.MaxQRCode {
		fits = fmt.Sprintf("too large for a QR code, which holds %d", receipt.MaxQRCode)
	}
	a.ui.Say("wrote receipt %s: %d bytes (%s)", f.file, len(data), fits)
	return &result.ReceiptFile{File: f.file, Bytes: len(data)}, nil
}

// replaceWholeFile writes a file whole or not at all.
func replaceWholeFile(name string, data []byte) error {
	file, err := os.CreateTemp(filepath.Dir(name), ".krtpkg-*")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close()); err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// describePolicies returns what a receipt says of the policies that accepted a root.
func describePolicies(p *trust.Policy) (all []receipt.Policy) {
	for _, one := range p.All() {
		name := "flags"
		if one.Name != "" {
			name = filepath.Base(one.Name)
		}
		all = append(all, receipt.Policy{Name: name, Digest: one.Digest})
	}
	return all
}
