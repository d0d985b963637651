// Package reference writes what commands say of themselves, as Markdown and as manual pages: call Write. It is apart from its
// program so that a test of the commands can call it: a test binary of its own would link all of krtpkg once more.
package reference

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Write replaces what is in both directories by the reference of a command and of all below it.
func Write(root *cobra.Command, markdown, manual string) error {
	root.DisableAutoGenTag = true // which has the date
	for dir, generate := range map[string]func(*cobra.Command, string) error{
		markdown: doc.GenMarkdownTree,
		manual:   writeManual,
	} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := generate(root, dir); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(dir), err)
		}
	}
	return nil
}

func writeManual(root *cobra.Command, dir string) error {
	// A date of its own, so that the same commands give the same pages.
	date := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "krtpkg", Manual: "krtpkg manual", Date: &date}, dir)
}
