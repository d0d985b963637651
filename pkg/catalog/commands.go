package catalog

import (
	"strings"

	"krtpkg.dev/krtpkg/pkg/result"
)

type command struct{ Text, What string }

// listCommands returns the commands for a version.
func listCommands(v *result.CatalogVersion) []command {
	if v.Reference == "" || v.Error != nil {
		return nil
	}
	reference := quoteShell(v.Reference)
	all := []command{
		{"krtpkg verify --key cosign.pub " + reference, "Verify who signed it, and every byte of it"},
		{"krtpkg show values " + reference + " > site.yaml", "Begin a file of values"},
		{"krtpkg plan --key cosign.pub " + reference + " --values site.yaml", "Show what an apply would change on a cluster"},
		{"krtpkg apply --key cosign.pub " + reference + " --values site.yaml", "Apply it"},
		{"krtpkg export " + reference + " " + quoteShell(v.Name+"-"+v.Version+".tar"), "Carry it to a site without a network"},
		{"krtpkg sbom " + reference, "Print its bill of materials"},
	}
	if v.Changes != nil && strings.Contains(v.Reference, "@"+v.Digest) {
		before := strings.TrimSuffix(v.Reference, "@"+v.Digest)
		if i := strings.LastIndex(before, ":"); len(v.Tags) > 0 && i >= 0 {
			before = before[:i]
		}
		all = append(all, command{"krtpkg diff " + quoteShell(before+"@"+v.Changes.Digest) + " " + reference, "Compare it with the version before"})
	}
	return all
}

// quoteShell quotes what a shell would not take as one word.
func quoteShell(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("@%+=:,./_-", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
