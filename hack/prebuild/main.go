// Command prebuild downloads or builds every program of hack/ that tests need, one after the other, and
// says what it does: on a new machine that takes minutes, and a test would look stuck. With
// arguments it builds these alone and prints their paths.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"krtpkg.dev/krtpkg/internal/hack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := buildAll(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "prebuild:", err)
		os.Exit(1)
	}
}

func buildAll(ctx context.Context) error {
	for _, name := range os.Args[1:] {
		path, err := hack.BuildProgram(ctx, name)
		if err != nil {
			return err
		}
		fmt.Println(path)
	}
	if len(os.Args) > 1 {
		return nil
	}
	root, err := hack.FindRoot()
	if err != nil {
		return err
	}
	modules, err := filepath.Glob(filepath.Join(root, "hack", "tools", "*", "go.mod"))
	if err != nil {
		return err
	}
	names := []string{"registry2", "vault", "runc", "argocd", "collector", "browser", "resident/krtpkg"}
	start := time.Now()
	if _, err := hack.PrepareControlPlane(ctx, func(what string) { fmt.Println("cluster:", what) }); err != nil {
		return err
	}
	printTime("cluster", start)
	for _, module := range modules {
		names = append(names, "tools/"+filepath.Base(filepath.Dir(module)))
	}
	for _, name := range names {
		start := time.Now()
		if _, err := hack.BuildProgram(ctx, name); err != nil {
			return err
		}
		printTime(name, start)
	}
	return nil
}

func printTime(name string, start time.Time) {
	fmt.Printf("%-20s %s\n", name, time.Since(start).Round(time.Second/10))
}
