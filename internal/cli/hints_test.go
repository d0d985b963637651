package cli

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"crypto/tls"
	"crypto/x509"
	"net/url"

	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// listCommands returns a command and all below it.
func listCommands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, inner := range cmd.Commands() {
		all = append(all, listCommands(inner)...)
	}
	return all
}

// listHints returns the texts in the sources of hints that name a flag.
func listHints(t *testing.T) (hints []string) {
	t.Helper()
	for _, name := range []string{"errors.go", "flaghints.go", "published.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if text, is := n.(*ast.BasicLit); is && text.Kind == token.STRING {
				if said, err := strconv.Unquote(text.Value); err == nil && strings.Contains(said, "--") && !strings.Contains(said, "%w") && !strings.HasPrefix(said, " ") {
					hints = append(hints, said)
				}
			}
			return true
		})
	}
	if len(hints) < 20 {
		t.Fatalf("only %d hints", len(hints))
	}
	return hints
}

// No hint names a flag that the command lacks, and each clause of each hint is for some command.
func TestHintsNameFlagsOfTheCommand(t *testing.T) {
	t.Parallel()
	commands := listCommands(NewCommand())
	anyFlag := regexp.MustCompile(`--([a-z][a-z-]*)`)
	for _, hint := range listHints(t) {
		for _, cmd := range commands {
			fitted := fitHint(cmd, hint)
			if strings.Contains(fitted, "krtpkg ") || strings.Contains(fitted, "aws ") || strings.Contains(fitted, "gcloud ") {
				continue // flags of other commands: each clause is held to them below
			}
			for _, found := range anyFlag.FindAllStringSubmatch(fitted, -1) {
				if cmd.Flag(found[1]) == nil {
					t.Errorf("%s has no --%s, which its hint names: %s", cmd.CommandPath(), found[1], fitted)
				}
			}
		}
		for _, clause := range regexp.MustCompile(`\||//`).Split(hint, -1) {
			fits := false
			for _, cmd := range commands {
				fits = fits || canType(cmd, clause)
			}
			if !fits {
				t.Errorf("no command can take this up: %q of hint %q", clause, hint)
			}
		}
	}
}

// What a hint says depends on what was typed.
func TestHintsFitTheCommand(t *testing.T) {
	t.Parallel()
	refused := &url.Error{Op: "Get", URL: "https://registry.example:5000/v2/krt/edge/manifests/1", Err: syscall.ECONNREFUSED}
	otherName := &url.Error{Op: "Get", URL: refused.URL, Err: &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}}}
	for _, c := range []struct {
		command string
		args    []string
		err     error
		want    string
	}{
		{"verify", nil, sign.ErrUnsigned, "sign it with krtpkg sign"},
		{"promote", nil, sign.ErrUnsigned, "sign it with krtpkg sign"},
		{"apply", nil, sign.ErrUnsigned, "sign it with krtpkg sign, or pass --allow-unsigned"},
		{"promote", nil, sign.ErrNotVerified, "check --trust-key; krtpkg inspect lists the signatures"},
		{"verify", nil, sign.ErrNotVerified, "check --key or --certificate-identity; krtpkg inspect lists the signatures"},
		{"verify", nil, trust.ErrRefused, "krtpkg inspect lists the signatures and attestations that there are"},
		{"build", nil, errdef.ErrNotFound, "check the name and the tag; --image-mirror takes images from elsewhere"},
		{"inspect", nil, &place.NotFoundError{Place: place.Place{Repository: "registry.example/krt/edge", Tag: "1"}}, "list the versions with krtpkg list registry.example/krt/edge"},
		{"push", []string{"oci:dist", "registry.example:5000/krt/edge:1"}, refused, "check the name and the network"},
		{"login", []string{"registry.example:5000"}, refused, "check the name and the network"},
		{"build", nil, refused, "check the name and the network; --image-mirror takes images from elsewhere"},
		{"inspect", nil, otherName, "the certificate is valid for other names: use one of them"},
		{"tag", nil, &bundle.TagError{Tag: "2.0.0", Name: "shop", Version: "1.0.0+b1"}, "its version's tag is 1.0.0_b1; a channel is a word, such as stable"},
		{"copy", nil, &otherArchiveError{file: "x.tar"}, "write to another file"},
		{"inventory", nil, &transfer.IncompleteError{Missing: []transfer.Missing{{Image: "web"}}}, "inventory lists only existing content: copy the images first with krtpkg copy"},
	} {
		cmd, _, err := NewCommand().Find(strings.Fields(c.command))
		if err != nil {
			t.Fatal(err)
		}
		if got := (situation{cmd: cmd, args: c.args}).explainError(t.Context(), fmt.Errorf("x: %w", c.err)).Hint; got != c.want {
			t.Errorf("%s: %v: hint %q, want %q", c.command, c.err, got, c.want)
		}
	}
	if err := flagError(mustFind(t, "build"), errors.New("unknown flag: --set")); strings.Contains(err.Error(), "--data-value") || !strings.Contains(err.Error(), "values in the definition") {
		t.Errorf("build --set: %v", err)
	}
	if err := flagError(mustFind(t, "apply"), errors.New("unknown flag: --set")); !strings.Contains(err.Error(), "use --data-value BUNDLE.KEY=TEXT") {
		t.Errorf("apply --set: %v", err)
	}
}

