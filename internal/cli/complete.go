package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// completionTime is how long a shell waits for a registry.
const completionTime = 3 * time.Second

// completer returns what may follow, for a shell.
type completer = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective)

// completeReferences completes the tag of a reference from what is there, in all commands that take one.
func (a *app) completeReferences(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		takes := slices.ContainsFunc([]string{"REFERENCE", "SOURCE", "TARGET", "REPOSITORY"}, func(word string) bool { return strings.Contains(cmd.Use, word) })
		if cmd.ValidArgsFunction == nil && len(cmd.ValidArgs) == 0 && takes {
			cmd.ValidArgsFunction = a.completeReference
		}
		a.completeReferences(cmd)
	}
}

func (a *app) completeReference(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	last := strings.LastIndex(typed, "/") + 1
	colon := strings.LastIndex(typed[last:], ":")
	if colon < 0 || typed[:last+colon] == "oci" {
		return nil, cobra.ShellCompDirectiveDefault // an archive's file
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	at, err := a.openPlace(ctx, typed[:last+colon])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	_ = at.store.Tags(ctx, "", func(tags []string) error { // a shell has no place for an error
		for _, tag := range tags {
			if !strings.HasPrefix(tag, "sha256-") && !strings.ContainsAny(tag, "/:") {
				found = append(found, typed[:last+colon+1]+tag)
			}
		}
		return nil
	})
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeChoices completes CATEGORY=PRODUCT.
func completeChoices(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	model, err := layers.LoadModel()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	category, _, chosen := strings.Cut(typed, "=")
	var found []string
	for _, l := range model.Layers {
		for _, c := range l.Categories {
			switch {
			case !chosen:
				found = append(found, c.ID+"=")
			case c.ID == category:
				for _, p := range c.Products {
					found = append(found, c.ID+"="+p.ID)
				}
				found = append(found, c.ID+"=outside", c.ID+"=none")
			}
		}
	}
	if !chosen {
		return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completePlaces completes layers, categories and products.
func completePlaces(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	model, err := layers.LoadModel()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	for _, l := range model.Layers {
		for _, c := range l.Categories {
			found = append(found, c.ID)
			for _, p := range c.Products {
				found = append(found, p.ID)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), cobra.ShellCompDirectiveNoFileComp
}

// completeRuntimes completes the ready runtimes.
func completeRuntimes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names, err := bundles.Runtimes()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return append(names, "none"), cobra.ShellCompDirectiveNoFileComp
}

// completeTypes completes the predicate types that have a name.
func completeTypes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return trust.PredicateNames(), cobra.ShellCompDirectiveNoFileComp
}

// completeContexts completes the contexts of the kubeconfig.
func completeContexts(f *clusterFlags) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return deploy.ListContexts(f.Config), cobra.ShellCompDirectiveNoFileComp
	}
}
