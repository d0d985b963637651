package cli_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/terminaltest"
)

const (
	// imageSize is what each platform of an image has, linkSpeed how many bytes a second a line carries.
	// Systems take some MB of it at once.
	imageSize = 6_000_000
	linkSpeed = 12_000_000
)

// slowLine returns the address of a slow line to a server, which holds back little.
func slowLine(t *testing.T, server string) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := new(net.Dialer).DialContext(t.Context(), "tcp", server)
			if err != nil {
				from.Close()
				continue
			}
			for _, side := range [][2]net.Conn{{from, to}, {to, from}} {
				go func() {
					defer side[1].Close()
					_ = side[0].(*net.TCPConn).SetReadBuffer(64 << 10)
					_, _ = io.Copy(struct{ io.Writer }{side[1]}, lineReader{side[0]})
				}()
			}
		}
	}()
	return listener.Addr().String()
}

type lineReader struct{ io.Reader }

func (r lineReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(len(p), 64<<10)])
	time.Sleep(time.Duration(n) * time.Second / linkSpeed)
	return n, err
}

// onTerminal is a command that ran on a terminal.
type onTerminal struct {
	*terminaltest.Terminal
	t    *testing.T
	name string
	code int
	// text is what stays on the terminal, output what went to a file.
	text, output string
}

// runOnTerminal runs a command on a terminal of a width. It is interrupted at the first display that
// interrupt matches, if there is one.
func (s *site) runOnTerminal(t *testing.T, width int, stdin io.Reader, interrupt string, args ...string) *onTerminal {
	t.Helper()
	x := &onTerminal{Terminal: terminaltest.New(t, width, 24), t: t, name: fmt.Sprintf("%d columns: krtpkg %s", width, strings.Join(args, " "))}
	cmd := exec.Command("krtpkg", args...)
	cmd.Dir, cmd.Env = s.dir, append(s.env, "TERM=xterm", "COLUMNS=")
	var output strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = x.User, &output, x.User
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	pattern := regexp.MustCompile(interrupt)
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-time.After(20 * time.Millisecond):
			if text := x.Text(); interrupt != "" && pattern.MatchString(text) {
				interrupt = ""
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					t.Error(err)
				}
			}
		}
	}
	x.text, x.code, x.output = x.Text(), cmd.ProcessState.ExitCode(), output.String()
	if interrupt != "" {
		t.Errorf("%s: never %q on the terminal", x.name, interrupt)
	}
	for _, line := range x.Wrapped {
		// What can be typed is in notes, in one piece; there they are as long as on 80 columns.
		if width >= 80 || !strings.HasPrefix(line, "note: ") && !strings.HasPrefix(line, "interrupted: ") {
			t.Errorf("%s: the terminal breaks %q", x.name, line)
		}
	}
	for line := range strings.Lines(x.output) {
		if args[0] == "check" && len(line) > 81 && !strings.Contains(line, "@sha256:") {
			t.Errorf("%s: %d columns of output: %s", x.name, len(line)-1, line)
		}
	}
	return x
}

var (
	statusRow = regexp.MustCompile(`(?m)^([a-z]+) .* of .*?, ([0-9]+)%(.*)$`)
	rateText  = regexp.MustCompile(`, ([0-9.]+) ([KM]iB)/s`)
)

// shows reports the percentages that a verb shows, one after the other, and fails if they fall.
func (x *onTerminal) shows(verb string) (percentages []int) {
	x.t.Helper()
	last := 0
	for _, screen := range x.Screens {
		for _, row := range statusRow.FindAllStringSubmatch(screen, -1) {
			if row[1] != verb {
				continue
			}
			percent, err := strconv.Atoi(row[2])
			if err != nil || percent < last || percent > 100 {
				x.t.Errorf("%s: %d %% after %d %%:\n%s", x.name, percent, last, screen)
			}
			last, percentages = percent, append(percentages, percent)
		}
	}
	return percentages
}