// What people of other tools type leads to commands that exist.
func TestHabits(t *testing.T) {
	t.Parallel()
	root := NewCommand()
	for typed, here := range otherToolsCommands {
		if found, _, _ := root.Find([]string{typed}); found != root {
			t.Errorf("%s is a command: the table does not need it", typed)
		}
		if !canType(root, here) || !strings.Contains(here, "krtpkg ") {
			t.Errorf("%s: %q cannot be typed", typed, here)
		}
	}
	for line, want := range map[string]string{
		"save":                    `unknown command "save": use krtpkg export`,
		"lock --help":             `unknown command "lock": use krtpkg update`,
		"help nosuch":             `unknown command "nosuch" (see krtpkg --help)`,
		"show registry.example/a": `unknown command "registry.example/a": want krtpkg show values registry.example/a` + "\n  usage: krtpkg show [flags]",
		"biuld":                   `unknown command "biuld": did you mean build?`,
	} {
		var out, errOut strings.Builder
		if code := Run(t.Context(), strings.Fields(line), strings.NewReader(""), &out, &errOut); code != exitUsage || errOut.String() != "error: "+want+"\n" {
			t.Errorf("%s: exit code %d, %q, want %q", line, code, errOut.String(), want)
		}
	}
}

func mustFind(t *testing.T, name string) *cobra.Command {
	t.Helper()
	cmd, _, err := NewCommand().Find([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

// The lock of a revision can be missing in an archive or a folder too.
func TestUnreadLocksHint(t *testing.T) {
	t.Parallel()
	err := &unreadLocksError{errors.New("revision 1 of edge: no place is recorded")}
	if hint := explainError(t.Context(), err).Hint; hint != "make the places that these runtimes were applied from reachable" {
		t.Errorf("hint %q", hint)
	}
}

// A flag of another tool that nothing corresponds to is not needed; one that something corresponds to is replaced.
func TestFlagsThatAreNotNeeded(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"apply --wait":         "unknown flag: --wait: not needed: apply waits until all is ready, see --wait-timeout (see krtpkg apply --help)",
		"apply --atomic":       "unknown flag: --atomic: not needed: a failed apply is taken back with krtpkg rollback (see krtpkg apply --help)",
		"copy --recursive":     "unknown flag: --recursive: not needed: signatures and other referrers come along",
		"copy --all-platforms": "unknown flag: --all-platforms: not needed: all platforms are copied",
		"apply --install":      "unknown flag: --install: not needed: apply installs and upgrades (see krtpkg apply --help)",
		"apply --kube-context": "unknown flag: --kube-context: use --context (see krtpkg apply --help)",
	} {
		command, flag, _ := strings.Cut(line, " ")
		if err := flagError(mustFind(t, command), errors.New("unknown flag: "+flag)); !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}

// The check for older versions names the flag of the command instead.
func TestSkippedDowngradeCheck(t *testing.T) {
	t.Parallel()
	o := installOptions{apply: true}
	o.ahead.skip = []string{"downgrade"}
	if err := o.checkValues(&app{}); err == nil || !strings.HasSuffix(err.Error(), "cannot be skipped: pass --downgradable") {
		t.Errorf("packages install: %v", err)
	}
}

// Without a folder of the user the gate names the cause and --state, which works on each system.
func TestNoStateFolder(t *testing.T) {
	for _, name := range []string{"HOME", "XDG_CACHE_HOME", "LocalAppData"} {
		t.Setenv(name, "")
	}
	var flags gateFlags
	if dir, err := flags.stateDir(); err == nil || !strings.HasPrefix(err.Error(), "no state folder: pass --state: ") {
		t.Errorf("%q, %v", dir, err)
	}
}
