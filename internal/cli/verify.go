package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/sign"
)

func (a *app) verifyCommand() *cobra.Command {
	var o struct {
		keys   []string
		format ui.Format
	}
	cmd := &cobra.Command{
		Use:   "verify --key KEY REFERENCE",
		Short: "verify the signature and every byte of a bundle or a runtime",
		Long: `Verify checks that the root was signed by one of the keys, and then that the root and
every nested bundle are, byte for byte, what the signed digest says. It asks nothing but the
place that the reference names.

The exit code is 3 if anything does not hold.`,
		Example: "  krtpkg verify --key cosign.pub registry.example/krt/edge:1.0.0",
		GroupID: groupTrust,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.verify(cmd.Context(), args[0], o.keys, o.format)
		},
	}
	keyFlag(cmd, &o.keys)
	required(cmd, "key")
	outputFlag(cmd, &o.format)
	return cmd
}

func keyFlag(cmd *cobra.Command, keys *[]string) {
	cmd.Flags().StringArrayVar(keys, "key", nil, "file of a public key to trust; given more than once, any of them will do")
}

func (a *app) verify(ctx context.Context, reference string, keys []string, format ui.Format) error {
	at, err := a.open(ctx, reference)
	if err != nil {
		return err
	}
	result, err := a.verifyRoot(ctx, at, keys)
	if err != nil {
		return err
	}
	set, err := bundle.OpenSet(ctx, at.store, at.root)
	if err != nil {
		return err
	}
	view := verifyView{Reference: at.pinned(), Result: result, Bundles: []string{}, Rejected: []string{}}
	for _, b := range set.Bundles {
		view.Bundles = append(view.Bundles, b.Descriptor.Digest.String())
	}
	for _, r := range result.Rejected {
		view.Rejected = append(view.Rejected, fmt.Sprintf("%s: %v", r.Object, r.Err))
	}
	return a.ui.Result(format, view, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n", view.Reference)
		for _, v := range result.Verified {
			fmt.Fprintf(w, "  signed by\tkey %s\n  stored as\t%s\n", v.KeyID, v.Object)
			for _, claim := range claims(v) {
				fmt.Fprintf(w, "  claim\t%s\n", claim)
			}
		}
		for _, r := range view.Rejected {
			fmt.Fprintf(w, "  not counted\t%s\n", r)
		}
		fmt.Fprintf(w, "  intact\t%s\n", plural(len(view.Bundles), "bundle"))
	})
}

func claims(v sign.Verified) []string {
	var list []string
	if v.Reference != "" {
		list = append(list, "reference "+v.Reference)
	}
	for _, key := range sortedKeys(v.Annotations) {
		list = append(list, fmt.Sprintf("%s=%v", key, v.Annotations[key]))
	}
	return list
}

// verifyView is the result of verify for programs.
type verifyView struct {
	Reference string `json:"reference"`
	*sign.Result
	Rejected []string `json:"rejected"`
	Bundles  []string `json:"bundles"`
}

// verifyRoot verifies the signature of what a reference leads to.
func (a *app) verifyRoot(ctx context.Context, at *opened, keyFiles []string) (*sign.Result, error) {
	policy, err := keyPolicy(keyFiles)
	if err != nil {
		return nil, err
	}
	result, err := sign.Verify(ctx, at.store, at.root, policy)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.TrimSuffix(at.pinned(), "@"+at.root.Digest.String()), err)
	}
	return result, nil
}

// keyPolicy trusts the keys in some files.
func keyPolicy(keyFiles []string) (policy sign.Policy, err error) {
	keys := make([]*sign.Key, len(keyFiles))
	for i, file := range keyFiles {
		pem, err := os.ReadFile(file)
		if err != nil {
			return policy, fmt.Errorf("key: %w", err)
		}
		if keys[i], err = sign.LoadPublicKey(pem); err != nil {
			return policy, fmt.Errorf("key %s: %w", file, err)
		}
	}
	policy, err = sign.KeyPolicy(keys...)
	if err != nil {
		return policy, &usageError{err}
	}
	return policy, nil
}