// completes fails unless a command ended well, and a verb's progress went from less than all to 100 %.
func (x *onTerminal) completes(verb string, atLeast int) {
	x.t.Helper()
	shown := x.shows(verb)
	if x.code != 0 || len(shown) < atLeast || shown[len(shown)-1] != 100 {
		x.t.Errorf("%s: exit code %d, %s shows %v, want %d or more up to 100:\n%s", x.name, x.code, verb, shown, atLeast, x.text)
	}
	if strings.Contains(x.text, "%") {
		x.t.Errorf("%s: the display stays:\n%s", x.name, x.text)
	}
}

// maxRate returns the highest rate in bytes a second that was shown.
func (x *onTerminal) maxRate() (highest float64) {
	for _, screen := range x.Screens {
		for _, rate := range rateText.FindAllStringSubmatch(screen, -1) {
			value, err := strconv.ParseFloat(rate[1], 64)
			if err != nil {
				x.t.Error(err)
			}
			highest = max(highest, value*map[string]float64{"KiB": 1 << 10, "MiB": 1 << 20}[rate[2]])
		}
	}
	return highest
}

// What people see of long work on a terminal: no line is broken, percentages only rise and end at 100, volumes
// are counted, and a copy that goes on counts only what it moves.
func TestProgressOnTerminals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	host := slowLine(t, registrytest.StartRegistry(t, registrytest.Options{}).Host)
	images := []string{"registry.example/organization/team/application-with-a-long-name:1.0.0-rc.1", "quay.io/example/small:1"}
	for _, image := range images {
		index, err := imagetest.NewSizedIndex(image, imageSize)
		if err != nil {
			t.Fatal(err)
		}
		if err := imagetest.AddToLayout(s.path("img"), image, index); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []struct{ version, image string }{{"1.0.0", images[0]}, {"1.1.0", images[1]}} {
		s.write("web/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: "+v.version+"}\nspec:\n  layer: 6\n  sources: [{file: web.yaml}]\n",
			"web/web.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web, image: \""+v.image+"\"}]}\n")
		s.ok("build", "-f", "web")
		s.ok("copy", "oci:dist:"+v.version, "oci:whole")
	}
	s.ok("export", "oci:whole:1.0.0", "whole.tar")
	for _, width := range []int{40, 80, 120} {
		t.Run(strconv.Itoa(width), func(t *testing.T) {
			t.Parallel()
			run := func(args ...string) *onTerminal { t.Helper(); return s.runOnTerminal(t, width, nil, "", args...) }
			name := strconv.Itoa(width)
			site := host + "/krt/w" + name

			// Interrupted, and gone on with.
			x := s.runOnTerminal(t, width, nil, `copy .* ([5-9][0-9])%`, "copy", "--plain-http", "-j", "1", "oci:whole:1.0.0", site)
			if x.shows("copy"); x.code != 130 || !strings.Contains(strings.ReplaceAll(x.text, "\n", " "), "run the same command again") {
				t.Errorf("interrupted: exit code %d\n%s", x.code, x.text)
			}
			x = run("copy", "--plain-http", "-j", "1", "oci:whole:1.0.0", site)
			x.completes("copy", 1)
			if rate := x.maxRate(); rate > linkSpeed*5/4 {
				t.Errorf("%s: at most %.0f bytes a second, where the line has %d", x.name, rate, linkSpeed)
			}
			summary := regexp.MustCompile(`\(([0-9.]+) MiB\) copied, 0 mounted, [1-9] \(([0-9.]+) MiB\) already present`).FindStringSubmatch(strings.Join(strings.Fields(x.text), " "))
			if summary == nil || megabytes(t, summary[1]) > 7 || megabytes(t, summary[1])+megabytes(t, summary[2]) < 11 {
				t.Errorf("%s: what was there already is not told:\n%s", x.name, x.text)
			}
			run("check", "--plain-http", site+":1.0.0").completes("check", 3)

			// Volumes.
			x = run("export", "--plain-http", "--volume-size", "7MB", site+":1.0.0", name+".tar")
			x.completes("export", 3)
			for _, volume := range []string{"volume 1 of 2", "volume 2 of 2"} {
				if !strings.Contains(x.text, volume) {
					t.Errorf("%s: no %q:\n%s", x.name, volume, x.text)
				}
			}
			volumes := []string{name + ".1-of-2.tar", name + ".2-of-2.tar"}
			run(append([]string{"check"}, volumes...)...).completesEach("check", 2)
			run("check", volumes[1]).completes("check", 1)
			run(append(append([]string{"import", "--plain-http"}, volumes...), site+"-volumes")...).completes("import", 3)

			// A delta, and streams.
			run("export", "--plain-http", "oci:whole:1.1.0", "--base", site+":1.0.0", "--delta", "force", name+"-delta.tar").completes("export", 1)
			run("check", name+"-delta.tar").completes("check", 1)
			run("import", "--plain-http", name+"-delta.tar", site).completes("import", 3)
			for _, args := range [][]string{{"check", "-"}, {"import", "--plain-http", "-", site + "-stream"}} {
				file, err := os.Open(s.path("whole.tar"))
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				s.runOnTerminal(t, width, lineReader{file}, "", args...).completes(args[0], 3)
			}
		})
	}
}

