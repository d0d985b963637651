package cli

import "context"

// RunArgs is [Main] without signals and the end of the process.
func RunArgs(ctx context.Context) int { return runArgs(ctx) }
