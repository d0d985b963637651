// Command docs writes the reference of krtpkg's commands: docs/cli for people who read here, and manual
// pages. Both come from the commands themselves, so that they say what --help says.
package main

import (
	"flag"
	"fmt"
	"os"

	"krtpkg.dev/krtpkg/hack/docs/reference"
	"krtpkg.dev/krtpkg/internal/cli"
)

func main() {
	markdown := flag.String("markdown", "docs/cli", "directory for the reference in Markdown")
	manual := flag.String("man", "dist/man", "directory for manual pages")
	flag.Parse()
	if err := reference.Write(cli.NewCommand(), *markdown, *manual); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}
