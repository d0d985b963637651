// Command krtpkg bundles Kubernetes runtimes as signed OCI artifacts and applies them.
package main

import (
	"krtpkg.dev/krtpkg/internal/cli"
	_ "krtpkg.dev/krtpkg/internal/firstgc"
)

func main() { cli.Main() }
