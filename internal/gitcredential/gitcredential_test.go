package gitcredential_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/gitcredential"
	"krtpkg.dev/krtpkg/pkg/source"
)

// site is a server with a repository, a file and a chart that only me with the password secret gets.
type site struct {
	dir, url, commit string
	client           *http.Client
	env              []string
	chart            []byte
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dir: t.TempDir()}
	s.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com"}
	s.write(t, "repo.git/a.yaml", "a: b\n", 0o644)
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"commit", "-q", "-m", "m"}} {
		s.git(t, append([]string{"-C", "repo.git"}, args...)...)
	}
	s.commit = s.git(t, "-C", "repo.git", "rev-parse", "HEAD")
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	w := tar.NewWriter(z)
	data := []byte("apiVersion: v2\nname: web\nversion: 1.0.0\n")
	if err := w.WriteHeader(&tar.Header{Name: "web/Chart.yaml", Mode: 0o644, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	s.chart = packed.Bytes()
	backend := &cgi.Handler{Path: filepath.Join(s.git(t, "--exec-path"), "git-http-backend"),
		Env: append(s.env, "GIT_PROJECT_ROOT="+s.dir, "GIT_HTTP_EXPORT_ALL=1"), Logger: log.New(io.Discard, "", 0), Stderr: io.Discard}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="site"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/a.yaml":
			fmt.Fprint(w, "a: b\n")
		case "/charts/index.yaml":
			fmt.Fprint(w, "entries: {web: [{version: 1.0.0, urls: [web.tgz]}]}\n")
		case "/charts/web.tgz":
			_, _ = w.Write(s.chart)
		default:
			backend.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	s.url, s.client = server.URL, server.Client()
	s.write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})), 0o644)
	s.env = append(s.env, "GIT_SSL_CAINFO="+filepath.Join(s.dir, "ca.pem"))
	s.write(t, "store", strings.Replace(server.URL, "://", "://me:secret@", 1)+"\n", 0o600)
	for name, answer := range map[string]string{
		"right": "echo username=me; echo password=secret", "wrong": "echo username=me; echo password=old",
		"nothing": ":", "password": "echo password=secret", "quit": "echo quit=1",
	} {
		s.write(t, name, fmt.Sprintf("#!/bin/sh\n{ echo %[1]s $1; cat; } >> %[2]s/log\nif [ \"$1\" = get ]; then %[3]s; fi\n", name, s.dir, answer), 0o755)
	}
	return s
}

func (s *site) write(t *testing.T, name, data string, mode os.FileMode) {
	t.Helper()
	file := filepath.Join(s.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(data), mode)); err != nil {
		t.Fatal(err)
	}
}

func (s *site) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	return cmd
}

func (s *site) git(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.command(t.Context(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// takeLog returns what the helpers were asked and told since the last call, without what newer versions of git
// add for their own sake.
func (s *site) takeLog(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(s.dir, "log")); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "capability[]") && line != "\n" {
			lines = append(lines, strings.Replace(line, s.url, "URL", 1))
		}
	}
	return strings.Join(lines, "")
}

func (s *site) fetcher() *source.Fetcher {
	return &source.Fetcher{Client: s.client, Helper: &gitcredential.Helper{Env: s.env}}
}