func megabytes(t *testing.T, text string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Error(err)
	}
	return n
}

// completesEach is completes where several plans follow one another.
func (x *onTerminal) completesEach(verb string, plans int) {
	x.t.Helper()
	last, ends := 0, 0
	for _, screen := range x.Screens {
		for _, row := range statusRow.FindAllStringSubmatch(screen, -1) {
			percent, err := strconv.Atoi(row[2])
			if err != nil || row[1] != verb || percent < last && last != 100 {
				x.t.Errorf("%s: %d %% after %d %%:\n%s", x.name, percent, last, screen)
			}
			if percent == 100 && last != 100 {
				ends++
			}
			last = percent
		}
	}
	if x.code != 0 || ends < 1 || ends > plans || last != 100 {
		x.t.Errorf("%s: exit code %d, %d ends of %d plans, the last at %d %%:\n%s", x.name, x.code, ends, plans, last, x.text)
	}
}

// On a terminal init asks what a runtime should have.
func TestInitOnTerminal(t *testing.T) {
	t.Parallel()
	s := newFolder(t)
	terminal := terminaltest.New(t, 200, 60)
	if _, err := terminal.Master.WriteString("seaside\nedge\n\n\n\n\n\n\n\n\nnonsense\n3\nbecause of policies\n\n\nno\n\ndone\n"); err != nil {
		t.Fatal(err)
	}
	cmd, stdout, _ := s.command("init", "asked")
	cmd.Stdin, cmd.Stderr = terminal.User, terminal.User
	if err := cmd.Run(); err != nil || stdout.Len() > 0 {
		t.Fatalf("%v, on standard output %q, on the terminal:\n%s", err, stdout, terminal.Text())
	}
	runtime, decisions := string(readFile(t, s.path("asked/runtime.yaml"))), string(readFile(t, s.path("asked/DECISIONS.md")))
	for _, c := range []struct{ pattern, text string }{
		{`Layer 3, cluster services: Networking\.`, terminal.Text()},
		{`Antrea \(manifests, ready\)`, terminal.Text()},
		{`has no product "nonsense"`, terminal.Text()},
		{`(?m)^  name: "seaside"$`, runtime},
		{`networking/antrea`, runtime},
		{`(?m)^- \*\*antrea\*\* .*because of policies$`, decisions},
		{`refused unless a policy allows it\? _no_\n`, decisions},
	} {
		if !regexp.MustCompile(c.pattern).MatchString(c.text) {
			t.Errorf("no match for %s in:\n%s", c.pattern, c.text)
		}
	}
}
