// Command krtpkg bundles Kubernetes runtimes as signed OCI artifacts and applies them.
package main

import "krtpkg.dev/krtpkg/internal/cli"

func main() { cli.Main() }