// Helpers hear the same from krtpkg as from git with the same configuration, and with the same result.
func TestHelpersHearTheSameAsFromGit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cache := fmt.Sprintf("cache --socket %s/cache/socket", s.dir)
	for _, c := range []struct {
		name, config string // DIR, HOST and URL stand for the site's
		works        bool
		asked        string // what the helpers hear, shortened to names and verbs
	}{
		{"no helper", "", false, ""},
		{"absolute path", "[credential]\n\thelper = DIR/right", true, "right get, right store"},
		{"shell command", "[credential]\n\thelper = \"!f() { DIR/right $1; }; f\"", true, "right get, right store"},
		{"store", "[credential]\n\thelper = store --file=DIR/store", true, ""},
		{"cache", "[credential]\n\thelper = " + cache, true, ""},
		{"section of the host", "[credential \"URL\"]\n\thelper = DIR/right", true, "right get, right store"},
		{"section of the path", "[credential \"URL/repo.git\"]\n\thelper = DIR/right", true, "right get, right store"},
		{"section of another host", "[credential \"https://other.example\"]\n\thelper = DIR/right", false, ""},
		{"section of another port", "[credential \"https://127.0.0.1:1\"]\n\thelper = DIR/right", false, ""},
		{"section of http", "[credential \"http://HOST\"]\n\thelper = DIR/right", false, ""},
		{"with the path", "[credential]\n\thelper = DIR/right\n\tuseHttpPath = true", true, "right get, right store"},
		{"user of the section", "[credential \"URL\"]\n\thelper = DIR/password\n\tusername = me", true, "password get, password store"},
		{"one without, one with", "[credential]\n\thelper = DIR/nothing\n\thelper = DIR/right", true, "nothing get, right get, nothing store, right store"},
		{"helpers reset", "[credential]\n\thelper = DIR/wrong\n\thelper =\n\thelper = DIR/right", true, "right get, right store"},
		{"refused by the server", "[credential]\n\thelper = DIR/wrong", false, "wrong get, wrong erase"},
		{"one ends it", "[credential]\n\thelper = DIR/quit\n\thelper = DIR/right", false, "quit get"},
		{"no such helper", "[credential]\n\thelper = DIR/none\n\thelper = DIR/right", true, "right get, right store"},
		{"broken configuration", "[credential", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.write(t, ".gitconfig", strings.NewReplacer("DIR", s.dir, "HOST", strings.TrimPrefix(s.url, "https://"), "URL", s.url).Replace(c.config)+"\n", 0o600)
			if c.name == "cache" {
				fill := s.command(t.Context(), "credential", "approve")
				fill.Stdin = strings.NewReader("url=" + s.url + "\nusername=me\npassword=secret\n\n")
				if out, err := fill.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				defer s.git(t, "credential-cache", "--socket", s.dir+"/cache/socket", "exit")
			}
			out, err := s.command(t.Context(), "ls-remote", s.url+"/repo.git").CombinedOutput()
			if c.works != (err == nil) {
				t.Fatalf("git: %v: %s", err, out)
			}
			want := s.takeLog(t)
			tree, err := s.fetcher().FetchCommit(t.Context(), s.url+"/repo.git", s.commit, source.Pick{})
			if c.works != (err == nil) || err == nil && tree.Commit != s.commit {
				t.Errorf("got %v", err)
			}
			got := s.takeLog(t)
			if got != want || shorten(got) != c.asked {
				t.Errorf("helpers heard\n%swant\n%s", got, want)
			}
			if err != nil && (strings.Contains(err.Error(), "old") || !strings.Contains(err.Error(), "git's credential helpers")) {
				t.Errorf("got %v", err)
			}
			if strings.HasPrefix(c.name, "section of the path") {
				return
			}
			sum := fmt.Sprintf("%x", sha256.Sum256([]byte("a: b\n")))
			chart := fmt.Sprintf("%x", sha256.Sum256(s.chart))
			_, failed := s.fetcher().FetchURL(t.Context(), s.url+"/a.yaml", sum)
			_, failedArchive := s.fetcher().FetchArchive(t.Context(), s.url+"/charts/web.tgz", chart, source.Pick{All: true})
			_, failedChart := s.fetcher().FetchChart(t.Context(), s.url+"/charts", "web", "1.0.0", chart)
			for _, err := range []error{failed, failedArchive, failedChart} {
				if c.works != (err == nil) || err != nil && !strings.Contains(err.Error(), "git's credential helpers") {
					t.Errorf("got %v", err)
				}
			}
			if c.name == "with the path" {
				if got := s.takeLog(t); strings.Count(got, "path=charts/web.tgz\n") != 4 || strings.Count(got, "path=a.yaml\n") != 2 {
					t.Errorf("helpers heard\n%s", got)
				}
			}
			s.takeLog(t)
		})
	}
}

// shorten returns the names and verbs of a log.
func shorten(log string) string {
	var all []string
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "=") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return strings.Join(all, ", ")
}

// Nobody is asked, by whatever is set up to ask, and the configuration of the folder is a stranger's.
func TestNobodyIsPrompted(t *testing.T) {
	s := newSite(t)
	s.write(t, "ask", fmt.Sprintf("#!/bin/sh\necho asked >> %s/log\necho secret\n", s.dir), 0o755)
	s.write(t, ".gitconfig", "[core]\n\taskPass = "+s.dir+"/ask\n[credential]\n\thelper = \"!f() { (echo user: >/dev/tty) 2>/dev/null && echo tty >>"+s.dir+"/log; }; f\"\n", 0o600)
	s.write(t, "stranger/x", "", 0o644)
	s.git(t, "-C", "stranger", "init", "-q")
	s.git(t, "-C", "stranger", "config", "credential.helper", s.dir+"/right")
	t.Chdir(filepath.Join(s.dir, "stranger"))
	s.env = append(s.env, "GIT_ASKPASS="+s.dir+"/ask", "SSH_ASKPASS="+s.dir+"/ask", "DISPLAY=:0", "GIT_TERMINAL_PROMPT=1", "GIT_DIR="+s.dir+"/stranger/.git")
	got, err := s.fetcher().Helper.FindCredential(t.Context(), parse(t, s.url), nil)
	if got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	if log := s.takeLog(t); log != "" {
		t.Errorf("asked:\n%s", log)
	}
}

// A helper that does not answer ends with the command, and what it says that is not a login is none.
func TestHelpersThatFail(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, c := range []struct{ name, helper, url, want string }{
		{"endless", "!yes password=x", s.url, ""},
		{"waits", "!f() { sleep 60; }; f", s.url, "deadline"},
		{"no password", "!echo username=me", s.url, ""},
		{"line break in the URL", "DIR/right", s.url + "/a%0ahost=other.example", ""},
		{"zero byte in the URL", "DIR/right", s.url + "/a%00", ""},
	} {
		s.write(t, ".gitconfig", "[credential]\n\thelper = \""+strings.Replace(c.helper, "DIR", s.dir, 1)+"\"\n", 0o600)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		got, err := s.fetcher().Helper.FindCredential(ctx, parse(t, c.url), nil)
		cancel()
		if got != nil || c.want == "" && err != nil && c.name != "endless" || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, %v", c.name, got, err)
		}
		if log := s.takeLog(t); log != "" {
			t.Errorf("%s: asked\n%s", c.name, log)
		}
	}
}

func parse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
