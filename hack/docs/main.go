// Command docs writes the reference of krtpkg's commands: docs/cli for people who read here, and manual
// pages. Both come from the commands themselves, so that they say what --help says.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"krtpkg.dev/krtpkg/internal/cli"
)

func main() {
	markdown := flag.String("markdown", "docs/cli", "directory for the reference in Markdown")
	manual := flag.String("man", "dist/man", "directory for manual pages")
	flag.Parse()
	if err := writeReference(*markdown, *manual); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

// writeReference replaces what is in both directories.
func writeReference(markdown, manual string) error {
	root := cli.NewCommand()
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
